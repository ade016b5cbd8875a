import json

import pytest
from support import (
    NOW,
    SHA,
    ago,
    backup,
    complete,
    database,
    ended,
    failed_job,
    job_of,
    location_of,
    manifest,
    path_of,
    pod,
    s3_store,
    store,
)
from support import waiting as waits

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.database import Database
from postgres_operator.api.store import BackupStore
from postgres_operator.decide.actions import (
    Ask,
    Claim,
    CreateClaim,
    CreateJob,
    DeleteJob,
    Fact,
    Nothing,
    Queue,
    SetStatus,
)
from postgres_operator.decide.backup import Reader, decide
from postgres_operator.decide.jobs import Problem, read_job
from postgres_operator.decide.refusals import may_pass
from postgres_operator.decide.run import Facts, Full, Policy

POLICY = Policy({"accessModes": ["ReadWriteOnce"]}, 3600)
CLAIM = Claim("vault", ("ReadWriteOnce",))
GONE = {}
IN_PROGRESS = {"phase": "InProgress", "startTime": ago(50_000), "jobRef": {"name": "j"}}  # before any Job here


def ask(body, *, db=None, job=None, the_store=None, reader=None, reader_pods=None, reader_refusals=None, **facts):
    """The decision for these objects."""
    known = Facts(
        now=NOW,
        database=None if db is GONE else Database.model_validate(db or database()),
        job=read_job(job),
        **facts,
    )
    chosen = BackupStore.model_validate(the_store) if the_store else None
    reading = Reader(read_job(reader), reader_pods, reader_refusals)
    return decide(Backup.model_validate(body), chosen, known, reading, POLICY)


def reason(action) -> str:
    assert isinstance(action, SetStatus)
    return action.status["conditions"][0]["reason"]


def claimed(**facts):
    return ask(backup(), the_store=store(), claim=CLAIM, claim_known=True, **facts)


# --- before there is a Job


@pytest.mark.parametrize("phase", ["Completed", "Failed"])
def test_terminal_phases_are_left_alone(phase):
    assert ask(backup(status={"phase": phase})) == Nothing()


def test_a_deleted_backup_starts_nothing():
    assert ask(backup(deletionTimestamp=ago(1))) == Nothing()


def test_a_missing_database_is_waited_for():
    action = decide(Backup.model_validate(backup()), None, Facts(NOW), Reader(), POLICY)
    assert reason(action) == "DatabaseNotFound"
    assert action.status["phase"] == "Pending"
    assert '"db"' in action.status["conditions"][0]["message"]


def test_a_database_that_is_not_ready_is_waited_for():
    assert reason(ask(backup(), db=database(ready=False))) == "DatabaseNotReady"


def test_tools_that_are_older_than_an_external_server_are_waited_for_without_a_job():
    """`spec.image` of the Database can change, and then the Backup goes on."""
    why = {"type": "Ready", "status": "False", "reason": "VersionMismatch", "message": "pg_dump 15 is older"}
    mismatched = database(ready=False, conditions=[{**why, "lastTransitionTime": ago(5)}])
    action = ask(backup(), db=mismatched)
    assert (action.status["phase"], reason(action)) == ("Pending", "VersionMismatch")
    assert action.status["conditions"][0]["message"] == 'Database "db": pg_dump 15 is older'


EXTERNAL = {"host": "pg.example.com", "sslMode": "require", "credentialsSecretRef": {"name": "login"}}


@pytest.mark.parametrize(
    ("change", "starts"),
    [
        pytest.param({}, True, id="none"),
        pytest.param({"host": "other.example.com"}, False, id="host"),
        pytest.param({"credentialsSecretRef": {"name": "other"}}, False, id="login"),
        pytest.param({"checkIntervalSeconds": 30}, True, id="what no check depends on"),
    ],
)
def test_an_external_server_that_was_not_checked_yet_is_waited_for(change, starts):
    """Its status may say Ready until the operator has come by."""
    db = database(spec={"external": EXTERNAL})
    db["spec"]["external"] = EXTERNAL | change
    action = claimed(db=db)
    if starts:
        assert isinstance(action, CreateJob)
    else:
        assert (action.status["phase"], reason(action)) == ("Pending", "DatabaseNotReady")


def test_a_restore_into_the_database_is_waited_for():
    action = claimed(blockers=('Restore "undo"',))
    assert reason(action) == "WaitingForSlot"
    assert 'Restore "undo"' in action.status["conditions"][0]["message"]


