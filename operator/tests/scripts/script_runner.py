"""Runs the Job scripts as a pod does, against a real PostgreSQL server.

Everything runs without root, below one temporary directory. Every password contains SECRET, so that one search shows
whether it got anywhere where it must not be.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

# of the tools and of the server
BIN = Path(os.environ.get("POSTGRES_BIN", "/usr/lib/postgresql/15/bin"))
# What goes before a script where the store is a volume.
ON_VOLUME = {
    "dump.sh": ["volume.sh", "dump-to-volume.sh", "globals.sh"],
    "read-manifest.sh": ["volume.sh"],
    "restore-check.sh": ["volume.sh", "blocks.sh"],
    "restore-load.sh": ["volume.sh", "blocks.sh"],
}
SCRIPTS = Path(__file__).parents[3] / "job_templates"
SECRET = "geheim"
SUPERUSER_PASSWORD = f"{SECRET}-super'user\"$HOME\\"
APP_PASSWORD = f"{SECRET}-äpp'l\"ication$(id)\\"
UNPRIVILEGED: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """What the condition returns once that is true; fails the test after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "this did not come true in time"
        time.sleep(0.02)
    return value


def hand_over(path: Path) -> Path:
    """Make a directory that belongs to whoever the scripts and the server run as."""
    path.mkdir(parents=True, exist_ok=True)
    if UNPRIVILEGED:
        shutil.chown(path, UNPRIVILEGED["user"], UNPRIVILEGED["group"])
    return path


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL server; every statement but ours with passwords is in its log."""

    directory: Path
    port: int

    @property
    def log(self) -> str:
        """All that the server logged so far."""
        return (self.directory / "log").read_text(errors="replace")

    @property
    def version(self) -> str:
        """Such as 15.20; that of the tools, too."""
        return self.sql("SHOW server_version").split()[0]

    def env(self, database: str = "postgres", user: str = "postgres", password: str = "") -> dict[str, str]:
        """PG* variables of a login; the superuser's by default."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGDATABASE": database,
            "PGUSER": user,
            "PGPASSWORD": password or SUPERUSER_PASSWORD,
        }

    def sql(self, text: str, database: str = "postgres", **login: str) -> str:
        """What psql prints for these statements, unaligned and without a header; fails the test on an error."""
        env = {**self.env(database, **login), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        if SECRET in text:
            env["PGOPTIONS"] = "-c log_statement=none -c log_min_duration_statement=-1"
        command = [BIN / "psql", "-XAtqw", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        done = subprocess.run(command, input=text, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def start_sql(self, text: str, database: str = "postgres", **login: str) -> subprocess.Popen[str]:
        """A psql session that has been fed the statements and stays connected until its stdin is closed."""
        env = {**self.env(database, **login), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        session = subprocess.Popen(
            [BIN / "psql", "-XAtqw"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert session.stdin
        assert session.stdout
        session.stdin.write(f"{text};\n\\echo connected\n")
        session.stdin.flush()
        for line in session.stdout:
            if line == "connected\n":
                break
        return session

    def databases(self) -> set[str]:
        """Names of all databases."""
        return set(self.sql("SELECT datname FROM pg_database").splitlines())

    def roles(self) -> set[str]:
        """Names of all roles."""
        return set(self.sql("SELECT rolname FROM pg_roles").splitlines())


class Tls:
    """A private certificate authority, another one, and a server's certificate for the name localhost."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.other_ca = directory / "ca.crt", directory / "other-ca.crt"
        self.certificate, self.key = directory / "server.crt", directory / "server.key"
        for ca in (self.ca, self.other_ca):
            _openssl(
                "req", "-x509", *_NEW_KEY, "-subj", f"/CN={ca.stem}", "-keyout", ca.with_suffix(".key"), "-out", ca
            )
            ca.chmod(0o644)
        request, names = directory / "server.csr", directory / "names"
        names.write_text("subjectAltName=DNS:localhost\n")
        _openssl("req", *_NEW_KEY, "-subj", "/CN=localhost", "-keyout", self.key, "-out", request)
        signed_by = ("-CA", self.ca, "-CAkey", self.ca.with_suffix(".key"), "-CAcreateserial", "-extfile", names)
        _openssl("x509", "-req", "-in", request, *signed_by, "-days", "2", "-out", self.certificate)
        self.key.chmod(0o600)  # the server refuses a key that others may read
        if UNPRIVILEGED:
            shutil.chown(self.key, UNPRIVILEGED["user"], UNPRIVILEGED["group"])


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class TestDatabase:
    """One database and the application role that owns it (named alike)."""

    __test__ = False

    server: Server
    name: str
    owner: str

    @property
    def env(self) -> dict[str, str]:
        """PG* variables of the application role."""
        return self.server.env(self.name, self.owner, APP_PASSWORD)

    def sql(self, text: str) -> str:
        """Statements of the superuser in this database."""
        return self.server.sql(text, self.name)

    def app_sql(self, text: str) -> str:
        """Statements of the application role."""
        return self.server.sql(text, self.name, user=self.owner, password=APP_PASSWORD)


@contextmanager
def new_databases(server: Server) -> Iterator[Callable[..., TestDatabase]]:
    """Yields create(name="app", options="", owner=name); new databases and roles are dropped at the end."""
    databases, roles = server.databases(), server.roles()

    def create(name: str = "app", options: str = "", owner: str | None = None) -> TestDatabase:
        role = identifier(owner or name)
        server.sql(f"CREATE ROLE {role} LOGIN PASSWORD {literal(APP_PASSWORD)}")
        server.sql(f"CREATE DATABASE {identifier(name)} OWNER {role} {options}")
        return TestDatabase(server, name, owner or name)

    yield create
    for name in server.databases() - databases:
        prepared = (
            "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database()"
        )
        server.sql(f"{prepared} \\gexec", name)
        server.sql(f"DROP DATABASE {identifier(name)} (FORCE)")
    for name in server.roles() - roles:
        server.sql(f"DROP OWNED BY {identifier(name)}; DROP ROLE {identifier(name)}")
    server.sql("DROP SCHEMA IF EXISTS postgres_operator CASCADE")


def literal(text: str) -> str:
    """The text as an SQL literal."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def identifier(text: str) -> str:
    """The text as an SQL identifier."""
    return '"' + text.replace('"', '""') + '"'


class Outcome(NamedTuple):
    """How a script ended: exit code, what its termination message says, and its log."""

    code: int
    report: dict[str, Any]
    log: str

    @property
    def result(self) -> dict[str, Any]:
        """The result; fails the test when there is none."""
        assert self.code == 0, (self.report, self.log)
        assert set(self.report) == {"result"}, self.report
        return dict(self.report["result"])

    @property
    def reason(self) -> str:
        """The error's reason; fails the test when the script succeeded."""
        assert self.code != 0, (self.report, self.log)
        assert set(self.report) == {"error"}, (self.report, self.log)
        assert set(self.report["error"]) == {"reason", "message"}
        return str(self.report["error"]["reason"])

    @property
    def message(self) -> str:
        """The error's message."""
        return str(self.report["error"]["message"])


@dataclass
class Script:
    """A script that runs."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return (self.directory / "log").read_text(errors="replace")

    def terminate(self) -> None:
        """Ask it to end, as the kubelet does: only its first process gets the signal."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the whole pod at once, as on an eviction or the loss of its node."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def descendants(self) -> dict[int, str]:
        """Its processes that are alive, and their command lines."""
        alive = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid and fields[0] != "Z":
                    command = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ")
                    alive[int(stat.parent.name)] = command.decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
        return alive

    def child(self, program: str) -> int:
        """Process id of the first descendant that runs this program, waited for."""
        return int(until(lambda: next((p for p, c in self.descendants().items() if _program(c) == program), None)))

    def wait(self, seconds: float = 60) -> Outcome:
        """Its outcome, checked for what no outcome may contain."""
        code = self.process.wait(seconds)
        message = (self.directory / "termination-log").read_bytes()
        arguments = (self.directory / "argv").read_text(errors="replace")
        assert len(message) <= 4096
        for where, text in (
            ("report", message.decode()),
            ("log", self.log),
            ("argv", arguments),
        ):
            assert SECRET not in text, f"a password is in the {where}"
        return Outcome(code, json.loads(message) if message else {}, self.log)


def _program(command: str) -> str:
    return Path(command.split(" ", 1)[0]).name


@dataclass
class Pods:
    """Starts scripts; what is left of them is killed at the end of the test."""

    directory: Path
    spies: Path  # PostgreSQL's programs, recording their arguments
    started: list[Script] = field(default_factory=list)
    tools: str = "/usr/bin:/bin"  # the rest of the PATH

    def start(self, names: str | Iterable[str], env: Mapping[str, str], more: str = "") -> Script:
        """Run lib.sh, the named script(s) and `more` as one text, like a template does; the store is a volume."""
        files = ["lib.sh"]
        for name in [names] if isinstance(names, str) else names:
            files += [*ON_VOLUME.get(name, []), name]
        text = "".join((SCRIPTS / name).read_text() for name in files) + more
        return self.launch(["bash", "-c", text], env)

    def launch(self, command: list[str], env: Mapping[str, str], path: str = "") -> Script:
        """Run a container's command."""
        directory = hand_over(self.directory / f"pod-{len(self.started)}")
        for name in ("termination-log", "argv", "log"):
            (directory / name).touch()
            (directory / name).chmod(0o666)
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={
                    "PATH": path or f"{self.directory / 'bin'}:{self.spies}:{BIN}:{self.tools}",
                    "TMPDIR": str(hand_over(directory / "tmp")),
                    "TERMINATION_LOG": str(directory / "termination-log"),
                    "ARGV_LOG": str(directory / "argv"),
                    **env,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
                **UNPRIVILEGED,
            )
        self.started.append(Script(process, directory))
        return self.started[-1]

    def run(self, names: str | Iterable[str], env: Mapping[str, str], more: str = "") -> Outcome:
        """Run to the end; nothing may be left of it, neither processes nor temporary files."""
        return self.finish(self.start(names, env, more))

    def finish(self, script: Script) -> Outcome:
        """Wait for the end; nothing may be left of it, neither processes nor temporary files."""
        outcome = script.wait()
        # What a child of the script had started ends by itself, when its input does: with the container at the latest.
        until(lambda: not script.descendants(), 5)
        assert not list((script.directory / "tmp").iterdir())
        return outcome

    def shim(self, program: str, text: str) -> None:
        """Put a bash script before a program; it finds the real one as "$REAL"."""
        path = self.directory / "bin" / program
        path.parent.mkdir(exist_ok=True)
        real = BIN / program if (BIN / program).exists() else shutil.which(program)
        path.write_text(f"#!/bin/bash\nREAL={real}\n{text}\n")
        path.chmod(0o755)
