"""What the API server or a template kept us from doing: how it is shown, by kind of resource."""

from datetime import datetime

from postgres_operator.api.backup import Backup
from postgres_operator.api.common import Resource
from postgres_operator.api.database import Database
from postgres_operator.api.restore import Restore
from postgres_operator.api.schedule import ScheduledBackup
from postgres_operator.api.store import BackupStore

from . import database, deletion, schedule, store, verification
from .actions import Action
from .jobs import Problem
from .run_status import failed, going_on, pending

_RETRY_SECONDS = 20.0


def may_pass(resource: Resource, now: datetime, problem: Problem) -> Action | None:
    """A quota, an admission policy or our own RBAC: shown, and tried again.

    None where the status has something else to say, and only the log tells.
    """
    if action := _of_its_kind(resource, now, problem):
        return action
    assert isinstance(resource, Backup | Restore)
    if isinstance(resource, Backup) and resource.status.finished:
        known = verification.created(resource)
        return None if known else verification.refused(resource, now, problem, _RETRY_SECONDS)
    if resource.status.phase == "InProgress":
        return going_on(resource, now, problem, _RETRY_SECONDS)
    return pending(resource, now, problem.reason, problem.message, _RETRY_SECONDS)


def is_final(resource: Resource, now: datetime, problem: Problem) -> Action:
    """To try again would not help, until somebody changes something."""
    if action := _of_its_kind(resource, now, problem):
        return action
    assert isinstance(resource, Backup | Restore)
    if isinstance(resource, Backup) and resource.status.finished:
        return verification.incomplete(resource, now, problem)
    return failed(resource, now, problem)


def _of_its_kind(resource: Resource, now: datetime, problem: Problem) -> Action | None:
    """Where nothing is final."""
    match resource:
        case Database():
            return database.refused(resource, now, problem)
        case ScheduledBackup():
            return schedule.refused(resource, now, problem.reason, problem.message)
        case BackupStore():
            return store.refused(resource, now, problem)
        case Backup() if deletion.outlasts(resource):
            return deletion.refused(resource, now, problem)
    return None
