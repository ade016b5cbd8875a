import json

import pytest
from support import NOW, SHA, ago, backup, complete, database, ended, failed_job, job_of, pod, restore, s3_store, store
from support import waiting as waits

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.database import Database
from postgres_operator.api.restore import Restore
from postgres_operator.api.store import BackupStore
from postgres_operator.decide.actions import Ask, Claim, CreateJob, DeleteJob, Fact, Nothing, SetStatus
from postgres_operator.decide.jobs import Problem, read_job
from postgres_operator.decide.refusals import may_pass
from postgres_operator.decide.restore import decide
from postgres_operator.decide.run import Facts, Policy

CLAIM = Claim("vault", ("ReadWriteOnce",))
PATH = "db/nightly-1"
LOCATION = f"pvc://vault/{PATH}"
DONE = {"phase": "Completed", "backupLocation": LOCATION, "checksum": f"sha256:{SHA}"}
IN_PROGRESS = {"phase": "InProgress", "startTime": ago(50), "jobRef": {"name": "j"}}
BY_LOCATION = {"location": LOCATION}
S3_LOCATION = f"s3://vault/team/{PATH}"
IN_S3 = {"location": S3_LOCATION}
S3_DONE = {**DONE, "backupLocation": S3_LOCATION}


def ask(body, *, db=None, source=None, the_store=None, job=None, **facts):
    """The decision for these objects; `db` and `source` are absent when False."""
    found = None if db is False else Database.model_validate(db or database())
    made = None if source is False else Backup.model_validate(source or backup(status=DONE))
    known = Facts(now=NOW, database=found, job=read_job(job), **facts)
    chosen = BackupStore.model_validate(the_store) if the_store else None
    return decide(Restore.model_validate(body), made, chosen, known, Policy({}))


def reason(action) -> str:
    assert isinstance(action, SetStatus)
    return action.status["conditions"][0]["reason"]


def claimed(body=None, **more):
    return ask(body or restore(), claim=CLAIM, claim_known=True, **more)


# --- before there is a Job


@pytest.mark.parametrize(
    ("jobs", "source", "the_store", "starts"),
    [
        pytest.param(4, DONE, None, True, id="a volume"),
        pytest.param(1, S3_DONE, s3_store(prefix="team"), True, id="one session from a bucket"),
        pytest.param(4, S3_DONE, s3_store(prefix="team"), False, id="a bucket"),
    ],
)
def test_only_what_is_in_a_volume_is_loaded_by_several_sessions(jobs, source, the_store, starts):
    body = restore(spec={"backupRef": {"name": "nightly"}, "mode": "Replace", "jobs": jobs})
    action = claimed(body, source=backup(status=source), the_store=the_store)
    if starts:
        assert isinstance(action, CreateJob)
        assert action.values["jobs"] == jobs
        return
    assert (action.status["phase"], reason(action)) == ("Failed", "FormatUnsupported")
    assert S3_LOCATION in action.status["error"]["message"]


@pytest.mark.parametrize("phase", ["Completed", "Failed"])
def test_terminal_phases_are_left_alone(phase):
    assert claimed(restore(status={"phase": phase})) == Nothing()
    assert ask(restore(status={"phase": phase}), job=job_of(restore(), **complete()), pods=[]) == Nothing()


def test_a_deleted_restore_starts_nothing():
    assert claimed(restore(deletionTimestamp=ago(1))) == Nothing()


