from dataclasses import replace

import pytest
from support import (
    NOW,
    ago,
    backup,
    complete,
    ended,
    failed_job,
    job_of,
    location_of,
    path_of,
    pod,
    restore,
    s3_store,
    store,
    waiting,
)

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.restore import Restore
from postgres_operator.api.store import BackupStore
from postgres_operator.cache import Cache
from postgres_operator.decide import place
from postgres_operator.decide.actions import Ask, Claim, CreateJob, DeleteJob, Fact, Nothing, SetFinalizer, SetStatus
from postgres_operator.decide.deletion import DeletionFacts, concerns, decide, outlasts, refused
from postgres_operator.decide.jobs import Problem, read_job
from postgres_operator.decide.run import Policy
from postgres_operator.decide.schedule import read_made
from postgres_operator.exclusion import blockers

POLICY = Policy({})
VAULT = BackupStore.model_validate(store())
BUCKET = BackupStore.model_validate(s3_store())
DELETION = names.job_name("Deletion", "nightly", "uid-backup-nightly")
# All that was asked for, and nothing in the way.
CLEAR = DeletionFacts(
    NOW, store=VAULT, jobs_are_live=True, pods=[], claim=Claim("vault", ("ReadWriteOnce",)), claim_known=True
)


def doomed(phase="Completed", *, policy="Delete", conditions=(), deleted=True, **more):
    body = backup(
        spec={"deletionPolicy": policy, **more.pop("spec", {})},
        finalizers=["example.com/mine", names.FINALIZER],
        **({"deletionTimestamp": ago(1)} if deleted else {}),
    )
    body["status"] = {"phase": phase, "jobRef": {"name": "j"}, "conditions": list(conditions), **more}
    if phase == "Completed":
        body["status"].setdefault("backupLocation", location_of(body))
    return body


def ask(body, facts=CLEAR, **more):
    return decide(Backup.model_validate(body), replace(facts, **more), POLICY)


def job(body, kind="Deletion", **status):
    found = job_of(body, kind, **status)
    found["metadata"]["name"] = names.job_name(kind, "nightly", body["metadata"]["uid"])
    return read_job(found)


def own(found, name=DELETION):
    found["metadata"]["labels"] = {"batch.kubernetes.io/job-name": name}
    return found


def told(action):
    assert isinstance(action, SetStatus), action
    deleted = action.status["conditions"][0]
    assert (deleted["type"], deleted["status"]) == ("Deleted", "False")
    return deleted["reason"], deleted["message"]


def create(body, facts=CLEAR, **more):
    """The Job that is made when the intent is written."""
    action = ask(body, facts, **more)
    assert told(action)[0] == "Deleting"
    assert isinstance(action.then, CreateJob), action
    return action.then


# --- the finalizer


@pytest.mark.parametrize(
    ("policy", "held", "deleted", "expected"),
    [
        pytest.param(None, False, False, False, id="an old one without a policy"),
        pytest.param("Retain", False, False, False, id="retained"),
        pytest.param("Retain", False, True, False, id="retained, is going"),
        pytest.param("Delete", False, False, True, id="has to be held"),
        pytest.param("Delete", True, False, False, id="is held"),
        pytest.param("Retain", True, False, True, id="is to be let go"),
        pytest.param("Retain", True, True, True, id="is to be let go, is going"),
        pytest.param("Delete", True, True, True, id="its artifact has to go"),
        pytest.param("Delete", False, True, False, id="too late, or somebody took the finalizer away"),
    ],
)
def test_whom_it_concerns(policy, held, deleted, expected):
    body = backup(spec={"deletionPolicy": policy} if policy else {})
    if held:
        body["metadata"]["finalizers"] = ["example.com/mine", names.FINALIZER]
    if deleted:
        body["metadata"]["deletionTimestamp"] = ago(1)
    assert concerns(body) is expected


