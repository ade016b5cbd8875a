"""The replicas of the operator, and what can happen to them and to the API server on a local cluster.

Processes are found and stopped from outside the node: its process ids are those of a namespace below ours.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.audit import LEASE
from e2e.cluster.configs import NODE, SYSTEM
from e2e.cluster.local import Local
from e2e.support import delete, get, items, kubectl, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPLICAS = 3
# As the operator has them by default: seconds.
LEASE_DURATION, RENEW_DEADLINE = 15.0, 10.0


@dataclass(frozen=True)
class Replica:
    """One process of the operator; a restarted container is another one."""

    identity: str  # as in the Lease
    pod: str
    ip: str
    pid: int


def pods() -> list[dict[str, Any]]:
    """Those of the operator that are not being deleted."""
    found = items("pods", SYSTEM, "control-plane=controller-manager")
    return [p for p in found if "deletionTimestamp" not in p["metadata"]]


def holder() -> str:
    """Identity of who holds the Lease, whether it lives or not."""
    lease = get("lease", LEASE, SYSTEM) or {}
    return str(lease.get("spec", {}).get("holderIdentity", ""))


def leader_pod() -> str:
    """Name of the pod that holds the Lease, or did last."""
    return holder().partition("_")[0]


def leader() -> Replica:
    """Who holds the Lease, with its process."""
    identity = holder()
    name = identity.partition("_")[0]
    pod = next((p for p in pods() if p["metadata"]["name"] == name), None)
    assert pod, f"the Lease is held by {identity or 'nobody'}, which is no pod"
    return Replica(identity, name, pod["status"]["podIP"], process(pod))


def standbys() -> list[int]:
    """Processes of all but the leader."""
    name = leader_pod()
    return [process(p) for p in pods() if p["metadata"]["name"] != name]


def renew() -> None:
    """Replace pods whose container ended before: the kubelet starts it again later each time."""
    for pod in pods():
        if any(status["restartCount"] for status in pod["status"].get("containerStatuses", [])):
            delete("pod", pod["metadata"]["name"], SYSTEM, wait=False)


def wait_fleet(deadline: float = 120) -> None:
    """Wait until all replicas are ready, never restarted, and one of them leads."""

    def complete() -> bool:
        renew()
        found = pods()
        fresh = [p for p in found if _ready(p)]
        return len(found) == len(fresh) == REPLICAS and leader_pod() in {p["metadata"]["name"] for p in fresh}

    wait_for(complete, deadline, f"{REPLICAS} ready replicas with a leader", every=0.5)


def rolled_out() -> None:
    """Wait until a change of the Deployment is done: only new replicas are left, and one of them leads."""
    deployment = "deployment/postgres-operator-controller-manager"
    kubectl("rollout", "status", deployment, "-n", SYSTEM, "--timeout=120s", timeout=130)
    wait_fleet()


def _ready(pod: dict[str, Any]) -> bool:
    conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


# Processes


def _processes(wanted: Callable[[Path], bool]) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended while we looked
            if wanted(path):
                found.append(int(path.name))
    return found


def process(pod: dict[str, Any]) -> int:
    """The operator's process in a pod."""
    uid = pod["metadata"]["uid"]

    def inside(path: Path) -> bool:
        return uid in (path / "cgroup").read_text() and b"postgres_operator" in (path / "cmdline").read_bytes()

    found = _processes(inside)
    assert len(found) == 1, f"pod {pod['metadata']['name']} has the processes {found}"
    return found[0]


def api_server() -> int:
    """The process of the API server; 0 while there is none."""
    return _program("kube-apiserver")


def _program(name: str) -> int:
    """The process of a program of Kubernetes' own; 0 while there is none."""
    work = str(Local().work).encode()

    def is_it(path: Path) -> bool:
        words = (path / "cmdline").read_bytes().split(b"\0")
        return words[1:2] == [name.encode()] and any(work in word for word in words)

    return max(_processes(is_it), default=0)


def state(pid: int) -> str:
    """One letter as in ps (T: stopped); empty when the process has ended."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return "" if letter in "ZX" else letter


def wait_end(pid: int, deadline: float, what: str) -> float:
    """Wait until a process has ended, and return when that was, in seconds since the epoch."""
    wait_for(lambda: not state(pid), deadline, f"{what} to end", every=0.01)
    return time.time()


# What goes wrong; all of it is mended at the end


def kill(replica: Replica) -> None:
    os.kill(replica.pid, signal.SIGKILL)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing, and does not know it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def cut_off(replica: Replica) -> Iterator[None]:
    """No packet passes between a pod and the API server; the kubelet still reaches the pod."""
    # what is sent to the Service arrives here: the API server is a process of the node
    port = ["-p", "tcp", "-m", "tcp"]
    rules = [
        ["INPUT", "-s", replica.ip, *port, "--dport", "6443", "-j", "DROP"],
        ["OUTPUT", "-d", replica.ip, *port, "--sport", "6443", "-j", "DROP"],
    ]
    with ExitStack() as mend:
        for rule in rules:
            Local().enter("iptables", "-w", "-I", *rule)
            mend.callback(Local().enter, "iptables", "-w", "-D", *rule)
        yield


@contextmanager
def hung_api() -> Iterator[None]:
    """An API server that takes connections and never answers. Do not use kubectl meanwhile."""
    with stopped(api_server()):
        yield
    wait_api()


def restart_api() -> None:
    """Kill the API server, and wait until the node has started it again."""
    _restart("kube-apiserver")
    wait_api()


def restart_kubelet() -> None:
    """Kill the kubelet, and wait until the node has started it again and it answers."""
    _restart("kubelet")
    healthz = f"/api/v1/nodes/{NODE}/proxy/healthz"
    wait_for(lambda: kubectl("get", "--raw", healthz) == "ok", 60, "the kubelet", every=0.1)


def _restart(program: str) -> None:
    before = _program(program)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: _program(program) not in (0, before), 30, f"{program} to be started again", every=0.05)


def wait_api() -> None:
    wait_for(lambda: kubectl("get", "--raw", "/readyz", timeout=60) == "ok", 60, "the API server")