@pytest.mark.parametrize(
    ("body", "facts", "expected", "words"),
    [
        pytest.param(restore(), {"source": False}, "BackupNotFound", '"nightly"', id="no-backup"),
        pytest.param(
            restore(),
            {"source": backup(status={"phase": "InProgress"})},
            "BackupNotCompleted",
            "InProgress",
            id="backup-runs",
        ),
        pytest.param(restore(), {"source": backup()}, "BackupNotCompleted", "Pending", id="backup-without-a-phase"),
        pytest.param(
            restore(),
            {"source": backup(status={"phase": "Completed"})},
            "BackupNotCompleted",
            '"nightly"',
            id="backup-without-a-location",
        ),
        pytest.param(restore(), {"db": False}, "DatabaseNotFound", '"db"', id="no-database"),
        pytest.param(
            restore(),
            {"db": {**database(), "metadata": {**database()["metadata"], "deletionTimestamp": ago(1)}}},
            "DatabaseNotFound",
            '"db"',
            id="database-is-going",
        ),
        pytest.param(restore(), {"db": database(ready=False)}, "DatabaseNotReady", "Provisioning", id="not-ready"),
        pytest.param(restore(), {"blockers": ('Backup "b"',)}, "WaitingForSlot", 'Backup "b"', id="slot-taken"),
        pytest.param(
            restore(spec={**BY_LOCATION, "storeRef": {"name": "far"}}), {}, "StoreNotFound", '"far"', id="no-store"
        ),
        pytest.param(restore(spec=BY_LOCATION), {}, "StoreNotFound", '"default"', id="location-in-no-store-yet"),
        pytest.param(restore(), {"claim": None}, "ClaimNotFound", '"vault"', id="no-claim"),
    ],
)
def test_what_is_missing_is_waited_for_and_named(body, facts, expected, words):
    action = ask(body, **{"claim": CLAIM, "claim_known": True, **facts})
    assert (reason(action), action.status["phase"], action.event) == (expected, "Pending", None)
    assert words in action.status["conditions"][0]["message"]
    # Written once. A claim is not watched, and what holds a slot may go without a trace: those waits have an end.
    body["status"] = action.status
    again = ask(body, **{"claim": CLAIM, "claim_known": True, **facts})
    assert again == Nothing({"ClaimNotFound": 15.0, "WaitingForSlot": 30.0}.get(expected))


def test_a_failed_backup_fails_the_restore_for_good():
    action = claimed(source=backup(status={"phase": "Failed"}))
    assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "BackupFailed")
    assert (action.event.type, action.event.reason) == ("Warning", "BackupFailed")


def test_the_claim_is_asked_for_before_anything_is_created():
    assert ask(restore()) == Ask(Fact.CLAIM)


def test_the_job_is_created_first_and_then_the_status():
    body = restore()
    action = claimed(body)
    assert isinstance(action, CreateJob)
    assert action.name == names.job_name("Restore", "undo", body["metadata"]["uid"])
    assert (action.template, action.claim) == ("restore.yaml.j2", CLAIM)
    assert action.annotations == {names.ANNOTATION_LOCATION: LOCATION, names.ANNOTATION_PATH: PATH}
    assert action.labels == {names.LABEL_DATABASE: "db"}
    assert (action.then.status["phase"], action.then.status["jobRef"]) == ("InProgress", {"name": action.name})
    assert "error" not in action.then.status


def test_a_restore_says_what_to_check_and_where_to_put_it():
    body = restore(spec={"backupRef": {"name": "nightly"}, "mode": "Replace", "keepPrevious": False})
    values = claimed(body, db=database(spec={"databaseName": "shop", "username": "keeper"})).values
    uid = body["metadata"]["uid"]
    assert values["store"] == {"kind": "pvc", "claim_name": "vault"}
    assert values["artifact_path"] == PATH
    assert values["expected_sha256"] == SHA
    assert values["restore_uid"] == uid
    assert (values["mode"], values["keep_previous"]) == ("Replace", False)
    assert values["previous_database"] == f"shop_before_{uid[:8]}"
    assert values["scratch_prefix"] == "shop_restore"
    assert (values["database"]["name"], values["database"]["username"]) == ("shop", "keeper")
    assert values["ttl_seconds_after_finished"] is None


def test_the_default_mode_touches_no_data():
    assert claimed().values["mode"] == "Fail"


def test_the_job_name_follows_the_uid_not_the_name():
    assert claimed().name != claimed(restore(uid="another")).name


def test_a_job_that_is_there_already_is_followed_not_created_again():
    body = restore()
    action = claimed(body, job=job_of(body, active=1))
    assert (action.status["phase"], action.after) == ("InProgress", 0)


# --- by location: any store, with or without its Backup


