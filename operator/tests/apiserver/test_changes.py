"""What may change in an object that exists."""

from typing import Any

import pytest
from apiserver_kit import NAMESPACE, Api, Kubectl, Make
from pydantic import BaseModel

from postgres_operator.api.backup import BackupStatus
from postgres_operator.api.common import dump
from postgres_operator.api.database import DatabaseStatus
from postgres_operator.api.restore import RestoreStatus
from postgres_operator.api.store import BackupStoreStatus

DB = {"databaseRef": {"name": "shop"}}
BACKUP = ("Backup", DB)
RESTORE = ("Restore", DB | {"location": "pvc://c/p"})
SPECS: dict[str, dict[str, Any]] = {
    "Database": {},
    "Backup": DB,
    "Restore": DB | {"location": "pvc://c/p"},
    "BackupStore": {"pvc": {"claimName": "c"}},
}
DIGEST = "@sha256:" + 64 * "0"

# ---- spec

EXTERNAL = {"host": "pg.example.com", "sslMode": "require", "credentialsSecretRef": {"name": "login"}}


def s3(**changes: Any) -> dict[str, Any]:
    return {"s3": {"bucket": "vault", "prefix": "a", **changes}}


S3 = s3()

ALLOWED = [
    pytest.param("Database", {"deletionPolicy": "Retain"}, {"deletionPolicy": "Delete"}, id="deletion policy"),
    pytest.param("Database", {}, {"deletionPolicy": "Delete"}, id="deletion policy of its own"),
    pytest.param("Backup", DB, DB | {"deletionPolicy": "Delete"}, id="deletion policy of a Backup"),
    pytest.param("Backup", DB | {"deletionPolicy": "Delete"}, DB, id="deletion policy of a Backup, back"),
    pytest.param("Backup", DB | {"deletionPolicy": "Delete", "tables": [{"name": "a"}], "nodeSelector": {"a": "b"}},
                 DB | {"deletionPolicy": "Retain", "tables": [{"name": "a"}], "nodeSelector": {"a": "b"}},
                 id="deletion policy beside lists and maps"),
    pytest.param("Database", {}, {"resources": {"limits": {"memory": "1Gi"}}}, id="resources"),
    pytest.param("Database", {}, {"nodeSelector": {"a": "b"}}, id="node selector"),
    pytest.param("Database", {}, {"databaseName": "app", "storage": {"size": "1Gi"}}, id="a default spelt out"),
    pytest.param("Database", {"storage": {"storageClassName": "a"}}, {"storage": {"storageClassName": "a"}},
                 id="the same storage class"),
    pytest.param("Database", {"external": EXTERNAL},
                 {"external": EXTERNAL | {"host": "b.example.com", "port": 6432, "sslMode": "verify-full",
                                          "caSecretRef": {"name": "c"}, "superuser": "s", "checkIntervalSeconds": 30}},
                 id="external server"),
    pytest.param("Database", {"external": EXTERNAL, "image": "postgres:15"},
                 {"external": EXTERNAL, "image": "postgres:17"}, id="tools of another major version"),
    pytest.param("BackupStore", S3, s3(endpoint="https://new.example.com"), id="endpoint of a store"),
    pytest.param("BackupStore", S3, s3(region="eu", pathStyle=False), id="region of a store"),
    pytest.param("BackupStore", s3(credentialsSecretRef={"name": "a"}), s3(serviceAccountName="b"),
                 id="credentials of a store"),
    pytest.param("BackupStore", S3, s3(caSecretRef={"name": "new"}), id="authority of a store"),
]  # fmt: skip

