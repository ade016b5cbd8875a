from bisect import bisect_right
from datetime import UTC, datetime, timedelta

import pytest
from cron_oracle import ZONES, lines, moments, walk
from hypothesis import given, settings
from hypothesis import strategies as st
from support import backup, complete, failed_job, job_of, schedule

from postgres_operator import names
from postgres_operator.api.schedule import ScheduledBackup
from postgres_operator.cache import Cache
from postgres_operator.decide.actions import CreateBackup, DeleteBackup, Nothing, SetStatus
from postgres_operator.decide.schedule import Made, decide, delay, read_made, refused
from postgres_operator.schedules import ScheduleFinder

# The slots of support.schedule() are at 03:00 UTC.
CREATED = "2026-03-01T12:00:00Z"
FIRST = "2026-03-02T03:00:00Z"
SECOND = "2026-03-03T03:00:00Z"
THIRD = "2026-03-04T03:00:00Z"


def at(text):
    return datetime.fromisoformat(text)


def ask(now, *made, status=None, spec=None, **meta):
    body = schedule(spec=spec, status=status, **{"creationTimestamp": CREATED, **meta})
    return decide(ScheduledBackup.model_validate(body), made, at(now))


def of(slot, phase="", **more):
    name = names.scheduled_backup("nightly", at(slot))
    return Made(name, f"uid-{name}", "7", phase, **more)


def ready(action):
    """Reason and status of the condition."""
    status = action.then.status if isinstance(action, CreateBackup) else action.status
    (condition,) = status["conditions"]
    assert condition["type"] == "Ready"
    return condition["reason"], condition["status"]


def created(action):
    assert isinstance(action, CreateBackup), action
    return action.body["metadata"]["name"]


def settled(status):
    """The status as it is stored, so that writing it again would change nothing."""
    return {"conditions": [], **status}


# --- the ordinary way


def test_a_new_schedule_says_when_its_first_backup_is_made():
    action = ask("2026-03-01T12:00:10Z")
    assert ready(action) == ("Scheduled", "True")
    assert action.status["nextScheduleTime"] == FIRST
    assert "lastScheduleTime" not in action.status
    assert FIRST in action.status["conditions"][0]["message"]
    assert action.event is None


def test_a_slot_from_before_its_creation_does_not_count():
    assert isinstance(ask(FIRST, creationTimestamp=FIRST), SetStatus)
    assert created(ask(FIRST, creationTimestamp="2026-03-02T02:59:59Z")) == "nightly-202603020300"


def test_at_its_time_a_backup_is_made():
    labels, notes = {"team": "shop"}, {"example.com/why": "nightly"}
    template = {"metadata": {"labels": labels, "annotations": notes}, "spec": {"databaseRef": {"name": "db"}}}
    status = {"nextScheduleTime": FIRST}
    action = ask("2026-03-02T03:00:01Z", status=status, spec={"template": template})
    assert action.body["metadata"] == {
        "name": "nightly-202603020300",
        "namespace": "shop",
        "labels": {
            **labels,
            "database.example.com/schedule": "nightly",
            "database.example.com/schedule-uid": "uid-scheduledbackup-nightly",
        },
        "annotations": {**notes, "database.example.com/slot": FIRST},
    }
    assert action.body["spec"]["databaseRef"] == {"name": "db"}
    assert action.then.status["lastScheduleTime"] == FIRST
    assert action.then.status["nextScheduleTime"] == SECOND
    assert action.then.status["active"] == ["nightly-202603020300"]
    assert ready(action) == ("Scheduled", "True")
    assert action.then.after == 300


def test_it_sleeps_until_the_slot_but_not_longer_than_five_minutes():
    """The clock of the node may be set meanwhile, which no timer notices."""
    told = ask("2026-03-02T02:00:00Z").status
    assert ask("2026-03-02T02:00:00Z", status=told) == Nothing(300)
    assert ask("2026-03-02T02:59:58Z", status=told) == Nothing(2)


