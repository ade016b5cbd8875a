"""The queue for slots: runs sleep in it, and as many are woken as there are free slots.

It is made of what is there: who holds a slot is read from the Jobs in the cache, and a new leader looks at every run
once, the oldest first, so that each finds its turn again.
"""

from collections.abc import Callable

from . import names
from .api.backup import Backup
from .cache import Cache, Key
from .decide.run import Full
from .decide.run_status import Run
from .decide.slots import NO_LIMITS, Holder, Limits, Line, Turn, full, served
from .exclusion import Starting


class Slots:
    """For one event loop; `wake` is told whose turn it is."""

    def __init__(self, cache: Cache, starting: Starting, limits: Limits, wake: Callable[[Key], None]) -> None:
        self._cache, self._starting, self._limits, self._tell = cache, starting, limits, wake
        self._line = Line(limits)
        self._turns: dict[Key, Turn] = {}
        self._deciding: set[Key] = set()
        self._asleep: set[Key] = set()

    @property
    def waiting(self) -> int:
        """How many runs sleep."""
        return len(self._asleep)

    def begin(self, key: Key) -> None:
        """The key is worked on from now on."""
        self._asleep.discard(key)
        self._deciding.add(key)

    def enter(self, run: Run) -> None:
        """This run has no Job yet: until it is decided on, nobody behind it gets its slot."""
        if self._limits == NO_LIMITS:
            return
        meta = run.metadata
        turn = Turn(
            isinstance(run, Backup), meta.creation_timestamp, meta.namespace, meta.name, run.spec.database_ref.name
        )
        if self._turns.get(run.key) != turn:
            self.leave(run.key)
            self._turns[run.key] = turn
            self._line.add(turn)

    def full(self, run: Run) -> Full | None:
        """Why there is no slot for it now, if there is none."""
        turn = self._turns.get(run.key)
        return full(turn, self._line.front, self._holders(), self._limits) if turn else None

    def sleep(self, key: Key) -> None:
        """All it lacks is a slot: it keeps its turn, and is woken when that has come."""
        self._deciding.discard(key)
        self._asleep.add(key)

    def leave(self, key: Key) -> None:
        """It has a slot, or wants none."""
        if turn := self._turns.pop(key, None):
            self._line.remove(turn)

    def end(self, key: Key) -> None:
        """The key was worked on, whatever came of it."""
        if key in self._deciding:
            self._deciding.remove(key)
            self.leave(key)
        self.wake()

    def wake(self) -> None:
        """A slot may be free: wake whoever gets it."""
        if not self._asleep:
            return
        for turn in list(served(self._line.front, self._holders(), self._limits)):
            if turn.key in self._asleep:
                self._asleep.remove(turn.key)
                self._tell(turn.key)

    def _holders(self) -> list[Holder]:
        holders, jobs = [], set()
        for (_, namespace, name), body in self._cache.unfinished.items():
            labels = body["metadata"]["labels"]
            if labels.get(names.LABEL_KIND) in ("backup", "restore"):
                jobs.add((namespace, name))
                owner = next((o["name"] for o in body["metadata"].get("ownerReferences", [])), name)
                database = labels.get(names.LABEL_DATABASE, "")
                holders.append(Holder(labels[names.LABEL_KIND].title(), namespace, owner, database))
        for (kind, namespace, name), start in self._starting.items():
            if (namespace, start.job) not in jobs:  # nor yet in the cache
                holders.append(Holder(kind, namespace, name, start.database))
        return holders
