"""Backup: what to do next."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from postgres_operator import names
from postgres_operator.api.backup import Backup, Manifest
from postgres_operator.api.database import Database
from postgres_operator.api.store import BackupStore

from .actions import Action, Ask, Body, Claim, CreateClaim, CreateJob, Fact, Nothing, SetStatus
from .conditions import timestamp
from .jobs import Job, Problem, failure, result, wrong_fields
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

# The reader Job only reads a small file.
_READER_DEADLINE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Reader:
    """The Job that recovers a lost result from the manifest, and its pods."""

    job: Job | None = None
    pods: Sequence[Body] | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator's settings say about backups."""

    claim_spec: Mapping[str, Any]  # of the claim that is made where a namespace has no store
    ttl_seconds: int | None = None  # after which the API server deletes a finished Job


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
            return _finish(backup, report, facts, reader)
        case action:
            return action


def _start(backup: Backup, store: BackupStore | None, facts: Facts, policy: Policy) -> Action:
    database = target(backup, facts)
    if not isinstance(database, Database):
        return database
    ref, meta = backup.spec.store_ref, backup.metadata
    if ref and store is None:
        return pending(backup, facts.now, "StoreNotFound", f'BackupStore "{ref.name}" does not exist; waiting for it.')
    if not facts.claim_known:
        return Ask(Fact.CLAIM)
    claim = facts.claim
    if claim is None:
        if store is None:
            return CreateClaim(_default_claim(meta.namespace, policy.claim_spec))
        missing = f'PersistentVolumeClaim "{claim_name(store)}" of BackupStore "{store.metadata.name}"'
        message = f"{missing} does not exist; waiting for it."
        return pending(backup, facts.now, "ClaimNotFound", message, RETRY_CLAIM)
    if waiting := slot(backup, facts):
        return waiting
    name = names.job_name("Backup", meta.name, meta.uid)
    path = names.artifact_path(database.metadata.name, meta.name, meta.uid)
    source = json.dumps(
        {
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
            **job_values(backup.spec, database, claim.name, path),
            "format": backup.spec.format,
            "source": source,
            "ttl_seconds_after_finished": policy.ttl_seconds,
        },
        labels=start_labels(backup, claim),
        annotations={names.ANNOTATION_LOCATION: names.pvc_location(claim.name, path)},
        claim=claim,
        then=SetStatus(runs(backup, name, facts.now)),
    )


def claim_name(store: BackupStore | None) -> str:
    """The claim that backups of this store go to."""
    return store.spec.pvc.claim_name if store else names.DEFAULT_CLAIM


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


def _finish(backup: Backup, report: Mapping[str, Any] | None, facts: Facts, reader: Reader) -> Action:
    """Complete only on a report that names the artifact which this Backup was to write."""
    assert facts.job is not None  # follow() said Done
    location = facts.job.location
    if report is None:
        found = _recover(backup, facts.job, reader, facts)
        if not isinstance(found, dict):
            return failed(backup, facts.now, found) if isinstance(found, Problem) else found
        report = found
    try:
        manifest = Manifest.model_validate(report)
    except ValidationError as error:
        why = wrong_fields(error)
        problem = Problem("ResultInvalid", f"Job {facts.job.name} ended well, but its report is not valid: {why}")
        return failed(backup, facts.now, problem)
    if names.split_location(location)[1] != manifest.location or manifest.format != backup.spec.format:
        problem = Problem(
            "ResultInvalid",
            f"Job {facts.job.name} reports {manifest.location}, which is not what {location} asked for.",
        )
        return failed(backup, facts.now, problem)
    extra = {
        "backupLocation": location,
        "backupTime": timestamp(manifest.backup_time),
        "sizeBytes": manifest.size_bytes,
        "checksum": f"sha256:{manifest.sha256}",
        "serverVersion": manifest.server_version,
        "toolVersion": manifest.tool_version,
    }
    return completed(backup, facts.now, f"{manifest.size_bytes} bytes are in {location}.", extra)


def _recover(backup: Backup, job: Job, reader: Reader, facts: Facts) -> dict[str, Any] | Problem | Action:
    """The pod was gone before its report was read: a second Job reads the manifest."""
    if reader.job is None:
        claim, path = names.split_location(job.location)
        if facts.database is None:
            return Problem(
                "ResultLost",
                f"The pod of Job {job.name} is gone, and so is the Database whose image reads {path}.",
            )
        values = job_values(backup.spec, facts.database, claim, path)
        return CreateJob(
            name=names.job_name("Reader", backup.metadata.name, backup.metadata.uid),
            template="read-manifest.yaml.j2",
            values={
                **values,
                "active_deadline_seconds": _READER_DEADLINE_SECONDS,
                "ttl_seconds_after_finished": None,
            },
            annotations={names.ANNOTATION_LOCATION: job.location},
            claim=Claim(claim),
        )
    if not reader.job.finished:
        return Nothing()
    if reader.pods is None:
        return Ask(Fact.READER_PODS)
    if reader.job.failed:
        problem = failure(reader.job, reader.pods, "ResultLost")
        return replace(
            problem, message=f"{problem.message} What job {job.name} made, if anything, is in {job.location}."
        )
    lost = Problem("ResultLost", f"The report of Job {job.name} was lost, and so was that of {reader.job.name}.")
    return result(reader.pods) or lost
