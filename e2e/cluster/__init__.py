"""A Kubernetes cluster for tests: one that is given, kind's, or one made from scratch.

Only the standard library is used here, so that it works before anything is installed.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Protocol

from e2e.cluster import build
from e2e.cluster.existing import Existing
from e2e.cluster.kind import Kind
from e2e.cluster.local import Local

if TYPE_CHECKING:
    from pathlib import Path


class Cluster(Protocol):
    """What tests need of a cluster. All of it may be called again without harm."""

    name: str

    def up(self) -> Path:
        """Start it unless it runs, and return the path of a kubeconfig once it is ready."""

    def down(self) -> None:
        """Stop it and remove what it left."""

    def kubeconfig(self) -> Path:
        """The path of its kubeconfig; the file is there when the cluster runs."""

    def load(self, *archives: Path) -> None:
        """Make images available on the node."""

    def enter(self, *command: str) -> str:
        """Run a command on the node (ctr, iptables, mount, ...), return its stdout or raise."""

    def enter_command(self, *command: str) -> list[str]:
        """The command line that `enter` runs, for use with a terminal."""


@functools.cache
def select() -> Cluster:
    """The cluster of this environment: of KUBECONFIG, else by kind, else a local one."""
    if given := os.environ.get("KUBECONFIG"):
        return Existing(given)
    if shutil.which("kind") and docker_answers():
        return Kind()
    return Local()


@functools.cache
def docker_answers() -> bool:
    """Whether there is a Docker engine, not only its client."""
    if not shutil.which("docker"):
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def kubectl_command(kubeconfig: Path) -> list[str]:
    """kubectl with its kubeconfig: the one on PATH, else the one that local clusters bring."""
    program = ["kubectl"] if shutil.which("kubectl") else [str(build.hyperkube()), "kubectl"]
    return [*program, "--kubeconfig", str(kubeconfig)]
