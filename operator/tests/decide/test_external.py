import json

import pytest
from support import NOW, ago, complete, ended, failed_job, job_of, pod, resource
from support import waiting as waits

from postgres_operator import names
from postgres_operator.api.database import Database
from postgres_operator.decide.actions import Ask, CreateJob, DeleteJob, Event, Fact, Nothing, SetStatus
from postgres_operator.decide.database import DatabaseFacts, refused
from postgres_operator.decide.external import decide, last_check
from postgres_operator.decide.jobs import Problem, read_job
from postgres_operator.decide.run import verification

SERVER = {
    "host": "pg.example.com",
    "credentialsSecretRef": {"name": "login"},
    "caSecretRef": {"name": "authority"},
    "checkIntervalSeconds": 300,
}
ENDPOINT = "pg.example.com:5432"


def db(status=None, spec=None, **external):
    """An external Database that has been seen once, unless its status says otherwise."""
    status = {"phase": "Pending"} if status is None else status
    return resource("Database", "db", {"external": SERVER | external, **(spec or {})}, status)


def read(body) -> Database:
    return Database.model_validate(body)


def check(body, *, age=5, number=1, hash_=None, **status):
    """The Job of a check; those of higher numbers came later."""
    job = job_of(body, age=age, **status)
    job["metadata"] |= {
        "name": f"verify-db-{number}",
        "uid": f"uid-check-{number}",
        "annotations": {names.ANNOTATION_VERIFIES: hash_ or verification(read(body))},
    }
    return job


def ask(body, *checks, **facts):
    return decide(read(body), DatabaseFacts(now=NOW, checks=tuple(read_job(c) for c in checks), **facts))


def report(server="17.6", tool="17.6"):
    result = json.dumps({"result": {"serverVersion": server, "toolVersion": tool}})
    return [pod("Succeeded", ended(0, result, name="verify"))]


def refusal(reason="DatabaseUnreachable"):
    error = json.dumps({"error": {"reason": reason, "message": "No connection"}})
    return [pod("Failed", ended(1, error, name="verify"))]


def with_status(body, action):
    assert isinstance(action, SetStatus)
    return {**body, "status": action.status}


def reason(action):
    assert isinstance(action, SetStatus)
    return action.status["conditions"][0]["reason"]


def ready_database(**external):
    body = db(**external)
    body = with_status(body, ask(body, check(body, **complete()), pods=report()))
    assert (body["status"]["phase"], body["status"]["ready"]) == ("Ready", True)
    return body


def failed_database(why="DatabaseUnreachable", **external):
    body = ready_database(**external)
    body = with_status(body, ask(body, check(body, **failed_job()), pods=refusal(why)))
    assert (body["status"]["phase"], body["status"]["ready"]) == ("Failed", False)
    return body


# --- Pending -> Verifying -> Ready


def test_the_whole_way():
    body = db(status={})
    action = ask(body)
    assert action.after == 0
    body = with_status(body, action)
    assert (body["status"]["phase"], body["status"]["ready"]) == ("Pending", False)
    assert (body["status"]["endpoint"], body["status"]["secretName"]) == (ENDPOINT, "login")

    action = ask(body)
    assert isinstance(action, CreateJob)
    assert (action.template, action.values["create_missing"]) == ("verify.yaml.j2", False)
    assert action.annotations == {names.ANNOTATION_VERIFIES: verification(read(body))}
    body = with_status(body, action.then)
    assert (body["status"]["phase"], body["status"]["ready"]) == ("Verifying", False)

    assert ask(body, check(body, active=1)) == Nothing(5.5)
    done = check(body, **complete())
    assert ask(body, done) == Ask(Fact.PODS)
    action = ask(body, done, pods=report("17.6", "18.1"))
    assert (action.status["phase"], action.status["ready"]) == ("Ready", True)
    assert (action.status["serverVersion"], action.status["toolVersion"]) == ("17.6", "18.1")
    assert action.event == Event("Normal", "DatabaseReady", f"Database is ready at {ENDPOINT}")
    body = with_status(body, action)
    assert ask(body, done, pods=report("17.6", "18.1")) == Nothing(295)


