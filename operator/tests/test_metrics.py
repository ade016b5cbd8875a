import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from postgres_operator import metrics

SOURCES = Path(metrics.__file__).parents[1]


def value(name, **labels):
    return REGISTRY.get_sample_value(name, labels)


def exposed() -> dict[str, float]:
    """The samples without labels that a process shows which has done nothing yet."""
    code = "from postgres_operator import metrics; import prometheus_client as p; print(p.generate_latest().decode())"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCES)
    families = text_string_to_metric_families(text.stdout)
    return {s.name: s.value for f in families for s in f.samples if not s.labels}


def test_who_has_never_led_says_so():
    # Without these samples the sum over all replicas would be empty when nobody leads, and no alert would come.
    fresh = exposed()
    assert fresh["postgres_operator_is_leader"] == 0
    assert fresh["postgres_operator_leader_elections_total"] == 0
    assert fresh["postgres_operator_leader_election_timestamp_seconds"] == 0


@pytest.mark.parametrize(
    ("counter", "name", "labels"),
    [
        (metrics.API_REQUESTS, "postgres_operator_api_requests_total", {"verb": "patch", "code": "409"}),
        (metrics.API_REQUESTS, "postgres_operator_api_requests_total", {"verb": "list", "code": "error"}),
        (metrics.JOBS_CREATED, "postgres_operator_jobs_created_total", {"kind": "backup"}),
        (metrics.JOBS_FINISHED, "postgres_operator_jobs_finished_total", {"kind": "restore", "result": "failed"}),
    ],
)
def test_what_is_counted_shows_under_its_labels(counter, name, labels):
    before = value(name, **labels) or 0
    counter.labels(**labels).inc()
    assert value(name, **labels) == before + 1
