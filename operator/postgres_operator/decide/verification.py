"""Verification of a Backup that is Completed: a Job that follows it, whose outcome is the condition `Verified`.

Nothing else of the Backup changes any more. False means that the artifact was proven bad; whatever kept the Job from
finding out leaves it Unknown.
"""

from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from postgres_operator import names
from postgres_operator.api.backup import Backup, BackupStatus, Inventory
from postgres_operator.api.common import ApiModel, Failure, Reference, Version, dump
from postgres_operator.api.database import Database
from postgres_operator.api.store import BackupStore

from . import place as places
from .actions import Action, Ask, Body, CreateJob, Event, Fact, Nothing, SetStatus
from .backup import selection_lines
from .conditions import condition, find, unless_same
from .jobs import Problem, wrong_fields
from .run import RETRY_SLOT, Broken, Done, Facts, Policy, follow, job_values, waiting_for
from .run_status import Run

_TYPE = "Verified"
_INCOMPLETE = "VerificationIncomplete"
_STOPPING = "StoppingJob"
_NO_JOB = ("QuotaExceeded", "RequestRefused", "WaitingForSlot")  # reasons while there is none yet
# What a script says only after it has seen it with its own eyes.
_PROVEN = ("ArtifactMissing", "ChecksumMismatch", "ManifestInvalid", "RestoreFailed")


class _Listed(ApiModel):
    """What the Job's script found in mode List. Without a default: an empty report proves nothing."""

    entries: Annotated[int, Field(ge=0)]


class _Restored(Inventory):
    """What it found in mode Restore: how much it restored, and into what."""

    server_version: Version


def due(body: Body) -> bool:
    """Whether a Backup waits for its verification. Without a model: most Backups have none, or have it behind them."""
    match body:
        case {"spec": {"verification": {"mode": "List" | "Restore"}}, "status": {"phase": "Completed"} as status}:
            verified: Body = next((c for c in status.get("conditions", []) if c["type"] == _TYPE), {})
            return verified.get("status", "Unknown") == "Unknown" and verified.get("reason") != _INCOMPLETE
    return False


def decide(backup: Backup, store: BackupStore | None, facts: Facts, policy: Policy) -> Action:
    """The next step of the verification of a Backup for which it is due."""
    if facts.job is None and not created(backup):
        return _start(backup, store, facts, policy)
    verified = find(backup.status.conditions, _TYPE)
    name = names.job_name("Verification", backup.metadata.name, backup.metadata.uid)
    # The Job is followed as that of a Backup is, whose status would be what is known of the verification.
    error = None
    if verified and verified.reason == _STOPPING:
        error = Failure(reason=_INCOMPLETE, message=verified.message)
    since = verified.last_transition_time if verified else None
    status = BackupStatus(phase="InProgress", job_ref=Reference(name=name), error=error, start_time=since)
    match follow(backup.model_copy(update={"status": status}), facts, _INCOMPLETE):
        case Done(None):
            return incomplete(backup, facts.now, Problem("ResultLost", f"The report of Job {name} was lost."))
        case Done(dict(result)):
            return _succeeded(backup, facts, result)
        case Broken(problem):
            if problem.reason in _PROVEN:
                return _conclude(backup, facts.now, "False", problem)
            return incomplete(backup, facts.now, problem)
        case SetStatus(status={"conditions": [{"reason": str(reason), "message": str(message)}], **rest}, after=after):
            if "error" in rest:
                message = _why(Problem(**rest["error"]))
            return _show(backup, facts.now, reason, message, after)
        case Done() | SetStatus():
            raise AssertionError("follow() reports a dictionary, and writes one condition")
        case action:
            return action


def created(run: Run) -> bool:
    """Whether its status says that the Job of its verification is there, or was."""
    verified = find(run.status.conditions, _TYPE)
    return verified is not None and verified.reason not in _NO_JOB