@pytest.mark.parametrize(
    ("format_", "the_store", "starts"),
    [
        pytest.param("directory", store(), True, id="a volume"),
        pytest.param("custom", s3_store(), True, id="another format into a bucket"),
        pytest.param("directory", s3_store(), False, id="a bucket"),
    ],
)
def test_a_directory_goes_into_a_volume_only(format_, the_store, starts):
    action = ask(backup(spec={"format": format_}), the_store=the_store, claim=CLAIM, claim_known=True)
    if starts:
        assert isinstance(action, CreateJob)
        return
    assert (action.status["phase"], reason(action)) == ("Failed", "FormatUnsupported")
    assert 'BackupStore "default"' in action.status["error"]["message"]


ROLES = {"file": "globals.sql", "sha256": SHA}


@pytest.mark.parametrize(
    ("wanted", "kept", "words"),
    [
        pytest.param(True, ROLES, "The roles of the server are in globals.sql there.", id="kept"),
        pytest.param(True, None, "without the roles", id="not kept"),
        pytest.param(True, ROLES | {"file": "../globals.sql"}, "globals.file", id="elsewhere"),
    ],
)
def test_roles_that_were_asked_for_are_in_the_manifest(wanted, kept, words):
    body = backup(spec={"includeGlobals": wanted}, status=IN_PROGRESS)
    report = json.dumps({"result": manifest(body, **({"globals": kept} if kept else {}))})
    action = ask(body, job=job_of(body, **complete()), pods=[pod("Succeeded", ended(0, report))])
    assert action.status["phase"] == ("Completed" if words.startswith("The") else "Failed")
    assert words in action.status["conditions"][0]["message"]


FULL = Full("At most 2 Jobs run at a time.", "These held the slots.")


def test_a_slot_is_waited_for_in_the_queue():
    action = claimed(full=FULL)
    assert isinstance(action, Queue)
    assert reason(action.then) == "WaitingForSlot"
    assert action.then.status["phase"] == "Pending"
    assert action.then.status["conditions"][0]["message"] == "At most 2 Jobs run at a time. These held the slots."
    assert action.then.after is None, "it is woken"


@pytest.mark.parametrize(
    ("before", "written"),
    [
        pytest.param("At most 2 Jobs run at a time. Others held the slots.", False, id="the-same-limit"),
        pytest.param('Waiting for Restore "undo" to end.', True, id="something-else"),
        pytest.param("At most 3 Jobs run at a time. Others held the slots.", True, id="another-limit"),
    ],
)
def test_that_it_waits_for_a_slot_is_written_once(before, written):
    condition = {"type": "Complete", "status": "False", "reason": "WaitingForSlot", "message": before}
    condition |= {"observedGeneration": 1, "lastTransitionTime": ago(60)}
    body = backup(status={"phase": "Pending", "conditions": [condition]})
    action = ask(body, the_store=store(), claim=CLAIM, claim_known=True, full=FULL)
    assert isinstance(action, Queue)
    assert isinstance(action.then, SetStatus) is written


def test_what_excludes_it_is_named_before_a_slot():
    assert 'Restore "undo"' in claimed(full=FULL, blockers=('Restore "undo"',)).status["conditions"][0]["message"]


def test_what_is_missing_is_named_also_when_no_slot_is_free():
    assert reason(ask(backup(), db=database(ready=False), full=FULL)) == "DatabaseNotReady"


def test_what_is_missing_is_named_also_while_others_run():
    action = ask(backup(spec={"storeRef": {"name": "far"}}), blockers=('Restore "undo"',))
    assert reason(action) == "StoreNotFound"


def test_a_named_store_that_is_missing_is_waited_for():
    assert reason(ask(backup(spec={"storeRef": {"name": "far"}}))) == "StoreNotFound"


def test_the_claim_is_asked_for_before_anything_is_created():
    assert ask(backup()) == Ask(Fact.CLAIM)


def test_without_a_store_the_claim_is_made_and_owned_by_nobody():
    action = ask(backup(), claim_known=True)
    assert isinstance(action, CreateClaim)
    assert action.body["metadata"]["name"] == names.DEFAULT_CLAIM
    assert "ownerReferences" not in action.body["metadata"]


def test_the_claim_of_a_store_is_never_made():
    action = ask(backup(), the_store=store("safe", "vault"), claim_known=True)
    assert reason(action) == "ClaimNotFound"
    assert 'PersistentVolumeClaim "vault" of BackupStore "safe"' in action.status["conditions"][0]["message"]
    assert action.after


