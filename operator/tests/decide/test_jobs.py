import json

import pytest
from support import NOW, backup, complete, ended, failed_job, job_of, pod, waiting

from postgres_operator import names
from postgres_operator.decide.jobs import (
    Job,
    failure,
    next_look,
    obstacle,
    read_job,
    read_report,
    refusal,
    reported,
    result,
    running,
    started,
)

JOB = Job(name="backup-x", uid="u", owner_uid="o", created=NOW, failed=("BackoffLimitExceeded", "limit"))
ERROR = json.dumps({"error": {"reason": "VolumeFull", "message": "no space"}})


@pytest.mark.parametrize(
    ("status", "finished"),
    [
        pytest.param({}, False, id="new"),
        pytest.param({"active": 1}, False, id="active"),
        pytest.param(complete(), True, id="complete"),
        pytest.param(failed_job(), True, id="failed"),
        pytest.param({"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}, False, id="only-about-to"),
        pytest.param({"conditions": [{"type": "FailureTarget", "status": "True"}]}, False, id="failing-pods-still-run"),
        pytest.param({"conditions": [{"type": "Complete", "status": "False"}]}, False, id="condition-false"),
        pytest.param({"succeeded": 1}, False, id="counters-are-no-condition"),
    ],
)
def test_only_terminal_conditions_end_a_job(status, finished):
    assert read_job(job_of(backup(), **status)).finished is finished


def test_a_job_of_an_earlier_version_says_the_path_by_its_location_alone():
    body = job_of(backup())
    path = body["metadata"]["annotations"].pop(names.ANNOTATION_PATH)
    assert path
    assert read_job(body).path == path


@pytest.mark.parametrize(
    "text",
    ["", "done", "{", "[]", "null", '{"result": 5}', '{"error": "x"}', '{"error": {"reason": 1, "message": "m"}}'],
)
def test_what_is_no_report_of_ours_is_none(text):
    assert read_report(text) is None


def test_result_comes_only_from_a_pod_that_succeeded():
    report = json.dumps({"result": {"a": 1}})
    assert result([pod("Failed", ended(0, report))]) is None
    assert result([pod("Running", ended(0, report))]) is None
    assert result([pod("Failed", ended(1)), pod("Succeeded", ended(0, report))]) == {"a": 1}


def test_result_is_the_last_containers():
    first, last = json.dumps({"result": {"step": 1}}), json.dumps({"result": {"step": 2}})
    assert result([pod("Succeeded", ended(0, last), init=(ended(0, first),))]) == {"step": 2}


@pytest.mark.parametrize(
    ("pods", "reason", "words"),
    [
        pytest.param([pod("Failed", ended(1, ERROR))], "VolumeFull", "no space", id="the-script-says"),
        pytest.param(
            [pod("Failed", init=(ended(0), ended(1, ERROR)))], "VolumeFull", "no space", id="an-init-step-says"
        ),
        pytest.param([pod("Failed", ended(137, reason="OOMKilled"))], "DumpFailed", "more memory", id="out-of-memory"),
        pytest.param([pod("Failed", ended(137))], "DumpFailed", "signal 9", id="killed"),
        pytest.param([pod("Failed", ended(3))], "DumpFailed", "exit code 3", id="silent"),
        pytest.param(
            [pod("Failed", ended(128, reason="StartError", message="no bash"))],
            "DumpFailed",
            "no bash",
            id="not-started",
        ),
        pytest.param([pod("Failed", reason="Evicted", message="disk")], "Evicted", "disk", id="evicted"),
        pytest.param(
            [pod("Failed", ended(137), reason="Evicted", message="disk")], "Evicted", "disk", id="evicted-while-it-ran"
        ),
        pytest.param(
            [pod("Failed", ended(1, ERROR), reason="Evicted", message="disk")],
            "VolumeFull",
            "no space",
            id="evicted-after-the-script-spoke",
        ),
        pytest.param([], "BackoffLimitExceeded", "gone before it reported", id="no-pod-left"),
    ],
)
def test_why_a_job_failed(pods, reason, words):
    problem = failure(JOB, pods, "DumpFailed")
    assert problem.reason == reason
    assert words in problem.message


STOPPED = ended(143, name="upload")
STARVED = ended(137, reason="OOMKilled", name="upload")
SAID_TOO = ended(1, json.dumps({"error": {"reason": "UploadFailed", "message": "by the sidecar"}}), name="upload")


@pytest.mark.parametrize(
    ("pods", "reason", "words"),
    [
        pytest.param([pod("Failed", ended(1, ERROR), init=(STOPPED,))], "VolumeFull", "no space", id="stopped-at-last"),
        pytest.param([pod("Failed", ended(1, ERROR), init=(SAID_TOO,))], "VolumeFull", "no space", id="it-speaks-too"),
        pytest.param([pod("Failed", ended(137), init=(STOPPED,))], "DumpFailed", "Container dump", id="dump-killed"),
        pytest.param(
            [pod("Failed", init=(STOPPED, ended(1, ERROR)))], "VolumeFull", "no space", id="an-init-step-beside-it"
        ),
        pytest.param(
            [pod("Failed", ended(1, ERROR), init=(STARVED,))],
            "VolumeFull",
            "no space Container upload was killed for using more memory than its limit: raise spec.resources",
            id="it-had-too-little-memory",
        ),
        pytest.param(
            [pod("Failed", ended(1, ERROR), init=({**STOPPED, "lastState": STARVED["state"]},))],
            "VolumeFull",
            "no space Container upload was killed for using more memory",
            id="it-had-too-little-memory-the-first-time",
        ),
        pytest.param([pod("Failed", init=(STOPPED,))], "BackoffLimitExceeded", "gone before", id="nothing-else-ran"),
    ],
)
def test_a_sidecar_is_not_why_a_job_failed(pods, reason, words):
    problem = failure(JOB, pods, "DumpFailed")
    assert problem.reason == reason
    assert words in problem.message
    assert "sidecar" not in problem.message


def test_a_sidecar_reports_nothing():
    report = json.dumps({"result": {"a": 1}})
    other = json.dumps({"result": {"b": 2}})
    assert result([pod("Succeeded", ended(0, report), init=(ended(143, other, "upload"),))]) == {"a": 1}
    assert result([pod("Succeeded", ended(0), init=(ended(143, other, "upload"),))]) is None
    assert reported([pod("Failed", ended(1), init=(SAID_TOO,))]) is None
    assert reported([pod("Failed", ended(1, ERROR), init=(SAID_TOO,))]).problem.reason == "VolumeFull"


def test_a_deadline_wins_over_what_the_killed_script_said():
    job = Job(name="j", uid="u", owner_uid="o", created=NOW, failed=("DeadlineExceeded", "x"))
    assert failure(job, [pod("Failed", ended(143, ERROR))], "DumpFailed").reason == "DeadlineExceeded"


def test_a_pod_that_the_kubelet_has_ended_is_still_there_with_its_log():
    problem = failure(JOB, [pod("Failed", ended(143, ERROR), reason="DeadlineExceeded")], "DumpFailed")
    assert problem.reason == "DeadlineExceeded"
    assert f"kubectl logs -n shop job/{JOB.name} --all-containers" in problem.message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": …', "PodSecurityRejected"),
        ('pods "x" is forbidden: exceeded quota: q, requested: pods=1', "QuotaExceeded"),
        ("failed calling webhook", "PodRefused"),
    ],
)
def test_refused_pods(message, reason):
    problem = refusal(JOB, [{"reason": "SuccessfulCreate"}, {"reason": "FailedCreate", "message": message}])
    assert problem.reason == reason
    assert message in problem.message