@pytest.mark.parametrize(
    ("spec", "the_store", "started"),
    [
        pytest.param(BY_LOCATION, store(), True, id="in-the-default-store"),
        pytest.param({**BY_LOCATION, "storeRef": {"name": "far"}}, store("far"), True, id="in-the-named-store"),
        pytest.param({"location": "pvc://backups/db/x-1"}, None, True, id="default-claim-without-a-store"),
        pytest.param(BY_LOCATION, store(claim="vau"), False, id="only-a-prefix-of-the-claim"),
        pytest.param(BY_LOCATION, s3_store(), False, id="in-a-claim-not-in-the-bucket-of-that-name"),
        pytest.param(IN_S3, s3_store(prefix="team"), True, id="in-the-default-bucket"),
        pytest.param({**IN_S3, "storeRef": {"name": "far"}}, s3_store("far", prefix="team"), True, id="named-bucket"),
        pytest.param(IN_S3, s3_store(), True, id="below-a-bucket-without-a-prefix"),
        pytest.param(IN_S3, s3_store(bucket="vau"), False, id="only-a-prefix-of-the-bucket"),
        pytest.param(IN_S3, s3_store(prefix="tea"), False, id="only-a-part-of-the-prefix"),
        pytest.param(IN_S3, s3_store(prefix="team/db"), True, id="deeper-than-backups-are-written"),
        pytest.param(IN_S3, s3_store(prefix="team/db/nightly-1"), False, id="the-prefix-itself"),
        pytest.param(IN_S3, s3_store(prefix="other"), False, id="another-prefix"),
        pytest.param(IN_S3, store(), False, id="in-a-bucket-not-in-the-claim-of-that-name"),
        pytest.param(
            {**BY_LOCATION, "storeRef": {"name": "far"}}, store("far", "other"), False, id="not-in-the-named-store"
        ),
    ],
)
def test_a_location_must_lie_in_its_store(spec, the_store, started):
    action = claimed(restore(spec=spec), source=False, the_store=the_store)
    if started:
        assert isinstance(action, CreateJob)
        assert action.annotations[names.ANNOTATION_LOCATION] == spec["location"]
        assert action.values["expected_sha256"] == ""
    else:
        assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "LocationNotInStore")
        assert spec["location"] in action.status["error"]["message"]


@pytest.mark.parametrize(
    ("the_store", "path"),
    [(s3_store(prefix="team"), PATH), (s3_store(), f"team/{PATH}"), (s3_store(prefix="team/db"), "nightly-1")],
)
def test_a_location_is_split_where_its_store_begins(the_store, path):
    action = ask(restore(spec=IN_S3), source=False, the_store=the_store)
    assert (action.values["artifact_path"], action.annotations[names.ANNOTATION_PATH]) == (path, path)
    assert action.annotations[names.ANNOTATION_LOCATION] == S3_LOCATION


# --- from an object store, by the Backup that wrote it


def from_s3(the_store, **spec):
    source = backup(status=S3_DONE, spec=spec)
    return ask(restore(), source=source, the_store=the_store)


def test_an_object_store_needs_no_claim():
    action = from_s3(s3_store(prefix="team", serviceAccountName="reader", credentialsSecretRef={"name": "keys"}))
    assert isinstance(action, CreateJob)
    assert (action.template, action.claim, action.service_account) == ("restore.yaml.j2", None, "reader")
    assert action.labels == {names.LABEL_DATABASE: "db"}
    assert (action.values["artifact_path"], action.values["expected_sha256"]) == (PATH, SHA)
    assert action.values["uploader_image"] == names.UPLOADER_IMAGE
    assert (action.values["store"]["bucket"], action.values["store"]["credentials_secret"]) == ("vault", "keys")


def test_the_store_of_the_backup_is_waited_for():
    missing = from_s3(None, storeRef={"name": "far"})
    assert (missing.status["phase"], reason(missing)) == ("Pending", "StoreNotFound")
    assert 'BackupStore "far", which Backup "nightly" was written to' in missing.status["conditions"][0]["message"]
    assert '"default"' in from_s3(None).status["conditions"][0]["message"]
    assert isinstance(from_s3(s3_store("far", prefix="team"), storeRef={"name": "far"}), CreateJob)