def test_waiting_writes_only_once():
    action = claimed(blockers=("x",))
    again = ask(backup(status=action.status), the_store=store(), claim=CLAIM, claim_known=True, blockers=("x",))
    assert again == Nothing(30.0)


def test_the_job_is_created_first_and_then_the_status():
    action = claimed()
    assert isinstance(action, CreateJob)
    body = backup()
    assert action.name == names.job_name("Backup", "nightly", body["metadata"]["uid"])
    assert action.annotations == {names.ANNOTATION_LOCATION: location_of(body), names.ANNOTATION_PATH: path_of(body)}
    assert action.values["store"] == {"kind": "pvc", "claim_name": "vault"}
    assert (action.claim, action.service_account) == (CLAIM, "")
    assert action.then.status["phase"] == "InProgress"
    assert action.then.status["jobRef"] == {"name": action.name}
    assert action.then.event is None


def test_the_job_name_follows_the_uid_not_the_name():
    first = claimed()
    other = ask(backup(uid="another"), the_store=store(), claim=CLAIM, claim_known=True)
    assert first.name != other.name
    assert first.values["artifact_path"] != other.values["artifact_path"]


def test_a_job_that_is_there_already_is_followed_not_created_again():
    body = backup()
    action = ask(body, job=job_of(body, active=1), claim=CLAIM, claim_known=True)
    assert isinstance(action, SetStatus)
    assert action.status["phase"] == "InProgress"


def test_what_to_select_is_one_line_each():
    tables = [{"name": "a b"}, {"schema": "x.y", "name": '"'}]
    for lists, expected in (
        ({}, ""),
        ({"schemas": ["a", "B"]}, "schema\ta\nschema\tB"),
        ({"tables": tables}, 'table\tpublic\ta b\ntable\tx.y\t"'),
        ({"excludeSchemas": ["$x"], "excludeTables": tables[1:]}, 'exclude-schema\t$x\nexclude-table\tx.y\t"'),
    ):
        action = ask(backup(spec=lists), the_store=store(), claim=CLAIM, claim_known=True)
        assert action.values["selection"] == expected
        # restore-check.sh looks for these very characters
        assert action.values["source"].startswith('{"partial": true, "') == bool(lists)


def test_more_options_of_pg_dump_are_passed_on():
    args = ["--no-comments", "--no-tablespaces"]
    action = ask(backup(spec={"extraArgs": args}), the_store=store(), claim=CLAIM, claim_known=True)
    assert action.values["extra_args"] == "--no-comments --no-tablespaces"


# --- into an object store

S3 = "s3://vault/team/production"
KEYS = {"name": "keys"}


def streamed(**spec):
    return s3_store(prefix="team/production", credentialsSecretRef=KEYS, **spec)


def test_an_object_store_needs_no_claim_and_makes_none():
    body = backup()
    action = ask(body, the_store=streamed(serviceAccountName="writer"))
    assert isinstance(action, CreateJob)
    assert (action.claim, action.service_account) == (None, "writer")
    assert action.labels == {names.LABEL_DATABASE: "db"}
    assert action.annotations == {
        names.ANNOTATION_LOCATION: f"{S3}/{path_of(body)}",
        names.ANNOTATION_PATH: path_of(body),
    }
    assert (action.values["artifact_path"], action.values["uploader_image"]) == (path_of(body), names.UPLOADER_IMAGE)


def test_what_a_template_learns_of_an_object_store():
    alone = ask(backup(), the_store=s3_store()).values["store"]
    assert alone == {
        "kind": "s3",
        "bucket": "vault",
        "prefix": "",
        "endpoint": "",
        "region": "us-east-1",
        "path_style": True,
        "credentials_secret": None,
        "ca_secret": None,
    }
    full = ask(
        backup(),
        the_store=streamed(
            endpoint="https://s3.example.com:9000", region="eu", pathStyle=False, caSecretRef={"name": "authority"}
        ),
    ).values["store"]
    assert full == {
        "kind": "s3",
        "bucket": "vault",
        "prefix": "team/production",
        "endpoint": "https://s3.example.com:9000",
        "region": "eu",
        "path_style": False,
        "credentials_secret": "keys",
        "ca_secret": "authority",
    }
    assert list(full) == list(alone)


