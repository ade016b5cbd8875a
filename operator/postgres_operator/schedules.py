"""Backups of a ScheduledBackup: which there are, how one is made, and how one is deleted."""

import logging
from collections.abc import Callable
from datetime import datetime

from . import names
from .api.backup import FINISHED
from .api.schedule import ScheduledBackup
from .cache import Cache
from .cluster import Cluster
from .decide import retention
from .decide import schedule as schedules
from .decide.actions import Action, Body, ChangeBackup, CreateBackup, DeleteBackup, Fact
from .decide.jobs import ended
from .errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound, OperatorError
from .logs import about

logger = logging.getLogger(__name__)


class BackupNameTaken(OperatorError):
    """There is a Backup of the slot's name that the schedule did not make."""


class ScheduleFinder:
    """Facts about a ScheduledBackup; all of them are in the cache."""

    def __init__(self, cache: Cache, schedule: ScheduledBackup, now: Callable[[], datetime]) -> None:
        self._cache, self._schedule, self._now = cache, schedule, now

    def decide(self) -> Action:
        """The decision on what is known."""
        known = self._cache.list("Backup", self._schedule.metadata.namespace)
        made = [schedules.read_made(b, ending=self._ending(b)) for b in known if _is_of(b, self._schedule)]
        return schedules.decide(self._schedule, made, self._now(), self._kept(known))

    def _kept(self, known: list[Body]) -> list[retention.Kept]:
        """What retention looks at; nothing where there is none."""
        if self._schedule.spec.retention is None:
            return []
        restores = self._cache.list("Restore", self._schedule.metadata.namespace)
        wanted = [b["spec"] for b in restores if b.get("status", {}).get("phase") not in FINISHED]
        used = {spec.get("backupRef", {}).get("name") or spec.get("location", "") for spec in wanted}
        return [retention.read_kept(b, frozenset(used - {""})) for b in known if _is_of(b, self._schedule)]

    def _ending(self, backup: Body) -> bool:
        """Whether its Job has ended, or another one already reads what that has left."""
        meta = backup["metadata"]
        job, reader = (
            self._cache.get("Job", meta["namespace"], names.job_name(kind, meta["name"], meta["uid"]))
            for kind in ("Backup", "Reader")
        )
        return reader is not None or (job is not None and ended(job))

    async def find(self, fact: Fact) -> None:
        """Nothing more is ever asked for."""
        raise AssertionError(f"no decision about a ScheduledBackup asks for {fact}")


async def create_backup(
    cluster: Cluster, seen: Callable[[str, Body], None], schedule: ScheduledBackup, action: CreateBackup
) -> None:
    """Create the Backup, unless it is there.

    Raises:
        BackupNameTaken: Something else has the name.
        Forbidden, Invalid: The API server does not want it.
    """
    name, namespace = action.body["metadata"]["name"], schedule.metadata.namespace
    try:
        body = await cluster.create("Backup", action.body)
        logger.info("Created Backup %s", name, extra=about(schedule.key))
    except AlreadyExists:
        found = await cluster.get("Backup", namespace, name)
        if found is None or not _is_of(found, schedule):
            raise BackupNameTaken(
                f'Backup "{name}" is there and was not made by this schedule: delete it if nobody needs it, or give '
                "the schedule another name. It is tried again each minute until the next slot."
            ) from None
        body = found
    seen("Backup", body)


async def delete_backup(cluster: Cluster, schedule: ScheduledBackup, action: DeleteBackup) -> float | None:
    """Delete the Backup; seconds after which to look again.

    Raises:
        Forbidden, Invalid: We may not, and it is required.
    """
    logger.info("Deleting Backup %s: %s", action.name, action.why, extra=about(schedule.key))
    namespace, version = schedule.metadata.namespace, action.resource_version
    try:
        if action.change:
            body = await cluster.patch("Backup", namespace, action.name, version, action.change)
            version = body["metadata"]["resourceVersion"]
        await cluster.delete("Backup", namespace, action.name, action.uid, version)
    except (Conflict, NotFound) as error:
        logger.info("Backup %s has changed since: %s", action.name, error, extra=about(schedule.key))
    except (Forbidden, Invalid) as error:
        if action.required:
            raise
        # Not shown in the status: that there are too many of them hinders nothing.
        logger.warning("Backup %s could not be deleted: %s", action.name, error, extra=about(schedule.key))
    return action.after


async def change_backup(cluster: Cluster, schedule: ScheduledBackup, action: ChangeBackup) -> float | None:
    """Change the Backup; seconds after which to look again."""
    logger.info("Changing Backup %s: %s", action.name, action.why, extra=about(schedule.key))
    try:
        await cluster.patch("Backup", schedule.metadata.namespace, action.name, action.resource_version, action.change)
    except (Conflict, NotFound, Forbidden, Invalid) as error:
        logger.warning("Backup %s could not be changed: %s", action.name, error, extra=about(schedule.key))
    return action.after


def _is_of(body: Body, schedule: ScheduledBackup) -> bool:
    """Whether the schedule has made it. Its labels alone may be those of a copy, which has another name."""
    meta = body["metadata"]
    if meta.get("labels", {}).get(names.LABEL_SCHEDULE_UID) != schedule.metadata.uid:
        return False
    try:
        slot = datetime.fromisoformat(meta.get("annotations", {}).get(names.ANNOTATION_SLOT, ""))
        return bool(meta["name"] == names.scheduled_backup(schedule.metadata.name, slot))
    except (ValueError, OverflowError):
        return False