FORBIDDEN = [
    pytest.param("Database", {}, {"external": EXTERNAL}, "external can neither be added", id="external later"),
    pytest.param("Database", {"external": EXTERNAL}, {}, "external can neither be added", id="external no more"),
    pytest.param("Database", {"external": EXTERNAL}, {"external": EXTERNAL, "username": "b"},
                 "application role cannot change", id="external username"),
    pytest.param("Database", {}, {"databaseName": "b"}, "name of the database cannot change", id="databaseName"),
    pytest.param("Database", {"databaseName": "b"}, {}, "name of the database cannot change", id="databaseName gone"),
    pytest.param("Database", {}, {"username": "b"}, "application role cannot change", id="username"),
    pytest.param("Database", {}, {"storage": {"size": "2Gi"}}, "expand the PersistentVolumeClaim", id="larger"),
    pytest.param("Database", {"storage": {"size": "2Gi"}}, {}, "expand the PersistentVolumeClaim", id="size gone"),
    pytest.param("Database", {"storage": {"storageClassName": "a"}}, {"storage": {"storageClassName": "b"}},
                 "storage class cannot change", id="storage class"),
    pytest.param("Database", {}, {"storage": {"storageClassName": "b"}},
                 "storage class cannot change", id="storage class set later"),
    pytest.param("Database", {"storage": {"storageClassName": "a"}}, {},
                 "storage class cannot change", id="storage class taken away"),
    pytest.param("Backup", DB, DB | {"format": "plain"}, "spec of a Backup cannot change", id="backup format"),
    pytest.param("Backup", DB, DB | {"storeRef": {"name": "s"}}, "spec of a Backup cannot", id="backup store"),
    pytest.param("Backup", DB, DB | {"deletionPolicy": "Delete", "format": "plain"}, "spec of a Backup cannot",
                 id="backup format beside its policy"),
    pytest.param("Backup", DB | {"tables": [{"name": "a"}]}, DB, "spec of a Backup cannot", id="backup's tables gone"),
    pytest.param("Backup", DB, DB | {"activeDeadlineSeconds": 60}, "spec of a Backup cannot", id="backup's deadline"),
    pytest.param("Backup", DB, {"databaseRef": {"name": "other"}}, "spec of a Backup cannot", id="backup's database"),
    pytest.param("Backup", DB, DB | {"nodeSelector": {"a": "b"}}, "spec of a Backup cannot", id="backup's nodes"),
    pytest.param("Restore", DB | {"location": "pvc://c/p"}, DB | {"location": "pvc://c/q"},
                 "spec of a Restore cannot change", id="restore location"),
    pytest.param("Restore", DB | {"location": "pvc://c/p"}, DB | {"location": "pvc://c/p", "mode": "Clean"},
                 "spec of a Restore cannot change", id="restore mode"),
    pytest.param("BackupStore", {"pvc": {"claimName": "a"}}, {"pvc": {"claimName": "b"}},
                 "claim of a BackupStore cannot change", id="claim of a store"),
    pytest.param("BackupStore", {"pvc": {"claimName": "a"}}, S3, "kind of a BackupStore cannot change", id="to s3"),
    pytest.param("BackupStore", S3, {"pvc": {"claimName": "a"}}, "kind of a BackupStore cannot change", id="to pvc"),
    pytest.param("BackupStore", S3, s3(bucket="another"), "bucket of a BackupStore cannot change", id="bucket"),
    pytest.param("BackupStore", S3, s3(prefix="b"), "prefix of a BackupStore cannot change", id="prefix"),
    pytest.param("BackupStore", S3, {"s3": {"bucket": "vault"}}, "prefix of a BackupStore cannot", id="prefix gone"),
    pytest.param("BackupStore", {"s3": {"bucket": "vault"}}, S3, "prefix of a BackupStore cannot", id="prefix added"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "after"), ALLOWED)
def test_spec_may_change(kind: str, before: Any, after: Any, api: Api, make: Make) -> None:
    body = make(kind, before)
    api.create(body).must()
    api.change(body, after).must()


@pytest.mark.parametrize(("kind", "before", "after", "message"), FORBIDDEN)
def test_spec_may_not_change(kind: str, before: Any, after: Any, message: str, api: Api, make: Make) -> None:
    body = make(kind, before)
    api.create(body).must()
    answer = api.change(body, after)
    assert not answer.accepted
    assert message in answer.text
    assert "Forbidden" in answer.text


# ---- image

