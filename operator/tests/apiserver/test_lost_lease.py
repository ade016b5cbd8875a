"""A leader that cannot keep its Lease is gone before anybody else can have it; with real processes."""

import asyncio
import signal
import time

from lab import LEASE, World
from proxy import Fault, Match, anything, of_lease
from replicas import DURATION, LATE, RENEW_DEADLINE, Replica, Replicas, soon

# Half a second for what the proxy and the process take.
END = RENEW_DEADLINE + 0.5


async def write_lease(world: World, **changes) -> None:
    """As kubectl does, whoever else writes."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/leases/{LEASE}"
    await world.cluster._request("PATCH", path, changes, "application/merge-patch+json")


async def loses(replica: Replica, fault: Fault, match: Match) -> None:
    replica.proxy.switch(fault, match)
    code, ended = await replica.ends(20)
    # An answer that was lost renewed the Lease, but the leader cannot know.
    known = [r for r in replica.held if r not in replica.proxy.caught]
    assert code == 1, replica.log
    assert "Leadership lost: not renewed for 2 s" in replica.log
    assert 1 < ended - known[-1].at < END


async def test_a_leader_that_cannot_renew_ends_before_its_lease_does(replicas: Replicas):
    """The API server hangs, for it or for its Lease only; or it answers, but the answers are lost."""
    cases = {
        "hangs": (Fault.SWALLOW, anything),
        "lease": (Fault.SWALLOW, of_lease),
        "lost": (Fault.DROP, of_lease),
    }
    for name in cases:
        await replicas.world.vacant_lease(name)
    started = [await (await replicas.add(name)).start(LEASE_NAME=name) for name in cases]
    for replica in started:
        await replica.leads()
    async with asyncio.TaskGroup() as group:
        for replica in started:
            group.create_task(loses(replica, *cases[replica.name]))


async def test_a_renewal_counts_from_when_it_was_sent(replicas: Replicas):
    leader = await replicas.leader()
    slow = leader.proxy.switch(Fault.HOLD, of_lease, times=1)
    leader.proxy.switch(Fault.SWALLOW, of_lease)  # all that come after it
    renewal = await slow.catches()
    await soon("the answer to be late", lambda: time.monotonic() > renewal.at + 0.8)
    slow.off()
    code, ended = await leader.ends(10)
    assert code == 1
    assert renewal.done
    assert ended - renewal.at < END


async def test_a_leader_that_stood_still_for_too_long_writes_nothing_more(replicas: Replicas):
    leader, standby = await replicas.pair()
    leader.send(signal.SIGSTOP)
    await standby.leads()
    await replicas.world.backup("b")  # the old leader will know of it: its watch has it
    await soon("the new leader to work", lambda: standby.proxy.sent(lambda r: r.writes and not of_lease(r)))
    goes_on = leader.send(signal.SIGCONT)
    code, ended = await leader.ends(5)
    # Both are its end: it writes down what its threads were at, and that may crash it.
    assert code in (1, -signal.SIGSEGV)
    assert ended - goes_on < 1
    late = leader.proxy.sent(lambda request: request.writes, since=goes_on)
    assert not [request for request in late if request.done or not of_lease(request)], "one try to renew is refused"
    assert standby.held[0].at - leader.held[-1].at >= DURATION


async def test_a_leader_ends_at_once_when_its_lease_is_given_to_somebody_else(replicas: Replicas):
    leader = await replicas.leader()
    before = time.monotonic()
    await write_lease(replicas.world, spec={"holderIdentity": "somebody"})
    code, ended = await leader.ends(5)
    assert code == 1
    assert ended - before < 1.5, "not only at the deadline"
    assert f"Leadership lost: somebody holds the lease {replicas.world.namespace}/{LEASE}" in leader.log
    assert (await replicas.lease())["holderIdentity"] == "somebody"


async def test_a_leader_goes_on_when_its_lease_is_labelled_and_keeps_the_label(replicas: Replicas):
    leader = await replicas.leader()
    await write_lease(replicas.world, metadata={"labels": {"seen-by": "somebody"}})
    await leader.renews(3)
    found = await replicas.world.get("Lease", LEASE)
    assert found["metadata"]["labels"] == {"seen-by": "somebody"}
    assert found["spec"]["leaseTransitions"] == 1
    assert leader.log.count("is the leader now") == 1


async def test_while_a_lease_is_deleted_there_are_never_two_leaders(replicas: Replicas):
    leader, standby = await replicas.pair()
    await replicas.world.delete("Lease", LEASE)
    await leader.renews(2)
    assert (await replicas.lease())["holderIdentity"].startswith("leader_"), "it has made a new one"

    leader.proxy.switch(Fault.SWALLOW, of_lease)
    await replicas.world.delete("Lease", LEASE)
    code, ended = await leader.ends(5)
    assert code == 1
    await standby.leads()
    assert standby.held[0].at > ended
    assert DURATION <= standby.held[0].at - leader.held[-1].at < DURATION + LATE


async def test_who_comes_just_after_the_lease_was_deleted_leaves_it_to_the_leader(replicas: Replicas):
    leader, late = await replicas.leader(), await replicas.add("late")
    asks = late.proxy.switch(Fault.HOLD, of_lease)
    await late.start()
    await asks.catches()
    await replicas.world.delete("Lease", LEASE)
    asks.off()
    await late.says("is held by leader_")
    await leader.renews(2)
    assert (await replicas.lease())["holderIdentity"].startswith("leader_")
    assert not late.held
