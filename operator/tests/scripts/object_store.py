"""A real S3 server for the scripts, what can go wrong with it, and a look at what lies in it."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

from script_runner import SECRET, hand_over, until

from e2e.cluster import build
from e2e.cluster.local import free_port
from e2e.cluster.pki import Pki

BUCKET = "backups"
REGION = "us-east-1"
ACCESS_KEY = f"{SECRET}-access-key"
SECRET_KEY = f"{SECRET}-secret-key"


def busybox_tools(path: Path) -> Path:
    """The sh and the tools of an Alpine image in this directory."""
    directory = hand_over(path)
    busybox = shutil.copy(build.busybox(), directory)  # out of a home that nobody else can read
    subprocess.run([busybox, "--install", "-s", directory], check=True)
    return directory


def uploader_programs(base: Path) -> Path:
    """The PATH of the uploader's image: rclone, and busybox's sh and tools; nothing else can be found there."""
    directory = busybox_tools(base / "uploader")
    shutil.copy(build.rclone(), directory / "rclone")
    return directory


@dataclass
class ObjectStore:
    """A server with one bucket; every part of its credentials contains SECRET."""

    directory: Path
    port: int
    pki: Pki | None  # None: http
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.pki else 'http'}://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> dict[str, str]:
        """As the Secret of a store has them."""
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    @property
    def log(self) -> str:
        """One line for each request: method, path, status."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        files = [hand_over(self.directory / name) for name in ("meta", "objects")]
        command = ["setpriv", "--pdeathsig", "KILL", build.versitygw()]
        tls = ["--cert", self.pki.dir / "s3.crt", "--key", self.pki.dir / "s3.key"] if self.pki else []
        with (self.directory / "log").open("ab") as log:
            # not even kill -9 of the test run may leave it behind
            self.process = subprocess.Popen(
                [*command, "--port", f"127.0.0.1:{self.port}", *tls, "posix", "--sidecar", *files],
                env={"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY, "PATH": os.environ["PATH"]},
                stdout=log,
                stderr=log,
            )
        until(lambda: self._try("lsf", "store:").returncode == 0 or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.log

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)
            self.process = None

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It takes connections and never answers."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Connections are refused."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def broken(self) -> Iterator[None]:
        """Every request is answered with 500 (a store with http only)."""
        assert not self.pki
        with self.down():
            server = _BrokenServer(("127.0.0.1", self.port), _Broken)
            Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield
            finally:
                server.shutdown()
                server.server_close()

    def objects(self) -> dict[str, int]:
        """Sizes of all objects by their keys."""
        found = json.loads(self.rclone("lsjson", "-R", "--files-only", f"store:{BUCKET}"))
        return {entry["Path"]: entry["Size"] for entry in found}

    def unfinished(self) -> list[str]:
        """Keys of all multipart uploads that were neither completed nor aborted."""
        found = json.loads(self.rclone("backend", "list-multipart-uploads", f"store:{BUCKET}"))
        return sorted(entry["Key"] for entry in found[BUCKET] or [])

    def put(self, key: str, content: bytes) -> None:
        self.rclone("rcat", f"store:{BUCKET}/{key}", stdin=content)

    def get(self, key: str) -> bytes:
        return self.rclone("cat", f"store:{BUCKET}/{key}")

    def delete(self, key: str) -> None:
        self.rclone("deletefile", f"store:{BUCKET}/{key}")

    def rclone(self, *args: str, stdin: bytes = b"") -> bytes:
        """What rclone prints; the server is its remote `store`."""
        done = self._try(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def _try(self, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": self.endpoint,
            "REGION": REGION,
            "ACCESS_KEY_ID": ACCESS_KEY,
            "SECRET_ACCESS_KEY": SECRET_KEY,
        }
        env = {f"RCLONE_CONFIG_STORE_{key}": text for key, text in settings.items()}
        env |= {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_RETRIES": "1",
            "RCLONE_LOW_LEVEL_RETRIES": "1",
            "HOME": "/nonexistent",
        }
        if self.pki:
            env["RCLONE_CA_CERT"] = str(self.pki.ca)
        return subprocess.run([build.rclone(), *args], input=stdin, env=env, capture_output=True, check=False)


class _BrokenServer(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class _Broken(StreamRequestHandler):
    def handle(self) -> None:
        length = 0
        while header := self.rfile.readline().strip():
            name, _, value = header.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        self.rfile.read(length)
        self.wfile.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@contextmanager
def object_store(directory: Path, *, tls: bool = False) -> Iterator[ObjectStore]:
    """A running server with an empty bucket; with TLS, its certificate is of an authority of its own."""
    hand_over(directory)
    pki = None
    if tls:
        pki = Pki(hand_over(directory / "pki"))
        pki.cert("s3", "/CN=s3", "IP:127.0.0.1")
    store = ObjectStore(directory, free_port(), pki)
    try:
        store.start()
        store.rclone("mkdir", f"store:{BUCKET}")
        yield store
    finally:
        store.stop()
