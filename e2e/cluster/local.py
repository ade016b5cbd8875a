"""A single-node Kubernetes without a container engine or registry: Debian and root."""

from __future__ import annotations

import fcntl
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

from e2e.cluster import build, cgroups
from e2e.cluster.paths import ROOT, cache_dir, run_dir
from e2e.cluster.progress import run, say, step, until

_START_SECONDS = 240


_ports: list[IO[bytes]] = []  # held until this process ends


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on, and that is given to nobody else while we run.

    None of those that the kernel gives away by itself, to connections too: it might before somebody listens.
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    candidates = [port for port in range(10000, 30000) if not low <= port <= high]  # NodePorts follow
    directory = cache_dir() / "ports"
    directory.mkdir(exist_ok=True)
    random.shuffle(candidates)
    for port in candidates:
        lock = (directory / str(port)).open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", port))
        except OSError:  # another process has it
            lock.close()
            continue
        _ports.append(lock)
        return port
    raise RuntimeError(f"no port from 10000 to 29999 is free, outside the kernel's own ({low} to {high})")


class Local:
    """The cluster of this checkout; `name` tells several of one checkout apart."""

    name = "local"

    def __init__(self, name: str = "") -> None:
        self.work = run_dir(name)
        self._lock = cache_dir() / f".{self.work.name}.lock"

    def up(self) -> Path:
        """Start the cluster unless it runs, and return its kubeconfig."""
        if platform.system() != "Linux" or os.geteuid() != 0:
            raise RuntimeError("the local cluster needs Linux and root; else set KUBECONFIG, or use Docker with kind")
        with build.locked(self._lock):
            if self._running() and self.kubeconfig().exists():
                say(f"the cluster runs already, in {self.work}")
                return self.kubeconfig()
            self._stop()
            binary, archives = build.everything()
            with step(f"starting Kubernetes {build.KUBERNETES} in {self.work}"):
                self._start(binary, archives)
        return self.kubeconfig()

    def _start(self, binary: Path, archives: list[Path]) -> None:
        log = self.work / "log"
        log.mkdir(parents=True, mode=0o755)
        command = [sys.executable, "-m", "e2e.cluster.supervise", str(self.work), str(binary), str(free_port())]
        command += map(str, archives)
        with (log / "node.log").open("w") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=ROOT, start_new_session=True
            )
        (self.work / "supervisor.pid").write_text(str(process.pid))

        def ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"the cluster ended while starting:\n{(log / 'node.log').read_text()[-4000:]}")
            return self.kubeconfig().exists()

        try:
            until(f"the cluster; its logs are in {log}", ready, within=_START_SECONDS)
        except TimeoutError:
            self._stop(keep_files=True)
            raise

    def down(self) -> None:
        """Stop the cluster and remove all that it left."""
        with build.locked(self._lock):
            if self.work.exists() or cgroups.leftovers(self.work.name):
                with step(f"stopping the cluster in {self.work}"):
                    self._stop()

    def _stop(self, *, keep_files: bool = False) -> None:
        if self._running():
            os.kill(self._supervisor(), signal.SIGTERM)
            until("the cluster to end", lambda: not self._running(), within=60)
        until("the cgroup to be empty", lambda: cgroups.remove(self.work.name), within=30)
        if not keep_files:
            shutil.rmtree(self.work, ignore_errors=True)

    def _supervisor(self) -> int:
        try:
            return int((self.work / "supervisor.pid").read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _running(self) -> bool:
        pid = self._supervisor()
        try:
            # process ids are used again: it must be ours, and no zombie (which has no command line)
            return pid > 0 and str(self.work).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    def kubeconfig(self) -> Path:
        """The path, whether or not the cluster runs."""
        return self.work / "kubeconfig"

    def load(self, *archives: Path) -> None:
        """Import image archives into the node's container runtime."""
        for archive in archives:
            self.enter("ctr", "-n", "k8s.io", "image", "import", str(archive.resolve()))

    def enter(self, *command: str) -> str:
        """Run a command within the node's namespaces and return its stdout."""
        return run(self.enter_command(*command))

    def enter_command(self, *command: str) -> list[str]:
        """The same as a command line, for use with a terminal."""
        pid = (self.work / "node.pid").read_text()
        return ["nsenter", "--target", pid, "--net", "--mount", "--pid", "--root", "--", *command]