def test_a_slot_has_one_backup_however_often_it_is_decided_on():
    """The Backup is there, the status was not written."""
    action = ask("2026-03-02T03:00:01Z", of(FIRST, "Completed"), status={"nextScheduleTime": FIRST})
    assert isinstance(action, SetStatus)
    assert action.status["lastScheduleTime"] == FIRST


def test_a_backup_that_was_deleted_is_not_made_again():
    action = ask("2026-03-02T03:10:00Z", status={"lastScheduleTime": FIRST, "nextScheduleTime": SECOND})
    assert ready(action) == ("Scheduled", "True")


def test_a_deleted_schedule_makes_nothing():
    assert ask(FIRST, deletionTimestamp=CREATED) == Nothing()


def test_what_has_ended_is_told():
    end = at("2026-03-02T03:05:00Z")
    backups = [of(FIRST, "Completed", completion=end), of(SECOND, "Failed", completion=end), of(THIRD, "InProgress")]
    status = {"lastScheduleTime": THIRD, "nextScheduleTime": "2026-03-05T03:00:00Z"}
    action = ask("2026-03-04T03:01:00Z", *backups, status=status)
    assert action.status["lastSuccessfulTime"] == "2026-03-02T03:05:00Z"
    assert action.status["active"] == ["nightly-202603040300"]


def test_the_last_success_stays_when_its_backup_is_deleted():
    status = {"lastSuccessfulTime": SECOND, "lastScheduleTime": SECOND, "nextScheduleTime": THIRD}
    older = of(FIRST, "Completed", completion=at("2026-03-02T03:05:00Z"))
    assert ask("2026-03-03T04:00:00Z", older, status=status).status["lastSuccessfulTime"] == SECOND


def test_not_more_than_32_active_ones_are_shown():
    many = [Made(f"nightly-{n:03}", f"u{n}", "7", "Pending") for n in range(40)]
    assert len(ask("2026-03-01T13:00:00Z", *many).status["active"]) == 32


# --- outages, suspension, clocks


def test_after_an_outage_only_the_newest_slot_is_made_up_for():
    action = ask("2026-03-09T14:00:00Z", status={"lastScheduleTime": FIRST, "nextScheduleTime": SECOND})
    assert created(action) == "nightly-202603090300"
    assert action.then.status["nextScheduleTime"] == "2026-03-10T03:00:00Z"


@pytest.mark.parametrize(("now", "made"), [("2026-03-02T03:10:00Z", True), ("2026-03-02T03:10:01Z", False)])
def test_a_slot_is_missed_after_the_deadline(now, made):
    spec = {"startingDeadlineSeconds": 600}
    action = ask(now, status={"nextScheduleTime": FIRST}, spec=spec)
    assert isinstance(action, CreateBackup) is made
    if not made:
        assert ready(action) == ("MissedStart", "False")
        assert (action.status["lastMissedTime"], action.status["nextScheduleTime"]) == (FIRST, SECOND)
        assert (action.event.type, action.event.reason) == ("Warning", "MissedStart")
        # it is told once, and shown until a Backup is made
        assert ask(now, status=action.status, spec=spec) == Nothing(300)
        later = ask(SECOND, status=action.status, spec=spec)
        assert created(later) == "nightly-202603030300"
        assert ready(later) == ("Scheduled", "True")


def test_what_was_missed_is_not_missed_again_after_a_suspension():
    status = {"lastScheduleTime": FIRST, "lastMissedTime": SECOND}
    action = ask("2026-03-03T10:00:00Z", status=status, spec={"startingDeadlineSeconds": 3600})
    assert ready(action)[0] == "MissedStart"
    assert action.status["nextScheduleTime"] == THIRD
    assert action.event is None


