"""Who led and who wrote, by the API server's audit log: is there ever one writer only?

The API server's clock is the only one that counts here. Its log has an entry for each request of the
operator, and the contents of each write to the Lease; configs.audit_policy says so.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from e2e.cluster.configs import ACCOUNT, SYSTEM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LEASE = "postgres-operator-controller-manager"
WRITES = ("create", "update", "patch", "delete", "deletecollection")
_AGENT = re.compile(r"postgres-operator \((\S+)\)")
_POD = "authentication.kubernetes.io/pod-name"
# Renewals come every few seconds: this much of the log reaches back to the last one before a test.
_HISTORY_BYTES = 4 << 20


@dataclass(frozen=True)
class Entry:
    """A request that was answered; times are seconds since the epoch."""

    verb: str
    resource: str  # with its subresource: backups/status
    namespace: str
    name: str
    account: str
    pod: str
    identity: str  # by the User-Agent; empty for others than a replica of the operator
    received: float
    answered: float
    code: int
    holder: str | None = None  # that a write to a Lease names; None for everything else
    duration: float = 0.0  # seconds that this holder holds

    @property
    def accepted(self) -> bool:
        return 200 <= self.code < 300

    @property
    def in_doubt(self) -> bool:
        """Whether the client went away first: the write may have been done, or not."""
        return self.code == 504

    @property
    def of_lease(self) -> bool:
        return self.resource == "leases" and (self.namespace, self.name) == (SYSTEM, LEASE)

    def __str__(self) -> str:
        what = f"{self.verb} {self.resource} {self.namespace}/{self.name} -> {self.code}"
        return f"{clock(self.received)} {what} by {self.identity or self.account} in {self.pod or 'no pod'}"


@dataclass(frozen=True)
class Reign:
    """Who held the Lease from when to when: to its release, or as long as the last renewal lasts."""

    identity: str
    since: float
    until: float

    def __str__(self) -> str:
        return f"{self.identity} {clock(self.since)}..{clock(self.until)}"


def clock(seconds: float) -> str:
    """As the operator's log has it."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%H:%M:%S.%f")[:-3]


def parse(line: str | bytes) -> Entry | None:
    """The request of a line of the log; None where another line tells of the same one."""
    raw: dict[str, Any] = json.loads(line)
    # A watch counts when it begins: its answer may last for longer than anybody looks.
    if raw["stage"] != ("ResponseStarted" if raw["verb"] == "watch" else "ResponseComplete"):
        return None
    ref, user = raw.get("objectRef", {}), raw["user"]
    agent = _AGENT.fullmatch(raw.get("userAgent", ""))
    # the object of a patch is a part of it, that of a delete are options
    body = raw.get("requestObject") or {}
    spec = body.get("spec", {})
    return Entry(
        verb=raw["verb"],
        resource="/".join(filter(None, (ref.get("resource"), ref.get("subresource")))),
        namespace=ref.get("namespace", ""),
        name=ref.get("name") or body.get("metadata", {}).get("name", ""),
        account=user.get("username", ""),
        pod=next(iter(user.get("extra", {}).get(_POD, [])), ""),
        identity=agent[1] if agent else "",
        received=_seconds(raw["requestReceivedTimestamp"]),
        answered=_seconds(raw["stageTimestamp"]),
        code=raw.get("responseStatus", {}).get("code", 0),
        holder=spec.get("holderIdentity"),
        duration=float(spec.get("leaseDurationSeconds") or 0),
    )


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def of_operator(entries: Iterable[Entry]) -> list[Entry]:
    """Accepted writes of the operator's account, other than to its Lease; in the order in which they came."""
    found = [e for e in entries if e.account == ACCOUNT and e.verb in WRITES and e.accepted and not e.of_lease]
    return sorted(found, key=lambda e: e.received)


def lease_writes(entries: Iterable[Entry]) -> list[Entry]:
    """Accepted writes to the Lease by anybody, in the order in which they were answered."""
    found = [e for e in entries if e.of_lease and e.verb in WRITES and e.accepted]
    return sorted(found, key=lambda e: e.answered)


