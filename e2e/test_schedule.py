"""Schedules on a real cluster, slot by slot, while the leader goes."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from e2e import fleet, kit
from e2e.cluster.configs import SYSTEM
from e2e.support import apply, delete, get, items, kubectl, wait_for, wait_gone
from e2e.test_backup import locked

if TYPE_CHECKING:
    from e2e.audit import AuditLog

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]
LABEL = "database.example.com/schedule"
# From a slot to the end of a small Backup, on a busy machine.
PROMPTLY = 25.0
# Between two slots: what is done in one takes less than a minute, but not on a busy machine.
EVERY = 120
CRON = "*/2 * * * *"


def schedule(namespace: str, name: str, database: str, **spec: Any) -> None:
    template = {"spec": {"databaseRef": {"name": database}}}
    apply(kit.resource("ScheduledBackup", name, {"schedule": CRON, "template": template, **spec}), namespace)


def slot(minute: float) -> str:
    return datetime.fromtimestamp(minute, UTC).strftime("%Y%m%d%H%M")


def instant(minute: float) -> str:
    return datetime.fromtimestamp(minute, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def until(moment: float) -> None:
    wait_for(lambda: time.time() >= moment, EVERY + 30, f"{moment:.0f}", every=0.05)


def made(namespace: str, name: str) -> list[str]:
    """Slots of the Backups of a schedule that are there."""
    found = items("backups", namespace, f"{LABEL}={name}")
    return sorted(b["metadata"]["name"].removeprefix(f"{name}-") for b in found)


def ready(namespace: str, name: str) -> tuple[str, str]:
    """Reason and message of its condition; empty where there is none yet."""
    conditions = (get("scheduledbackup", name, namespace) or {}).get("status", {}).get("conditions", [])
    return next(((c["reason"], c["message"]) for c in conditions), ("", ""))


def status(namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = (get("scheduledbackup", name, namespace) or {}).get("status", {})
    return found


def test_three_slots_of_three_schedules(namespace: str, log: AuditLog) -> None:
    """`free` runs at each slot; the first Backups of `held` and `swapped` hang, at a lock."""
    fleet.wait_fleet()
    kit.create_database(namespace, "depot")
    kit.ready_database(namespace)
    kit.wait_ready(namespace, "depot")
    kit.sql(namespace, "CREATE TABLE orders AS SELECT 1 AS id")
    if time.time() % EVERY > EVERY - 15:
        until(time.time() // EVERY * EVERY + EVERY)
    first = time.time() // EVERY * EVERY + EVERY
    second, third = first + EVERY, first + 2 * EVERY
    with locked(namespace, "orders"):
        schedule(namespace, "free", "depot")
        schedule(namespace, "held", "shop")
        schedule(namespace, "swapped", "shop", concurrencyPolicy="Replace")
        wait_for(lambda: status(namespace, "free").get("nextScheduleTime") == instant(first), 10, "the first slot")

        # the first slot
        until(first)
        kit.completed("backup", f"free-{slot(first)}", namespace, deadline=PROMPTLY)
        wait_for(lambda: status(namespace, "free").get("lastSuccessfulTime"), 10, "the success to be told")
        told = status(namespace, "free")
        assert (told["lastScheduleTime"], told["nextScheduleTime"]) == (instant(first), instant(second))
        assert (told["active"], ready(namespace, "free")[0]) == ([], "Scheduled")
        kit.job_pod(namespace, "backup", f"held-{slot(first)}")
        kit.job_pod(namespace, "backup", f"swapped-{slot(first)}")
        replaced = get("backup", f"swapped-{slot(first)}", namespace)
        table = kubectl("get", "pgsched", "free", "-n", namespace).splitlines()
        assert table[0].split() == ["NAME", "SCHEDULE", "SUSPEND", "REASON", "LAST", "SCHEDULE", "NEXT", "AGE"]

        # the second one, into which the leader falls
        until(second - 1)
        delete("pod", fleet.leader_pod(), SYSTEM, wait=False)
        kit.completed("backup", f"free-{slot(second)}", namespace, deadline=PROMPTLY + 10)
        wait_for(lambda: ready(namespace, "held")[0] == "WaitingForBackup", 15, "held to wait")
        assert f"held-{slot(first)}" in ready(namespace, "held")[1]
        assert made(namespace, "held") == [slot(first)]
        wait_gone("backup", f"swapped-{slot(first)}", namespace, deadline=30)
        wait_for(lambda: made(namespace, "swapped") == [slot(second)], 30, "what replaces it")
        wait_gone("job", replaced["status"]["jobRef"]["name"], namespace, deadline=60)

    # without the lock all end, and what has waited is made
    kit.completed("backup", f"held-{slot(first)}", namespace, deadline=30)
    kit.completed("backup", f"held-{slot(second)}", namespace, deadline=30)
    kit.completed("backup", f"swapped-{slot(second)}", namespace, deadline=30)

    # the third one, suspended
    assert time.time() < third, "this machine is too slow for this test"
    for name in ("free", "held", "swapped"):
        patch = json.dumps({"spec": {"suspend": True}})
        kubectl("patch", "scheduledbackup", name, "-n", namespace, "--type=merge", "-p", patch)
    for name in ("free", "held", "swapped"):
        wait_for(lambda name=name: ready(namespace, name)[0] == "Suspended", 10, f"{name} to be suspended")
        assert "nextScheduleTime" not in status(namespace, name)
    until(third + 5)
    assert made(namespace, "free") == made(namespace, "held") == [slot(first), slot(second)]

    # each slot was run once: also by what the API server was asked for
    names = [e.name for e in log.writes() if (e.verb, e.resource, e.namespace) == ("create", "backups", namespace)]
    expected = [f"{name}-{slot(minute)}" for name in ("free", "held", "swapped") for minute in (first, second)]
    assert sorted(names) == expected

    # the schedule goes, its Backups stay
    delete("scheduledbackup", "free", namespace)
    assert made(namespace, "free") == [slot(first), slot(second)]


def test_what_the_schema_cannot_refuse_is_told(namespace: str) -> None:
    schedule(namespace, "nowhere", "shop", timeZone="Europe/Atlantis")
    wait_for(lambda: ready(namespace, "nowhere")[0] == "TimeZoneUnknown", 10, "the time zone to be told")
    assert "'Europe/Atlantis'" in ready(namespace, "nowhere")[1]
    kit.wait_events(namespace, "nowhere", "TimeZoneUnknown")
    # the image has the time zone database
    schedule(namespace, "nowhere", "shop", timeZone="Australia/Lord_Howe")
    wait_for(lambda: ready(namespace, "nowhere")[0] == "Scheduled", 10, "the time zone to be taken")
