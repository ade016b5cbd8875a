"""Replicas that could lead but for their clock or their rights; with real processes."""

import asyncio
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from apiserver_kit import Kubectl
from lab import LEASE
from proxy import Fault, Request, of_lease, to
from replicas import DURATION, LATE, RETRY_PERIOD, Replicas, soon

RBAC = Path(__file__).resolve().parents[3] / "config" / "rbac"
ACCOUNT = "system:serviceaccount:{}:postgres-operator-controller-manager"


@pytest.fixture(scope="session")
def wrong_clock() -> Path:
    """A library that moves a process's wall clock, and leaves its monotonic clock as it is."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "libfaketime is missing: run .ci/setup, or install the Debian package faketime"
    return found[0]


def lease_watch(request: Request) -> bool:
    return of_lease(request) and request.watches


async def test_clocks_that_are_an_hour_off_change_nothing(replicas: Replicas, wrong_clock: Path):
    def clock(offset: str) -> dict[str, str]:
        return {"LD_PRELOAD": str(wrong_clock), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    leader, *standbys = await replicas.line_up(ahead=clock("+1h"), behind=clock("-1h"))
    await leader.renews(4)
    assert not [standby.held for standby in standbys if standby.held]

    leader.send(signal.SIGKILL)
    await soon("one to take over", lambda: [standby for standby in standbys if standby.held])
    winner, other = sorted(standbys, key=lambda standby: not standby.held)
    assert DURATION <= winner.held[0].at - leader.held[-1].at < DURATION + LATE
    renewed = datetime.fromisoformat((await replicas.lease())["renewTime"])
    off = renewed - datetime.now(UTC)
    assert timedelta(minutes=59) < abs(off) < timedelta(minutes=61), "its clock was off indeed"
    await other.says(f"is held by {winner.name}_")
    await winner.renews(4)
    assert not other.held


async def test_a_standby_whose_watch_is_frozen_asks_before_it_takes_over(replicas: Replicas):
    leader, standby = await replicas.pair()
    await soon("the watch", lambda: standby.proxy.sent(lease_watch))
    renewed = leader.held[-1].at  # the last one that the standby sees
    standby.proxy.switch(Fault.FREEZE, lease_watch)
    begun = time.monotonic()

    def asked() -> list[Request]:
        return standby.proxy.sent(lambda request: of_lease(request) and not request.watches, since=begun)

    await soon("the standby to ask", asked)
    assert asked()[0].at - renewed > DURATION - 2 * RETRY_PERIOD, "it has let the Lease run out"
    await leader.renews(2)
    assert (await replicas.lease())["holderIdentity"].startswith("leader_")
    assert not standby.held


async def test_without_rights_on_leases_it_says_so_and_leads_once_it_has_them(replicas: Replicas, kubectl: Kubectl):
    namespace = replicas.world.namespace
    grant(kubectl, "role.yaml", namespace)
    replica = await (await replicas.add("only", ACCOUNT.format(namespace))).start()
    refused = await replica.says(f"cannot acquire the lease {namespace}/{LEASE} yet: GET")
    assert "leases.coordination.k8s.io" in replica.log
    await soon("a second try", lambda: len(replica.proxy.sent(of_lease, since=refused)) > 1)
    assert await replica.probe("/readyz") == (200, "ok\n")
    assert await replicas.world.get("Lease", LEASE) is None

    await asyncio.to_thread(grant, kubectl, "leader_election_role.yaml", namespace)
    await replica.leads()
    standby = await (await replicas.add("standby", ACCOUNT.format(namespace))).start()
    await standby.says("is held by only_")
    await replicas.world.backup("b")
    await soon("it to work", lambda: [r for r in replica.proxy.sent(to("PATCH", "backups/status")) if r.done])
    await replica.renews(2)
    requests = [r for one in (replica, standby) for r in one.proxy.sent(of_lease, since=replica.held[0].at)]
    assert {request.status for request in requests} <= {0, 200}, "the rights that it is given are enough"
    assert [request for request in standby.proxy.sent(of_lease) if request.watches]


def grant(kubectl: Kubectl, file: str, namespace: str) -> None:
    """Give the account of that name in this namespace what the file allows; a Role in this namespace."""
    role = yaml.safe_load((RBAC / file).read_text())
    binding = yaml.safe_load((RBAC / file.replace("role", "role_binding")).read_text())
    name = f"{role['metadata']['name']}-{namespace}"
    for body in (role, binding):
        body["metadata"]["name"] = name
        if "namespace" in body["metadata"]:
            body["metadata"]["namespace"] = namespace
    binding["roleRef"]["name"] = name
    binding["subjects"][0]["namespace"] = namespace
    kubectl("apply", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": [role, binding]}).must()
