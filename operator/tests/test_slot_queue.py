"""The queue for slots: who is woken when, in every order in which things can happen."""

import pytest
from fakes import FakeCluster
from support import ago, backup, complete, job_of, restore

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.restore import Restore
from postgres_operator.cache import Cache
from postgres_operator.decide.slots import NO_LIMITS, Limits
from postgres_operator.exclusion import Start
from postgres_operator.freshness import Freshness
from postgres_operator.queue import WorkQueue
from postgres_operator.slots import Slots
from postgres_operator.watch import Watch


def run(name: str, age: float = 60, *, database: str = "db", kind: str = "Backup"):
    make, model = (backup, Backup) if kind == "Backup" else (restore, Restore)
    body = make(name, creationTimestamp=ago(age))
    body["spec"]["databaseRef"] = {"name": database}
    return model.model_validate(body)


class Lab:
    """Slots, with the cache that they look at, and the keys that were woken."""

    def __init__(self, limits: Limits) -> None:
        self.cache, self.starting, self.woken = Cache(), {}, []
        self.slots = Slots(self.cache, self.starting, limits, self.woken.append)
        self.versions = 100

    def job(self, name: str, **status) -> dict:
        self.versions += 1
        job = job_of(backup(name), **status)
        job["metadata"]["resourceVersion"] = str(self.versions)
        self.cache.put("Job", job)
        return job

    def look(self, one, *, wants: bool = True) -> bool:
        """What the reconciler does with a run; whether it may start."""
        self.slots.begin(one.key)
        self.slots.enter(one)
        free = self.slots.full(one) is None
        if not free and wants:
            self.slots.sleep(one.key)
        if free and wants:
            self.starting[one.key] = Start(one.spec.database_ref.name, "", names.job_name(*one.key[::2], "uid"))
            self.slots.leave(one.key)
        self.slots.end(one.key)
        return free and wants

    def names(self) -> list[str]:
        return [name for _, _, name in self.woken]


A, B, C, D = (run(name, age) for name, age in (("a", 90), ("b", 80), ("c", 70), ("d", 60)))


def test_as_many_start_as_may_and_the_rest_sleeps() -> None:
    lab = Lab(Limits(2))
    assert [lab.look(one) for one in (A, B, C, D)] == [True, True, False, False]
    assert lab.slots.waiting == 2
    assert lab.woken == []


def test_one_end_wakes_one_and_no_more_than_once() -> None:
    lab = Lab(Limits(2))
    for one in (A, B, D, C):
        lab.look(one)
    del lab.starting[A.key]
    lab.slots.begin(A.key)
    lab.slots.end(A.key)
    lab.slots.begin(B.key)
    lab.slots.end(B.key)
    assert lab.names() == ["c"], "the older one, though it came later"
    assert lab.look(C)
    assert lab.names() == ["c"]


def test_a_slot_that_is_not_used_goes_to_the_next() -> None:
    lab = Lab(Limits(1))
    for one in (A, B, C):
        lab.look(one)
    lab.starting.clear()
    lab.slots.wake()
    assert lab.names() == ["b"]
    assert not lab.look(B, wants=False), "its Database is gone"
    assert lab.names() == ["b", "c"]


def test_whoever_is_being_decided_on_keeps_those_behind_waiting() -> None:
    lab = Lab(Limits(1))
    lab.slots.begin(A.key)
    lab.slots.enter(A)
    assert not lab.look(B), "the older one may want the slot"
    lab.slots.end(A.key)
    assert lab.names() == ["b"], "it did not"


def test_an_error_gives_the_turn_away_so_that_the_backoff_holds() -> None:
    lab = Lab(Limits(1))
    lab.slots.begin(A.key)
    lab.slots.enter(A)
    lab.slots.end(A.key)
    assert lab.woken == []
    assert lab.look(B)


def test_who_is_woken_while_its_status_is_written_keeps_its_turn() -> None:
    lab = Lab(Limits(1))
    lab.look(A)
    lab.slots.begin(B.key)
    lab.slots.enter(B)
    assert lab.slots.full(B)
    lab.slots.sleep(B.key)
    lab.starting.clear()
    lab.slots.begin(A.key)
    lab.slots.end(A.key)
    assert lab.names() == ["b"]
    lab.slots.end(B.key)
    assert not lab.look(C), "it is the turn of the one that was woken"
    assert lab.look(B)


def test_a_sleeper_that_is_deleted_leaves() -> None:
    lab = Lab(Limits(1))
    for one in (A, B, C):
        lab.look(one)
    lab.slots.begin(B.key)
    lab.slots.end(B.key)
    lab.starting.clear()
    lab.slots.wake()
    assert lab.names() == ["c"]
    assert lab.slots.waiting == 0