def test_suspended_nothing_is_made():
    action = ask(SECOND, status={"lastScheduleTime": FIRST, "nextScheduleTime": SECOND}, spec={"suspend": True})
    assert ready(action) == ("Suspended", "False")
    assert "nextScheduleTime" not in action.status
    assert action.status["lastScheduleTime"] == FIRST
    assert action.after is None


def test_resumed_the_newest_slot_is_made_up_for():
    assert created(ask("2026-03-20T10:00:00Z", status={"lastScheduleTime": FIRST})) == "nightly-202603200300"


def test_resumed_within_a_deadline_nothing_is_made_up_for():
    spec = {"startingDeadlineSeconds": 3600}
    assert ready(ask("2026-03-20T10:00:00Z", status={"lastScheduleTime": FIRST}, spec=spec))[0] == "MissedStart"


def test_a_changed_schedule_does_not_count_from_before_the_change():
    """At 10:00 it is set to 09:00: that time was never promised."""
    status = {"lastScheduleTime": SECOND, "nextScheduleTime": THIRD}
    action = ask("2026-03-03T10:00:00Z", status=status, spec={"schedule": "0 9 * * *"})
    assert ready(action) == ("Scheduled", "True")
    assert action.status["nextScheduleTime"] == "2026-03-04T09:00:00Z"


def test_a_schedule_that_was_changed_while_nobody_led_makes_up_for_what_was_promised():
    status = {"lastScheduleTime": FIRST, "nextScheduleTime": SECOND}
    action = ask("2026-03-03T10:00:00Z", status=status, spec={"schedule": "0 9 * * *"})
    assert created(action) == "nightly-202603030900"


def test_a_clock_that_goes_back_a_little_runs_no_slot_again():
    status = {"lastScheduleTime": SECOND, "nextScheduleTime": THIRD}
    action = ask("2026-03-03T02:55:00Z", status=status)
    assert action.status["nextScheduleTime"] == THIRD


def test_a_clock_that_was_far_ahead_does_not_stop_the_schedule():
    status = {"lastScheduleTime": "2027-01-01T03:00:00Z", "nextScheduleTime": "2027-01-02T03:00:00Z"}
    action = ask("2026-03-03T02:55:00Z", status=status)
    assert action.status["nextScheduleTime"] == SECOND
    assert created(ask(SECOND, status=action.status)) == "nightly-202603030300"


# --- jitter


def test_each_schedule_has_its_own_delay():
    def of_uid(n):
        return delay(ScheduledBackup.model_validate(schedule(spec={"jitterSeconds": 600}, uid=f"uid-{n}")))

    delays = [of_uid(n).total_seconds() for n in range(200)]
    assert min(delays) >= 0
    assert max(delays) <= 600
    assert len(set(delays)) > 100
    assert delays == [of_uid(n).total_seconds() for n in range(200)]


def test_a_delayed_slot_keeps_its_name_and_deadline():
    spec = {"jitterSeconds": 7200, "startingDeadlineSeconds": 60}
    late = delay(ScheduledBackup.model_validate(schedule(spec=spec)))
    assert late > timedelta(minutes=2)
    start, status = at(FIRST) + late, {"nextScheduleTime": FIRST}
    before = ask((start - timedelta(seconds=1)).isoformat(), status=status, spec=spec)
    assert (ready(before)[0], before.after) == ("Scheduled", 1)
    assert created(ask(start.isoformat(), status=status, spec=spec)) == "nightly-202603020300"


def test_a_slot_from_before_its_creation_does_not_count_with_a_delay_either():
    spec = {"schedule": "*/10 * * * *", "jitterSeconds": 86400}
    late = delay(ScheduledBackup.model_validate(schedule(spec=spec)))
    assert late > timedelta(hours=1)
    assert ask("2026-03-01T12:00:10Z", spec=spec).status["nextScheduleTime"] == "2026-03-01T12:10:00Z"


# --- an earlier Backup has not ended


