import random
from datetime import timedelta

import pytest
from support import NOW

from postgres_operator.decide.slots import Holder, Limits, Line, Turn, full, served


def turn(name: str, age: float = 60, *, kind: str = "Backup", namespace: str = "shop", database: str = "db") -> Turn:
    return Turn(kind == "Backup", NOW - timedelta(seconds=age), namespace, name, database)


def runs(count: int, *, namespace: str = "shop", database: str = "db") -> list[Holder]:
    return [Holder("Backup", namespace, f"run-{n}", database) for n in range(count)]


def test_restores_go_first_then_whoever_is_oldest_then_by_name() -> None:
    backups = turn("old", 90), turn("a", 60), turn("b", 60), turn("new", 30)
    restores = turn("r-old", 20, kind="Restore"), turn("r-new", 10, kind="Restore")
    assert sorted([*reversed(backups), *reversed(restores)]) == [*restores, *backups]
    assert restores[0].key == ("Restore", "shop", "r-old")
    assert backups[0].key == ("Backup", "shop", "old")


A, B, C = turn("a", 90), turn("b", 60), turn("c", 30)
ELSEWHERE = turn("e", 10, database="other")
NAMESAKE = turn("n", 5, namespace="market")
IN_ALL, OF_DB = "in all (MAX_RUNNING_JOBS)", 'on Database "db" (MAX_RUNNING_JOBS_PER_DATABASE)'


@pytest.mark.parametrize(
    ("limits", "running", "queue", "now"),
    [
        pytest.param(Limits(), runs(99), [A, B, C], [A, B, C], id="no-limit"),
        pytest.param(Limits(3), [], [A, B, C], [A, B, C], id="as-many-as-may"),
        pytest.param(Limits(3), runs(1), [A, B, C], [A, B], id="the-oldest"),
        pytest.param(Limits(3), runs(3), [A, B, C], [], id="none-is-free"),
        pytest.param(Limits(3), runs(5), [A], [], id="more-run-than-may"),
        pytest.param(Limits(3), runs(2, namespace="market"), [A, B], [A], id="namespaces-count-together"),
        pytest.param(Limits(0, 1), [], [A, B, ELSEWHERE], [A, ELSEWHERE], id="one-of-each-database"),
        pytest.param(Limits(0, 2), runs(1), [A, B, C], [A], id="those-that-run-count"),
        pytest.param(Limits(0, 1), runs(1), [A, NAMESAKE], [NAMESAKE], id="a-namesake-is-another-database"),
        pytest.param(Limits(3, 2), runs(2), [A, B, ELSEWHERE], [ELSEWHERE], id="a-busy-database-holds-up-nobody"),
        pytest.param(Limits(2, 9), runs(1), [A, ELSEWHERE], [A], id="both-limits"),
    ],
)
def test_who_is_served(limits, running, queue, now) -> None:
    assert list(served(queue, running, limits)) == now
    for one in queue:
        assert (full(one, queue, running, limits) is None) is (one in now)


@pytest.mark.parametrize(
    ("limits", "running", "limit", "held"),
    [
        pytest.param(
            Limits(2),
            runs(2),
            "At most 2 Jobs run at a time in all (MAX_RUNNING_JOBS).",
            'by Backup "run-0", Backup "run-1".',
            id="in-all",
        ),
        pytest.param(
            Limits(9, 1),
            [Holder("Restore", "shop", "r", "db"), *runs(3, database="other")],
            'At most 1 Jobs run at a time on Database "db" (MAX_RUNNING_JOBS_PER_DATABASE).',
            'by Restore "r".',
            id="of-the-database",
        ),
        pytest.param(Limits(5), runs(5), "(MAX_RUNNING_JOBS)", 'Backup "run-2" and 2 more', id="many"),
        pytest.param(Limits(2), runs(2, namespace="secret-plans"), "(MAX_RUNNING_JOBS)", "by 2 more", id="of-others"),
    ],
)
def test_what_is_said(limits, running, limit, held) -> None:
    why = full(C, [C], running, limits)
    assert why
    assert limit in why.limit
    assert held in why.holders.replace(", 2 more", " and 2 more")
    assert "secret-plans" not in why.holders
    assert why.holders.endswith("It goes on by itself.")


@pytest.mark.parametrize(
    ("limits", "running", "queue", "limit", "held"),
    [
        pytest.param(Limits(2), [], [A, B, C], IN_ALL, "by nobody, and others came first.", id="in-all"),
        pytest.param(Limits(0, 1), [], [A, C], OF_DB, "by nobody, and others came first.", id="only-the-database"),
        pytest.param(Limits(50, 1), [], [A, C], OF_DB, "by nobody, and others came first.", id="of-the-database"),
        pytest.param(
            Limits(50, 2), runs(1), [A, C], OF_DB, 'by Backup "run-0", and others came first.', id="together-with-a-job"
        ),
        pytest.param(
            Limits(50, 2),
            runs(2),
            [A, C],
            OF_DB,
            'by Backup "run-0", Backup "run-1".',
            id="who-is-not-served-is-no-one",
        ),
        pytest.param(
            Limits(3, 2),
            runs(1, database="other"),
            [A, turn("b", 60, database="third"), C],
            IN_ALL,
            'by Backup "run-0", and others came first.',
            id="one-slot-of-the-database-would-be-left",
        ),
        pytest.param(
            Limits(9, 1),
            runs(1),
            [turn("b", 60, database="third"), C],
            OF_DB,
            'by Backup "run-0".',
            id="those-ahead-want-another-database",
        ),
    ],
)
def test_slots_that_are_kept_for_those_ahead_are_not_free(limits, running, queue, limit, held) -> None:
    why = full(C, queue, running, limits)
    assert why
    assert why.limit.endswith(f"{limit}.")
    assert f"At most {limits.total if limit == IN_ALL else limits.per_database} Jobs run at a time" in why.limit
    assert why.holders == f"When this began to wait the slots were held {held} It goes on by itself."


def test_who_comes_later_takes_no_slot() -> None:
    assert full(A, [A, B, C], runs(1), Limits(3, 2)) is None


@pytest.mark.parametrize("limits", [Limits(3, 1), Limits(0, 2), Limits(4, 3), Limits(2), Limits(0, 1)], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_the_front_of_the_line_decides_as_the_whole_line_does(limits, seed) -> None:
    chance = random.Random(seed)  # noqa: S311 - not a secret
    line, waiting = Line(limits), []
    for number in range(120):
        if waiting and chance.random() < 0.45:
            line.remove(waiting.pop(chance.randrange(len(waiting))))
        else:
            kind, database = chance.choice(["Backup", "Backup", "Restore"]), chance.choice(["db", "db", "db", "other"])
            waiting.append(turn(f"t-{number}", chance.randrange(99), kind=kind, database=database))
            line.add(waiting[-1])
        running = runs(chance.randrange(3), database=chance.choice(["db", "other"]))
        assert list(served(line.front, running, limits)) == list(served(sorted(waiting), running, limits))
        for one in waiting:
            assert full(one, line.front, running, limits) == full(one, sorted(waiting), running, limits)
    if limits.per_database:
        assert len(line.front) <= 2 * limits.per_database, "however many wait"
