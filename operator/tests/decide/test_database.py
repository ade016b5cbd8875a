import json
from datetime import timedelta

import pytest
from support import NOW, ago, complete, ended, failed_job, job_of, pod, resource
from support import waiting as waits

from postgres_operator import names
from postgres_operator.api.database import Database
from postgres_operator.decide import server
from postgres_operator.decide.actions import (
    Ask,
    CreateJob,
    Event,
    Fact,
    Nothing,
    Provision,
    SetStatus,
    UpdateServer,
)
from postgres_operator.decide.database import DatabaseFacts, decide, refused, verification, verify_job_name
from postgres_operator.decide.jobs import Problem, read_job

SERVICES = frozenset({"db", "db-pods"})
ENDPOINT = "db.shop.svc.cluster.local:5432"


def db(spec=None, status=None, **meta):
    """A Database that has been seen once, unless its status says otherwise."""
    return resource("Database", "db", spec or {}, {"phase": "Pending"} if status is None else status, **meta)


def read(body) -> Database:
    return Database.model_validate(body)


def running(body, revision="r1", *, ready=1, uid=999, **status):
    """The StatefulSet of this Database with one settled pod, as the API server has it."""
    made = server.stateful_set(read(body), uid)
    made["metadata"] |= {"uid": "uid-sts", "generation": 1, "resourceVersion": "77"}
    made["status"] = {
        "observedGeneration": 1,
        "replicas": 1,
        "readyReplicas": ready,
        "updatedReplicas": 1,
        "currentRevision": revision,
        "updateRevision": revision,
        **status,
    }
    return made


def ask(body, **facts):
    job = facts.pop("job", None)
    known = {"services": SERVICES, **facts}
    return decide(read(body), DatabaseFacts(now=NOW, job=read_job(job), **known))


def verify_job(body, sts, *, age=5, **status):
    job = job_of(body, age=age, **status)
    job["metadata"]["name"] = verify_job_name(read(body), sts)
    return job


def verified_pods(version="17.6"):
    report = {"result": {"serverVersion": version, "toolVersion": version}}
    return [pod("Succeeded", ended(0, json.dumps(report), name="verify"))]


def with_status(body, action):
    assert isinstance(action, SetStatus)
    return {**body, "status": action.status}


def reason(action) -> str:
    assert isinstance(action, SetStatus)
    return action.status["conditions"][0]["reason"]


def conditions(status):
    return {c["type"]: c["status"] for c in status["conditions"]}


def ready_database(spec=None, revision="r1"):
    """A Database that has been verified, and its StatefulSet."""
    body = db(spec)
    sts = running(body, revision)
    action = ask(body, server=sts, job=verify_job(body, sts, **complete()), pods=verified_pods())
    assert action.status["phase"] == "Ready"
    return with_status(body, action), sts


# --- Pending -> Provisioning -> Verifying -> Ready