@pytest.mark.parametrize(
    ("the_store", "words"),
    [
        pytest.param(s3_store(prefix="crew"), "s3://vault/crew", id="another-prefix"),
        pytest.param(s3_store(bucket="cellar", prefix="team"), "s3://cellar/team", id="another-bucket"),
        pytest.param(store(), "pvc://vault", id="a-claim-now"),
    ],
)
def test_a_store_that_was_made_anew_elsewhere_is_told(the_store, words):
    action = from_s3(the_store)
    assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "LocationNotInStore")
    message = action.status["error"]["message"]
    for part in (S3_LOCATION, 'Backup "nightly"', 'BackupStore "default"', f"({words})", "spec.storeRef"):
        assert part in message


def test_a_backup_in_a_volume_is_found_whatever_the_store_is_now():
    for the_store in (None, s3_store(), store(claim="another")):
        assert claimed(the_store=the_store).values["store"] == {"kind": "pvc", "claim_name": "vault"}


# --- while the Job runs


EXTERNAL = {"host": "pg.example.com", "sslMode": "require", "credentialsSecretRef": {"name": "login"}}


@pytest.mark.parametrize("superuser", [None, "root"])
@pytest.mark.parametrize("mode", ["Fail", "Clean", "Replace"])
def test_replace_wants_a_superuser_of_an_external_server(mode, superuser):
    external = EXTERNAL | ({"superuser": superuser} if superuser else {})
    found = {"claim": Claim("vault"), "claim_known": True}
    wanted = restore(spec={"backupRef": {"name": "nightly"}, "mode": mode})
    action = ask(wanted, db=database(spec={"external": external}), **found)
    if mode == "Replace" and not superuser:
        assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "SuperuserMissing")
        assert "spec.external.superuser" in action.status["error"]["message"]
    else:
        assert isinstance(action, CreateJob)
        assert action.values["database"]["superuser"] == superuser


def running_restore(spec=None, **changes):
    return restore(spec=spec, status={**IN_PROGRESS, **changes})


@pytest.mark.parametrize(
    ("db", "source"),
    [
        pytest.param(database(), False, id="backup-deleted"),
        pytest.param(database(), backup(status={"phase": "Failed"}), id="backup-failed"),
        pytest.param(database(ready=False), None, id="database-not-ready"),
        pytest.param(False, None, id="database-deleted"),
    ],
)
def test_a_running_restore_depends_on_its_job_alone(db, source):
    body = running_restore()
    action = ask(body, db=db, source=source, job=job_of(body, active=1, ready=1))
    assert (action.status["phase"], reason(action)) == ("InProgress", "Running")


def test_refused_pods_fail_it_after_the_job_is_stopped():
    body = running_restore()
    job = job_of(body, age=12)
    events = [{"reason": "FailedCreate", "message": 'pods "x" is forbidden: violates PodSecurity "restricted"'}]
    assert ask(body, job=job) == Ask(Fact.PODS)
    assert ask(body, job=job, pods=[]) == Ask(Fact.REFUSALS)
    action = ask(body, job=job, pods=[], refusals=events)
    assert (action.status["phase"], reason(action)) == ("InProgress", "StoppingJob")
    stopping = restore(status=action.status)
    assert ask(stopping, job=job, refusals=events) == DeleteJob(
        job["metadata"]["name"], job["metadata"]["uid"], "20", 3.0
    )
    going = {**job, "metadata": {**job["metadata"], "deletionTimestamp": ago(1)}}
    assert ask(stopping, job=going, refusals=events) == Nothing(3.0)
    hindered = restore(status=may_pass(Restore.model_validate(stopping), NOW, Problem("RequestRefused", "no")).status)
    action = ask(hindered, job=going, refusals=events)
    assert {**action.status, "conditions": []} == {**stopping["status"], "conditions": []}, "it goes on"
    assert reason(action) == "StoppingJob"
    assert ask(stopping) == Ask(Fact.LIVE_JOB)
    assert ask(stopping, job_is_live=True) == Ask(Fact.PODS)
    held = ask(stopping, job_is_live=True, pods=[pod("Running")])
    assert (held.status["phase"], held.status["error"]["reason"]) == ("InProgress", "PodSecurityRejected")
    gone = ask(stopping, job_is_live=True, pods=[])
    assert (gone.status["phase"], gone.status["error"]["reason"]) == ("Failed", "PodSecurityRejected")
    assert "violates PodSecurity" in gone.status["error"]["message"]


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"uncountedTerminatedPods": {"succeeded": ["uid-pod"]}}, id="pod-not-counted-yet"),
        pytest.param({"succeeded": 1}, id="counted"),
        pytest.param({"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}, id="about-to-complete"),
        pytest.param({"conditions": [{"type": "FailureTarget", "status": "True"}]}, id="about-to-fail"),
        pytest.param({"failed": 1}, id="pod-failed"),
        pytest.param({"active": 0, "terminating": 1}, id="pod-terminating"),
    ],
)
def test_a_job_that_is_just_ending_is_not_given_up(status):
    """Its pods are no longer active and its condition is not there yet: that is no Job whose pod never started."""
    body = running_restore()
    events = [{"reason": "FailedCreate", "message": "failed calling webhook"}]
    for refusals in (None, [], events):
        action = ask(body, job=job_of(body, age=50_000, **status), refusals=refusals, pods=[])
        assert (action.status["phase"], reason(action)) == ("InProgress", "Running")
        assert "error" not in action.status


