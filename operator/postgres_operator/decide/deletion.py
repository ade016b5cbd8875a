"""The end of a Backup whose artifact is to go with it: what to do next.

A finalizer holds the Backup until a Job has deleted the artifact. It is there before the Job that writes, and only as
long as `spec.deletionPolicy` is Delete.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.common import dump
from postgres_operator.api.database import Database
from postgres_operator.api.store import BackupStore

from . import place as places
from .actions import Action, Ask, Body, Claim, CreateJob, DeleteJob, Event, Fact, Nothing, SetFinalizer, SetStatus
from .conditions import condition, find, unless_same
from .jobs import LOOK_AT, Job, Problem, failure, next_look, obstacle, refusal, running
from .place import Place
from .run import RETRY_GONE, Policy, job_values, stand_in, waiting_for

CONDITION = "Deleted"
_GOES_ON = ("Deleting", "StoppingJob", "BackupInUse")  # reasons of the condition while all goes well
# Those before `_stop` has seen that no Job of the Backup writes any more: what is refused may be the end of one. The
# others are many, for the Job that deletes may fail for any reason.
_MAY_WRITE = ("StoppingJob", "RequestRefused")

_DEADLINE_SECONDS = 900
_TTL_SECONDS = 86400  # of a Job that has lost its Backup
_RETRY_FAILED = 300.0
_RETRY_REFUSED = 60.0
_RETRY_IN_USE = 30.0  # the end of a Restore wakes it before; this is also for what has the ReadWriteOncePod claim


@dataclass(frozen=True, slots=True)
class DeletionFacts:
    """What there is to see of a Backup that is being deleted; None where it was not asked for."""

    now: datetime
    database: Database | None = None
    store: BackupStore | None = None
    job: Job | None = None  # the one that deletes the artifact
    others: Sequence[Job] = ()  # what else the Backup has, or had when the API server was asked
    jobs_are_live: bool = False
    pods: Sequence[Body] | None = None  # of all its Jobs
    refusals: Sequence[Body] | None = None
    claim: Claim | None = None
    claim_known: bool = False
    users: Sequence[str] = ()  # who reads the artifact or has its claim, as people would name it
    namespace_ends: bool | None = None


def concerns(body: Body) -> bool:
    """Whether the finalizer of a Backup has to come or go, or has come or gone after it was refused.

    As cheap as can be, for most have nothing to do with it.
    """
    meta = body["metadata"]
    held = names.FINALIZER in meta.get("finalizers", ())
    if "deletionTimestamp" in meta:
        return held
    told = any(c["type"] == CONDITION for c in body.get("status", {}).get("conditions", ()))
    return told or held != (body["spec"].get("deletionPolicy") == "Delete")


def stopped(body: Body) -> bool:
    """Whether a Backup is being deleted and no Job of it writes any more, whatever its phase was then."""
    conditions = body.get("status", {}).get("conditions", [])
    told = next((c["reason"] for c in conditions if c["type"] == CONDITION), None)
    return "deletionTimestamp" in body["metadata"] and told is not None and told not in _MAY_WRITE


def job_name(backup: Backup) -> str:
    """Of the Job that deletes the artifact; what it does can be done again."""
    return names.job_name("Deletion", backup.metadata.name, backup.metadata.uid)


def path(backup: Backup) -> str:
    """The one directory that this Backup ever writes to, inside its store."""
    meta = backup.metadata
    return names.artifact_path(backup.spec.database_ref.name, meta.name, meta.uid)


def decide(backup: Backup, facts: DeletionFacts, policy: Policy) -> Action:
    """The next step of a Backup that `concerns`."""
    wanted = backup.spec.deletion_policy == "Delete"
    if not backup.deleted:
        if find(backup.status.conditions, CONDITION) and (names.FINALIZER in backup.metadata.finalizers) == wanted:
            # What was refused once has been done, and nobody deletes the Backup: the condition is of no more use.
            left = [dump(c) for c in backup.status.conditions if c.type != CONDITION]
            return SetStatus({**dump(backup.status), "conditions": left})
        return SetFinalizer(wanted, f"spec.deletionPolicy is {backup.spec.deletion_policy}")
    if not wanted:
        return SetFinalizer(False, "spec.deletionPolicy is Retain: the artifact stays")
    if _failed_before(backup) and facts.namespace_ends is None:
        # What does not work may not work because all is about to go; nothing else would tell.
        return Ask(Fact.NAMESPACE)
    if facts.namespace_ends:
        return _let_go(backup)
    if facts.job:
        return _follow(backup, facts, facts.job)
    return _stop(backup, facts) or _start(backup, facts, policy)


def _failed_before(backup: Backup) -> bool:
    """Whether the condition says that it did not work; it does so until another try has gone well."""
    told = find(backup.status.conditions, CONDITION)
    return told is not None and told.reason not in _GOES_ON


def _stop(backup: Backup, facts: DeletionFacts) -> Action | None:
    """What is to be done before no pod of the Backup may write or read any more, by what the API server says now."""
    if alive := next((job for job in facts.others if not job.finished), None):
        if not alive.deleting:
            return DeleteJob(alive.name, alive.uid, alive.resource_version, RETRY_GONE)
        return _tell(backup, facts.now, Problem("StoppingJob", f"Waiting for Job {alive.name} to end."), RETRY_GONE)
    if not facts.jobs_are_live:
        return Ask(Fact.OWN_JOBS)
    if facts.pods is None:
        return Ask(Fact.OWN_PODS)
    if pods := running(facts.pods):
        return _tell(
            backup, facts.now, Problem("StoppingJob", f"Waiting for pod {', '.join(pods)} to end."), RETRY_GONE
        )
    return None


def _start(backup: Backup, facts: DeletionFacts, policy: Policy) -> Action:
    writer = _writer(backup, facts)
    if writer is None and backup.status.job_ref is None and backup.status.backup_location is None:
        return SetFinalizer(False, "nothing was ever written")
    place = _place(backup, writer, facts.store)
    if isinstance(place, Problem):
        return _trouble(backup, facts.now, place, _RETRY_FAILED)
    if facts.users:
        return _tell(backup, facts.now, Problem("BackupInUse", waiting_for(facts.users)), _RETRY_IN_USE)
    if place.claim and not facts.claim_known:
        return Ask(Fact.CLAIM)
    if place.claim and facts.claim is None:
        return SetFinalizer(False, f'PersistentVolumeClaim "{place.claim}" is gone, and {place.location} with it')
    # First a write, each time, that a Backup which has changed meanwhile refuses: its artifact may be wanted again.
    # What went wrong before stays to be seen.
    deleting = Problem("Deleting", f"Job {job_name(backup)} deletes {place.location}.")
    status = dump(backup.status) if _failed_before(backup) else _with_condition(backup, facts.now, deleting)
    return SetStatus(status, then=_job(backup, facts, place, policy))


def _job(backup: Backup, facts: DeletionFacts, place: Place, policy: Policy) -> CreateJob:
    return CreateJob(
        name=job_name(backup),
        template="delete.yaml.j2",
        values={
            **job_values(backup.spec, facts.database or stand_in(backup), place, policy),
            "active_deadline_seconds": _DEADLINE_SECONDS,
            "ttl_seconds_after_finished": _TTL_SECONDS,
            "backup_uid": backup.metadata.uid,
        },
        # Neither a Backup nor a Restore of the Database: it takes no slot and blocks neither.
        labels={names.LABEL_KIND: "deletion"},
        annotations=place.annotations,
        claim=facts.claim,
        service_account=place.service_account,
    )


def _writer(backup: Backup, facts: DeletionFacts) -> Job | None:
    meta = backup.metadata
    return next((job for job in facts.others if job.name == names.job_name("Backup", meta.name, meta.uid)), None)


def _place(backup: Backup, writer: Job | None, store: BackupStore | None) -> Place | Problem:
    """Where the artifact is, or would be."""
    ref, location = backup.spec.store_ref, backup.status.backup_location or (writer.location if writer else "")
    named = ref.name if ref else names.DEFAULT_STORE
    if store is None and (not names.volume_of(location) if location else ref):
        # Without one, and without a trace of a Job, it is the claim that is made where a namespace has no store.
        message = f'BackupStore "{named}", which the artifact was written to, does not exist; waiting for it.'
        return Problem("StoreNotFound", message)
    place = places.known(location, store) if location else places.inside(store, path(backup))
    if place is None:
        return Problem("LocationNotInStore", f'{location} is not in BackupStore "{named}" ({places.url(store)}).')
    if place.path != path(backup):
        return Problem("DeletionFailed", f"{location} is not where this Backup writes: {path(backup)} of its store.")
    return place


def claim_name(backup: Backup, facts: DeletionFacts) -> str:
    """Of the volume that the artifact lies in; empty where that is a bucket, or not known."""
    place = _place(backup, _writer(backup, facts), facts.store)
    return place.claim if isinstance(place, Place) else ""


def _follow(backup: Backup, facts: DeletionFacts, job: Job) -> Action:
    if job.complete:
        return SetFinalizer(False, f"{job.location} is deleted")
    if job.deleting:
        return Nothing(RETRY_GONE)
    if job.failed:
        # Kept until then, with its log.
        left = _RETRY_FAILED - (facts.now - (job.failed_at or job.created)).total_seconds()
        if left <= 0:
            return DeleteJob(job.name, job.uid, job.resource_version, RETRY_GONE)
        if facts.pods is None:
            return Ask(Fact.OWN_PODS)
        problem = failure(job, _of(job, facts.pods), "DeletionFailed")
        return _trouble(backup, facts.now, problem, left)
    age = (facts.now - job.created).total_seconds()
    if job.ready or job.ending or age < LOOK_AT[0]:
        return Nothing(next_look(age, LOOK_AT))
    if facts.pods is None:
        return Ask(Fact.OWN_PODS)
    pods = _of(job, facts.pods)
    if not pods and facts.refusals is None:
        return Ask(Fact.REFUSALS)
    hindrance = obstacle(pods) if pods else refusal(job, facts.refusals or ())
    after = next_look(age, (*LOOK_AT, _DEADLINE_SECONDS))
    return _trouble(backup, facts.now, hindrance, after) if hindrance else Nothing(after)


def _of(job: Job, pods: Sequence[Body]) -> list[Body]:
    return [pod for pod in pods if pod["metadata"]["labels"].get("batch.kubernetes.io/job-name") == job.name]


def outlasts(backup: Backup) -> bool:
    """Whether what goes wrong with it now is about its end, and has nothing to do with how its dump goes."""
    held = names.FINALIZER in backup.metadata.finalizers
    unsettled = held != (backup.spec.deletion_policy == "Delete") or find(backup.status.conditions, CONDITION)
    return backup.deleted or (backup.status.finished and bool(unsettled))


def refused(backup: Backup, now: datetime, problem: Problem) -> Action:
    """The API server did not take the finalizer or the Job, or there is no Job to be made of the template."""
    if backup.deleted and ends(problem.message):
        return _let_go(backup)
    told = find(backup.status.conditions, CONDITION)
    if told and told.reason not in _MAY_WRITE and problem.reason in _MAY_WRITE:
        problem = Problem("DeletionFailed", problem.message)  # what wrote has ended, and others need to know that
    return _trouble(backup, now, problem, _RETRY_REFUSED)


def ends(refusal_message: str) -> bool:
    """Whether something was refused because its namespace is being deleted."""
    return "because it is being terminated" in refusal_message


def _let_go(backup: Backup) -> SetFinalizer:
    # It would hold up its namespace for ever, in which no Job can be made any more.
    where = backup.status.backup_location or path(backup)
    return SetFinalizer(False, f"its namespace is being deleted; {where} stays where its store stays", orphaned=True)


def _trouble(backup: Backup, now: datetime, problem: Problem, after: float | None) -> SetStatus | Nothing:
    """It does not work, and is tried again; the Event comes once for each cause."""
    todo = "It is tried again. To let the Backup go and keep the artifact, set spec.deletionPolicy to Retain."
    return _tell(backup, now, Problem(problem.reason, f"{problem.message} {todo}"), after, warn=True)


def _tell(
    backup: Backup, now: datetime, problem: Problem, after: float | None = None, *, warn: bool = False
) -> SetStatus | Nothing:
    """The condition that says why the Backup is still there, unless it says so; the phase never changes."""
    before, status = backup.status.conditions, _with_condition(backup, now, problem)
    new = status["conditions"][0]
    told = find(before, CONDITION)
    known = told is not None and (told.reason, told.message) == (new["reason"], new["message"])
    event = Event("Warning", problem.reason, problem.message) if warn and not known else None
    return unless_same(backup.status, SetStatus(status, event, after))


def _with_condition(backup: Backup, now: datetime, problem: Problem) -> Body:
    """The status with this; the first condition is the newest, which is logged."""
    before = backup.status.conditions
    new = condition(before, CONDITION, "False", problem.reason, problem.message, now, backup.metadata.generation)
    return {**dump(backup.status), "conditions": [new, *(dump(c) for c in before if c.type != CONDITION)]}