def test_a_named_object_store_that_is_missing_is_waited_for():
    assert reason(ask(backup(spec={"storeRef": {"name": "far"}}))) == "StoreNotFound"
    assert isinstance(ask(backup(spec={"storeRef": {"name": "far"}}), the_store=s3_store("far")), CreateJob)


def test_a_restore_into_the_database_is_waited_for_whatever_the_store():
    assert reason(ask(backup(), the_store=streamed(), blockers=('Restore "undo"',))) == "WaitingForSlot"


# --- while the Job runs


def running_backup(**changes):
    return backup(status={**IN_PROGRESS, **changes})


def test_a_running_job_needs_nothing():
    body = running_backup()
    first = ask(body, job=job_of(body, active=1, ready=1))
    assert reason(first) == "Running"
    assert ask(backup(status=first.status), job=job_of(body, active=1, ready=1)) == Nothing(None)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("pods is forbidden: violates PodSecurity x", "PodSecurityRejected"),
        ("pods is forbidden: exceeded quota: q", "QuotaExceeded"),
    ],
)
def test_refused_pods_fail_it_after_the_job_is_stopped(message, expected):
    body = running_backup()
    job = job_of(body, age=12)
    assert ask(body, job=job) == Ask(Fact.PODS)
    assert ask(body, job=job, pods=[]) == Ask(Fact.REFUSALS)
    events = [{"reason": "FailedCreate", "message": message}]
    action = ask(body, job=job, pods=[], refusals=events)
    assert (action.status["phase"], reason(action)) == ("InProgress", "StoppingJob")
    assert action.status["error"]["reason"] == expected
    # The intent is on record: now the Job goes, and only then is it Failed.
    stopping = backup(status=action.status)
    assert ask(stopping, job=job, refusals=events) == DeleteJob(
        job["metadata"]["name"], job["metadata"]["uid"], "20", 3.0
    )
    gone = ask(stopping, job_is_live=True, pods=[])
    assert (gone.status["phase"], gone.status["error"]["reason"]) == ("Failed", expected)
    assert gone.event.type == "Warning"


def test_a_webhook_that_fails_for_a_moment_is_waited_for():
    body = running_backup()
    events = [{"reason": "FailedCreate", "message": "failed calling webhook"}]
    assert reason(ask(body, job=job_of(body, age=12), pods=[], refusals=events)) == "PodRefused"
    assert reason(ask(body, job=job_of(body, age=46), pods=[], refusals=events)) == "StoppingJob"


@pytest.mark.parametrize(
    "message",
    [
        'Error creating: Post "https://10.0.0.1:443/api/v1/namespaces/x/pods": unexpected EOF',
        "Error creating: unexpected error when reading response body. Please retry. Original error: unexpected EOF",
        "Error creating: etcdserver: request timed out",
    ],
)
def test_an_api_server_that_was_away_has_refused_nothing(message):
    body = running_backup()
    events = [{"reason": "FailedCreate", "message": message}]
    for age in (12, 46, 500):
        action = ask(body, job=job_of(body, age=age), pods=[], refusals=events)
        assert (action.status["phase"], reason(action)) == ("InProgress", "Running")
    refused = [*events, {"reason": "FailedCreate", "message": "pods is forbidden: exceeded quota: q"}]
    assert ask(body, job=job_of(body, age=12), pods=[], refusals=refused).status["error"]["reason"] == "QuotaExceeded"
    late = ask(body, job=job_of(body, age=50_000), pods=[], refusals=events)
    assert late.status["error"]["reason"] == "StartDeadlineExceeded"


@pytest.mark.parametrize(
    "state", [pod("Running", {"name": "dump", "state": {"running": {}}}), pod("Succeeded", ended())]
)
def test_a_pod_that_is_there_was_not_refused_whatever_the_job_s_status_says(state):
    """The Job controller loses sight of its pods while the API server is away."""
    body = running_backup()
    events = [{"reason": "FailedCreate", "message": "failed calling webhook"}]
    action = ask(body, job=job_of(body, age=500), pods=[state], refusals=events)
    assert (action.status["phase"], reason(action)) == ("InProgress", "Running")
    waiting = ask(body, job=job_of(body, age=500), pods=[pod("Pending")], refusals=events)
    assert (waiting.status["phase"], reason(waiting)) == ("InProgress", "Running")


def test_a_lost_secret_fails_it_at_once():
    body = running_backup()
    pods = [pod("Pending", waits("CreateContainerConfigError", 'secret "db-credentials" not found'))]
    assert ask(body, job=job_of(body, age=12, active=1)) == Ask(Fact.PODS)
    action = ask(body, job=job_of(body, age=12, active=1), pods=pods)
    assert action.status["error"]["reason"] == "CredentialsLost"


