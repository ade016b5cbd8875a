"""Planned disruptions, as administrators make them: no Backup is lost, and two replicas stay available throughout."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from e2e import fleet, rounds
from e2e.cluster.configs import SYSTEM
from e2e.rounds import REPETITIONS, Figures, Rounds
from e2e.support import KubectlError, get, kubectl, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.audit import AuditLog

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120 + rounds.REPETITION_SECONDS * REPETITIONS)]
DEPLOYMENT = "postgres-operator-controller-manager"
KEPT = 2


def available() -> int:
    found = get("deployment", DEPLOYMENT, SYSTEM)
    return int(found["status"].get("availableReplicas", 0)) if found else 0


class Watcher:
    """Notes how few replicas were available at the worst moment."""

    def __init__(self) -> None:
        self.fewest = fleet.REPLICAS

    @contextmanager
    def watching(self) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                self.fewest = min(self.fewest, available())
                over.wait(0.2)

        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look)
            try:
                yield
            finally:
                over.set()
            looking.result()  # raises what has ended it too early


def evict(pod: str) -> None:
    """As `kubectl drain` does for each pod of a node."""
    eviction: dict[str, Any] = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": SYSTEM},
    }
    path = f"/api/v1/namespaces/{SYSTEM}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def names() -> list[str]:
    return [pod["metadata"]["name"] for pod in fleet.pods()]


def may_evict() -> bool:
    """Whether the PodDisruptionBudget allows one: its controller counts the available pods a little later."""
    budget = get("poddisruptionbudget", f"{DEPLOYMENT}-pdb", SYSTEM) or {}
    return bool(budget.get("status", {}).get("disruptionsAllowed", 0) >= 1)


def evict_when_allowed(pod: str) -> int:
    """Evict a pod as soon as the PodDisruptionBudget allows; how often it was refused before."""
    refused = 0

    def evicted() -> bool:
        nonlocal refused
        try:
            evict(pod)
        except KubectlError as error:
            if "disruption budget" not in str(error):
                raise AssertionError(f"{pod} was refused for another reason") from error
            refused += 1
            return False
        return True

    wait_for(evicted, 120, f"{pod} to be evicted", every=0.5)
    return refused


def test_a_second_eviction_is_refused(namespace: str, log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    """The leader is evicted; while its successor starts, nothing else may go."""
    backups, figures = Rounds(namespace, log), Figures()
    try:
        for _ in range(REPETITIONS):
            with backups.repetition(figures) as old:
                other = next(name for name in names() if name != old.pod)
                wait_for(may_evict, 60, "an eviction to be allowed")
                began = time.time()
                evict(old.pod)
                with pytest.raises(KubectlError, match="disruption budget"):
                    evict(other)
                backups.start(3)
                figures.add(from_eviction_to_the_first_write=backups.first_write(began, old.identity) - began)
                assert other in names()
    finally:
        figures.show(f"Leader evicted, {rounds.SIZE} Backups in flight", capsys)


@pytest.mark.parametrize("how", ["rollout restart", "eviction of all in turn"])
def test_all_replicas_are_replaced(how: str, namespace: str, log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    backups, figures, watcher = Rounds(namespace, log), Figures(), Watcher()
    try:
        for _ in range(REPETITIONS):
            with backups.repetition(figures), watcher.watching():
                before, began = set(names()), time.time()
                if how == "rollout restart":
                    kubectl("rollout", "restart", f"deployment/{DEPLOYMENT}", "-n", SYSTEM)
                    kubectl("rollout", "status", f"deployment/{DEPLOYMENT}", "-n", SYSTEM, "--timeout=120s")
                else:
                    for pod in sorted(before):
                        evict_when_allowed(pod)
                figures.add(replacement_of_all=time.time() - began)
                wait_for(lambda known=before: not known & set(names()), 30, "the old pods to go")
        assert watcher.fewest >= KEPT
    finally:
        figures.show(
            f"{how.capitalize()}, {rounds.SIZE} Backups in flight; {watcher.fewest} available at least", capsys
        )
