"""A keyed work queue: a key is worked on by one worker at a time, and never lost.

A key that is added while it is worked on runs once more afterwards. Failures come back with exponential backoff.
"""

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_FIRST_BACKOFF, _LAST_BACKOFF = 0.2, 30.0


class WorkQueue(Generic[K]):
    """For one event loop; not thread-safe."""

    def __init__(self) -> None:
        self._ready: asyncio.Queue[K] = asyncio.Queue()
        self._queued: set[K] = set()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        """Keys that wait for a worker now."""
        return self._ready.qsize()

    def add(self, key: K) -> None:
        """Have the key worked on as soon as possible."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key worked on after a while; the earlier of two times counts."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer and timer.when() <= loop.time() + seconds:
            return
        if timer:
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    async def get(self) -> K:
        """The next key, which the caller has to give back with `done` or `retry`."""
        key = await self._ready.get()
        self._queued.discard(key)
        self._working.add(key)
        return key

    def done(self, key: K, after: float | None = None) -> None:
        """The key was worked on; look at it again after so many seconds, if given."""
        self._failures.pop(key, None)
        self._release(key, after)

    def retry(self, key: K) -> float:
        """Working on the key failed: again after a backoff, which is returned in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        backoff: float = min(_FIRST_BACKOFF * 2 ** min(failures - 1, 10), _LAST_BACKOFF)
        self._release(key, backoff)
        return backoff

    def _release(self, key: K, after: float | None) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        elif after is not None:
            self.add_after(key, after)
