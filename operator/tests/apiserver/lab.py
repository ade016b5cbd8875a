"""The operator's parts against a real API server; the test plays the Job controller and the kubelet."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from postgres_operator import names
from postgres_operator.cache import Cache, Key
from postgres_operator.cluster import Cluster, _path
from postgres_operator.decide.backup import Policy
from postgres_operator.queue import WorkQueue
from postgres_operator.reconcile import Reconciler
from postgres_operator.render import Renderer
from postgres_operator.watch import Watch

ROOT = Path(__file__).resolve().parents[3]
POLICY = Policy({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}, 3600)


class Operator:
    """One operator: its own connection, cache and queue. Nothing happens but by `settle`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.cache = Cache()
        self.queue: WorkQueue[Key] = WorkQueue()
        self.watch = Watch(self.cache, self.queue)
        renderer = Renderer(ROOT / "job_templates", 999, 999)
        self.reconciler = Reconciler(cluster, self.cache, self.watch.seen, renderer, POLICY)

    async def look(self) -> None:
        """See everything that is there, as after a start."""
        await self.watch.prime(self.cluster, [])

    async def settle(self, key: Key, steps: int = 10) -> None:
        """Reconcile the key until nothing is to be done now."""
        for _ in range(steps):
            before = self.cache.get(*key)
            after = await self.reconciler.reconcile(key)
            if after != 0 and self.cache.get(*key) is before:
                return
        raise AssertionError(f"{key} does not settle")


@asynccontextmanager
async def operator(kubeconfig: Path) -> AsyncIterator[Operator]:
    configuration = Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    cluster = Cluster(configuration)
    try:
        yield Operator(cluster)
    finally:
        await cluster.close()


def start_process(kubeconfig: Path, **environment: str) -> "subprocess.Popen[str]":
    """The operator as a process of its own."""
    variables = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "PYTHONPATH": str(ROOT / "operator"),
        "JOB_TEMPLATES_DIR": str(ROOT / "job_templates"),
        "PROBE_PORT": "0",
        **environment,
    }
    command = [sys.executable, "-m", "postgres_operator"]
    return subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True)


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
        location = names.pvc_location("backups", names.artifact_path("db", name, made["metadata"]["uid"]))
        status = {"phase": "Completed", "backupLocation": location, "checksum": f"sha256:{'ab' * 32}"}
        await self.cluster.set_status("Backup", made, status)

    async def restore(self, name: str, backup: str) -> dict[str, Any]:
        spec = {"databaseRef": {"name": "db"}, "backupRef": {"name": backup}, "mode": "Replace"}
        body = {"apiVersion": names.API_VERSION, "kind": "Restore", "metadata": {"name": name}, "spec": spec}
        return await self.create("Restore", body)

    async def finish(self, job: dict[str, Any], **manifest: Any) -> None:
        """The Job's pod has made a backup."""
        location = job["metadata"]["annotations"][names.ANNOTATION_LOCATION]
        result = {
            "schema": 1,
            "location": location.split("/", 3)[3],
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
        if entry["userAgent"] == names.OPERATOR and about.get("namespace") == namespace:
            parts = [about["resource"], about.get("subresource")]
            yield f"{entry['verb']} {'/'.join(p for p in parts if p)}"
