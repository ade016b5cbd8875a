"""Database whose server is somebody else's: what to do next. Check follows check in a chain of Jobs."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import ValidationError

from postgres_operator import names
from postgres_operator.api.database import Database, VerifyResult

from . import chain as chains
from .actions import Action, Ask, CreateJob, Fact, Nothing, SetStatus
from .chain import GONE_RETRY_SECONDS, Chain
from .conditions import find, unless_same
from .database import DatabaseFacts, failed_status, phase_status, ready_status, unsupported
from .jobs import Job, Problem, failure, result, trouble
from .run import pod_values, verification

_DEADLINE_SECONDS = 120
_RETRY_SECONDS = 60.0


def last_check(database: Database, checks: Sequence[Job]) -> Job | None:
    """The newest check of the server that the spec names, otherwise the newest one at all."""
    return chains.newest(checks, verification(database))


def decide(database: Database, facts: DatabaseFacts) -> Action:
    """The next step of a Database with `spec.external`."""
    if database.deleted:
        return Nothing()
    if problem := unsupported(database):
        return failed_status(database, facts, problem)
    if database.status.phase is None:
        return phase_status(database, facts, "Pending", Problem("Verifying", "The server is about to be checked."), 0)
    job = last_check(database, facts.checks)
    if job is None or job.verifies != verification(database):
        return _check(database, facts, job)
    chain = Chain(facts.now, facts.checks, job, _DEADLINE_SECONDS)
    if chain.runs:
        if database.status.ready and database.status.verified != verification(database):
            return _verifying(database, facts, after=0)  # what was verified is another server
        if chain.given_up:
            return _go_on(database, facts, chain)
        return Nothing(GONE_RETRY_SECONDS) if job.deleting else _running(database, facts, chain)
    outcome = _outcome(database, facts, job)
    if not isinstance(outcome, Nothing):
        return outcome
    if tidying := chain.tidy():
        return tidying
    due = _interval(database) - chain.age
    return Nothing(due) if due > 0 else _check(database, facts, job)


def _go_on(database: Database, facts: DatabaseFacts, chain: Chain) -> Action:
    """The check does not end: say so, and make the next one, which may run elsewhere."""
    job = chain.last
    if database.status.phase != "Failed":  # what was seen before says more
        what = "is being deleted and stays" if job.deleting else "has not ended"
        message = (
            f"Job {job.name}, which logs in to the server, {what} {chain.given_up_after} s after it was created: see "
            f"why with kubectl describe job -n {database.metadata.namespace} {job.name}. Another one checks the server."
        )
        failed = failed_status(database, facts, Problem("DeadlineExceeded", message))
        return replace(failed, after=0)
    if tidying := chain.tidy():
        return tidying
    return Nothing(_RETRY_SECONDS) if chain.crowded else _check(database, facts, job)


def _interval(database: Database) -> float:
    """Seconds from one check to the next."""
    assert database.spec.external is not None
    interval = database.spec.external.check_interval_seconds
    return interval if database.status.ready else min(interval, _RETRY_SECONDS)


def _check(database: Database, facts: DatabaseFacts, previous: Job | None) -> Action:
    assert database.spec.external is not None
    hash_ = verification(database)
    # Until its outcome is known, the outcome of the last one stands, if that was about the same server.
    known = database.status.phase == "Failed" or (database.status.ready and database.status.verified == hash_)
    return CreateJob(
        name=chains.next_name("Verify", database.metadata.name, hash_, previous),
        template="verify.yaml.j2",
        values={
            **pod_values(database.spec, database),
            "active_deadline_seconds": _DEADLINE_SECONDS,
            # Its successor comes before that and deletes it; this is for when there is none.
            "ttl_seconds_after_finished": database.spec.external.check_interval_seconds + _DEADLINE_SECONDS,
            "create_missing": False,
        },
        annotations={names.ANNOTATION_VERIFIES: hash_},
        then=Nothing() if known else unless_same(database.status, _verifying(database, facts)),
    )


def _verifying(database: Database, facts: DatabaseFacts, after: float | None = None) -> SetStatus:
    return phase_status(database, facts, "Verifying", Problem("Verifying", "Logging in to the server."), after)


def _running(database: Database, facts: DatabaseFacts, chain: Chain) -> Action:
    if _refused(database):
        return _verifying(database, facts, after=0)  # no more: here it is
    problem = trouble(chain.last, chain.age, facts.pods, facts.refusals, patient=bool(database.status.ready))
    if isinstance(problem, Ask):
        return problem
    if problem is None:
        return chain.look_again
    return replace(failed_status(database, facts, problem), after=chain.look_again.after)


def _outcome(database: Database, facts: DatabaseFacts, job: Job) -> Action:
    """What a finished check says about the Database; nothing where the status says it already."""
    if _refused(database):
        return Nothing()  # which came later
    if facts.pods is None:
        return Ask(Fact.PODS)
    if job.failed:
        if not facts.pods and database.status.phase == "Failed":
            return Nothing()  # what was seen while it was there says more than that it is gone
        return failed_status(database, facts, failure(job, facts.pods, "VerificationFailed"))
    hash_ = verification(database)
    try:
        versions = VerifyResult.model_validate(result(facts.pods))
    except ValidationError:
        if database.status.ready and database.status.verified == hash_:
            return Nothing()  # it was read before the pod went
        problem = Problem("ResultLost", f"Job {job.name} left no report; it is repeated.")
        return failed_status(database, facts, problem)
    if versions.tool_version and _major(versions.tool_version) < _major(versions.server_version):
        return failed_status(database, facts, _mismatch(database, versions), versions)
    return ready_status(database, facts, hash_, versions)


def _refused(database: Database) -> bool:
    return chains.refused(find(database.status.conditions, "Ready"))


def _major(version: str) -> int:
    return int("".join(c if c.isdigit() else " " for c in version).split()[0])


def _mismatch(database: Database, versions: VerifyResult) -> Problem:
    server, tool = versions.server_version, versions.tool_version
    return Problem(
        "VersionMismatch",
        f"pg_dump {tool} of image {database.spec.image} cannot dump PostgreSQL {server}: set spec.image of the "
        f"Database to version {_major(server)} or a newer one.",
    )
