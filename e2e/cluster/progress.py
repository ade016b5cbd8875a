"""Running long commands so that whoever waits sees what is going on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


def say(text: str) -> None:
    """Print to stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(what: str, *, every: float = 10) -> Iterator[None]:
    """Announce a step, repeat it with the elapsed seconds while it lasts, say when it is done."""
    began, done = time.monotonic(), threading.Event()

    def repeat() -> None:
        while not done.wait(every):
            say(f"  {what}: {time.monotonic() - began:.0f} s so far")

    say(what)
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    say(f"  {what}: done in {time.monotonic() - began:.1f} s")


def run(command: Sequence[str | Path], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command to its end and return its stdout, or raise with the end of its output."""
    done = subprocess.run(
        command,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        check=False,
        text=True,
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{tail}")
    return done.stdout


def until(what: str, ready: Callable[[], bool], *, within: float, every: float = 0.1) -> None:
    """Poll until `ready` returns true; TimeoutError says what was waited for."""
    deadline = time.monotonic() + within
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within:.0f} s for {what}")
        time.sleep(every)
