"""Carries out what was decided: renders, writes, and says so."""

import logging
from collections.abc import Callable
from datetime import datetime

from . import metrics, names
from .api.backup import Backup
from .api.common import Resource
from .api.database import Database
from .api.restore import Restore
from .api.schedule import ScheduledBackup
from .cache import Cache, Key
from .cluster import Cluster
from .decide import refusals
from .decide.actions import (
    Action,
    Ask,
    Body,
    ChangeBackup,
    CreateBackup,
    CreateClaim,
    CreateJob,
    DeleteBackup,
    DeleteJob,
    Nothing,
    Provision,
    Queue,
    SetFinalizer,
    SetStatus,
    UpdateServer,
)
from .decide.jobs import Problem
from .deletion import set_finalizer
from .errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound, TemplateInvalid
from .events import record
from .exclusion import Start
from .logs import about
from .provision import NameTaken, StillThere, create_unless_there, provision
from .render import Renderer
from .schedules import BackupNameTaken, change_backup, create_backup, delete_backup
from .slots import Slots

logger = logging.getLogger(__name__)

_RETRY_TAKEN_SECONDS = 2.0


class Actor:
    """Does what was decided about one object.

    `seen` is told what our own writes return, so that the next decision does not rest on what was before them; in
    `starting` are the runs whose Jobs are being created.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        seen: Callable[[str, Body], None],
        renderer: Renderer,
        now: Callable[[], datetime],
        starting: dict[Key, Start],
        slots: Slots,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._seen = seen
        self._renderer = renderer
        self._now = now
        self._starting = starting
        self._slots = slots

    async def act(self, resource: Resource, action: Action) -> float | None:
        """Do it; seconds after which to look at the object again, if nothing happens before.

        Raises:
            Forbidden, Invalid: It is refused; `refused` says so.
            ApiError: To be retried with backoff.
        """
        match action:
            case Nothing(after):
                return after
            case SetStatus():
                return await self._set_status(resource, action)
            case CreateJob():
                return await self._create_job(resource, action)
            case DeleteJob(name, after=after):
                logger.info("Deleting Job %s", name, extra=about(resource.key))
                await self._cluster.delete(
                    "Job", resource.metadata.namespace, name, action.uid, action.resource_version
                )
                return after
            case CreateClaim(body):
                return await self._create_claim(resource, body)
            case Provision():
                return await self._provision(resource, action)
            case UpdateServer(server, then):
                self._seen("StatefulSet", await self._cluster.replace("StatefulSet", server))
                return await self._set_status(resource, then)
            case CreateBackup() | DeleteBackup() | ChangeBackup() | SetFinalizer():
                return await self._change_backup(resource, action)
            case Ask() | Queue():
                raise AssertionError("the reconciler has seen to these")

    async def _create_claim(self, resource: Resource, body: Body) -> float | None:
        name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
        if await create_unless_there(self._cluster, "PersistentVolumeClaim", body):
            logger.info("Created PersistentVolumeClaim %s", name, extra=about(resource.key))
            return 0
        found = await self._cluster.get("PersistentVolumeClaim", namespace, name)
        if found is None or "deletionTimestamp" not in found["metadata"]:
            return 0
        # A pod that uses it may keep it for long.
        message = (
            f'PersistentVolumeClaim "{name}" is being deleted; waiting until it is gone. '
            f"What uses it still: kubectl describe pvc {name} -n {namespace}"
        )
        action = refusals.may_pass(resource, self._now(), Problem("ClaimNotFound", message))
        assert action  # a Backup that has not begun has nothing else to say
        return await self.act(resource, action)

    async def _set_status(self, resource: Resource, action: SetStatus) -> float | None:
        kind, namespace, name = resource.key
        known = self._cache.get(kind, namespace, name)
        if known is None or known["metadata"]["resourceVersion"] != resource.metadata.resource_version:
            return 0  # it changed while we decided: decide again
        try:
            self._seen(kind, await self._cluster.set_status(kind, known, action.status))
        except Conflict:
            await self._read_again(resource)
            return 0
        except NotFound:
            self._cache.remove(kind, known)
            return None
        self._log(resource, known.get("status", {}), action.status)
        if action.event:
            await record(self._cluster, resource, action.event, self._now())
        return await self.act(resource, action.then) if action.then else action.after

    async def _read_again(self, resource: Resource) -> None:
        kind, namespace, name = resource.key
        known = self._cache.get(kind, namespace, name)
        if fresh := await self._cluster.get(kind, namespace, name):
            self._cache.rewind(kind, known, fresh)
            self._seen(kind, fresh)
        elif known:
            self._cache.remove(kind, known)

    def _log(self, resource: Resource, before: Body, after: Body) -> None:
        old, new = before.get("phase") or "Pending", after.get("phase")
        condition = after["conditions"][0]
        if new is None:  # a ScheduledBackup or BackupStore has no phases
            logger.info("%s: %s", condition["reason"], condition["message"], extra=about(resource.key))
        elif old != new:
            metrics.TRANSITIONS.labels(resource.key[0], new).inc()
            logger.info(
                "STATE TRANSITION: %s -> %s (%s: %s)",
                old,
                new,
                condition["reason"],
                condition["message"],
                extra=about(resource.key),
            )
        else:
            logger.info("%s: %s: %s", new, condition["reason"], condition["message"], extra=about(resource.key))

    async def _create_job(self, resource: Resource, action: CreateJob) -> float | None:
        try:
            body = self._renderer.job(resource, action)
        except TemplateInvalid as error:
            return await self._refuse(resource, "TemplateInvalid", f"{error}")
        if isinstance(resource, Backup | Restore) and not resource.status.finished:
            # From the decision to here nothing else had a turn; from here on, others see that it is taken.
            claim = action.claim.name if action.claim else ""
            self._starting[resource.key] = Start(resource.spec.database_ref.name, claim, action.name)
            self._slots.leave(resource.key)
        try:
            job = await self._cluster.create("Job", body)
            metrics.JOBS_CREATED.labels(body["metadata"]["labels"][names.LABEL_KIND]).inc()
            logger.info("Created Job %s", action.name, extra=about(resource.key))
        except AlreadyExists:
            found = await self._cluster.get("Job", resource.metadata.namespace, action.name)
            if found is None:
                return 0
            owners = [r["uid"] for r in found["metadata"].get("ownerReferences", [])]
            if resource.metadata.uid not in owners:
                return await self._refuse(
                    resource, "JobNameTaken", f'Job "{action.name}" exists and is not ours: delete it.'
                )
            job = found
        except (Forbidden, NotFound):
            self._starting.pop(resource.key, None)
            raise
        except Invalid as error:
            self._starting.pop(resource.key, None)
            return await self._refuse(resource, "TemplateInvalid", f"Template {action.template}: {error}")
        self._seen("Job", job)
        self._starting.pop(resource.key, None)
        return await self.act(resource, action.then)

    async def refused(self, resource: Resource, error: Forbidden | Invalid) -> float | None:
        """Show it in the status, if it may pass.

        Raises:
            Forbidden, Invalid: It has no place there.
        """
        reason = "QuotaExceeded" if "exceeded quota" in str(error) else "RequestRefused"
        action = refusals.may_pass(resource, self._now(), Problem(reason, str(error)))
        if action is None:
            raise error
        return await self.act(resource, action)

    async def _refuse(self, resource: Resource, reason: str, message: str) -> float | None:
        return await self.act(resource, refusals.is_final(resource, self._now(), Problem(reason, message)))

    async def _provision(self, resource: Resource, action: Provision) -> float | None:
        assert isinstance(resource, Database)
        try:
            await provision(self._cluster, self._seen, resource, action, self._now())
        except NameTaken as error:
            return await self._refuse(resource, "NameTaken", str(error))
        except StillThere as error:
            logger.info("%s", error, extra=about(resource.key))
            return _RETRY_TAKEN_SECONDS
        return await self.act(resource, action.then)

    async def _change_backup(
        self, resource: Resource, action: CreateBackup | DeleteBackup | ChangeBackup | SetFinalizer
    ) -> float | None:
        if isinstance(action, SetFinalizer):
            assert isinstance(resource, Backup)
            try:
                await set_finalizer(self._cluster, self._cache, self._seen, resource, action)
            except Conflict:
                await self._read_again(resource)
            return 0
        assert isinstance(resource, ScheduledBackup)
        if isinstance(action, DeleteBackup):
            return await delete_backup(self._cluster, resource, action)
        if isinstance(action, ChangeBackup):
            return await change_backup(self._cluster, resource, action)
        try:
            await create_backup(self._cluster, self._seen, resource, action)
        except BackupNameTaken as error:
            return await self._refuse(resource, "BackupNameTaken", str(error))
        return await self.act(resource, action.then)
