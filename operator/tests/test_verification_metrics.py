import pytest
from prometheus_client import CollectorRegistry
from support import backup

from postgres_operator.cache import Cache
from postgres_operator.verification_metrics import VerificationCollector

MONDAY, TUESDAY = 1772420400.0, 1772506800.0  # 3 am, UTC
TIMES = {MONDAY: "2026-03-02T03:00:00Z", TUESDAY: "2026-03-03T03:00:00Z"}


def verified(name: str, status: str, at: float, **spec) -> dict:
    condition = {"type": "Verified", "status": status, "lastTransitionTime": TIMES[at]}
    complete = {"type": "Complete", "status": "True", "lastTransitionTime": TIMES[MONDAY]}
    return backup(name, spec=spec, status={"phase": "Completed", "conditions": [complete, condition]})


def scrape(*bodies: dict) -> tuple[float | None, float | None]:
    """Whether the Database's Backups are verified, and when one was last."""
    cache, registry = Cache(), CollectorRegistry(auto_describe=True)
    for body in bodies:
        cache.put("Backup", body)
    registry.register(VerificationCollector(cache, lambda: True))
    labels = {"namespace": "shop", "database": "db"}
    names = ("backup_verified", "backup_last_verified_timestamp_seconds")
    verified, at = (registry.get_sample_value(f"postgres_operator_{name}", labels) for name in names)
    return verified, at


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        pytest.param([backup(status={"phase": "Completed"})], (None, None), id="none-was-verified"),
        pytest.param([verified("a", "True", MONDAY)], (1, MONDAY), id="good"),
        pytest.param([verified("a", "False", MONDAY)], (0, None), id="bad"),
        pytest.param([verified("a", "Unknown", MONDAY)], (None, None), id="nothing-found-out"),
        pytest.param([verified("a", "True", MONDAY), verified("b", "False", TUESDAY)], (0, MONDAY), id="bad-since"),
        pytest.param([verified("a", "True", TUESDAY), verified("b", "False", MONDAY)], (1, TUESDAY), id="good-again"),
        pytest.param(
            [verified("a", "True", MONDAY), verified("b", "Unknown", TUESDAY)],
            (1, MONDAY),
            id="the-last-one-is-unknown",
        ),
        pytest.param([verified("a", "True", MONDAY, tables=[{"name": "t"}])], (None, None), id="a-part-does-not-count"),
        pytest.param([backup(status={"conditions": "?"}), verified("b", "True", MONDAY)], (1, MONDAY), id="an-odd-one"),
    ],
)
def test_the_last_outcome_counts(bodies, expected):
    assert scrape(*bodies) == expected
