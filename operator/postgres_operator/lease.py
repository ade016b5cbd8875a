"""Leader election by a Lease. The client library's own is not used: it judges by the wall clock and outlives a hang.

Runs on a thread, an event loop and a connection of its own, so that no work of the operator holds up a renewal.
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from . import metrics
from .cluster import Cluster
from .decide import lease as rules
from .decide.actions import Body
from .decide.lease import Sighting, Terms
from .errors import AlreadyExists, ApiError, Conflict, NotFound
from .gate import WriteGate

logger = logging.getLogger(__name__)

# Seconds before the renew deadline from which on nothing is tried any more: there is time left to say why. Of a short
# deadline it is a tenth, so that the next try, which comes after five sixths of it at the latest, comes before.
_TO_SAY_WHY = 0.2
_RELEASE_SECONDS = 1.0


@dataclass(frozen=True)
class Candidate:
    """Who runs for which Lease. The identity is of one process: a restarted container is another candidate."""

    namespace: str
    name: str
    identity: str
    terms: Terms

    def __str__(self) -> str:
        return f"lease {self.namespace}/{self.name}"


class Elector:
    """Acquires the Lease, and holds it until it is stopped or lost. A lost Lease ends the process."""

    def __init__(
        self,
        candidate: Candidate,
        gate: WriteGate,
        elected: Callable[[], object],
        connect: Callable[[], Awaitable[Cluster]],
    ) -> None:
        """`elected` is called once, from the elector's thread; `connect` is, on that thread's own event loop."""
        self._me, self._terms, self._gate, self._elected = candidate, candidate.terms, gate, elected
        self._connect = connect
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._seen: Sighting | None = None
        self._renewed = 0.0  # when the last successful renewal began, by the monotonic clock
        self._lease: Body | None = None  # as last read or written
        self._may_hold = False  # from the first try to take it on: its answer may be lost
        self._to_release = False
        self._thread = threading.Thread(target=self._run, name="elector", daemon=True)

    def start(self) -> None:
        """Run for the lease from now on."""
        self._thread.start()

    def stop(self, *, release: bool) -> None:
        """End, and give the lease up at once if asked; otherwise it runs out. Returns after two seconds at most."""
        self._to_release = release
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(2 * _RELEASE_SECONDS)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._run_for_it())
        except Exception:
            logger.critical("The elector of %s failed; the process ends", self._me.identity, exc_info=True)
            os._exit(1)

    async def _run_for_it(self) -> None:
        cluster = await self._connect()
        try:
            campaign = asyncio.create_task(self._campaign(cluster))
            stop = asyncio.create_task(self._stopping.wait())
            await asyncio.wait([campaign, stop], return_when=asyncio.FIRST_COMPLETED)
            if campaign.done():
                campaign.result()
            campaign.cancel()
            await asyncio.wait([campaign])
            if self._to_release and self._may_hold:
                await self._release(cluster)
        finally:
            await cluster.close()

    async def _campaign(self, cluster: Cluster) -> None:
        logger.info("Trying to acquire the %s as %s", self._me, self._me.identity)
        await self._acquire(cluster)
        logger.info("Acquired the %s: %s is the leader now", self._me, self._me.identity)
        metrics.ELECTIONS.inc()
        metrics.ELECTED_AT.set(datetime.now(UTC).timestamp())
        self._elected()
        await asyncio.sleep(self._terms.retry_period)
        await self._keep(cluster)

    # To become the leader

    async def _acquire(self, cluster: Cluster) -> None:
        missing = False
        while True:
            try:
                lease = await cluster.get("Lease", self._me.namespace, self._me.name)
                if lease is None and self._seen is None and not missing:
                    # The first start of all; or it was deleted, and somebody goes on until he notices.
                    missing = True
                    await asyncio.sleep(self._terms.duration)
                    continue
                self._look(lease)
                if time.monotonic() >= self._free_from():
                    self._may_hold = True
                    return await self._write(cluster)
                await self._watch(cluster)
            except (Conflict, AlreadyExists):  # another one was faster
                continue
            except ApiError as error:
                logger.warning("%s cannot acquire the %s yet: %s", self._me.identity, self._me, error)
                await asyncio.sleep(self._terms.retry_period * random.uniform(1, 2.2))  # noqa: S311 - client-go's jitter

    def _look(self, lease: Body | None) -> None:
        was_there, self._lease = self._lease is not None, lease
        now, before = time.monotonic(), self._seen
        if lease is None:
            if was_there and before:  # deleted: who held it may have renewed it until now, and goes on until it notices
                self._seen = Sighting(before.spec, now)
            return
        spec = lease.get("spec") or {}
        self._seen = rules.look(before, spec, now)
        if rules.holder(spec) not in ("", self._me.identity, rules.holder(before.spec) if before else ""):
            logger.info("The %s is held by %s", self._me, rules.holder(spec))

    def _free_from(self) -> float:
        return rules.free_from(self._seen, self._me.identity, self._terms)

    async def _watch(self, cluster: Cluster) -> None:
        """Return when the lease may be free: it was released or deleted, or nobody has renewed it for its duration."""
        # Not all at once: the first one to try takes it.
        late = random.uniform(0, self._terms.retry_period / 4)  # noqa: S311 - no secret
        try:
            async with asyncio.timeout(None) as limit:
                limit.reschedule(self._free_from() + late)
                async with aclosing(cluster.watch("Lease", self._me.namespace, self._me.name)) as leases:
                    async for lease in leases:
                        self._look(lease)
                        if self._free_from() <= time.monotonic():
                            return
                        limit.reschedule(self._free_from() + late)
                await asyncio.sleep(late)  # the API server ended the watch: not at once again
        except TimeoutError:
            return

    async def _write(self, cluster: Cluster) -> None:
        """Write that we hold it. From the beginning of the request on, the gate is open for the renew deadline."""
        began = time.monotonic()
        spec = (self._lease.get("spec") or {}) if self._lease else None
        lease = self._with(rules.held(spec, self._me.identity, self._terms, datetime.now(UTC)))
        written = await (cluster.replace("Lease", lease) if self._lease else cluster.create("Lease", lease))
        self._renewed = began
        self._gate.hold(began + self._terms.renew_deadline)
        self._look(written)

    def _with(self, spec: Body) -> Body:
        metadata = self._lease["metadata"] if self._lease else {"name": self._me.name, "namespace": self._me.namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}

    # To stay it

    async def _keep(self, cluster: Cluster) -> None:
        why = ""
        while True:
            began, deadline = time.monotonic(), self._deadline
            if began >= deadline:
                why = why or "this process stood still"
                self._lost(f"not renewed for {self._terms.renew_deadline:g} s ({why})")
            try:
                async with asyncio.timeout_at(deadline):
                    await self._renew(cluster)
                why = ""
            except (ApiError, TimeoutError) as error:
                why = f"{error}" or "the API server does not answer"
                logger.warning("%s could not renew the %s: %s", self._me.identity, self._me, why)
            await asyncio.sleep(min(began + self._terms.retry_period, self._deadline) - time.monotonic())

    @property
    def _deadline(self) -> float:
        deadline = self._terms.renew_deadline
        return self._renewed + deadline - min(_TO_SAY_WHY, deadline / 10)

    async def _renew(self, cluster: Cluster) -> None:
        try:
            await self._write(cluster)
        except (Conflict, NotFound, AlreadyExists):  # somebody else wrote it: who, and what?
            self._look(await cluster.get("Lease", self._me.namespace, self._me.name))
            if self._lease and rules.holder(self._lease["spec"]) != self._me.identity:
                self._lost(f"{rules.holder(self._lease['spec']) or 'nobody'} holds the {self._me}")
            await self._write(cluster)

    def _lost(self, why: str) -> None:
        logger.critical("Leadership lost: %s; %s ends at once", why, self._me.identity)
        os._exit(1)

    async def _release(self, cluster: Cluster) -> None:
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                self._lease = await cluster.get("Lease", self._me.namespace, self._me.name)
                if self._lease and rules.holder(self._lease["spec"]) == self._me.identity:
                    await cluster.replace("Lease", self._with(rules.released(self._lease["spec"], datetime.now(UTC))))
                    logger.info("Released the %s: %s leads no more", self._me, self._me.identity)
        except (ApiError, TimeoutError) as error:
            logger.warning("%s could not release the %s, which will run out: %s", self._me.identity, self._me, error)
