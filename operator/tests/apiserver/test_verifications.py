"""A verification follows a finished Backup, against a real API server."""

import asyncio
from pathlib import Path

import pytest
from lab import Operator, World, audited

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.render import Renderer

NUMBERS = {"tables": 3, "rows": 12, "indexes": 2, "constraints": 1, "views": 0, "serverVersion": "17.6"}


@pytest.fixture
async def finished(world: World) -> tuple[str, str, str]:
    """The key of a Backup that is Completed and wants to be verified."""
    await world.ready_database()
    await world.claim()
    spec = {"databaseRef": {"name": "db"}, "verification": {"mode": "Restore"}}
    body = {"apiVersion": names.API_VERSION, "kind": "Backup", "metadata": {"name": "b"}, "spec": spec}
    made = await world.create("Backup", body)
    location = names.location(names.volume("backups"), names.artifact_path("db", "b", made["metadata"]["uid"]))
    done = {"type": "Complete", "status": "True", "reason": "Completed", "message": "m"}
    status = {
        "phase": "Completed",
        "completionTime": "2026-03-01T12:00:00Z",
        "backupLocation": location,
        "sizeBytes": 4096,
        "checksum": f"sha256:{'ab' * 32}",
        "conditions": [{**done, "lastTransitionTime": "2026-03-01T12:00:00Z"}],
    }
    await world.cluster.set_status("Backup", made, status)
    return "Backup", world.namespace, "b"


async def verified(world: World) -> tuple[str, str]:
    found = await world.get("Backup", "b")
    assert found
    conditions = {c.type: c for c in Backup.model_validate(found).status.conditions}
    assert conditions["Complete"].status == "True"
    assert found["status"]["phase"] == "Completed"
    return conditions["Verified"].status, conditions["Verified"].reason


async def test_it_costs_three_writes_one_read_and_one_event(world, ours: Operator, finished, audit_log: Path):
    await ours.look()
    before = len(list(audited(audit_log, world.namespace)))
    await ours.settle(finished)
    (job,) = await world.jobs()
    assert job["metadata"]["name"].startswith("verification-b-")
    assert await verified(world) == ("Unknown", "Running")
    await world.end(job, NUMBERS)
    ours.watch.seen("Job", await world.fresh(job))
    await ours.settle(finished)
    assert await verified(world) == ("True", "BackupVerified")
    assert await ours.reconciler.reconcile(finished) is None, "nothing is left to do"
    mine = list(audited(audit_log, world.namespace))[before:]
    assert [r for r in mine if not r.endswith("persistentvolumeclaims")] == [
        "create jobs",
        "patch backups/status",
        "list pods",
        "patch backups/status",
        "create events",
    ]


async def test_two_leaders_make_one_job(world, ours: Operator, rival: Operator, finished):
    for one in (ours, rival):
        await one.look()
    await asyncio.gather(ours.settle(finished), rival.settle(finished))
    assert len(await world.jobs()) == 1
    assert await verified(world) == ("Unknown", "Running")


async def test_a_template_that_does_not_render_ends_it(world, ours: Operator, finished, tmp_path: Path):
    ours.reconciler._actor._renderer = Renderer(tmp_path, 999, 999)
    await ours.look()
    await ours.settle(finished)
    assert await verified(world) == ("Unknown", "VerificationIncomplete")
    assert await world.jobs() == []
