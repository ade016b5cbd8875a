"""The operator's parts against a real API server; the test plays the Job controller and the kubelet."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from postgres_operator import names
from postgres_operator.cache import Cache, Key
from postgres_operator.cluster import Cluster, _path
from postgres_operator.decide.run import Policy
from postgres_operator.decide.slots import NO_LIMITS, Limits
from postgres_operator.freshness import Freshness
from postgres_operator.queue import WorkQueue
from postgres_operator.reconcile import Reconciler
from postgres_operator.render import Renderer
from postgres_operator.settings import Settings
from postgres_operator.watch import Watch

ROOT = Path(__file__).resolve().parents[3]
LEASE: str = Settings.model_fields["lease_name"].default
POLICY = Policy({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}, 3600)


class Operator:
    """One operator: its own connection, cache and queue. Nothing happens but by `settle`."""

    def __init__(self, cluster: Cluster, namespaces: list[str], limits: Limits = NO_LIMITS) -> None:
        self.cluster, self.namespaces = cluster, namespaces
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.cache = Cache()
        self.queue: WorkQueue[Key] = WorkQueue()
        self.watch = Watch(self.cache, self.queue, Freshness())
        renderer = Renderer(ROOT / "job_templates", 999, 999)
        self.reconciler = Reconciler(
            cluster,
            self.cache,
            self.watch.learned,
            renderer,
            POLICY,
            self.now,
            limits=limits,
            wake=self.queue.add,
        )
        self.watch.freed = self.reconciler.slots.wake

    def now(self) -> datetime:
        """What the clock says, which a test may have set."""
        return self.clock()

    async def look(self) -> None:
        """See everything that is there, as after a start."""
        await self.watch.prime(self.cluster, self.namespaces)

    async def take_over(self) -> None:
        """See everything that another one has done, as a standby that becomes the leader."""
        await self.watch.take_over(self.cluster, self.namespaces)

    async def settle(self, key: Key, steps: int = 10) -> None:
        """Reconcile the key until nothing is to be done now."""
        for _ in range(steps):
            before = self.cache.get(*key)
            after = await self.reconciler.reconcile(key)
            if after != 0 and self.cache.get(*key) is before:
                return
        raise AssertionError(f"{key} does not settle")

    async def work_off(self) -> None:
        """Work on all runs that are queued, as eight workers do; Databases are as the test has made them."""

        async def work() -> None:
            while self.queue:
                key = await self.queue.get()
                after = None if key[0] == "Database" else await self.reconciler.reconcile(key)
                self.queue.done(key, after)

        while self.queue:
            await asyncio.gather(*(work() for _ in range(min(8, len(self.queue)))))


@asynccontextmanager
async def operator(
    kubeconfig: Path, *namespaces: str, limits: Limits = NO_LIMITS, **options: Any
) -> AsyncIterator[Operator]:
    """One operator for these namespaces, or for all; options are those of its connection."""
    configuration = Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    cluster = Cluster(configuration, **options)
    try:
        yield Operator(cluster, list(namespaces), limits)
    finally:
        await cluster.close()


def variables(kubeconfig: Path, **environment: str) -> dict[str, str]:
    """What a process of the operator needs in its environment."""
    return {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(ROOT / "operator"),
        "JOB_TEMPLATES_DIR": str(ROOT / "job_templates"),
        "PROBE_PORT": "0",
        "LEASE_NAMESPACE": "default",
        **environment,
    }


def start_process(
    kubeconfig: Path, program: tuple[str, ...] = ("-m", "postgres_operator"), **environment: str
) -> "subprocess.Popen[str]":
    """The operator as a process of its own."""
    command = [sys.executable, *program]
    return subprocess.Popen(command, env=variables(kubeconfig, **environment), stderr=subprocess.PIPE, text=True)


class World:
    """What the Job controller, the kubelet and users do, over one connection."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    async def create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        body["metadata"].setdefault("namespace", self.namespace)
        return await self.cluster.create(kind, body)

    async def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return await self.cluster.get(kind, self.namespace, name)

    async def delete(self, kind: str, name: str) -> None:
        """As kubectl does; nobody is here to collect what a foreground deletion waits for."""
        path = _path(kind, self.namespace, name)
        await self.cluster._request("DELETE", path, {"propagationPolicy": "Background"})

    async def vacant_lease(self, name: str = LEASE, transitions: int = 0) -> None:
        """Nobody holds it. Without any, who comes first waits for as long as a deleted one may be held."""
        spec = {"holderIdentity": "", "leaseTransitions": transitions}
        await self.create(
            "Lease",
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec},
        )

    async def jobs(self) -> list[dict[str, Any]]:
        return await self.cluster.list("Job", self.namespace)

    async def ready_database(self, name: str = "db") -> None:
        body = {"apiVersion": names.API_VERSION, "kind": "Database", "metadata": {"name": name}, "spec": {}}
        made = await self.create("Database", body)
        await self.cluster.set_status("Database", made, {"phase": "Ready", "ready": True, "serverVersion": "17.6"})

    async def serve_database(self, name: str = "db") -> None:
        """Play the StatefulSet controller and the verification for an operator that runs."""
        body = {"apiVersion": names.API_VERSION, "kind": "Database", "metadata": {"name": name}, "spec": {}}
        await self.create("Database", body)
        server = await self._appears("StatefulSet", name)
        counts = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, "observedGeneration": 1}
        await self.cluster.set_status("StatefulSet", server, {**counts, "currentRevision": "r", "updateRevision": "r"})
        async with asyncio.timeout(30):
            while not (jobs := await self.jobs()):
                await asyncio.sleep(0.1)
        await self.end(jobs[0], {"serverVersion": "17.6"})

    async def _appears(self, kind: str, name: str) -> dict[str, Any]:
        async with asyncio.timeout(30):
            while not (found := await self.get(kind, name)):
                await asyncio.sleep(0.1)
        return found

    async def claim(self, name: str = "backups") -> None:
        body = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name},
            "spec": POLICY.claim_spec,
        }
        await self.create("PersistentVolumeClaim", body)

    async def backup(self, name: str, database: str = "db") -> dict[str, Any]:
        spec = {"databaseRef": {"name": database}}
        body = {"apiVersion": names.API_VERSION, "kind": "Backup", "metadata": {"name": name}, "spec": spec}
        return await self.create("Backup", body)

    async def completed_backup(self, name: str) -> None:
        made = await self.backup(name)
        location = names.location(names.volume("backups"), names.artifact_path("db", name, made["metadata"]["uid"]))
        status = {"phase": "Completed", "backupLocation": location, "checksum": f"sha256:{'ab' * 32}"}
        await self.cluster.set_status("Backup", made, status)

    async def restore(self, name: str, backup: str) -> dict[str, Any]:
        spec = {"databaseRef": {"name": "db"}, "backupRef": {"name": backup}, "mode": "Replace"}
        body = {"apiVersion": names.API_VERSION, "kind": "Restore", "metadata": {"name": name}, "spec": spec}
        return await self.create("Restore", body)

    async def finish(self, job: dict[str, Any], **manifest: Any) -> None:
        """The Job's pod has made a backup."""
        result = {
            "schema": 1,
            "location": job["metadata"]["annotations"][names.ANNOTATION_PATH],
            "file": "dump.pgdump",
            "format": "custom",
            "sizeBytes": 4096,
            "sha256": "ab" * 32,
            "serverVersion": "17.6",
            "toolVersion": "17.6",
            "backupTime": "2026-03-01T11:59:00Z",
            "source": {},
            **manifest,
        }
        await self.end(job, result)

    async def end(self, job: dict[str, Any], result: dict[str, Any]) -> None:
        """The Job's pod has reported this; the Job is Complete."""
        await self.pod(job, json.dumps({"result": result}))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        done = [{"type": t, "status": "True", "lastTransitionTime": now} for t in ("SuccessCriteriaMet", "Complete")]
        status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": done}
        await self.cluster.set_status("Job", await self.fresh(job), status)

    async def pod(self, job: dict[str, Any], message: str) -> None:
        name = f"{job['metadata']['name']}-x"
        labels = {
            **job["spec"]["template"]["metadata"]["labels"],
            "batch.kubernetes.io/job-name": job["metadata"]["name"],
        }
        container = {"name": "dump", "image": "postgres:17"}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [container], "restartPolicy": "Never"},
        }
        made = await self.create("Pod", body)
        ended = {"exitCode": 0, "message": message, "startedAt": None, "finishedAt": None}
        state = {"name": "dump", "image": "postgres:17", "imageID": "", "ready": False, "restartCount": 0}
        status = {"phase": "Succeeded", "containerStatuses": [{**state, "state": {"terminated": ended}}]}
        await self.cluster.set_status("Pod", made, status)

    async def fresh(self, body: dict[str, Any]) -> dict[str, Any]:
        found = await self.get("Job", body["metadata"]["name"])
        assert found
        return found


def audited(path: Path, namespace: str) -> Iterator[str]:
    """The operator's requests about a namespace, as `verb resource[/subresource]`."""
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        about = entry.get("objectRef", {})
        if entry.get("userAgent", "").split(" (")[0] == names.OPERATOR and about.get("namespace") == namespace:
            parts = [about["resource"], about.get("subresource")]
            yield f"{entry['verb']} {'/'.join(p for p in parts if p)}"
