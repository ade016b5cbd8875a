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
    pod,
    store,
)
from support import waiting as waits

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.database import Database
from postgres_operator.api.store import BackupStore
from postgres_operator.decide.actions import Ask, Claim, CreateClaim, CreateJob, DeleteJob, Fact, Nothing, SetStatus
from postgres_operator.decide.backup import Policy, Reader, decide
from postgres_operator.decide.jobs import read_job
from postgres_operator.decide.run import Facts

POLICY = Policy({"accessModes": ["ReadWriteOnce"]}, 3600)
CLAIM = Claim("vault", ("ReadWriteOnce",))
IN_PROGRESS = {"phase": "InProgress", "startTime": ago(50), "jobRef": {"name": "j"}}


def ask(body, *, db=None, job=None, the_store=None, reader=None, reader_pods=None, **facts):
    """The decision for these objects."""
    known = Facts(
        now=NOW,
        database=Database.model_validate(db or database()),
        job=read_job(job),
        **facts,
    )
    chosen = BackupStore.model_validate(the_store) if the_store else None
    return decide(Backup.model_validate(body), chosen, known, Reader(read_job(reader), reader_pods), POLICY)


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


def test_a_restore_into_the_database_is_waited_for():
    action = claimed(blockers=('Restore "undo"',))
    assert reason(action) == "WaitingForSlot"
    assert 'Restore "undo"' in action.status["conditions"][0]["message"]


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
    assert action.annotations[names.ANNOTATION_LOCATION] == location_of(body)
    assert action.values["claim_name"] == "vault"
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
    assert ask(body, job=job) == Ask(Fact.REFUSALS)
    events = [{"reason": "FailedCreate", "message": message}]
    action = ask(body, job=job, refusals=events)
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
    assert reason(ask(body, job=job_of(body, age=12), refusals=events)) == "PodRefused"
    assert reason(ask(body, job=job_of(body, age=46), refusals=events)) == "StoppingJob"


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


def test_a_pod_that_started_is_not_held_to_the_start_deadline():
    body = running_backup()
    pods = [pod("Running", {"name": "dump", "state": {"running": {}}})]
    assert reason(ask(body, job=job_of(body, age=6000, active=1), pods=pods)) == "Running"


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
    assert done(body, pods, reader=reader) == Nothing()
    reader = job_of(body, "Reader", **complete())
    assert done(body, pods, reader=reader) == Ask(Fact.READER_PODS)
    report = json.dumps({"result": manifest(body)})
    action = done(body, pods, reader=reader, reader_pods=[pod("Succeeded", ended(0, report))])
    assert action.status["phase"] == "Completed"


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