def test_the_whole_way():
    body = db(status={})
    action = ask(body, services=frozenset())
    assert action.after == 0
    body = with_status(body, action)
    assert (body["status"]["phase"], body["status"]["ready"], action.event) == ("Pending", False, None)
    assert "secretName" not in body["status"]

    action = ask(body, claim_known=True, services=frozenset())
    assert isinstance(action, Provision)
    body = with_status(body, action.then)
    assert (body["status"]["phase"], body["status"]["ready"]) == ("Provisioning", False)
    assert conditions(body["status"]) == {"Ready": "False", "Progressing": "True"}

    action = ask(body, server=running(body, ready=0))
    body = with_status(body, action)
    assert (body["status"]["phase"], reason(action)) == ("Verifying", "NotAllReplicasReady")
    assert body["status"]["conditions"][0]["message"] == "not all replicas ready: 0/1"
    assert action.after == 5.0
    assert ask(body, server=running(body, ready=0)) == Nothing(5.0)

    sts = running(body)
    action = ask(body, server=sts)
    assert isinstance(action, CreateJob)
    body = with_status(body, action.then)
    assert (body["status"]["phase"], reason(action.then)) == ("Verifying", "Verifying")

    job = verify_job(body, sts, active=1)
    assert action.name == job["metadata"]["name"]
    assert ask(body, server=sts, job=job) == Nothing(5.5)
    job = verify_job(body, sts, **complete())
    assert ask(body, server=sts, job=job) == Ask(Fact.PODS)
    action = ask(body, server=sts, job=job, pods=verified_pods())
    status = action.status
    assert (status["phase"], status["ready"], status["endpoint"]) == ("Ready", True, ENDPOINT)
    assert (status["serverVersion"], status["toolVersion"]) == ("17.6", "17.6")
    assert status["secretName"] == "db-credentials"
    assert status["observedGeneration"] == 1
    assert conditions(status) == {"Ready": "True", "Progressing": "False"}
    assert action.event == Event("Normal", "DatabaseReady", f"Database is ready at {ENDPOINT}")

    # Done: neither the Job nor its end by TTL makes anything happen again.
    body = with_status(body, action)
    assert ask(body, server=sts, job=job) == Nothing(None)
    assert ask(body, server=sts) == Nothing(None)


def test_a_deleted_database_is_left_alone():
    body, _ = ready_database()
    body["metadata"]["deletionTimestamp"] = ago(1)
    assert ask(body, claim_known=True) == Nothing()


# --- provisioning: volume and passwords belong together


def data_claim(made_for: str | None, owner: str = "999"):
    annotations = {names.ANNOTATION_DATA_OWNER: owner}
    if made_for:
        annotations[names.ANNOTATION_CREATED_FOR] = made_for
    return {"metadata": {"name": "data-db-0", "annotations": annotations}}


def test_the_volume_is_looked_at_before_anything_is_made():
    assert ask(db()) == Ask(Fact.CLAIM)


def test_a_new_database_gets_everything():
    body = db()
    action = ask(body, claim_known=True)
    assert action.claim == server.claim(read(body))
    assert action.secret
    assert [s["metadata"]["name"] for s in action.services] == ["db", "db-pods"]
    assert action.server == server.stateful_set(read(body), 999)


@pytest.mark.parametrize(
    ("claim", "secret_name", "posted"),
    [
        pytest.param(None, None, True, id="new"),
        pytest.param(data_claim("uid-database-db"), None, True, id="stopped-after-the-claim"),
        pytest.param(data_claim("uid-of-the-one-before"), None, False, id="volume-of-another-database"),
        pytest.param(data_claim(None), None, False, id="volume-of-unknown-origin"),
        pytest.param({"metadata": {"name": "data-db-0"}}, None, False, id="volume-without-annotations"),
        pytest.param(data_claim("uid-database-db"), "db-credentials", False, id="provisioned-before"),
        pytest.param(None, "db-credentials", False, id="provisioned-before-and-volume-gone"),
    ],
)
def test_new_passwords_only_for_a_volume_that_nobody_filled(claim, secret_name, posted):
    body = db(status={"phase": "Failed", **({"secretName": secret_name} if secret_name else {})})
    action = ask(body, claim_known=True, claim=claim)
    assert action.secret is posted
    assert (action.claim is None) is (claim is not None)


@pytest.mark.parametrize(
    "going", [{"deletionTimestamp": ago(1)}, {"ownerReferences": [{"kind": "StatefulSet", "name": "db", "uid": "old"}]}]
)
def test_a_volume_that_goes_with_the_database_before_is_waited_for(going):
    """`kubectl delete` and `apply` under Delete: the next volume is empty and needs new passwords."""
    body, claim = db(), data_claim("uid-of-the-one-before")
    claim["metadata"] |= going
    action = ask(body, claim_known=True, claim=claim)
    assert (action.status["phase"], reason(action), action.after) == ("Pending", "VolumeTerminating", 2.0)
    assert "data-db-0" in action.status["conditions"][0]["message"]
    body = with_status(body, action)
    assert ask(body, claim_known=True, claim=claim) == Nothing(2.0)
    then = ask(body, claim_known=True, claim=None)
    assert then.secret
    assert then.claim


