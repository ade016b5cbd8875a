import heapq
import itertools
import math
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from support import NOW

from postgres_operator.decide.lease import Sighting, Terms, free_from, held, holder, look, released

TERMS = Terms(duration=15, renew_deadline=10, retry_period=2)
THEN = 1000.0  # of this process's monotonic clock


def stamp(seconds: float = 0) -> str:
    """A renewTime that many seconds before or after now."""
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def lease(**changes: Any) -> dict[str, Any]:
    """Spec of a Lease that another replica holds; what is changed to None is not there at all."""
    spec = {
        "holderIdentity": "other",
        "leaseDurationSeconds": 15,
        "acquireTime": stamp(-600),
        "renewTime": stamp(-1),
        "leaseTransitions": 3,
        **changes,
    }
    return {field: value for field, value in spec.items() if value is not None}


# --- what shows that the holder lives


def test_what_is_seen_first_counts_from_now():
    assert look(None, lease(), THEN) == Sighting(lease(), THEN)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"renewTime": stamp()}, id="renewed"),
        pytest.param({"renewTime": stamp(-3600)}, id="renewed-by-a-clock-that-was-set-back"),
        pytest.param({"renewTime": None}, id="renew-time-removed"),
        pytest.param({"holderIdentity": "third"}, id="taken-by-another"),
        pytest.param({"holderIdentity": ""}, id="released"),
        pytest.param({"leaseTransitions": 4}, id="transitions"),
        pytest.param({"leaseDurationSeconds": 60}, id="longer-duration"),
        pytest.param({"acquireTime": stamp()}, id="acquired-again"),
    ],
)
def test_a_change_of_the_spec_is_a_new_sighting(changes):
    assert look(Sighting(lease(), THEN), lease(**changes), THEN + 7) == Sighting(lease(**changes), THEN + 7)


def test_the_same_spec_is_the_old_sighting_however_often_it_is_seen():
    seen = look(None, lease(), THEN)
    for second in range(1, 30):
        seen = look(seen, lease(), THEN + second)
    assert seen == Sighting(lease(), THEN)


def test_changes_of_the_metadata_alone_do_not_extend_it():
    seen = None
    for second in range(30):
        body = {"metadata": {"resourceVersion": str(100 + second), "labels": {"touched": str(second)}}, "spec": lease()}
        seen = look(seen, body["spec"], THEN + second)
    assert free_from(seen, "me", TERMS) == THEN + 15


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(lease(), "other", id="held"),
        pytest.param(lease(holderIdentity=""), "", id="released"),
        pytest.param(lease(holderIdentity=None), "", id="no-holder"),
        pytest.param({"holderIdentity": None}, "", id="null"),
        pytest.param({}, "", id="empty-spec"),
    ],
)
def test_who_holds_it(spec, expected):
    assert holder(spec) == expected


# --- from when it may be taken

AT_ONCE, WHEN_IT_RAN_OUT = -math.inf, THEN + 15


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param(lease(), WHEN_IT_RAN_OUT, id="held-by-another"),
        pytest.param(lease(holderIdentity="me"), AT_ONCE, id="held-by-this-one"),
        pytest.param(lease(holderIdentity=""), AT_ONCE, id="released"),
        pytest.param(lease(holderIdentity=None), AT_ONCE, id="no-holder"),
        pytest.param({}, AT_ONCE, id="empty-spec"),
        pytest.param(lease(holderIdentity="me2"), WHEN_IT_RAN_OUT, id="a-similar-name-is-another"),
        pytest.param(lease(leaseDurationSeconds=60), THEN + 60, id="the-holder-counts-on-longer"),
        pytest.param(lease(leaseDurationSeconds=3600), THEN + 3600, id="the-holder-counts-on-the-longest-there-is"),
        pytest.param(lease(leaseDurationSeconds=2**31 - 1), THEN + 3600, id="the-holder-says-68-years"),
        pytest.param(lease(leaseDurationSeconds=1), WHEN_IT_RAN_OUT, id="the-holder-says-less"),
        pytest.param(lease(leaseDurationSeconds=0), WHEN_IT_RAN_OUT, id="the-holder-says-none"),
        pytest.param(lease(leaseDurationSeconds=-5), WHEN_IT_RAN_OUT, id="the-holder-says-nonsense"),
        pytest.param(lease(leaseDurationSeconds=None), WHEN_IT_RAN_OUT, id="the-holder-does-not-say"),
        pytest.param(
            {"holderIdentity": "other", "leaseDurationSeconds": None}, WHEN_IT_RAN_OUT, id="the-holder-says-null"
        ),
    ],
)
def test_from_when_it_may_be_taken(spec, expected):
    assert free_from(Sighting(spec, THEN), "me", TERMS) == expected


