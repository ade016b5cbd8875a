"""How old the last backup of each Database is: metrics that are read from the resources at each scrape.

So they are right after a restart as well, and end together with the resources. Nothing here may raise: one odd object
would take all metrics away.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .api.backup import selection
from .cache import Cache
from .decide.actions import Body

Labels = tuple[str, str]  # namespace and name of a Database
_Last = dict[Labels, tuple[float, Body]]  # when its newest Backup ended, and the status of that


class ResourceCollector(Collector):
    """For the registry; only the leader yields samples, so that each series exists once among the replicas.

    A scrape has a thread of its own, on which `leading` is called too, and the event loop goes on changing the cache
    meanwhile. That is safe: `Cache.keys` takes copies, `Cache.get` of a namespace that has come up there is a mere
    look-up, and an object in the cache is replaced, never changed.
    """

    def __init__(self, cache: Cache, leading: Callable[[], bool]) -> None:
        self._cache = cache
        self._leading = leading

    def describe(self) -> Sequence[Metric]:
        """The names; without this the registry would scrape to learn them."""
        return self.families()

    def collect(self) -> Sequence[Metric]:
        """What the resources say now."""
        families = self.families()
        if self._leading():
            self.fill(*families)
        return families

    def families(self) -> tuple[GaugeMetricFamily, ...]:
        """The metrics, without samples."""
        raise NotImplementedError

    def fill(self, *families: GaugeMetricFamily) -> None:
        """Add the samples."""
        raise NotImplementedError

    def all(self, kind: str) -> Iterator[tuple[Labels, Body]]:
        """Namespace, name and content of each object of a kind."""
        for key in self._cache.keys(kind):
            if body := self._cache.get(*key):  # it may be gone since
                yield key[1:], body


class BackupCollector(ResourceCollector):
    """How old the last backup of each Database is."""

    def families(self) -> tuple[GaugeMetricFamily, ...]:
        """The metrics, without samples."""
        labels = ("namespace", "database")
        return tuple(
            GaugeMetricFamily(f"postgres_operator_{name}", text, labels=labels)
            for name, text in (
                ("database_created_timestamp_seconds", "When the Database was created."),
                ("database_ready", "1 while the Database is Ready, otherwise 0."),
                ("backup_last_success_timestamp_seconds", "When the last Backup that is Completed ended."),
                ("backup_last_failure_timestamp_seconds", "When the last Backup that is Failed ended."),
                ("backup_last_size_bytes", "Size of the last Backup that is Completed."),
                ("backup_last_duration_seconds", "Time that the last Backup that is Completed took."),
            )
        )

    def fill(self, *families: GaugeMetricFamily) -> None:
        """Add the samples."""
        created, ready, success, failure, size, duration = families
        for labels, body in self.all("Database"):
            ready.add_metric(labels, _is_ready(body))
            if (at := seconds(body["metadata"].get("creationTimestamp"))) is not None:
                created.add_metric(labels, at)
        completed, failed = self._last()
        for labels, (at, _) in failed.items():
            failure.add_metric(labels, at)
        for labels, (at, status) in completed.items():
            success.add_metric(labels, at)
            if isinstance(bytes_ := status.get("sizeBytes"), int):
                size.add_metric(labels, bytes_)
            if (start := seconds(status.get("startTime"))) is not None:
                duration.add_metric(labels, at - start)

    def _last(self) -> tuple[_Last, _Last]:
        """The last Backups that succeeded, and the last that failed; no alert may take a part of a database for one."""
        completed, failed = _Last(), _Last()
        for (namespace, _), body in self.all("Backup"):
            match body:
                case {
                    "spec": {"databaseRef": {"name": str(database)}} as spec,
                    "status": {"phase": "Completed" | "Failed" as phase, "completionTime": time},
                } if (at := seconds(time)) is not None and not selection(spec):
                    last = completed if phase == "Completed" else failed
                    before = last.get((namespace, database))
                    if before is None or at > before[0]:
                        last[namespace, database] = at, body["status"]
        return completed, failed


def _is_ready(body: Body) -> bool:
    match body:
        case {"status": {"ready": True}}:
            return True
    return False


def seconds(time: object) -> float | None:
    """The time of a resource in seconds since the epoch; None where it is none."""
    try:
        parsed = datetime.fromisoformat(time) if isinstance(time, str) else None
    except ValueError:
        return None
    # Without an offset it would be read in the time zone of this process.
    return parsed.timestamp() if parsed and parsed.tzinfo else None
