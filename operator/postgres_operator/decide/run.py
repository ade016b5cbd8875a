"""What Backup and Restore have in common: one Job, followed to its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.common import JobSettings, Meta, PodSettings, dump
from postgres_operator.api.database import Database

from .actions import Action, Ask, Body, Claim, DeleteJob, Fact, Nothing, Queue, SetStatus
from .conditions import find, unless_same
from .jobs import (
    LOOK_AT,
    Job,
    Problem,
    failure,
    lasting,
    next_look,
    obstacle,
    overdue,
    refusal,
    result,
    running,
    started,
)
from .place import Place
from .run_status import Run, in_progress, pending, stopping

# A refusal that is neither Pod Security nor a quota may pass (a webhook that restarts), but not for long.
_REFUSED_FOR_GOOD_AFTER = 45.0
RETRY_GONE = 3.0
RETRY_CLAIM = 15.0  # no watch shows that a claim has appeared
# The end of what is waited for wakes it before. This is for what ended without a trace, or wakes nobody: a Job whose
# ReadWriteOncePod claim is waited for.
RETRY_SLOT = 30.0


@dataclass(frozen=True, slots=True)
class Full:
    """Why there is no slot: the limit that is reached, and who held the slots when that was found out."""

    limit: str
    holders: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What decisions about a run look at; None where it was not asked for."""

    now: datetime
    database: Database | None = None
    job: Job | None = None
    job_is_live: bool = False
    pods: Sequence[Body] | None = None
    refusals: Sequence[Body] | None = None
    claim: Claim | None = None
    claim_known: bool = False
    blockers: Sequence[str] = ()  # what runs on the same database or claim, as people would name it
    full: Full | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator's settings say about backups."""

    claim_spec: Mapping[str, Any]  # of the claim that is made where a namespace has no store
    ttl_seconds: int | None = None  # after which the API server deletes a finished Job
    uploader_image: str = names.UPLOADER_IMAGE  # what moves artifacts to and from object stores


@dataclass(frozen=True, slots=True)
class Done:
    """The Job is Complete; the result is None where its pod was gone before it was read."""

    result: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Broken:
    """It failed, and nothing of it runs any more."""

    problem: Problem


def follow(run: Run, facts: Facts, default_reason: str) -> Done | Broken | Action:
    """What became of the run's Job, or what to do until that is known."""
    status, job = run.status, facts.job
    intent = Problem(status.error.reason, status.error.message) if status.error else None
    if job is None:
        # The cache may lag: only a live read shows that a Job, and every pod of it, is gone.
        if not facts.job_is_live:
            return Ask(Fact.LIVE_JOB)
        if facts.pods is None:
            return Ask(Fact.PODS)
        problem = intent or _lost(run)
        if alive := running(facts.pods):
            return stopping(run, problem, f"waiting for pod {', '.join(alive)} to end", facts.now, RETRY_GONE)
        return Broken(problem)
    if job.complete:
        return Done(result(facts.pods)) if facts.pods is not None else Ask(Fact.PODS)
    if job.failed:
        if intent:
            return Broken(intent)
        return Broken(failure(job, facts.pods, default_reason)) if facts.pods is not None else Ask(Fact.PODS)
    if job.deleting:
        return stopping(run, intent or _lost(run), "stopping its Job", facts.now, RETRY_GONE)
    if intent:
        return DeleteJob(job.name, job.uid, job.resource_version, RETRY_GONE)
    return _leaving(run, job, facts) if job.terminating else _active(run, job, facts)


def _leaving(run: Run, job: Job, facts: Facts) -> Action:
    """Its pod is being deleted: with its node lost that has no end, whatever the deadlines of the Job."""
    if facts.pods is None:
        return Ask(Fact.PODS)
    late = overdue(facts.pods, facts.now)
    if isinstance(late, Problem):
        return _in_progress(run, job, facts.now, late, None)
    return _in_progress(run, job, facts.now, None, late)


def _active(run: Run, job: Job, facts: Facts) -> Action:
    if job.ready > 0 or job.ending:
        return _in_progress(run, job, facts.now, None, None)
    age = _age(run, job, facts.now)
    deadline = run.spec.start_deadline_seconds
    if age < LOOK_AT[0]:
        return _in_progress(run, job, facts.now, None, next_look(age, LOOK_AT))
    if facts.pods is None:
        return Ask(Fact.PODS)
    problem = obstacle(facts.pods)
    final = lasting(problem)
    if started(facts.pods) and not final:
        # Pods are not watched: whether a later step cannot start is to be looked for, ever more rarely.
        return _in_progress(run, job, facts.now, problem, LOOK_AT[-1] if problem else max(age, LOOK_AT[-1]))
    if not facts.pods and job.active == 0:
        if facts.refusals is None:
            return Ask(Fact.REFUSALS)
        problem = refusal(job, facts.refusals)
        final = bool(problem and (problem.reason != "PodRefused" or age >= _REFUSED_FOR_GOOD_AFTER))
    if age >= deadline and not final:
        why = problem.message if problem else "the cluster does not say why"
        problem, final = (
            Problem("StartDeadlineExceeded", f"No pod of Job {job.name} ran within {deadline} s: {why}"),
            True,
        )
    if problem and final:
        return stopping(run, problem, "stopping its Job", facts.now, 0)
    marks = (*LOOK_AT, _REFUSED_FOR_GOOD_AFTER, deadline)
    return _in_progress(run, job, facts.now, problem, next_look(age, marks))


