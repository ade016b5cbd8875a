"""Whether the watches still show what happens, judged by what the API server has confirmed in other ways.

A watch may be silent for hours because nothing happens, so silence proves nothing. But the answer to each write, and
what a relist finds, names a version that the watch of that kind must show as well.
"""

import time
from collections.abc import Callable

from .cache import version
from .decide.actions import Body

# Longer than it takes kopf to notice a dead connection (70 s) and to watch anew.
_STALE_SECONDS = 90

_Stream = tuple[str, str]  # kind, namespace


class Freshness:
    """The event loop tells what it sees; the probes' threads ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: dict[_Stream, int] = {}
        self._confirmed: dict[_Stream, int] = {}
        self._awaited: dict[_Stream, tuple[int, float]] = {}  # a version still to be shown, and since when
        self._in_contact: tuple[float, float] | None = (
            None  # first and last of the requests that were answered in a row
        )

    def contact(self, answered: bool) -> None:
        """A request to the API server was answered, or not."""
        now = self._clock()
        before = self._in_contact  # once: two threads make requests
        self._in_contact = (before[0] if before else now, now) if answered else None

    def confirmed(self, kind: str, body: Body) -> None:
        """The API server holds this version: the watch has to show it, or a later one."""
        stream = _stream(kind, body)
        newest = self._confirmed[stream] = max(version(body), self._confirmed.get(stream, 0))
        if newest > self._shown.get(stream, 0):
            self._awaited.setdefault(stream, (newest, self._clock()))

    def shown(self, kind: str, body: Body) -> None:
        """The watch has shown this version."""
        stream = _stream(kind, body)
        newest = self._shown[stream] = max(version(body), self._shown.get(stream, 0))
        if stream in self._awaited and self._awaited[stream][0] <= newest:
            del self._awaited[stream]
            if (later := self._confirmed[stream]) > newest:
                self._awaited[stream] = later, self._clock()

    def gone(self, kind: str, body: Body) -> None:
        """A relist has found that the object is gone, so that no watch will show this version any more."""
        stream = _stream(kind, body)
        if stream in self._awaited and self._awaited[stream][0] <= version(body):
            del self._awaited[stream]

    @property
    def stale(self) -> str:
        """The kind whose watch shows nothing although the API server answers; empty where all is well."""
        contact = self._in_contact
        if contact:
            began, last = contact
            for stream in list(self._awaited):
                _, since = self._awaited.get(stream, (0, last))
                # While the API server is away, and for a while after, no watch can be expected to show anything.
                if last - max(since, began) > _STALE_SECONDS:
                    return stream[0]
        return ""


def _stream(kind: str, body: Body) -> _Stream:
    return kind, body["metadata"]["namespace"]