def test_what_the_job_gets():
    body = db(spec={"databaseName": "sales", "username": "reporter"}, port=6432, sslMode="verify-ca", superuser="root")
    assert ask(body).values["database"] == {
        "host": "pg.example.com",
        "port": 6432,
        "name": "sales",
        "username": "reporter",
        "superuser": "root",
        "secret_name": "login",
        "ssl_mode": "verify-ca",
        "ca_secret_name": "authority",
    }


def test_an_address_of_version_6_is_written_in_brackets():
    assert ask(db(status={}, host="2001:db8::1")).status["endpoint"] == "[2001:db8::1]:5432"


def test_a_deleted_database_is_left_alone():
    body = db()
    body["metadata"]["deletionTimestamp"] = ago(1)
    assert ask(body) == Nothing()


# --- one check after the other


@pytest.mark.parametrize(
    ("state", "age", "due"),
    [
        pytest.param(ready_database, 299, Nothing(1), id="not yet"),
        pytest.param(ready_database, 300, None, id="at the interval"),
        pytest.param(failed_database, 59, Nothing(1), id="failed, not yet"),
        pytest.param(failed_database, 60, None, id="failed, after a minute"),
        pytest.param(lambda: failed_database(checkIntervalSeconds=30), 30, None, id="failed, shorter interval"),
    ],
)
def test_the_next_check_comes_at_the_interval(state, age, due):
    body = state()
    ready = body["status"]["ready"]
    done = check(body, age=age, **(complete() if ready else failed_job()))
    action = ask(body, done, pods=report() if ready else refusal())
    if due is not None:
        assert action == due
    else:
        assert isinstance(action, CreateJob)
        assert action.then == Nothing(), "until it is done, the last outcome stands, and nothing is written"


def test_two_leaders_make_the_same_next_check_and_each_check_is_another_one():
    body = ready_database()
    made = []
    for number in (1, 2):
        done = check(body, age=300, number=number, **complete())
        one, other = (ask(body, done, pods=report()) for _ in range(2))
        assert one.name == other.name
        made.append(one.name)
    assert len({*made, ask(body).name}) == 3
    assert all(len(name) <= 63 for name in made)


def test_only_the_newest_finished_check_is_kept():
    body = ready_database()
    old, new = check(body, age=301, number=1, **complete()), check(body, age=1, number=2, **complete())
    action = ask(body, new, old, pods=report())
    assert action == DeleteJob("verify-db-1", "uid-check-1", "20", 2.0)
    old["metadata"]["deletionTimestamp"] = ago(0)
    assert ask(body, new, old, pods=report()) == Nothing(299)
    running = check(body, age=100, number=1, active=1, ready=1)
    assert ask(body, new, running, pods=report()) == Nothing(299), "it ends by itself"
    assert ask(body, check(body, age=1, number=2, active=1), old) == Nothing(9.5), "kept while its successor runs"


def test_a_check_outlives_the_interval_so_that_its_successor_knows_it():
    assert ask(db(checkIntervalSeconds=86400)).values["ttl_seconds_after_finished"] >= 86400


def test_a_check_that_somebody_deletes_is_waited_for():
    body = ready_database()
    job = check(body, **complete())
    job["metadata"]["deletionTimestamp"] = ago(0)
    assert ask(body, job) == Nothing(2.0)


def test_a_finished_check_whose_deletion_hangs_is_as_good_as_another():
    body = ready_database()
    job = check(body, age=299, **complete())
    job["metadata"]["deletionTimestamp"] = ago(200)
    assert ask(body, job, pods=[]) == Nothing(1)
    assert isinstance(ask(body, check(body, age=300, **complete()), pods=[]), CreateJob)


def test_a_clock_that_is_behind_puts_nothing_off_for_longer_than_it_would_take_anyway():
    body = ready_database()
    assert ask(body, check(body, age=-7200, **complete()), pods=report()) == Nothing(300)
    assert ask(body, check(body, age=-7200, active=1)) == Nothing(10.5)