def test_a_missing_image_is_shown_and_fails_at_the_start_deadline():
    body = running_backup()
    pods = [pod("Pending", waits("ImagePullBackOff", "no such image"))]
    shown = ask(body, job=job_of(body, age=30, active=1), pods=pods)
    assert (shown.status["phase"], reason(shown)) == ("InProgress", "ImagePullFailed")
    late = ask(body, job=job_of(body, age=601, active=1), pods=pods)
    assert late.status["error"]["reason"] == "StartDeadlineExceeded"
    assert "no such image" in late.status["error"]["message"]


def test_a_pod_of_which_only_the_sidecar_runs_is_held_to_the_start_deadline():
    """It starts first; the image of the container that does the work may still be missing."""
    body = running_backup()
    sidecar = {"name": "upload", "state": {"running": {}}}
    pods = [pod("Pending", waits("ImagePullBackOff", "no such image"), init=(sidecar,))]
    assert reason(ask(body, job=job_of(body, age=30, active=1), pods=pods)) == "ImagePullFailed"
    late = ask(body, job=job_of(body, age=601, active=1), pods=pods)
    assert late.status["error"]["reason"] == "StartDeadlineExceeded"


def test_a_sidecar_that_cannot_start_is_shown():
    body = running_backup()
    lost = waits("CreateContainerConfigError", 'secret "keys" not found', "upload")
    pods = [pod("Pending", waits("PodInitializing"), init=(lost,))]
    action = ask(body, job=job_of(body, age=12, active=1), pods=pods)
    assert action.status["error"]["reason"] == "CredentialsLost"
    assert '"keys"' in action.status["error"]["message"]


def leaving(since: float) -> dict:
    """A pod that is being deleted; its grace period ended so many seconds ago."""
    state = pod("Running", {"name": "dump", "state": {"running": {}}})
    state["metadata"]["deletionTimestamp"] = ago(since)
    state["spec"]["nodeName"] = "worker-1"
    return state


LOST = job_of(backup(), age=4000, terminating=1, conditions=[{"type": "FailureTarget", "status": "True"}])


@pytest.mark.parametrize("job", [LOST, job_of(backup(), age=4000, terminating=1)], ids=["by-deadline", "by-eviction"])
def test_a_pod_that_should_have_ended_long_ago_is_shown(job):
    """Its node does not report any more; the Job waits for it without an end."""
    assert ask(running_backup(), job=job) == Ask(Fact.PODS)
    action = ask(running_backup(), job=job, pods=[leaving(61)])
    assert (action.status["phase"], reason(action), action.after) == ("InProgress", "PodTerminating", None)
    message = action.status["conditions"][0]["message"]
    assert message.startswith('Pod "pod-1" on node "worker-1" is to end and does not: is the node lost?')
    assert message.endswith("kubectl delete pod pod-1 -n shop --force")
    assert ask(backup(status=action.status), job=job, pods=[leaving(90)]) == Nothing()


def test_a_pod_that_is_about_to_end_is_no_news():
    runs = ask(running_backup(), job=job_of(backup(), active=1, ready=1)).status
    assert ask(backup(status=runs), job=LOST, pods=[leaving(-30)]) == Nothing(90)
    assert ask(backup(status=runs), job=LOST, pods=[leaving(20)]) == Nothing(40)
    assert ask(backup(status=runs), job=LOST, pods=[]) == Nothing()


def test_a_pod_that_ends_by_itself_is_not_looked_at_until_its_job_has_ended():
    runs = ask(running_backup(), job=job_of(backup(), active=1, ready=1)).status
    for status in ({"active": 1, "terminating": 0}, {"succeeded": 1, "terminating": 0}, {"terminating": 0, "ready": 1}):
        assert isinstance(ask(backup(status=runs), job=job_of(backup(), age=5, **status)), Nothing)


def test_a_clock_that_is_wrong_ends_nothing_that_has_just_begun():
    """The API server dates the Job and we the run; whichever clock is behind, the other one counts."""
    pods = [pod("Pending", waits("ImagePullBackOff", "no such image"))]
    ours_is_ahead = running_backup(startTime=ago(30))
    assert reason(ask(ours_is_ahead, job=job_of(backup(), age=4000, active=1), pods=pods)) == "ImagePullFailed"
    other_replica_was_behind = running_backup(startTime=ago(4000))
    action = ask(other_replica_was_behind, job=job_of(backup(), age=30, active=1), pods=pods)
    assert reason(action) == "ImagePullFailed"
    now_behind = running_backup(startTime=ago(-4000))
    soon = ask(now_behind, job=job_of(backup(), age=30, active=1))
    assert (reason(soon), soon.after) == ("Running", 10.5)


