from datetime import datetime

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support import ago, schedule
from test_docs import first_cells, read, section

from postgres_operator.cache import Cache
from postgres_operator.schedule_metrics import ScheduleCollector

MONDAY, TUESDAY, WEDNESDAY, THURSDAY = (f"2026-03-0{day}T03:00:00Z" for day in (2, 3, 4, 5))


def seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


class Replica:
    """A cache, and what a scrape of it shows."""

    def __init__(self) -> None:
        self.cache, self.leads = Cache(), True
        self.registry = CollectorRegistry(auto_describe=True)
        self.collector = ScheduleCollector(self.cache, lambda: self.leads)
        self.registry.register(self.collector)

    def has(self, body: dict) -> None:
        self.cache.put("ScheduledBackup", body)

    def scrape(self) -> dict[tuple[str, str], float]:
        """Value by name (without what all have in common) and schedule."""
        families = text_string_to_metric_families(generate_latest(self.registry).decode())
        return {
            (sample.name.removeprefix("postgres_operator_schedule_"), "/".join(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }


@pytest.fixture
def replica() -> Replica:
    return Replica()


def test_what_a_schedule_shows(replica):
    status = {
        "lastScheduleTime": WEDNESDAY,
        "nextScheduleTime": THURSDAY,
        "lastSuccessfulTime": TUESDAY,
        "lastMissedTime": MONDAY,
    }
    replica.has(schedule(status=status))
    assert replica.scrape() == {
        ("created_timestamp_seconds", "shop/nightly"): seconds(ago(60)),
        ("suspended", "shop/nightly"): 0,
        ("last_schedule_timestamp_seconds", "shop/nightly"): seconds(WEDNESDAY),
        ("next_schedule_timestamp_seconds", "shop/nightly"): seconds(THURSDAY),
        ("last_success_timestamp_seconds", "shop/nightly"): seconds(TUESDAY),
        ("last_missed_timestamp_seconds", "shop/nightly"): seconds(MONDAY),
    }


def test_each_schedule_by_itself(replica):
    replica.has(schedule("a", spec={"suspend": True}))
    replica.has(schedule("b"))
    found = replica.scrape()
    assert (found["suspended", "shop/a"], found["suspended", "shop/b"]) == (1, 0)


def test_only_the_leader_tells(replica):
    replica.has(schedule())
    replica.leads = False
    assert replica.scrape() == {}


@pytest.mark.parametrize("odd", [None, 7, "soon", {}, {"nextScheduleTime": "soon"}, {"nextScheduleTime": 7}])
def test_what_is_odd_is_left_out(replica, odd):
    replica.has({**schedule(), "status": odd, "spec": odd})
    assert replica.scrape() == {
        ("created_timestamp_seconds", "shop/nightly"): seconds(ago(60)),
        ("suspended", "shop/nightly"): 0,
    }


def test_every_metric_is_documented(replica):
    names = {family.name for family in replica.collector.describe()}
    assert set(first_cells(section(read("docs/observability.md"), "Metrics of schedules"))) == names
