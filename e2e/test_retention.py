"""Artifacts that go with their Backups, on a real volume and a real S3 server; and schedules that prune."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from e2e import kit
from e2e.object_store import BUCKET, ObjectStore
from e2e.support import apply, delete, fresh_namespace, get, kubectl, wait_for, wait_gone

if TYPE_CHECKING:
    from e2e.cluster import Cluster


def directory(location: str) -> str:
    """Of an artifact inside its claim or bucket."""
    return "/".join(location.split("/")[3:])


def test_of_a_volume_exactly_the_artifact_goes(namespace: str) -> None:
    kit.ready_database(namespace)
    policies = ("Retain", "Delete", "Retain", "Delete")
    names = [kit.start_backup(namespace, deletionPolicy=policy) for policy in policies]
    kept, gone, late, neighbour = ({**kit.completed("backup", name, namespace), "name": name} for name in names)
    patch = '{"spec": {"deletionPolicy": "Delete"}}'
    kubectl("patch", "backup", late["name"], "-n", namespace, "--type=merge", "-p", patch)
    wait_for(
        lambda: (get("backup", late["name"], namespace) or {}).get("metadata", {}).get("finalizers"),
        15,
        "the Backup to be held",
    )
    kubectl("delete", "backup", kept["name"], gone["name"], "-n", namespace, "--wait=true", timeout=60)
    kubectl("delete", "backup", late["name"], "-n", namespace, "--cascade=foreground", timeout=60)
    found = kit.claim_files(namespace)
    for status, there in ((kept, True), (gone, False), (late, False), (neighbour, True)):
        files = {path for path in found if path.startswith(directory(status["backupLocation"]) + "/")}
        assert len(files) == (2 if there else 0), (status["name"], found)
    assert not [path for path in found if "/." in path]
    # what still holds an artifact does not hold up its namespace
    kubectl("delete", "namespace", namespace, "--wait=false")
    wait_gone("backup", neighbour["name"], namespace, deadline=60)


@pytest.mark.usefixtures("operator")
def test_of_a_bucket_exactly_the_artifact_goes_and_a_namespace_is_not_held_up(cluster: Cluster) -> None:
    if cluster.name == "existing":
        pytest.skip("the object store is a process beside the cluster")
    with fresh_namespace(f"retain-{secrets.token_hex(3)}") as namespace:
        kit.create_database(namespace)
        server = ObjectStore(namespace)
        server.start()
        apply(server.backup_store("default"), namespace)
        kit.wait_ready(namespace)
        names = [kit.start_backup(namespace, deletionPolicy="Delete") for _ in range(2)]
        gone, neighbour = ({**kit.completed("backup", name, namespace), "name": name} for name in names)
        assert len(server.objects()) == 4
        delete("database", "shop", namespace)  # no image, no login is needed any more
        kubectl("delete", "backup", gone["name"], "-n", namespace, timeout=60)
        left = server.objects()
        assert len(left) == 2
        assert all(key.startswith(f"{directory(neighbour['backupLocation'])}/") for key in left)
        assert neighbour["backupLocation"].startswith(f"s3://{BUCKET}/")
        # its store goes first; then nothing can be deleted any more
        delete("backupstore", "default", namespace)
        kubectl("delete", "backup", neighbour["name"], "-n", namespace, "--wait=false")
        kit.wait_reason("backup", neighbour["name"], namespace, "StoreNotFound", deadline=30)
        kit.wait_events(namespace, neighbour["name"], "BackupCompleted", "StoreNotFound")
        kubectl("delete", "namespace", namespace, "--wait=false")
        wait_gone("backup", neighbour["name"], namespace, deadline=60)


def test_a_schedule_deletes_what_its_retention_does_not_keep(namespace: str) -> None:
    kit.ready_database(namespace)
    template = {"spec": {"databaseRef": {"name": "shop"}}}
    spec = {"schedule": "0 3 1 1 *", "retention": {"keepLast": 1}, "template": template}
    apply(kit.resource("ScheduledBackup", "often", spec), namespace)
    uid = get("scheduledbackup", "often", namespace)["metadata"]["uid"]
    # Backups of past slots, as if time had passed
    for hour in range(3):
        slot = datetime.fromtimestamp(time.time() // 60 * 60 - 3600 * (9 - hour), UTC)
        body = kit.resource("Backup", f"often-{slot:%Y%m%d%H%M}", template["spec"])
        body["metadata"]["labels"] = {
            "database.example.com/schedule": "often",
            "database.example.com/schedule-uid": uid,
        }
        body["metadata"]["annotations"] = {"database.example.com/slot": f"{slot:%Y-%m-%dT%H:%M:%SZ}"}
        apply(body, namespace)
        last = body["metadata"]["name"]
        kit.completed("backup", last, namespace)
    wait_for(
        lambda: (
            kubectl("get", "backups", "-n", namespace, "-o", "name").split() == [f"backup.database.example.com/{last}"]
        ),
        60,
        "all but the last one to go",
    )
    location = get("backup", last, namespace)["status"]["backupLocation"]
    manifests = [path for path in kit.claim_files(namespace) if path.endswith("/manifest.json")]
    assert manifests == [f"{directory(location)}/manifest.json"]