PROMISED = {"lastScheduleTime": FIRST, "nextScheduleTime": SECOND}
RUNS = of(FIRST, "InProgress")


def test_forbid_is_the_default_and_waits():
    action = ask("2026-03-03T03:00:00Z", RUNS, status=PROMISED)
    assert ready(action) == ("WaitingForBackup", "False")
    assert "nightly-202603020300" in action.status["conditions"][0]["message"]
    assert action.status["nextScheduleTime"] == SECOND


def test_what_waited_is_made_when_the_other_has_ended():
    waiting = ask("2026-03-03T03:00:00Z", RUNS, status=PROMISED).status
    action = ask("2026-03-03T09:00:00Z", of(FIRST, "Failed"), status=waiting)
    assert created(action) == "nightly-202603030300"


def test_of_what_waited_only_the_newest_is_made():
    waiting = ask("2026-03-04T03:00:00Z", RUNS, status=PROMISED).status
    assert waiting["nextScheduleTime"] == THIRD
    assert created(ask("2026-03-04T09:00:00Z", of(FIRST, "Completed"), status=waiting)) == "nightly-202603040300"


def test_a_pending_backup_is_waited_for_too():
    assert ready(ask(SECOND, of(FIRST, "Pending"), status=PROMISED))[0] == "WaitingForBackup"


def test_what_waits_too_long_is_missed():
    spec = {"startingDeadlineSeconds": 60}
    waiting = ask(SECOND, RUNS, status=PROMISED, spec=spec)
    assert waiting.after == 60
    action = ask("2026-03-03T03:01:01Z", RUNS, status=waiting.status, spec=spec)
    assert ready(action)[0] == "MissedStart"
    assert action.status["nextScheduleTime"] == THIRD


def test_allow_does_not_care():
    action = ask(SECOND, RUNS, status=PROMISED, spec={"concurrencyPolicy": "Allow"})
    assert created(action) == "nightly-202603030300"
    assert action.then.status["active"] == ["nightly-202603020300", "nightly-202603030300"]


def test_replace_deletes_the_old_one_first():
    spec = {"concurrencyPolicy": "Replace"}
    action = ask(SECOND, RUNS, status=PROMISED, spec=spec)
    assert action == DeleteBackup(RUNS.name, RUNS.uid, "7", action.why, required=True, after=5)
    going = of(FIRST, "InProgress", deleted=True)
    assert ready(ask(SECOND, going, status=PROMISED, spec=spec))[0] == "WaitingForBackup"
    assert created(ask(SECOND, status=PROMISED, spec=spec)) == "nightly-202603030300"


def test_replace_waits_for_what_is_about_to_end():
    spec, other = {"concurrencyPolicy": "Replace"}, of(THIRD, "InProgress")
    ending = of(FIRST, "InProgress", ending=True)
    assert ready(ask(SECOND, ending, status=PROMISED, spec=spec))[0] == "WaitingForBackup"
    assert ask(SECOND, ending, other, status=PROMISED, spec=spec).name == other.name


def found(*bodies):
    """The decision of a schedule with `Replace` whose second slot is due, on these objects."""
    one = schedule(spec={"concurrencyPolicy": "Replace"}, status=PROMISED, creationTimestamp=CREATED)
    cache = Cache()
    for body in bodies:
        cache.put(body["kind"], body)
    return ScheduleFinder(cache, ScheduledBackup.model_validate(one), lambda: at(SECOND)).decide()


