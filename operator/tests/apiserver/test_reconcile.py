"""Decisions carried out against a real API server: what is written, how often, and what a rival cannot spoil."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path

import pytest
from apiserver_kit import Kubectl
from lab import Operator, World, audited, start_process

from e2e.cluster import apiserver
from postgres_operator.cluster import RESOURCES
from postgres_operator.errors import ApiError, Conflict, Invalid
from postgres_operator.names import job_name
from postgres_operator.watch import MANAGED_KINDS, OWN_KINDS

PRIMED = [RESOURCES[kind].plural for kind in (*OWN_KINDS, *MANAGED_KINDS)]


def key(world: World, name: str = "b") -> tuple[str, str, str]:
    return "Backup", world.namespace, name


async def phase(world: World, name: str = "b") -> str | None:
    found = await world.get("Backup", name)
    return found and found.get("status", {}).get("phase")


async def started(world: World, one: Operator) -> dict:
    """A Backup whose Job is there; returns the Job."""
    await world.ready_database()
    await world.claim()
    await world.backup("b")
    await one.look()
    await one.settle(key(world))
    (job,) = await world.jobs()
    return job


async def test_three_writes_one_read_one_event(world: World, ours: Operator, audit_log: Path):
    job = await started(world, ours)
    assert await phase(world) == "InProgress"
    await world.finish(job)
    ours.watch.seen("Job", await world.fresh(job))
    await ours.settle(key(world))
    assert await phase(world) == "Completed"
    # Reading the claim is shared by all Backups of a minute, and the first look by all that there is.
    shared = {"get persistentvolumeclaims", *(f"list {plural}" for plural in PRIMED)}
    mine = [r for r in audited(audit_log, world.namespace) if r not in shared]
    assert mine == ["create jobs", "patch backups/status", "list pods", "patch backups/status", "create events"]


async def test_a_second_look_at_a_finished_backup_writes_nothing(world: World, ours: Operator, audit_log: Path):
    job = await started(world, ours)
    await world.finish(job)
    ours.watch.seen("Job", await world.fresh(job))
    await ours.settle(key(world))
    before = len(list(audited(audit_log, world.namespace)))
    assert await ours.reconciler.reconcile(key(world)) is None
    assert len(list(audited(audit_log, world.namespace))) == before


async def test_two_operators_make_one_job(world: World, ours: Operator, rival: Operator):
    """Rule 2: whoever is second adopts what the first has made."""
    await world.ready_database()
    await world.claim()
    await world.backup("b")
    await ours.look()
    await rival.look()
    await asyncio.gather(*(one.reconciler.reconcile(key(world)) for one in (ours, rival)))
    assert len(await world.jobs()) == 1
    assert await phase(world) == "InProgress"
    for one in (ours, rival):
        await one.settle(key(world))
    assert len(await world.jobs()) == 1


async def test_runs_that_exclude_each_other_do_so_also_when_they_start_together(world: World, ours: Operator):
    """Rule 14: while the Job of one is being created, nothing of it is in the cache yet."""
    await world.ready_database()
    await world.claim()
    await world.completed_backup("old")
    for name in ("r1", "r2"):
        await world.restore(name, "old")
    await world.backup("b")
    await ours.look()
    keys = [("Restore", world.namespace, "r1"), ("Restore", world.namespace, "r2"), key(world)]
    uid = (await world.get("Database", "db"))["metadata"]["uid"]
    # All know the claim, so that all come to their decision in the same turn of the loop.
    await ours.reconciler._claims.get(world.namespace, "backups", uid, ours.now())
    await asyncio.gather(*(ours.reconciler.reconcile(k) for k in keys))
    (job,) = await world.jobs()
    owner = job["metadata"]["ownerReferences"][0]
    assert owner["kind"] == "Restore"
    for kind, _, name in keys:
        found = await world.get(kind, name)
        reason = found["status"]["conditions"][0]["reason"]
        assert reason == ("Running" if name == owner["name"] else "WaitingForSlot")


async def test_a_creation_without_an_answer_keeps_others_out(world: World, ours: Operator, monkeypatch):
    """The API server made the Job, but the answer was lost: nobody may think that the Database is free."""
    await world.ready_database()
    await world.claim()
    await world.completed_backup("old")
    for name in ("r1", "r2"):
        await world.restore(name, "old")
    await ours.look()
    create = ours.cluster.create

    async def lost(kind, body):
        made = await create(kind, body)
        if kind == "Job":
            raise ApiError("POST …: TimeoutError")
        return made

    monkeypatch.setattr(ours.cluster, "create", lost)
    first, second = (("Restore", world.namespace, name) for name in ("r1", "r2"))
    with pytest.raises(ApiError):
        await ours.reconciler.reconcile(first)
    await ours.reconciler.reconcile(second)
    waiting = await world.get("Restore", "r2")
    assert waiting["status"]["conditions"][0]["reason"] == "WaitingForSlot"
    monkeypatch.undo()
    await ours.settle(first)
    found = await world.get("Restore", "r1")
    assert found["status"]["phase"] == "InProgress"
    assert len(await world.jobs()) == 1


async def test_a_job_without_a_status_is_taken_up(world: World, ours: Operator, rival: Operator):
    """The operator stopped between the Job and the status."""
    job = await started(world, ours)
    made = await world.get("Backup", "b")
    await world.cluster.set_status("Backup", made, {})
    await rival.look()
    await rival.settle(key(world))
    found = await world.get("Backup", "b")
    assert found["status"]["phase"] == "InProgress"
    assert found["status"]["jobRef"]["name"] == job["metadata"]["name"]
    assert len(await world.jobs()) == 1


async def test_a_stale_write_is_refused_and_decided_again(world: World, ours: Operator, rival: Operator):
    """Rule 3: the rival still believes in the object as it was before."""
    await world.ready_database()
    await world.claim()
    await world.backup("b")
    await rival.look()
    await ours.look()
    await ours.settle(key(world))
    (job,) = await world.jobs()
    await world.finish(job)
    ours.watch.seen("Job", await world.fresh(job))
    await ours.settle(key(world))
    done = await world.get("Backup", "b")
    await rival.settle(key(world))  # would write InProgress
    assert await world.get("Backup", "b") == done


async def test_a_terminal_phase_cannot_be_undone_even_with_the_newest_version(world: World, ours: Operator):
    job = await started(world, ours)
    await world.finish(job)
    ours.watch.seen("Job", await world.fresh(job))
    await ours.settle(key(world))
    done = await world.get("Backup", "b")
    with pytest.raises(Invalid):
        await world.cluster.set_status("Backup", done, {"phase": "InProgress"})
    with pytest.raises((Invalid, Conflict)):
        await world.cluster.set_status("Backup", done, {"phase": "Failed"})


async def test_a_job_of_somebody_else_is_not_adopted(world: World, ours: Operator):
    await world.ready_database()
    await world.claim()
    made = await world.backup("b")
    name = job_name("Backup", "b", made["metadata"]["uid"])
    template = {"spec": {"containers": [{"name": "x", "image": "x"}], "restartPolicy": "Never"}}
    foreign = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}
    await world.create("Job", foreign)
    await ours.look()
    await ours.settle(key(world))
    found = await world.get("Backup", "b")
    assert (found["status"]["phase"], found["status"]["error"]["reason"]) == ("Failed", "JobNameTaken")


async def forbid_jobs(world: World, kubectl: Kubectl) -> str:
    """An admission policy for the namespace that denies Jobs, in the way that is the default; returns its name."""
    name = f"no-jobs-in-{world.namespace}"
    kind, version = "ValidatingAdmissionPolicy", "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"], "operations": ["CREATE"]}
    where = {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}
    matched = {"resourceRules": [rule], "namespaceSelector": where}
    policy = {"matchConstraints": matched, "validations": [{"expression": "false", "message": "no Jobs here"}]}
    binding = {"policyName": name, "validationActions": ["Deny"]}
    for suffix, spec in (("", policy), ("Binding", binding)):
        body = {"apiVersion": version, "kind": f"{kind}{suffix}", "metadata": {"name": name}, "spec": spec}
        kubectl("create", "-f", "-", stdin=body).must()
    template = {"spec": {"containers": [{"name": "x", "image": "x"}], "restartPolicy": "Never"}}
    probe = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}}
    probe["metadata"] = {"name": "probe", "namespace": world.namespace}
    async with asyncio.timeout(30):
        while True:
            try:
                await world.cluster.create("Job", probe, dry_run=True)
            except ApiError as error:
                assert "no Jobs here" in str(error)  # noqa: PT017 - any other refusal is an error of this test
                return name
            await asyncio.sleep(0.1)


async def test_a_job_that_an_admission_policy_denies_is_tried_again(world: World, ours: Operator, kubectl: Kubectl):
    name = await forbid_jobs(world, kubectl)
    await world.ready_database()
    await world.claim()
    await world.backup("b")
    await ours.look()
    await ours.settle(key(world))
    status = (await world.get("Backup", "b"))["status"]
    assert (status["phase"], status["conditions"][0]["reason"]) == ("Pending", "RequestRefused")
    assert "no Jobs here" in status["conditions"][0]["message"]
    kubectl("delete", f"ValidatingAdmissionPolicyBinding/{name}", f"ValidatingAdmissionPolicy/{name}").must()
    async with asyncio.timeout(30):
        while await phase(world) != "InProgress":
            await ours.settle(key(world))
            await asyncio.sleep(0.1)


async def test_a_job_that_only_the_cache_has_lost_is_not_lost(world: World, ours: Operator):
    """Rule 9: `Failed` takes a live read."""
    job = await started(world, ours)
    ours.cache.remove("Job", job)
    await ours.settle(key(world))
    assert await phase(world) == "InProgress"


async def test_an_object_deleted_while_it_is_decided_on(world: World, ours: Operator):
    await world.ready_database()
    await world.claim()
    await world.backup("b")
    await ours.look()
    await world.delete("Backup", "b")
    await ours.reconciler.reconcile(key(world))
    assert await world.get("Backup", "b") is None
    assert ours.cache.get(*key(world)) is None


async def test_a_relist_finds_what_the_watches_lost(world: World, ours: Operator):
    """Rule 1: created, changed and deleted without an event."""
    await world.ready_database()
    await ours.take_over()
    kept, _ = await world.backup("kept"), await world.backup("gone")
    await ours.watch.relist(ours.cluster, ours.namespaces)
    assert ours.cache.get(*key(world, "kept"))
    while ours.queue:
        ours.queue.done(await ours.queue.get())
    await world.cluster.set_status("Backup", kept, {"phase": "Pending"})
    await world.delete("Backup", "gone")
    await ours.watch.relist(ours.cluster, ours.namespaces)
    assert ours.cache.get(*key(world, "kept"))["status"]["phase"] == "Pending"
    assert ours.cache.get(*key(world, "gone")) is None
    queued = {await ours.queue.get() for _ in range(len(ours.queue))}
    assert {key(world, "kept"), key(world, "gone")} <= queued


def test_missing_crds_end_the_process_with_a_clear_message():
    with apiserver.start() as kubeconfig:
        process = start_process(kubeconfig)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "apply config/crd first" in text


def test_wrong_settings_end_the_process_with_a_clear_message(tmp_path: Path):
    process = start_process(tmp_path / "none", WORKERS="many")
    _, text = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "workers" in text


async def test_a_process_works_and_ends_at_a_signal(world: World, kubeconfig: Path):
    """Everything together, watches too."""
    await world.claim()
    await world.vacant_lease()
    process = start_process(
        kubeconfig, WATCH_NAMESPACES=world.namespace, LEASE_NAMESPACE=world.namespace, LOG_FORMAT="json"
    )
    try:
        await world.serve_database()
        made = await world.backup("b")
        async with asyncio.timeout(60):
            while not (job := await world.get("Job", job_name("Backup", "b", made["metadata"]["uid"]))):
                await asyncio.sleep(0.1)
            await world.finish(job)
            while await phase(world) != "Completed":
                await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, text = process.communicate(timeout=15)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 0, text
    lines = [json.loads(line) for line in text.splitlines()]
    about = [line["message"] for line in lines if line.get("object") == f"Backup {world.namespace}/b"]
    assert [m for m in about if m.startswith("STATE TRANSITION: InProgress -> Completed")]
    assert isinstance(process, subprocess.Popen)
