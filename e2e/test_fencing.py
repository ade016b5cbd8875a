"""A leader that does not know that it leads no more must not write: it ends before another one begins."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from e2e import fleet, rounds
from e2e.audit import WRITES
from e2e.rounds import REPETITIONS, Figures, Rounds
from e2e.support import wait_for

if TYPE_CHECKING:
    from e2e.audit import AuditLog

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120 + rounds.REPETITION_SECONDS * REPETITIONS)]
TAKEOVER = fleet.LEASE_DURATION + 5.0
# What the poll and a busy machine add to the renew deadline.
SLACK = 0.5
HANG_SECONDS = 30.0
# What was sent into the cut is sent again 25 s later: then another one leads, and it arrives.
CUT_SECONDS, RESENT_SECONDS = 20.0, 30.0


def check_end(log: AuditLog, figures: Figures, old: fleet.Replica) -> None:
    """The process ends before its last renewal is as old as the deadline."""
    ended = log.ended[old.identity] = fleet.wait_end(old.pid, fleet.RENEW_DEADLINE + 5, old.identity)
    after = ended - log.last_renewal(old.identity)
    figures.add(from_last_renewal_to_the_end=after)
    assert after <= fleet.RENEW_DEADLINE + SLACK


def count_late(log: AuditLog, figures: Figures, old: fleet.Replica) -> None:
    """Show how much of what the ended process had sent came after its end."""
    late = log.late(old.identity)
    figures.count(writes_that_came_after_the_end=len(late), of_these_accepted=sum(e.accepted for e in late))


def hold(seconds: float, since: float, standbys: list[int]) -> None:
    """Let a fault last, and see that it ends no standby."""

    def over() -> bool:
        assert all(map(fleet.state, standbys)), "a standby has ended"
        return time.time() >= since + seconds

    wait_for(over, seconds + 5, "the fault to have lasted")


def check_takeover(
    backups: Rounds, figures: Figures, old: fleet.Replica, fault: float, *, held_up: bool = False
) -> None:
    """Another one writes in time: after the fault, or after a renewal that it has held up and that came later."""
    written = backups.first_write(fault, old.identity)
    after = written - (max(fault, backups.log.last_renewal(old.identity)) if held_up else fault)
    figures.add(from_the_fault_to_the_first_write=after)
    assert after <= TAKEOVER


def test_a_frozen_leader_that_is_woken(namespace: str, log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    """Soon after it was replaced, or when the kubelet is about to kill it: 30 s after the freeze at the earliest."""
    backups, figures = Rounds(namespace, log), Figures()
    try:
        for number in range(REPETITIONS):
            with backups.repetition(figures) as old:
                after = freeze(backups, figures, old, lasting=(18, 28)[number % 2], state="T")
                figures.add(from_waking_to_the_end=after)
                assert after <= 1
    finally:
        figures.show("Leader frozen for 18 or 28 s", capsys)


def test_a_frozen_leader_is_ended_within_a_minute(
    namespace: str, log: AuditLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the kubelet, because its probe is not answered."""
    backups, figures = Rounds(namespace, log), Figures()
    try:
        for _ in range(REPETITIONS):
            with backups.repetition(figures) as old:
                freeze(backups, figures, old, lasting=60, state="")
    finally:
        figures.show("Leader frozen for 60 s", capsys)


def freeze(backups: Rounds, figures: Figures, old: fleet.Replica, *, lasting: float, state: str) -> float:
    """Stop the leader's process for a while, with work in its hands; return how long it lived after that, in seconds."""
    froze = time.time()
    with fleet.stopped(old.pid):
        backups.start(3)
        check_takeover(backups, figures, old, froze)
        wait_for(lambda: time.time() >= froze + lasting, lasting, "the freeze to have lasted")
        assert fleet.state(old.pid) == state
        woken = time.time()
    ended = fleet.wait_end(old.pid, 5, old.identity)
    late = [e for e in backups.log.entries() if e.identity == old.identity and e.received >= woken]
    assert [str(e) for e in late if e.verb in WRITES and e.accepted] == []
    return ended - woken


def test_a_leader_cut_off_from_the_api_server(
    namespace: str, log: AuditLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its next process in the same pod is cut off as well, and is not missed."""
    backups, figures = Rounds(namespace, log), Figures()
    try:
        for _ in range(REPETITIONS):
            with backups.repetition(figures) as old:
                standbys, cut = fleet.standbys(), time.time()
                with fleet.cut_off(old):
                    backups.start(3)
                    check_end(log, figures, old)
                    check_takeover(backups, figures, old, cut)
                    hold(CUT_SECONDS, cut, standbys)
                hold(RESENT_SECONDS, cut, standbys)  # while the pod, and what it has sent, is there
                count_late(log, figures, old)
    finally:
        figures.show(f"Leader cut off for {CUT_SECONDS:.0f} s", capsys)


def test_an_api_server_that_hangs(namespace: str, log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    backups, figures = Rounds(namespace, log), Figures()
    try:
        for _ in range(REPETITIONS):
            with backups.repetition(figures) as old:
                standbys, hung = fleet.standbys(), time.time()
                with fleet.hung_api():
                    check_end(log, figures, old)
                    hold(HANG_SECONDS, hung, standbys)
                    resumed = time.time()
                # A renewal that nobody waits for any more may be among what the API server finds in its sockets.
                check_takeover(backups, figures, old, resumed, held_up=True)
                count_late(log, figures, old)
                leaders = {r.identity for r in log.reigns() if r.since >= resumed} - {old.identity}
                assert len(leaders) == 1, leaders
    finally:
        figures.show(f"API server hung for {HANG_SECONDS:.0f} s", capsys)


def test_an_api_server_that_is_restarted(namespace: str, log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    """The leader may get over it, or another one takes its place."""
    backups, figures = Rounds(namespace, log), Figures()
    try:
        for _ in range(REPETITIONS):
            with backups.repetition(figures, unseen=True) as old:
                killed = time.time()
                fleet.restart_api()
                back = time.time()
                backups.start(3)
                acted = backups.first_write(back)
                stayed = log.writes()[-1].identity == old.identity
                figures.add(from_the_kill_to_the_answer=back - killed)
                figures.add(**{f"from the kill to a write of {'the same' if stayed else 'another'}": acted - killed})
                assert acted - back <= TAKEOVER
    finally:
        figures.show("API server killed and started again", capsys)