def test_a_pod_that_started_is_not_held_to_the_start_deadline():
    body = running_backup()
    pods = [pod("Running", {"name": "dump", "state": {"running": {}}})]
    assert reason(ask(body, job=job_of(body, age=6000, active=1), pods=pods)) == "Running"


def test_a_later_step_that_cannot_start_is_shown_or_fails_and_is_looked_for_ever_more_rarely():
    body = running_backup()
    check = {"name": "check", "state": {"terminated": {"exitCode": 0}}}
    steps = [pod("Pending", waits("PodInitializing"), init=(check, waits("PodInitializing", name="load")))]
    action = ask(body, job=job_of(body, age=6000, active=1), pods=steps)
    assert (reason(action), action.after) == ("Running", 6000)
    stuck = waits("ImagePullBackOff", "no such image", "load")
    action = ask(body, job=job_of(body, age=6000, active=1), pods=[pod("Pending", init=(check, stuck))])
    assert (action.status["phase"], reason(action), action.after) == ("InProgress", "ImagePullFailed", 50)
    assert "error" not in action.status, "the start deadline is behind it"
    lost = waits("CreateContainerConfigError", "couldn't find key superuser-password in Secret d/x", "load")
    action = ask(body, job=job_of(body, age=6000, active=1), pods=[pod("Pending", init=(check, lost))])
    assert action.status["error"]["reason"] == "CredentialsLost"


def test_every_look_is_followed_by_another_until_the_start_deadline():
    body = running_backup()
    pods = [pod("Pending", waits("ContainerCreating"))]
    for age in (1, 11, 26, 51, 100, 599):
        action = ask(body, job=job_of(body, age=age, active=1), pods=pods)
        assert action.after, age


# --- its end


def done(body, pods, **facts):
    return ask(body, job=job_of(body, **complete()), pods=pods, **facts)


def test_completed_takes_condition_report_and_location():
    body = running_backup()
    assert ask(body, job=job_of(body, **complete())) == Ask(Fact.PODS)
    report = json.dumps({"result": manifest(body)})
    action = done(body, [pod("Succeeded", ended(0, report))])
    assert action.status["phase"] == "Completed"
    assert action.status["backupLocation"] == location_of(body)
    assert action.status["checksum"] == f"sha256:{SHA}"
    assert action.status["sizeBytes"] == 4096
    assert action.status["backupTime"] == "2026-03-01T11:59:00Z"
    assert action.status["conditions"][0]["status"] == "True"
    assert "error" not in action.status
    assert (action.event.type, action.event.reason) == ("Normal", "BackupCompleted")


@pytest.mark.parametrize("part", [{"schemas": ["a"]}, {"excludeTables": [{"name": "t"}]}])
def test_a_part_of_the_database_is_called_so(part):
    body = backup(status=IN_PROGRESS, spec=part)
    action = done(body, [pod("Succeeded", ended(0, json.dumps({"result": manifest(body)})))])
    (condition,) = action.status["conditions"]
    assert (action.status["phase"], condition["type"], condition["status"]) == ("Completed", "Complete", "True")
    assert condition["reason"] == "CompletedInPart"
    assert "a part of the database only" in condition["message"]
    assert action.event.reason == "BackupCompleted"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"location": "db/other-uid"}, id="somebody-elses-location"),
        pytest.param({"location": ""}, id="empty-location"),
        pytest.param({"format": "plain"}, id="another-format"),
        pytest.param({"sizeBytes": 0}, id="nothing-in-it"),
        pytest.param({"sha256": "short"}, id="no-checksum"),
        pytest.param({"serverVersion": None}, id="no-version"),
    ],
)
def test_a_report_that_does_not_fit_is_never_completed(changes):
    body = running_backup()
    report = json.dumps({"result": manifest(body, **changes)})
    action = done(body, [pod("Succeeded", ended(0, report))])
    assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "ResultInvalid")


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param([], id="pod-gone"),
        pytest.param([pod("Succeeded", ended(0, "not ours"))], id="no-report"),
        pytest.param([pod("Failed", ended(1))], id="only-a-failed-pod"),
    ],
)
def test_a_lost_report_is_read_from_the_manifest(pods):
    body = running_backup()
    action = done(body, pods)
    assert isinstance(action, CreateJob)
    assert action.template == "read-manifest.yaml.j2"
    assert action.name == names.job_name("Reader", "nightly", body["metadata"]["uid"])
    reader = job_of(body, "Reader", active=1)
    shown = done(body, pods, reader=reader)
    assert (shown.status["phase"], reason(shown), shown.status["jobRef"]) == ("InProgress", "Running", {"name": "j"})
    assert reader["metadata"]["name"] in shown.status["conditions"][0]["message"]
    assert done(backup(status=shown.status), pods, reader=reader) == Nothing(shown.after)
    reader = job_of(body, "Reader", **complete())
    assert done(body, pods, reader=reader) == Ask(Fact.READER_PODS)
    report = json.dumps({"result": manifest(body)})
    action = done(body, pods, reader=reader, reader_pods=[pod("Succeeded", ended(0, report))])
    assert action.status["phase"] == "Completed"