def test_what_nobody_has_ever_held_may_be_taken_at_once():
    assert free_from(None, "me", TERMS) == AT_ONCE


@pytest.mark.parametrize(
    "renewed",
    [
        pytest.param(stamp(-3600), id="an-hour-behind"),
        pytest.param(stamp(3600), id="an-hour-ahead"),
        pytest.param("1970-01-01T00:00:00.000000Z", id="the-epoch"),
        pytest.param("9999-12-31T23:59:59.999999Z", id="the-end-of-time"),
        pytest.param("yesterday", id="no-time"),
        pytest.param("", id="empty"),
        pytest.param(None, id="missing"),
    ],
)
def test_other_replicas_clocks_do_not_matter(renewed):
    spec = lease(renewTime=renewed, acquireTime=renewed)
    assert free_from(look(None, spec, THEN), "me", TERMS) == WHEN_IT_RAN_OUT
    assert holder(held(spec, "me", TERMS, NOW)) == "me"


# --- what is written


@pytest.mark.parametrize(
    ("before", "written"),
    [
        pytest.param(
            None,
            {"holderIdentity": "me", "acquireTime": stamp(), "leaseTransitions": 0},
            id="the-first-one-ever-is-no-transition",
        ),
        pytest.param(
            lease(),
            {"holderIdentity": "me", "acquireTime": stamp(), "leaseTransitions": 4},
            id="taken-from-another",
        ),
        pytest.param(
            lease(holderIdentity=""),
            {"holderIdentity": "me", "acquireTime": stamp(), "leaseTransitions": 4},
            id="taken-after-a-release",
        ),
        pytest.param(
            lease(leaseTransitions=None),
            {"holderIdentity": "me", "acquireTime": stamp(), "leaseTransitions": 1},
            id="transitions-were-not-counted",
        ),
        pytest.param(
            {},
            {"holderIdentity": "me", "acquireTime": stamp(), "leaseTransitions": 1},
            id="made-empty-by-somebody",
        ),
        pytest.param(
            lease(holderIdentity="me"),
            {"holderIdentity": "me", "acquireTime": stamp(-600), "leaseTransitions": 3},
            id="kept",
        ),
        pytest.param(
            lease(holderIdentity="me", leaseDurationSeconds=60),
            {"holderIdentity": "me", "acquireTime": stamp(-600), "leaseTransitions": 3},
            id="kept-with-another-duration",
        ),
        pytest.param(
            lease(holderIdentity="me", strategy="OldestEmulationVersion"),
            {
                "holderIdentity": "me",
                "acquireTime": stamp(-600),
                "leaseTransitions": 3,
                "strategy": "OldestEmulationVersion",
            },
            id="kept-with-what-others-have-added",
        ),
    ],
)
def test_how_it_is_taken_and_kept(before, written):
    assert held(before, "me", TERMS, NOW) == {"leaseDurationSeconds": 15, "renewTime": stamp(), **written}


def test_a_renewal_differs_from_the_one_before_it():
    first = held(lease(), "me", TERMS, NOW)
    assert held(first, "me", TERMS, NOW + timedelta(microseconds=1)) != first