@pytest.mark.parametrize(("policy", "held"), [("Retain", False), ("Delete", True)])
def test_what_was_said_of_a_finalizer_goes_once_it_is_as_wanted(policy, held):
    done = {"type": "Complete", "status": "True", "reason": "Completed", "message": "m", "lastTransitionTime": ago(90)}
    body = doomed(policy=policy, deleted=False, conditions=[done])
    body["metadata"]["finalizers"] = ["example.com/mine"] + [names.FINALIZER] * (not held)
    said = refused(Backup.model_validate(body), NOW, Problem("RequestRefused", "no")).status["conditions"]
    body["status"]["conditions"] = said
    assert isinstance(ask(body), SetFinalizer)
    body["metadata"]["finalizers"] = ["example.com/mine"] + [names.FINALIZER] * held
    assert concerns(body)
    assert outlasts(Backup.model_validate(body))
    action = ask(body)
    assert isinstance(action, SetStatus)
    (left,) = action.status["conditions"]
    assert (left["type"], action.status["phase"]) == ("Complete", "Completed")
    body["status"] = action.status
    assert not concerns(body)


@pytest.mark.parametrize("phase", ["Pending", "InProgress", "Completed", "Failed"])
def test_a_backup_is_held_as_long_as_its_policy_says_so(phase):
    assert ask(doomed(phase, deleted=False), DeletionFacts(NOW)).held
    assert not ask(doomed(phase, deleted=False, policy="Retain"), DeletionFacts(NOW)).held


def test_with_retain_it_goes_at_once_and_the_artifact_stays():
    action = ask(doomed(policy="Retain"), DeletionFacts(NOW, job=job(doomed())))
    assert isinstance(action, SetFinalizer)
    assert (action.held, action.orphaned) == (False, False)


# --- nothing of it may run any more


@pytest.mark.parametrize("kind", ["Backup", "Reader"])
def test_its_jobs_are_ended_first(kind):
    body = doomed("InProgress")
    running = job(body, kind, active=1)
    action = ask(body, DeletionFacts(NOW, others=[running]))
    assert isinstance(action, DeleteJob)
    assert (action.name, action.uid, action.resource_version) == (running.name, running.uid, "20")
    assert told(ask(body, others=[replace(running, deleting=True)]))[0] == "StoppingJob"


def test_only_the_api_server_says_that_they_are_gone():
    body = doomed("InProgress")
    assert ask(body, DeletionFacts(NOW)) == Ask(Fact.OWN_JOBS)
    assert ask(body, DeletionFacts(NOW, jobs_are_live=True)) == Ask(Fact.OWN_PODS)
    reason, message = told(ask(body, pods=[pod("Succeeded"), pod("Running")]))
    assert (reason, "pod-1" in message) == ("StoppingJob", True)
    assert create(body, pods=[pod("Succeeded"), pod("Failed")])


def test_a_backup_that_never_had_a_job_just_goes():
    body = doomed("Pending")
    del body["status"]["jobRef"]
    assert not ask(body).held
    # its status may not say so yet
    assert create(body, others=[job(body, "Backup", **complete())])


def test_who_reads_the_artifact_is_waited_for():
    action = ask(doomed(), users=['Restore "undo"', 'Job "x"'])
    assert told(action) == ("BackupInUse", 'Waiting for Restore "undo", Job "x" to end.')
    assert action.after == 30
    assert action.event is None


# --- the Job


def test_the_job_is_neither_a_backup_nor_a_restore_of_the_database():
    body = doomed()
    action = create(body)
    assert (action.name, action.template, action.claim.name) == (DELETION, "delete.yaml.j2", "vault")
    assert action.labels == {names.LABEL_KIND: "deletion"}
    assert action.annotations == {names.ANNOTATION_LOCATION: location_of(body), names.ANNOTATION_PATH: path_of(body)}
    assert action.values["backup_uid"] == body["metadata"]["uid"]
    assert action.values["artifact_path"] == path_of(body)
    assert action.values["image"] == "postgres:17"  # there is no Database any more
    assert action.then == Nothing()


@pytest.mark.parametrize(
    ("before", "shown"),
    [
        pytest.param(None, "Deleting", id="the first time"),
        pytest.param("BackupInUse", "Deleting", id="after waiting"),
        pytest.param("Deleting", "Deleting", id="the Job could not be created"),
        pytest.param("DeletionFailed", "DeletionFailed", id="after it failed"),
        pytest.param("QuotaExceeded", "QuotaExceeded", id="after it was refused"),
    ],
)
def test_a_write_that_an_outdated_reading_would_not_survive_comes_before_each_job(before, shown):
    deleted = {"type": "Deleted", "status": "False", "reason": before, "message": "m", "lastTransitionTime": ago(9)}
    body = doomed(conditions=[deleted] if before else [])
    action = ask(body, namespace_ends=False)
    assert (told(action)[0], action.event) == (shown, None)
    assert (action.status["phase"], action.status["backupLocation"]) == ("Completed", location_of(body))
    assert action.then.name == DELETION


