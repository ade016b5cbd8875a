import sys
import threading
from collections.abc import Iterator

import pytest
from support import backup, job_of, restore

from postgres_operator.freshness import Freshness


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A Freshness, and an API server that is asked every ten seconds, as the elector does even more often."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.freshness = Freshness(self.clock)
        self.freshness.contact(answered=True)

    def passes(self, seconds: float, *, answered: bool = True) -> str:
        """What is stale after that time."""
        for _ in range(int(seconds // 10)):
            self.clock.now += 10
            self.freshness.contact(answered=answered)
        self.clock.now += seconds % 10
        self.freshness.contact(answered=answered)
        return self.freshness.stale


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def freshness(world) -> Freshness:
    return world.freshness


def version(number, **more):
    return backup(resourceVersion=str(number), **more)


# --- silence, and what it means


def test_silence_is_not_stale(world):
    assert world.passes(86400) == ""


def test_a_watch_that_has_shown_something_may_be_silent(world, freshness):
    freshness.shown("Backup", version(10))
    assert world.passes(86400) == ""


def test_stale_when_a_confirmed_version_is_not_shown_for_too_long(world, freshness):
    freshness.confirmed("Backup", version(10))
    assert world.passes(90) == ""
    assert world.passes(0.1) == "Backup"


def test_the_kind_that_is_stale_is_named(world, freshness):
    freshness.confirmed("Backup", version(10))
    freshness.confirmed("Job", job_of(backup()))
    freshness.shown("Backup", version(10))
    assert world.passes(91) == "Job"


def test_stale_no_more_once_it_is_shown(world, freshness):
    freshness.confirmed("Backup", version(10))
    assert world.passes(300) == "Backup"
    freshness.shown("Backup", version(10))
    assert world.passes(300) == ""


def test_more_news_that_are_not_shown_do_not_put_it_off(world, freshness):
    for number in range(10, 19):
        freshness.confirmed("Backup", version(number))
        assert world.passes(10) == ""
    freshness.confirmed("Backup", version(19))
    assert world.passes(1) == "Backup"


def test_each_version_has_its_own_time_to_be_shown(world, freshness):
    for number in range(10, 20):
        freshness.confirmed("Backup", version(number))
        assert world.passes(80) == ""
        freshness.shown("Backup", version(number))
    assert world.passes(300) == ""


# --- what counts as shown


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(version(10), id="that-version"),
        pytest.param(version(11), id="a-newer-version"),
        pytest.param(version(100), id="versions-are-numbers"),
        pytest.param(version(11, name="weekly", uid="u2"), id="a-newer-version-of-another-object"),
        pytest.param(version(11, deletionTimestamp="2026-03-01T12:00:00Z"), id="its-deletion"),
    ],
)
@pytest.mark.parametrize("first", ["confirmed", "shown"])
def test_shown_before_or_after_the_answer_to_the_write(world, freshness, shown, first):
    if first == "shown":
        freshness.shown("Backup", shown)
    freshness.confirmed("Backup", version(10))
    if first == "confirmed":
        freshness.shown("Backup", shown)
    assert world.passes(300) == ""


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        pytest.param("Backup", version(9), id="an-older-version"),
        pytest.param("Backup", version(9, name="weekly", uid="u2"), id="an-older-version-of-another-object"),
        pytest.param("Backup", version(11, namespace="other"), id="another-namespace"),
        pytest.param("Restore", restore(resourceVersion="11"), id="another-kind"),
    ],
)
@pytest.mark.parametrize("first", ["confirmed", "shown"])
def test_not_shown_by(world, freshness, kind, shown, first):
    if first == "shown":
        freshness.shown(kind, shown)
    freshness.confirmed("Backup", version(10))
    if first == "confirmed":
        freshness.shown(kind, shown)
    assert world.passes(91) == "Backup"


def test_an_old_version_shown_late_does_not_undo_a_newer_one(world, freshness):
    freshness.shown("Backup", version(20))
    freshness.shown("Backup", version(5))
    freshness.confirmed("Backup", version(10))
    assert world.passes(300) == ""


# --- an API server that is away


def test_while_the_api_server_is_away_nothing_is_stale(world, freshness):
    freshness.confirmed("Backup", version(10))
    assert world.passes(80) == ""
    assert world.passes(3600, answered=False) == ""


def test_what_is_stale_is_not_while_the_api_server_is_away(world, freshness):
    freshness.confirmed("Backup", version(10))
    assert world.passes(100) == "Backup"
    assert world.passes(1, answered=False) == ""


def test_a_watch_has_its_time_anew_once_the_api_server_is_back(world, freshness):
    freshness.confirmed("Backup", version(10))
    world.passes(80)
    world.passes(3600, answered=False)
    assert world.passes(0) == ""
    assert world.passes(90) == ""
    assert world.passes(0.1) == "Backup"


def test_what_is_confirmed_after_an_outage_counts_from_then(world, freshness):
    world.passes(3600, answered=False)
    world.passes(60)
    freshness.confirmed("Backup", version(10))
    assert world.passes(90) == ""
    assert world.passes(0.1) == "Backup"


def test_a_single_lost_answer_is_an_outage_too(world, freshness):
    freshness.confirmed("Backup", version(10))
    world.passes(80)
    world.passes(0, answered=False)
    assert world.passes(90) == ""


def test_without_requests_nothing_is_known(world, freshness):
    freshness.confirmed("Backup", version(10))
    world.clock.now += 3600
    assert freshness.stale == ""


def test_before_the_first_answer_nothing_is_stale():
    clock = Clock()
    freshness = Freshness(clock)
    freshness.confirmed("Backup", version(10))
    clock.now += 3600
    assert freshness.stale == ""


# --- threads


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """They take turns after next to nothing."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_probes_may_ask_while_the_loop_and_the_elector_tell():
    freshness, over, failures = Freshness(), threading.Event(), []

    def again_and_again(action) -> None:
        try:
            while not over.is_set():
                action()
        except Exception as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    def elector() -> None:
        freshness.contact(answered=False)
        freshness.contact(answered=True)

    threads = [
        threading.Thread(target=again_and_again, args=[action])
        for action in (elector, lambda: freshness.stale, lambda: freshness.stale)
    ]
    for thread in threads:
        thread.start()
    for number in range(5000):
        freshness.confirmed("Backup", version(number + 1, namespace=f"ns-{number % 100}"))
        freshness.shown("Backup", version(number + 1, namespace=f"ns-{(number - 50) % 100}"))
    over.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_what_a_relist_finds_gone_is_not_awaited_any_more(world, freshness):
    freshness.confirmed("Backup", version(10))
    freshness.gone("Backup", version(10))
    assert world.passes(200) == ""


def test_what_is_newer_than_what_is_gone_is_still_awaited(world, freshness):
    freshness.confirmed("Backup", version(10))
    freshness.gone("Backup", version(9))
    assert world.passes(200) == "Backup"
