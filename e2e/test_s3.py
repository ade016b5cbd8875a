"""Backups in an object store, a real S3 server over TLS: what is there under a final name can be restored.

All tests share one namespace.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from e2e import kit
from e2e.object_store import BUCKET, ObjectStore
from e2e.support import apply, fresh_namespace, get, kubectl

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "team/production"


@dataclass(frozen=True)
class Scene:
    """A namespace with the Databases `shop` (small), `big` and `copy` (empty), and what they are backed up to."""

    namespace: str
    server: ObjectStore  # of the BackupStore `default`
    authority: str  # its certificate


@pytest.fixture(scope="module")
def scene(operator: None) -> Iterator[Scene]:  # noqa: ARG001 -- it runs
    with fresh_namespace(f"s3-{secrets.token_hex(3)}") as namespace:
        for name in ("shop", "big", "copy"):
            kit.create_database(namespace, name)
        server = ObjectStore(namespace)
        authority = server.start()
        apply(server.backup_store("default", prefix=PREFIX), namespace)
        for name in ("shop", "big", "copy"):
            kit.wait_ready(namespace, name)
        kit.sql(namespace, kit.SCHEMA)
        kit.sql(namespace, kit.noise(80), "big")
        yield Scene(namespace, server, authority)


def dump_key(server: ObjectStore, location: str) -> str:
    """Key of the dump of a backup."""
    path = location.removeprefix(f"s3://{BUCKET}/")
    return next(key for key in server.objects() if key.startswith(f"{path}/dump-"))


def test_a_backup_says_what_it_made(scene: Scene) -> None:
    namespace, server = scene.namespace, scene.server
    status = kit.back_up(namespace)
    uid = get("backup", status["name"], namespace)["metadata"]["uid"]
    path = f"{PREFIX}/shop/{status['name']}-{uid}"
    assert status["backupLocation"] == f"s3://{BUCKET}/{path}"
    dump = dump_key(server, status["backupLocation"])
    assert set(server.objects()) == {f"{path}/manifest.json", dump}
    assert server.objects()[dump] == status["sizeBytes"]
    assert server.shell(f"rclone cat store:{BUCKET}/{dump} | sha256sum").split()[0] == status["checksum"][7:]
    assert server.unfinished() == []

    job = get("job", status["jobRef"]["name"], namespace)
    for kind in ("containers", "initContainers"):
        for container in job["spec"]["template"]["spec"][kind]:
            has = {
                e["valueFrom"]["secretKeyRef"]["name"]
                for e in container["env"]
                if "secretKeyRef" in e.get("valueFrom", {})
            }
            assert has == ({"shop-credentials"} if container["name"] == "dump" else {"s3-keys", "s3-ca"})
    log = kubectl("logs", f"job/{status['jobRef']['name']}", "-n", namespace, "--all-containers")
    assert str(status["sizeBytes"]) in log
    for value in server.credentials.values():
        assert value not in log


def test_restored_by_the_name_of_its_backup(scene: Scene) -> None:
    status = kit.back_up(scene.namespace)
    kit.restore(scene.namespace, "copy", backupRef={"name": status["name"]}, mode="Replace")
    assert kit.fingerprint(scene.namespace, "copy") == kit.fingerprint(scene.namespace)


def test_a_backup_of_many_parts_is_restored(scene: Scene) -> None:
    status = kit.back_up(scene.namespace, "big")
    assert status["sizeBytes"] > 30_000_000
    kit.restore(scene.namespace, "copy", backupRef={"name": status["name"]}, mode="Clean")
    assert kit.fingerprint(scene.namespace, "copy") == kit.fingerprint(scene.namespace, "big")


FLIP = "printf XXXX | dd of=/tmp/dump bs=1 seek=2000 conv=notrunc 2>/dev/null"
DAMAGES = {
    "a byte changed": (FLIP, "ChecksumMismatch"),
    "the end lost": (
        'head -c "$(($(wc -c </tmp/dump) - 1))" /tmp/dump >/tmp/x; mv /tmp/x /tmp/dump',
        "ChecksumMismatch",
    ),
    "another dump in its place": ("cp /tmp/other /tmp/dump", "ChecksumMismatch"),
    "nothing in its place": ("rm /tmp/dump", "ArtifactMissing"),
}


def test_a_damaged_artifact_is_not_restored(scene: Scene) -> None:
    namespace, server = scene.namespace, scene.server
    other, status = kit.back_up(namespace), kit.back_up(namespace)  # of one size, most likely
    key = f"store:{BUCKET}/{dump_key(server, status['backupLocation'])}"
    other_key = f"store:{BUCKET}/{dump_key(server, other['backupLocation'])}"
    server.shell(f"rclone cat {key} >/tmp/good; rclone cat {other_key} >/tmp/other")
    wanted = kit.fingerprint(namespace)
    kit.sql(namespace, "CREATE TABLE since AS SELECT 1 AS n")
    before = kit.fingerprint(namespace)
    for what, (damage, reason) in DAMAGES.items():
        put = f"if [ -e /tmp/dump ]; then rclone rcat {key} </tmp/dump; else rclone deletefile {key}; fi"
        server.shell(f"cp /tmp/good /tmp/dump; {damage}; {put}")
        name = kit.start_restore(namespace, backupRef={"name": status["name"]}, mode="Clean")
        print(f"{what}: {kit.failed('restore', name, namespace, reason, 120)}")
        assert kit.fingerprint(namespace) == before, what
    server.shell(f"rclone rcat {key} </tmp/good")
    kit.restore(namespace, backupRef={"name": status["name"]}, mode="Clean")
    assert kit.fingerprint(namespace) == wanted


def test_a_cluster_is_lost_and_the_bucket_is_left(scene: Scene) -> None:
    before = kit.fingerprint(scene.namespace)
    location = kit.back_up(scene.namespace)["backupLocation"]
    kubectl("delete", "backups,restores,databases,backupstores", "--all", "-n", scene.namespace)
    with fresh_namespace(f"s3-again-{secrets.token_hex(3)}") as namespace:
        store = scene.server.backup_store("rescue", prefix=PREFIX)
        apply([*scene.server.secrets(scene.authority), store], namespace)
        kit.create_database(namespace, "risen")
        name = kit.start_restore(namespace, database="risen", location=location, storeRef={"name": "rescue"})
        kit.completed("restore", name, namespace)
        assert kit.fingerprint(namespace, "risen") == before
