import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_operator import names
from postgres_operator.api.store import BUCKET, SEGMENT

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
LOCATION = re.compile(rf"(pvc://[a-z0-9.-]+|s3://{BUCKET})(/{SEGMENT})+")

KINDS = ("Backup", "Restore", "Reader", "Verify")
UID = "4b1c7a9e-0d5f-4a6e-9b57-1f0c3f6f2d11"
dns_labels = st.from_regex(DNS_LABEL, fullmatch=True).filter(lambda s: len(s) <= 63)
object_names = st.lists(dns_labels, min_size=1, max_size=6).map(".".join).filter(lambda s: len(s) <= 253)
# CEL: no control characters (\pC), no '/', no '=', at most 63 bytes
database_names = st.text(
    st.characters(exclude_categories=("C",), exclude_characters="/="), min_size=1, max_size=63
).filter(lambda s: len(s.encode()) <= 63)


# --- Jobs


@given(kind=st.sampled_from(KINDS), name=object_names, uid=st.uuids().map(str))
def test_job_names_are_dns_labels_of_at_most_63_characters(kind, name, uid):
    made = names.job_name(kind, name, uid)
    assert len(made) <= 63
    assert DNS_LABEL.fullmatch(made)
    assert LABEL_VALUE.fullmatch(made)  # the Job controller labels its pods with it


@given(name=st.text(max_size=300))
def test_no_name_of_an_object_can_break_the_jobs(name):
    made = names.job_name("Backup", name, UID)
    assert len(made) <= 63
    assert DNS_LABEL.fullmatch(made)


def test_a_job_name_is_known_for_ever():
    """An operator of another version must find the Job of this one: otherwise it starts a second one."""
    assert names.job_name("Backup", "nightly", UID) == "backup-nightly-7a9697725a"


def test_job_names_differ_by_kind_and_uid_and_not_by_name_alone():
    made = {names.job_name(kind, "n" * 253, uid) for kind in KINDS for uid in (UID, UID[:-1] + "2")}
    assert len(made) == 2 * len(KINDS)
    assert names.job_name("Backup", "a.b", UID).endswith(names.job_name("Backup", "a", UID)[-11:])


@given(a=st.lists(dns_labels, max_size=4), b=st.lists(dns_labels, max_size=4))
def test_different_parts_have_different_hashes(a, b):
    assert (names.short_hash(*a) == names.short_hash(*b)) is ("/".join(a) == "/".join(b))
    assert re.fullmatch(r"[0-9a-f]{10}", names.short_hash(*a))


# --- names of databases, within PostgreSQL's 63 bytes


@given(name=database_names, uid=st.uuids().map(str))
def test_derived_databases_fit_into_63_bytes(name, uid):
    previous = names.previous_database(name, uid)
    scratch = f"{names.scratch_prefix(name)}_{uid[:8]}"
    assert len(previous.encode()) <= 63
    assert len(scratch.encode()) <= 63
    assert previous.endswith(f"_before_{uid[:8]}")
    assert "_restore_" in scratch
    assert len({name, previous, scratch}) == 3
    for derived, suffix in ((previous, "_before_"), (scratch, "_restore_")):
        assert name.startswith(derived.rpartition(suffix)[0])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app", "app_before_4b1c7a9e"),
        ("x" * 63, "x" * 47 + "_before_4b1c7a9e"),
        ("ä" * 31, "ä" * 23 + "_before_4b1c7a9e"),
        ("x" + "ä" * 31, "x" + "ä" * 23 + "_before_4b1c7a9e"),
        ("😀" * 15, "😀" * 11 + "_before_4b1c7a9e"),
        ("a_before_4b1c7a9e", "a_before_4b1c7a9e_before_4b1c7a9e"),
    ],
)
def test_a_character_is_never_cut_in_half(name, expected):
    assert names.previous_database(name, UID) == expected


def test_the_scratch_prefix_leaves_room_for_the_pods_uid():
    assert names.scratch_prefix("app") == "app_restore"
    longest = names.scratch_prefix("ä" * 31)
    assert longest == "ä" * 23 + "_restore"
    assert len(longest.encode()) == 54


# --- locations


@given(database=dns_labels.filter(lambda s: len(s) <= 52), backup=object_names, uid=st.uuids().map(str))
def test_locations_are_what_a_restore_accepts(database, backup, uid):
    path = names.artifact_path(database, backup, uid)
    for store in (names.volume("backups"), names.bucket("b" * 63, ""), names.bucket("b" * 63, "p" * 256)):
        location = names.location(store, path)
        assert LOCATION.fullmatch(location)
        assert ".." not in location
        assert len(location) <= 1024
        assert names.path_in(store, location) == path
    assert len(path) <= 512
    assert all(len(segment) <= 255 for segment in path.split("/"))  # a file name's limit


@pytest.mark.parametrize(
    ("store", "location", "path"),
    [
        ("pvc://vault", "pvc://vault/db/a-1", "db/a-1"),
        ("pvc://vault", "pvc://vault2/db/a-1", ""),
        ("pvc://vault", "s3://vault/db/a-1", ""),
        ("pvc://vault", "pvc://vault", ""),
        ("pvc://vault", "pvc://vault/", ""),
        ("s3://vault", "s3://vault/db/a-1", "db/a-1"),
        ("s3://vault", "s3://vault/team/db/a-1", "team/db/a-1"),
        ("s3://vault/team", "s3://vault/team/db/a-1", "db/a-1"),
        ("s3://vault/team", "s3://vault/team2/db/a-1", ""),
        ("s3://vault/team", "s3://vault/db/a-1", ""),
        ("s3://vault/team", "s3://vault/other/team/db/a-1", ""),
    ],
)
def test_what_lies_in_a_store(store, location, path):
    assert names.path_in(store, location) == path


def test_only_a_volumes_location_names_a_claim():
    assert names.volume_of("pvc://vault/db/a-1") == "vault"
    assert names.volume_of("s3://vault/db/a-1") == ""


def test_the_longest_name_of_a_backup_fits_into_a_file_name():
    longest = names.artifact_path("d" * 52, "b" * 253, UID)
    assert max(map(len, longest.split("/"))) <= 255
    assert longest.endswith(f"-{UID}")


def test_a_recreated_backup_writes_elsewhere():
    assert names.artifact_path("db", "b", "1") != names.artifact_path("db", "b", "2")
    assert names.artifact_path("db", "x" * 200, "1") != names.artifact_path("db", "x" * 200, "2")


# --- Backups of a ScheduledBackup


def test_a_slot_names_its_backup():
    slot = datetime(2026, 3, 29, 3, 5, tzinfo=timezone(timedelta(hours=2)))
    assert names.scheduled_backup("nightly", slot) == "nightly-202603290105"


def test_the_longest_name_of_a_schedule_makes_a_label():
    name = names.scheduled_backup("a" * 50, datetime(2026, 3, 29, tzinfo=UTC))
    assert len(name) == 63
    assert LABEL_VALUE.fullmatch(name)


# --- objects of a Database


def test_names_that_users_rely_on():
    assert names.credentials("orders") == "orders-credentials"
    assert names.data_claim("orders") == "data-orders-0"
    assert names.host("orders", "shop") == "orders.shop.svc.cluster.local"
    assert names.API_VERSION == "database.example.com/v1"


def test_every_label_and_annotation_derives_from_the_group():
    keys = [v for k, v in vars(names).items() if k.startswith(("LABEL_", "ANNOTATION_"))]
    assert len(keys) == len(set(keys)) >= 8
    assert all(key.startswith(f"{names.GROUP}/") for key in keys)
