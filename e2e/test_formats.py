"""Dumps by several sessions, and the roles of the server, on a real cluster."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from e2e import kit
from e2e.object_store import BUCKET, ObjectStore
from e2e.support import apply

if TYPE_CHECKING:
    from collections.abc import Callable

# Four tables that compress badly: 10,000 rows of all of them are 22 MiB of a dump.
ROWS = int(os.environ.get("E2E_FORMAT_ROWS", "10000"))
TABLES = """
CREATE TABLE noise_{n} AS SELECT g AS id, string_agg(md5(g::text || m || {n}), '') AS t
FROM generate_series(1, {rows}) g, generate_series(1, 32) m GROUP BY g;
ALTER TABLE noise_{n} ADD PRIMARY KEY (id);
"""
# Of Backup and Restore, for the same data.
WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "custom": ({"format": "custom"}, {}),
    "directory, jobs 2": ({"format": "directory", "jobs": 2}, {"jobs": 2}),
}


def test_several_sessions_dump_and_restore_the_same(namespace: str, show: Callable[[str], None]) -> None:
    kit.ready_database(namespace, version=18)
    kit.sql(namespace, kit.SCHEMA + "".join(TABLES.format(n=n, rows=ROWS) for n in range(4)))
    before, figures = kit.fingerprint(namespace), []
    for name, (dump, load) in WAYS.items():
        begin = time.monotonic()
        backup = kit.back_up(namespace, **dump)
        dumped = time.monotonic()
        kit.sql(namespace, "DROP TABLE noise_0; DELETE FROM orders")
        kit.restore(namespace, backupRef={"name": backup["name"]}, mode="Replace", keepPrevious=False, **load)
        restored = time.monotonic()
        assert kit.fingerprint(namespace) == before, name
        mib = backup["sizeBytes"] / 2**20
        figures.append(f"{name}: {mib:.0f} MiB, backup {dumped - begin:.1f} s, restore {restored - dumped:.1f} s")
    files = [path for path in kit.claim_files(namespace) if "/dump.dir/" in path]
    assert len(files) > 7
    show("; ".join(figures))


def test_the_roles_are_kept_in_a_volume_and_in_a_bucket(namespace: str) -> None:
    kit.create_database(namespace)
    server = ObjectStore(namespace)
    server.start()
    apply(server.backup_store("bucket"), namespace)
    kit.wait_ready(namespace)
    kit.sql(
        namespace,
        "CREATE ROLE readers; CREATE ROLE jane LOGIN PASSWORD 's3cret'; GRANT readers TO jane",
        user="postgres",
    )
    for name, more in (("volume", {"format": "directory", "jobs": 2}), ("bucket", {"storeRef": {"name": "bucket"}})):
        kit.start_backup(namespace, name, includeGlobals=True, **more)
    kit.completed("backup", "volume", namespace)
    location = kit.completed("backup", "bucket", namespace)["backupLocation"]
    assert [path for path in kit.claim_files(namespace) if path.endswith("/globals.sql")]
    path = location.removeprefix(f"s3://{BUCKET}/")
    (key,) = (key for key in server.objects() if key.startswith(f"{path}/globals-"))
    assert (
        json.loads(server.rclone("cat", f"store:{BUCKET}/{path}/manifest.json"))["globals"]["file"]
        == key.rpartition("/")[2]
    )
    roles = server.rclone("cat", f"store:{BUCKET}/{key}")
    assert "GRANT readers TO jane" in roles
    assert "s3cret" not in roles
    assert "ALTER ROLE postgres" not in roles
    kit.sql(namespace, "CREATE TABLE later ()")
    kit.start_restore(namespace, "back", backupRef={"name": "volume"}, mode="Clean")
    status = kit.completed("restore", "back", namespace)
    assert "which are in globals.sql there, are not" in status["conditions"][0]["message"]
