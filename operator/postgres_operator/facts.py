"""Gathers what a decision looks at: from the cache at first, from the API server where a decision asks for more."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from . import names
from .api.backup import Backup
from .api.database import Database
from .api.restore import Restore, RestoreSpec
from .api.store import BackupStore
from .cache import Cache
from .cluster import Cluster
from .decide import backup as backups
from .decide import database as databases
from .decide import external as externals
from .decide import place as places
from .decide import restore as restores
from .decide import store as stores
from .decide import verification as verifications
from .decide.actions import Action, Body, Claim, Fact
from .decide.jobs import Job, read_job
from .decide.run import Facts, Policy
from .decide.run_status import Run
from .exclusion import NOBODY, Starting, blockers, claim_blockers
from .slots import Slots

T = TypeVar("T", Database, Backup, BackupStore)
Clock = Callable[[], datetime]

_CLAIM_KNOWN_FOR = timedelta(minutes=1)


class Finder(Protocol):
    """What `reconcile` needs: a decision on what is known, and more to be known."""

    def decide(self) -> Action:
        """The decision on what is known so far."""

    async def find(self, fact: Fact) -> None:
        """Learn one thing more."""


class Claims:
    """Volume claims that were seen lately: no watch covers them, and run after run asks for the same one.

    What was seen is good for one owner (the UID of a Database or Backup): in a namespace that was made anew, its claims
    are gone.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: dict[tuple[str, str, str], tuple[datetime, Claim]] = {}

    async def get(self, namespace: str, name: str, owner: str, now: datetime) -> Claim | None:
        """The claim, as it was at most a minute ago; None where there is none now."""
        key = namespace, name, owner
        at, claim = self._seen.get(key, (None, None))
        if at and claim and now - at < _CLAIM_KNOWN_FOR:
            return claim
        body = await self._cluster.get("PersistentVolumeClaim", namespace, name)
        if body is None or "deletionTimestamp" in body["metadata"]:
            self._seen.pop(key, None)
            return None
        claim = Claim(name, tuple(body["spec"].get("accessModes", [])))
        self._seen = {k: seen for k, seen in self._seen.items() if now - seen[0] < _CLAIM_KNOWN_FOR}
        self._seen[key] = (now, claim)
        return claim


