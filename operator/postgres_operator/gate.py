"""The write gate: open while this process surely holds the lease, shut before anybody else can take it."""

import asyncio
import faulthandler
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .errors import ApiError, NotLeading

# The API server works on a request for no longer; what has had no answer may still be done as long.
_IN_DOUBT_SECONDS = 60
# The kubelet shows what is in it as the message of the ended container. A pipe that nobody reads, as the log may be
# one, could hold up the process that is to end.
_LAST_WORDS = Path("/dev/termination-log")


def end_after(seconds: float) -> None:
    """End the process then, with exit code 1, unless this is called again before.

    A thread in C: neither a blocked event loop nor code that keeps the interpreter's lock can stop it. It leaves the
    stacks of all threads in the container's termination message.
    """
    faulthandler.dump_traceback_later(max(seconds, 0.001), exit=True, file=_last_words)


def _open_last_words() -> TextIO:
    try:
        return _LAST_WORDS.open("w")
    except OSError:  # not in a container
        return sys.stderr


_last_words = _open_last_words()


class WriteGate:
    """Every write passes here. The elector's thread keeps it open, the event loop's tasks go through."""

    def __init__(self, end_after: Callable[[float], None] = end_after) -> None:
        self._end_after = end_after
        self._open_until = -math.inf
        self._shut = False
        self._under_way = 0
        self._in_doubt_until = -math.inf
        self._idle = asyncio.Event()
        self._idle.set()

    def hold(self, until: float) -> None:
        """Stay open until that time of the monotonic clock, and not beyond: the process ends if it is not extended."""
        if until < math.inf:
            self._end_after(until - time.monotonic())
        self._open_until = until

    @property
    def is_open(self) -> bool:
        """Whether a write may begin now."""
        return not self._shut and time.monotonic() < self._open_until

    @contextmanager
    def write(self) -> Iterator[None]:
        """Around each write.

        Raises:
            NotLeading: It must not be made.
        """
        if not self.is_open:
            raise NotLeading("This replica does not lead (any more): it writes nothing.")
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        except (ApiError, asyncio.CancelledError):  # given up on, without an answer
            self._in_doubt_until = time.monotonic() + _IN_DOUBT_SECONDS
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def shut(self, seconds: float) -> bool:
        """Let no write begin from now on, and wait so long for those under way; whether all have surely ended."""
        self._shut = True
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return time.monotonic() >= self._in_doubt_until