def running_backup(name="nightly-202603020300", slot=FIRST, uid="uid-scheduledbackup-nightly"):
    notes = {} if slot is None else {names.ANNOTATION_SLOT: slot}
    labels = {names.LABEL_SCHEDULE_UID: uid}
    return backup(name, status={"phase": "InProgress"}, labels=labels, annotations=notes)


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        pytest.param(running_backup(), True, id="as it was made"),
        pytest.param(running_backup("before-the-upgrade"), False, id="a copy of another name"),
        pytest.param(running_backup("nightly-202603010300"), False, id="a name of another slot"),
        pytest.param(running_backup(slot=None), False, id="no slot"),
        pytest.param(running_backup(slot="tonight"), False, id="no time"),
        pytest.param(running_backup(slot="0001-01-01T00:00:00+14:00"), False, id="before all time"),
        pytest.param(running_backup(uid="another"), False, id="of a schedule that had the name before"),
    ],
)
def test_a_copy_of_a_backup_is_not_the_schedules_own(body, ours):
    assert isinstance(found(body), DeleteBackup if ours else CreateBackup)


@pytest.mark.parametrize(
    ("jobs", "deletes"),
    [
        pytest.param({}, True, id="no Job yet"),
        pytest.param({"Backup": {"active": 1, "ready": 1}}, True, id="runs"),
        pytest.param({"Backup": complete()}, False, id="complete, and the status is not written"),
        pytest.param({"Backup": failed_job()}, False, id="failed, and the status is not written"),
        pytest.param({"Backup": complete(), "Reader": {"active": 1}}, False, id="its report is recovered"),
        pytest.param({"Reader": {"active": 1}}, False, id="its report is recovered, its Job gone"),
    ],
)
def test_replace_looks_at_the_jobs(jobs, deletes):
    body = running_backup()
    action = found(body, *(job_of(body, kind, **status) for kind, status in jobs.items()))
    assert isinstance(action, DeleteBackup if deletes else SetStatus)
    assert deletes or ready(action)[0] == "WaitingForBackup"


def test_replace_deletes_nothing_between_the_slots():
    spec = {"concurrencyPolicy": "Replace"}
    assert not isinstance(ask("2026-03-03T02:00:00Z", RUNS, status=PROMISED, spec=spec), DeleteBackup)


# --- what keeps it from making anything


@pytest.mark.parametrize(
    ("spec", "reason", "quoted"),
    [
        pytest.param({"timeZone": "Europe/Atlantis"}, "TimeZoneUnknown", "'Europe/Atlantis'", id="time-zone"),
        pytest.param({"schedule": "0 3 * *"}, "ScheduleInvalid", "4 fields", id="line"),
        pytest.param({"schedule": "0 0 30 2 *"}, "NeverDue", "'0 0 30 2 *'", id="day"),
    ],
)
def test_a_wrong_spec_is_told(spec, reason, quoted):
    action = ask(SECOND, status=PROMISED, spec=spec)
    assert ready(action) == (reason, "False")
    assert quoted in action.status["conditions"][0]["message"]
    assert "nextScheduleTime" not in action.status
    assert action.event.reason == reason
    assert ask(SECOND, status=action.status, spec=spec) == Nothing()
    again = ask(SECOND, RUNS, status=action.status, spec=spec)
    assert (again.status["active"], again.event) == ([RUNS.name], None)


def test_a_refused_backup_is_told_once_and_tried_again():
    one = ScheduledBackup.model_validate(schedule(status=PROMISED))
    action = refused(one, at(SECOND), "BackupNameTaken", "it is there")
    assert ready(action) == ("BackupNameTaken", "False")
    assert (action.event.reason, action.after) == ("BackupNameTaken", 60)
    assert action.status["lastScheduleTime"] == FIRST
    again = ScheduledBackup.model_validate(schedule(status=action.status))
    assert refused(again, at(SECOND), "BackupNameTaken", "it is there") == Nothing(60)
    assert created(ask(SECOND, status=action.status)) == "nightly-202603030300"


# --- history