# --- what a check finds


@pytest.mark.parametrize("why", ["DatabaseUnreachable", "AuthenticationFailed", "TlsFailed", "DatabaseMissing"])
def test_a_ready_database_that_cannot_be_used_any_more_and_comes_back(why):
    body = ready_database()
    bad = check(body, number=2, age=20, **failed_job())
    action = ask(body, bad, pods=refusal(why))
    assert (action.status["phase"], action.status["ready"], reason(action)) == ("Failed", False, why)
    assert action.event == Event("Warning", why, "No connection")
    assert action.status["serverVersion"] == "17.6"
    body = with_status(body, action)
    assert ask(body, bad, pods=refusal(why)) == Nothing(40)

    again = check(body, number=3, **complete())
    action = ask(body, bad, again, pods=report())
    assert (action.status["phase"], action.status["ready"], reason(action)) == ("Ready", True, "Ready")
    assert action.event.reason == "DatabaseReady"


@pytest.mark.parametrize(
    ("server", "tool", "fits"),
    [
        ("17.6", "17.2", True),
        ("15.20", "17.6", True),
        ("17.6", "15.20", False),
        ("18beta1", "17.6", False),
        ("9.6.24", "15.20", True),
    ],
)
def test_tools_must_not_be_older_than_the_server(server, tool, fits):
    body = db()
    action = ask(body, check(body, **complete()), pods=report(server, tool))
    assert (action.status["ready"], reason(action)) == (fits, "Ready" if fits else "VersionMismatch")
    assert (action.status["serverVersion"], action.status["toolVersion"]) == (server, tool)
    if not fits:
        message = action.status["conditions"][0]["message"]
        assert server in message
        assert tool in message
        assert "spec.image" in message


def test_a_server_that_was_upgraded_is_noticed():
    body = ready_database()
    action = ask(body, check(body, number=2, **complete()), pods=report("18.1", "17.6"))
    assert reason(action) == "VersionMismatch"
    body = with_status(body, action)
    body["spec"]["image"] = "postgres:18"
    assert isinstance(ask(body, check(db(), number=2, **complete())), CreateJob), "at once"


def test_a_report_that_is_lost_after_it_was_read_changes_nothing():
    body = ready_database()
    assert ask(body, check(body, **complete()), pods=[]) == Nothing(295)
    body = db()
    assert reason(ask(body, check(body, **complete()), pods=[])) == "ResultLost"


def test_a_reason_that_was_seen_is_not_replaced_by_that_its_pod_is_gone():
    body = failed_database("AuthenticationFailed")
    assert ask(body, check(body, **failed_job("DeadlineExceeded")), pods=[]) == Nothing(55)
    body = ready_database()
    assert reason(ask(body, check(body, **failed_job("DeadlineExceeded")), pods=[])) == "DeadlineExceeded"


# --- a check that cannot be made

NO_ROOM = Problem("QuotaExceeded", 'jobs.batch "verify-db-2" is forbidden: exceeded quota: q')
ENDS = [
    pytest.param(ready_database, complete(), report(), id="last-one-good"),
    pytest.param(failed_database, failed_job(), refusal(), id="last-one-bad"),
]


def refused_database(body, problem=NO_ROOM):
    return with_status(body, refused(read(body), NOW, problem))


@pytest.mark.parametrize("why", ["QuotaExceeded", "RequestRefused", "TemplateInvalid", "JobNameTaken"])
@pytest.mark.parametrize(("state", "end", "pods"), ENDS)
def test_a_next_check_that_is_refused_is_tried_again_later_and_not_written_over(state, end, pods, why):
    body, problem = state(), Problem(why, "no")
    job = check(body, age=300, **end)
    assert isinstance(ask(body, job, pods=pods), CreateJob)
    body = refused_database(body, problem)
    assert isinstance(ask(body, job, pods=pods), CreateJob), "what the last one found was written before"
    assert refused(read(body), NOW, problem) == Nothing(30)


