from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import NOW, schedule

from postgres_operator import names
from postgres_operator.api.schedule import Retention, ScheduledBackup
from postgres_operator.decide.actions import ChangeBackup, DeleteBackup, Nothing, SetStatus
from postgres_operator.decide.retention import Kept, decide, read_kept, superfluous
from postgres_operator.decide.schedule import decide as decide_schedule

BERLIN = ZoneInfo("Europe/Berlin")
GOING = {"deletionTimestamp": "2026-03-01T11:00:00Z"}


def kept(name, time, **more):
    return Kept(name, f"uid-{name}", "7", **{"phase": "Completed", "time": time, "ended": time, **more})


def daily(count, **more):
    """The newest is `b00`, an hour old; each further one is a day older."""
    return [kept(f"b{n:02}", NOW - timedelta(days=n, hours=1), **more) for n in range(count)]


def going(rules, backups, zone=UTC, now=NOW):
    return [b.name for b in superfluous(Retention.model_validate(rules), backups, zone, now)]


def ask(backups, retention=None, *, conditions=(), **spec):
    body = schedule(
        spec={"retention": {"keepLast": 2, **(retention or {})}, **spec}, status={"conditions": list(conditions)}
    )
    return decide(ScheduledBackup.model_validate(body), backups, UTC, NOW)


def told(action):
    assert isinstance(action, SetStatus), action
    (condition,) = action.status["conditions"]
    assert condition["type"] == "Retention"
    return condition["reason"], condition["message"]


# --- which


# What each rule keeps, written down in another way than the code has it: one Backup at a time, by all the others.
FORMATS = {
    "keepHourly": "%Y %j %H %z",
    "keepDaily": "%Y %j",
    "keepWeekly": "%G %V",
    "keepMonthly": "%Y %m",
    "keepYearly": "%Y",
}


def oracle(rules, backups, zone, now):
    def stays(one):
        newer = [b for b in backups if (b.time, b.name) > (one.time, one.name)]
        if not newer or len(newer) < rules.get("keepLast", 0):
            return True
        if "maxAge" in rules and now - one.time <= timedelta(days=int(rules["maxAge"][:-1])):
            return True
        for rule, form in FORMATS.items():
            period = one.time.astimezone(zone).strftime(form)
            later = {b.time.astimezone(zone).strftime(form) for b in newer}
            if period not in later and len(later) < rules.get(rule, 0):
                return True
        return False

    return sorted(b.name for b in backups if not stays(b))


COUNTS = st.integers(1, 8)
RULES = st.fixed_dictionaries(
    {},
    optional={**dict.fromkeys(["keepLast", *FORMATS], COUNTS), "maxAge": st.integers(1, 400).map(lambda n: f"{n}d")},
).filter(bool)
# Around both changes of the clocks, the turn of a year and that of its weeks, by half hours; and anywhere in two years.
MINUTES = st.one_of(
    *(st.integers(start, start + 200).map(lambda n: n * 30) for start in (4130, 4480, 13200, 14200, 17300, 17440)),
    st.integers(0, 2 * 365 * 48).map(lambda n: n * 30),
)


@given(RULES, st.lists(MINUTES, max_size=30), st.sampled_from([UTC, BERLIN, ZoneInfo("Australia/Lord_Howe")]))
def test_the_same_stay_as_by_looking_at_each_one(rules, minutes, zone):
    start = datetime(2025, 1, 1, tzinfo=UTC)
    backups = [kept(f"b{n:02}", start + timedelta(minutes=m)) for n, m in enumerate(minutes)]
    now = start + timedelta(days=2 * 365)
    assert sorted(going(rules, backups, zone, now)) == oracle(rules, backups, zone, now)


@pytest.mark.parametrize(
    ("rules", "stay"),
    [
        pytest.param({"keepLast": 3}, ["b00", "b01", "b02"], id="last"),
        pytest.param({"keepDaily": 2}, ["b00", "b01"], id="daily"),
        pytest.param({"keepMonthly": 2}, ["b00", "b01"], id="monthly: 1 March and 28 February"),
        pytest.param({"keepWeekly": 2}, ["b00", "b07"], id="weekly: weeks end on Sunday"),
        pytest.param({"keepYearly": 9}, ["b00"], id="yearly"),
        pytest.param({"maxAge": "50h"}, ["b00", "b01", "b02"], id="age in hours"),
        pytest.param({"maxAge": "1w"}, [f"b{n:02}" for n in range(7)], id="age in weeks"),
        pytest.param({"maxAge": "1h"}, ["b00"], id="age, exactly"),
        pytest.param({"keepLast": 1, "maxAge": "2d"}, ["b00", "b01"], id="any rule keeps"),
    ],
)
def test_rules(rules, stay):
    backups = daily(10)
    assert going(rules, backups) == [b.name for b in reversed(backups) if b.name not in stay]