def test_the_oldest_of_too_many_failed_ones_is_deleted():
    status = {"lastScheduleTime": THIRD, "nextScheduleTime": "2026-03-05T03:00:00Z"}
    made = [of(THIRD, "Failed"), of(FIRST, "Failed"), of(SECOND, "Completed")]
    spec = {"failedBackupsHistoryLimit": 1}
    known = ask("2026-03-04T04:00:00Z", *made, status=status, spec=spec).status
    action = ask("2026-03-04T04:00:00Z", *made, status=known, spec=spec)
    assert action == DeleteBackup("nightly-202603020300", made[1].uid, "7", action.why, required=False, after=300)
    going = of(FIRST, "Failed", deleted=True)
    assert isinstance(ask("2026-03-04T04:00:00Z", made[0], going, status=known, spec=spec), Nothing)
    assert isinstance(ask("2026-03-05T03:00:00Z", *made, status=known, spec=spec), CreateBackup)


def test_completed_backups_are_never_deleted():
    made = [of(f"2026-03-{day:02}T03:00:00Z", "Completed") for day in range(2, 30)]
    status = {"lastScheduleTime": "2026-03-29T03:00:00Z", "nextScheduleTime": "2026-03-30T03:00:00Z"}
    known = ask("2026-03-29T04:00:00Z", *made, status=status).status
    assert isinstance(ask("2026-03-29T04:00:00Z", *made, status=known), Nothing)


def test_what_is_read_of_a_backup():
    body = backup(status={"phase": "Failed", "completionTime": SECOND}, deletionTimestamp=THIRD)
    assert read_made(body) == Made("nightly", "uid-backup-nightly", "10", "Failed", at(SECOND), deleted=True)
    assert read_made(backup()).active


# --- against a walk through time


class World:
    """A schedule whose Backups end at once, and the operator that comes and goes."""

    def __init__(self, line, zone, deadline, begin):
        self.spec = {"schedule": line, "timeZone": zone, "concurrencyPolicy": "Allow"}
        if deadline:
            self.spec["startingDeadlineSeconds"] = deadline
        self.body = schedule(spec=self.spec, creationTimestamp=begin.isoformat())
        self.made, self.missed = [], []

    def lead(self, since, until):
        """Somebody leads for this time."""
        now = since
        while now < until:
            action = decide(ScheduledBackup.model_validate(self.body), [], now)
            if isinstance(action, CreateBackup):
                self.made.append(at(action.body["metadata"]["annotations"]["database.example.com/slot"]))
                action = action.then
            if isinstance(action, SetStatus):
                if action.event:
                    self.missed.append(at(action.status["lastMissedTime"]))
                self.body["status"] = action.status
            assert action.after > 0
            now += timedelta(seconds=action.after)


def expected(line, zone, deadline, begin, reigns):
    """Minute by minute: the newest slot that is not done with is run, or missed where it is too late for it."""
    made, missed, last = [], [], begin
    slots = walk(line, zone, begin, reigns[-1][1])
    for since, until in reigns:
        for time in [since, *(slot for slot in slots if since < slot < until)]:
            newest = slots[bisect_right(slots, time) - 1] if slots and slots[0] <= time else begin
            if newest > last:
                (missed if deadline and (time - newest).total_seconds() > deadline else made).append(newest)
                last = newest
    return made, missed


@settings(max_examples=60, deadline=None)
@given(lines(), st.sampled_from(ZONES), st.sampled_from([None, 60, 600, 7200]), st.data())
def test_outages(line, zone, deadline, data):
    begin = data.draw(moments(zone)).replace(tzinfo=UTC)
    hours = data.draw(st.lists(st.floats(0.01, 6), min_size=1, max_size=4))
    reigns, now = [], begin + timedelta(seconds=1)
    for length in hours:
        until = now + timedelta(seconds=int(length * 3600))
        reigns.append((now, until))
        now = until + timedelta(seconds=int(data.draw(st.floats(0, 12)) * 3600))
    one = World(line.text, zone, deadline, begin)
    for since, until in reigns:
        one.lead(since, until)
    assert (one.made, one.missed) == expected(line, zone, deadline, begin, reigns)
    assert len(set(one.made)) == len(one.made)
