"""Running long commands so that whoever waits sees what is going on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
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


def run(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command to its end and return its stdout, or raise with the end of its output.

    With `log`, everything it prints goes into that file and nothing is returned.
    """
    full_env = {**os.environ, **(env or {})}
    if log:
        with log.open("w") as out:
            done = subprocess.run(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=full_env, cwd=cwd, check=False
            )
        output, stdout = log.read_text(errors="replace"), ""
    else:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, env=full_env, cwd=cwd, check=False, text=True
        )
        output, stdout = done.stdout + done.stderr, done.stdout
    if done.returncode:
        tail = "\n".join(output.splitlines()[-30:])
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{tail}")
    return stdout


def until(what: str, ready: Callable[[], bool], *, within: float, every: float = 0.1) -> None:
    """Poll until `ready` returns true; TimeoutError says what was waited for."""
    deadline = time.monotonic() + within
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within:.0f} s for {what}")
        time.sleep(every)
