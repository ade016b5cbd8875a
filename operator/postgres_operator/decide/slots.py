"""How many Jobs of Backups and Restores run at a time, and who is next.

A Restore goes before all Backups, since somebody waits for the data; otherwise whoever was created first.
"""

import sys
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from .run import Full

_NAMED = 3  # in a message


@dataclass(frozen=True, slots=True)
class Limits:
    """At most so many at a time; 0 for any number."""

    total: int = 0
    per_database: int = 0


NO_LIMITS = Limits()


class Turn(NamedTuple):
    """A run in the queue for a slot. Turns sort in the order in which they are served."""

    backup: bool
    created: datetime
    namespace: str
    name: str
    database: str

    @property
    def key(self) -> tuple[str, str, str]:
        """`(kind, namespace, name)`."""
        return "Backup" if self.backup else "Restore", self.namespace, self.name

    @property
    def where(self) -> tuple[str, str]:
        """Namespace and name of its Database."""
        return self.namespace, self.database


class Line:
    """Turns in their order. Of a Database with thousands that wait only as many are looked at as may run."""

    def __init__(self, limits: Limits) -> None:
        self.front: list[Turn] = []  # sorted; nobody else can be served
        self._all: dict[tuple[str, str], list[Turn]] = defaultdict(list)  # by Database, sorted
        self._most = limits.per_database or sys.maxsize

    def add(self, turn: Turn) -> None:
        """It is not in the line yet."""
        same = self._all[turn.where]
        if _put(same, turn) < self._most:
            _put(self.front, turn)
            for behind in same[self._most : self._most + 1]:
                _take(self.front, behind)

    def remove(self, turn: Turn) -> None:
        """It is in the line."""
        same = self._all[turn.where]
        if _take(same, turn) < self._most:
            _take(self.front, turn)
            for behind in same[self._most - 1 : self._most]:
                _put(self.front, behind)
        if not same:
            del self._all[turn.where]


def _put(turns: list[Turn], turn: Turn) -> int:
    turns.insert(index := bisect_left(turns, turn), turn)
    return index


def _take(turns: list[Turn], turn: Turn) -> int:
    del turns[index := bisect_left(turns, turn)]
    return index


class Holder(NamedTuple):
    """A run whose Job has not ended, or is being created."""

    kind: str
    namespace: str
    name: str
    database: str


def served(queue: Iterable[Turn], holders: Sequence[Holder], limits: Limits) -> Iterator[Turn]:
    """Who may start now. Whoever has to wait for their Database holds up nobody else."""
    running, busy = len(holders), Counter((h.namespace, h.database) for h in holders)
    for turn in queue:
        if limits.total and running >= limits.total:
            return
        where = turn.where
        if limits.per_database and busy[where] >= limits.per_database:
            continue
        running += 1
        busy[where] += 1
        yield turn


def full(turn: Turn, queue: Sequence[Turn], holders: Sequence[Holder], limits: Limits) -> Full | None:
    """Why it is not this one's turn now, in a sorted queue; None where it is."""
    ahead = list(served(queue[: bisect_left(queue, turn)], holders, limits))
    same = [h for h in holders if (h.namespace, h.database) == turn.where]
    same_ahead = [a for a in ahead if a.where == turn.where]
    if limits.per_database and len(same) + len(same_ahead) >= limits.per_database:
        limit = f'At most {limits.per_database} Jobs run at a time on Database "{turn.database}"'
        return Full(f"{limit} (MAX_RUNNING_JOBS_PER_DATABASE).", _held(turn.namespace, same, same_ahead))
    if limits.total and len(holders) + len(ahead) >= limits.total:
        limit = f"At most {limits.total} Jobs run at a time in all"
        return Full(f"{limit} (MAX_RUNNING_JOBS).", _held(turn.namespace, holders, ahead))
    return None


def _held(namespace: str, holders: Sequence[Holder], ahead: Sequence[Turn]) -> str:
    # What runs in other namespaces is nobody's business here.
    named = [f'{h.kind} "{h.name}"' for h in holders if h.namespace == namespace][:_NAMED]
    others = len(holders) - len(named)
    who = ", ".join([*named, *([f"{others} more"] if others else [])]) or "nobody"
    first = ", and others came first" if ahead else ""
    return f"When this began to wait the slots were held by {who}{first}. It goes on by itself."
