"""Database whose server is ours: what to do next. `external` is for the others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from postgres_operator import names
from postgres_operator.api.common import dump
from postgres_operator.api.database import Database, DatabasePhase, DatabaseStatus, VerifyResult

from . import server
from .actions import Action, Ask, Body, CreateJob, Event, Fact, Nothing, Provision, SetStatus, UpdateServer
from .chain import GONE_RETRY_SECONDS
from .conditions import condition, find, unless_same
from .jobs import LOOK_AT, Job, Problem, failure, next_look, obstacle, refusal, result, started, trouble
from .run import connection, pod_values

_VERIFY_DEADLINE_SECONDS = 120
# A failed verification is repeated when its Job is gone: this is the interval, and for how long its log is kept.
_VERIFY_TTL_SECONDS = 120
_NOT_READY_RETRY_SECONDS = 5.0
_REFUSED_RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What decisions about a Database look at; None where it was not asked for, or does not exist."""

    now: datetime
    server: Body | None = None  # the StatefulSet
    services: frozenset[str] = frozenset()  # names of the Services that are there
    claim: Body | None = None  # of the data volume
    claim_known: bool = False
    job: Job | None = None  # the verification of what runs now
    checks: Sequence[Job] = ()  # of an external server: all Jobs of this Database
    pods: Sequence[Body] | None = None  # of the Job
    server_pods: Sequence[Body] | None = None
    refusals: Sequence[Body] | None = None


def verification(database: Database, stateful_set: Body) -> str:
    """Hash of what a verification is good for: these pods, these names."""
    status, spec = stateful_set.get("status", {}), database.spec
    return names.short_hash(
        stateful_set["metadata"]["uid"],
        status.get("updateRevision", ""),
        spec.database_name,
        spec.username,
        spec.image,
    )


def verify_job_name(database: Database, stateful_set: Body) -> str:
    """Name of the Job that verifies what runs now."""
    return names.job_name("Verify", database.metadata.name, verification(database, stateful_set))


