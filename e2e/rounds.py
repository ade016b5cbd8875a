"""Backups of one Database, in rounds of many at once, while something goes wrong; and what came of them."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from e2e import fleet, kit
from e2e.support import items, kubectl, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from e2e.audit import AuditLog, Entry

REPETITIONS = int(os.environ.get("E2E_REPETITIONS", "2"))
SIZE = 20
# More than a repetition has ever taken: a test must not hang for ever.
REPETITION_SECONDS = 300
LABEL_UID = "database.example.com/uid"


class Figures:
    """Seconds and numbers, by what they are of; one for each repetition."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, **seconds: float) -> None:
        for what, value in seconds.items():
            self._known[what, "8.2f}s"].append(value)

    def count(self, **numbers: int) -> None:
        for what, value in numbers.items():
            self._known[what, "6}   "].append(value)

    def show(self, title: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Print a table, whether or not the test has succeeded."""
        lines = [f"\n{title:<50}{'n':>4}{'min':>9}{'median':>9}{'max':>9}"]
        for (what, style), all_ in self._known.items():
            figures = [min(all_), statistics.median_low(all_), max(all_)]
            cells = "".join(f"{{:{style}".format(value) for value in figures)
            lines.append(f"  {what.replace('_', ' '):<48}{len(all_):>4}{cells}")
        with capsys.disabled():
            print("\n".join(lines), flush=True)


class Rounds:
    """Backups in a namespace with one Database, and the Jobs that were made for them."""

    def __init__(self, namespace: str, log: AuditLog) -> None:
        self.namespace, self.log = namespace, log
        self._count = 0
        self._expected: set[str] = set()
        kit.ready_database(namespace)
        kit.back_up(namespace)  # makes the claim, which later ones find

    def start(self, count: int = SIZE) -> None:
        """Create Backups, all at once."""
        names = [f"b{self._count + n:03}" for n in range(count)]
        self._count += count
        self._expected.update(names)
        backups = [kit.resource("Backup", name, {"databaseRef": {"name": "shop"}}) for name in names]
        bundle = {"apiVersion": "v1", "kind": "List", "items": backups}
        kubectl("create", "-n", self.namespace, "-f", "-", stdin=json.dumps(bundle))

    def jobs_asked_for(self) -> list[Entry]:
        """Requests to make a Job in this namespace, whatever was answered."""
        return [
            e for e in self.log.entries() if (e.verb, e.resource, e.namespace) == ("create", "jobs", self.namespace)
        ]

    def jobs_made(self) -> list[Entry]:
        """Those that the API server granted."""
        return [e for e in self.jobs_asked_for() if e.accepted]

    def start_and_wait_for_jobs(self, jobs: int) -> None:
        """Create Backups, and go on when so many of their Jobs were made."""
        before = len(self.jobs_made())
        self.start()
        wait_for(lambda: len(self.jobs_made()) >= before + jobs, 60, f"{jobs} Jobs", every=0.02)

    def first_write(self, since: float, old: str = "") -> float:
        """When somebody, other than an old leader, first wrote since then."""
        return wait_for(lambda: self.log.acted(old, since), 40, "the next leader to write", every=0.05)

    @contextmanager
    def repetition(self, figures: Figures, jobs: int = 5, *, unseen: bool = False) -> Iterator[fleet.Replica]:
        """Begin a round, yield its leader when so many Jobs were made; afterwards all is as it should be."""
        fleet.wait_fleet()
        began, before, old = time.time(), self.ended(), fleet.leader()
        self.start_and_wait_for_jobs(jobs)
        yield old
        fleet.renew()
        self.finish()
        self.check(before, unseen=unseen)
        self.log.check_single_writer()
        figures.add(whole_repetition=time.time() - began)

    def ended(self) -> dict[str, str]:
        """Phases of Backups that ended, by their UIDs."""
        found = {b["metadata"]["uid"]: b.get("status", {}).get("phase", "") for b in items("backups", self.namespace)}
        return {uid: phase for uid, phase in found.items() if phase in kit.TERMINAL}

    def finish(self, deadline: float = 240) -> None:
        """Wait until all Backups have ended; a kubelet whose API server is killed again and again is slow to return."""

        def left() -> list[str]:
            phases = {b["metadata"]["name"]: b.get("status", {}).get("phase") for b in items("backups", self.namespace)}
            return sorted(name for name in self._expected if phases.get(name) not in kit.TERMINAL)

        try:
            wait_for(lambda: not left(), deadline, "all Backups to end", every=1)
        except AssertionError as error:
            raise AssertionError(f"{error}; not ended: {left()}") from error

    def check(self, before: dict[str, str], *, unseen: bool = False) -> None:
        """All Backups completed with one Job each, and none that had ended has changed.

        With `unseen`, the API server may have taken a write without having logged it: it was killed.
        """
        backups = {b["metadata"]["name"]: b for b in items("backups", self.namespace)}
        assert self._expected <= backups.keys()
        bad = {n: b["status"] for n, b in backups.items() if b["status"]["phase"] != "Completed"}
        assert not bad, json.dumps(bad, indent=1)
        assert before.items() <= self.ended().items()
        jobs: dict[str, list[str]] = defaultdict(list)
        for job in items("jobs", self.namespace):
            jobs[job["metadata"]["labels"].get(LABEL_UID, "")].append(job["metadata"]["name"])
        made = Counter(e.name for e in self.jobs_made())
        doubtful = {e.name for e in self.jobs_asked_for() if e.in_doubt}
        for name, backup in backups.items():
            job = backup["status"]["jobRef"]["name"]
            assert jobs[backup["metadata"]["uid"]] == [job], f"Jobs of {name}"
            # one that nobody was told of is there all the same: who had asked for it was gone by then
            untold = made[job] == 0 and (unseen or job in doubtful)
            assert made[job] == 1 or untold, f"Job {job} of {name} was made {made[job]} times"