def test_an_hour_that_the_clock_shows_twice_is_two():
    backups = [kept(f"{hour:02}:30Z", datetime(2025, 10, 26, hour, 30, tzinfo=UTC)) for hour in range(3)]
    assert going({"keepHourly": 2}, backups, BERLIN) == ["00:30Z"]
    assert going({"keepHourly": 3}, backups, BERLIN) == []


def test_the_last_good_one_stays_however_old():
    old = [replace(b, time=b.time - timedelta(days=900)) for b in daily(3)]
    assert going({"maxAge": "1d"}, old) == ["b02", "b01"]
    # also when the newest one is about to be deleted by somebody
    assert going({"maxAge": "1d"}, [replace(old[0], deleted=True), *old[1:]]) == ["b02"]


def test_what_did_not_pass_its_verification_takes_no_place_of_a_good_one():
    first, second, third, fourth = daily(4)
    # it goes only when it would go as a good one, too: what was wrong may have been the verification
    assert going({"keepLast": 2}, [first, replace(second, doubted=True), third, fourth]) == ["b03"]
    assert going({"keepLast": 2}, [first, second, replace(third, doubted=True), fourth]) == ["b03", "b02"]
    assert going({"maxAge": "2d"}, [first, *(replace(b, doubted=True) for b in (second, third, fourth))]) == [
        "b03",
        "b02",
    ]
    assert going({"keepLast": 2}, [replace(first, doubted=True), second, third, fourth]) == ["b03"]
    assert going({"keepLast": 2}, [replace(b, doubted=True) for b in daily(4)]) == []


def test_what_another_database_has_or_a_part_of_one_counts_for_itself():
    of = [("shop", "{}"), ("shop", '{"tables": []}'), ("copy", "{}")]
    backups = [replace(b, of=of[n % 3]) for n, b in enumerate(daily(9))]
    assert going({"keepLast": 2}, backups) == ["b08", "b07", "b06"]
    assert going({"maxAge": "1h"}, backups) == ["b08", "b07", "b06", "b05", "b04", "b03"]


@pytest.mark.parametrize("phase", ["", "Pending", "InProgress", "Failed"])
def test_only_what_is_completed_counts(phase):
    first, second, third = daily(3)
    assert going({"keepLast": 1}, [replace(first, phase=phase), second, third]) == ["b02"]


# --- what to do


def test_the_oldest_goes_first_with_its_artifact():
    action = ask(daily(5, finalizers=("example.com/mine", names.FINALIZER)))
    assert (action.name, action.uid, action.resource_version) == ("b04", "uid-b04", "7")
    assert action.change == {
        "metadata": {
            "finalizers": ["example.com/mine", names.FINALIZER],
            "annotations": {names.ANNOTATION_RETAINED: "true"},
        },
        "spec": {"deletionPolicy": "Delete"},
    }
    assert not action.required


@pytest.mark.parametrize(
    ("rules", "spec"),
    [
        pytest.param({"keepLast": 9}, {}, id="the rules keep it now"),
        pytest.param({"dryRun": True}, {}, id="dry run"),
        pytest.param({}, {"suspend": True}, id="suspended"),
    ],
)
def test_what_was_about_to_go_and_stays_is_retained_again(rules, spec):
    """The operator had stopped between the change of its policy and its deletion."""
    *others, last = daily(5)
    last = replace(last, policy="Delete", condemned=True, finalizers=(names.FINALIZER,))
    assert ask([*others, last], rules, **spec) == ChangeBackup(
        "b04",
        "7",
        "it was about to be deleted, and stays",
        {"metadata": {"annotations": {names.ANNOTATION_RETAINED: None}}, "spec": {"deletionPolicy": "Retain"}},
    )
    # one that still goes, or is going already, is left as it is
    assert ask([*others, last]).name == "b04"
    assert not isinstance(ask([*others, replace(last, deleted=True)], rules, **spec), ChangeBackup)


def test_a_policy_that_was_delete_before_stays():
    *others, last = daily(5, policy="Delete")
    assert "annotations" not in ask([*others, last]).change["metadata"]
    assert told(ask([*others, last], {"keepLast": 9}))[0] == "RetentionApplied"