class RunFinder:
    """Facts about a Backup or Restore."""

    _job_kind = ""  # of the Job's name, where that is not the run's own

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        claims: Claims,
        run: Run,
        policy: Policy,
        now: Clock,
        starting: Starting = NOBODY,
        slots: Slots | None = None,
    ) -> None:
        self._cluster, self._cache, self._claims, self._policy = cluster, cache, claims, policy
        self._run, self._starting, self._slots = run, starting, slots
        self._job_name = self._name_job(self._job_kind or type(run).__name__)
        database = self._model(Database, run.spec.database_ref.name)
        job = self._job(self._job_name)
        self._facts = Facts(now(), database, job)
        self._reader = backups.Reader(self._job(self._name_job("Reader")))

    def decide(self) -> Action:
        """The decision on what is known so far."""
        facts = self._facts
        if self.to_be_started:
            # Now, not when the facts were gathered: others may have started since.
            facts = replace(
                facts,
                blockers=tuple(dict.fromkeys(blockers(self._cache, self._run, facts.claim, self._starting))),
                full=self._slots.full(self._run) if self._slots else None,
            )
        if isinstance(self._run, Backup):
            return backups.decide(self._run, self._store(), facts, self._reader, self._policy)
        return restores.decide(self._run, self._backup(), self._store(), facts, self._policy)

    async def find(self, fact: Fact) -> None:
        """Learn one thing more."""
        namespace = self._run.metadata.namespace
        match fact:
            case Fact.LIVE_JOB:
                body = await self._cluster.get("Job", namespace, self._job_name)
                if body:
                    self._cache.put("Job", body)
                job = self._own(read_job(body))
                self._facts = replace(self._facts, job=job, job_is_live=True)
            case Fact.PODS:
                self._facts = replace(self._facts, pods=await job_pods(self._cluster, namespace, self._job_name))
            case Fact.READER_PODS:
                pods = await job_pods(self._cluster, namespace, self._name_job("Reader"))
                self._reader = replace(self._reader, pods=pods)
            case Fact.READER_REFUSALS if self._reader.job:
                refusals = await job_refusals(self._cluster, namespace, self._reader.job)
                self._reader = replace(self._reader, refusals=refusals)
            case Fact.REFUSALS if self._facts.job:
                refusals = await job_refusals(self._cluster, namespace, self._facts.job)
                self._facts = replace(self._facts, refusals=refusals)
            case Fact.CLAIM:
                database = self._facts.database.metadata.uid if self._facts.database else ""
                claim = await self._claims.get(namespace, self._claim_name(), database, self._facts.now)
                self._facts = replace(self._facts, claim=claim, claim_known=True)
            case _:
                raise AssertionError(f"no decision about a run asks for {fact}")

    @property
    def to_be_started(self) -> bool:
        """Whether the run has no Job yet."""
        return self._facts.job is None and self._run.status.phase != "InProgress"

    def _name_job(self, kind: str) -> str:
        return names.job_name(kind, self._run.metadata.name, self._run.metadata.uid)

    def _model(self, model: type[T], name: str) -> T | None:
        body = self._cache.get(model.__name__, self._run.metadata.namespace, name)
        return model.model_validate(body) if body else None

    def _job(self, name: str) -> Job | None:
        return self._own(read_job(self._cache.get("Job", self._run.metadata.namespace, name)))

    def _own(self, job: Job | None) -> Job | None:
        return job if job and job.owner_uid == self._run.metadata.uid else None

    def _store(self) -> BackupStore | None:
        # A Restore of a Backup object reads where that one wrote.
        writer = self._backup() or self._run
        ref = writer.spec.store_ref
        return self._model(BackupStore, ref.name if ref else names.DEFAULT_STORE)

    def _backup(self) -> Backup | None:
        """The Backup that is to be restored; beside a storeRef, its name alone counts."""
        spec = self._run.spec
        ref = spec.backup_ref if isinstance(spec, RestoreSpec) and not spec.store_ref else None
        return self._model(Backup, ref.name) if ref else None

    def _claim_name(self) -> str:
        if isinstance(self._run, Restore):
            source = restores.source(self._run, self._backup(), self._store(), self._facts)
            assert isinstance(source, restores.Source)  # decide() has come past it
            return source.place.claim
        return names.volume_of(places.url(self._store()))


class VerificationFinder(RunFinder):
    """The same facts as about a Backup, but about another Job of it."""

    _job_kind = "Verification"

    def decide(self) -> Action:
        """The decision on what is known so far."""
        assert isinstance(self._run, Backup)
        # Now, not when the facts were gathered: others may have started since.
        blockers = tuple(claim_blockers(self._cache, self._run, self._facts.claim, self._starting))
        facts = replace(self._facts, blockers=blockers)
        return verifications.decide(self._run, self._store(), facts, self._policy)

    def _claim_name(self) -> str:
        assert isinstance(self._run, Backup)
        # Where the artifact is, whatever the store is now.
        return names.volume_of(self._run.status.backup_location or "")


