"""A leader goes, with or without a farewell, while Backups are in flight: another one takes over, nothing is done twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from e2e import fleet, rounds
from e2e.cluster.configs import SYSTEM
from e2e.rounds import REPETITIONS, Figures, Rounds
from e2e.support import delete

if TYPE_CHECKING:
    from e2e.audit import AuditLog

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120 + rounds.REPETITION_SECONDS * REPETITIONS)]
# From the release of the Lease, or from its end, to the next leader's first write.
GRACEFUL, UNANNOUNCED = 3.0, 5.0


def moment(repetition: int) -> int:
    """How many of a round's Jobs have been made when the leader goes: another number each time."""
    return 1 + repetition * 7 % rounds.SIZE


def test_a_leader_that_is_deleted_hands_over(namespace: str, log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    backups, figures = Rounds(namespace, log), Figures()
    try:
        for number in range(REPETITIONS):
            with backups.repetition(figures, moment(number)) as old:
                gone = time.time()
                delete("pod", old.pod, SYSTEM, wait=False)
                backups.start(3)  # so that there is something to do
                acted = backups.first_write(gone, old.identity)
                released = log.released(old.identity)
                assert released, f"{old.identity} has not released the Lease"
                figures.add(
                    from_deletion_to_release=released - gone,
                    from_release_to_acquisition=(log.acquired(old.identity, gone) or 0) - released,
                    from_release_to_the_first_write=acted - released,
                    from_deletion_to_the_first_write=acted - gone,
                )
                assert acted - released <= GRACEFUL
    finally:
        figures.show(f"Leader deleted, {rounds.SIZE} Backups in flight", capsys)


def test_a_leader_that_is_killed_is_replaced(namespace: str, log: AuditLog, capsys: pytest.CaptureFixture[str]) -> None:
    backups, figures = Rounds(namespace, log), Figures()
    try:
        for number in range(REPETITIONS):
            with backups.repetition(figures, moment(number)) as old:
                gone = time.time()
                fleet.kill(old)
                backups.start(3)
                acted = backups.first_write(gone, old.identity)
                figures.add(
                    from_kill_to_acquisition=(log.acquired(old.identity, gone) or 0) - gone,
                    from_last_renewal_to_the_first_write=acted - log.last_renewal(old.identity),
                    from_kill_to_the_first_write=acted - gone,
                )
                assert acted - gone <= fleet.LEASE_DURATION + UNANNOUNCED
    finally:
        figures.show(f"Leader killed, {rounds.SIZE} Backups in flight", capsys)
