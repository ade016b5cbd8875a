"""Processes of a container, as the node sees them: from there even the first one can be killed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from e2e.cluster import select
from e2e.support import get, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIND = """
for file in $(grep -ls "$0" /proc/[0-9]*/cgroup); do
  process=${file%/cgroup}
  [ -z "$1" ] || [ "$(cat "$process/comm" 2>/dev/null)" = "$1" ] || continue
  echo "${process#/proc/}"
done
"""


def processes(namespace: str, pod: str, container: str, program: str = "") -> list[str]:
    """Ids of all processes of a container, or of those that run this program; they are the node's."""
    status = (get("pod", pod, namespace) or {}).get("status", {})
    statuses = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
    identity = next((s.get("containerID", "") for s in statuses if s["name"] == container), "")
    if not identity:
        return []
    return select().enter("sh", "-c", _FIND, identity.rpartition("/")[2], program).split()


def send(signal: str, pids: list[str]) -> None:
    """A signal to processes, some of which may have ended."""
    select().enter("sh", "-c", 'kill -s "$0" "$@" || true', signal, *pids)


def kill(namespace: str, pod: str, container: str, program: str = "") -> None:
    """SIGKILL to one program of a container, once it runs, or to all of the container."""
    running = lambda: processes(namespace, pod, container, program)  # noqa: E731 -- it is only passed on
    send("KILL", wait_for(running, 30, f"{program or 'a process'} in {pod}/{container}"))


@contextmanager
def stopped(namespace: str, pod: str, container: str, program: str = "") -> Iterator[None]:
    """A container, or one program of it, that does nothing, and does not know it."""
    pids = processes(namespace, pod, container, program)
    assert pids, f"{pod}/{container} does not run"
    send("STOP", pids)
    try:
        yield
    finally:
        send("CONT", pids)
