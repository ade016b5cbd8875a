"""What happens in the cluster: keep the cache, enqueue the key, nothing else.

kopf watches; it never writes. Its handlers are `on.event` only: no finalizers, annotations or progress of its own.
"""

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import kopf

from . import metrics, names
from .cache import Cache, Key
from .cluster import PAGE, RESOURCES, Cluster
from .decide.actions import Body
from .decide.deletion import concerns
from .decide.jobs import read_job
from .errors import NotFound, OperatorError
from .freshness import Freshness
from .queue import WorkQueue

logger = logging.getLogger(__name__)

OWN_KINDS = ("Database", "Backup", "Restore", "BackupStore", "ScheduledBackup")
# Of these only what we made is watched.
MANAGED_KINDS = ("Job", "StatefulSet", "Service")
MANAGED_SELECTOR = f"{names.MANAGED_BY}={names.OPERATOR}"
_FIRST_RELIST_SECONDS = 20
_RELIST_AGAIN_SECONDS = 1
_RECONCILED = ("Database", "BackupStore", "Restore", "Backup", "ScheduledBackup")


class _NoStorage(kopf.DiffBaseStorage, kopf.ProgressStorage):
    """kopf keeps its progress in annotations; we have none, and building it costs a third of an event's CPU time."""

    def build(self, **_: Any) -> None:  # type: ignore[override]
        return None

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None: ...

    def purge(self, **_: Any) -> None: ...

    def touch(self, **_: Any) -> None: ...

    def clear(self, *, essence: Any) -> Any:
        return essence