def test_a_kept_volume_keeps_its_owner_whatever_the_image():
    action = ask(db({"image": "postgres:17"}), claim_known=True, claim=data_claim("before", owner="70"))
    pod_spec = action.server["spec"]["template"]["spec"]
    assert pod_spec["securityContext"]["runAsUser"] == 70


def test_a_stop_between_server_and_status_does_not_lose_the_secrets_name():
    """Rule 11: once there is a server, new passwords would not fit its volume."""
    body = db()
    seen = ask(body, server=running(body, ready=0))
    assert seen.status["secretName"] == "db-credentials"
    server_deleted_by_hand = ask(with_status(body, seen), claim_known=True, claim=data_claim("uid-database-db"))
    assert not server_deleted_by_hand.secret


# --- what is refused


@pytest.mark.parametrize(
    ("spec", "expected", "words"),
    [
        ({"replicas": 2}, "ReplicasNotSupported", "spec.replicas is 2"),
        ({"databaseName": "ä" * 32}, "NameTooLong", "spec.databaseName has 64 bytes"),
        ({"username": "ä" * 32}, "NameTooLong", "spec.username has 64 bytes"),
    ],
)
def test_what_is_not_supported_is_refused_before_anything_is_made(spec, expected, words):
    action = ask(db(spec), claim_known=True)
    assert (action.status["phase"], action.status["ready"], reason(action)) == ("Failed", False, expected)
    assert words in action.event.message
    assert (action.event.type, action.event.reason) == ("Warning", expected)
    assert "secretName" not in action.status
    assert ask({**db(spec), "status": action.status}, claim_known=True) == Nothing(None)


def test_63_bytes_are_allowed():
    spec = {"databaseName": "ä" * 31 + "x", "username": "u" * 63}
    assert isinstance(ask(db(spec), claim_known=True), Provision)


def test_a_ready_server_goes_on_when_its_spec_asks_for_more_replicas():
    body, sts = ready_database()
    body["spec"]["replicas"] = 3
    body["metadata"]["generation"] = 2
    action = ask(body, server=sts)
    assert (action.status["phase"], action.status["ready"], reason(action)) == ("Ready", True, "ReplicasNotSupported")
    body = with_status(body, action)
    assert ask(body, server=sts) == Nothing(None)
    # Ready goes on to mean what it says.
    assert ask(body, server=running(body, ready=0)).status["ready"] is False
    assert isinstance(ask(body, server=sts, services=frozenset()), Provision)
    body["spec"]["replicas"] = 1
    body["metadata"]["generation"] = 3
    back = ask(body, server=sts)
    assert (back.status["phase"], reason(back)) == ("Ready", "Ready")


def test_a_refused_database_goes_on_once_it_is_mended():
    body = db({"replicas": 3})
    body = with_status(body, ask(body))
    body["spec"]["replicas"] = 1
    action = ask(body, claim_known=True)
    assert isinstance(action, Provision)
    assert action.secret


@pytest.mark.parametrize("owners", [[], [{"kind": "Deployment", "name": "db", "uid": "somebody"}]])
@pytest.mark.parametrize("services", [SERVICES, frozenset()])
def test_a_foreign_stateful_set_is_never_touched(owners, services):
    body = db()
    foreign = running(body)
    foreign["metadata"]["ownerReferences"] = owners
    action = ask(body, server=foreign, services=services)
    assert (action.status["phase"], reason(action)) == ("Failed", "NameTaken")
    assert 'StatefulSet "db"' in action.event.message
    # Nothing of it maps to our key: only time brings us back.
    assert action.after == 30.0
    body = with_status(body, action)
    assert ask(body, server=foreign, services=services) == Nothing(30.0)
    freed = ask(body, claim_known=True)
    assert freed.secret, "no Secret was made so far: it must not count as lost"


