"""Backups whose artifacts are to go with them: what there is to see of one, and the finalizer that holds it."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

from . import names
from .api.backup import Backup
from .api.database import Database
from .api.store import BackupStore
from .cache import Cache
from .cluster import Cluster
from .decide import deletion as deletions
from .decide.actions import Action, Body, Claim, Fact, SetFinalizer
from .decide.jobs import Job, read_job
from .decide.run import Policy
from .errors import Forbidden, NotFound
from .exclusion import Starting, holding
from .facts import Claims, job_refusals
from .logs import about

logger = logging.getLogger(__name__)


class DeletionFinder:
    """Facts about a Backup that is held, or is to be."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        claims: Claims,
        backup: Backup,
        policy: Policy,
        now: Callable[[], datetime],
        starting: Starting,
    ) -> None:
        self._cluster, self._cache, self._claims, self._policy = cluster, cache, claims, policy
        self._backup, self._starting = backup, starting
        namespace, ref = backup.metadata.namespace, backup.spec.store_ref
        database = cache.get("Database", namespace, backup.spec.database_ref.name)
        store = cache.get("BackupStore", namespace, ref.name if ref else names.DEFAULT_STORE)
        self._facts = deletions.DeletionFacts(
            now(),
            database=Database.model_validate(database) if database else None,
            store=BackupStore.model_validate(store) if store else None,
        )
        if backup.deleted:
            self._sort([body for body in cache.list("Job", namespace) if self._is_own(body)])

    def _is_own(self, job: Body) -> bool:
        # Also what has lost its owner (--cascade=orphan): it may still write.
        return bool(job["metadata"].get("labels", {}).get(names.LABEL_UID) == self._backup.metadata.uid)

    def _sort(self, bodies: list[Body]) -> None:
        jobs: list[Job] = [job for body in bodies if (job := read_job(body))]
        mine = deletions.job_name(self._backup)
        self._facts = replace(
            self._facts,
            job=next((job for job in jobs if job.name == mine), None),
            others=[job for job in jobs if job.name != mine],
        )

    def decide(self) -> Action:
        """The decision on what is known so far."""
        facts = self._facts
        if self._backup.deleted:
            # Now, not when the facts were gathered: others may have started since.
            facts = replace(facts, users=list(_users(self._cache, self._backup, facts.claim, self._starting)))
        return deletions.decide(self._backup, facts, self._policy)

    async def find(self, fact: Fact) -> None:
        """Learn one thing more."""
        meta, facts = self._backup.metadata, self._facts
        match fact:
            case Fact.OWN_JOBS:
                selector = f"{names.LABEL_UID}={meta.uid}"
                self._sort(await self._cluster.list("Job", meta.namespace, labelSelector=selector))
                self._facts = replace(self._facts, jobs_are_live=True)
            case Fact.OWN_PODS:
                selector = f"{names.LABEL_UID}={meta.uid}"
                pods = await self._cluster.list("Pod", meta.namespace, labelSelector=selector)
                self._facts = replace(facts, pods=pods)
            case Fact.REFUSALS if facts.job:
                self._facts = replace(facts, refusals=await job_refusals(self._cluster, meta.namespace, facts.job))
            case Fact.CLAIM:
                name = deletions.claim_name(self._backup, facts)
                claim = await self._claims.get(meta.namespace, name, meta.uid, facts.now)
                self._facts = replace(facts, claim=claim, claim_known=True)
            case Fact.NAMESPACE:
                self._facts = replace(facts, namespace_ends=await self._namespace_ends())
            case _:
                raise AssertionError(f"no decision about a deletion asks for {fact}")

    async def _namespace_ends(self) -> bool:
        """Namespaces cannot be read; but one that is being deleted takes nothing new, and says so."""
        meta = self._backup.metadata
        body: Body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta.name[:200]}.", "namespace": meta.namespace},
            "involvedObject": {"kind": "Backup", "namespace": meta.namespace, "name": meta.name},
        }
        try:
            await self._cluster.create("Event", body, dry_run=True)
        except Forbidden as error:
            return deletions.ends(str(error))
        except NotFound:
            return True
        return False


def _users(cache: Cache, backup: Backup, claim: Claim | None, starting: Starting) -> Iterator[str]:
    """Who reads the artifact, and, where only one pod at a time may mount the claim, who has that."""
    namespace, path, named = backup.metadata.namespace, deletions.path(backup), set()
    for body in cache.list("Restore", namespace):
        name, spec = body["metadata"]["name"], body["spec"]
        active = body.get("status", {}).get("phase") == "InProgress" or ("Restore", namespace, name) in starting
        reads = spec.get("backupRef", {}).get("name") == backup.metadata.name
        if active and (reads or spec.get("location", "").endswith(f"/{path}")):
            named.add(body["metadata"]["uid"])
            yield f'Restore "{name}"'
    for (_, where, name), job in cache.unfinished.items():
        labels, notes = job["metadata"].get("labels", {}), job["metadata"].get("annotations", {})
        if where != namespace or labels.get(names.LABEL_UID) in (backup.metadata.uid, *named):
            continue
        if notes.get(names.ANNOTATION_PATH) == path:
            yield f'Job "{name}"'
        elif holder := holding(claim, job):
            yield holder


async def set_finalizer(
    cluster: Cluster, cache: Cache, seen: Callable[[str, Body], None], backup: Backup, action: SetFinalizer
) -> None:
    """Put our finalizer onto the Backup, or take it away.

    Raises:
        Conflict: The Backup changed since.
        Forbidden, Invalid: The API server does not want it.
    """
    kind, namespace, name = backup.key
    finalizers = [f for f in backup.metadata.finalizers if f != names.FINALIZER]
    if action.held:
        finalizers.append(names.FINALIZER)
    change = {"metadata": {"finalizers": finalizers}}
    level = logging.WARNING if action.orphaned else logging.INFO
    logger.log(level, "%s: %s", "Held" if action.held else "Let go", action.why, extra=about(backup.key))
    try:
        body = await cluster.patch(kind, namespace, name, backup.metadata.resource_version, change)
    except NotFound:
        body = None
    known = cache.get(kind, namespace, name)
    if body and not (backup.deleted and not finalizers):
        seen(kind, body)
    elif known and known["metadata"]["uid"] == backup.metadata.uid:
        cache.remove(kind, known)  # no watch will show the version without a finalizer