def test_what_keeps_the_reader_from_running_is_shown_and_does_not_fail_the_backup():
    body = running_backup()
    reader = job_of(body, "Reader", age=12)
    assert done(body, [], reader=reader) == Ask(Fact.READER_PODS)
    assert done(body, [], reader=reader, reader_pods=[]) == Ask(Fact.READER_REFUSALS)
    events = [{"reason": "FailedCreate", "message": "violates PodSecurity x"}]
    action = done(body, [], reader=reader, reader_pods=[], reader_refusals=events)
    assert (action.status["phase"], reason(action)) == ("InProgress", "PodSecurityRejected")
    assert 13 < action.after < 14
    lost = [pod("Pending", waits("CreateContainerConfigError", 'secret "keys" not found'))]
    action = done(body, [], reader=reader, reader_pods=lost)
    assert (action.status["phase"], reason(action)) == ("InProgress", "CredentialsLost")
    passed = done(backup(status=action.status), [], reader=job_of(body, "Reader", age=30, active=1, ready=1))
    assert reason(passed) == "Running"
    assert reason(done(body, [], reader=reader, reader_pods=[], reader_refusals=[])) == "Running"


def test_a_lost_report_is_read_without_the_database():
    body = running_backup()
    action = done(body, [], db=GONE)
    assert isinstance(action, CreateJob)
    assert action.values["image"] == "postgres:17"
    assert action.claim == Claim("vault")


def test_a_reader_that_was_refused_is_tried_again_and_that_stays_to_be_seen():
    body = running_backup()
    shown = may_pass(Backup.model_validate(body), NOW, Problem("QuotaExceeded", "exceeded quota"))
    body["status"] = shown.status
    assert isinstance(done(body, []), CreateJob)


def streaming_job(body, **status):
    job = job_of(body, **status)
    job["metadata"]["annotations"][names.ANNOTATION_LOCATION] = location_of(body, S3)
    return job


def test_completed_in_an_object_store():
    body = running_backup()
    file = "dump-4b1c7a9e-0d5f-4a6e-9b57-1f0c3f6f2d11.pgdump"
    pods = [pod("Succeeded", ended(0, json.dumps({"result": manifest(body, file=file)})))]
    # The store itself is not looked at any more: what the Job wrote is there, whatever became of it.
    action = ask(body, job=streaming_job(body, **complete()), pods=pods)
    assert (action.status["phase"], action.status["backupLocation"]) == ("Completed", location_of(body, S3))


@pytest.mark.parametrize("file", ["dump.tar", "../dump.pgdump", "dump-x y.sql", "-dump.sql", "dump-.sql", "dump.sql\n"])
def test_a_file_that_no_script_of_ours_writes_is_never_completed(file):
    body = running_backup()
    action = done(body, [pod("Succeeded", ended(0, json.dumps({"result": manifest(body, file=file)})))])
    assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "ResultInvalid")


def test_a_lost_report_is_read_from_an_object_store():
    body = running_backup()
    job = streaming_job(body, **complete())
    action = ask(body, job=job, pods=[], the_store=streamed(serviceAccountName="writer"))
    assert isinstance(action, CreateJob)
    assert (action.template, action.claim, action.service_account) == ("read-manifest.yaml.j2", None, "writer")
    assert (action.values["artifact_path"], action.values["store"]["bucket"]) == (path_of(body), "vault")
    assert action.values["uploader_image"] == names.UPLOADER_IMAGE
    assert action.annotations[names.ANNOTATION_LOCATION] == location_of(body, S3)


