"""Who leads, with real processes: one at a time, and the next one as soon as it is safe."""

import signal
import time

import pytest
from lab import LEASE
from proxy import Fault, Request, anything, of_lease, to
from replicas import DURATION, LATE, Replica, Replicas, holder, soon


async def is_leader(replica: Replica) -> bool:
    _, metrics = await replica.probe("/metrics")
    return "postgres_operator_is_leader 1.0" in metrics


async def phase(replicas: Replicas) -> str | None:
    found = await replicas.world.get("Backup", "b")
    return found and found.get("status", {}).get("phase")


async def test_the_first_one_leads_and_the_second_one_is_ready_and_only_watches(replicas: Replicas):
    leader, standby = await replicas.pair()
    await replicas.world.backup("b")
    await soon("the leader to work", lambda: leader.proxy.sent(to("PATCH", "backups/status")))
    begun = time.monotonic()
    await leader.renews(4)

    assert not standby.proxy.sent(anything, since=begun), "what it watches comes to it: it asks for nothing"
    assert not standby.proxy.sent(lambda request: request.writes)
    for replica in (leader, standby):
        assert await replica.probe("/readyz") == (200, "ok\n")
    assert (await is_leader(leader), await is_leader(standby)) == (True, False)
    lease = await replicas.lease()
    assert lease["holderIdentity"].startswith("leader_")
    assert (lease["leaseDurationSeconds"], lease["leaseTransitions"]) == (DURATION, 1)

    standby.send(signal.SIGTERM)
    assert (await standby.ends(5))[0] == 0
    assert not standby.proxy.sent(of_lease, since=begun), "it had nothing to give up"


async def test_a_leader_that_is_told_to_end_hands_over_within_a_second(replicas: Replicas):
    leader, standby = await replicas.pair()
    before = await replicas.lease()
    release = leader.proxy.switch(Fault.HOLD, lambda request: holder(request) == "")
    leader.send(signal.SIGTERM)
    await release.catches()
    assert (await leader.probe("/readyz"))[0] == 503, "no traffic for who is about to end"
    release.off()
    handed_over = time.monotonic()

    await standby.leads()
    assert standby.held[0].at - handed_over < 1.5
    after = await replicas.lease()
    assert after["holderIdentity"].startswith("standby_")
    assert after["leaseTransitions"] == before["leaseTransitions"] + 1
    assert min(after["acquireTime"], after["renewTime"]) > before["renewTime"]
    code, _ = await leader.ends(5)
    assert code == 0
    assert "Stopping; running Jobs go on" in leader.log
    assert "leads no more" in leader.log
    assert not leader.proxy.sent(anything, since=handed_over)


async def test_a_leader_looks_at_everything_before_it_writes(replicas: Replicas):
    """Rule 2: what it has watched may lag behind what the last leader did."""
    await replicas.world.backup("b")
    replica = await replicas.add("only")
    look = replica.proxy.switch(Fault.HOLD, lambda request: to("GET", "jobs")(request) and bool(replica.held))
    await replica.start()
    await look.catches()
    await replica.renews(2)
    assert not replica.proxy.sent(lambda request: request.writes and not of_lease(request))
    look.off()
    await soon("it to work", lambda: [r for r in replica.proxy.sent(to("PATCH", "backups/status")) if r.done])
    assert (await replicas.lease())["leaseTransitions"] == 0, "it is the first one of all"


@pytest.mark.alone
async def test_an_end_while_the_api_server_hangs_takes_three_seconds_at_most(replicas: Replicas):
    leader = await replicas.leader()
    leader.proxy.switch(Fault.SWALLOW)
    told = leader.send(signal.SIGTERM)
    code, ended = await leader.ends(10)
    assert code == 0
    assert ended - told < 3
    assert "could not release" in leader.log


async def test_a_leader_whose_last_write_hangs_does_not_hand_over(replicas: Replicas):
    """Nobody may lead before that write has ended; how it will end, nobody knows."""
    leader, standby = await replicas.pair()
    write = leader.proxy.switch(Fault.HOLD, to("PATCH", "backups/status"))
    await replicas.world.backup("b")
    await write.catches()
    leader.send(signal.SIGTERM)
    code, _ = await leader.ends(5)

    assert code == 0
    assert "leads no more" not in leader.log
    assert not leader.proxy.sent(lambda request: holder(request) == ""), "it does not ask for its release"
    await standby.leads()
    assert standby.held[0].at - leader.held[-1].at >= DURATION
    await soon("the standby to work", lambda: [r for r in standby.proxy.sent(to("PATCH", "backups/status")) if r.done])
    write.off()
    await soon("the late write to be answered", lambda: write.caught[0].status)
    assert write.caught[0].status == 409


async def test_of_two_standbys_one_follows_a_killed_leader_when_its_lease_has_run_out(replicas: Replicas):
    leader, second, third = await replicas.line_up(second={}, third={})
    leader.send(signal.SIGKILL)
    await soon("one to take over", lambda: second.held or third.held)
    winner, other = (second, third) if second.held else (third, second)

    assert DURATION <= winner.held[0].at - leader.held[-1].at < DURATION + LATE
    await other.says(f"is held by {winner.name}_")
    await winner.renews(2)
    assert not other.held
    assert (await replicas.lease())["leaseTransitions"] == 2


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.LOSE])
async def test_who_was_not_told_that_it_has_the_lease_finds_out(fault: Fault, replicas: Replicas):
    await replicas.world.vacant_lease(transitions=4)
    replica = await replicas.add("only")
    lost = replica.proxy.switch(fault, of_lease_write, times=1)
    await replica.start()
    await replica.leads()
    assert [r.status for r in lost.caught] == [200]
    found = await replicas.lease()
    assert found["leaseTransitions"] == 5, "it is still the same term"
    assert holder(lost.caught[0]) == found["holderIdentity"]


async def test_who_ends_before_it_was_told_that_it_has_the_lease_gives_it_up(replicas: Replicas):
    await replicas.world.vacant_lease()
    replica = await replicas.add("only")
    lost = replica.proxy.switch(Fault.LOSE, of_lease_write, times=1)
    await replica.start()
    await lost.catches()
    replica.send(signal.SIGTERM)
    code, _ = await replica.ends(5)
    assert code == 0
    assert "is the leader now" not in replica.log
    assert (await replicas.lease())["holderIdentity"] == ""


def of_lease_write(request: Request) -> bool:
    return of_lease(request) and request.writes


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        pytest.param(["--leader-elect=false"], {}, id="flag"),
        pytest.param([], {"ENABLE_LEADER_ELECTION": "false"}, id="environment"),
    ],
)
async def test_without_an_election_it_works_and_knows_no_lease(flags, environment, replicas: Replicas):
    replica = await (await replicas.add("only")).start(*flags, **environment)
    await replicas.world.backup("b")
    await soon("it to work", lambda: [r for r in replica.proxy.sent(to("PATCH", "backups/status")) if r.done])
    assert not replica.proxy.sent(of_lease)
    assert await replicas.world.get("Lease", LEASE) is None
    assert await is_leader(replica)
    assert "must be the only one" in replica.log
    replica.send(signal.SIGTERM)
    assert (await replica.ends(5))[0] == 0