def test_a_vanished_job_says_that_the_target_may_have_changed():
    body = running_restore()
    assert ask(body) == Ask(Fact.LIVE_JOB)
    lost = ask(body, job_is_live=True, pods=[pod("Succeeded")])
    assert (lost.status["phase"], lost.status["error"]["reason"]) == ("Failed", "JobLost")
    assert "look before you create a new Restore" in lost.status["error"]["message"]


def test_a_restore_that_completes_while_it_is_being_stopped_is_complete():
    body = running_restore(error={"reason": "StartDeadlineExceeded", "message": "m"})
    action = finished(body, report())
    assert action.status["phase"] == "Completed"
    assert "error" not in action.status


def test_nothing_that_may_still_run_is_called_failed():
    """Rule 9: whatever else is known, `Failed` takes the Job's own `Failed`, or that nothing of it is left."""
    checked = 0
    deleting = job_of(restore(), active=1)
    deleting["metadata"]["deletionTimestamp"] = ago(1)
    for intent in (None, {"reason": "JobLost", "message": "m"}):
        body = running_restore(**({"error": intent} if intent else {}))
        for job in (
            job_of(body, active=1, age=90_000),
            job_of(body, age=90_000),
            job_of(body, ready=1),
            deleting,
            None,
        ):
            for pods in (None, [pod("Running")], [pod("Pending", waits("ImagePullBackOff"))], [pod("Unknown")]):
                for refusals in (None, [], [{"reason": "FailedCreate", "message": "violates PodSecurity"}]):
                    action = ask(body, job=job, pods=pods, refusals=refusals, job_is_live=True)
                    assert not (isinstance(action, SetStatus) and action.status["phase"] == "Failed")
                    checked += 1
    assert checked == 120


# --- its end


def report(**changes) -> str:
    outcome = {"location": "db/nightly-1", "serverVersion": "17.6", "toolVersion": "17.5", **changes}
    return json.dumps({"result": outcome})


def finished(body, text: str | None, db=None):
    job = job_of(body, **complete())
    job["metadata"]["annotations"] |= {names.ANNOTATION_LOCATION: LOCATION, names.ANNOTATION_PATH: PATH}
    return ask(body, db=db, job=job, pods=[] if text is None else [pod("Succeeded", ended(0, text))])


def test_completed_says_what_went_where():
    body = running_restore()
    assert ask(body, job=job_of(body, **complete())) == Ask(Fact.PODS)
    action = finished(body, report())
    assert action.status["phase"] == "Completed"
    assert (action.status["serverVersion"], action.status["toolVersion"]) == ("17.6", "17.5")
    assert (action.status["restoreTime"], action.status["completionTime"]) == ("2026-03-01T12:00:00Z",) * 2
    assert action.status["startTime"] == ago(50)
    assert "previousDatabase" not in action.status
    condition = action.status["conditions"][0]
    assert (condition["type"], condition["status"]) == ("Complete", "True")
    assert LOCATION in condition["message"]
    assert '"db"' in condition["message"]
    assert (action.event.type, action.event.reason) == ("Normal", "RestoreCompleted")


