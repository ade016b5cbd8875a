from datetime import timedelta

import pytest
from support import NOW

from postgres_operator.api.common import Condition
from postgres_operator.decide.conditions import condition, find, same, timestamp

EARLIER = NOW - timedelta(hours=1)


def made(type_="Ready", status="False", reason="Waiting", message="m", now=EARLIER, generation=1, previous=()):
    return condition(previous, type_, status, reason, message, now, generation)


def read(*conditions):
    return [Condition.model_validate(c) for c in conditions]


def test_timestamps_are_what_kubernetes_writes():
    assert timestamp(NOW.replace(microsecond=999_999)) == "2026-03-01T12:00:00Z"


@pytest.mark.parametrize(
    ("status", "since"),
    [("False", EARLIER), ("True", NOW), ("Unknown", NOW)],
)
def test_the_transition_time_moves_with_the_status_only(status, since):
    before = read(made(), made(type_="Progressing", status="True", now=NOW))
    after = made(status=status, reason="Other", message="other", now=NOW, generation=2, previous=before)
    assert after["lastTransitionTime"] == timestamp(since)
    assert (after["reason"], after["message"], after["observedGeneration"]) == ("Other", "other", 2)


def test_another_types_time_is_not_taken_over():
    assert made(now=NOW, previous=read(made(type_="Other")))["lastTransitionTime"] == timestamp(NOW)


def test_long_messages_are_cut():
    assert len(made(message="ä" * 40_000)["message"]) == 2048


def test_what_is_written_can_be_read_again():
    assert made() == read(made())[0].model_dump(mode="json", by_alias=True)


def test_find():
    conditions = read(made(type_="A"), made(type_="B", reason="Second"))
    assert find(conditions, "B").reason == "Second"
    assert find(conditions, "C") is None


def test_times_and_order_make_no_difference():
    a, b = made(type_="A"), made(type_="B")
    assert same(read(a, b), [{**b, "lastTransitionTime": timestamp(NOW)}, a])


@pytest.mark.parametrize(
    "change",
    [{"status": "True"}, {"reason": "Other"}, {"message": "other"}, {"observedGeneration": 2}, {"type": "Other"}],
    ids=lambda change: next(iter(change)),
)
def test_everything_else_does(change):
    assert not same(read(made()), [{**made(), **change}])


def test_one_more_or_less_does():
    assert not same(read(made()), [])
    assert not same([], [made()])
    assert not same(read(made()), [made(), made(type_="Other")])