class _Backoffs(Iterable[float]):
    """Seconds between tries, without an end: kopf gives a watch up for ever after the last one."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.5, 1, 2, 4, 8), itertools.repeat(15))


class Watch:
    """Feeds the cache and the queue from kopf's watches, and from a relist that finds what they lost.

    `freed` is told when a Job no longer runs, whoever owns it, and after each relist.
    """

    def __init__(self, cache: Cache, queue: WorkQueue[Key], freshness: Freshness) -> None:
        self._cache = cache
        self._queue = queue
        self._freshness = freshness
        self._leading = False
        self.freed: Callable[[], None] = lambda: None

    def registry(self) -> kopf.OperatorRegistry:
        """kopf's handlers: one for each kind."""
        registry = kopf.OperatorRegistry()
        for kind in (*OWN_KINDS, *MANAGED_KINDS):
            self._register(registry, kind)
        kopf.on.login(registry=registry)(_login)
        return registry

    def _register(self, registry: kopf.OperatorRegistry, kind: str) -> None:
        resource = RESOURCES[kind]
        group, version = _group_version(resource.prefix)

        async def seen(type: str | None, body: kopf.Body, **_: Any) -> None:  # noqa: A002 - kopf's name
            plain = dict(body)
            self._freshness.shown(kind, plain)
            self.seen(kind, plain, deleted=type == "DELETED")

        kopf.on.event(group, version, resource.plural, registry=registry, id=f"seen-{kind.lower()}")(seen)

    def seen(self, kind: str, body: Body, *, deleted: bool = False) -> None:
        """An object is there, has changed, or is gone."""
        own = kind, body["metadata"]["namespace"], body["metadata"]["name"]
        before, ran = self._cache.get(*own), own in self._cache.unfinished
        if deleted:
            self._cache.remove(kind, body)
        elif not self._cache.put(kind, body):
            return
        if not self._leading:  # what is to be done is found when this replica takes over
            return
        if kind == "Job":
            _count(before, body)
        for key in self.affected(kind, body, deleted=deleted):
            self._queue.add(key)
        if ran and own not in self._cache.unfinished:
            self.freed()

    def learned(self, kind: str, body: Body) -> None:
        """The API server has told it in answer to a request of ours; the watch is to show it as well."""
        if kind in OWN_KINDS or body["metadata"].get("labels", {}).get(names.MANAGED_BY) == names.OPERATOR:
            self._freshness.confirmed(kind, body)
        self.seen(kind, body)

    def affected(self, kind: str, body: Body, *, deleted: bool = False) -> Iterator[Key]:
        """Keys whose decision this object may change."""
        meta = body["metadata"]
        namespace = meta["namespace"]
        if kind in _RECONCILED:
            yield kind, namespace, meta["name"]
        if kind == "Backup" and (schedule := meta.get("labels", {}).get(names.LABEL_SCHEDULE)):
            yield "ScheduledBackup", namespace, schedule
        if kind in MANAGED_KINDS:
            for owner in meta.get("ownerReferences", []):
                if owner["apiVersion"] == names.API_VERSION and owner["kind"] in _RECONCILED:
                    yield owner["kind"], namespace, owner["name"]
        if _frees(kind, body, deleted):
            # No Backup wakes another one: with hundreds at once, each would wake all the others. Those that wait for
            # another one's ReadWriteOncePod claim look again by themselves.
            of_backup = kind == "Backup" or meta.get("labels", {}).get(names.LABEL_KIND) == "backup"
            yield from self._waiting(namespace, ("Restore",) if of_backup else ("Restore", "Backup"))

    def _waiting(self, namespace: str, kinds: tuple[str, ...]) -> Iterator[Key]:
        """Runs that wait for something in their namespace; the oldest first, for slots may be few."""
        for kind in kinds:
            pending = [b for b in self._cache.list(kind, namespace) if _waits(kind, b)]
            for body in sorted(pending, key=_age):
                yield kind, namespace, body["metadata"]["name"]

    async def prime(self, cluster: Cluster, namespaces: list[str]) -> None:
        """Fill the cache before anything is decided: a decision on half of what there is could be a wrong one.

        Repeated while the API server is away.

        Raises:
            NotFound: A kind is not served.
        """
        while True:
            try:
                return await self._list(cluster, namespaces)
            except NotFound:
                raise
            except OperatorError as error:
                logger.warning("The caches could not be filled, which will be repeated: %s", error)
                await asyncio.sleep(_RELIST_AGAIN_SECONDS)

    async def _list(self, cluster: Cluster, namespaces: list[str]) -> None:
        for kind in (*OWN_KINDS, *MANAGED_KINDS):
            for namespace in namespaces or [""]:
                async for body in cluster.list_all(kind, namespace, _selector(kind)):
                    self.seen(kind, body)

    async def relist(self, cluster: Cluster, namespaces: list[str]) -> None:
        """Compare the cache with what the API server lists (metadata only), and mend what a watch has lost."""
        for kind in (*OWN_KINDS, *MANAGED_KINDS):
            before = {key: self._cache.get(*key) for key in self._cache.keys(kind)}
            listed: set[Key] = set()
            for namespace in namespaces or [""]:
                async for item in cluster.list_all(kind, namespace, _selector(kind), metadata_only=True):
                    meta = item["metadata"]
                    key = kind, meta["namespace"], meta["name"]
                    listed.add(key)
                    known = self._cache.get(*key)
                    if known is None or known["metadata"]["resourceVersion"] != meta["resourceVersion"]:
                        await self._mend(cluster, key)
            for key, body in before.items():
                if body and key not in listed and self._cache.get(*key) is body:
                    self._freshness.gone(kind, body)
                    self.seen(kind, body, deleted=True)
        self.freed()

    async def _mend(self, cluster: Cluster, key: Key) -> None:
        known = self._cache.get(*key)
        if body := await cluster.get(*key):
            self._cache.rewind(key[0], known, body)
            self.learned(key[0], body)

    async def take_over(self, cluster: Cluster, namespaces: list[str]) -> None:
        """See all that the last leader did, before the first write: the watch may be late. Repeated until it works."""
        while True:
            try:
                await self.relist(cluster, namespaces)
            except OperatorError as error:
                logger.warning("The relist of the new leader failed and will be repeated: %s", error)
                await asyncio.sleep(_RELIST_AGAIN_SECONDS)
            else:
                self.lead()
                return

    def lead(self) -> None:
        """Enqueue everything that there is, and from now on what happens."""
        self._leading = True
        for kind in _RECONCILED:
            known = [body for key in self._cache.keys(kind) if (body := self._cache.get(*key))]
            for body in sorted(known, key=_age):  # the oldest is the first to get a slot
                self._queue.add((kind, body["metadata"]["namespace"], body["metadata"]["name"]))

    async def relist_forever(self, cluster: Cluster, namespaces: list[str], every: float) -> None:
        """Relist at that interval in seconds; the first time early, for what was lost while the watches began."""
        await asyncio.sleep(min(every, _FIRST_RELIST_SECONDS))
        while True:
            try:
                await self.relist(cluster, namespaces)
            except OperatorError as error:
                logger.warning("The relist failed and will be repeated: %s", error)
            await asyncio.sleep(every)


