"""Verification of Backups on a real cluster: what is good is called so, what was changed in the store is found."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from e2e import kit
from e2e.object_store import BUCKET, ObjectStore
from e2e.support import apply, delete, get, items, kubectl, wait_for
from e2e.test_restore import overwrite

if TYPE_CHECKING:
    from collections.abc import Iterator

NOISE = "CREATE TABLE noise AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n"


def start(namespace: str, mode: str, **spec: Any) -> str:
    return kit.start_backup(namespace, verification={"mode": mode}, **spec)


def verified(namespace: str, name: str, status: str, reason: str) -> str:
    """The message of the condition Verified, once it says this."""
    last: dict[str, Any] = {}

    def seen() -> str | None:
        found = get("backup", name, namespace)
        assert found
        last.update(found)
        conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", [])}
        verified = conditions.get("Verified", {})
        ok = (verified.get("status"), verified.get("reason")) == (status, reason)
        return str(verified["message"]) if ok else None

    try:
        return wait_for(seen, 120, f"backup/{name} to be Verified={status} ({reason})")
    except AssertionError as error:
        raise AssertionError(f"{error}: {json.dumps(last.get('status'), indent=1)}") from error


@contextmanager
def no_more_jobs(namespace: str, more: int) -> Iterator[None]:
    """A quota takes so many more Jobs: that of a Backup, but not that of its verification."""
    name = f"jobs-{secrets.token_hex(3)}"
    # A Database's go by themselves two minutes after they have ended, and would leave room for one more.
    kubectl("delete", "jobs", "-n", namespace, "-l", "database.example.com/kind=database")
    hard = {"count/jobs.batch": str(len(items("jobs", namespace)) + more)}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": {"hard": hard}}
    apply(quota, namespace)
    wait_for(
        lambda: (get("resourcequota", name, namespace) or {}).get("status", {}).get("used"), 30, "the quota to count"
    )
    yield
    delete("resourcequota", name, namespace)


def test_a_volume(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA + ";" + NOISE)
    kit.sql(namespace, "CREATE ROLE reader; GRANT SELECT ON noise TO reader", user="postgres")
    kit.sql(namespace, "ALTER ROLE app SET transaction_timeout = '50ms'", user="postgres")  # less than a dump takes
    listed, restored = start(namespace, "List"), start(namespace, "Restore")
    assert "list of contents" in verified(namespace, listed, "True", "BackupVerified")
    assert "25502 rows" in verified(namespace, restored, "True", "BackupVerified")
    kit.wait_events(namespace, restored, "BackupCompleted", "BackupVerified")

    with no_more_jobs(namespace, 1):
        bad = start(namespace, "Restore")
        done = kit.completed("backup", bad, namespace)
        verified(namespace, bad, "Unknown", "QuotaExceeded")
        path = done["backupLocation"].removeprefix("pvc://backups/") + "/dump.pgdump"
        overwrite(namespace, path, "printf X | dd of=$1 bs=1 seek=50000 conv=notrunc status=none")
    verified(namespace, bad, "False", "ChecksumMismatch")
    after = get("backup", bad, namespace)
    assert after
    results = ("phase", "backupLocation", "checksum", "sizeBytes", "completionTime", "jobRef")
    assert {key: after["status"][key] for key in results} == {key: done[key] for key in results}


def test_a_bucket(namespace: str) -> None:
    kit.create_database(namespace, version=18)
    server = ObjectStore(namespace)
    server.start()
    apply(server.backup_store("default", prefix="team"), namespace)
    kit.wait_ready(namespace)
    kit.sql(namespace, kit.SCHEMA + ";" + NOISE)
    listed, restored = start(namespace, "List"), start(namespace, "Restore", format="plain")
    verified(namespace, listed, "True", "BackupVerified")
    assert "25502 rows" in verified(namespace, restored, "True", "BackupVerified")

    with no_more_jobs(namespace, 1):
        bad = start(namespace, "List")
        place = kit.completed("backup", bad, namespace)["backupLocation"].removeprefix("s3://")
        verified(namespace, bad, "Unknown", "QuotaExceeded")
        other = get("backup", listed, namespace)
        assert other
        source = other["status"]["backupLocation"].removeprefix(f"s3://{BUCKET}/")
        server.shell(
            f"rclone lsf store:{BUCKET}/{source} | while read -r file; do "
            f'rclone cat "store:{BUCKET}/{source}/$file" >/tmp/copy; rclone rcat "store:{place}/$file" </tmp/copy; done'
        )
    assert "not what was backed up" in verified(namespace, bad, "False", "ChecksumMismatch")