def reigns(entries: Iterable[Entry]) -> list[Reign]:
    """All times for which somebody held the Lease.

    The holder knows of it with the answer, and has to have stopped when it asks for its release. A
    renewal counts from when it came. One that takes the Lease too early does not end the other's reign:
    the two overlap.
    """
    found: list[Reign] = []
    for entry in lease_writes(entries):
        latest = found[-1] if found else None
        if not entry.holder:
            # nobody can release what another one holds
            if entry.holder == "" and latest and entry.identity == latest.identity:
                found[-1] = replace(latest, until=min(latest.until, entry.received))
            continue
        until = entry.received + entry.duration
        if latest and latest.identity == entry.holder and entry.received <= latest.until:
            found[-1] = replace(latest, until=until)
        else:
            found.append(Reign(entry.holder, entry.answered, until))
    return found


def offences(entries: Iterable[Entry], ended: Mapping[str, float] | None = None) -> list[str]:
    """Everything that a single writer at a time would not do; empty when all is well.

    `ended` says by identity when its process was seen to be gone. What it sent before may lie in a socket,
    and be read when the API server comes to it: that is no offence as long as nobody else has led meanwhile.
    """
    known = list(entries)
    held = sorted(reigns(known), key=lambda r: r.since)
    found = [f"overlap: {a} and {b}" for n, a in enumerate(held) for b in held[n + 1 :] if b.since < a.until]
    for entry in lease_writes(known):
        if entry.holder and entry.holder != entry.identity:
            found.append(f"holder {entry.holder} named by another: {entry}")
        elif entry.holder is not None and entry.account != ACCOUNT:
            found.append(f"lease written by a stranger: {entry}")
    for entry in of_operator(known):
        begun = [r for r in held if r.since <= entry.received]
        latest = begun[-1] if begun else None
        if not any(r.identity == entry.identity for r in held):
            found.append(f"never led: {entry}")
        elif latest is None or latest.identity != entry.identity:
            found.append(f"did not lead then: {entry}; but {latest or 'nobody'}")
        elif latest.until < entry.received < (ended or {}).get(entry.identity, math.inf):
            found.append(f"did not lead any more: {entry}; {latest}")
        elif entry.pod and not entry.identity.startswith(f"{entry.pod}_"):
            found.append(f"identity of another pod: {entry}")
    return found


class AuditLog:
    """What was requested since this was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")  # follows the file when it is renamed because it has grown too large
        self._rest = b""
        self._entries: list[Entry] = []
        self.ended: dict[str, float] = {}  # when a process was seen to be gone, by its identity
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, end - _HISTORY_BYTES))
        if self._file.tell():
            self._file.readline()  # begins within a line
        # who leads at the start has come to it before
        self._history = lease_writes(self.entries())[-1:]
        self._entries = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def entries(self) -> list[Entry]:
        """All requests since the start."""
        self._take()
        if self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino:
            self._take()  # what came before it was renamed
            self._file.close()
            self._file = self._path.open("rb")
            self._take()
        return self._entries

    def _take(self) -> None:
        # the last line may be half written
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        self._entries += filter(None, map(parse, lines))

    def writes(self) -> list[Entry]:
        """Accepted ones of the operator, other than to its Lease."""
        return of_operator(self.entries())

    def leases(self) -> list[Entry]:
        """Accepted writes to the Lease, with the last one before the start."""
        return [*self._history, *lease_writes(self.entries())]

    def reigns(self) -> list[Reign]:
        return reigns(self.leases())

    def last_renewal(self, identity: str) -> float:
        """When the last write of a holder to the Lease came that was accepted, its release aside."""
        return max(e.received for e in self.leases() if e.holder == identity)

    def late(self, identity: str) -> list[Entry]:
        """Writes of an ended process that came after its end, whatever was answered."""
        since = self.ended[identity]
        return [e for e in self.entries() if e.identity == identity and e.verb in WRITES and e.received > since]

    def released(self, identity: str) -> float | None:
        """When a holder asked for its release; None where it has not, or it was not granted."""
        return next((e.received for e in self.leases() if e.holder == "" and e.identity == identity), None)

    def acquired(self, old: str, since: float) -> float | None:
        """When somebody else than `old` first held the Lease; None while nobody does."""
        return next((r.since for r in self.reigns() if r.identity != old and r.since >= since), None)

    def acted(self, old: str, since: float) -> float | None:
        """When somebody else than `old` first wrote; None while nobody has."""
        return next((e.received for e in self.writes() if e.identity != old and e.received >= since), None)

    def check_single_writer(self) -> None:
        """Raises AssertionError with all that two writers at a time have done."""
        found = offences([*self._history, *self.entries()], self.ended)
        assert not found, "\n".join([f"{len(found)} offences:", *found, "reigns:", *map(str, self.reigns())])
