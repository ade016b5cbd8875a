"""/healthz, /readyz and /metrics, on a thread of their own: they answer while the event loop is blocked, and say so."""

import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .freshness import Freshness

# With the liveness probe's period of 20 s, two failures and a grace of 5 s: a restart within a minute.
_LOOP_STUCK_SECONDS = 10


class Health:
    """What the probes know; the event loop beats, anybody may ask."""

    def __init__(self, freshness: Freshness, clock: Callable[[], float] = time.monotonic) -> None:
        self._freshness = freshness
        self._clock = clock
        self._beat = clock()
        self.ready = False

    def beat(self) -> None:
        """The event loop is alive."""
        self._beat = self._clock()

    @property
    def trouble(self) -> str:
        """Why only a restart helps; empty where all is well."""
        stuck = self._clock() - self._beat
        if stuck > _LOOP_STUCK_SECONDS:
            return f"the event loop has been blocked for {stuck:.0f} s"
        if kind := self._freshness.stale:
            return f"the watch of kind {kind} is stale although the API server answers"
        return ""


class _Server(ThreadingHTTPServer):
    """Listens on all addresses: a pod may have IPv4, IPv6 or both."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(health: Health, port: int) -> int:
    """Serve in the background until the process ends; returns the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path:
                case "/healthz":
                    self._answer(health.trouble)
                case "/readyz":
                    self._answer(health.trouble or ("" if health.ready else "caches are not filled, or it is stopping"))
                case "/metrics":
                    self._send(200, generate_latest(), CONTENT_TYPE_LATEST)
                case _:
                    self._send(404, b"not found\n", "text/plain")

        def _answer(self, trouble: str) -> None:
            self._send(503 if trouble else 200, f"{trouble or 'ok'}\n".encode(), "text/plain")

        def _send(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Probes every few seconds are no news."""

    server = _Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    port_in_use: int = server.server_address[1]
    return port_in_use
