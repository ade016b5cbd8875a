"""Limits of running Jobs, on the real cluster: what is too much waits, says so, and goes on by itself."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from e2e import kit
from e2e.cluster.configs import SYSTEM
from e2e.fleet import rolled_out
from e2e.support import get, items, kubectl, psql, wait_for
from e2e.test_backup import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOYMENT = "deployment/postgres-operator-controller-manager"
NAMES = [f"b-{n}" for n in range(5)]


@contextmanager
def settings(*variables: str) -> Iterator[None]:
    """The operator with other settings, as people change them."""
    try:
        kubectl("set", "env", DEPLOYMENT, "-n", SYSTEM, *variables)
        rolled_out()
        yield
    finally:
        kubectl("rollout", "undo", DEPLOYMENT, "-n", SYSTEM)
        rolled_out()


def phases(namespace: str) -> dict[str, str]:
    found = {b["metadata"]["name"]: b.get("status", {}).get("phase", "") for b in items("backups", namespace)}
    return dict(sorted(found.items()))


@pytest.mark.alone
def test_what_is_too_much_waits_for_a_slot_and_goes_on_in_order(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE held AS SELECT 1 AS n")
    with settings("MAX_RUNNING_JOBS_PER_DATABASE=2"):
        with locked(namespace, "held"):
            for name in NAMES:
                kit.start_backup(namespace, name)
            for name in NAMES[2:]:
                found = kit.wait_reason("backup", name, namespace, "WaitingForSlot")
                message = found["status"]["conditions"][0]["message"]
                assert 'At most 2 Jobs run at a time on Database "shop" (MAX_RUNNING_JOBS_PER_DATABASE).' in message
                assert 'Backup "b-0"' in message
            waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postgres-operator'"
            wait_for(lambda: psql(namespace, "shop-0", waits) == "2", 60, "two dumps to wait for the lock")
            assert list(phases(namespace).values()) == ["InProgress"] * 2 + ["Pending"] * 3
        for name in NAMES:
            kit.completed("backup", name, namespace)
    started = [(get("backup", name, namespace) or {})["status"]["startTime"] for name in NAMES]
    assert started == sorted(started)