def test_the_server_of_a_deleted_database_of_this_name_is_waited_for():
    body = db()
    old = running(body)
    old["metadata"]["ownerReferences"][0]["uid"] = "uid-of-the-one-before"
    assert ask(body, server=old) == Nothing(2.0)


def test_what_the_api_server_refuses_is_tried_again():
    body = db()
    problem = Problem("NameTaken", 'Service "db" exists and is not ours')
    action = refused(read(body), NOW, problem)
    assert (action.status["phase"], reason(action), action.after) == ("Failed", "NameTaken", 30.0)
    assert action.event == Event("Warning", "NameTaken", problem.message)
    assert refused(read(with_status(body, action)), NOW, problem) == Nothing(30.0)


# --- what is missing or has changed is put right


@pytest.mark.parametrize("gone", ["db", "db-pods"])
def test_a_missing_service_is_made_again(gone):
    body, sts = ready_database()
    action = ask(body, server=sts, services=SERVICES - {gone})
    assert isinstance(action, Provision)
    assert [s["metadata"]["name"] for s in action.services] == [gone]
    assert (action.claim, action.secret, action.server) == (None, False, None)
    assert action.then == Nothing(0)


def test_a_missing_server_is_made_again_with_its_volume_and_passwords():
    body, _ = ready_database()
    action = ask(body, claim_known=True, claim=data_claim("uid-database-db"), services=SERVICES)
    assert isinstance(action, Provision)
    assert (action.claim, action.secret) == (None, False)
    assert action.server is not None
    assert (action.then.status["phase"], action.then.status["ready"]) == ("Provisioning", False)


@pytest.mark.parametrize(
    "spec",
    [
        {"image": "postgres:17.6"},
        {"resources": {"limits": {"memory": "1Gi"}}},
        {"nodeSelector": {"disk": "ssd"}},
        {"tolerations": [{"operator": "Exists"}]},
        {"imagePullSecrets": [{"name": "registry"}]},
        {"deletionPolicy": "Delete"},
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_a_changed_spec_updates_the_server(spec):
    body, sts = ready_database()
    body["spec"] = spec
    action = ask(body, server=sts)
    assert isinstance(action, UpdateServer)
    # It replaces exactly the version that was looked at.
    assert action.server["metadata"]["resourceVersion"] == "77"
    assert action.server == server.updated(sts, server.stateful_set(read(body), 999))
    assert action.server["metadata"]["annotations"] != sts["metadata"]["annotations"]
    assert (action.then.status["phase"], action.then.status["ready"]) == ("Updating", False)
    assert conditions(action.then.status) == {"Ready": "False", "Progressing": "True"}


@pytest.mark.parametrize("replicas", [0, 2])
def test_a_server_that_somebody_scales_is_set_back_and_not_ready_until_then(replicas):
    body, sts = ready_database()
    sts["spec"]["replicas"] = replicas
    sts["metadata"]["generation"] = 2
    sts["status"] |= {"replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas}
    sts["status"]["observedGeneration"] = 2
    action = ask(body, server=sts)
    assert isinstance(action, UpdateServer)
    assert action.server["spec"]["replicas"] == 1
    assert (action.then.status["phase"], action.then.status["ready"]) == ("Updating", False)
    body = with_status(body, action.then)
    sts["spec"]["replicas"] = 1
    assert reason(ask(body, server=sts)) == "NotAllReplicasReady"
    assert ask(body, server=running(body)).status["ready"] is True


def test_names_of_database_and_role_do_not_concern_the_server():
    body, sts = ready_database()
    body["spec"] = {"databaseName": "other"}
    assert isinstance(ask(body, server=sts), CreateJob)


def test_an_update_keeps_the_owner_of_the_data():
    body = db({"image": "postgres:17"})
    sts = running(body, uid=999)
    body["spec"] = {"image": "postgres:17-alpine"}
    action = ask(body, server=sts)
    assert action.server["spec"]["template"]["spec"]["containers"][0]["image"] == "postgres:17-alpine"
    assert action.server["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 999
    assert action.server["spec"]["template"]["spec"]["securityContext"]["fsGroup"] == 999


# --- every replica first


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"readyReplicas": 0}, id="not-ready"),
        pytest.param({"observedGeneration": 0}, id="change-not-seen-yet"),
        pytest.param({"updatedReplicas": 0}, id="old-pod"),
        pytest.param({"currentRevision": "r0"}, id="update-under-way"),
    ],
)
def test_verification_waits_for_every_replica(status):
    body = db()
    action = ask(body, server=running(body, **status))
    assert (action.status["phase"], reason(action), action.after) == ("Verifying", "NotAllReplicasReady", 5.0)


