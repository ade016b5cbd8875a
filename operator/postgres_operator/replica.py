"""One process of the operator: wires the parts together, and runs them until a signal or until one of them fails."""

import asyncio
import logging
import math
import signal
import time
import uuid
from functools import partial
from typing import Any

import kopf
from prometheus_client import REGISTRY

from . import logs, metrics, names, probes, watch
from .backup_metrics import BackupCollector
from .cache import Cache, Key
from .cluster import Cluster
from .decide.lease import Terms
from .decide.run import Policy
from .decide.slots import Limits
from .errors import NotFound, NotLeading, OperatorError
from .freshness import Freshness
from .gate import WriteGate, end_after
from .lease import Candidate, Elector
from .queue import WorkQueue
from .reconcile import Reconciler
from .render import Renderer
from .schedule_metrics import ScheduleCollector
from .settings import Settings
from .verification_metrics import VerificationCollector

logger = logging.getLogger(__name__)

# Writes that are under way at a signal may end; more than this is not waited for.
_SHUTDOWN_SECONDS = 1.0
# Nothing is left to be done then.
_END_SECONDS = 5.0


async def work(leading: asyncio.Event, queue: WorkQueue[Key], reconciler: Reconciler) -> None:
    """Once this replica leads, work on one key after the other; no error of one key stops the others."""
    await leading.wait()
    while True:
        key = await queue.get()
        started = time.monotonic()
        try:
            after = await reconciler.reconcile(key)
        except NotLeading:
            return  # this process is about to end
        except OperatorError as error:
            backoff = queue.retry(key)
            logger.warning("%s; again in %.1f s", error, backoff, extra=logs.about(key))
            metrics.RECONCILES.labels(key[0], "error").inc()
        except Exception:
            backoff = queue.retry(key)
            logger.exception("Unexpected error; again in %.1f s", backoff, extra=logs.about(key))
            metrics.RECONCILES.labels(key[0], "bug").inc()
        else:
            queue.done(key, after)
            metrics.RECONCILES.labels(key[0], "ok").inc()
        metrics.RECONCILE_SECONDS.labels(key[0]).observe(time.monotonic() - started)


async def heartbeat(health: probes.Health) -> None:
    """Show the liveness probe that the event loop turns."""
    while True:
        health.beat()
        await asyncio.sleep(1)


class Replica:
    """One process of the operator: warm from its start on, and writing once it is elected."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._identity = f"{settings.pod_name}_{uuid.uuid4()}"
        self._freshness, self._gate = Freshness(), WriteGate()
        self._health = probes.Health(self._freshness)
        self._cache, self._queue = Cache(), WorkQueue[Key]()
        self._watch = watch.Watch(self._cache, self._queue, self._freshness)
        self._elected, self._leading, self._signal = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._connect = partial(
            Cluster.connect, agent=f"{names.OPERATOR} ({self._identity})", contact=self._freshness.contact
        )

    async def run(self) -> None:
        """Run until a signal.

        Raises:
            OperatorError: It cannot start, or what it rests on broke; the process is to end and be started again.
        """
        probes.serve(self._health, self._settings.probe_port)
        metrics.IS_LEADER.set_function(lambda: self._gate.is_open)
        metrics.QUEUE_DEPTH.set_function(lambda: len(self._queue))
        REGISTRY.register(BackupCollector(self._cache, lambda: self._gate.is_open))
        REGISTRY.register(ScheduleCollector(self._cache, lambda: self._gate.is_open))
        REGISTRY.register(VerificationCollector(self._cache, lambda: self._gate.is_open))
        cluster = await self._connect(write=self._gate.write)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(heartbeat(self._health), name="heartbeat")]
        elector = None
        try:
            tasks += await self._warm_up(cluster)
            self._health.ready = True
            elector = self._run_for_leader()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.get_name() != "signal":  # everything else runs for ever
                    raise OperatorError(f"Task {task.get_name()} ended") from task.exception()
            logger.info("Stopping; running Jobs go on")
        finally:
            self._health.ready = False
            ended = await self._gate.shut(_SHUTDOWN_SECONDS)
            if elector:
                # Nobody may lead before our last write has ended; if that is not known, the lease has to run out.
                await asyncio.to_thread(elector.stop, release=ended)
            # kopf's tasks may swallow their cancellation.
            end_after(_END_SECONDS)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_SHUTDOWN_SECONDS)
            await cluster.close()

    async def _warm_up(self, cluster: Cluster) -> list[asyncio.Task[Any]]:
        """Fill the caches, and begin to watch; the tasks that are to run on."""
        settings = self._settings
        policy = Policy(
            settings.default_claim_spec, settings.backup_ttl_seconds_after_finished, settings.uploader_image
        )
        renderer = Renderer(settings.job_templates_dir, settings.job_uid, settings.job_gid)
        limits = Limits(settings.max_running_jobs, settings.max_running_jobs_per_database)
        reconciler = Reconciler(
            cluster, self._cache, self._watch.learned, renderer, policy, limits=limits, wake=self._queue.add
        )
        self._watch.freed = reconciler.slots.wake
        metrics.RUNS_WAITING.set_function(lambda: reconciler.slots.waiting)
        try:
            await self._watch.prime(cluster, settings.namespaces)
        except NotFound as error:
            raise OperatorError(f"The CRDs are not installed; apply config/crd first. ({error})") from error
        logger.info("Watching %s", ", ".join(settings.namespaces) or "all namespaces")
        workers = [work(self._leading, self._queue, reconciler) for _ in range(settings.workers)]
        tasks: list[asyncio.Task[Any]] = [
            *(asyncio.create_task(worker, name=f"worker-{n}") for n, worker in enumerate(workers)),
            asyncio.create_task(self._lead(cluster), name="lead"),
            asyncio.create_task(self._signal.wait(), name="signal"),
        ]
        # Its tasks one by one: kopf itself waits for ever where one has failed and another swallows its cancellation.
        tasks += await kopf.spawn_tasks(
            registry=self._watch.registry(),
            settings=watch.settings(),
            standalone=True,
            clusterwide=not settings.namespaces,
            namespaces=settings.namespaces,
        )
        # kopf has set up its own handlers, which would end the watches first and everything else seconds later.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signal.set)
        return tasks

    async def _lead(self, cluster: Cluster) -> None:
        await self._elected.wait()
        await self._watch.take_over(cluster, self._settings.namespaces)
        self._leading.set()
        await self._watch.relist_forever(cluster, self._settings.namespaces, self._settings.resync_seconds)

    def _run_for_leader(self) -> Elector | None:
        settings = self._settings
        if not settings.enable_leader_election:
            logger.info("Leader election is off: %s leads, and must be the only one", self._identity)
            self._gate.hold(math.inf)
            self._elected.set()
            return None
        terms = Terms(
            settings.lease_duration_seconds, settings.lease_renew_deadline_seconds, settings.lease_retry_period_seconds
        )
        namespace = settings.lease_namespace or settings.pod_namespace
        loop = asyncio.get_running_loop()
        elector = Elector(
            Candidate(namespace, settings.lease_name, self._identity, terms),
            self._gate,
            elected=partial(loop.call_soon_threadsafe, self._elected.set),
            # Two tries have to fit into the renew deadline.
            connect=partial(self._connect, timeout=terms.renew_deadline / 2),
        )
        elector.start()
        return elector
