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
    pod,
    s3_store,
    store,
    waiting,
)

from postgres_operator.api.backup import Backup
from postgres_operator.api.database import Database
from postgres_operator.api.store import BackupStore
from postgres_operator.decide.actions import Ask, Claim, CreateJob, DeleteJob, Fact, Nothing, SetStatus
from postgres_operator.decide.jobs import read_job
from postgres_operator.decide.run import Facts, Policy
from postgres_operator.decide.verification import decide, due

CLAIM = Claim("vault", ("ReadWriteOnce",))
COMPLETE = {"type": "Complete", "status": "True", "reason": "Completed", "message": "m", "lastTransitionTime": ago(90)}
NUMBERS = {"tables": 3, "rows": 12, "indexes": 2, "constraints": 1, "views": 0, "serverVersion": "17.6"}
NODE = {"type": "Verified", "observedGeneration": 1, "lastTransitionTime": ago(30)}


def verified(reason: str, message: str = "m", status: str = "Unknown") -> dict:
    return {**NODE, "status": status, "reason": reason, "message": message}


def done(mode: str = "Restore", *conditions: dict, phase: str = "Completed", **status) -> dict:
    """A Backup that is Completed."""
    body = backup(spec={"verification": {"mode": mode}}, status={"phase": phase, "sizeBytes": 4096, **status})
    body["status"] |= {"checksum": f"sha256:{SHA}", "conditions": [*conditions, COMPLETE]}
    body["status"].setdefault("backupLocation", location_of(body))
    return body


def ask(body: dict, *, db: dict | None = None, job: dict | None = None, to: dict | None = None, **facts):
    known = Facts(NOW, Database.model_validate(db or database()), read_job(job), **facts)
    chosen = BackupStore.model_validate(to or store())
    return decide(Backup.model_validate(body), chosen, known, Policy({}, 3600))


def shown(action) -> dict:
    """The condition that it writes; nothing else may change."""
    assert isinstance(action, SetStatus)
    first, second = action.status["conditions"]
    assert first["type"] == "Verified"
    assert {k: second[k] for k in COMPLETE} == COMPLETE
    assert action.status["phase"] == "Completed"
    assert action.status["checksum"] == f"sha256:{SHA}"
    return first


def says(action) -> tuple[str, str]:
    return shown(action)["status"], shown(action)["reason"]


RUNNING = verified("Running")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(done("None"), False, id="not-asked-for"),
        pytest.param(backup(status={"phase": "Completed"}), False, id="no-verification"),
        pytest.param(done("List"), True, id="list"),
        pytest.param(done("Restore"), True, id="restore"),
        pytest.param(done(phase="Failed"), False, id="the-backup-failed"),
        pytest.param(done(phase="InProgress"), False, id="the-backup-runs"),
        pytest.param(done("List", RUNNING), True, id="it-runs"),
        pytest.param(done("List", verified("BackupVerified", status="True")), False, id="good"),
        pytest.param(done("List", verified("ChecksumMismatch", status="False")), False, id="bad"),
        pytest.param(done("List", verified("VerificationIncomplete")), False, id="nothing-found-out"),
    ],
)
def test_when_a_verification_is_due(body, expected):
    assert due(body) is expected


def test_a_job_follows_a_backup():
    action = ask(done(), claim=CLAIM, claim_known=True)
    assert isinstance(action, CreateJob)
    assert action.template == "verify-backup.yaml.j2"
    assert action.name.startswith("verification-nightly-")
    assert (action.values["expected_sha256"], action.claim, dict(action.labels)) == (SHA, CLAIM, {})
    assert says(action.then) == ("Unknown", "Running")
    assert ask(done()) == Ask(Fact.CLAIM)


@pytest.mark.parametrize("reason", ["QuotaExceeded", "RequestRefused", "WaitingForSlot"])
def test_a_job_that_was_not_made_is_tried_again(reason):
    assert isinstance(ask(done("List", verified(reason)), claim=CLAIM, claim_known=True), CreateJob)


def test_a_claim_that_others_have_is_waited_for():
    busy = {"claim": CLAIM, "claim_known": True, "blockers": ["a", "b", "c", "d"]}
    action = ask(done(), **busy)
    assert (says(action), action.after) == (("Unknown", "WaitingForSlot"), 30)
    assert shown(action)["message"] == "Waiting for a, b, c to end."
    assert ask(done("Restore", shown(action)), **busy) == Nothing(30)


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        pytest.param(ask(done(), claim_known=True), ("False", "ArtifactMissing"), id="claim"),
        pytest.param(ask(done(backupLocation="s3://other/x")), ("Unknown", "VerificationIncomplete"), id="store"),
        pytest.param(ask(done(backupLocation="s3://vault/x"), to=s3_store()), "CreateJob", id="store-there"),
        pytest.param(
            decide(Backup.model_validate(done()), None, Facts(NOW), Policy({})),
            ("Unknown", "VerificationIncomplete"),
            id="database",
        ),
    ],
)
def test_what_it_needs_may_be_gone(action, expected):
    assert (type(action).__name__ if expected == "CreateJob" else says(action)) == expected


def reported(result: dict) -> list[dict]:
    return [pod("Succeeded", ended(message=json.dumps({"result": result})))]


def failing(reason: str, message: str = "why") -> list[dict]:
    text = json.dumps({"error": {"reason": reason, "message": message}})
    return [pod("Failed", ended(1, text))]