def test_a_server_without_any_status_is_not_ready():
    body = db()
    sts = running(body)
    del sts["status"]
    assert ask(body, server=sts).status["conditions"][0]["message"] == "not all replicas ready: 0/1"


def test_a_ready_database_whose_pod_is_gone_is_not_ready_until_it_is_back():
    body, sts = ready_database()
    action = ask(body, server=running(body, ready=0))
    assert (action.status["phase"], action.status["ready"]) == ("Verifying", False)
    back = ask(with_status(body, action), server=sts)
    assert (back.status["phase"], back.status["ready"], back.event.reason) == ("Ready", True, "DatabaseReady")


def waiting_database(seconds, revision="r1"):
    """A Database whose server has not been ready for so long."""
    body = db()
    body = with_status(body, ask(body, server=running(body, revision, ready=0)))
    for condition in body["status"]["conditions"]:
        condition["lastTransitionTime"] = (NOW - timedelta(seconds=seconds)).isoformat()
    return body


def test_the_pods_are_asked_only_when_it_takes_long():
    assert ask(waiting_database(9), server=running(db(), ready=0)) == Nothing(5.0)
    assert ask(waiting_database(10), server=running(db(), ready=0)) == Ask(Fact.SERVER_PODS)


@pytest.mark.parametrize(
    ("pods", "phase", "expected"),
    [
        pytest.param(
            [pod("Pending", waits("CreateContainerConfigError", 'secret "db-credentials" not found'))],
            "Failed",
            "CredentialsLost",
            id="secret-lost",
        ),
        pytest.param(
            [
                pod(
                    "Pending",
                    waits("CreateContainerConfigError", "couldn't find key password in Secret shop/db-credentials"),
                )
            ],
            "Failed",
            "CredentialsLost",
            id="key-lost",
        ),
        pytest.param([pod("Pending", waits("ImagePullBackOff"))], "Verifying", "ImagePullFailed", id="no-image"),
        pytest.param([pod("Running", waits("CrashLoopBackOff"))], "Verifying", "CrashLoop", id="crashes"),
        pytest.param(
            [pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "message": "no node"}])],
            "Verifying",
            "Unschedulable",
            id="no-node",
        ),
        pytest.param([pod("Pending", waits("ContainerCreating"))], "Verifying", "NotAllReplicasReady", id="slow"),
        pytest.param([], "Verifying", "NotAllReplicasReady", id="no-pod"),
    ],
)
def test_why_the_server_does_not_come_up(pods, phase, expected):
    body = waiting_database(20)
    sts = running(body, ready=0)
    action = ask(body, server=sts, server_pods=pods)
    shown = body["status"] if isinstance(action, Nothing) else action.status
    assert (shown["phase"], shown["ready"]) == (phase, False)
    assert shown["conditions"][0]["reason"] == expected
    # It is looked at again, and goes on by itself.
    assert action.after == 5.0
    assert isinstance(ask({**body, "status": shown}, server=running(body)), CreateJob)


# --- verification


def test_only_the_first_verification_makes_role_and_database():
    body = db()
    action = ask(body, server=running(body))
    assert (action.template, action.values["create_missing"]) == ("verify.yaml.j2", True)
    assert action.values["database"] == {
        "host": "db.shop.svc.cluster.local",
        "port": 5432,
        "name": "app",
        "username": "app",
        "superuser": "postgres",
        "secret_name": "db-credentials",
        "ssl_mode": None,
        "ca_secret_name": None,
    }
    assert action.values["active_deadline_seconds"] == 120
    assert action.values["ttl_seconds_after_finished"] == 120
    later, _ = ready_database()
    assert ask(later, server=running(later, "r2")).values["create_missing"] is False