def test_one_that_took_the_name_of_another_has_its_own_turn() -> None:
    lab = Lab(Limits(1))
    for one in (D, A, C):
        lab.look(one)
    lab.look(run("a", 10))
    lab.starting.clear()
    lab.slots.wake()
    assert lab.names() == ["c"]


def test_jobs_that_have_not_ended_hold_slots_whoever_made_them() -> None:
    lab = Lab(Limits(2))
    lab.job("x", active=1)
    job = lab.job("y")
    assert not lab.look(A)
    lab.job("y", **complete())
    lab.slots.wake()
    assert lab.names() == ["a"]
    lab.cache.remove("Job", job)
    assert lab.look(A)


def test_a_job_that_is_being_created_and_is_in_the_cache_counts_once() -> None:
    lab = Lab(Limits(2))
    job = lab.job("x")
    lab.starting["Backup", "shop", "x"] = Start("db", "", job["metadata"]["name"])
    assert lab.look(A)


def test_the_job_of_a_namesake_that_was_deleted_counts_too() -> None:
    lab = Lab(Limits(2))
    lab.job("x")
    lab.starting["Backup", "shop", "x"] = Start("db", "", "backup-x-another")
    assert not lab.look(A)


@pytest.mark.parametrize("kind", ["database", ""])
def test_other_jobs_hold_no_slot(kind) -> None:
    lab = Lab(Limits(1))
    job = job_of(backup("x"))
    job["metadata"]["labels"][names.LABEL_KIND] = kind
    lab.cache.put("Job", job)
    assert lab.look(A)


def test_a_restore_overtakes() -> None:
    lab = Lab(Limits(1))
    for one in (A, B, C, run("r", 1, kind="Restore")):
        lab.look(one)
    lab.starting.clear()
    lab.slots.wake()
    assert lab.woken == [("Restore", "shop", "r")]


def test_one_database_that_is_busy_holds_up_no_other() -> None:
    lab = Lab(Limits(3, 1))
    other = run("o", 10, database="other")
    assert [lab.look(one) for one in (A, B, C, other)] == [True, False, False, True]


def test_without_limits_there_is_no_queue() -> None:
    lab = Lab(NO_LIMITS)
    for _ in range(100):
        lab.job("x")
    assert lab.look(A)
    assert lab.slots.full(B) is None


# --- together with the watch: a slot is free when its Job is over, also one that has no owner any more


def owned_by(*references: dict) -> dict:
    """A Job that runs, version 20."""
    job = job_of(backup("x"), active=1)
    job["metadata"]["ownerReferences"] = list(references)
    return job


FOREIGN = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "x", "uid": "u"}


class Leader:
    """A watch that leads, the slots that it tells, and one run that sleeps since a Job holds the only slot."""

    def __init__(self, job: dict) -> None:
        self.queue = WorkQueue()
        self.cache = Cache()
        self.watch = Watch(self.cache, self.queue, Freshness())
        self.watch.lead()
        self.slots = Slots(self.cache, {}, Limits(1), self.queue.add)
        self.watch.freed = self.slots.wake
        self.watch.seen("Job", job)
        self.slots.begin(B.key)
        self.slots.enter(B)
        assert self.slots.full(B)
        self.slots.sleep(B.key)
        self.slots.end(B.key)
        assert len(self.queue) == 0

    async def woken(self) -> list:
        return [await self.queue.get() for _ in range(len(self.queue))]


@pytest.mark.parametrize("owners", [(), (FOREIGN,)], ids=["orphaned", "of-another-owner"])
@pytest.mark.parametrize("deleted", [False, True], ids=["ends", "is-deleted"])
async def test_a_job_without_our_owner_gives_its_slot_back(owners, deleted) -> None:
    job = owned_by(*owners)
    leader = Leader(job)
    over = job if deleted else {**job, "status": complete()}
    over["metadata"] = {**job["metadata"], "resourceVersion": "21"}
    leader.watch.seen("Job", over, deleted=deleted)
    assert await leader.woken() == [B.key]
    assert not leader.slots.full(B)


async def test_a_job_that_goes_on_or_was_over_before_wakes_nobody() -> None:
    job = owned_by()
    leader = Leader(job)
    told = []
    leader.watch.freed = lambda: told.append(leader.slots.waiting)
    for version, status in (("21", {"active": 1}), ("22", complete()), ("23", complete(succeeded=1))):
        leader.watch.seen("Job", {**job, "status": status, "metadata": {**job["metadata"], "resourceVersion": version}})
        assert len(told) == (version >= "22")


async def test_a_relist_wakes_whom_nothing_else_has_woken() -> None:
    job = owned_by()
    leader = Leader(job)
    leader.cache.remove("Job", job)  # unseen by the watch
    await leader.watch.relist(FakeCluster(), [])
    assert await leader.woken() == [B.key]