MINOR = [
    pytest.param("postgres:17", "postgres:17.6", id="minor named"),
    pytest.param("postgres:17.5", "postgres:17.6-alpine3.22", id="minor and variant"),
    pytest.param("postgres:17", "localhost:5000/postgres:17", id="registry with a port"),
    pytest.param("postgres:17", f"registry.example.com/postgres:17{DIGEST}", id="digest pinned"),
    pytest.param("postgres:17beta1", "postgres:17", id="beta to release"),
    # what no number tells is judged when the server runs
    pytest.param("postgres:latest", "postgres:15", id="no number before"),
    pytest.param("postgres", "postgres:15", id="no tag"),
    pytest.param("localhost:50/postgres", "localhost:60/postgres", id="ports are no versions"),
    pytest.param("postgres:20250101", "postgres:20260101", id="dates are no versions"),
    pytest.param("postgres@sha256:" + "15" + 62 * "0", f"postgres{DIGEST}", id="digests are no versions"),
]

MAJOR = [
    pytest.param("postgres:15", "postgres:17", id="plain"),
    pytest.param("postgres:17", "postgres:15", id="back"),
    pytest.param("postgres:15.14", "postgres:16-alpine", id="variant"),
    pytest.param("localhost:5000/postgres:15", "localhost:5000/postgres:16", id="registry with a port"),
    pytest.param(f"postgres:16{DIGEST}", f"postgres:17{DIGEST}", id="digest"),
    pytest.param("postgres:9.6", "postgres:10", id="one digit and two"),
    pytest.param("postgres:17", "postgres:18rc1", id="release candidate"),
    pytest.param(None, "postgres:16", id="from the default"),
    # from there it could go on to any other one
    pytest.param("postgres:17", "postgres:latest", id="to no number"),
    pytest.param("postgres:17", "postgres", id="to no tag"),
    pytest.param("postgres:17", f"postgres{DIGEST}", id="to a digest alone"),
    pytest.param("postgres:17", "postgres:20260101", id="to a date"),
]


@pytest.mark.parametrize(("before", "after"), MINOR)
def test_image_may_change(before: str, after: str, api: Api, make: Make) -> None:
    body = make("Database", {"image": before})
    api.create(body).must()
    api.change(body, {"image": after}).must()


@pytest.mark.parametrize(("before", "after"), MAJOR)
def test_major_version_may_not_change(before: str | None, after: str, api: Api, make: Make) -> None:
    body = make("Database", {"image": before} if before else {})
    api.create(body).must()
    answer = api.change(body, {"image": after})
    assert not answer.accepted
    assert "spec.image: Forbidden: the major version cannot change" in answer.text


# ---- status

NOW = "2026-01-02T03:04:05Z"
CONDITION = {
    "type": "Complete",
    "status": "True",
    "reason": "Dumped",
    "message": "done",
    "observedGeneration": 1,
    "lastTransitionTime": NOW,
}
RUN = {
    "startTime": NOW,
    "completionTime": NOW,
    "jobRef": {"name": "backup-b-0123456789"},
    "serverVersion": "17.6 (Debian 17.6-1.pgdg13+1)",
    "toolVersion": "17.6",
    "error": {"reason": "DumpFailed", "message": "m" * 32768},
    "conditions": [CONDITION, CONDITION | {"type": "Failed", "status": "False"}],
}
FULL: dict[str, dict[str, Any]] = {
    "Database": {
        "phase": "Verifying",
        "ready": False,
        "endpoint": "shop.crds.svc.cluster.local:5432",
        "secretName": "shop-credentials",
        "serverVersion": "17.6",
        "toolVersion": "17.6",
        "verified": "0123456789abcdef",
        "observedGeneration": 2,
        "conditions": [CONDITION | {"type": "Ready"}],
    },
    "Backup": RUN
    | {
        "phase": "Completed",
        "backupLocation": "pvc://backups/shop/b-1",
        "backupTime": NOW,
        "sizeBytes": 2**40,
        "checksum": "sha256:" + 64 * "a",
    },
    "Restore": RUN | {"phase": "Completed", "restoreTime": NOW, "previousDatabase": "shop_before_01234567"},
    "BackupStore": {
        "backups": [
            {
                "location": "s3://vault/team/shop/b-1",
                "name": "b",
                "namespace": "apps",
                "database": "shop",
                "databaseName": "app",
                "backupTime": NOW,
                "sizeBytes": 2**40,
                "format": "custom",
                "serverVersion": "17.6",
                "partial": False,
            }
        ],
        "backupCount": 1,
        "invalidCount": 2,
        "lastDiscoveryTime": NOW,
        "conditions": [CONDITION | {"type": "Discovered"}],
    },
}
STATUS: dict[str, type[BaseModel]] = {
    "Database": DatabaseStatus,
    "Backup": BackupStatus,
    "Restore": RestoreStatus,
    "BackupStore": BackupStoreStatus,
}


