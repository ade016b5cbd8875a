"""Replicas of the operator as processes, each behind a proxy of its own, and the Lease that they run for."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
from lab import LEASE, World, variables
from proxy import Fault, Proxy, Request, of_lease

from e2e.cluster.local import free_port
from postgres_operator.cluster import RESOURCES
from postgres_operator.watch import MANAGED_KINDS, OWN_KINDS

# Seconds; short, so that what has to run out does so soon.
DURATION, RENEW_DEADLINE, RETRY_PERIOD = 3, 2, 0.25
# What a busy machine may be late by.
LATE = 1.5
PROGRAM = ("-m", "postgres_operator")


async def soon(what: str, check: Callable[[], Any], within: float = 60) -> None:
    """Poll until it is so."""
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, f"waited {within} s for {what}"
        await asyncio.sleep(0.01)


def holder(request: Request) -> str | None:
    """The holder that a write of a Lease names; empty where it releases it."""
    return json.loads(request.body)["spec"]["holderIdentity"] if request.writes and of_lease(request) else None


class Replica:
    """One process. Its proxy is there before it starts."""

    def __init__(self, name: str, namespace: str, proxy: Proxy, kubeconfig: Path) -> None:
        self.name, self.namespace, self.proxy, self._kubeconfig = name, namespace, proxy, kubeconfig
        self.lines: list[tuple[float, str]] = []  # when it came by the monotonic clock, and what it says
        self._port = free_port()
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *flags: str, program: tuple[str, ...] = PROGRAM, **environment: str) -> "Replica":
        settings = {
            "WATCH_NAMESPACES": self.namespace,
            "LEASE_NAMESPACE": self.namespace,
            "POD_NAME": self.name,
            "PROBE_PORT": str(self._port),
            "LEASE_DURATION_SECONDS": str(DURATION),
            "LEASE_RENEW_DEADLINE_SECONDS": str(RENEW_DEADLINE),
            "LEASE_RETRY_PERIOD_SECONDS": str(RETRY_PERIOD),
        }
        everything = variables(self._kubeconfig, **{**settings, **environment})
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *program, *flags, env=everything, stderr=asyncio.subprocess.PIPE
        )
        self._reading = asyncio.create_task(self._read(self._process.stderr))
        return self

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            self.lines.append((time.monotonic(), line.decode().rstrip()))

    def send(self, number: signal.Signals) -> float:
        """Send a signal; returns when."""
        self._process.send_signal(number)
        return time.monotonic()

    async def ends(self, within: float) -> tuple[int, float]:
        """Exit code, and when it ended."""
        async with asyncio.timeout(within):
            code = await self._process.wait()
        at = time.monotonic()
        await self._reading
        return code, at

    async def says(self, text: str, within: float = 60) -> float:
        """When it logged a line with this text in it."""
        try:
            await soon(f"{self.name} to say {text!r}", lambda: text in self.log, within)
        except AssertionError as error:
            raise AssertionError(f"{error}; it said\n{self.log}") from None
        return next(at for at, line in self.lines if text in line)

    @property
    def log(self) -> str:
        return "\n".join(line for _, line in self.lines)

    async def leads(self, within: float = 60) -> float:
        """When it said that it is the leader."""
        return await self.says("is the leader now", within)

    async def probe(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self._port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    @property
    def held(self) -> list[Request]:
        """Its requests that made it the holder of the Lease, or kept it so."""
        return [r for r in self.proxy.sent(of_lease) if r.done and holder(r)]

    async def watches_everything(self) -> None:
        kinds = {RESOURCES[kind].plural for kind in (*OWN_KINDS, *MANAGED_KINDS)}

        def all_watched() -> bool:
            watched = {
                r.path.partition("?")[0].rsplit("/")[-1] for r in self.proxy.sent(lambda r: r.watches and r.done)
            }
            return watched >= kinds

        await soon(f"{self.name} to watch", all_watched)

    async def renews(self, times: int) -> None:
        """Wait until it has renewed so many times more."""
        wanted = len(self.held) + times
        await soon(f"{self.name} to renew", lambda: len(self.held) >= wanted)

    async def kill(self) -> None:
        if self._process:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()
            await self._reading


class Replicas:
    """Those of one test. Nothing of them is left behind."""

    def __init__(self, stack: AsyncExitStack, kubeconfig: Path, directory: Path, world: World) -> None:
        self._stack, self._kubeconfig, self._directory, self.world = stack, kubeconfig, directory, world

    async def add(self, name: str, user: str = "") -> Replica:
        """One that is not started yet; `user` is who it is for the API server."""
        proxy = await self._stack.enter_async_context(Proxy(self._kubeconfig, user).serve())
        replica = Replica(name, self.world.namespace, proxy, proxy.kubeconfig(self._directory / name))
        self._stack.push_async_callback(replica.kill)
        return replica

    async def leader(self, name: str = "leader") -> Replica:
        await self.world.vacant_lease()
        replica = await (await self.add(name)).start()
        await replica.leads()
        return replica

    async def line_up(self, **standbys: dict[str, str]) -> list[Replica]:
        """A leader, and standbys of these names and environments; all of them watch."""
        await self.world.vacant_lease()
        leader, *others = replicas = [await self.add(name) for name in ("leader", *standbys)]
        late = [replica.proxy.switch(Fault.REFUSE, of_lease) for replica in others]
        settings = [{}, *standbys.values()]
        await asyncio.gather(*(one.start(**its) for one, its in zip(replicas, settings, strict=True)))
        await leader.leads()
        for switch in late:
            switch.off()
        for standby in others:
            await standby.says("is held by leader_")
        for replica in replicas:
            await replica.watches_everything()
        return replicas

    async def pair(self) -> tuple[Replica, Replica]:
        """A leader and a standby."""
        leader, standby = await self.line_up(standby={})
        return leader, standby

    async def lease(self) -> dict[str, Any]:
        found = await self.world.get("Lease", LEASE)
        assert found
        return found["spec"]