@pytest.mark.parametrize(
    ("the_store", "words"),
    [
        pytest.param(None, "so is the BackupStore", id="gone"),
        pytest.param(s3_store(prefix="elsewhere"), "so is the BackupStore", id="made-anew-for-another-prefix"),
        pytest.param(store(), "so is the BackupStore", id="made-anew-for-a-claim"),
    ],
)
def test_without_its_object_store_a_lost_report_stays_lost(the_store, words):
    body = running_backup()
    action = ask(body, job=streaming_job(body, **complete()), pods=[], the_store=the_store)
    assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "ResultLost")
    assert words in action.status["error"]["message"]
    assert location_of(body, S3) in action.status["error"]["message"]


def test_a_lost_report_in_a_volume_is_read_without_its_store():
    body = running_backup()
    for the_store in (None, s3_store(), store("default", "another")):
        action = done(body, [], the_store=the_store)
        assert action.claim == Claim("vault")
        assert action.values["store"] == {"kind": "pvc", "claim_name": "vault"}


def test_no_manifest_means_no_backup():
    body = running_backup()
    error = json.dumps({"error": {"reason": "ArtifactMissing", "message": "nothing there"}})
    reader = job_of(body, "Reader", **failed_job())
    action = done(body, [], reader=reader, reader_pods=[pod("Failed", ended(1, error))])
    assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "ArtifactMissing")
    reader = job_of(body, "Reader", **complete())
    assert done(body, [], reader=reader, reader_pods=[]).status["error"]["reason"] == "ResultLost"


def test_a_failed_job_fails_it_with_what_the_script_says():
    body = running_backup()
    error = json.dumps({"error": {"reason": "AuthenticationFailed", "message": "wrong password"}})
    action = ask(body, job=job_of(body, **failed_job()), pods=[pod("Failed", ended(1, error))])
    assert action.status["phase"] == "Failed"
    assert action.status["error"] == {"reason": "AuthenticationFailed", "message": "wrong password"}
    assert [c["type"] for c in action.status["conditions"]] == ["Complete", "Failed"]


def test_a_vanished_job_is_lost_only_when_live_reads_show_nothing():
    body = running_backup()
    assert ask(body) == Ask(Fact.LIVE_JOB)
    assert ask(body, job_is_live=True) == Ask(Fact.PODS)
    waiting = ask(body, job_is_live=True, pods=[pod("Running")])
    assert (waiting.status["phase"], reason(waiting)) == ("InProgress", "StoppingJob")
    assert waiting.after
    lost = ask(body, job_is_live=True, pods=[pod("Failed")])
    assert (lost.status["phase"], lost.status["error"]["reason"]) == ("Failed", "JobLost")


def test_a_job_that_is_being_deleted_is_waited_for():
    body = running_backup()
    job = job_of(body, active=1, ready=1)
    job["metadata"]["deletionTimestamp"] = ago(1)
    action = ask(body, job=job)
    assert (action.status["phase"], reason(action)) == ("InProgress", "StoppingJob")
    assert action.status["error"]["reason"] == "JobLost"


def test_a_job_that_completes_while_it_is_being_stopped_is_complete():
    body = running_backup(error={"reason": "StartDeadlineExceeded", "message": "m"})
    report = json.dumps({"result": manifest(body)})
    action = done(body, [pod("Succeeded", ended(0, report))])
    assert action.status["phase"] == "Completed"
    assert "error" not in action.status


def test_nothing_that_may_still_run_is_called_failed():
    """Rule 9: whatever else is known, `Failed` is written only when the Job failed itself or nothing of it is left."""
    intents = [None, {"reason": "JobLost", "message": "m"}]
    for intent in intents:
        body = running_backup(**({"error": intent} if intent else {}))
        for job in (job_of(body, active=1, age=90_000), job_of(body, age=90_000), job_of(body, active=1, ready=1)):
            for pods in (None, [], [pod("Running")], [pod("Pending", waits("ImagePullBackOff"))]):
                for refusals in (None, [], [{"reason": "FailedCreate", "message": "violates PodSecurity"}]):
                    action = ask(body, job=job, pods=pods, refusals=refusals, job_is_live=True)
                    assert not (isinstance(action, SetStatus) and action.status["phase"] == "Failed")