def test_verification_is_repeated_when_the_pods_revision_changes():
    body, sts = ready_database(revision="r1")
    new = running(body, "r2")
    assert verify_job_name(read(body), sts) != verify_job_name(read(body), new)
    action = ask(body, server=new)
    assert isinstance(action, CreateJob)
    assert (action.then.status["phase"], action.then.status["ready"]) == ("Verifying", False)
    body = with_status(body, action.then)
    done = ask(body, server=new, job=verify_job(body, new, **complete()), pods=verified_pods("17.7"))
    assert (done.status["phase"], done.status["serverVersion"]) == ("Ready", "17.7")
    assert done.status["verified"] == verification(read(body), new)


def test_verification_is_repeated_for_a_new_server_of_the_same_revision():
    body, sts = ready_database()
    again = running(body)
    again["metadata"]["uid"] = "another"
    assert verification(read(body), again) != verification(read(body), sts)
    assert isinstance(ask(body, server=again), CreateJob)


@pytest.mark.parametrize("spec", [{"databaseName": "x"}, {"username": "x"}, {"image": "postgres:17.6"}])
def test_verification_is_for_these_names_and_this_image(spec):
    sts = running(db())
    assert verification(read(db()), sts) != verification(read(db(spec)), sts)


def failed_verification(body, sts, text="wrong password"):
    error = json.dumps({"error": {"reason": "AuthenticationFailed", "message": text}})
    return ask(body, server=sts, job=verify_job(body, sts, **failed_job()), pods=[pod("Failed", ended(1, error))])


def test_a_failed_verification_is_shown_and_repeated_when_its_job_is_gone():
    body = db()
    sts = running(body)
    action = failed_verification(body, sts)
    assert (action.status["phase"], action.status["ready"], reason(action)) == ("Failed", False, "AuthenticationFailed")
    assert action.event == Event("Warning", "AuthenticationFailed", "wrong password")
    body = with_status(body, action)
    assert failed_verification(body, sts) == Nothing(None)
    again = ask(body, server=sts)
    assert isinstance(again, CreateJob)
    assert again.then == Nothing()  # the failure stays visible until it is mended
    assert again.values["create_missing"] is True
    done = ask(body, server=sts, job=verify_job(body, sts, **complete()), pods=verified_pods())
    assert (done.status["phase"], done.status["ready"]) == ("Ready", True)
    assert done.event.reason == "DatabaseReady"


def test_a_repeated_failure_makes_one_event():
    body = db()
    sts = running(body)
    body = with_status(body, failed_verification(body, sts, "first"))
    second = failed_verification(body, sts, "second")
    assert second.status["conditions"][0]["message"] == "second"
    assert second.event is None


@pytest.mark.parametrize(
    "pods",
    [
        pytest.param([], id="pod-gone"),
        pytest.param([pod("Succeeded", ended(0, "not ours"))], id="no-report"),
        pytest.param([pod("Succeeded", ended(0, '{"result": {"serverVersion": "; DROP"}}'))], id="no-version"),
    ],
)
def test_without_a_report_it_is_not_ready(pods):
    body = db()
    sts = running(body)
    action = ask(body, server=sts, job=verify_job(body, sts, **complete()), pods=pods)
    assert (action.status["phase"], action.status["ready"], reason(action)) == ("Failed", False, "ResultLost")
    assert "verified" not in action.status


def test_a_verification_that_is_just_ending_is_not_taken_for_a_refused_one():
    body = db()
    sts = running(body)
    events = [{"reason": "FailedCreate", "message": "failed calling webhook"}]
    job = verify_job(body, sts, age=30, uncountedTerminatedPods={"succeeded": ["uid-pod"]})
    assert isinstance(ask(body, server=sts, job=job, refusals=events), Nothing)