def decide(database: Database, facts: DatabaseFacts) -> Action:
    """The next step of a Database."""
    if database.deleted:
        return Nothing()
    if facts.server is None:
        problem = unsupported(database)
        return failed_status(database, facts, problem) if problem else _provision(database, facts)
    if not _ours(database, facts.server):
        if any(r["kind"] == "Database" for r in facts.server["metadata"].get("ownerReferences", [])):
            return Nothing(GONE_RETRY_SECONDS)  # of a deleted Database of this name: about to be collected
        message = f'StatefulSet "{database.metadata.name}" is not ours: rename it or this Database.'
        return refused(database, facts.now, Problem("NameTaken", message))
    if missing := tuple(s for s in server.services(database) if s["metadata"]["name"] not in facts.services):
        return Provision(services=missing, then=Nothing(0))
    # The owner of the data directory was settled when the server was made.
    uid = facts.server["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    wanted = server.stateful_set(database, uid)
    if _applied(wanted) != _applied(facts.server):
        updating = Problem("Updating", "The server is being updated.")
        return UpdateServer(server.updated(facts.server, wanted), phase_status(database, facts, "Updating", updating))
    if waiting := _not_ready(database, facts):
        return waiting
    return _verify(database, facts)


def refused(database: Database, now: datetime, problem: Problem) -> Action:
    """What cannot be done for this Database, as its status; tried again after a while."""
    return replace(failed_status(database, DatabaseFacts(now), problem), after=_REFUSED_RETRY_SECONDS)


def unsupported(database: Database) -> Problem | None:
    """What the spec asks for and cannot be had."""
    spec = database.spec
    if spec.replicas > 1:
        return Problem(
            "ReplicasNotSupported",
            f"spec.replicas is {spec.replicas}, but replication is not supported yet: set it to 1.",
        )
    for field, value in (("databaseName", spec.database_name), ("username", spec.username)):
        if len(value.encode()) > 63:
            return Problem("NameTooLong", f"spec.{field} has {len(value.encode())} bytes; PostgreSQL's limit is 63.")
    return None


def _ours(database: Database, body: Body) -> bool:
    return any(r["uid"] == database.metadata.uid for r in body["metadata"].get("ownerReferences", []))


def _applied(body: Body) -> tuple[str | None, int]:
    # `kubectl scale` leaves the annotation as it is, and stops the server, or puts an empty one beside it.
    return body["metadata"].get("annotations", {}).get(names.ANNOTATION_APPLIED), body["spec"].get("replicas", 1)


def _provision(database: Database, facts: DatabaseFacts) -> Action:
    if database.status.phase is None:
        waiting = Problem("Provisioning", "The server is about to be created.")
        return phase_status(database, facts, "Pending", waiting, after=0)
    if not facts.claim_known:
        return Ask(Fact.CLAIM)
    claim_meta = (facts.claim or {}).get("metadata", {})
    if "deletionTimestamp" in claim_meta or "ownerReferences" in claim_meta:
        going = Problem("VolumeTerminating", f"Claim {claim_meta['name']} of a deleted server is about to go; waiting.")
        return unless_same(database.status, phase_status(database, facts, "Pending", going, after=GONE_RETRY_SECONDS))
    made_for = claim_meta.get("annotations", {}).get(names.ANNOTATION_CREATED_FOR)
    # A volume that another Database has filled only opens with the passwords that it was filled with.
    fresh = facts.claim is None or made_for == database.metadata.uid
    return Provision(
        claim=server.claim(database) if facts.claim is None else None,
        secret=fresh and database.status.secret_name is None,
        services=server.services(database),
        server=server.stateful_set(database, server.data_uid(database, facts.claim)),
        then=phase_status(database, facts, "Provisioning", Problem("Provisioning", "The server is being created.")),
    )


def _not_ready(database: Database, facts: DatabaseFacts) -> Action | None:
    assert facts.server is not None
    meta, spec, status = facts.server["metadata"], facts.server["spec"], facts.server.get("status", {})
    wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    settled = (
        status.get("observedGeneration") == meta.get("generation")
        and status.get("updatedReplicas", status.get("replicas")) == wanted
        and status.get("currentRevision") == status.get("updateRevision")
    )
    if settled and ready == wanted:
        return None
    problem = Problem("NotAllReplicasReady", f"not all replicas ready: {min(ready, wanted)}/{wanted}")
    before = find(database.status.conditions, "Ready")
    since = before.last_transition_time if before and before.status == "False" else facts.now
    age = (facts.now - since).total_seconds()
    if age >= LOOK_AT[0]:
        if facts.server_pods is None:
            return Ask(Fact.SERVER_PODS)
        problem = obstacle(facts.server_pods) or problem
    phase: DatabasePhase = "Failed" if problem.reason == "CredentialsLost" else "Verifying"
    return unless_same(database.status, phase_status(database, facts, phase, problem, after=_NOT_READY_RETRY_SECONDS))


def _verify(database: Database, facts: DatabaseFacts) -> Action:
    assert facts.server is not None
    hash_, job = verification(database, facts.server), facts.job
    if database.status.verified == hash_ and (job is None or job.complete):
        return ready_status(database, facts, hash_, database.status)
    if job is None:
        return CreateJob(
            name=verify_job_name(database, facts.server),
            template="verify.yaml.j2",
            values={
                **pod_values(database.spec, database),
                "active_deadline_seconds": _VERIFY_DEADLINE_SECONDS,
                "ttl_seconds_after_finished": _VERIFY_TTL_SECONDS,
                # Only the first time: later, what is missing was taken away by somebody.
                "create_missing": database.status.server_version is None,
            },
            then=_verifying(database, facts, Problem("Verifying", "Logging in to the server.")),
        )
    if job.finished:
        return _verified(database, facts, job, hash_)
    age = (facts.now - job.created).total_seconds()
    after = next_look(age, (*LOOK_AT, _VERIFY_DEADLINE_SECONDS))
    problem = trouble(job, age, facts.pods, facts.refusals, patient=True)
    if isinstance(problem, Ask):
        return problem
    return replace(failed_status(database, facts, problem), after=after) if problem else Nothing(after)


def _verified(database: Database, facts: DatabaseFacts, job: Job, hash_: str) -> Action:
    if facts.pods is None:
        return Ask(Fact.PODS)
    if job.failed and not facts.pods and facts.refusals is None:
        return Ask(Fact.REFUSALS)
    if job.failed:
        refused_pod = refusal(job, facts.refusals or ())
        if not refused_pod and not started(facts.pods) and database.status.phase == "Failed":
            return Nothing()  # what kept its pod from running says more than that time was up
        return failed_status(database, facts, refused_pod or failure(job, facts.pods, "VerificationFailed"))
    try:
        versions = VerifyResult.model_validate(result(facts.pods))
    except ValidationError:
        problem = Problem("ResultLost", f"Job {job.name} left no report; it is repeated when the Job is gone.")
        return failed_status(database, facts, problem)
    return ready_status(database, facts, hash_, versions)


def _verifying(database: Database, facts: DatabaseFacts, problem: Problem) -> SetStatus | Nothing:
    # A verification that is repeated after a failure leaves the failure visible until it succeeds.
    if database.status.phase == "Failed":
        return Nothing()
    return phase_status(database, facts, "Verifying", problem)


def ready_status(
    database: Database, facts: DatabaseFacts, verified: str, versions: VerifyResult | DatabaseStatus
) -> SetStatus | Nothing:
    """The role could log in to the server that `verified` stands for."""
    endpoint = _endpoint(database)
    message = f"Database is ready at {endpoint}"
    event = None if database.status.phase == "Ready" else Event("Normal", "DatabaseReady", message)
    # A server that runs goes on running when its spec asks for what we refuse, and says so.
    status = _body(database, facts, "Ready", True, unsupported(database) or Problem("Ready", message))
    status |= {
        "verified": verified,
        "serverVersion": versions.server_version,
        "toolVersion": versions.tool_version,
    }
    return unless_same(database.status, SetStatus(status, event))


def failed_status(
    database: Database, facts: DatabaseFacts, problem: Problem, versions: VerifyResult | None = None
) -> SetStatus | Nothing:
    """The Database cannot be used, whatever it was before; `versions` where they are known anew."""
    before = find(database.status.conditions, "Ready")
    event = Event("Warning", problem.reason, problem.message)
    known = before is not None and before.reason == problem.reason
    status = _body(database, facts, "Failed", False, problem) | (dump(versions) if versions else {})
    return unless_same(database.status, SetStatus(status, None if known else event))


def phase_status(
    database: Database,
    facts: DatabaseFacts,
    phase: DatabasePhase,
    problem: Problem,
    after: float | None = None,
) -> SetStatus:
    """On the way; not Ready."""
    return SetStatus(_body(database, facts, phase, False, problem), after=after)


def _endpoint(database: Database) -> str:
    server = connection(database)
    host = f"[{server['host']}]" if ":" in server["host"] else server["host"]
    return f"{host}:{server['port']}"


def _body(
    database: Database, facts: DatabaseFacts, phase: DatabasePhase, ready: bool, problem: Problem
) -> dict[str, Any]:
    before, generation = database.status.conditions, database.metadata.generation
    progressing: Literal["True", "False"] = "True" if phase in ("Provisioning", "Verifying", "Updating") else "False"
    status = {
        **dump(database.status),
        "phase": phase,
        "ready": ready,
        "endpoint": _endpoint(database),
        "observedGeneration": generation,
        "conditions": [
            condition(
                before,
                "Ready",
                "True" if ready else "False",
                problem.reason,
                problem.message,
                facts.now,
                generation,
            ),
            condition(before, "Progressing", progressing, problem.reason, problem.message, facts.now, generation),
        ],
    }
    external = database.spec.external is not None
    if external or phase == "Provisioning" or (facts.server is not None and _ours(database, facts.server)):
        status["secretName"] = connection(database)["secret_name"]
    return status