def test_times_are_written_as_micro_time_in_utc():
    local = datetime.fromisoformat("2026-03-01T14:00:00+02:00")
    assert held(None, "me", TERMS, local)["renewTime"] == "2026-03-01T12:00:00.000000Z"


def test_a_release_leaves_it_to_anybody_at_once():
    spec = released(lease(holderIdentity="me"), NOW)
    assert spec == lease(holderIdentity="", leaseDurationSeconds=1, renewTime=stamp())
    assert free_from(look(Sighting(lease(holderIdentity="me"), THEN), spec, THEN), "other", TERMS) == AT_ONCE


@pytest.mark.parametrize("write", [lambda spec: held(spec, "me", TERMS, NOW), lambda spec: released(spec, NOW)])
def test_what_was_read_is_not_changed(write):
    spec = lease(holderIdentity="me")
    write(spec)
    assert spec == lease(holderIdentity="me")


# --- never two: a simulation of replicas, a network and an API server, over the true time that none of them knows

Steps = Generator[float, None, Any]  # yields how long it waits, in seconds of true time
Stored = tuple[int, dict[str, Any] | None]  # resourceVersion and spec

SIMULATED_SECONDS = 1500
REQUEST_TIMEOUT = 5.0


class Unanswered(Exception):
    """The request or its answer was lost, or came too late."""


class Refused(Exception):
    """Somebody else wrote in between."""