def test_an_earlier_check_that_may_not_be_deleted_is_tried_again_later():
    body = ready_database()
    old, new = check(body, age=301, number=1, **complete()), check(body, number=2, **complete())
    deletion = ask(body, old, new, pods=report())
    assert isinstance(deletion, DeleteJob)
    body = refused_database(body, Problem("RequestRefused", "no"))
    assert ask(body, old, new, pods=report()) == deletion
    assert ask(body, new, pods=report()) == Nothing(55)


@pytest.mark.parametrize(
    ("end", "pods", "expected"),
    [(complete(), report(), "Ready"), (failed_job(), refusal(), "DatabaseUnreachable")],
)
def test_once_it_is_made_its_outcome_counts_however_long_it_takes(end, pods, expected):
    body = refused_database(ready_database())
    old, job = check(body, age=400, **complete()), check(body, number=2, active=1)
    action = ask(body, old, job)
    assert (action.status["phase"], reason(action), action.after) == ("Verifying", "Verifying", 0)
    body = with_status(body, action)
    assert ask(body, old, job) == Nothing(5.5)
    late = check(body, number=2, age=90, **end)
    assert reason(ask(body, old, late, pods=pods)) == expected


def test_a_check_whose_pod_was_refused_for_a_while_counts_all_the_same():
    body = ready_database()
    events = [{"reason": "FailedCreate", "message": "exceeded quota: q"}]
    body = with_status(body, ask(body, check(body, age=12), refusals=events))
    assert body["status"]["conditions"][0]["reason"] == "QuotaExceeded"
    assert isinstance(ask(body, check(body, age=30, active=1), pods=[]), Nothing)
    assert reason(ask(body, check(body, age=90, **complete()), pods=report())) == "Ready"


# --- a change of the spec


@pytest.mark.parametrize(
    "change",
    [
        {"host": "other.example.com"},
        {"port": 6432},
        {"sslMode": "verify-ca"},
        {"credentialsSecretRef": {"name": "other"}},
        {"caSecretRef": {"name": "other"}},
    ],
)
def test_a_change_is_checked_at_once(change):
    body = ready_database()
    done = check(body, age=5, **complete())
    body["spec"]["external"] |= change
    action = ask(body, done)
    assert isinstance(action, CreateJob)
    assert (action.then.status["phase"], action.then.status["ready"]) == ("Verifying", False)


@pytest.mark.parametrize("going", [{}, {"deletionTimestamp": ago(0)}])
def test_a_database_is_not_ready_for_a_server_that_is_only_being_checked(going):
    """The check was made, and the operator stopped before it wrote the status."""
    body = ready_database()
    body["spec"]["external"] |= {"host": "other.example.com"}
    job = check(body, active=1, ready=1)
    job["metadata"] |= going
    action = ask(body, job)
    assert (action.status["phase"], action.status["ready"], action.after) == ("Verifying", False, 0)
    assert isinstance(ask(with_status(body, action), job), Nothing)


@pytest.mark.parametrize("change", [{"checkIntervalSeconds": 30}, {"superuser": "root"}])
def test_what_a_check_does_not_depend_on_leaves_it_ready(change):
    body = ready_database()
    body["spec"]["external"] |= change
    assert isinstance(ask(body, check(body, **complete()), pods=report()), Nothing)


def test_a_check_of_what_the_spec_said_before_does_not_count():
    body = db()
    old = check(body, number=2, hash_="other", **complete())
    assert isinstance(ask(body, old), CreateJob)
    mine = check(body, number=1, age=30, active=1, ready=1)
    checks = [read_job(old), read_job(mine)]
    assert last_check(read(body), checks).name == "verify-db-1"
    assert ask(body, old, mine) == Nothing(20.5)


