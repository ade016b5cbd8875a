"""One key: read, decide, render, write. Everything that is decided is decided in `decide`."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from . import metrics, names
from .api.backup import Backup
from .api.common import Resource
from .api.database import Database
from .api.restore import Restore
from .cache import Cache, Key
from .cluster import Cluster
from .decide import database as databases
from .decide.actions import (
    Action,
    Ask,
    Body,
    CreateClaim,
    CreateJob,
    DeleteJob,
    Event,
    Fact,
    Nothing,
    Provision,
    SetStatus,
    UpdateServer,
)
from .decide.backup import Policy
from .decide.conditions import timestamp
from .decide.jobs import Problem
from .decide.run import failed, pending
from .errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound, TemplateInvalid
from .facts import Claims, DatabaseFinder, Finder, RunFinder
from .logs import about
from .provision import NameTaken, StillThere, create_unless_there, provision
from .render import Renderer

logger = logging.getLogger(__name__)

_RETRY_FORBIDDEN_SECONDS = 20.0
_RETRY_TAKEN_SECONDS = 2.0


class Reconciler:
    """Brings one object at a time closer to what its spec asks for.

    `seen` is told what our own writes return, so that the next decision does not rest on what was before them.
    """

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        seen: Callable[[str, Body], None],
        renderer: Renderer,
        policy: Policy,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._seen = seen
        self._claims = Claims(cluster)
        self._renderer = renderer
        self._policy = policy
        self._now = now
        self._starting: dict[Key, tuple[str, str]] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Take the next step for the key; seconds after which to look again, if nothing happens before.

        Raises:
            ApiError: To be retried with backoff; nothing is lost by it.
        """
        kind, namespace, name = key
        body = self._cache.get(kind, namespace, name)
        if body is None:
            self._starting.pop(key, None)
            return None
        if kind == "Database":
            database = Database.model_validate(body)
            return await self._step(database, DatabaseFinder(self._cluster, self._cache, database, self._now))
        run: Backup | Restore = (Backup if kind == "Backup" else Restore).model_validate(body)
        if run.status.finished or run.deleted:
            self._starting.pop(key, None)
            return None
        if key in self._starting:
            await self._settle(run)
        finder = RunFinder(self._cluster, self._cache, self._claims, run, self._policy, self._now, self._starting)
        return await self._step(run, finder)

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
                if await create_unless_there(self._cluster, "PersistentVolumeClaim", body):
                    logger.info("Created PersistentVolumeClaim %s", body["metadata"]["name"], extra=about(resource.key))
                return 0
            case Provision():
                return await self._provision(resource, action)
            case UpdateServer(server, then):
                self._seen("StatefulSet", await self._cluster.replace("StatefulSet", server))
                return await self._set_status(resource, then)
            case Ask():
                raise AssertionError("questions are answered in _step")

    async def _set_status(self, resource: Resource, action: SetStatus) -> float | None:
        kind, namespace, name = resource.key
        known = self._cache.get(kind, namespace, name)
        if known is None or known["metadata"]["resourceVersion"] != resource.metadata.resource_version:
            return 0  # it changed while we decided: decide again
        try:
            self._seen(kind, await self._cluster.set_status(kind, known, action.status))
        except Conflict:
            fresh = await self._cluster.get(kind, namespace, name)
            if fresh:
                self._seen(kind, fresh)
            else:
                self._cache.remove(kind, known)
            return 0
        except NotFound:
            self._cache.remove(kind, known)
            return None
        self._log(resource, known.get("status", {}), action.status)
        if action.event:
            await self._record(resource, action.event)
        return action.after

    def _log(self, resource: Resource, before: Body, after: Body) -> None:
        old, new = before.get("phase") or "Pending", after.get("phase")
        condition = after["conditions"][0]
        if old != new:
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

    async def _record(self, resource: Resource, event: Event) -> None:
        kind, namespace, name = resource.key
        now = timestamp(self._now())
        body: Body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name[:200]}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": kind,
                "namespace": namespace,
                "name": name,
                "uid": resource.metadata.uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1000],
            "source": {"component": names.OPERATOR},
            "reportingComponent": names.OPERATOR,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._cluster.create("Event", body)
        except (Forbidden, Invalid, NotFound) as error:  # a namespace that is being deleted takes no Events
            logger.warning("Event %s was not recorded: %s", event.reason, error, extra=about(resource.key))

    async def _create_job(self, resource: Resource, action: CreateJob) -> float | None:
        try:
            body = self._renderer.job(resource, action)
        except TemplateInvalid as error:
            return await self._refuse(resource, "TemplateInvalid", f"{error}")
        if isinstance(resource, Backup | Restore):
            # From the decision to here nothing else had a turn; from here on, others see that it is taken.
            self._starting[resource.key] = (resource.spec.database_ref.name, action.claim.name if action.claim else "")
        try:
            job = await self._cluster.create("Job", body)
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
        """A quota, an admission policy or our own RBAC: shown on the resource, and tried again."""
        reason = "QuotaExceeded" if "exceeded quota" in str(error) else "RequestRefused"
        if isinstance(resource, Database):
            return await self._act(resource, databases.refused(resource, self._now(), Problem(reason, str(error))))
        assert isinstance(resource, Backup | Restore)
        if resource.status.phase == "InProgress":
            raise error
        return await self._act(resource, pending(resource, self._now(), reason, str(error), _RETRY_FORBIDDEN_SECONDS))

    async def _refuse(self, resource: Resource, reason: str, message: str) -> float | None:
        problem = Problem(reason, message)
        if isinstance(resource, Database):
            return await self._act(resource, databases.refused(resource, self._now(), problem))
        assert isinstance(resource, Backup | Restore)
        return await self._act(resource, failed(resource, self._now(), problem))

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
