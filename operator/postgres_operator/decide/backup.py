"""Backup: what to do next."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from postgres_operator import names
from postgres_operator.api.backup import Backup, BackupSpec, Manifest
from postgres_operator.api.database import Database
from postgres_operator.api.store import BackupStore

from . import place as places
from .actions import Action, Ask, Body, Claim, CreateClaim, CreateJob, Fact, Nothing, SetStatus
from .conditions import timestamp
from .jobs import LOOK_AT, Job, Problem, failure, next_look, obstacle, refusal, result, wrong_fields
from .run import RETRY_CLAIM, Broken, Done, Facts, Policy, follow, job_values, slot, stand_in, start_labels, target
from .run_status import completed, failed, going_on, pending, runs

# The reader Job only reads a small file.
_READER_DEADLINE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Reader:
    """The Job that recovers a lost result from the manifest, and its pods."""

    job: Job | None = None
    pods: Sequence[Body] | None = None
    refusals: Sequence[Body] | None = None


def decide(backup: Backup, store: BackupStore | None, facts: Facts, reader: Reader, policy: Policy) -> Action:
    """The next step of a Backup.

    `store` is what `storeRef` names or, without one, the store named `default`, if there is one.
    """
    if backup.status.finished or backup.deleted:
        return Nothing()
    if backup.status.phase != "InProgress":
        if facts.job is None:
            return _start(backup, store, facts, policy)
        # The Job comes first, then the status: the operator stopped in between, or the write failed.
        return SetStatus(runs(backup, facts.job.name, facts.now), after=0)
    match follow(backup, facts, "DumpFailed"):
        case Broken(problem):
            return failed(backup, facts.now, problem)
        case Done(report):
            found = _recover(backup, store, facts, reader, policy) if report is None else report
            if isinstance(found, Problem):
                return failed(backup, facts.now, found)
            return _finish(backup, found, facts) if isinstance(found, Mapping) else found
        case action:
            return action


def _start(backup: Backup, store: BackupStore | None, facts: Facts, policy: Policy) -> Action:
    database = target(backup, facts)
    if not isinstance(database, Database):
        return database
    ref, meta = backup.spec.store_ref, backup.metadata
    if ref and store is None:
        return pending(backup, facts.now, "StoreNotFound", f'BackupStore "{ref.name}" does not exist; waiting for it.')
    place = places.inside(store, names.artifact_path(database.metadata.name, meta.name, meta.uid))
    if backup.spec.format == "directory" and store and not place.claim:
        message = (
            f'BackupStore "{store.metadata.name}" takes a dump as one stream, and format directory has many files: '
            "create a new Backup with format custom, or into a volume."
        )
        return failed(backup, facts.now, Problem("FormatUnsupported", message))
    if place.claim and not facts.claim_known:
        return Ask(Fact.CLAIM)
    if place.claim and facts.claim is None:
        if store is None:
            return CreateClaim(_default_claim(meta.namespace, policy.claim_spec))
        missing = f'PersistentVolumeClaim "{place.claim}" of BackupStore "{store.metadata.name}"'
        message = f"{missing} does not exist; waiting for it."
        return pending(backup, facts.now, "ClaimNotFound", message, RETRY_CLAIM)
    if waiting := slot(backup, facts):
        return waiting
    name = names.job_name("Backup", meta.name, meta.uid)
    source = json.dumps(
        {
            **({"partial": True} if backup.spec.partial else {}),  # first: restore-check.sh looks for it there
            "namespace": meta.namespace,
            "database": database.metadata.name,
            "databaseName": database.spec.database_name,
            "backup": meta.name,
            "backupUID": meta.uid,
        }
    )
    return CreateJob(
        name=name,
        template="backup.yaml.j2",
        values={
            **job_values(backup.spec, database, place, policy),
            "format": backup.spec.format,
            "jobs": backup.spec.jobs,
            "include_globals": backup.spec.include_globals,
            "compression": str(backup.spec.compression or ""),
            "selection": selection_lines(backup.spec),
            "verification": backup.spec.verification.mode,
            "extra_args": " ".join(backup.spec.extra_args),
            "source": source,
            "ttl_seconds_after_finished": policy.ttl_seconds,
        },
        labels=start_labels(backup),
        annotations=place.annotations,
        claim=facts.claim,
        service_account=place.service_account,
        start_seconds=backup.spec.start_deadline_seconds,
        then=SetStatus(runs(backup, name, facts.now)),
    )


def selection_lines(spec: BackupSpec) -> str:
    """A line for each object to select: option of pg_dump, schema and, for tables, name, with tabs between them."""
    lines = [
        *(["schema", name] for name in spec.schemas),
        *(["exclude-schema", name] for name in spec.exclude_schemas),
        *(["table", table.schema_name, table.name] for table in spec.tables),
        *(["exclude-table", table.schema_name, table.name] for table in spec.exclude_tables),
    ]
    return "\n".join("\t".join(line) for line in lines)


def _default_claim(namespace: str, spec: Mapping[str, Any]) -> Body:
    # Nobody owns it: no deletion of ours may ever take the backups with it.
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": names.DEFAULT_CLAIM,
            "namespace": namespace,
            "labels": {names.MANAGED_BY: names.OPERATOR},
        },
        "spec": dict(spec),
    }


def _finish(backup: Backup, report: Mapping[str, Any], facts: Facts) -> Action:
    """Complete only on a report that names the artifact which this Backup was to write."""
    assert facts.job is not None  # follow() said Done
    location = facts.job.location
    try:
        manifest = Manifest.model_validate(report)
    except ValidationError as error:
        why = wrong_fields(error)
        problem = Problem("ResultInvalid", f"Job {facts.job.name} ended well, but its report is not valid: {why}")
        return failed(backup, facts.now, problem)
    if manifest.location != facts.job.path or manifest.format != backup.spec.format:
        problem = Problem(
            "ResultInvalid",
            f"Job {facts.job.name} reports {manifest.location}, which is not what {location} asked for.",
        )
        return failed(backup, facts.now, problem)
    if backup.spec.include_globals and manifest.globals is None:
        problem = Problem("ResultInvalid", f"Job {facts.job.name} reports a dump without the roles of the server.")
        return failed(backup, facts.now, problem)
    extra = {
        "backupLocation": location,
        "backupTime": timestamp(manifest.backup_time),
        "sizeBytes": manifest.size_bytes,
        "checksum": f"sha256:{manifest.sha256}",
        "serverVersion": manifest.server_version,
        "toolVersion": manifest.tool_version,
    }
    message = f"{manifest.size_bytes} bytes are in {location}."
    if manifest.globals:
        message += f" The roles of the server are in {manifest.globals.file} there."
    if not backup.spec.partial:
        return completed(backup, facts.now, message, extra)
    message += " They are a part of the database only: what spec leaves out cannot be restored from them."
    return completed(backup, facts.now, message, extra, "CompletedInPart")


def _recover(
    backup: Backup, store: BackupStore | None, facts: Facts, reader: Reader, policy: Policy
) -> Mapping[str, Any] | Problem | Action:
    """The pod was gone before its report was read: a second Job reads the manifest."""
    job = facts.job
    assert job is not None  # follow() said Done
    if reader.job is None:
        place = places.known(job.location, store)
        if place is None:
            message = f"The pod of Job {job.name} is gone, and so is the BackupStore that holds {job.location}."
            return Problem("ResultLost", message)
        return CreateJob(
            name=names.job_name("Reader", backup.metadata.name, backup.metadata.uid),
            template="read-manifest.yaml.j2",
            values={
                **job_values(backup.spec, facts.database or stand_in(backup), place, policy),
                "active_deadline_seconds": _READER_DEADLINE_SECONDS,
                "ttl_seconds_after_finished": None,
            },
            annotations=place.annotations,
            claim=Claim(place.claim) if place.claim else None,
            service_account=place.service_account,
        )
    if not reader.job.finished:
        return _reading(backup, facts, reader, reader.job)
    if reader.pods is None:
        return Ask(Fact.READER_PODS)
    if reader.job.failed:
        problem = failure(reader.job, reader.pods, "ResultLost")
        return replace(
            problem, message=f"{problem.message} What job {job.name} made, if anything, is in {job.location}."
        )
    lost = Problem("ResultLost", f"The report of Job {job.name} was lost, and so was that of {reader.job.name}.")
    return result(reader.pods) or lost


def _reading(backup: Backup, facts: Facts, reader: Reader, job: Job) -> Action:
    """It is waited for to the end of its deadline, whatever keeps it from running: the artifact may be whole."""
    age = (facts.now - job.created).total_seconds()
    problem = None
    if not (job.ready or job.ending or age < LOOK_AT[0]):
        if reader.pods is None:
            return Ask(Fact.READER_PODS)
        if not reader.pods and reader.refusals is None:
            return Ask(Fact.READER_REFUSALS)
        problem = obstacle(reader.pods) if reader.pods else refusal(job, reader.refusals or ())
    reads = Problem("Running", f"Job {job.name} reads the manifest, for the report of the dump was lost.")
    return going_on(backup, facts.now, problem or reads, next_look(age, (*LOOK_AT, _READER_DEADLINE_SECONDS)))