def _waits(kind: str, body: Body) -> bool:
    """Whether a run has not begun, or is held until its artifact is deleted."""
    return body.get("status", {}).get("phase") == "Pending" or (
        kind == "Backup" and "deletionTimestamp" in body["metadata"] and concerns(body)
    )


def _age(body: Body) -> tuple[str, str]:
    """Sorts by creation, then by name."""
    meta = body["metadata"]
    return meta.get("creationTimestamp", ""), meta["name"]


def _count(before: Body | None, after: Body) -> None:
    was, job = read_job(before), read_job(after)
    if was and job and was.uid == job.uid and not was.finished and job.finished:
        kind = after["metadata"]["labels"].get(names.LABEL_KIND, "")
        metrics.JOBS_FINISHED.labels(kind, "failed" if job.failed else "complete").inc()


def _selector(kind: str) -> str:
    return MANAGED_SELECTOR if kind in MANAGED_KINDS else ""


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return kopf.login_with_service_account(**kwargs)
    return kopf.login_with_kubeconfig(**kwargs)


# Jobs that nobody waits for: what they have found is in the status of their owner.
_ALONE = ("database", "backupstore", "deletion")


def _frees(kind: str, body: Body, deleted: bool) -> bool:
    """Whether others may have waited for an object to become as it is now."""
    if kind == "Job" and body["metadata"].get("labels", {}).get(names.LABEL_KIND) in _ALONE:
        return False
    if deleted:
        return True
    match kind:
        case "Database" | "BackupStore":
            return True
        case "Backup":
            return body.get("status", {}).get("phase") in (None, "Completed", "Failed")
        case "Restore":  # one that waits for more than its turn holds nobody up
            status = body.get("status", {})
            reasons = [c["reason"] for c in status.get("conditions", [])]
            return status.get("phase") != "InProgress" and "WaitingForSlot" not in reasons
        case "Job":
            job = read_job(body)
            return job is not None and (job.finished or job.deleting)
    return False


def _group_version(prefix: str) -> tuple[str, str]:
    parts = prefix.strip("/").split("/")
    return ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2])


def settings() -> kopf.OperatorSettings:
    """kopf only watches: no Events, no scanning, small memory, streams that end before they go stale."""
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = True
    result.watching.server_timeout = 300
    result.watching.connect_timeout = 10
    result.watching.inactivity_timeout = 70
    result.watching.chunk_size = PAGE
    result.queueing.idle_timeout = 0.1
    result.networking.error_backoffs = _Backoffs()
    result.networking.request_timeout = 30
    result.persistence.diffbase_storage = _NoStorage()
    result.persistence.progress_storage = _NoStorage()
    for kind in MANAGED_KINDS:
        resource = RESOURCES[kind]
        group, version = _group_version(resource.prefix)
        result.watching.label_selectors[group, version, resource.plural] = MANAGED_SELECTOR
    return result