class World:
    """The Lease and its past, and whatever is to happen next."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.now = 0.0
        self.states: list[Stored] = [(0, None)]
        self.may_write: dict[str, float] = {}  # until when, by the true time
        self.leaders: list[str] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), event))

    def run(self) -> None:
        while self.now < SIMULATED_SECONDS:
            self.now, _, event = heapq.heappop(self._events)
            event()

    def read(self) -> Stored:
        return self.states[-1]

    def write(self, version: int, spec: dict[str, Any]) -> Stored:
        if version != self.states[-1][0]:
            raise Refused
        self.states.append((version + 1, spec))
        return self.states[-1]

    def leads(self, who: str, until: float) -> None:
        """From now on until then, unless it is said again."""
        others = {other: end for other, end in self.may_write.items() if other != who and end > self.now}
        assert until <= self.now or not others, f"at {self.now:.3f} s {who} may write, and so may {others}"
        self.may_write[who] = until
        if who not in self.leaders:
            self.leaders.append(who)


@dataclass
class Process:
    """One replica at a time, started again whenever it ends. Its clocks are its own."""

    world: World
    name: str
    terms: Terms
    offset: float  # of the monotonic clock
    rate: float  # how fast that runs
    skew: float  # of the wall clock
    starts: int = 0

    def begin(self) -> None:
        self.starts += 1
        self.identity = f"{self.name}-{self.starts}"
        self.seen: Sighting | None = None
        self.version, self.spec = 0, None
        self.open_until = math.inf  # the process ends then; there is nothing to write before the first hold
        self.cut_off_until = 0.0
        self._resume(self._lead())

    def _resume(self, steps: Steps) -> None:
        """Go on; sometimes only after a pause of any length, during which the world goes on."""
        if self.monotonic() >= self.open_until:
            return self.begin()
        try:
            wait = next(steps)
        except StopIteration:
            return self.begin()
        chance = self.world.chance
        pause = chance.choice([0.1, 3, 8, 12, 40]) * chance.random() if chance.random() < 0.03 else 0
        return self.world.after(wait + pause, lambda: self._resume(steps))

    def monotonic(self) -> float:
        return self.offset + self.rate * self.world.now

    def wall(self) -> datetime:
        return NOW + timedelta(seconds=self.world.now + self.skew)

    def _sleep(self, seconds: float) -> Steps:
        yield max(seconds, 0) / self.rate

    def _look(self, state: Stored) -> None:
        self.version, self.spec = state
        if self.spec is not None:
            self.seen = look(self.seen, self.spec, self.monotonic())

    def _ask(self, request: Callable[[], Stored]) -> Steps:
        """Send it; it may arrive although nobody waits for the answer any more."""
        yield 0
        world, chance = self.world, self.world.chance
        there, back = (chance.uniform(0, 0.05) if chance.random() < 0.9 else chance.uniform(0, 20) for _ in range(2))
        answer: list[Stored | Refused] = []

        def arrive() -> None:
            try:
                answer.append(request())
            except Refused as error:
                answer.append(error)

        if chance.random() < 0.03:  # nothing goes through for a while; the answer to this one is lost or not
            self.cut_off_until = world.now + chance.uniform(0, 60)
        elif world.now < self.cut_off_until:
            there = math.inf
        if there < math.inf:
            world.after(there, arrive)
            if there + back < REQUEST_TIMEOUT and chance.random() > 0.03:
                yield there + back
                if isinstance(answer[0], Refused):
                    raise answer[0]
                return answer[0]
        yield REQUEST_TIMEOUT
        raise Unanswered

    def _read(self) -> Steps:
        self._look((yield from self._ask(self.world.read)))

    def _write(self) -> Steps:
        began = self.monotonic()
        version, spec = self.version, held(self.spec, self.identity, self.terms, self.wall())
        self._look((yield from self._ask(lambda: self.world.write(version, spec))))
        self.open_until = began + self.terms.renew_deadline
        self.world.leads(self.identity, (self.open_until - self.offset) / self.rate)

    def _acquire(self) -> Steps:
        while True:
            try:
                yield from self._read()
                if self.monotonic() >= free_from(self.seen, self.identity, self.terms):
                    return (yield from self._write())
                yield from self._watch()
            except Refused:
                continue
            except Unanswered:
                yield from self._sleep(self.terms.retry_period * self.world.chance.uniform(1, 2.2))

    def _watch(self) -> Steps:
        """Be shown states, which may be behind, until it looks free."""
        while (left := free_from(self.seen, self.identity, self.terms) - self.monotonic()) > 0:
            yield from self._sleep(min(left, self.world.chance.uniform(0, 2)))
            newest = self.world.read()[0]
            self._look(self.world.states[max(self.version, newest - self.world.chance.choice([0, 0, 1, 2]))])

    def _renew(self) -> Steps:
        try:
            yield from self._write()
        except Refused:
            yield from self._read()
            if not self.spec or holder(self.spec) != self.identity:
                return False
            yield from self._write()
        return True

    def _lead(self) -> Steps:
        yield from self._acquire()
        while self.world.chance.random() > 0.01:
            yield from self._sleep(self.terms.retry_period)
            try:
                if not (yield from self._renew()):
                    return
            except (Refused, Unanswered):
                continue
        yield from self._release()

    def _release(self) -> Steps:
        """In order: first nothing may be written any more."""
        self.world.may_write[self.identity] = self.world.now
        try:
            yield from self._read()
            if self.spec and holder(self.spec) == self.identity:
                version, spec = self.version, released(self.spec, self.wall())
                yield from self._ask(lambda: self.world.write(version, spec))
        except (Refused, Unanswered):
            return


@pytest.mark.parametrize("seed", range(50))
def test_no_two_may_ever_write_at_the_same_time(seed):
    world = World(seed)
    for name in ("a", "b", "c"):
        # One replica may be of a version with other terms: a rollout is under way.
        terms = TERMS if name != "c" else world.chance.choice([TERMS, Terms(40, 30, 5), Terms(6, 4, 1)])
        offset, skew = world.chance.uniform(0, 1e6), world.chance.uniform(-3600, 3600)
        process = Process(world, name, terms, offset, world.chance.uniform(0.98, 1.02), skew)
        world.after(world.chance.uniform(0, 5), process.begin)
    world.run()
    assert len(world.leaders) > 10, "next to nothing happened"