@pytest.mark.parametrize("kind", FULL)
def test_every_field_of_the_status_is_stored(kind: str, api: Api, make: Make) -> None:
    model = STATUS[kind].model_validate(FULL[kind])
    missing = [name for name in type(model).model_fields if getattr(model, name) in (None, [])]
    assert missing == [], "this test has to name every field"
    body = make(kind, SPECS[kind])
    api.create(body).must()

    api.patch_status(body, dump(model)).must()

    assert api.read(body)["status"] == dump(model)


@pytest.mark.parametrize("kind", FULL)
def test_creation_does_not_write_the_status(kind: str, api: Api, make: Make) -> None:
    body = make(kind, SPECS[kind])
    api.create({**body, "status": FULL[kind]}).must()
    assert "status" not in api.read(body)


@pytest.mark.parametrize("last", ["Completed", "Failed"])
@pytest.mark.parametrize("change", ["Pending", "InProgress", "Completed", "Failed", None, "no status"])
@pytest.mark.parametrize("wanted", [BACKUP, RESTORE], ids=["Backup", "Restore"])
def test_a_terminal_phase_stays(wanted: tuple[str, Any], change: str | None, last: str, api: Api, make: Make) -> None:
    body = make(*wanted)
    api.create(body).must()
    for phase in ("Pending", "InProgress", last):
        api.patch_status(body, {"phase": phase}).must()

    answer = api.patch_status(body, None if change == "no status" else {"phase": change})

    assert answer.accepted == (change == last)
    if change != last:
        assert f"a {body['kind']} that is Completed or Failed stays so" in answer.text
    assert api.read(body)["status"]["phase"] == last


@pytest.mark.parametrize("last", ["Completed", "Failed"])
@pytest.mark.parametrize(
    ("wanted", "before", "after"),
    [
        pytest.param(BACKUP, {"backupLocation": "pvc://c/a"}, {"backupLocation": "pvc://c/b"}, id="location"),
        pytest.param(BACKUP, {"backupLocation": "pvc://c/a"}, {"backupLocation": None}, id="location gone"),
        pytest.param(BACKUP, {}, {"backupLocation": "pvc://c/b"}, id="location added"),
        pytest.param(BACKUP, {"checksum": "sha256:a"}, {"checksum": "sha256:b"}, id="checksum"),
        pytest.param(BACKUP, {"checksum": "sha256:a"}, {"checksum": None}, id="checksum gone"),
        pytest.param(BACKUP, {"sizeBytes": 1}, {"sizeBytes": 2}, id="size"),
        pytest.param(BACKUP, {}, {"sizeBytes": 2}, id="size added"),
        pytest.param(RESTORE, {"restoreTime": NOW}, {"restoreTime": None}, id="restore time gone"),
        pytest.param(RESTORE, {"previousDatabase": "a"}, {"previousDatabase": "b"}, id="previous database"),
    ],
)
def test_results_stay(wanted: tuple[str, Any], before: Any, after: Any, last: str, api: Api, make: Make) -> None:
    body = make(*wanted)
    api.create(body).must()
    api.patch_status(body, {"phase": "InProgress", **before}).must()
    api.patch_status(body, {"phase": last}).must()

    answer = api.patch_status(body, after)

    assert not answer.accepted
    assert f"the results of a {body['kind']} that is Completed or Failed" in answer.text
    assert api.read(body)["status"] == {"phase": last, **before}


def test_conditions_may_change_after_the_end(api: Api, make: Make) -> None:
    body = make(*BACKUP)
    api.create(body).must()
    api.patch_status(body, FULL["Backup"]).must()
    api.patch_status(body, {"conditions": [CONDITION | {"type": "Verified"}]}).must()


def test_labels_may_change_after_the_end(api: Api, kubectl: Kubectl, make: Make) -> None:
    body = make(*BACKUP)
    api.create(body).must()
    api.patch_status(body, FULL["Backup"]).must()
    kubectl("label", "-n", NAMESPACE, "pgb", body["metadata"]["name"], "keep=yes").must()