def test_one_at_a_time():
    *others, last = daily(5)
    busy = replace(last, deleted=True, finalizers=(names.FINALIZER,))
    assert told(ask([*others, busy]))[0] == "RetentionApplied"
    # what somebody else holds holds up nothing
    assert ask([*others, replace(busy, finalizers=("example.com/mine",))]).name == "b03"


def test_what_a_restore_needs_is_left_and_the_next_one_goes():
    *others, last = daily(5)
    assert ask([*others, replace(last, in_use=True)]).name == "b03"


@pytest.mark.parametrize(
    ("newest", "why"),
    [({"phase": "Failed"}, "it has failed"), ({"doubted": True}, "its verification has failed")],
)
def test_nothing_goes_while_the_last_one_is_no_good(newest, why):
    first, *others = daily(5)
    reason, message = told(ask([replace(first, **newest), *others]))
    assert reason == "RetentionHeld"
    assert '"b00"' in message
    assert why in message
    # one that runs has no result yet
    running = replace(first, phase="InProgress", ended=None)
    assert isinstance(ask([running, *others]), DeleteBackup)


def test_nothing_goes_while_the_last_one_is_being_verified():
    first, *others = daily(5)
    assert ask([replace(first, unproven=True), *others]) is None
    # an older one whose verification goes on neither counts nor goes
    assert going({"keepLast": 1}, [first, replace(others[0], unproven=True), others[1]]) == ["b02"]


def test_a_verification_that_does_not_go_on_is_told():
    first, *others = daily(5)
    reason, message = told(ask([replace(first, unproven=True, held_up="QuotaExceeded: no room"), *others]))
    assert reason == "RetentionHeld"
    assert message.endswith('Backup "b00" is the last one and its verification does not go on: QuotaExceeded: no room')


def test_a_deletion_that_does_not_go_on_is_told():
    *others, last = daily(5)
    stuck = replace(last, deleted=True, finalizers=(names.FINALIZER,), held_up="DeletionFailed: no bucket")
    for beside in (others, others[:1]):
        reason, message = told(ask([*beside, stuck]))
        assert reason == "RetentionHeld"
        assert message == (
            'No other Backup is deleted until "b04" is gone, and that does not go on: DeletionFailed: no bucket'
        )
    assert ask([*others, replace(stuck, finalizers=("example.com/mine",))]).name == "b03"
    assert told(ask([*others, stuck], {"dryRun": True}))[0] == "RetentionDryRun"


@pytest.mark.parametrize(
    ("meta", "conditions", "held_up"),
    [
        pytest.param({}, [], "", id="nothing said"),
        pytest.param({}, [("Verified", "Running")], "", id="verification runs"),
        pytest.param({}, [("Verified", "QuotaExceeded")], "QuotaExceeded: m", id="verification refused"),
        pytest.param(GOING, [("Deleted", "Deleting")], "", id="deletion runs"),
        pytest.param(GOING, [("Deleted", "DownloadFailed")], "DownloadFailed: m", id="deletion failed"),
        pytest.param(GOING, [("Verified", "QuotaExceeded")], "", id="deletion before its first word"),
        pytest.param({}, [("Deleted", "DownloadFailed")], "", id="never deleted in the end"),
    ],
)
def test_what_holds_a_backup_up(meta, conditions, held_up):
    said = [{"type": kind, "status": "Unknown", "reason": reason, "message": "m"} for kind, reason in conditions]
    body = {
        "metadata": {"name": "x", "uid": "u", "resourceVersion": "3", "creationTimestamp": "2026-03-01T03:00:00Z"}
        | meta,
        "spec": {"databaseRef": {"name": "shop"}},
        "status": {"phase": "Completed", "conditions": said},
    }
    assert read_kept(body, frozenset()).held_up == held_up


def test_the_last_one_is_the_one_that_ended_last():
    first, second, *others = daily(5)
    late = replace(second, phase="Failed", ended=NOW)
    assert told(ask([first, late, *others]))[0] == "RetentionHeld"


def test_a_dry_run_deletes_nothing_and_names_what_would_go():
    reason, message = told(ask(daily(9), {"dryRun": True}))
    assert reason == "RetentionDryRun"
    assert '7 would go: "b08", "b07", "b06", "b05", "b04" and 2 more.' in message
    assert "No Backup would go" in told(ask(daily(1), {"dryRun": True}))[1]


