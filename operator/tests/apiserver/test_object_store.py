"""Backups that need no claim: what is asked of the API server, and what it is given."""

import asyncio
import signal
from pathlib import Path

from lab import Operator, World, audited, start_process

from postgres_operator import names
from postgres_operator.cluster import RESOURCES
from postgres_operator.watch import MANAGED_KINDS, OWN_KINDS

FILE = "dump-4b1c7a9e-0d5f-4a6e-9b57-1f0c3f6f2d11.pgdump"


async def store(world: World, name: str = "default", **s3: object) -> None:
    spec = {"s3": {"bucket": "vault", "prefix": "team", **s3}}
    body = {"apiVersion": names.API_VERSION, "kind": "BackupStore", "metadata": {"name": name}, "spec": spec}
    await world.create("BackupStore", body)


async def test_no_claim_is_read_or_made(world: World, ours: Operator, audit_log: Path):
    await store(world)
    await world.ready_database()
    made = await world.backup("b")
    await ours.look()
    await ours.settle(("Backup", world.namespace, "b"))
    (job,) = await world.jobs()
    await world.finish(job, file=FILE)
    ours.watch.seen("Job", await world.fresh(job))
    await ours.settle(("Backup", world.namespace, "b"))
    found = await world.get("Backup", "b")
    assert found["status"]["phase"] == "Completed"
    path = names.artifact_path("db", "b", made["metadata"]["uid"])
    assert found["status"]["backupLocation"] == f"s3://vault/team/{path}"
    first_look = {f"list {RESOURCES[kind].plural}" for kind in (*OWN_KINDS, *MANAGED_KINDS)}
    mine = [request for request in audited(audit_log, world.namespace) if request not in first_look]
    assert mine == ["create jobs", "patch backups/status", "list pods", "patch backups/status", "create events"]


async def test_settings_and_store_reach_the_pod(world: World, kubeconfig: Path):
    await store(world, serviceAccountName="writer", endpoint="https://s3.example.com")
    await world.vacant_lease()
    image = "registry.example.com/rclone:1.76.0"
    process = start_process(
        kubeconfig, WATCH_NAMESPACES=world.namespace, LEASE_NAMESPACE=world.namespace, UPLOADER_IMAGE=image
    )
    try:
        await world.serve_database()
        made = await world.backup("b")
        async with asyncio.timeout(60):
            while not (job := await world.get("Job", names.job_name("Backup", "b", made["metadata"]["uid"]))):
                await asyncio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    pod = job["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("writer", False)
    assert [c["image"] for c in pod["initContainers"] if c.get("restartPolicy") == "Always"] == [image]