# --- a check that does not run


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (waits("CreateContainerConfigError", 'secret "login" not found'), "CredentialsLost"),
        (waits("CreateContainerConfigError", "couldn't find key password in Secret shop/login"), "CredentialsLost"),
        (waits("ImagePullBackOff", "no such image"), "ImagePullFailed"),
    ],
)
def test_what_keeps_its_pod_from_running_is_shown(problem, expected):
    body = db({"phase": "Verifying"})
    job = check(body, age=12, active=1)
    assert ask(body, job) == Ask(Fact.PODS)
    action = ask(body, job, pods=[pod("Pending", problem)])
    assert (action.status["phase"], reason(action)) == ("Failed", expected)
    assert action.after == 13.5
    if expected == "CredentialsLost":
        assert "Put the Secret, or that key, there." in action.status["conditions"][0]["message"]


@pytest.mark.parametrize(
    ("problem", "age", "stays"),
    [
        pytest.param(waits("ImagePullBackOff"), 12, True, id="for a moment"),
        pytest.param(waits("ImagePullBackOff"), 50, False, id="for longer"),
        pytest.param(waits("CreateContainerConfigError", 'secret "login" not found'), 12, False, id="nobody mends it"),
    ],
)
def test_a_ready_database_stays_so_while_a_check_only_waits_for_its_turn(problem, age, stays):
    body = ready_database()
    action = ask(body, check(body, number=2, age=age, active=1), pods=[pod("Pending", problem)])
    assert isinstance(action, Nothing if stays else SetStatus)


@pytest.mark.parametrize("state", [ready_database, lambda: db({"phase": "Verifying"})])
@pytest.mark.parametrize(
    ("job", "going", "words"),
    [
        pytest.param({"active": 1, "ready": 1}, False, "has not ended", id="lost node"),
        pytest.param({"conditions": [{"type": "Suspended", "status": "True"}]}, False, "has not ended", id="suspended"),
        pytest.param({"active": 1, "failed": 1}, False, "has not ended", id="ending"),
        pytest.param({"active": 1, "ready": 1}, True, "is being deleted", id="stuck in deletion"),
    ],
)
def test_a_check_that_never_ends_does_not_end_the_checks(state, job, going, words):
    body = state()

    def stuck(age, number=1):
        found = check(body, age=age, number=number, **job)
        if going:
            found["metadata"]["deletionTimestamp"] = ago(1)
        return found

    before = ask(body, stuck(179), pods=[], refusals=[])
    assert before == Nothing(2 if going else 1.5)
    action = ask(body, stuck(180))
    assert (action.status["phase"], reason(action), action.after) == ("Failed", "DeadlineExceeded", 0)
    message = action.status["conditions"][0]["message"]
    assert f"Job verify-db-1, which logs in to the server, {words}" in message
    assert action.event.reason == "DeadlineExceeded"
    body = with_status(body, action)

    successor = ask(body, stuck(180))
    assert isinstance(successor, CreateJob)
    assert successor.then == Nothing()
    assert successor.name == ask(body, stuck(181)).name, "whoever decides makes the same one"
    new = check(body, age=5, number=2, **complete())
    action = ask(body, stuck(190), new, pods=report())
    assert (action.status["phase"], reason(action)) == ("Ready", "Ready")
    body = with_status(body, action)
    left = Nothing(295) if going else DeleteJob("verify-db-1", "uid-check-1", "20", 2.0)
    assert ask(body, stuck(190), new, pods=report()) == left


def test_checks_that_never_end_do_not_pile_up():
    body = failed_database()
    first, second, third = (check(body, age=age, number=n, active=1) for n, age in ((1, 550), (2, 370), (3, 185)))
    assert ask(body, first, second) == DeleteJob("verify-db-1", "uid-check-1", "20", 2.0)
    first["metadata"]["deletionTimestamp"] = second["metadata"]["deletionTimestamp"] = ago(1)
    assert isinstance(ask(body, first, second), CreateJob)
    assert ask(body, first, second, third) == Nothing(60)


def test_a_refused_pod_is_shown():
    body = db({"phase": "Verifying"})
    job = check(body, age=12)
    assert ask(body, job) == Ask(Fact.REFUSALS)
    events = [{"reason": "FailedCreate", "message": "exceeded quota: q"}]
    assert reason(ask(body, job, refusals=events)) == "QuotaExceeded"
    assert ask(body, job, refusals=[]) == Nothing(13.5)
