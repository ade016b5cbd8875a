"""One key: read, decide, act. Everything that is decided is decided in `decide`."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from . import names
from .act import Actor
from .api.backup import FINISHED, Backup
from .api.common import Resource
from .api.database import Database
from .api.restore import Restore
from .api.schedule import ScheduledBackup
from .api.store import BackupStore
from .cache import Cache, Key
from .cluster import Cluster
from .decide import deletion as deletions
from .decide import verification as verifications
from .decide.actions import Ask, Body, Fact, Queue
from .decide.run import Policy
from .decide.slots import NO_LIMITS, Limits
from .deletion import DeletionFinder
from .errors import Forbidden, Invalid
from .facts import Claims, DatabaseFinder, Finder, RunFinder, StoreFinder, VerificationFinder
from .logs import about
from .render import Renderer
from .schedules import ScheduleFinder
from .slots import Slots

if TYPE_CHECKING:
    from .exclusion import Start

logger = logging.getLogger(__name__)


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
        self._policy = policy
        self._now = now
        self._starting: dict[Key, Start] = {}
        self.slots = Slots(cache, self._starting, limits, wake)
        self._actor = Actor(cluster, cache, seen, renderer, now, self._starting, self.slots)

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
            await self._actor.act(backup, deletions.decide(backup, deletions.DeletionFacts(self._now()), self._policy))
        except (Forbidden, Invalid) as error:
            # It is shown, and tried again, when the Job has ended: until then the status is about that.
            logger.warning("The change of its finalizer was refused: %s", error, extra=about(backup.key))

    async def _verify(self, body: Body) -> float | None:
        backup = Backup.model_validate(body)
        if backup.deleted:
            return None
        finder = VerificationFinder(
            self._cluster, self._cache, self._claims, backup, self._policy, self._now, self._starting
        )
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
            return await self._actor.act(resource, action)
        except (Forbidden, Invalid) as error:
            return await self._actor.refused(resource, error)
