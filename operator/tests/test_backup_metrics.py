import sys
import threading
from datetime import datetime

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support import ago, backup, database
from test_docs import first_cells, read, section

from postgres_operator.backup_metrics import BackupCollector
from postgres_operator.cache import Cache
from postgres_operator.verification_metrics import VerificationCollector

MONDAY, TUESDAY, WEDNESDAY = (f"2026-03-0{day}T03:00:00Z" for day in (2, 3, 4))
SUCCESS, FAILURE = "backup_last_success_timestamp_seconds", "backup_last_failure_timestamp_seconds"
SIZE, DURATION = "backup_last_size_bytes", "backup_last_duration_seconds"
CREATED, READY = "database_created_timestamp_seconds", "database_ready"


def seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def done(name: str, completion: object, *, phase="Completed", db="db", namespace="shop", **status) -> dict:
    state = {"phase": phase, "completionTime": completion, **status}
    return backup(name, spec={"databaseRef": {"name": db}}, status=state, namespace=namespace)


def fill(cache: Cache, *bodies: dict) -> None:
    for body in bodies:
        cache.put(body["kind"], body)


class Replica:
    """A cache, and what a scrape of it shows."""

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache, self.leads = cache or Cache(), True
        self.registry = CollectorRegistry(auto_describe=True)
        self.collector = BackupCollector(self.cache, lambda: self.leads)
        self.registry.register(self.collector)

    def has(self, *bodies: dict) -> None:
        fill(self.cache, *bodies)

    def scrape(self) -> dict[tuple[str, str, str], float]:
        """Value by name (without its prefix), namespace and database; read as Prometheus reads it."""
        found = {}
        for family in text_string_to_metric_families(generate_latest(self.registry).decode()):
            assert family.type == "gauge"
            for sample in family.samples:
                assert sample.labels.keys() == {"namespace", "database"}
                name = sample.name.removeprefix("postgres_operator_")
                key = name, sample.labels["namespace"], sample.labels["database"]
                assert key not in found, "a series is there twice"
                found[key] = sample.value
        return found

    def of(self, name: str) -> float | None:
        """The value for the one Database of most tests."""
        return self.scrape().get((name, "shop", "db"))


@pytest.fixture
def replica() -> Replica:
    return Replica()


