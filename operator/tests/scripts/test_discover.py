"""Listing what lies in a store: discover.sh as the template runs it, and what becomes of its report in the status."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from object_store import BUCKET, ObjectStore
from script_runner import SCRIPTS, SECRET, Outcome, Pods, TestDatabase
from streaming import PATH, PREFIX, SOURCE, StreamPod
from support import NOW, complete, ended, failed_job, job_of, pod, resource

from postgres_operator import names
from postgres_operator.api.store import BackupStore
from postgres_operator.decide.actions import Body, Claim, CreateJob, SetStatus
from postgres_operator.decide.jobs import read_job
from postgres_operator.decide.run import Policy
from postgres_operator.decide.store import StoreFacts, content, decide
from postgres_operator.render import Renderer

POLICY = Policy({})
OWN_NAME = 'K\u00e4ufe "x" \\ \U0001f600'


@dataclass
class Listing:
    """How the script ended, and the status that comes of it."""

    outcome: Outcome
    status: Body

    @property
    def condition(self) -> Body:
        return dict(self.status["conditions"][0])

    @property
    def paths(self) -> list[str]:
        """Of all backups in the status, inside the store."""
        return ["/".join(backup["location"].split("/")[-2:]) for backup in self.status["backups"]]


@dataclass
class Listings:
    """Lists stores by the Job that the operator would make."""

    pods: Pods
    uploader: Path

    def of(self, spec: Body, env: Mapping[str, str]) -> Listing:
        body = resource("BackupStore", "all", {"discover": True, **spec})
        store = BackupStore.model_validate(body)
        claim = Claim("vault") if "pvc" in spec else None
        action = decide(store, StoreFacts(NOW, claim=claim, claim_known=True), POLICY)
        assert isinstance(action, CreateJob)
        (container,) = Renderer(SCRIPTS, 999, 998).job(store, action)["spec"]["template"]["spec"]["containers"]
        said = {e["name"]: e.get("value", "") for e in container["env"]}
        shell, option, text = container["command"]
        script = self.pods.launch([shell, option, text.replace("$$", "$")], {**said, **env}, str(self.uploader))
        outcome = self.pods.finish(script)
        message = (script.directory / "termination-log").read_text()

        job = job_of(body, **(failed_job() if outcome.code else complete()))
        job["metadata"]["annotations"] = {names.ANNOTATION_VERIFIES: content(store)}
        seen = [pod("Failed" if outcome.code else "Succeeded", ended(outcome.code, message, name="discover"))]
        listed = decide(store, StoreFacts(NOW, (read_job(job),), pods=seen), POLICY)
        assert isinstance(listed, SetStatus)
        return Listing(outcome, listed.status)

    def of_bucket(self, s3: ObjectStore, env: Mapping[str, str] | None = None, **changes: Any) -> Listing:
        secrets = {"credentialsSecretRef": {"name": "keys"}, "caSecretRef": {"name": "ca"}}
        spec = {"bucket": BUCKET, "prefix": PREFIX, "endpoint": s3.endpoint, **secrets, **changes}
        ca = s3.pki.ca.read_text() if s3.pki else ""
        keys = {**s3.credentials, "AWS_SESSION_TOKEN": "", "CA_CERT": ca}
        return self.of({"s3": spec}, {**keys, "HOME": "/nonexistent", **(env or {})})

    def of_volume(self, directory: Path) -> Listing:
        return self.of({"pvc": {"claimName": "vault"}}, {"STORE_DIR": str(directory)})


@pytest.fixture
def listings(pods: Pods, uploader: Path) -> Listings:
    return Listings(pods, uploader)


def manifest(path: str, **changes: Any) -> Body:
    database, _, rest = path.partition("/")
    source = {"namespace": "apps", "database": database, "databaseName": "app", "backup": rest.rpartition("-")[0]}
    return {
        "schema": 1,
        "location": path,
        "file": "dump.pgdump",
        "format": "custom",
        "sizeBytes": 3,
        "sha256": "ab" * 32,
        "serverVersion": "17.6",
        "toolVersion": "17.6",
        "backupTime": "2026-03-01T11:59:00Z",
        **changes,
        "source": changes.get("source", {**source, "backupUID": "u"}),  # the last one
    }


def line(path: str, **changes: Any) -> bytes:
    return json.dumps(manifest(path, **changes)).encode() + b"\n"


# Path of a directory -> its files.
GOOD = {
    "shop/monday-1": {"manifest.json": line("shop/monday-1"), "dump.pgdump": b"abc"},
    "shop/tuesday-1": {
        "manifest.json": line(
            "shop/tuesday-1",
            backupTime="2026-03-02T11:59:00Z",
            file="dump-4b1c7a9e-0d5f-4a6e-9b57-1f0c3f6f2d11.sql",
            format="plain",
            sizeBytes=5,
            source={"partial": True, **manifest("shop/tuesday-1")["source"], "databaseName": OWN_NAME},
        ),
        "dump-4b1c7a9e-0d5f-4a6e-9b57-1f0c3f6f2d11.sql": b"abcde",
    },
    # of several files, with all that a manifest may have
    "shop/wednesday-1": {
        "manifest.json": line(
            "shop/wednesday-1",
            backupTime="2026-03-03T11:59:00Z",
            file="dump.dir",
            format="directory",
            sizeBytes=8,
            globals={"file": "globals.sql", "sha256": "cd" * 32},
            inventory={"tables": 1, "rows": 2, "sha256": "ef" * 32, "origin": {"encoding": "UTF8"}},
        ),
        "dump.dir/toc.dat": b"abc",
        "dump.dir/3001.dat.gz": b"abcde",
        "globals.sql": b"x",
    },
    # moved there by somebody; its manifest does not say whose it is
    "crm/b.c_D-2": {
        "manifest.json": line("old/place", source={}, backupTime="2026-02-28T23:59:59Z"),
        "dump.pgdump": b"abc",
    },
}
BAD = {
    "shop/no-dump": {"manifest.json": line("shop/no-dump")},
    "shop/short": {"manifest.json": line("shop/short"), "dump.pgdump": b"ab"},
    "shop/other-file": {"manifest.json": line("shop/other-file", file="dump.sql"), "dump.sql": b"abc"},
    "shop/two-lines": {"manifest.json": 2 * line("shop/two-lines"), "dump.pgdump": b"abc"},
    "shop/no-line": {"manifest.json": line("shop/no-line").rstrip(), "dump.pgdump": b"abc"},
    "shop/nothing": {"manifest.json": b"{}\n", "dump.pgdump": b"abc"},
    "shop/extra": {"manifest.json": line("shop/extra", more=1), "dump.pgdump": b"abc"},
    "shop/large": {"manifest.json": line("shop/large", source={"x": 5000 * "x"}), "dump.pgdump": b"abc"},
    "shop/no-time": {"manifest.json": line("shop/no-time", backupTime="2026-99-99T99:99:99Z"), "dump.pgdump": b"abc"},
    # well formed, but no date of any calendar, and half a character: found by the operator
    "shop/no-day": {"manifest.json": line("shop/no-day", backupTime="2026-02-31T00:00:00Z"), "dump.pgdump": b"abc"},
    "shop/half": {"manifest.json": line("shop/half", source={"databaseName": "\ud83d"}), "dump.pgdump": b"abc"},
}
# What is no place that a Restore could name, and what is not finished, is nobody's backup.
ELSEWHERE = {
    "shop/.monday-1.uid.partial": {"manifest.json": line("shop/monday-1"), "dump.pgdump": b"abc"},
    "shop/-x": {"manifest.json": line("shop/-x"), "dump.pgdump": b"abc"},
    "shop/a b": {"manifest.json": line("shop/a b"), "dump.pgdump": b"abc"},
    "shop/a..b": {"manifest.json": line("shop/a..b"), "dump.pgdump": b"abc"},
    "shop/deep/er": {"manifest.json": line("shop/deep/er"), "dump.pgdump": b"abc"},
    "shop": {"manifest.json": line("shop"), "dump.pgdump": b"abc"},
}


def fill(directory: Path, *sets: Mapping[str, Mapping[str, bytes]]) -> None:
    for tree in sets:
        for path, files in tree.items():
            place = directory / path
            place.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_bytes(text)


def check_all(listed: Listing, url: str) -> None:
    assert listed.paths == ["shop/wednesday-1", "shop/tuesday-1", "shop/monday-1", "crm/b.c_D-2"]
    assert (listed.status["backupCount"], listed.status["invalidCount"]) == (4, len(BAD))
    assert (listed.status["backups"][0]["format"], listed.status["backups"][0]["sizeBytes"]) == ("directory", 8)
    assert listed.status["backups"][1] == {
        "location": f"{url}/shop/tuesday-1",
        "name": "tuesday",
        "namespace": "apps",
        "database": "shop",
        "databaseName": OWN_NAME,
        "backupTime": "2026-03-02T11:59:00Z",
        "sizeBytes": 5,
        "format": "plain",
        "serverVersion": "17.6",
        "partial": True,
    }
    assert "name" not in listed.status["backups"][3]
    assert listed.condition["reason"] == "Discovered"
    log = listed.outcome.log
    for path in GOOD:
        assert f" {url}/{path} " in log


def test_what_lies_in_a_volume(listings: Listings, store: Path):
    fill(store, GOOD, BAD, ELSEWHERE)
    two_lines = store / "x\n3;shop" / "monday-2"
    fill(store, {str(two_lines.relative_to(store)): {"dump.pgdump": b"abc", "manifest.json": line("shop/monday-2")}})
    (store / "shop" / "link").symlink_to(store / "shop" / "monday-1")
    hidden = store / "lost+found"
    hidden.mkdir(mode=0)
    check_all(listings.of_volume(store), "pvc://vault")


def test_what_lies_in_a_bucket(listings: Listings, s3: ObjectStore, place: Path):
    fill(place / "tree", GOOD, BAD, ELSEWHERE)
    s3.rclone("copyto", str(place / "tree"), f"store:{BUCKET}/{PREFIX}")
    check_all(listings.of_bucket(s3), f"s3://{BUCKET}/{PREFIX}")


def test_a_backup_that_was_made_is_found(
    listings: Listings, pods: Pods, s3_tls: ObjectStore, uploader: Path, database: Callable[..., TestDatabase]
):
    made = StreamPod(pods, s3_tls, uploader, database("shop"), "backup.yaml.j2").run().result
    (found,) = listings.of_bucket(s3_tls).status["backups"]
    assert found["location"] == f"s3://{BUCKET}/{PREFIX}/{PATH}"
    for field in ("sizeBytes", "format", "serverVersion", "backupTime"):
        assert found[field] == made[field]
    assert (found["name"], found["databaseName"]) == (SOURCE["backup"], SOURCE["databaseName"])


def test_thousands_take_few_requests_and_the_newest_of_each_database_are_reported(listings: Listings, s3: ObjectStore):
    count, databases = 400, 20
    files = {}
    for number in range(count):
        uid = f"{number:08x}-7a9e-4a6e-9b57-{number * 7919 % 2**48:012x}"
        # those of database 0 are all newer than any other
        time = f"2026-{2 if number % databases == 0 else 1:02}-{1 + number // 60:02}T00:{number % 60:02}:00Z"
        path = f"db-{number % databases}/nightly-{number:05}-{uid}"
        files[path] = {"manifest.json": line(path, backupTime=time), "dump.pgdump": b"abc"}
    fill(s3.directory / "objects" / BUCKET / PREFIX, files)
    # without it, rclone asks for each object one by one
    tags = {f"{path}/manifest.json/meta": {"etag": b'"' + 32 * b"0" + b'"'} for path in files}
    fill(s3.directory / "meta" / BUCKET / PREFIX, tags)
    before = s3.log.count("\n")
    listed = listings.of_bucket(s3)
    assert s3.log.count("\n") - before <= count + 10
    assert listed.status["backupCount"] == count
    assert 60 <= len(listed.paths) <= 100, len(listed.paths)
    per_database = [sum(path.startswith(f"db-{n}/") for path in listed.paths) for n in range(databases)]
    assert max(per_database) - min(per_database) <= 1
    assert listed.paths[0] == f"db-0/nightly-{count - databases:05}" + listed.paths[0][18:]
    assert len(re.findall(rf"s3://{BUCKET}/{PREFIX}/db-\d+/nightly-", listed.outcome.log)) == count
    assert f"room for {len(listed.paths)} of them" in listed.condition["message"]


def test_an_empty_prefix_has_no_backups(listings: Listings, s3: ObjectStore):
    listed = listings.of_bucket(s3)
    assert (listed.status["backups"], listed.status["backupCount"], listed.status["invalidCount"]) == ([], 0, 0)
    assert listed.condition["status"] == "True"


def refused(listed: Listing, message: str) -> None:
    assert listed.outcome.reason == listed.condition["reason"] == "DownloadFailed"
    assert message in listed.condition["message"]
    assert listed.condition["status"] == "False"
    assert SECRET not in str(listed.status)


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        pytest.param({"AWS_SECRET_ACCESS_KEY": "wrong"}, {}, "refuses the credentials", id="wrong-key"),
        pytest.param({}, {"bucket": "no-such-bucket"}, "There is no such bucket", id="no-bucket"),
    ],
)
def test_why_a_bucket_cannot_be_listed(
    listings: Listings, s3: ObjectStore, env: dict[str, str], changes: Body, message: str
):
    refused(listings.of_bucket(s3, env, **changes), message)


def test_a_store_that_does_not_answer(listings: Listings, s3: ObjectStore):
    with s3.hung():
        refused(listings.of_bucket(s3, {"ANSWER_SECONDS": "1"}), "did not answer within 1 seconds")


def test_a_volume_that_may_not_be_read(listings: Listings, store: Path):
    store.chmod(0)
    refused(listings.of_volume(store), "cannot be read by user")