def test_other_conditions_stay():
    done = {"type": "Complete", "status": "True", "reason": "Completed", "message": "m", "lastTransitionTime": ago(9)}
    assert [c["type"] for c in ask(doomed(conditions=[done])).status["conditions"]] == ["Deleted", "Complete"]


@pytest.mark.parametrize(
    ("spec", "status", "in_store", "expected"),
    [
        pytest.param({}, {}, VAULT, "pvc://vault", id="what the status says"),
        pytest.param({}, {}, BUCKET, "pvc://vault", id="whatever the store is now"),
        pytest.param({}, {}, None, "pvc://vault", id="a claim needs no store"),
        pytest.param({}, {"phase": "Failed"}, VAULT, "pvc://vault", id="failed: what it left"),
        pytest.param({}, {"phase": "Failed"}, None, "pvc://backups", id="failed, in the claim that was made"),
        pytest.param({"storeRef": {"name": "s"}}, {"phase": "InProgress"}, BUCKET, "s3://vault", id="in a bucket"),
    ],
)
def test_where_the_artifact_is(spec, status, in_store, expected):
    body = doomed(spec=spec, **status)
    action = create(body, store=in_store)
    assert action.annotations[names.ANNOTATION_LOCATION] == location_of(body, expected)


def test_the_job_that_wrote_it_knows_where():
    body = doomed("Failed")
    action = create(body, others=[job(body, "Backup", **complete())], store=None)
    assert action.annotations[names.ANNOTATION_LOCATION] == location_of(body)


@pytest.mark.parametrize(
    ("body", "in_store", "reason"),
    [
        (doomed(backupLocation="s3://vault/db/nightly-uid-backup-nightly"), None, "StoreNotFound"),
        (doomed("Failed", spec={"storeRef": {"name": "s"}}), None, "StoreNotFound"),
        (doomed(backupLocation="s3://other/db/nightly-uid-backup-nightly"), BUCKET, "LocationNotInStore"),
        (doomed(backupLocation="pvc://vault/db/nightly-uid-backup-another"), VAULT, "DeletionFailed"),
        (doomed(backupLocation="pvc://vault/db"), VAULT, "DeletionFailed"),
    ],
)
def test_what_cannot_be_found_or_is_not_its_own_is_left_alone(body, in_store, reason):
    action = ask(body, store=in_store)
    assert told(action)[0] == reason
    assert "set spec.deletionPolicy to Retain" in told(action)[1]
    assert (action.event.type, action.event.reason, action.after) == ("Warning", reason, 300)
    # once; and what may be the reason is asked for
    body = {**body, "status": {**body["status"], "conditions": action.status["conditions"]}}
    assert ask(body, store=in_store) == Ask(Fact.NAMESPACE)
    assert ask(body, store=in_store, namespace_ends=False) == Nothing(300)


def test_without_the_claim_there_is_nothing_left_to_delete():
    assert ask(doomed(), claim_known=False, claim=None) == Ask(Fact.CLAIM)
    action = ask(doomed(), claim=None)
    assert not action.held
    assert '"vault" is gone' in action.why


def test_a_bucket_needs_no_claim():
    body = doomed("Failed")
    assert create(body, store=BUCKET, claim_known=False, claim=None).claim is None
    assert place.url(BUCKET) == "s3://vault"


# --- how it went


def test_a_complete_job_lets_the_backup_go():
    action = ask(doomed(), DeletionFacts(NOW, job=job(doomed(), **complete())))
    assert (action.held, action.orphaned) == (False, False)


