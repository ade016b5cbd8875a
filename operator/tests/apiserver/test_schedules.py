"""ScheduledBackups against a real API server: a slot has one Backup, whoever leads."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lab import Operator, World, audited

from postgres_operator import names
from postgres_operator.errors import ApiError, Forbidden, Invalid

NAME = "often"
BASE = datetime.now(UTC).replace(second=30, microsecond=0) + timedelta(hours=2)


def key(world: World) -> tuple[str, str, str]:
    return "ScheduledBackup", world.namespace, NAME


def soon(minutes: int) -> datetime:
    """That minute of a time to come, later than whatever the tests create."""
    return BASE + timedelta(minutes=minutes)


def at(time: datetime, *operators: Operator) -> None:
    for one in operators:
        one.clock = lambda: time


def slot(time: datetime) -> str:
    return names.scheduled_backup(NAME, time)


async def schedule(world: World, **spec: Any) -> dict[str, Any]:
    wanted = {"schedule": "* * * * *", "template": {"spec": {"databaseRef": {"name": "db"}}}, **spec}
    body = {"apiVersion": names.API_VERSION, "kind": "ScheduledBackup", "metadata": {"name": NAME}, "spec": wanted}
    return await world.create("ScheduledBackup", body)


async def backups(world: World) -> list[str]:
    return sorted(b["metadata"]["name"] for b in await world.cluster.list("Backup", world.namespace))


async def status(world: World) -> dict[str, Any]:
    found = await world.get("ScheduledBackup", NAME)
    assert found
    return found["status"]


async def end(world: World, name: str, phase: str) -> None:
    body = await world.get("Backup", name)
    assert body
    await world.cluster.set_status("Backup", body, {"phase": phase, "completionTime": "2026-03-01T03:05:00Z"})


async def test_two_operators_make_one_backup_for_a_slot(world: World, ours: Operator, rival: Operator):
    made = await schedule(world, concurrencyPolicy="Allow")
    await ours.look()
    await rival.look()
    for minute in (2, 3, 4):
        at(soon(minute), ours, rival)
        await asyncio.gather(*(one.reconciler.reconcile(key(world)) for one in (ours, rival)))
        for one in (ours, rival):
            await one.settle(key(world))
    assert await backups(world) == [slot(soon(minute)) for minute in (2, 3, 4)]
    body = await world.get("Backup", slot(soon(2)))
    assert body["metadata"]["labels"][names.LABEL_SCHEDULE_UID] == made["metadata"]["uid"]
    assert "ownerReferences" not in body["metadata"]
    assert (await status(world))["active"] == await backups(world)


async def test_a_slot_costs_two_writes_and_no_read(world: World, ours: Operator, audit_log: Path):
    await schedule(world)
    await ours.look()
    at(soon(2), ours)
    before = len(list(audited(audit_log, world.namespace)))
    await ours.settle(key(world))
    assert list(audited(audit_log, world.namespace))[before:] == ["create backups", "patch scheduledbackups/status"]
    assert 0 < await ours.reconciler.reconcile(key(world)) <= 60
    assert len(list(audited(audit_log, world.namespace))) == before + 2


async def test_a_backup_whose_status_write_was_lost_is_not_made_again(world: World, ours: Operator, monkeypatch):
    await schedule(world)
    await ours.look()
    at(soon(2), ours)

    async def lost(*_):
        raise ApiError("PATCH …: TimeoutError")

    monkeypatch.setattr(ours.cluster, "set_status", lost)
    with pytest.raises(ApiError):
        await ours.reconciler.reconcile(key(world))
    monkeypatch.undo()
    assert await backups(world) == [slot(soon(2))]
    await ours.settle(key(world))
    assert await backups(world) == [slot(soon(2))]
    assert (await status(world))["active"] == [slot(soon(2))]


async def test_an_answer_that_was_lost_makes_no_second_backup(world: World, ours: Operator, monkeypatch):
    await schedule(world)
    await ours.look()
    at(soon(2), ours)
    create = ours.cluster.create

    async def lost(kind, body):
        await create(kind, body)
        raise ApiError("POST …: TimeoutError")

    monkeypatch.setattr(ours.cluster, "create", lost)
    with pytest.raises(ApiError):
        await ours.reconciler.reconcile(key(world))
    monkeypatch.undo()
    await ours.settle(key(world))
    assert await backups(world) == [slot(soon(2))]
    assert (await status(world))["active"] == [slot(soon(2))]


async def test_a_new_leader_runs_no_deleted_backup_again(world: World, ours: Operator, rival: Operator):
    await schedule(world)
    await ours.look()
    at(soon(2), ours, rival)
    await ours.settle(key(world))
    await world.delete("Backup", slot(soon(2)))
    await rival.take_over()
    await rival.settle(key(world))
    assert await backups(world) == []
    assert (await status(world))["active"] == []


async def test_a_foreign_backup_of_that_name_is_told_and_left_alone(world: World, ours: Operator):
    await schedule(world)
    foreign = await world.backup(slot(soon(2)))
    await ours.look()
    at(soon(2), ours)
    await ours.settle(key(world))
    found = await status(world)
    assert found["conditions"][0]["reason"] == "BackupNameTaken"
    assert slot(soon(2)) in found["conditions"][0]["message"]
    assert "lastScheduleTime" not in found
    assert (await world.get("Backup", slot(soon(2))))["metadata"] == foreign["metadata"]
    at(soon(3), ours)
    await ours.settle(key(world))
    assert slot(soon(3)) in await backups(world)
    assert (await status(world))["conditions"][0]["reason"] == "Scheduled"
    events = await world.cluster.list("Event", world.namespace)
    assert [e["reason"] for e in events] == ["BackupNameTaken"]


async def test_a_refused_backup_is_told_and_tried_again(world: World, ours: Operator):
    template = {"metadata": {"annotations": {"no key": ""}}, "spec": {"databaseRef": {"name": "db"}}}
    await schedule(world, template=template)
    await ours.look()
    at(soon(2), ours)
    await ours.settle(key(world))
    found = await world.get("ScheduledBackup", NAME)
    assert found["status"]["conditions"][0]["reason"] == "RequestRefused"
    assert "no key" in found["status"]["conditions"][0]["message"]
    assert await backups(world) == []
    del found["spec"]["template"]["metadata"]
    ours.watch.seen("ScheduledBackup", await world.cluster.replace("ScheduledBackup", found))
    await ours.settle(key(world))
    assert await backups(world) == [slot(soon(2))]
    assert (await status(world))["conditions"][0]["reason"] == "Scheduled"


async def test_replace_deletes_what_runs_and_nothing_that_has_changed(world: World, ours: Operator):
    await schedule(world, concurrencyPolicy="Replace")
    await ours.look()
    at(soon(2), ours)
    await ours.settle(key(world))
    await end(world, slot(soon(2)), "Completed")  # which the operator has not seen yet
    at(soon(3), ours)
    await ours.reconciler.reconcile(key(world))
    assert await backups(world) == [slot(soon(2))]
    await ours.take_over()
    await ours.settle(key(world))
    assert await backups(world) == [slot(soon(2)), slot(soon(3))]
    at(soon(4), ours)
    await ours.reconciler.reconcile(key(world))
    # nobody is here to collect what a foreground deletion waits for
    going = await world.get("Backup", slot(soon(3)))
    assert going["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert slot(soon(4)) not in await backups(world)


async def test_what_failed_long_ago_is_deleted_and_what_completed_is_kept(world: World, ours: Operator):
    await schedule(world, concurrencyPolicy="Allow", failedBackupsHistoryLimit=1)
    await ours.look()
    for minute, phase in ((2, "Completed"), (3, "Failed"), (4, "Failed"), (5, "Completed")):
        at(soon(minute), ours)
        await ours.settle(key(world))
        await end(world, slot(soon(minute)), phase)
        await ours.take_over()
    await ours.settle(key(world))
    for name in await backups(world):
        body = await world.get("Backup", name)
        assert ("deletionTimestamp" in body["metadata"]) is (name == slot(soon(3)))
    assert (await status(world))["lastSuccessfulTime"] == "2026-03-01T03:05:00Z"


@pytest.mark.parametrize("error", [Forbidden, Invalid])
async def test_a_backup_that_may_not_be_deleted_hinders_nothing(world: World, ours: Operator, monkeypatch, error):
    await schedule(world, failedBackupsHistoryLimit=1)
    await ours.look()

    async def refused(*_):
        raise error("DELETE …: ValidatingAdmissionPolicy 'keep' with binding 'keep' denied request")

    monkeypatch.setattr(ours.cluster, "delete", refused)
    for minute in (2, 3, 4):
        at(soon(minute), ours)
        await ours.settle(key(world))
        await end(world, slot(soon(minute)), "Failed")
        await ours.take_over()
    await ours.settle(key(world))
    assert (await status(world))["conditions"][0]["reason"] == "Scheduled"
    assert await world.cluster.list("Event", world.namespace) == []
    assert await backups(world) == [slot(soon(minute)) for minute in (2, 3, 4)]


async def test_a_deleted_schedule_leaves_its_backups(world: World, ours: Operator):
    await schedule(world)
    await ours.look()
    at(soon(2), ours)
    await ours.settle(key(world))
    await world.delete("ScheduledBackup", NAME)
    await ours.take_over()
    at(soon(4), ours)
    assert await ours.reconciler.reconcile(key(world)) is None
    assert await backups(world) == [slot(soon(2))]