def _start(backup: Backup, store: BackupStore | None, facts: Facts, policy: Policy) -> Action:
    location = backup.status.backup_location or ""
    place = places.known(location, store)
    database = facts.database
    if database is None:
        lacking = Problem("DatabaseNotFound", "The Database, whose image can read it, does not exist any more.")
        return incomplete(backup, facts.now, lacking)
    if place is None:
        lacking = Problem("StoreNotFound", f"There is no BackupStore any more for {location}.")
        return incomplete(backup, facts.now, lacking)
    if place.claim and not facts.claim_known:
        return Ask(Fact.CLAIM)
    if place.claim and facts.claim is None:
        missing = Problem("ArtifactMissing", f'PersistentVolumeClaim "{place.claim}" does not exist any more.')
        return _conclude(backup, facts.now, "False", missing)
    if facts.blockers:
        return _show(backup, facts.now, "WaitingForSlot", waiting_for(facts.blockers), RETRY_SLOT)
    name = names.job_name("Verification", backup.metadata.name, backup.metadata.uid)
    return CreateJob(
        name=name,
        template="verify-backup.yaml.j2",
        values=_values(backup, database, place, policy),
        annotations=place.annotations,
        claim=facts.claim,
        service_account=place.service_account,
        start_seconds=backup.spec.start_deadline_seconds,
        then=_show(backup, facts.now, "Running", f"Job {name} runs."),
    )


def _values(backup: Backup, database: Database, place: places.Place, policy: Policy) -> dict[str, Any]:
    return {
        **job_values(backup.spec, database, place, policy),
        "verification": backup.spec.verification.mode,
        "selection": selection_lines(backup.spec),
        "expected_sha256": (backup.status.checksum or "").removeprefix("sha256:"),
        "ttl_seconds_after_finished": policy.ttl_seconds,
    }


def _succeeded(backup: Backup, facts: Facts, result: Body) -> Action:
    message = f"The {backup.status.size_bytes} bytes in {backup.status.backup_location} are those that were dumped"
    try:
        if backup.spec.verification.mode == "Restore":
            restored = _Restored.model_validate(result)
            message += f"; a PostgreSQL {restored.server_version} restored all of it: {restored}."
        else:
            listed = _Listed.model_validate(result)
            message += f", and the list of contents with {listed.entries} entries can be read."
    except ValidationError as error:
        return incomplete(
            backup, facts.now, Problem("ResultInvalid", f"The Job's report is not valid: {wrong_fields(error)}")
        )
    return _conclude(backup, facts.now, "True", Problem("BackupVerified", message))


def incomplete(backup: Backup, now: datetime, problem: Problem) -> SetStatus:
    """The end of a verification that has found out nothing."""
    return _conclude(backup, now, "Unknown", Problem(_INCOMPLETE, _why(problem)))


def refused(backup: Backup, now: datetime, problem: Problem, after: float) -> SetStatus | Nothing:
    """The API server did not take the Job, which may pass."""
    return _show(backup, now, problem.reason, problem.message, after)


def _why(problem: Problem) -> str:
    if problem.reason == _INCOMPLETE:
        return problem.message
    if problem.reason == "JobLost":  # what it says is about backups in the making
        return "JobLost: the Job was deleted before its end was seen."
    return f"{problem.reason}: {problem.message}"


def _conclude(
    backup: Backup, now: datetime, status: Literal["True", "False", "Unknown"], problem: Problem
) -> SetStatus:
    event = Event("Normal" if status == "True" else "Warning", problem.reason, problem.message)
    return replace(_write(backup, now, status, problem), event=event)


def _show(backup: Backup, now: datetime, reason: str, message: str, after: float | None = None) -> SetStatus | Nothing:
    action = _write(backup, now, "Unknown", Problem(reason, message))
    return unless_same(backup.status, replace(action, after=after))


def _write(backup: Backup, now: datetime, status: Literal["True", "False", "Unknown"], problem: Problem) -> SetStatus:
    before = backup.status.conditions
    verified = condition(before, _TYPE, status, problem.reason, problem.message, now, backup.metadata.generation)
    others = [dump(c) for c in before if c.type != _TYPE]
    # The first one is the newest, which is logged.
    return SetStatus({**dump(backup.status), "conditions": [verified, *others]})
