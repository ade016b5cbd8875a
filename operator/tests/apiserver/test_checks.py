"""Checks of an external server against a real API server: one a period, whoever decides, and no write for nothing."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lab import Operator, World, audited

from postgres_operator import names
from postgres_operator.watch import MANAGED_KINDS, OWN_KINDS

EXTERNAL = {"host": "pg.example.com", "sslMode": "require", "credentialsSecretRef": {"name": "login"}}
REPORT = {"serverVersion": "17.6", "toolVersion": "17.6"}
LOOKS = {f"list {kind.lower()}s" for kind in (*OWN_KINDS, *MANAGED_KINDS)}


def key(world: World) -> tuple[str, str, str]:
    return "Database", world.namespace, "db"


async def made(world: World, *operators: Operator) -> None:
    body = {"apiVersion": names.API_VERSION, "kind": "Database", "metadata": {"name": "db"}}
    await world.create("Database", {**body, "spec": {"external": EXTERNAL}})
    for one in operators:
        await one.look()


async def ended(world: World, *operators: Operator) -> dict[str, Any]:
    """The check that runs has passed, and all have seen what came of it."""
    (job,) = await running(world)
    await world.end(job, REPORT)
    for one in operators:
        for seen in await world.jobs():
            one.watch.seen("Job", seen)
        await one.settle(key(world))
    # The next one is known to be newer by its time of creation, which has whole seconds.
    created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    async with asyncio.timeout(10):
        while datetime.now(UTC) - created < timedelta(seconds=1):
            await asyncio.sleep(0.05)
    return job


async def running(world: World) -> list[dict[str, Any]]:
    return [job for job in await world.jobs() if not job.get("status", {}).get("conditions")]


def later(one: Operator, seconds: float) -> None:
    one.clock = lambda: datetime.now(UTC) + timedelta(seconds=seconds)


async def test_while_all_stays_well_no_status_is_written(world: World, ours: Operator, audit_log: Path):
    def requests() -> list[str]:
        return [r for r in audited(audit_log, world.namespace) if r not in LOOKS]

    await made(world, ours)
    await ours.settle(key(world))
    first = await ended(world, ours)
    found = await world.get("Database", "db")
    assert found
    assert (found["status"]["phase"], found["status"]["toolVersion"]) == ("Ready", "17.6")
    status, reads = "patch databases/status", "list pods"
    assert requests()[:6] == [status, "create jobs", status, reads, status, "create events"]

    before = len(requests())
    later(ours, 200)
    assert 90 < (await ours.reconciler.reconcile(key(world)) or 0) <= 100
    assert requests()[before:] == [reads]
    later(ours, 300)
    await ours.settle(key(world))
    assert requests()[before + 1 :] == [reads, "create jobs"]
    second = await ended(world, ours)
    assert second["metadata"]["name"] != first["metadata"]["name"]
    assert requests()[before + 3 :] == [reads, "delete jobs"]
    assert (await world.get("Database", "db"))["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]


async def test_two_operators_make_one_check_a_period(world: World, ours: Operator, rival: Operator):
    async def reconcile(seconds: float) -> None:
        for one in (ours, rival):
            later(one, seconds)
        await asyncio.gather(*(one.reconciler.reconcile(key(world)) for one in (ours, rival)))

    await made(world, ours, rival)
    await reconcile(0)  # Pending
    names_seen = set()
    for number, due in enumerate((0, 300, 300)):
        await reconcile(due)
        for _ in range(3):
            await reconcile(0)
        assert len(await running(world)) == 1, f"check {number}"
        job = await ended(world, ours, rival)
        names_seen.add(job["metadata"]["name"])
    assert len(names_seen) == 3
