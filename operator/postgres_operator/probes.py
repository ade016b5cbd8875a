"""/healthz, /readyz and /metrics, on a thread of their own: they answer while the event loop is blocked, and say so."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

_LOOP_STUCK_SECONDS = 30


class Health:
    """What the probes know; the event loop beats, anybody may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beat = clock()
        self.ready = False

    def beat(self) -> None:
        """The event loop is alive."""
        self._beat = self._clock()

    @property
    def alive(self) -> bool:
        """Whether the event loop ran lately."""
        return self._clock() - self._beat < _LOOP_STUCK_SECONDS


def serve(health: Health, port: int) -> int:
    """Serve in the background until the process ends; returns the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path:
                case "/healthz":
                    self._answer(health.alive, "ok", "the event loop is blocked")
                case "/readyz":
                    self._answer(health.alive and health.ready, "ok", "caches are not filled yet")
                case "/metrics":
                    self._send(200, generate_latest(), CONTENT_TYPE_LATEST)
                case _:
                    self._send(404, b"not found\n", "text/plain")

        def _answer(self, good: bool, yes: str, no: str) -> None:
            self._send(200 if good else 503, f"{yes if good else no}\n".encode(), "text/plain")

        def _send(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Probes every few seconds are no news."""

    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="probes", daemon=True).start()
    port_in_use: int = server.server_address[1]
    return port_in_use