def test_other_events_are_no_refusal():
    assert refusal(JOB, [{"reason": "SuccessfulCreate", "message": "violates PodSecurity"}]) is None


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (pod("Pending", waiting("CreateContainerConfigError", 'secret "db-credentials" not found')), "CredentialsLost"),
        (
            pod("Pending", waiting("CreateContainerConfigError", "couldn't find key password in Secret x")),
            "CredentialsLost",
        ),
        (pod("Pending", waiting("CreateContainerConfigError", "configmap x not found")), "ContainerConfigInvalid"),
        (pod("Pending", waiting("ImagePullBackOff")), "ImagePullFailed"),
        (pod("Pending", waiting("CrashLoopBackOff")), "CrashLoop"),
        (
            pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "message": "no node"}]),
            "Unschedulable",
        ),
    ],
)
def test_obstacles(status, reason):
    assert obstacle([status]).reason == reason


def test_no_obstacle_while_images_are_pulled():
    assert obstacle([pod("Pending", waiting("ContainerCreating"), waiting("PodInitializing"))]) is None


def test_started_and_running():
    assert not started([pod("Pending", waiting("ContainerCreating"))])
    assert started([pod("Pending", init=({"name": "check", "state": {"running": {}}},))])
    assert not started([pod("Pending", init=({"name": "upload", "state": {"running": {}}},))])
    assert running([pod("Succeeded"), pod("Failed")]) == []
    assert running([pod("Pending"), pod("Unknown")]) == ["pod-1", "pod-1"]


def test_next_look():
    assert next_look(0, (10, 25)) == 10.5
    assert next_look(10, (10, 25)) == 15.5
    assert next_look(30, (10, 25)) is None
