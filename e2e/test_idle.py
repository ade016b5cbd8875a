"""What the operator costs while nothing happens, by the API server's audit log and the kernel's accounts."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e import fleet
from postgres_operator.watch import MANAGED_KINDS, OWN_KINDS

if TYPE_CHECKING:
    from e2e.audit import AuditLog, Entry

SECONDS = int(os.environ.get("E2E_IDLE_SECONDS", "60"))
pytestmark = [pytest.mark.alone, pytest.mark.timeout(300 + SECONDS)]
# kopf's watch of each is begun again every five minutes, the standby's one of the Lease as well.
WATCHED_KINDS = len(OWN_KINDS) + len(MANAGED_KINDS)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def table(pods: dict[str, str], requests: dict[str, Counter[str]], cpu: dict[str, float], rss: dict[str, float]) -> str:
    lines = [f"\nIdle for {SECONDS} s{'requests/min':>40}{'CPU':>9}{'memory':>9}  which"]
    for pod, role in sorted(pods.items(), key=lambda item: item[1]):
        which = ", ".join(f"{count} {what}" for what, count in sorted(requests[pod].items())) or "none"
        per_minute = requests[pod].total() * 60 / SECONDS
        lines.append(f"  {role:<48}{per_minute:>6.1f}{cpu[pod]:>8.2f}%{rss[pod]:>6.0f} MB  {which}")
    return "\n".join(lines)


def kinds(entries: list[Entry]) -> dict[str, Counter[str]]:
    """Requests by the pod that made them, and by verb and resource."""
    found: dict[str, Counter[str]] = {}
    for entry in entries:
        found.setdefault(entry.pod, Counter())[f"{entry.verb} {entry.resource}"] += 1
    return found


@pytest.mark.usefixtures("operator")
def test_little_is_done_while_nothing_happens(log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.wait_fleet()
    leader = fleet.leader()
    pods = {p["metadata"]["name"]: fleet.process(p) for p in fleet.pods()}
    # What was there before, also namespaces of other tests that still go, comes to rest.
    rest = time.monotonic()
    while any(e.received > time.time() - 30 for e in log.writes()) or time.monotonic() < rest + 35:
        assert time.monotonic() < rest + 180, "the operator does not come to rest"
        time.sleep(1)
    before = {name: cpu_seconds(pid) for name, pid in pods.items()}
    began = time.time()
    while time.time() < began + SECONDS:
        time.sleep(1)
    cpu = {name: (cpu_seconds(pid) - before[name]) / (time.time() - began) * 100 for name, pid in pods.items()}
    requests = kinds([e for e in log.entries() if e.pod in pods and began <= e.received])
    roles = {name: "leader" if name == leader.pod else "standby" for name in pods}
    idle = {name: requests.get(name, Counter()) for name in pods}
    rss = {name: resident_megabytes(pid) for name, pid in pods.items()}
    with capsys.disabled():
        print(table(roles, idle, cpu, rss), flush=True)
    assert fleet.holder() == leader.identity
    for name, counted in idle.items():
        renewals = counted.pop("update leases", 0)
        assert renewals <= (SECONDS / 2 + 2 if name == leader.pod else 0)
        # Every five minutes: each watch is begun again, and the leader lists the metadata of each kind.
        refreshes = 1 + SECONDS // 300
        watches = sum(count for what, count in counted.items() if what.startswith("watch "))
        assert watches <= refreshes * (WATCHED_KINDS + 1)
        others = counted.total() - watches
        assert others <= refreshes * (WATCHED_KINDS if name == leader.pod else 1)
        assert cpu[name] < (1 if name != leader.pod else 3)
