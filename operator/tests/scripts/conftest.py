import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from object_store import ObjectStore, object_store, uploader_programs
from script_runner import (
    BIN,
    SECRET,
    SUPERUSER_PASSWORD,
    UNPRIVILEGED,
    Outcome,
    Pods,
    Server,
    TestDatabase,
    Tls,
    hand_over,
    new_databases,
    until,
)

from e2e.cluster.local import free_port

_CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 40
max_prepared_transactions = 5
fsync = off
autovacuum = off
password_encryption = scram-sha-256
log_statement = all
log_min_duration_statement = 0
log_line_prefix = '%a|%u|%d|'
"""


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """A directory that the unprivileged user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="scripts-", ignore_cleanup_errors=True) as name:
        yield hand_over(Path(name))


@pytest.fixture(scope="session")
def spies(base: Path) -> Path:
    """PostgreSQL's programs, recording the arguments they are given."""
    directory = base / "spies"
    directory.mkdir()
    for program in ("psql", "pg_dump", "pg_dumpall", "pg_restore"):
        spy = directory / program
        spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>"$ARGV_LOG"\nexec {BIN / program} "$@"\n')
        spy.chmod(0o755)
    return directory


@pytest.fixture(scope="session")
def server(base: Path) -> Iterator[Server]:
    """A server of its own on a free port, with scram logins only."""
    with started(hand_over(base / "server")) as running:
        yield running


@pytest.fixture(scope="module")
def tls(base: Path) -> Tls:
    """Certificates."""
    return Tls(hand_over(base / "tls"))


@pytest.fixture(scope="module")
def tls_server(base: Path, tls: Tls) -> Iterator[Server]:
    """A server that takes TLS connections only; its certificate is for the name localhost."""
    directory = hand_over(base / "tls-server")
    settings = ["ssl = on", f"ssl_cert_file = '{tls.certificate}'", f"ssl_key_file = '{tls.key}'"]
    with started(directory, settings, "hostssl all all 127.0.0.1/32 scram-sha-256\n") as running:
        yield running


@contextmanager
def started(directory: Path, settings: Iterable[str] = (), access: str = "") -> Iterator[Server]:
    """A new server that runs in the directory; `access` replaces pg_hba.conf."""
    password = directory / "password"
    password.write_text(SUPERUSER_PASSWORD + "\n")
    password.chmod(0o644)
    data = directory / "data"
    initdb = [BIN / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password]
    initdb += ["-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
    done = subprocess.run(initdb, check=False, capture_output=True, text=True, cwd="/", **UNPRIVILEGED)
    assert done.returncode == 0, done.stdout + done.stderr
    port = free_port()
    with (data / "postgresql.auto.conf").open("a") as configuration:
        configuration.write("\n".join([_CONFIGURATION, f"port = {port}", *settings, ""]))
    if access:
        (data / "pg_hba.conf").write_text(access)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([BIN / "postgres", "-D", data], stdout=log, stderr=log, cwd="/", **UNPRIVILEGED)
    running = Server(directory, port)
    try:
        until(lambda: "ready to accept connections" in running.log or process.poll() is not None, 60)
        assert process.poll() is None, running.log
        yield running
        assert SECRET not in running.log, "a password is in the server's log"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.fixture
def place(base: Path, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own, as `tmp_path`, but one that the scripts can reach."""
    return hand_over(base / f"test-{abs(hash(request.node.nodeid))}")


@pytest.fixture
def pods(place: Path, spies: Path) -> Iterator[Pods]:
    """Runs scripts."""
    all_pods = Pods(place, spies)
    yield all_pods
    for script in all_pods.started:
        for pid in script.descendants():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        script.process.wait(10)


@pytest.fixture
def run_script(pods: Pods) -> Callable[[str, Mapping[str, str]], Outcome]:
    """run_script(name, env) -> (exit code, report, log)."""
    return pods.run


@pytest.fixture
def store(place: Path) -> Path:
    """An empty backup volume."""
    return hand_over(place / "backups")


@pytest.fixture
def database(server: Server) -> Iterator[Callable[..., TestDatabase]]:
    """database(name="app", options="", owner=name): a new database; it goes at the end."""
    with new_databases(server) as create:
        yield create


@pytest.fixture(scope="session")
def uploader(base: Path) -> Path:
    """The PATH of the uploader's image."""
    return uploader_programs(base)


@pytest.fixture
def s3(place: Path) -> Iterator[ObjectStore]:
    """An S3 server over http with an empty bucket."""
    with object_store(place / "s3") as running:
        yield running


@pytest.fixture
def s3_tls(place: Path) -> Iterator[ObjectStore]:
    """The same over https, vouched for by a private authority only."""
    with object_store(place / "s3-tls", tls=True) as running:
        yield running