JOB = job_of(done(), "Verification", **complete())
FAILED = job_of(done(), "Verification", **failed_job())
LATE = job_of(done(), "Verification", **failed_job("DeadlineExceeded"))


@pytest.mark.parametrize(
    ("mode", "job", "pods", "expected", "message"),
    [
        pytest.param("List", JOB, reported({"entries": 7}), ("True", "BackupVerified"), "7 entries", id="list"),
        pytest.param("Restore", JOB, reported(NUMBERS), ("True", "BackupVerified"), "with 12 rows", id="restore"),
        pytest.param(
            "Restore", JOB, reported({"entries": 7}), ("Unknown", "VerificationIncomplete"), "tables", id="other-report"
        ),
        *(
            pytest.param(
                mode, JOB, reported(result), ("Unknown", "VerificationIncomplete"), lacking, id=f"no-{lacking}"
            )
            for mode, result, lacking in [
                ("List", {}, "entries"),
                ("List", NUMBERS, "entries"),
                ("List", {"entries": -1}, "entries"),
                ("Restore", {}, "rows"),
                ("Restore", {k: v for k, v in NUMBERS.items() if k != "serverVersion"}, "serverVersion"),
            ]
        ),
        pytest.param("List", JOB, [], ("Unknown", "VerificationIncomplete"), "ResultLost", id="no-report"),
        *(
            pytest.param("Restore", FAILED, failing(reason), ("False", reason), "why", id=reason)
            for reason in ("ChecksumMismatch", "ArtifactMissing", "ManifestInvalid", "RestoreFailed")
        ),
        *(
            pytest.param(
                "Restore", FAILED, failing(reason), ("Unknown", "VerificationIncomplete"), f"{reason}: why", id=reason
            )
            for reason in ("DownloadFailed", "VersionMismatch", "InternalError")
        ),
        pytest.param(
            "List",
            FAILED,
            failing("VerificationIncomplete"),
            ("Unknown", "VerificationIncomplete"),
            "why",
            id="full-disk",
        ),
        pytest.param(
            "List",
            FAILED,
            [pod("Failed", reason="Evicted", message="disk pressure")],
            ("Unknown", "VerificationIncomplete"),
            "Evicted: ",
            id="evicted",
        ),
        pytest.param(
            "List",
            FAILED,
            [pod("Failed", ended(137, reason="OOMKilled"))],
            ("Unknown", "VerificationIncomplete"),
            "memory",
            id="killed",
        ),
        pytest.param("List", LATE, [], ("Unknown", "VerificationIncomplete"), "DeadlineExceeded: ", id="late"),
    ],
)
def test_what_the_job_found(mode, job, pods, expected, message):
    action = ask(done(mode, RUNNING), job=job, pods=pods)
    assert says(action) == expected
    assert message in shown(action)["message"]
    assert (action.event.type, action.event.reason) == ("Normal" if expected[0] == "True" else "Warning", expected[1])


def test_the_pods_are_asked_for_once_the_job_has_ended():
    assert ask(done("List", RUNNING), job=JOB) == Ask(Fact.PODS)
    running = job_of(done(), "Verification", active=1, ready=1)
    name = running["metadata"]["name"]
    assert ask(done("List", verified("Running", f"Job {name} runs.")), job=running) == Nothing()


def test_a_job_that_vanished_is_looked_for_before_it_is_given_up():
    assert ask(done("List", RUNNING)) == Ask(Fact.LIVE_JOB)
    assert ask(done("List", RUNNING), job_is_live=True) == Ask(Fact.PODS)
    alive = ask(done("List", RUNNING), job_is_live=True, pods=[pod("Running")])
    assert says(alive) == ("Unknown", "StoppingJob")
    assert alive.event is None
    gone = ask(done("List", RUNNING), job_is_live=True, pods=[])
    assert says(gone) == ("Unknown", "VerificationIncomplete")
    assert shown(gone)["message"] == "JobLost: the Job was deleted before its end was seen."


def test_a_refused_pod_ends_it_after_its_job_was_deleted():
    """The reason is written first, so that a restart knows it."""
    job = job_of(done(), "Verification", age=30)
    refusals = [{"reason": "FailedCreate", "message": "violates PodSecurity"}]
    first = ask(done("List", RUNNING), job=job, pods=[], refusals=refusals)
    assert says(first) == ("Unknown", "StoppingJob")
    assert shown(first)["message"].startswith("PodSecurityRejected: ")
    stopping = done("List", shown(first))
    assert isinstance(ask(stopping, job=job), DeleteJob)
    assert ask(stopping, job_is_live=True) == Ask(Fact.PODS)
    waits = ask(stopping, job_is_live=True, pods=[pod("Running")])
    assert isinstance(waits, Nothing), "written once"
    last = ask(stopping, job_is_live=True, pods=[])
    assert says(last) == ("Unknown", "VerificationIncomplete")
    assert shown(last)["message"] == shown(first)["message"]


def test_a_clock_that_is_ahead_ends_no_verification_that_has_just_begun():
    job, pods = (
        job_of(done(), "Verification", age=4000, active=1),
        [pod("Pending", waiting("ErrImagePull", "no image"))],
    )
    assert says(ask(done("List", RUNNING), job=job, pods=pods)) == ("Unknown", "ImagePullFailed")
    late = done("List", {**RUNNING, "lastTransitionTime": ago(4000)})
    assert says(ask(late, job=job, pods=pods)) == ("Unknown", "StoppingJob")