def test_the_last_backup_of_a_database(replica):
    replica.has(database(), done("a", MONDAY, startTime="2026-03-02T02:58:30Z", sizeBytes=4096))
    assert replica.scrape() == {
        (CREATED, "shop", "db"): seconds(ago(60)),
        (READY, "shop", "db"): 1,
        (SUCCESS, "shop", "db"): seconds(MONDAY),
        (SIZE, "shop", "db"): 4096,
        (DURATION, "shop", "db"): 90,
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_newest_is_the_one_that_ended_last(replica, order):
    bodies = [done("b", MONDAY, sizeBytes=1), done("c", WEDNESDAY, sizeBytes=3), done("a", TUESDAY, sizeBytes=2)]
    replica.has(*(bodies[n] for n in order))
    assert (replica.of(SUCCESS), replica.of(SIZE)) == (seconds(WEDNESDAY), 3)


def test_times_are_compared_not_their_texts(replica):
    replica.has(done("a", "2026-03-02T05:00:00+04:00", sizeBytes=1), done("b", "2026-03-02T03:00:00Z", sizeBytes=2))
    assert (replica.of(SUCCESS), replica.of(SIZE)) == (seconds(MONDAY), 2)


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_failure_leaves_what_is_known_of_the_last_success(replica, newest_first):
    good = done("good", MONDAY, startTime="2026-03-02T02:59:00Z", sizeBytes=4096)
    bad = done("bad", TUESDAY, phase="Failed", startTime=MONDAY, sizeBytes=1)
    replica.has(*([bad, good] if newest_first else [good, bad]))
    assert replica.scrape() == {
        (SUCCESS, "shop", "db"): seconds(MONDAY),
        (FAILURE, "shop", "db"): seconds(TUESDAY),
        (SIZE, "shop", "db"): 4096,
        (DURATION, "shop", "db"): 60,
    }


@pytest.mark.parametrize("field", ["schemas", "excludeSchemas", "tables", "excludeTables"])
@pytest.mark.parametrize("phase", ["Completed", "Failed"])
def test_a_part_of_a_database_does_not_count(replica, field, phase):
    part = done("part", TUESDAY, phase=phase, sizeBytes=1)
    replica.has(done("whole", MONDAY, sizeBytes=4096), part | {"spec": part["spec"] | {field: ["x"]}})
    assert (replica.of(SUCCESS), replica.of(SIZE), replica.of(FAILURE)) == (seconds(MONDAY), 4096, None)


def test_only_failures(replica):
    bodies = [done(name, at, phase="Failed") for name, at in (("a", WEDNESDAY), ("b", MONDAY))]
    replica.has(*bodies)
    assert replica.scrape() == {(FAILURE, "shop", "db"): seconds(WEDNESDAY)}


def test_size_and_duration_are_those_of_the_last_success_or_none(replica):
    replica.has(done("old", MONDAY, startTime=MONDAY, sizeBytes=4096), done("new", TUESDAY))
    assert replica.scrape() == {(SUCCESS, "shop", "db"): seconds(TUESDAY)}


@pytest.mark.parametrize("phase", [None, "Pending", "InProgress"])
def test_what_has_not_ended_does_not_count(replica, phase):
    replica.has(done("a", MONDAY, sizeBytes=7), done("b", TUESDAY, phase=phase, startTime=TUESDAY, sizeBytes=8))
    assert replica.scrape() == {(SUCCESS, "shop", "db"): seconds(MONDAY), (SIZE, "shop", "db"): 7}


def test_each_database_by_itself(replica):
    replica.has(
        done("a", MONDAY, namespace="shop"),
        done("a", WEDNESDAY, namespace="shop-test"),
        done("b", TUESDAY, namespace="shop-test"),
        done("b", WEDNESDAY, namespace="shop", db="other"),
    )
    assert replica.scrape() == {
        (SUCCESS, "shop", "db"): seconds(MONDAY),
        (SUCCESS, "shop-test", "db"): seconds(WEDNESDAY),
        (SUCCESS, "shop", "other"): seconds(WEDNESDAY),
    }


@pytest.mark.parametrize(
    ("body", "ready"),
    [
        (database(), 1),
        (database(ready=False), 0),
        ({**database(), "status": {}}, 0),
        ({**database(), "status": None}, 0),
        ({k: v for k, v in database().items() if k != "status"}, 0),
        ({**database(), "status": {"ready": "True"}}, 0),
    ],
)
def test_a_database_without_backups_is_there(replica, body, ready):
    replica.has({**body, "kind": "Database"})
    assert replica.scrape() == {(CREATED, "shop", "db"): seconds(ago(60)), (READY, "shop", "db"): ready}


@pytest.mark.parametrize("odd", [None, 7, "yesterday"])
def test_a_database_whose_age_cannot_be_read(replica, odd):
    body = database()
    body["metadata"]["creationTimestamp"] = odd
    replica.has(body)
    assert replica.scrape() == {(READY, "shop", "db"): 1}


def test_series_go_with_the_resources(replica):
    last = done("b", TUESDAY, sizeBytes=2)
    replica.has(database(), done("a", MONDAY, sizeBytes=1), last)
    replica.cache.remove("Backup", last)
    assert (replica.of(SUCCESS), replica.of(SIZE)) == (seconds(MONDAY), 1)
    replica.cache.remove("Backup", done("a", MONDAY))
    replica.cache.remove("Database", database())
    assert replica.scrape() == {}


def test_only_the_leader_tells(replica):
    replica.has(database(), done("a", MONDAY), done("b", MONDAY, phase="Failed"))
    replica.leads = False
    assert replica.scrape() == {}
    replica.leads = True
    assert len(replica.scrape()) == 4
    replica.leads = False
    assert replica.scrape() == {}


def test_registration_neither_scrapes_nor_asks_who_leads():
    def leading() -> bool:
        raise AssertionError("asked before there is an answer")

    CollectorRegistry(auto_describe=True).register(BackupCollector(Cache(), leading))


ODD = {
    "no spec": {"spec": None},
    "no reference": {"spec": {}},
    "a reference without a name": {"spec": {"databaseRef": {}}},
    "a name that is none": {"spec": {"databaseRef": {"name": 7}}},
    "a text for a reference": {"spec": {"databaseRef": "db"}},
    "no status": {"status": None},
    "an empty status": {"status": {}},
    "a list for a status": {"status": ["Completed"]},
    "no end": {"status": {"phase": "Completed"}},
    "null for an end": {"status": {"phase": "Completed", "completionTime": None}},
    "a number for an end": {"status": {"phase": "Completed", "completionTime": 1772420400}},
    "a word for an end": {"status": {"phase": "Failed", "completionTime": "yesterday"}},
    "an end in no time zone": {"status": {"phase": "Completed", "completionTime": "2026-03-04T03:00:00"}},
    "a phase that is none": {"status": {"phase": ["Completed"], "completionTime": TUESDAY}},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_backup_is_passed_over_and_hides_no_other(replica, odd):
    replica.has({**done("odd", WEDNESDAY), **odd}, done("good", MONDAY))
    assert replica.scrape() == {(SUCCESS, "shop", "db"): seconds(MONDAY)}


@pytest.mark.parametrize("missing", ["spec", "status"])
def test_a_backup_without_a_part_is_passed_over(replica, missing):
    replica.has({k: v for k, v in done("a", MONDAY).items() if k != missing})
    assert replica.scrape() == {}


@pytest.mark.parametrize("odd", [None, "4096", [], {}])
def test_odd_results_are_left_out_and_the_time_is_kept(replica, odd):
    replica.has(done("a", MONDAY, startTime=odd, sizeBytes=odd))
    assert replica.scrape() == {(SUCCESS, "shop", "db"): seconds(MONDAY)}


class Vanishing(Cache):
    """What it lists is gone by the time that it is asked for."""

    def get(self, *_: str) -> None:
        return None


def test_what_vanishes_during_a_scrape_is_passed_over():
    replica = Replica(Vanishing())
    replica.has(database(), done("a", MONDAY))
    assert replica.scrape() == {}


def test_the_cache_may_change_during_a_scrape(replica):
    """Objects and namespaces come and go on another thread, as on the event loop, while this one scrapes."""
    replica.has(database(namespace="still"), done("a", MONDAY, namespace="still", sizeBytes=1))
    replica.has(*(done(f"b{n}", MONDAY, namespace="busy") for n in range(300)))
    stop, rounds, scrapes = threading.Event(), 0, 0

    def change() -> None:
        nonlocal rounds
        while not stop.is_set():
            rounds += 1
            coming = [done(f"c{n}", TUESDAY, namespace="busy") for n in range(30)]
            coming += [done("a", TUESDAY, namespace=f"new-{rounds}-{n}") for n in range(3)]
            replica.has(*coming)
            for body in coming:
                replica.cache.remove("Backup", body)

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=change)
    thread.start()
    try:
        sys.setswitchinterval(1e-6)
        while rounds < 200 or scrapes < 50:
            scrapes += 1
            found = replica.scrape()
            assert found[SUCCESS, "still", "db"] == seconds(MONDAY)
            assert found[SUCCESS, "busy", "db"] in (seconds(MONDAY), seconds(TUESDAY))
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_every_metric_is_documented(replica):
    collectors = (replica.collector, VerificationCollector(replica.cache, lambda: True))
    names = {family.name for collector in collectors for family in collector.describe()}
    assert set(first_cells(section(read("docs/observability.md"), "Metrics of Databases and Backups"))) == names
