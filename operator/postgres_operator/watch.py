"""What happens in the cluster: keep the cache, enqueue the key, nothing else.

kopf watches; it never writes. Its handlers are `on.event` only: no finalizers, annotations or progress of its own.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from typing import Any

import kopf

from . import names
from .cache import Cache, Key
from .cluster import RESOURCES, Cluster
from .decide.actions import Body
from .decide.jobs import read_job
from .errors import OperatorError
from .queue import WorkQueue

logger = logging.getLogger(__name__)

OWN_KINDS = ("Database", "Backup", "Restore", "BackupStore")
# Of these only what we made is watched.
MANAGED_KINDS = ("Job", "StatefulSet", "Service")
MANAGED_SELECTOR = f"{names.MANAGED_BY}={names.OPERATOR}"
_FIRST_RELIST_SECONDS = 20
_RECONCILED = ("Database", "Backup", "Restore")


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


class Watch:
    """Feeds the cache and the queue from kopf's watches, and from a relist that finds what they lost."""

    def __init__(self, cache: Cache, queue: WorkQueue[Key]) -> None:
        self._cache = cache
        self._queue = queue

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
            self.seen(kind, dict(body), deleted=type == "DELETED")

        kopf.on.event(group, version, resource.plural, registry=registry, id=f"seen-{kind.lower()}")(seen)

    def seen(self, kind: str, body: Body, *, deleted: bool = False) -> None:
        """An object is there, has changed, or is gone."""
        if deleted:
            self._cache.remove(kind, body)
        elif not self._cache.put(kind, body):
            return
        for key in self.affected(kind, body, deleted=deleted):
            self._queue.add(key)

    def affected(self, kind: str, body: Body, *, deleted: bool = False) -> Iterator[Key]:
        """Keys whose decision this object may change."""
        meta = body["metadata"]
        namespace = meta["namespace"]
        if kind in _RECONCILED:
            yield kind, namespace, meta["name"]
        if kind in MANAGED_KINDS:
            for owner in meta.get("ownerReferences", []):
                if owner["apiVersion"] == names.API_VERSION and owner["kind"] in _RECONCILED:
                    yield owner["kind"], namespace, owner["name"]
        if deleted or _frees(kind, body):
            # No Backup ever waits for another one: with hundreds at once, each would wake all the others.
            of_backup = kind == "Backup" or meta.get("labels", {}).get(names.LABEL_KIND) == "backup"
            yield from self._waiting(namespace, ("Restore",) if of_backup else ("Backup", "Restore"))

    def _waiting(self, namespace: str, kinds: tuple[str, ...]) -> Iterator[Key]:
        """Runs that wait for something in their namespace."""
        for kind in kinds:
            for body in self._cache.list(kind, namespace):
                if body.get("status", {}).get("phase") == "Pending":
                    yield kind, namespace, body["metadata"]["name"]

    async def prime(self, cluster: Cluster, namespaces: list[str]) -> None:
        """Fill the cache before anything is decided: a decision on half of what there is could be a wrong one."""
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
                    self.seen(kind, body, deleted=True)

    async def _mend(self, cluster: Cluster, key: Key) -> None:
        if body := await cluster.get(*key):
            self.seen(key[0], body)

    async def relist_forever(self, cluster: Cluster, namespaces: list[str], every: float) -> None:
        """Relist at that interval in seconds; the first time early, for what was lost while the watches began."""
        await asyncio.sleep(min(every, _FIRST_RELIST_SECONDS))
        while True:
            try:
                await self.relist(cluster, namespaces)
            except OperatorError as error:
                logger.warning("The relist failed and will be repeated: %s", error)
            await asyncio.sleep(every)


def _selector(kind: str) -> str:
    return MANAGED_SELECTOR if kind in MANAGED_KINDS else ""


def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return kopf.login_with_service_account(**kwargs)
    return kopf.login_with_kubeconfig(**kwargs)


def _frees(kind: str, body: Body) -> bool:
    """Whether others may have waited for an object to become as it is now."""
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
    result.watching.chunk_size = 500
    result.queueing.idle_timeout = 0.1
    result.networking.error_backoffs = [0.5, 1, 2, 4, 8, 15]
    result.persistence.diffbase_storage = _NoStorage()
    result.persistence.progress_storage = _NoStorage()
    for kind in MANAGED_KINDS:
        resource = RESOURCES[kind]
        group, version = _group_version(resource.prefix)
        result.watching.label_selectors[group, version, resource.plural] = MANAGED_SELECTOR
    return result
