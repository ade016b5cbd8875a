"""When each ScheduledBackup last did what it should: metrics that are read from the resources at each scrape.

As with `backup_metrics`, nothing here may raise, and a scrape runs on a thread of its own.
"""

from prometheus_client.core import GaugeMetricFamily

from .backup_metrics import ResourceCollector, seconds
from .decide.actions import Body

_TIMES = (
    ("last_schedule", "lastScheduleTime", "The slot that a Backup was created for last."),
    ("next_schedule", "nextScheduleTime", "The slot of the next Backup; in the past while that waits."),
    ("last_success", "lastSuccessfulTime", "When a Backup of the schedule last was Completed."),
    ("last_missed", "lastMissedTime", "The last slot that no Backup was created for in time."),
)


class ScheduleCollector(ResourceCollector):
    """The times of each ScheduledBackup."""

    def families(self) -> tuple[GaugeMetricFamily, ...]:
        """The metrics, without samples."""
        labels = ("namespace", "schedule")
        return tuple(
            GaugeMetricFamily(f"postgres_operator_schedule_{name}", text, labels=labels)
            for name, text in (
                ("created_timestamp_seconds", "When the ScheduledBackup was created."),
                ("suspended", "1 while it is suspended, otherwise 0."),
                *((f"{name}_timestamp_seconds", text) for name, _, text in _TIMES),
            )
        )

    def fill(self, *families: GaugeMetricFamily) -> None:
        """Add the samples."""
        created, suspended, *times = families
        for labels, body in self.all("ScheduledBackup"):
            if (at := seconds(body["metadata"].get("creationTimestamp"))) is not None:
                created.add_metric(labels, at)
            suspended.add_metric(labels, _is_suspended(body))
            match body:
                case {"status": dict(status)}:
                    pass
                case _:
                    continue
            for family, (_, field, _) in zip(times, _TIMES, strict=True):
                if (at := seconds(status.get(field))) is not None:
                    family.add_metric(labels, at)


def _is_suspended(body: Body) -> bool:
    match body:
        case {"spec": {"suspend": True}}:
            return True
    return False