def _age(run: Run, job: Job, now: datetime) -> float:
    """Seconds for which the Job has been there, by the clock that says less.

    The API server has dated the Job, and a replica of ours the run. Where the clocks of their nodes differ, a deadline
    must come late rather than end what has just begun.
    """
    since = max(job.created, run.status.start_time or job.created)
    return max((now - since).total_seconds(), 0.0)


def _lost(run: Run) -> Problem:
    what = (
        "what it made, if anything, does not count as a backup"
        if isinstance(run, Backup)
        else "the target is either as it was or restored in full: look before you create a new Restore"
    )
    job = run.status.job_ref.name if run.status.job_ref else ""
    return Problem("JobLost", f"Job {job} was deleted before its end was seen; {what}.")


def _in_progress(run: Run, job: Job, now: datetime, problem: Problem | None, after: float | None) -> Action:
    reason, message = (problem.reason, problem.message) if problem else ("Running", f"Job {job.name} runs.")
    status = in_progress(run, job.name, now, reason, message)
    return unless_same(run.status, SetStatus(status, after=after))


def waits_for_slot(run: Run) -> bool:
    """Whether all the run lacks is that something else ends."""
    reason = find(run.status.conditions, "Complete")
    return run.status.phase == "Pending" and reason is not None and reason.reason == "WaitingForSlot"


def target(run: Run, facts: Facts) -> Database | Action:
    """The Database the run works on, or why it has to wait for it."""
    name = run.spec.database_ref.name
    database = facts.database
    if database is None or database.deleted:
        return pending(run, facts.now, "DatabaseNotFound", f'Database "{name}" does not exist; waiting for it.')
    if not database.status.ready:
        state = find(database.status.conditions, "Ready")
        if state and state.reason == "VersionMismatch":  # spec.image can change, and this waits until it has
            return pending(run, facts.now, state.reason, f'Database "{name}": {state.message}')
        phase = database.status.phase or "Pending"
        return pending(run, facts.now, "DatabaseNotReady", f'Database "{name}" is {phase}; waiting for it to be Ready.')
    if database.spec.external and database.status.verified != verification(database):
        message = f'Database "{name}" was changed and is about to be checked; waiting for that.'
        return pending(run, facts.now, "DatabaseNotReady", message)
    return database


def slot(run: Run, facts: Facts) -> Action | None:
    """What to wait for, when all else that the run needs is there."""
    if facts.blockers:
        return pending(run, facts.now, "WaitingForSlot", waiting_for(facts.blockers), RETRY_SLOT)
    return Queue(_queued(run, facts.full, facts.now)) if facts.full else None


def waiting_for(others: Sequence[str]) -> str:
    """What a condition says of what has to end first."""
    return f"Waiting for {', '.join(others[:3])} to end."


def _queued(run: Run, full: Full, now: datetime) -> SetStatus | Nothing:
    # Who holds the slots changes all the time; what is written of it is written once.
    message = f"{full.limit} {full.holders}"
    before = find(run.status.conditions, "Complete")
    if waits_for_slot(run) and before and before.message.startswith(full.limit):
        message = before.message
    return pending(run, now, "WaitingForSlot", message)


def start_labels(run: Run) -> dict[str, str]:
    """Labels of a run's Job by which others see that it is busy with the Database."""
    return {names.LABEL_DATABASE: run.spec.database_ref.name}


def job_values(settings: JobSettings, database: Database, place: Place, policy: Policy) -> dict[str, Any]:
    """Template variables that every Job of a run has."""
    return {
        **pod_values(settings, database),
        "active_deadline_seconds": settings.active_deadline_seconds,
        "store": dict(place.store),
        "artifact_path": place.path,
        "uploader_image": policy.uploader_image,
    }


def stand_in(run: Run) -> Database:
    """For a Job that needs no server, where the Database is gone: the default image, for any that has bash will do."""
    return Database(metadata=Meta(name=run.spec.database_ref.name, namespace=run.metadata.namespace, uid=""))


def pod_values(settings: PodSettings, database: Database) -> dict[str, Any]:
    """Template variables of every Job: how its pod is placed and how it reaches the Database."""
    return {
        "image": database.spec.image,
        "resources": dump(settings.resources) if settings.resources else {},
        "node_selector": dict(settings.node_selector),
        "tolerations": [dump(t) for t in settings.tolerations],
        "image_pull_secrets": [dump(s) for s in settings.image_pull_secrets or database.spec.image_pull_secrets],
        "database": connection(database),
    }


def connection(database: Database) -> dict[str, Any]:
    """How a pod reaches the Database's server, and which Secrets it needs for that."""
    meta, spec, external = database.metadata, database.spec, database.spec.external
    return {
        "host": external.host if external else names.host(meta.name, meta.namespace),
        "port": external.port if external else names.POSTGRES_PORT,
        "name": spec.database_name,
        "username": spec.username,
        "superuser": external.superuser if external else names.SUPERUSER,
        "secret_name": external.credentials_secret_ref.name if external else names.credentials(meta.name),
        "ssl_mode": external.ssl_mode if external else None,
        "ca_secret_name": external.ca_secret_ref.name if external and external.ca_secret_ref else None,
    }


def verification(database: Database) -> str:
    """Hash of what a check of an external server is good for: this server, this login, these tools."""
    server = connection(database)
    parts = ("host", "port", "name", "username", "secret_name", "ssl_mode", "ca_secret_name")
    return names.short_hash(database.metadata.uid, *(str(server[part]) for part in parts), database.spec.image)
