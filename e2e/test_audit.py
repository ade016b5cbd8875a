"""What the audit log is judged by, on entries made up for it; no cluster is needed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from e2e.audit import LEASE, AuditLog, Entry, Reign, offences, parse, reigns
from e2e.cluster.configs import ACCOUNT, SYSTEM

if TYPE_CHECKING:
    from pathlib import Path

DURATION = 15.0
A, B = "pod-a_1", "pod-b_1"


def entry(at: float, identity: str, verb: str = "create", resource: str = "jobs", **other: Any) -> Entry:
    facts = {"namespace": "shop", "name": "dump", "account": ACCOUNT, "pod": identity.partition("_")[0], "code": 201}
    facts |= {"received": at, "answered": at + 0.1}
    return Entry(verb=verb, resource=resource, identity=identity, **(facts | other))


def lease(at: float, holder: str, by: str = "", **other: Any) -> Entry:
    duration = DURATION if holder else 1.0
    facts = {"namespace": SYSTEM, "name": LEASE, "holder": holder, "duration": duration, "code": 200}
    return entry(at, by or holder, "update", "leases", **(facts | other))


def test_a_reign_lasts_as_long_as_its_last_renewal() -> None:
    assert reigns([lease(0, A), lease(2, A), lease(4, A)]) == [Reign(A, 0.1, 4 + DURATION)]


def test_a_release_ends_a_reign_when_it_is_asked_for() -> None:
    log = [lease(0, A), lease(2, "", by=A), lease(3, B)]
    assert reigns(log) == [Reign(A, 0.1, 2), Reign(B, 3.1, 3 + DURATION)]
    assert offences(log) == []


def test_who_takes_the_lease_again_after_it_ran_out_begins_anew() -> None:
    log = [lease(0, A), lease(20, A)]
    assert reigns(log) == [Reign(A, 0.1, DURATION), Reign(A, 20.1, 20 + DURATION)]


def test_a_refused_write_to_the_lease_means_nothing() -> None:
    assert reigns([lease(0, A), lease(1, B, code=409)]) == [Reign(A, 0.1, DURATION)]


def test_one_writer_after_the_other_is_well() -> None:
    log = [lease(0, A), entry(1, A), lease(2, "", by=A), lease(3, B), entry(4, B), entry(5, "", account="admin")]
    assert offences(log) == []


@pytest.mark.parametrize(
    ("log", "offence"),
    [
        ([lease(0, A), lease(5, B)], "overlap"),
        ([lease(0, A), lease(4, A), lease(16, B)], "overlap"),
        ([lease(0, A), lease(2, "", by=B), lease(3, B)], "overlap"),
        ([lease(0, A), entry(1, B)], "never led"),
        ([lease(0, A), entry(1, "")], "never led"),
        ([lease(0, A), entry(0, A)], "did not lead then"),
        ([lease(0, A), entry(15.5, A)], "did not lead any more"),
        ([lease(0, A), lease(16, B), entry(17, A)], "did not lead then"),
        ([lease(0, A), lease(2, "", by=A), entry(2.1, A)], "did not lead any more"),
        ([lease(0, A), entry(1, A, pod="pod-b")], "another pod"),
        ([lease(0, A, by=B)], "named by another"),
        ([lease(0, A, account="admin")], "stranger"),
    ],
    ids=[
        "taken while it is held",
        "taken while it is held by a renewal",
        "released by another",
        "written without a reign",
        "written by nobody known",
        "written before the answer",
        "written after it ran out",
        "written after another took over",
        "written after the release",
        "written under the name of another pod",
        "lease taken for another",
        "lease written by a person",
    ],
)
def test_offences_are_found(log: list[Entry], offence: str) -> None:
    found = offences(log)
    assert len(found) == 1
    assert offence in found[0]


def test_what_an_ended_process_has_sent_may_come_late_but_not_after_another_one_led() -> None:
    log = [lease(0, A), entry(20, A)]
    assert offences(log, {A: 10.0}) == []
    assert len(offences(log, {A: 21.0})) == 1
    assert len(offences([*log, lease(18, B)], {A: 10.0})) == 1


@pytest.mark.parametrize("harmless", [{"code": 409}, {"verb": "get"}, {"account": "admin"}])
def test_reads_refusals_and_strangers_are_no_writes_of_ours(harmless: dict[str, Any]) -> None:
    assert offences([lease(0, A), entry(30, B, **harmless)]) == []


def line(at: float, identity: str, **other: Any) -> str:
    stamp = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    raw = {
        "stage": "ResponseComplete",
        "verb": "update",
        "user": {"username": ACCOUNT, "extra": {"authentication.kubernetes.io/pod-name": ["pod-a"]}},
        "userAgent": f"postgres-operator ({identity})",
        "objectRef": {"resource": "leases", "namespace": SYSTEM, "name": LEASE},
        "requestObject": {"spec": {"holderIdentity": identity, "leaseDurationSeconds": 15}},
        "responseStatus": {"code": 200},
        "requestReceivedTimestamp": stamp,
        "stageTimestamp": stamp,
    }
    return json.dumps(raw | other) + "\n"


def test_a_line_of_the_log() -> None:
    assert parse(line(5, A)) == lease(5, A, answered=5.0)
    status = {"resource": "backups", "subresource": "status", "namespace": "shop", "name": "b"}
    patched = parse(line(5, A, objectRef=status, requestObject=None, verb="patch"))
    assert patched == entry(5, A, "patch", "backups/status", name="b", answered=5.0, code=200)
    assert parse(line(5, A, stage="ResponseStarted")) is None


def test_a_watch_is_told_once_and_when_it_begins() -> None:
    lines = [line(5, A, stage=stage, verb="watch") for stage in ("ResponseStarted", "ResponseComplete")]
    assert [bool(parse(one)) for one in lines] == [True, False]


def test_the_log_is_read_from_the_start_on_with_who_led_then(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_text(line(1, B) + line(20, A) + line(22, A))
    with AuditLog(path) as log:
        assert log.entries() == []
        half = line(24, A)
        with path.open("a") as file:
            file.write(half[:40])
            file.flush()
            assert log.entries() == []
            file.write(half[40:])
        assert [e.received for e in log.entries()] == [24]
        assert log.reigns() == [Reign(A, 22.0, 24 + DURATION)]
        path.rename(tmp_path / "audit-old.log")
        path.write_text(line(26, A))
        assert [e.received for e in log.entries()] == [24, 26]
        log.check_single_writer()
        with path.open("a") as file:
            file.write(line(30, B))
        with pytest.raises(AssertionError, match="overlap"):
            log.check_single_writer()
