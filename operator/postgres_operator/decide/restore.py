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

from . import place as places
from .actions import Action, Ask, CreateJob, Fact, Nothing, SetStatus
from .conditions import timestamp
from .jobs import Job, Problem, reported, wrong_fields
from .place import Place
from .run import RETRY_CLAIM, Broken, Done, Facts, Policy, follow, job_values, slot, start_labels, target
from .run_status import completed, failed, pending, runs


@dataclass(frozen=True, slots=True)
class Source:
    """Where the artifact lies, and the checksum that its Backup recorded (hex; empty when only a location is known)."""

    place: Place
    sha256: str = ""


def decide(restore: Restore, backup: Backup | None, store: BackupStore | None, facts: Facts, policy: Policy) -> Action:
    """The next step of a Restore.

    `backup` is what `backupRef` names, where no `storeRef` stands beside it; `store` what `storeRef` names, of the
    Restore or of that Backup, or, without one, the store named `default`.
    """
    if restore.status.finished or restore.deleted:
        return Nothing()
    if restore.status.phase != "InProgress":
        if facts.job is None:
            return _start(restore, backup, store, facts, policy)
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
        return _located(restore, restore.spec.location or "", store, facts)
    if restore.spec.store_ref:
        return _listed(restore, ref.name, store, facts)
    if backup is None or backup.deleted:
        message = f'Backup "{ref.name}" does not exist; waiting for it. If the name is wrong, delete this Restore.'
        return pending(restore, now, "BackupNotFound", message)
    if backup.status.phase == "Failed":
        message = f'Backup "{ref.name}" failed, so there is nothing to restore: name another one.'
        return failed(restore, now, Problem("BackupFailed", message))
    location = backup.status.backup_location
    if backup.status.phase != "Completed" or not location:
        phase = backup.status.phase or "Pending"
        return pending(restore, now, "BackupNotCompleted", f'Backup "{ref.name}" is {phase}; waiting for it.')
    sha256 = (backup.status.checksum or "").removeprefix("sha256:")
    if place := places.known(location, store):
        return Source(place, sha256)
    store_ref = backup.spec.store_ref
    named = store_ref.name if store_ref else names.DEFAULT_STORE
    if store is None:
        message = f'BackupStore "{named}", which Backup "{ref.name}" was written to, does not exist; waiting for it.'
        return pending(restore, now, "StoreNotFound", message)
    message = (
        f'{location}, which Backup "{ref.name}" was written to, is no longer in BackupStore "{named}" '
        f"({places.url(store)}): restore by spec.location, with the store it lies in as spec.storeRef."
    )
    return failed(restore, now, Problem("LocationNotInStore", message))


def _located(restore: Restore, location: str, store: BackupStore | None, facts: Facts) -> Source | Action:
    """By location alone: it has to lie in the store that the Restore names."""
    store_ref = restore.spec.store_ref
    if store_ref and store is None:
        message = f'BackupStore "{store_ref.name}" does not exist; waiting for it.'
        return pending(restore, facts.now, "StoreNotFound", message)
    if place := places.of(location, store):
        return Source(place)
    if store is None:
        message = f'{location} is in no store: name its BackupStore in spec.storeRef, or call it "default".'
        return pending(restore, facts.now, "StoreNotFound", message)
    where = f'BackupStore "{store.metadata.name}" ({places.url(store)})'
    message = f"{location} is not in {where}: name its store in spec.storeRef."
    return failed(restore, facts.now, Problem("LocationNotInStore", message))


def _listed(restore: Restore, name: str, store: BackupStore | None, facts: Facts) -> Source | Action:
    """By name, whether or not there is such a Backup: the newest one that the store lists."""
    if store is None:
        return _located(restore, "", store, facts)
    in_store = f'in BackupStore "{store.metadata.name}"'
    if not store.spec.discover:
        message = f'To find Backup "{name}" {in_store} by its name, set spec.discover of that to true; waiting for it.'
        return pending(restore, facts.now, "BackupNotFound", message)
    named = [backup for backup in store.status.backups if backup.name == name]
    if not named:
        shown, count = len(store.status.backups), store.status.backup_count or 0
        message = (
            f'Backup "{name}" is not among the {shown} (of {count}) backups that are listed {in_store}; waiting for '
            "it. If it lies there all the same, restore it by spec.location: its condition Discovered says where all "
            "locations are."
        )
        return pending(restore, facts.now, "BackupNotFound", message)
    if len({(backup.namespace, backup.database) for backup in named}) > 1:
        choice = " or ".join(backup.location for backup in named[:4])
        message = f'Backups "{name}" of several Databases are {in_store}: restore one by spec.location, {choice}.'
        return failed(restore, facts.now, Problem("BackupAmbiguous", message))
    return _located(restore, max(named, key=lambda backup: backup.backup_time).location, store, facts)


def _start(restore: Restore, backup: Backup | None, store: BackupStore | None, facts: Facts, policy: Policy) -> Action:
    origin = source(restore, backup, store, facts)
    if not isinstance(origin, Source):
        return origin
    database = target(restore, facts)
    if not isinstance(database, Database):
        return database
    if restore.spec.mode == "Replace" and database.spec.external and not database.spec.external.superuser:
        message = (
            f'Mode Replace needs a superuser, and Database "{database.metadata.name}" names none: use mode Clean or '
            "Fail, or set spec.external.superuser of the Database and create a new Restore."
        )
        return failed(restore, facts.now, Problem("SuperuserMissing", message))
    place = origin.place
    if restore.spec.jobs > 1 and not place.claim:
        message = (
            f"{place.location} comes as one stream, which spec.jobs: {restore.spec.jobs} cannot share: "
            "create a new Restore without jobs."
        )
        return failed(restore, facts.now, Problem("FormatUnsupported", message))
    if place.claim and not facts.claim_known:
        return Ask(Fact.CLAIM)
    if place.claim and facts.claim is None:
        message = f'PersistentVolumeClaim "{place.claim}" does not exist; waiting for it.'
        return pending(restore, facts.now, "ClaimNotFound", message, RETRY_CLAIM)
    if waiting := slot(restore, facts):
        return waiting
    meta, spec, database_name = restore.metadata, restore.spec, database.spec.database_name
    name = names.job_name("Restore", meta.name, meta.uid)
    return CreateJob(
        name=name,
        template="restore.yaml.j2",
        values={
            **job_values(spec, database, place, policy),
            "expected_sha256": origin.sha256,
            "restore_uid": meta.uid,
            "mode": spec.mode,
            "jobs": spec.jobs,
            "keep_previous": spec.keep_previous,
            "scratch_prefix": names.scratch_prefix(database_name),
            "previous_database": names.previous_database(database_name, meta.uid),
            # Kept with its log: it is the only account of what was done to the data.
            "ttl_seconds_after_finished": None,
        },
        labels=start_labels(restore),
        annotations=place.annotations,
        claim=facts.claim,
        service_account=place.service_account,
        start_seconds=restore.spec.start_deadline_seconds,
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
    if outcome.location != facts.job.path:
        return failed(restore, facts.now, _invalid(facts.job, f"it names {outcome.location}"))
    extra |= {"serverVersion": outcome.server_version, "toolVersion": outcome.tool_version}
    if outcome.previous_database:
        extra["previousDatabase"] = outcome.previous_database
        message += f' The database it replaced is kept as "{outcome.previous_database}".'
    if outcome.globals:
        message += f" The roles of the server, which are in {outcome.globals} there, are not."
    if outcome.warning:
        message += f" Warning: {outcome.warning}"
    return completed(restore, facts.now, message, extra)
