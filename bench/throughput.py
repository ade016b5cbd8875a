"""How fast Backups pass through the operator: `just bench [COUNT]`.

One bare control plane (etcd and API server) on this machine; the Job controller and the kubelet are played here: each
Job gets a pod with a report, and is Complete, the moment it is seen. All Backups are applied at once. Nothing limits
how many run; to measure how they wait, set `MAX_RUNNING_JOBS`.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "operator"), str(ROOT / "operator/tests/apiserver")]

from apiserver_kit import Kubectl  # noqa: E402 - needs the path above
from lab import World, audited, operator, start_process  # noqa: E402

from e2e.cluster import apiserver  # noqa: E402
from postgres_operator import names  # noqa: E402

NAMESPACE = "bench"
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class Player:
    """Watches Jobs and Backups, ends every Job, and notes the times."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: dict[str, float] = {}  # Backup -> its Job was seen
        self.ended: dict[str, float] = {}  # Backup -> its Job was made Complete
        self.completed: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def watch(self, path: str, handle) -> None:  # noqa: ANN001 - a callback of one argument
        while True:  # the API server drops whoever reads too slowly
            await self._watch(path, handle)

    async def _watch(self, path: str, handle) -> None:  # noqa: ANN001
        client = self.world.cluster._client  # noqa: SLF001 - the same connection settings
        token = await client.configuration.get_api_key_with_prefix("BearerToken")
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client.rest_client.ssl_context)) as session,
            session.get(
                f"{client.configuration.host}{path}?watch=1",
                headers={"Authorization": token},
                timeout=aiohttp.ClientTimeout(total=None),
            ) as response,
        ):
            response.raise_for_status()
            async for line in response.content:
                handle(json.loads(line))

    def job(self, event: dict) -> None:
        job = event["object"]
        if job["metadata"]["labels"][names.LABEL_KIND] != "backup":
            return
        backup = job["metadata"]["ownerReferences"][0]["name"]
        if backup not in self.seen:
            self.seen[backup] = time.monotonic()
            task = asyncio.create_task(self._end(backup, job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _end(self, backup: str, job: dict) -> None:
        await self.world.finish(job)
        self.ended[backup] = time.monotonic()

    def backup(self, event: dict) -> None:
        found = event["object"]
        if found.get("status", {}).get("phase") == "Completed":
            self.completed.setdefault(found["metadata"]["name"], time.monotonic())


def percentiles(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=100)
    return f"{cuts[49]:.2f} / {cuts[98]:.2f} s"


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds so far, and resident memory in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure(kubeconfig: Path, audit: Path, count: int) -> None:
    kubectl = Kubectl(kubeconfig)
    kubectl("apply", "-k", str(ROOT / "config" / "crd")).must()
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all").must()
    kubectl("create", "namespace", NAMESPACE).must()
    async with operator(kubeconfig, agent="bench") as lab:
        world = World(lab.cluster, NAMESPACE)
        await world.claim()
        await world.vacant_lease()
        player = Player(world)
        prefix = "/apis/database.example.com/v1"
        limits = {"MAX_RUNNING_JOBS": "0", "MAX_RUNNING_JOBS_PER_DATABASE": "0"}
        settings = {name: os.environ.get(name, default) for name, default in limits.items()}
        settings |= {"WATCH_NAMESPACES": NAMESPACE, "LEASE_NAMESPACE": NAMESPACE, "LOG_LEVEL": "WARNING"}
        process = start_process(kubeconfig, **settings)
        await world.serve_database()
        watches = [
            asyncio.create_task(player.watch(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", player.job)),
            asyncio.create_task(player.watch(f"{prefix}/namespaces/{NAMESPACE}/backups", player.backup)),
        ]
        idle_cpu, idle_rss = usage(process.pid)
        begin = time.monotonic()
        created: dict[str, float] = {}

        async def create(name: str) -> None:
            await world.backup(name)
            created[name] = time.monotonic()

        await asyncio.gather(*(create(f"b-{n}") for n in range(count)))
        async with asyncio.timeout(300):
            while len(player.completed) < count:
                await asyncio.sleep(0.05)
        took = time.monotonic() - begin
        cpu, rss = usage(process.pid)
        process.terminate()
        process.communicate()
        for task in watches:
            task.cancel()
    requests = Counter(audited(audit, NAMESPACE))
    print(f"{count} Backups at once: {count / took:.0f}/s")
    print(f"dispatch p50/p99    {percentiles([player.seen[b] - created[b] for b in created])}")
    print(f"completion p50/p99  {percentiles([player.completed[b] - player.ended[b] for b in created])}")
    print(f"CPU per Backup      {(cpu - idle_cpu) / count * 1000:.1f} ms")
    print(f"resident memory     {idle_rss:.0f} -> {rss:.0f} MB")
    print(f"requests            {dict(sorted(requests.items()))}")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as directory:
        audit, policy = Path(directory) / "audit.log", Path(directory) / "policy.json"
        policy.write_text(json.dumps(POLICY))
        with apiserver.start(f"--audit-policy-file={policy}", f"--audit-log-path={audit}") as kubeconfig:
            asyncio.run(measure(kubeconfig, audit, count))


if __name__ == "__main__":
    main()
