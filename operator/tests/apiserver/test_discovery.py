"""Listing a store against a real API server: what is asked of it, and a Restore that waits for the list."""

import asyncio
import base64
import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lab import Operator, World, audited

from postgres_operator import names
from postgres_operator.watch import MANAGED_KINDS, OWN_KINDS

ENTRY = ["db/monday-1", "monday", "apps", "db", "app", "2026-03-01T01:00:00Z", 10, "custom", "17.6", 0]
LOOKS = {f"list {kind.lower()}s" for kind in (*OWN_KINDS, *MANAGED_KINDS)}


def key(world: World) -> tuple[str, str, str]:
    return "BackupStore", world.namespace, "far"


async def make(world: World, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    body = {"apiVersion": names.API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
    return await world.create(kind, body)


async def ended(world: World, *operators: Operator) -> None:
    """The listing that runs has found one backup, and all have seen what came of it."""
    (job,) = await running(world)
    packed = base64.b64encode(gzip.compress(json.dumps(ENTRY).encode())).decode()
    await world.end(job, {"count": 1, "invalid": 0, "backups": packed})
    for one in operators:
        for seen in await world.jobs():
            one.watch.seen("Job", seen)
        await one.settle(key(world))


async def running(world: World) -> list[dict[str, Any]]:
    return [job for job in await world.jobs() if not job.get("status", {}).get("conditions")]


def later(one: Operator, seconds: float) -> None:
    one.clock = lambda: datetime.now(UTC) + timedelta(seconds=seconds)


async def test_a_list_costs_a_job_and_only_a_new_one_a_write(world: World, ours: Operator, audit_log: Path):
    def requests() -> list[str]:
        return [r for r in audited(audit_log, world.namespace) if r not in LOOKS]

    await make(world, "BackupStore", "quiet", {"s3": {"bucket": "vault"}})
    await make(world, "BackupStore", "far", {"s3": {"bucket": "vault"}, "discover": True})
    await ours.look()
    await ours.settle(("BackupStore", world.namespace, "quiet"))
    assert requests() == []
    await ours.settle(key(world))
    await ended(world, ours)
    status, reads = "patch backupstores/status", "list pods"
    assert requests()[:4] == ["create jobs", status, reads, status]
    found = await world.get("BackupStore", "far")
    assert found
    assert [backup["location"] for backup in found["status"]["backups"]] == ["s3://vault/db/monday-1"]

    before = len(requests())
    later(ours, 86401)
    await ours.settle(key(world))
    await ended(world, ours)
    assert requests()[before:].count(status) == 0
    assert requests()[before:].count("create jobs") == requests()[before:].count("delete jobs") == 1
    assert await world.get("BackupStore", "far") == found


async def test_two_operators_make_one_listing(world: World, ours: Operator, rival: Operator):
    await make(world, "BackupStore", "far", {"s3": {"bucket": "vault"}, "discover": True})
    for one in (ours, rival):
        await one.look()
    for _ in range(3):
        await asyncio.gather(*(one.reconciler.reconcile(key(world)) for one in (ours, rival)))
    assert len(await running(world)) == 1


async def test_a_restore_by_name_goes_on_when_the_store_lists_it(world: World, ours: Operator):
    await world.ready_database()
    spec = {"databaseRef": {"name": "db"}, "backupRef": {"name": "monday"}, "storeRef": {"name": "far"}}
    made = await make(world, "Restore", "back", spec)
    await make(world, "BackupStore", "far", {"s3": {"bucket": "vault"}, "discover": True})
    await ours.look()
    ours.watch.lead()
    restore = "Restore", world.namespace, "back"
    await ours.settle(restore)
    await ours.settle(key(world))
    found = await world.get("Restore", "back")
    assert found
    assert found["status"]["conditions"][0]["reason"] == "BackupNotFound"
    while ours.queue:
        ours.queue.done(await ours.queue.get(), None)

    await ended(world, ours)
    woken = set()
    while ours.queue:
        woken.add(one := await ours.queue.get())
        ours.queue.done(one, None)
    assert restore in woken
    await ours.settle(restore)
    job = await world.get("Job", names.job_name("Restore", "back", made["metadata"]["uid"]))
    assert job
    assert job["metadata"]["annotations"][names.ANNOTATION_LOCATION] == "s3://vault/db/monday-1"
