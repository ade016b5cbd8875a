"""Restore: what to do next."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.database import Database
from postgres_operator.api.restore import Restore, RestoreResult
from postgres_operator.api.store import BackupStore

from .actions import Action, Ask, CreateJob, Fact, Nothing, SetStatus
from .backup import claim_name
from .conditions import timestamp
from .jobs import Job, Problem, reported, wrong_fields
from .run import (
    RETRY_CLAIM,
    Broken,
    Done,
    Facts,
    completed,
    failed,
    follow,
    job_values,
    pending,
    runs,
    slot,
    start_labels,
    target,
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the artifact lies, and the checksum that its Backup recorded (hex; empty when only a location is known)."""

    location: str
    sha256: str = ""

    @property
    def claim(self) -> str:
        """Name of the claim in the URL."""
        return names.split_location(self.location)[0]

    @property
    def path(self) -> str:
        """Directory inside the claim."""
        return names.split_location(self.location)[1]


def decide(restore: Restore, backup: Backup | None, store: BackupStore | None, facts: Facts) -> Action:
    """The next step of a Restore.

    `backup` is what `backupRef` names; `store` what `storeRef` names or, without one, the store named `default`.
    """
    if restore.status.finished or restore.deleted:
        return Nothing()
    if restore.status.phase != "InProgress":
        if facts.job is None:
            return _start(restore, backup, store, facts)
        # The Job comes first, then the status: the operator stopped in between, or the write failed.
        return SetStatus(runs(restore, facts.job.name, facts.now), after=0)
    match follow(restore, facts, "RestoreFailed"):
        case Broken(problem):
            return failed(restore, facts.now, _with_outlook(problem, facts))
        case Done(report):
            return _finish(restore, report, facts)
        case action:
            return action


def source(restore: Restore, backup: Backup | None, store: BackupStore | None, facts: Facts) -> Source | Action:
    """What to restore from, or why that is not known yet, or never will be."""
    now, ref = facts.now, restore.spec.backup_ref
    if ref is None:
        location = restore.spec.location or ""
        store_ref = restore.spec.store_ref
        if store_ref and store is None:
            return pending(
                restore,
                now,
                "StoreNotFound",
                f'BackupStore "{store_ref.name}" does not exist; waiting for it.',
            )
        found = Source(location)
        if found.claim != claim_name(store):
            if store is None:
                message = f'{location} is in no store: name its BackupStore in spec.storeRef, or call it "default".'
                return pending(restore, now, "StoreNotFound", message)
            where = f'BackupStore "{store.metadata.name}"'
            message = f"{location} is not in {where} (claim {claim_name(store)}): name its store in spec.storeRef."
            return failed(restore, now, Problem("LocationNotInStore", message))
        return found
    if backup is None:
        message = f'Backup "{ref.name}" does not exist; waiting for it. If the name is wrong, delete this Restore.'
        return pending(restore, now, "BackupNotFound", message)
    if backup.status.phase == "Failed":
        message = f'Backup "{ref.name}" failed, so there is nothing to restore: name another one.'
        return failed(restore, now, Problem("BackupFailed", message))
    if backup.status.phase != "Completed" or not backup.status.backup_location:
        phase = backup.status.phase or "Pending"
        return pending(restore, now, "BackupNotCompleted", f'Backup "{ref.name}" is {phase}; waiting for it.')
    return Source(backup.status.backup_location, (backup.status.checksum or "").removeprefix("sha256:"))


def _start(restore: Restore, backup: Backup | None, store: BackupStore | None, facts: Facts) -> Action:
    origin = source(restore, backup, store, facts)
    if not isinstance(origin, Source):
        return origin
    database = target(restore, facts)
    if not isinstance(database, Database):
        return database
    if not facts.claim_known:
        return Ask(Fact.CLAIM)
    claim = facts.claim
    if claim is None:
        message = f'PersistentVolumeClaim "{origin.claim}" does not exist; waiting for it.'
        return pending(restore, facts.now, "ClaimNotFound", message, RETRY_CLAIM)
    if waiting := slot(restore, facts):
        return waiting
    meta, spec, database_name = restore.metadata, restore.spec, database.spec.database_name
    name = names.job_name("Restore", meta.name, meta.uid)
    return CreateJob(
        name=name,
        template="restore.yaml.j2",
        values={
            **job_values(spec, database, claim.name, origin.path),
            "expected_sha256": origin.sha256,
            "restore_uid": meta.uid,
            "mode": spec.mode,
            "keep_previous": spec.keep_previous,
            "scratch_prefix": names.scratch_prefix(database_name),
            "previous_database": names.previous_database(database_name, meta.uid),
            # Kept with its log: it is the only account of what was done to the data.
            "ttl_seconds_after_finished": None,
        },
        labels=start_labels(restore, claim),
        annotations={names.ANNOTATION_LOCATION: origin.location},
        claim=claim,
        then=SetStatus(runs(restore, name, facts.now)),
    )


def _with_outlook(problem: Problem, facts: Facts) -> Problem:
    """The problem, and what it means for the target, unless a script has said that."""
    report = reported(facts.pods or ())
    if report and report.problem:
        return problem
    if report:
        return replace(problem, message=f"{problem.message} The target WAS restored before that.")
    if problem.reason == "JobLost" or not (facts.pods or facts.job):
        return problem
    outlook = "The target is either as it was or restored in full: look before you create a new Restore."
    return replace(problem, message=f"{problem.message} {outlook}")


def _invalid(job: Job, why: str) -> Problem:
    message = f"Job {job.name} restored {job.location}, but its report is not valid ({why}): look at the Database."
    return Problem("ResultInvalid", message)


def _finish(restore: Restore, report: Mapping[str, Any] | None, facts: Facts) -> Action:
    """A Complete Job means that its last step saw the committed marker; its report adds names and versions."""
    assert facts.job is not None  # follow() said Done
    name, location = restore.spec.database_ref.name, facts.job.location
    message = f'{location} is restored into Database "{name}".'
    extra: dict[str, Any] = {"restoreTime": timestamp(facts.now)}
    if report is None:
        if restore.spec.mode == "Replace" and restore.spec.keep_previous and facts.database is not None:
            extra["previousDatabase"] = names.previous_database(facts.database.spec.database_name, restore.metadata.uid)
        message += f" (The pod of Job {facts.job.name} was gone before its report was read.)"
        return completed(restore, facts.now, message, extra)
    try:
        outcome = RestoreResult.model_validate(report)
    except ValidationError as error:
        return failed(restore, facts.now, _invalid(facts.job, wrong_fields(error)))
    if outcome.location != Source(location).path:
        return failed(restore, facts.now, _invalid(facts.job, f"it names {outcome.location}"))
    extra |= {"serverVersion": outcome.server_version, "toolVersion": outcome.tool_version}
    if outcome.previous_database:
        extra["previousDatabase"] = outcome.previous_database
        message += f' The database it replaced is kept as "{outcome.previous_database}".'
    if outcome.warning:
        message += f" Warning: {outcome.warning}"
    return completed(restore, facts.now, message, extra)
