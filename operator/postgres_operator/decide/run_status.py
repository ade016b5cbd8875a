"""The statuses of a Backup or a Restore on its way."""

from datetime import datetime

from postgres_operator.api.backup import Backup, RunStatus
from postgres_operator.api.common import Failure, dump
from postgres_operator.api.restore import Restore

from .actions import Action, Body, Event, Nothing, SetStatus
from .conditions import condition, timestamp, unless_same
from .jobs import Problem

Run = Backup | Restore


def pending(run: Run, now: datetime, reason: str, message: str, after: float | None = None) -> SetStatus | Nothing:
    """Waiting for something outside, named in the condition."""
    meta = run.metadata
    waiting = condition(run.status.conditions, "Complete", "False", reason, message, now, meta.generation)
    return unless_same(run.status, SetStatus({"phase": "Pending", "conditions": [waiting]}, after=after))


def in_progress(run: Run, job: str, now: datetime, reason: str, message: str) -> Body:
    """The status while the Job is there."""
    status = _base(run.status)
    status.setdefault("startTime", timestamp(now))
    complete = condition(run.status.conditions, "Complete", "False", reason, message, now, run.metadata.generation)
    return {**status, "phase": "InProgress", "jobRef": {"name": job}, "conditions": [complete]}


def runs(run: Run, job: str, now: datetime) -> Body:
    """The status of a run whose Job was created, and of which nothing else is known."""
    return in_progress(run, job, now, "Running", f"Job {job} runs.")


def going_on(run: Run, now: datetime, problem: Problem, after: float | None) -> SetStatus | Nothing:
    """What there is to say of a run that is InProgress; what is to become its failure, if anything, stays on record."""
    job = run.status.job_ref.name if run.status.job_ref else ""
    status = in_progress(run, job, now, problem.reason, problem.message)
    if run.status.error:
        status["error"] = dump(run.status.error)
    return unless_same(run.status, SetStatus(status, after=after))


def stopping(run: Run, problem: Problem, doing: str, now: datetime, after: float) -> Action:
    """Record what is to become the failure before anything is deleted, so that a restart knows it."""
    job = run.status.job_ref.name if run.status.job_ref else ""
    status = in_progress(run, job, now, "StoppingJob", f"{doing}; then Failed: {problem.reason}: {problem.message}")
    status["error"] = _error(problem)
    return unless_same(run.status, SetStatus(status, after=after))


def completed(run: Run, now: datetime, message: str, extra: Body, reason: str = "Completed") -> SetStatus:
    """The terminal status of success."""
    done = condition(run.status.conditions, "Complete", "True", reason, message, now, run.metadata.generation)
    status = {
        **_base(run.status),
        **extra,
        "phase": "Completed",
        "completionTime": timestamp(now),
        "conditions": [done],
    }
    kind = type(run).__name__
    return SetStatus(status, Event("Normal", f"{kind}Completed", message))


def failed(run: Run, now: datetime, problem: Problem) -> SetStatus:
    """The terminal status of failure."""
    generation, before = run.metadata.generation, run.status.conditions
    status = {
        **_base(run.status),
        "phase": "Failed",
        "completionTime": timestamp(now),
        "error": _error(problem),
        "conditions": [
            condition(before, "Complete", "False", problem.reason, problem.message, now, generation),
            condition(before, "Failed", "True", problem.reason, problem.message, now, generation),
        ],
    }
    return SetStatus(status, Event("Warning", problem.reason, problem.message))


def _error(problem: Problem) -> Body:
    return dump(Failure(reason=problem.reason, message=problem.message[:2048]))


def _base(status: RunStatus) -> Body:
    return {k: v for k, v in dump(status).items() if k not in ("phase", "conditions", "error")}