def test_a_suspended_schedule_deletes_nothing():
    assert told(ask(daily(9), suspend=True))[0] == "RetentionHeld"


def test_nothing_is_said_twice():
    said = ask(daily(1)).status["conditions"]
    assert ask(daily(2), conditions=said) is None


# --- as a part of the schedule

NEXT = {"nextScheduleTime": "2026-03-02T03:00:00Z"}


def of_schedule(backups, *, conditions=(), **spec):
    ready = {"type": "Ready", "status": "True", "reason": "Scheduled", "observedGeneration": 1}
    ready |= {
        "message": "The next Backup is made at 2026-03-02T03:00:00Z.",
        "lastTransitionTime": "2026-03-01T12:00:00Z",
    }
    body = schedule(spec=spec, status={**NEXT, "conditions": [ready, *conditions]})
    return decide_schedule(ScheduledBackup.model_validate(body), [], NOW, backups)


def test_the_conditions_of_a_schedule_live_beside_each_other():
    action = of_schedule(daily(1), retention={"keepLast": 2})
    assert [c["type"] for c in action.status["conditions"]] == ["Ready", "Retention"]
    assert action.status["nextScheduleTime"] == NEXT["nextScheduleTime"]
    (_, said) = action.status["conditions"]
    assert isinstance(of_schedule(daily(1), conditions=[said], retention={"keepLast": 2}), Nothing)
    assert of_schedule(daily(3), conditions=[said], retention={"keepLast": 2}).name == "b02"
    # without retention it goes, and nothing else does
    assert [c["type"] for c in of_schedule(daily(3), conditions=[said]).status["conditions"]] == ["Ready"]
    assert isinstance(of_schedule(daily(3)), Nothing)


def test_what_it_looks_at_of_a_backup():
    status = {
        "phase": "Completed",
        "backupTime": "2026-03-01T03:00:01Z",
        "completionTime": "2026-03-01T03:05:00Z",
        "backupLocation": "pvc://vault/db/x",
        "conditions": [{"type": "Verified", "status": "False"}],
    }
    spec = {"databaseRef": {"name": "shop"}, "tables": [{"schema": "s", "name": "t"}]}
    body = {
        "metadata": {"name": "x", "uid": "u", "resourceVersion": "3", "creationTimestamp": "2026-03-01T03:00:00Z"},
        "spec": spec,
        "status": status,
    }
    found = read_kept(body, frozenset())
    assert (found.time.second, found.ended.minute, found.doubted, found.good, found.in_use) == (
        1,
        5,
        True,
        False,
        False,
    )
    assert read_kept(body, frozenset({"x"})).in_use
    assert read_kept(body, frozenset({"pvc://vault/db/x"})).in_use
    status["conditions"][0]["status"] = "True"
    assert read_kept(body, frozenset({"y"})).good
    waiting = {**body, "spec": {**spec, "verification": {"mode": "List"}}, "status": {**status, "conditions": []}}
    assert read_kept(waiting, frozenset()).unproven
    assert not read_kept(waiting, frozenset()).good
    assert (found.policy, found.condemned) == ("Retain", False)
    condemned = {**body, "spec": {**spec, "deletionPolicy": "Delete"}}
    condemned["metadata"] = {**body["metadata"], "annotations": {names.ANNOTATION_RETAINED: "true"}}
    assert (read_kept(condemned, frozenset()).policy, read_kept(condemned, frozenset()).condemned) == ("Delete", True)
    assert found.of == ("shop", '{"tables": [{"name": "t", "schema": "s"}]}')


@pytest.mark.parametrize(
    ("clock", "time"),
    [
        ("2026-03-01T03:00:01Z", "2026-03-01T03:00:01Z"),
        ("2027-03-01T03:00:01Z", "2026-03-01T03:05:00Z"),
        ("2025-03-01T03:00:01Z", "2026-03-01T03:00:00Z"),
    ],
)
def test_the_wrong_clock_of_a_node_makes_no_backup_the_newest(clock, time):
    meta = {"name": "x", "uid": "u", "resourceVersion": "3", "creationTimestamp": "2026-03-01T03:00:00Z"}
    status = {"phase": "Completed", "backupTime": clock, "completionTime": "2026-03-01T03:05:00Z"}
    body = {"metadata": meta, "spec": {"databaseRef": {"name": "shop"}}, "status": status}
    assert read_kept(body, frozenset()).time == datetime.fromisoformat(time)
