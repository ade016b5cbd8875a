"""Wires the parts together and runs them until a signal, or until one of them fails."""

import asyncio
import logging
import signal
import sys
import time

import kopf
from pydantic import ValidationError

from . import logs, metrics, probes, watch
from .cache import Cache, Key
from .cluster import Cluster
from .decide.backup import Policy
from .errors import NotFound, OperatorError
from .queue import WorkQueue
from .reconcile import Reconciler
from .render import Renderer
from .settings import Settings

logger = logging.getLogger("postgres_operator")

# Writes that are under way at a signal may end; more than this is not waited for.
_SHUTDOWN_SECONDS = 1.0


async def work(queue: WorkQueue[Key], reconciler: Reconciler) -> None:
    """Work on one key after the other; no error of one key stops the others."""
    while True:
        key = await queue.get()
        metrics.QUEUE_DEPTH.set(len(queue))
        started = time.monotonic()
        try:
            after = await reconciler.reconcile(key)
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


async def run(settings: Settings) -> None:
    """Run the operator until a signal.

    Raises:
        OperatorError: It cannot start, or what it rests on broke; the process is to end and be started again.
    """
    health = probes.Health()
    probes.serve(health, settings.probe_port)
    cluster = await Cluster.connect()
    tasks = [asyncio.create_task(heartbeat(health), name="heartbeat")]
    try:
        tasks += await _start(settings, cluster)
        health.ready = True
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            # kopf returns at a signal; everything else runs for ever.
            if task.get_name() != "watch" or task.exception():
                raise OperatorError(f"Task {task.get_name()} ended") from task.exception()
        logger.info("Stopping; running Jobs go on")
    finally:
        health.ready = False
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_SHUTDOWN_SECONDS)
        await cluster.close()


async def _start(settings: Settings, cluster: Cluster) -> list[asyncio.Task[None]]:
    cache, queue = Cache(), WorkQueue[Key]()
    eyes = watch.Watch(cache, queue)
    policy = Policy(settings.default_claim_spec, settings.backup_ttl_seconds_after_finished)
    renderer = Renderer(settings.job_templates_dir, settings.job_uid, settings.job_gid)
    reconciler = Reconciler(cluster, cache, eyes.seen, renderer, policy)
    try:
        await eyes.prime(cluster, settings.namespaces)
    except NotFound as error:
        raise OperatorError(f"The CRDs are not installed; apply config/crd first. ({error})") from error
    logger.info("Watching %s", ", ".join(settings.namespaces) or "all namespaces")
    relisting = eyes.relist_forever(cluster, settings.namespaces, settings.resync_seconds)
    watching = kopf.operator(
        registry=eyes.registry(),
        settings=watch.settings(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    return [
        *(asyncio.create_task(work(queue, reconciler), name=f"worker-{n}") for n in range(settings.workers)),
        asyncio.create_task(relisting, name="relist"),
        # Last: kopf ends every task that is created on its loop after it has started.
        asyncio.create_task(watching, name="watch"),
    ]


def main() -> int:
    """The process: 0 after a signal, 1 on any failure."""
    # Process 1 ignores signals without a handler, and kopf installs its own only once it runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = Settings()
    except ValidationError as error:
        print(f"Settings are wrong, and nothing was started: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_format, settings.log_level)
    try:
        asyncio.run(run(settings))
    except OperatorError as error:
        logger.critical("%s", error, exc_info=error.__cause__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