def test_a_verification_whose_pods_are_refused_says_so():
    body = db()
    sts = running(body)
    job = verify_job(body, sts, age=11)
    assert ask(body, server=sts, job=job) == Ask(Fact.REFUSALS)
    assert ask(body, server=sts, job=job, refusals=[]) == Nothing(14.5)
    events = [{"reason": "FailedCreate", "message": "pods is forbidden: violates PodSecurity"}]
    action = ask(body, server=sts, job=job, refusals=events)
    assert (action.status["phase"], reason(action)) == ("Failed", "PodSecurityRejected")
    assert "violates PodSecurity" in action.event.message


@pytest.mark.parametrize("age", [1, 15, 30, 60, 119])
def test_a_verification_under_way_is_looked_at_again(age):
    body = db()
    sts = running(body)
    assert ask(body, server=sts, job=verify_job(body, sts, age=age, active=1), pods=[]).after


NO_NODE = [{"type": "PodScheduled", "status": "False", "message": "Insufficient memory"}]


@pytest.mark.parametrize(
    ("blocked", "expected", "lasting"),
    [
        pytest.param(pod("Pending", conditions=NO_NODE), "Unschedulable", False, id="no-node"),
        pytest.param(
            pod("Pending", waits("CreateContainerConfigError", 'secret "db-credentials" not found')),
            "CredentialsLost",
            True,
            id="secret-lost",
        ),
        pytest.param(pod("Pending", waits("ImagePullBackOff")), "ImagePullFailed", False, id="no-image"),
    ],
)
def test_what_keeps_a_verification_from_running_is_shown_and_stays_when_its_time_is_up(blocked, expected, lasting):
    body = db()
    sts = running(body)
    body = with_status(body, ask(body, server=sts).then)
    assert ask(body, server=sts, job=verify_job(body, sts, age=9, active=1)) == Nothing(1.5)
    job = verify_job(body, sts, age=12, active=1)
    assert ask(body, server=sts, job=job) == Ask(Fact.PODS)
    assert ask(body, server=sts, job=job, pods=[pod("Pending")]) == Nothing(13.5)
    assert (ask(body, server=sts, job=job, pods=[blocked]) != Nothing(13.5)) == lasting
    job = verify_job(body, sts, age=52, active=1)
    action = ask(body, server=sts, job=job, pods=[blocked])
    assert (action.status["phase"], reason(action), action.after) == ("Failed", expected, 68.5)
    assert action.event.reason == expected
    body = with_status(body, action)
    late = verify_job(body, sts, age=120, **failed_job("DeadlineExceeded"))
    for left in ([], [blocked]):
        assert ask(body, server=sts, job=late, pods=left, refusals=[]) == Nothing()
    again = ask(body, server=sts)
    assert again.then == Nothing()
    done = ask(body, server=sts, job=verify_job(body, sts, **complete()), pods=verified_pods())
    assert (done.status["phase"], done.status["ready"]) == ("Ready", True)


def test_a_verification_that_ran_until_its_time_was_up_says_so():
    body = with_status(db(), failed_verification(db(), running(db())))
    sts = running(body)
    ran = pod("Failed", ended(143, name="verify"), reason="DeadlineExceeded")
    action = ask(body, server=sts, job=verify_job(body, sts, age=120, **failed_job()), pods=[ran])
    assert reason(action) == "DeadlineExceeded"


def test_ready_is_written_only_for_a_verified_server():
    """Whatever the facts: `ready` needs a settled StatefulSet of ours and a verification of exactly that."""
    body = db()
    for revision, ready in (("r1", 0), ("r1", 1), ("r2", 1)):
        sts = running(body, revision, ready=ready)
        for job in (None, verify_job(body, sts, active=1), verify_job(body, sts, **failed_job())):
            action = ask(body, server=sts, job=job, pods=[], claim_known=True)
            then = getattr(action, "then", action)
            assert not (isinstance(then, SetStatus) and then.status["ready"])
