"""Whether the last Backup of each Database that was verified can be restored, read from the resources at each scrape.

As with `backup_metrics`, nothing here may raise, and a scrape runs on a thread of its own.
"""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily

from .api.backup import selection
from .backup_metrics import Labels, ResourceCollector, seconds


class VerificationCollector(ResourceCollector):
    """The newest outcomes of the verifications of each Database's Backups."""

    def families(self) -> tuple[GaugeMetricFamily, ...]:
        """The metrics, without samples."""
        labels = ("namespace", "database")
        return (
            GaugeMetricFamily(
                "postgres_operator_backup_verified",
                "1 if the last verification that found something out found a Backup good, 0 if bad.",
                labels=labels,
            ),
            GaugeMetricFamily(
                "postgres_operator_backup_last_verified_timestamp_seconds",
                "When a Backup was last found good by its verification.",
                labels=labels,
            ),
        )

    def fill(self, *families: GaugeMetricFamily) -> None:
        """Add the samples."""
        verified, last_good = families
        found: dict[Labels, dict[str, float]] = {}
        for (namespace, _), body in self.all("Backup"):
            match body:
                case {
                    "spec": {"databaseRef": {"name": str(database)}} as spec,
                    "status": {"conditions": list(conditions)},
                } if not selection(spec):
                    for status, at in _outcomes(conditions):
                        times = found.setdefault((namespace, database), {})
                        times[status] = max(at, times.get(status, 0.0))
        for labels, times in found.items():
            good = times.get("True", 0.0)
            verified.add_metric(labels, good > times.get("False", 0.0))
            if good:
                last_good.add_metric(labels, good)


def _outcomes(conditions: list[object]) -> Iterator[tuple[str, float]]:
    """What a verification has found out, True or False, and when."""
    for condition in conditions:
        match condition:
            case {"type": "Verified", "status": "True" | "False" as status, "lastTransitionTime": time}:
                if (at := seconds(time)) is not None:
                    yield status, at