def test_a_failed_job_is_told_and_tried_again_after_five_minutes():
    status = failed_job()
    status["conditions"][0]["lastTransitionTime"] = ago(100)
    body, failed = doomed(), job(doomed(), **status)
    report = own(pod("Failed", ended(1, '{"error": {"reason": "DeletionFailed", "message": "Read-only."}}')))
    assert ask(body, DeletionFacts(NOW, job=failed)) == Ask(Fact.OWN_PODS)
    action = ask(body, job=failed, pods=[own(pod("Failed", ended(1, "{}")), "another"), report])
    reason, message = told(action)
    assert (reason, message.startswith("Read-only. It is tried again.")) == ("DeletionFailed", True)
    assert action.event.type == "Warning"
    assert action.after == 200
    assert action.status["phase"] == "Completed"
    # the same again is no news
    body["status"]["conditions"] = action.status["conditions"]
    assert ask(body, job=failed, pods=[report], namespace_ends=False) == Nothing(200)
    status["conditions"][0]["lastTransitionTime"] = ago(300)
    assert isinstance(ask(body, job=job(body, **status), namespace_ends=False), DeleteJob)
    # and is shown while it is tried again
    again = ask(body, namespace_ends=False)
    assert (told(again), again.event) == ((reason, message), None)
    assert isinstance(again.then, CreateJob)


def test_a_job_that_is_being_deleted_or_runs_is_waited_for():
    assert ask(doomed(), job=replace(job(doomed()), deleting=True)) == Nothing(3)
    assert ask(doomed(), job=job(doomed(), age=5)).after < 10
    assert isinstance(ask(doomed(), job=job(doomed(), age=60, active=1, ready=1)), Nothing)


def test_what_hinders_the_pod_is_told():
    late = DeletionFacts(NOW, job=job(doomed(), age=30))
    assert ask(doomed(), late) == Ask(Fact.OWN_PODS)
    stuck = own(pod("Pending", waiting("ErrImagePull", "no such image", name="delete")))
    assert told(ask(doomed(), late, pods=[stuck]))[0] == "ImagePullFailed"
    assert ask(doomed(), late, pods=[]) == Ask(Fact.REFUSALS)
    event = {"reason": "FailedCreate", "message": "exceeded quota: q"}
    assert told(ask(doomed(), late, pods=[], refusals=[event]))[0] == "QuotaExceeded"
    assert isinstance(ask(doomed(), late, pods=[], refusals=[]), Nothing)


# --- the namespace goes

ENDS = "forbidden: unable to create new content in namespace shop because it is being terminated"


def test_a_namespace_that_is_being_deleted_is_not_held_up():
    run = Backup.model_validate(doomed())
    action = refused(run, NOW, Problem("RequestRefused", ENDS))
    assert (action.held, action.orphaned) == (False, True)
    assert location_of(doomed()) in action.why
    assert told(refused(run, NOW, Problem("QuotaExceeded", "exceeded quota")))[0] == "QuotaExceeded"
    lost = ask(doomed(backupLocation="s3://vault/db/nightly-uid-backup-nightly"), store=None)
    body = doomed(conditions=lost.status["conditions"])
    assert ask(body, namespace_ends=True).orphaned


def test_a_finalizer_that_is_refused_keeps_no_finished_backup_from_being_one():
    action = refused(Backup.model_validate(doomed(deleted=False)), NOW, Problem("RequestRefused", "no"))
    assert told(action)[0] == "RequestRefused"
    assert action.status["phase"] == "Completed"


# --- what others see of it


def test_a_deletion_that_hangs_holds_up_neither_its_schedule_nor_a_restore():
    body = doomed("InProgress")
    cache = Cache()
    cache.put("Backup", body)
    run = Restore.model_validate(restore())

    def blocked():
        return list(blockers(cache, run, None, {})), read_made(body).active

    assert blocked() == (['Backup "nightly"'], True)
    body["status"]["conditions"] = ask(body, others=[replace(job(body, "Backup"), deleting=True)]).status["conditions"]
    assert blocked() == (['Backup "nightly"'], True)
    # its Job may not be deleted, and runs on
    no = refused(Backup.model_validate(body), NOW, Problem("RequestRefused", "DELETE …: 403 no"))
    body["status"]["conditions"] = no.status["conditions"]
    assert blocked() == (['Backup "nightly"'], True)
    # that of the deletion may not be made
    begun = doomed("InProgress", conditions=ask(doomed("Failed"), store=BUCKET).status["conditions"])
    unable = refused(Backup.model_validate(begun), NOW, Problem("RequestRefused", "POST …: 403 no"))
    for late in ask(body, users=["x"], namespace_ends=False), ask(doomed("Failed"), store=BUCKET), unable:
        body["status"]["conditions"] = late.status["conditions"]
        assert blocked() == ([], False)
