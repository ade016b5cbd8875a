"""A reverse proxy before the API server: holds, loses and refuses what a test tells it to.

Runs on the test's event loop, which must not be blocked meanwhile.
"""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

# Of one connection, not of the request; the lengths are those of what is passed on.
_HOP = {"Host", "Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length"}


@dataclass(eq=False)
class Request:
    """One request of the operator, and what became of it."""

    method: str
    path: str  # with the query
    agent: str
    body: bytes
    at: float = field(default_factory=time.monotonic)
    status: int = 0  # of the API server's answer; 0 while there is none

    @property
    def writes(self) -> bool:
        return self.method != "GET"

    @property
    def watches(self) -> bool:
        return "watch=" in self.path

    @property
    def done(self) -> bool:
        return 200 <= self.status < 300


Match = Callable[[Request], bool]


def anything(_: Request) -> bool:
    return True


def of_lease(request: Request) -> bool:
    return "/leases" in request.path


def to(method: str, plural: str) -> Match:
    """Requests of this method about objects of this plural, or about a subresource as in `backups/status`."""
    plural, _, subresource = plural.partition("/")

    def match(request: Request) -> bool:
        parts = request.path.partition("?")[0].split("/")
        return request.method == method and plural in parts and (not subresource or parts[-1] == subresource)

    return match


class Fault(Enum):
    HOLD = auto()  # do not forward it before the switch is off
    SWALLOW = auto()  # never answer, and show nothing more of a watch: it hangs
    DROP = auto()  # forward it, and close the connection instead of answering
    LOSE = auto()  # forward it, and never answer
    REFUSE = auto()  # close the connection
    UNAVAILABLE = auto()  # answer 503, and end a watch at its next event, as a proxy does whose API server is away
    FREEZE = auto()  # show the head of a watch, but no event before the switch is off


class Switch:
    """A fault, for the requests that match; for so many of them, where it is limited."""

    def __init__(self, fault: Fault, match: Match, times: int | None) -> None:
        self._fault, self._match, self._times = fault, match, times
        self._off = asyncio.Event()
        self.caught: list[Request] = []

    def off(self) -> None:
        """Let everything pass from now on, and forward what is held."""
        self._off.set()

    async def passed(self) -> None:
        await self._off.wait()

    async def catches(self, within: float = 20) -> Request:
        """The first request that it befalls."""
        async with asyncio.timeout(within):
            while not self.caught:
                await asyncio.sleep(0.01)
        return self.caught[0]

    def befalls(self, request: Request) -> bool:
        return not self._off.is_set() and self._match(request) and self._times != len(self.caught)

    def take(self, request: Request) -> Fault:
        self.caught.append(request)
        return self._fault

    def ends(self, request: Request) -> bool:
        """Whether a watch ends here."""
        return self._fault is Fault.UNAVAILABLE and not self._off.is_set() and self._match(request)

    def stops(self, request: Request) -> bool:
        """Whether the events of a watch stop here."""
        return self._fault in (Fault.SWALLOW, Fault.FREEZE) and not self._off.is_set() and self._match(request)


class Proxy:
    """Between one client and the API server. `requests` are all that came, in their order."""

    def __init__(self, kubeconfig: Path, user: str = "") -> None:
        """`user` acts instead of the kubeconfig's."""
        self._config = json.loads(kubeconfig.read_text())
        self._user = user
        self._switches: list[Switch] = []
        self.requests: list[Request] = []
        self.url = ""

    def switch(self, fault: Fault, match: Match = anything, *, times: int | None = None) -> Switch:
        """Switch a fault on. Of several that befall a request, the first counts."""
        self._switches.append(Switch(fault, match, times))
        return self._switches[-1]

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads through this proxy."""
        clusters = [{"name": c["name"], "cluster": {"server": self.url}} for c in self._config["clusters"]]
        path.write_text(json.dumps({**self._config, "clusters": clusters}))
        return path

    @property
    def caught(self) -> list[Request]:
        """The requests that a fault has befallen."""
        return [request for switch in self._switches for request in switch.caught]

    def sent(self, match: Match, since: float = 0) -> list[Request]:
        """The requests that match and came after that time of the monotonic clock."""
        return [r for r in self.requests if r.at > since and match(r)]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Proxy"]:
        cluster = self._config["clusters"][0]["cluster"]
        self._server = cluster["server"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority), limit=0)
        unlimited = aiohttp.ClientTimeout()
        async with aiohttp.ClientSession(connector=connector, timeout=unlimited, auto_decompress=False) as self._client:
            runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.01)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = "http://{}:{}".format(*runner.addresses[0])
            try:
                yield self
            finally:
                await runner.cleanup()

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        agent, body = incoming.headers.get("User-Agent", ""), await incoming.read()
        request = Request(incoming.method, incoming.raw_path, agent, body)
        self.requests.append(request)
        fault, switch = None, next((s for s in self._switches if s.befalls(request)), None)
        if switch:
            fault = switch.take(request)
        if switch and fault in (Fault.HOLD, Fault.SWALLOW):
            await switch.passed()
        if fault in (Fault.SWALLOW, Fault.REFUSE):
            return _hang_up(incoming)
        if fault is Fault.UNAVAILABLE:
            return web.json_response({"kind": "Status", "message": "no API server"}, status=503)
        headers = {name: value for name, value in incoming.headers.items() if name not in _HOP}
        if self._user:
            headers["Impersonate-User"] = self._user
        url = URL(self._server + incoming.raw_path, encoded=True)
        async with self._client.request(incoming.method, url, headers=headers, data=body or None) as answer:
            if not request.watches:
                text = await answer.read()
            request.status = answer.status
            if switch and fault is Fault.LOSE:
                await switch.passed()
            if fault in (Fault.DROP, Fault.LOSE):
                return _hang_up(incoming)
            passed = {name: value for name, value in answer.headers.items() if name not in _HOP}
            if not request.watches:
                return web.Response(body=text, status=answer.status, headers=passed)
            return await self._stream(
                incoming, request, answer, web.StreamResponse(status=answer.status, headers=passed)
            )

    async def _stream(
        self,
        incoming: web.BaseRequest,
        request: Request,
        answer: aiohttp.ClientResponse,
        response: web.StreamResponse,
    ) -> web.StreamResponse:
        await response.prepare(incoming)
        async for chunk in answer.content.iter_any():
            if any(switch.ends(request) for switch in self._switches):
                break
            for switch in self._switches:
                if switch.stops(request):
                    await switch.passed()
            try:
                await response.write(chunk)
            except ConnectionError:  # nobody watches any more
                break
        return response


def _hang_up(incoming: web.BaseRequest) -> web.Response:
    if incoming.transport:
        incoming.transport.close()
    return web.Response()