def test_the_kept_database_and_warnings_are_told():
    body = running_restore({"backupRef": {"name": "nightly"}, "mode": "Replace"})
    action = finished(
        body, report(previousDatabase="app_before_12345678", warning="x was skipped", globals="globals.sql")
    )
    assert action.status["previousDatabase"] == "app_before_12345678"
    assert "app_before_12345678" in action.event.message
    assert "x was skipped" in action.event.message
    assert "The roles of the server, which are in globals.sql there, are not." in action.event.message


@pytest.mark.parametrize(
    ("mode", "keep", "db", "kept"),
    [
        ("Replace", True, None, True),
        ("Replace", False, None, False),
        ("Clean", True, None, False),
        ("Fail", True, None, False),
        ("Replace", True, False, False),
    ],
)
def test_without_its_pod_a_complete_job_still_counts(mode, keep, db, kept):
    """Its last step has seen the committed marker; only names and versions are lost."""
    spec = {"backupRef": {"name": "nightly"}, "mode": mode, "keepPrevious": keep}
    body = running_restore(spec)
    action = finished(body, None, db)
    assert action.status["phase"] == "Completed"
    assert "serverVersion" not in action.status
    expected = names.previous_database("app", body["metadata"]["uid"]) if kept else None
    assert action.status.get("previousDatabase") == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"result": {"location": "db/nightly-1"}}', id="no-versions"),
        pytest.param(report(serverVersion="s3cret row"), id="no-version"),
        pytest.param(report(warning=["s3cret row"]), id="wrong-type"),
        pytest.param(report(location="db/nightly-2"), id="another-backup"),
        pytest.param(report(location="nightly-1"), id="only-its-tail"),
    ],
)
def test_a_report_that_is_not_valid_is_never_completed(text):
    action = finished(running_restore(), text)
    assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "ResultInvalid")
    # The Job is Complete, so the target has changed: people must not take this for nothing done.
    assert f"restored {LOCATION}" in action.status["error"]["message"]
    assert "s3cret" not in json.dumps(action.status) + action.event.message


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        pytest.param(
            [pod("Failed", init=(ended(1, '{"error": {"reason": "ChecksumMismatch", "message": "differs"}}'),))],
            "ChecksumMismatch",
            id="the-check-says",
        ),
        pytest.param([pod("Failed", ended(137, reason="OOMKilled"))], "RestoreFailed", id="killed"),
        pytest.param([], "BackoffLimitExceeded", id="no-pod-left"),
    ],
)
def test_a_failed_job_fails_it(pods, expected):
    body = running_restore()
    assert ask(body, job=job_of(body, **failed_job())) == Ask(Fact.PODS)
    action = ask(body, job=job_of(body, **failed_job()), pods=pods)
    assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", expected)
    assert [(c["type"], c["status"]) for c in action.status["conditions"]] == [
        ("Complete", "False"),
        ("Failed", "True"),
    ]
    assert action.event.type == "Warning"


def test_a_deadline_says_so():
    body = running_restore()
    action = ask(body, job=job_of(body, **failed_job("DeadlineExceeded")), pods=[pod("Failed", ended(143))])
    assert action.status["error"]["reason"] == "DeadlineExceeded"


SAID = json.dumps({"error": {"reason": "RestoreFailed", "message": "Database app was not changed."}})
PAST = json.dumps({"result": {"location": "x", "serverVersion": "17.6", "toolVersion": "17.6"}})


@pytest.mark.parametrize(
    ("pods", "words"),
    [
        pytest.param([pod("Failed", ended(1, SAID))], "not changed", id="the-script-says"),
        pytest.param([pod("Failed", ended(143, PAST))], "WAS restored", id="ended-after-the-swap"),
        pytest.param([pod("Failed", ended(137))], "either as it was or restored", id="killed-without-a-word"),
        pytest.param([], "either as it was or restored", id="pod-gone"),
    ],
)
def test_a_failure_says_what_it_means_for_the_target(pods, words):
    body = running_restore()
    action = ask(body, job=job_of(body, **failed_job()), pods=pods)
    assert action.status["phase"] == "Failed"
    message = action.status["error"]["message"]
    assert words in message
    outlooks = ("not changed", "WAS restored", "either as it was")
    assert sum(outlook in message for outlook in outlooks) == 1
