"""No more Jobs than may run, in the order of creation, whoever leads; against a real API server."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from lab import Operator, World, audited, operator, start_process

from postgres_operator.decide.slots import Limits
from postgres_operator.names import GROUP

LIMIT, COUNT = 3, 20
NAMES = [f"b-{n:02}" for n in range(COUNT)]
WITHOUT_RELISTS = """
import sys
from postgres_operator import __main__, watch
watch._FIRST_RELIST_SECONDS = 300
sys.exit(__main__.main())
"""


async def unfinished(world: World) -> dict[str, dict]:
    """Jobs that have not ended, by the name of their Backup."""
    jobs = [job for job in await world.jobs() if job["metadata"]["labels"][f"{GROUP}/kind"] == "backup"]
    return {j["metadata"]["ownerReferences"][0]["name"]: j for j in jobs if not j["status"].get("conditions")}


async def statuses(world: World) -> dict[str, dict]:
    return {b["metadata"]["name"]: b.get("status", {}) for b in await world.cluster.list("Backup", world.namespace)}


async def reasons(world: World) -> list[str]:
    return [c["reason"] for status in (await statuses(world)).values() for c in status.get("conditions", [])]


def writes(audit_log: Path, world: World) -> Counter:
    return Counter(r for r in audited(audit_log, world.namespace) if r.split()[0] in ("create", "patch", "delete"))


async def end_one(world: World, one: Operator, name: str) -> None:
    job = (await unfinished(world))[name]
    await world.finish(job)
    one.watch.seen("Job", await world.fresh(job))


@pytest.fixture
async def waiting(world: World, kubeconfig: Path):
    """An operator with a limit, and more Backups than that."""
    await world.ready_database()
    await world.claim()
    for name in NAMES:
        await world.backup(name)
    async with operator(kubeconfig, world.namespace, limits=Limits(LIMIT)) as one:
        await one.take_over()
        one.queue.add(("Backup", world.namespace, NAMES[-1]))
        await one.work_off()
        yield one


async def test_the_first_run_and_the_rest_waits_and_says_so(world: World, waiting: Operator, audit_log: Path):
    assert sorted(await unfinished(world)) == NAMES[:LIMIT]
    found = await statuses(world)
    for name in NAMES[LIMIT:]:
        assert found[name]["phase"] == "Pending"
        (condition,) = found[name]["conditions"]
        assert condition["reason"] == "WaitingForSlot"
        assert condition["message"].startswith("At most 3 Jobs run at a time in all (MAX_RUNNING_JOBS).")
    assert waiting.reconciler.slots.waiting == COUNT - LIMIT
    assert writes(audit_log, world) == {"create jobs": LIMIT, "patch backups/status": COUNT}


async def test_each_end_starts_one_and_costs_nothing_else(world: World, waiting: Operator, audit_log: Path):
    for done in range(5):
        before = writes(audit_log, world)
        await end_one(world, waiting, NAMES[done])
        looked_at = []
        reconcile = waiting.reconciler.reconcile

        async def counted(key, looked_at=looked_at, reconcile=reconcile):
            looked_at.append(key[2])
            return await reconcile(key)

        waiting.reconciler.reconcile = counted  # type: ignore[method-assign]
        await waiting.work_off()
        waiting.reconciler.reconcile = reconcile  # type: ignore[method-assign]
        assert set(looked_at) == {NAMES[done], NAMES[done + LIMIT]}, "nobody else is woken"
        assert sorted(await unfinished(world)) == NAMES[done + 1 : done + 1 + LIMIT]
        # The one that ended: its status and its Event. The next: its Job and its status.
        cost = {"patch backups/status": 2, "create events": 1, "create jobs": 1}
        assert writes(audit_log, world) - before == cost


async def test_another_leader_keeps_the_limit_the_order_and_what_is_written(
    world: World, waiting: Operator, kubeconfig: Path, audit_log: Path
):
    before = writes(audit_log, world)
    async with operator(kubeconfig, world.namespace, limits=Limits(LIMIT)) as rival:
        await rival.take_over()
        await rival.work_off()
        assert sorted(await unfinished(world)) == NAMES[:LIMIT]
        assert writes(audit_log, world) == before, "all that it says was said"
        assert rival.reconciler.slots.waiting == waiting.reconciler.slots.waiting
        await end_one(world, rival, NAMES[1])
        await rival.work_off()
        assert sorted(await unfinished(world)) == [NAMES[0], NAMES[2], NAMES[3]]


@pytest.mark.usefixtures("waiting")
async def test_a_limit_that_is_lowered_waits_until_few_enough_run(world: World, kubeconfig: Path):
    async with operator(kubeconfig, world.namespace, limits=Limits(1)) as rival:
        await rival.take_over()
        await rival.work_off()
        for done in range(LIMIT):
            assert sorted(await unfinished(world)) == NAMES[done:LIMIT]
            await end_one(world, rival, NAMES[done])
            await rival.work_off()
        assert sorted(await unfinished(world)) == [NAMES[LIMIT]]


async def test_a_database_that_vanishes_keeps_no_slot(world: World, waiting: Operator):
    """The next in the queue can do nothing with its slot: it goes to the one behind."""
    await world.ready_database("other")
    made = await world.backup("z", "other")
    waiting.watch.seen("Database", await world.get("Database", "other") or {})
    waiting.watch.seen("Backup", made)
    await waiting.work_off()
    gone = await world.get("Database", "db") or {}
    waiting.cache.remove("Database", gone)
    await end_one(world, waiting, NAMES[0])
    await waiting.work_off()
    assert sorted(await unfinished(world)) == [NAMES[1], NAMES[2], "z"]
    found = await statuses(world)
    assert {found[n]["conditions"][0]["reason"] for n in NAMES[LIMIT:]} == {"DatabaseNotFound"}


async def test_a_process_with_a_limit_runs_them_all_in_order(world: World, kubeconfig: Path):
    """Everything together, watches too; a second process goes on where the first one was stopped."""
    await world.claim()
    await world.vacant_lease()
    environment = {"WATCH_NAMESPACES": world.namespace, "LEASE_NAMESPACE": world.namespace, "MAX_RUNNING_JOBS": "3"}
    process = start_process(kubeconfig, **environment)
    try:
        await world.serve_database()
        for name in NAMES:
            await world.backup(name)
        async with asyncio.timeout(90):
            while Counter(await reasons(world)) != {"Running": LIMIT, "WaitingForSlot": COUNT - LIMIT}:
                await asyncio.sleep(0.1)
            # Whoever was there when the slots were free; from now on it goes in order.
            seen = set(await unfinished(world))
            ahead = [name for name in NAMES if name not in seen]
            while ahead:
                running = await unfinished(world)
                assert len(running) <= LIMIT
                for name in sorted(running.keys() - seen):
                    assert name == ahead.pop(0)
                    seen.add(name)
                if len(running) == LIMIT:
                    await world.finish(running[min(running)])
                    if len(seen) == COUNT // 2:
                        process.terminate()
                        await asyncio.to_thread(process.communicate)
                        process = start_process(kubeconfig, **environment)
                await asyncio.sleep(0.05)
            for job in (await unfinished(world)).values():
                await world.finish(job)
            while {s.get("phase") for s in (await statuses(world)).values()} != {"Completed"}:
                await asyncio.sleep(0.1)
    finally:
        process.kill()
        process.communicate()


async def test_a_slot_is_free_when_a_job_is_over_whose_backup_was_deleted_and_left_it(world: World, kubeconfig: Path):
    """As by `kubectl delete --cascade=orphan`; no key is that of the Job then, and no relist finds it."""
    await world.claim()
    await world.vacant_lease()
    environment = {"WATCH_NAMESPACES": world.namespace, "LEASE_NAMESPACE": world.namespace, "MAX_RUNNING_JOBS": "1"}
    process = start_process(kubeconfig, ("-c", WITHOUT_RELISTS), **environment)
    try:
        await world.serve_database()
        async with asyncio.timeout(60):
            await world.backup("left")
            while not (running := await unfinished(world)):
                await asyncio.sleep(0.1)
            await world.backup("waits")
            while "WaitingForSlot" not in await reasons(world):
                await asyncio.sleep(0.1)
            job = await world.fresh(running["left"])
            job["metadata"]["ownerReferences"] = []
            await world.cluster.replace("Job", job)
            await world.delete("Backup", "left")
            await asyncio.sleep(1)
            assert "WaitingForSlot" in await reasons(world), "it dumps on"
            await world.finish(job)
        async with asyncio.timeout(30):
            while await reasons(world) != ["Running"]:
                await asyncio.sleep(0.1)
    finally:
        process.kill()
        process.communicate()