class DatabaseFinder:
    """Facts about a Database."""

    def __init__(self, cluster: Cluster, cache: Cache, database: Database, now: Clock) -> None:
        self._cluster, self._database = cluster, database
        namespace, name = database.metadata.namespace, database.metadata.name
        if database.spec.external:
            jobs = (read_job(body) for body in cache.list("Job", namespace))
            checks = tuple(job for job in jobs if job and job.owner_uid == database.metadata.uid)
            last = externals.last_check(database, checks)
            self._job_name = last.name if last else ""
            self._facts = databases.DatabaseFacts(now(), job=last, checks=checks)
            return
        server = cache.get("StatefulSet", namespace, name)
        self._job_name = databases.verify_job_name(database, server) if server else ""
        job = read_job(cache.get("Job", namespace, self._job_name))
        self._facts = databases.DatabaseFacts(
            now(),
            server=server,
            services=frozenset(s["metadata"]["name"] for s in cache.list("Service", namespace)),
            job=job if job and job.owner_uid == database.metadata.uid else None,
        )

    def decide(self) -> Action:
        """The decision on what is known so far."""
        if self._database.spec.external:
            return externals.decide(self._database, self._facts)
        return databases.decide(self._database, self._facts)

    async def find(self, fact: Fact) -> None:
        """Learn one thing more."""
        namespace, name = self._database.metadata.namespace, self._database.metadata.name
        match fact:
            case Fact.CLAIM:
                claim = await self._cluster.get("PersistentVolumeClaim", namespace, names.data_claim(name))
                self._facts = replace(self._facts, claim=claim, claim_known=True)
            case Fact.PODS:
                self._facts = replace(self._facts, pods=await job_pods(self._cluster, namespace, self._job_name))
            case Fact.SERVER_PODS:
                pods = await self._cluster.list("Pod", namespace, labelSelector=f"app=database,database={name}")
                self._facts = replace(self._facts, server_pods=pods)
            case Fact.REFUSALS if self._facts.job:
                refusals = await job_refusals(self._cluster, namespace, self._facts.job)
                self._facts = replace(self._facts, refusals=refusals)
            case _:
                raise AssertionError(f"no decision about a Database asks for {fact}")


class StoreFinder:
    """Facts about a BackupStore."""

    def __init__(self, cluster: Cluster, cache: Cache, store: BackupStore, policy: Policy, now: Clock) -> None:
        self._cluster, self._store, self._policy = cluster, store, policy
        own = store.metadata.uid
        bodies = (
            b
            for b in cache.list("Job", store.metadata.namespace)
            if b["metadata"].get("labels", {}).get(names.LABEL_UID) == own
        )
        listings = tuple(job for job in map(read_job, bodies) if job and job.owner_uid == own)
        self._last = stores.last_listing(store, listings)
        self._facts = stores.StoreFacts(now(), listings)

    def decide(self) -> Action:
        """The decision on what is known so far."""
        return stores.decide(self._store, self._facts, self._policy)

    async def find(self, fact: Fact) -> None:
        """Learn one thing more."""
        namespace = self._store.metadata.namespace
        match fact:
            case Fact.CLAIM:
                name = names.volume_of(places.url(self._store))
                body = await self._cluster.get("PersistentVolumeClaim", namespace, name)
                claim = Claim(name, tuple(body["spec"].get("accessModes", []))) if body else None
                self._facts = replace(self._facts, claim=claim, claim_known=True)
            case Fact.PODS if self._last:
                self._facts = replace(self._facts, pods=await job_pods(self._cluster, namespace, self._last.name))
            case Fact.REFUSALS if self._last:
                refusals = await job_refusals(self._cluster, namespace, self._last)
                self._facts = replace(self._facts, refusals=refusals)
            case _:
                raise AssertionError(f"no decision about a BackupStore asks for {fact}")


async def job_pods(cluster: Cluster, namespace: str, job: str) -> list[Body]:
    """The pods of a Job as they are now."""
    return await cluster.list("Pod", namespace, labelSelector=f"batch.kubernetes.io/job-name={job}")


async def job_refusals(cluster: Cluster, namespace: str, job: Job) -> list[Body]:
    """The Events by which the Job controller says that the API server took no pod."""
    selector = f"involvedObject.uid={job.uid},reason=FailedCreate"
    return await cluster.list("Event", namespace, fieldSelector=selector)
