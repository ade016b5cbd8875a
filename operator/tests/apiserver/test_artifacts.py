"""Backups whose artifacts go with them, against a real API server; the test plays the controllers."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lab import Operator, World, audited

from postgres_operator import names
from postgres_operator.cluster import _path
from postgres_operator.errors import Forbidden, Invalid

NAME = "nightly"


def key(world: World, name: str = NAME) -> tuple[str, str, str]:
    return "Backup", world.namespace, name


async def backup(world: World, policy: str = "Delete", name: str = NAME, **meta: Any) -> dict[str, Any]:
    spec = {"databaseRef": {"name": "db"}, "deletionPolicy": policy}
    metadata = {"name": name, **meta}
    return await world.create(
        "Backup", {"apiVersion": names.API_VERSION, "kind": "Backup", "metadata": metadata, "spec": spec}
    )


async def complete(world: World, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    path = names.artifact_path("db", body["metadata"]["name"], body["metadata"]["uid"])
    location = names.location(names.volume("backups"), path)
    status = {"phase": "Completed", "backupLocation": location, "checksum": f"sha256:{'ab' * 32}", **more}
    return await world.cluster.set_status("Backup", body, status)


async def finalizers(world: World, name: str = NAME) -> list[str] | None:
    """None where the Backup is gone."""
    found = await world.get("Backup", name)
    return found["metadata"].get("finalizers", []) if found else None


async def see(world: World, ours: Operator, kind: str, name: str) -> None:
    """The watch shows an object."""
    body = await world.get(kind, name)
    assert body
    ours.watch.seen(kind, body)


async def change_policy(world: World, policy: str, name: str = NAME) -> None:
    path = _path("Backup", world.namespace, name)
    await world.cluster._request("PATCH", path, {"spec": {"deletionPolicy": policy}}, "application/merge-patch+json")


async def doomed(world: World, ours: Operator) -> dict[str, Any]:
    """A Backup that is Completed and was deleted; its claim is there."""
    await world.claim()
    made = await backup(world, finalizers=["example.com/mine", names.FINALIZER])
    await complete(world, made)
    await world.delete("Backup", NAME)
    await ours.look()
    return made


async def fail(world: World, ours: Operator) -> None:
    """A Job could not delete the artifact, and is gone."""
    told = {"type": "Deleted", "status": "False", "reason": "DeletionFailed", "message": "Read-only."}
    told["lastTransitionTime"] = "2026-03-01T11:59:00Z"
    body = await world.get("Backup", NAME)
    assert body
    await world.cluster.set_status("Backup", body, {**body["status"], "conditions": [told]})
    await see(world, ours, "Backup", NAME)


async def test_it_is_held_before_its_job_is_there(world: World, ours: Operator, audit_log: Path):
    await world.ready_database()
    await world.claim()
    await backup(world)
    await ours.look()
    await ours.settle(key(world))
    writes = [r for r in audited(audit_log, world.namespace) if not r.startswith(("get", "list"))]
    assert writes == ["patch backups", "create jobs", "patch backups/status"]
    assert await finalizers(world) == [names.FINALIZER]


async def test_the_policy_of_a_finished_backup_comes_and_goes(world: World, ours: Operator):
    await complete(world, await backup(world, "Retain", finalizers=["example.com/mine"]))
    await ours.look()
    await ours.settle(key(world))
    for policy, expected in (("Delete", ["example.com/mine", names.FINALIZER]), ("Retain", ["example.com/mine"])):
        await change_policy(world, policy)
        await see(world, ours, "Backup", NAME)
        await ours.settle(key(world))
        assert await finalizers(world) == expected


async def running(world: World, ours: Operator) -> dict[str, Any]:
    """The Job of a Backup whose policy has changed since it was created."""
    await world.ready_database()
    await world.claim()
    await backup(world, "Retain")
    await ours.look()
    await ours.settle(key(world))
    await change_policy(world, "Delete")
    await see(world, ours, "Backup", NAME)
    (job,) = await world.jobs()
    return job


async def test_a_policy_that_changes_while_the_job_runs_counts_at_once(world: World, ours: Operator):
    await running(world, ours)
    await ours.settle(key(world))
    assert await finalizers(world) == [names.FINALIZER]
    assert (await world.get("Backup", NAME))["status"]["phase"] == "InProgress"


@pytest.mark.parametrize("error", [Forbidden, Invalid])
async def test_a_finalizer_that_is_refused_does_not_keep_the_end_of_the_job_from_being_seen(
    world: World, ours: Operator, monkeypatch, error
):
    job = await running(world, ours)

    async def refused(*_):
        raise error("PATCH …: not you")

    monkeypatch.setattr(ours.cluster, "patch", refused)
    await ours.settle(key(world))
    found = (await world.get("Backup", NAME))["status"]
    assert (found["phase"], found["conditions"][0]["reason"]) == ("InProgress", "Running")
    await world.finish(job)
    await see(world, ours, "Job", job["metadata"]["name"])
    await ours.settle(key(world))
    found = (await world.get("Backup", NAME))["status"]
    assert found["phase"] == "Completed"
    assert {c["type"]: c["reason"] for c in found["conditions"]} == {
        "Deleted": "RequestRefused",
        "Complete": "Completed",
    }
    monkeypatch.undo()
    await ours.settle(key(world))
    assert await finalizers(world) == [names.FINALIZER]


async def test_a_job_deletes_the_artifact_and_then_the_backup_goes(world: World, ours: Operator, audit_log: Path):
    made = await doomed(world, ours)
    before = len(list(audited(audit_log, world.namespace)))
    await ours.settle(key(world))
    (job,) = await world.jobs()
    assert job["metadata"]["labels"][names.LABEL_KIND] == "deletion"
    status = (await world.get("Backup", NAME))["status"]
    assert (status["phase"], status["conditions"][0]["reason"]) == ("Completed", "Deleting")
    assert await finalizers(world) == ["example.com/mine", names.FINALIZER]
    await world.end(job, {})
    await see(world, ours, "Job", job["metadata"]["name"])
    await ours.settle(key(world))
    assert await finalizers(world) == ["example.com/mine"]
    cost = list(audited(audit_log, world.namespace))[before:]
    assert [r for r in cost if not r.startswith(("get", "list"))] == [
        "patch backups/status",
        "create jobs",
        "patch backups",
    ]
    assert made["metadata"]["uid"] == job["metadata"]["ownerReferences"][0]["uid"]


@pytest.mark.parametrize("failed_before", [False, True])
async def test_what_is_to_stay_after_all_is_not_deleted_by_who_has_not_seen_it(
    world: World, ours: Operator, failed_before: bool
):
    await doomed(world, ours)
    if failed_before:
        await fail(world, ours)
    await change_policy(world, "Retain")
    await ours.settle(key(world))
    assert await world.jobs() == []
    assert await finalizers(world) == ["example.com/mine"]


async def test_a_failure_is_shown_while_it_is_tried_again(world: World, ours: Operator):
    await doomed(world, ours)
    await fail(world, ours)
    await ours.settle(key(world))
    assert len(await world.jobs()) == 1
    assert (await world.get("Backup", NAME))["status"]["conditions"][0]["reason"] == "DeletionFailed"


async def test_without_another_finalizer_the_backup_is_gone(world: World, ours: Operator):
    made = await backup(world, finalizers=[names.FINALIZER])  # no Job was ever there
    await world.delete("Backup", NAME)
    await ours.look()
    await ours.settle(key(world))
    assert await finalizers(world) is None
    assert ours.cache.get(*key(world)) is None
    assert made


async def test_a_new_leader_goes_on_and_an_interrupted_one_makes_no_second_job(
    world: World, ours: Operator, rival: Operator
):
    await doomed(world, ours)
    await ours.settle(key(world))
    await rival.look()
    await rival.take_over()
    assert key(world) in [await rival.queue.get() for _ in range(len(rival.queue))]
    (job,) = await world.jobs()
    await world.end(job, {})
    await rival.take_over()
    await rival.settle(key(world))
    assert await finalizers(world) == ["example.com/mine"]


async def test_what_still_writes_is_ended_first(world: World, ours: Operator):
    await world.ready_database()
    await world.claim()
    await backup(world)
    await ours.look()
    await ours.settle(key(world))
    (job,) = await world.jobs()
    await world.pod(job, "")
    await world.delete("Backup", NAME)
    await see(world, ours, "Backup", NAME)
    await ours.reconciler.reconcile(key(world))
    held = await world.fresh(job)
    assert held["metadata"]["finalizers"][-1] == "foregroundDeletion"
    assert [j["metadata"]["labels"][names.LABEL_KIND] for j in await world.jobs()] == ["backup"]


async def test_a_restore_from_it_goes_first_and_no_other_one_starts(world: World, ours: Operator):
    await world.ready_database()
    await doomed(world, ours)
    running = await world.restore("undo", NAME)
    await world.cluster.set_status("Restore", running, {"phase": "InProgress", "jobRef": {"name": "x"}})
    await world.restore("late", NAME)
    await ours.look()
    await ours.settle(key(world))
    condition = (await world.get("Backup", NAME))["status"]["conditions"][0]
    assert (condition["reason"], '"undo"' in condition["message"]) == ("BackupInUse", True)
    await ours.settle(("Restore", world.namespace, "late"))
    assert (await world.get("Restore", "late"))["status"]["conditions"][0]["reason"] == "BackupNotFound"
    assert await world.jobs() == []
    # its end wakes the Backup
    ended = await world.get("Restore", "undo")
    ended = await world.cluster.set_status("Restore", ended, {"phase": "Failed"})
    assert key(world) in set(ours.watch.affected("Restore", ended))
    ours.watch.seen("Restore", ended)
    await ours.settle(key(world))
    assert len(await world.jobs()) == 1


async def test_a_terminating_namespace_is_not_held_up(world: World, ours: Operator):
    await doomed(world, ours)
    await world.cluster._request("DELETE", f"/api/v1/namespaces/{world.namespace}")
    await ours.settle(key(world))
    assert await finalizers(world) == ["example.com/mine"]


async def test_a_terminating_namespace_without_its_store_is_not_held_up(world: World, ours: Operator):
    path = "db/nightly-x"
    made = await backup(world, finalizers=["example.com/mine", names.FINALIZER])
    await complete(world, made, backupLocation=f"s3://bucket/{path}")
    await world.delete("Backup", NAME)
    await ours.look()
    await ours.settle(key(world))
    assert (await world.get("Backup", NAME))["status"]["conditions"][0]["reason"] == "StoreNotFound"
    assert [e["reason"] for e in await world.cluster.list("Event", world.namespace)] == ["StoreNotFound"]
    await world.cluster._request("DELETE", f"/api/v1/namespaces/{world.namespace}")
    await ours.settle(key(world))
    assert await finalizers(world) == ["example.com/mine"]


async def test_retention_takes_the_oldest_and_waits_for_its_end(world: World, ours: Operator):
    template = {"spec": {"databaseRef": {"name": "db"}}}
    spec = {"schedule": "0 3 * * *", "retention": {"keepLast": 1}, "template": template}
    body = {"apiVersion": names.API_VERSION, "kind": "ScheduledBackup", "metadata": {"name": "often"}, "spec": spec}
    made = await world.create("ScheduledBackup", body)
    start, slots = datetime(2026, 3, 1, 3, tzinfo=UTC), []
    for day in range(3):
        slot = start + timedelta(days=day)
        text = slot.strftime("%Y-%m-%dT%H:%M:%SZ")
        slots.append(names.scheduled_backup("often", slot))
        labels = {names.LABEL_SCHEDULE: "often", names.LABEL_SCHEDULE_UID: made["metadata"]["uid"]}
        one = await backup(world, "Retain", slots[-1], labels=labels, annotations={names.ANNOTATION_SLOT: text})
        await complete(world, one, backupTime=text, completionTime=text)
    schedule = ("ScheduledBackup", world.namespace, "often")
    await ours.look()
    await ours.settle(schedule)
    first = await world.get("Backup", slots[0])
    assert first["spec"]["deletionPolicy"] == "Delete"
    assert names.FINALIZER in first["metadata"]["finalizers"]
    assert "deletionTimestamp" in first["metadata"]
    ours.watch.seen("Backup", first)
    await ours.settle(schedule)
    assert await finalizers(world, slots[1]) == await finalizers(world, slots[2]) == []
    said = (await world.get("ScheduledBackup", "often"))["status"]["conditions"]
    assert [c["reason"] for c in said] == ["Scheduled", "RetentionApplied"]
    ours.watch.seen("Backup", first, deleted=True)
    await ours.settle(schedule)
    assert "deletionTimestamp" in (await world.get("Backup", slots[1]))["metadata"]
    assert await finalizers(world, slots[2]) == []
