"""One key: read, decide, render, write. Everything that is decided is decided in `decide`."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from . import metrics, names
from .api.backup import FINISHED, Backup
from .api.common import Resource
from .api.database import Database
from .api.restore import Restore
from .api.schedule import ScheduledBackup
from .api.store import BackupStore
from .cache import Cache, Key
from .cluster import Cluster
from .decide import deletion as deletions
from .decide import refusals
from .decide import verification as verifications
from .decide.actions import (
    Action,
    Ask,
    Body,
    CreateBackup,
    CreateClaim,
    CreateJob,
    DeleteBackup,
    DeleteJob,
    Fact,
    Nothing,
    Provision,
    Queue,
    SetFinalizer,
    SetStatus,
    UpdateServer,
)
from .decide.jobs import Problem
from .decide.run import Policy
from .decide.slots import NO_LIMITS, Limits
from .deletion import DeletionFinder, set_finalizer
from .errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound, TemplateInvalid
from .events import record
from .exclusion import Start
from .facts import Claims, DatabaseFinder, Finder, RunFinder, StoreFinder
from .logs import about
from .provision import NameTaken, StillThere, create_unless_there, provision
from .render import Renderer
from .schedules import BackupNameTaken, ScheduleFinder, create_backup, delete_backup
from .slots import Slots
from .verifications import VerificationFinder

logger = logging.getLogger(__name__)

_RETRY_TAKEN_SECONDS = 2.0


class Reconciler:
    """Brings one object at a time closer to what its spec asks for.

    `seen` is told what our own writes return, so that the next decision does not rest on what was before them; `wake`,
    which key is to be looked at because a slot is free.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        seen: Callable[[str, Body], None],
        renderer: Renderer,
        policy: Policy,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        limits: Limits = NO_LIMITS,
        wake: Callable[[Key], None] = lambda _: None,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._seen = seen
        self._claims = Claims(cluster)
        self._renderer = renderer
        self._policy = policy
        self._now = now
        self._starting: dict[Key, Start] = {}
        self.slots = Slots(cache, self._starting, limits, wake)

    async def reconcile(self, key: Key) -> float | None:
        """Take the next step for the key; seconds after which to look again, if nothing happens before.

        Raises:
            ApiError: To be retried with backoff; nothing is lost by it.
        """
        self.slots.begin(key)
        try:
            return await self._look_at(key)
        finally:
            self.slots.end(key)

    async def _look_at(self, key: Key) -> float | None:
        kind, namespace, name = key
        body = self._cache.get(kind, namespace, name)
        if body and kind == "Backup" and deletions.concerns(body):
            backup = Backup.model_validate(body)
            if deletions.outlasts(backup):
                return await self._see_off(backup)
        # A new leader comes by every Backup that there is: most have ended, and are not worth a model.
        if body is None or (kind != "Database" and body.get("status", {}).get("phase") in FINISHED):
            self._starting.pop(key, None)
            return await self._verify(body) if body and verifications.due(body) else None
        if kind == "Database":
            database = Database.model_validate(body)
            return await self._step(database, DatabaseFinder(self._cluster, self._cache, database, self._now))
        if kind == "ScheduledBackup":
            schedule = ScheduledBackup.model_validate(body)
            return await self._step(schedule, ScheduleFinder(self._cache, schedule, self._now))
        if kind == "BackupStore":
            store = BackupStore.model_validate(body)
            return await self._step(store, StoreFinder(self._cluster, self._cache, store, self._policy, self._now))
        run: Backup | Restore = (Backup if kind == "Backup" else Restore).model_validate(body)
        if run.deleted:
            self._starting.pop(key, None)
            return None
        return await self._go_on(run, body)

    async def _go_on(self, run: Backup | Restore, body: Body) -> float | None:
        if run.key in self._starting:
            await self._settle(run)
        finder = RunFinder(
            self._cluster, self._cache, self._claims, run, self._policy, self._now, self._starting, self.slots
        )
        changed = run if isinstance(run, Backup) and deletions.concerns(body) else None
        if finder.to_be_started:
            if changed:  # it is held before there is a Job
                return await self._see_off(changed)
            self.slots.enter(run)
        after = await self._step(run, finder)
        if changed and self._cache.get(*run.key) is body:
            await self._hold(changed)
        return after

    async def _hold(self, backup: Backup) -> None:
        """The finalizer of a Backup whose policy has changed while its Job runs: the end of that comes first."""
        try:
            await self._act(backup, deletions.decide(backup, deletions.DeletionFacts(self._now()), self._policy))
        except (Forbidden, Invalid) as error:
            # It is shown, and tried again, when the Job has ended: until then the status is about that.
            logger.warning("The change of its finalizer was refused: %s", error, extra=about(backup.key))

    async def _verify(self, body: Body) -> float | None:
        backup = Backup.model_validate(body)
        if backup.deleted:
            return None
        finder = VerificationFinder(self._cluster, self._cache, self._claims, backup, self._policy, self._now)
        return await self._step(backup, finder)

    async def _see_off(self, backup: Backup) -> float | None:
        if backup.key in self._starting:
            await self._settle(backup)
        finder = DeletionFinder(
            self._cluster, self._cache, self._claims, backup, self._policy, self._now, self._starting
        )
        return await self._step(backup, finder)

    async def _settle(self, run: Backup | Restore) -> None:
        """The creation of the run's Job had no clear answer: the request timed out, the connection broke."""
        kind, namespace, name = run.key
        job = await self._cluster.get("Job", namespace, names.job_name(kind, name, run.metadata.uid))
        if job:
            self._seen("Job", job)
        self._starting.pop(run.key, None)

    async def _step(self, resource: Resource, finder: Finder) -> float | None:
        asked: list[Fact] = []
        while isinstance(action := finder.decide(), Ask):
            if action.fact in asked:
                raise RuntimeError(f"{resource.key}: asked twice for {action.fact.value}")
            asked.append(action.fact)
            await finder.find(action.fact)
        if isinstance(action, Queue):
            self.slots.sleep(resource.key)
            action = action.then
        try:
            return await self._act(resource, action)
        except (Forbidden, Invalid) as error:
            return await self._forbidden(resource, error)

    async def _act(self, resource: Resource, action: Action) -> float | None:
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
            case CreateBackup() | DeleteBackup() | SetFinalizer():
                return await self._change_backup(resource, action)
            case Ask() | Queue():
                raise AssertionError("_step has seen to these")

    async def _create_claim(self, resource: Resource, body: Body) -> float:
        if await create_unless_there(self._cluster, "PersistentVolumeClaim", body):
            logger.info("Created PersistentVolumeClaim %s", body["metadata"]["name"], extra=about(resource.key))
        return 0

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
        return await self._act(resource, action.then) if action.then else action.after

    async def _read_again(self, resource: Resource) -> None:
        kind, namespace, name = resource.key
        if fresh := await self._cluster.get(kind, namespace, name):
            self._seen(kind, fresh)
        elif known := self._cache.get(kind, namespace, name):
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
            self.slots.leave(resource.key)
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
        return await self._act(resource, action.then)

    async def _forbidden(self, resource: Resource, error: Forbidden | Invalid) -> float | None:
        reason = "QuotaExceeded" if "exceeded quota" in str(error) else "RequestRefused"
        action = refusals.may_pass(resource, self._now(), Problem(reason, str(error)))
        if action is None:
            raise error
        return await self._act(resource, action)

    async def _refuse(self, resource: Resource, reason: str, message: str) -> float | None:
        return await self._act(resource, refusals.is_final(resource, self._now(), Problem(reason, message)))

    async def _provision(self, resource: Resource, action: Provision) -> float | None:
        assert isinstance(resource, Database)
        try:
            await provision(self._cluster, self._seen, resource, action)
        except NameTaken as error:
            return await self._refuse(resource, "NameTaken", str(error))
        except StillThere as error:
            logger.info("%s", error, extra=about(resource.key))
            return _RETRY_TAKEN_SECONDS
        return await self._act(resource, action.then)

    async def _change_backup(
        self, resource: Resource, action: CreateBackup | DeleteBackup | SetFinalizer
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
        try:
            await create_backup(self._cluster, self._seen, resource, action)
        except BackupNameTaken as error:
            return await self._refuse(resource, "BackupNameTaken", str(error))
        return await self._act(resource, action.then)
