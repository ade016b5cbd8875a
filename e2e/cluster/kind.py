"""A cluster by kind, where a Docker engine answers."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from e2e.cluster import storage
from e2e.cluster.paths import run_dir
from e2e.cluster.progress import run, say, step

if TYPE_CHECKING:
    from pathlib import Path


class Kind:
    """A kind cluster of this checkout; the class `standard` is kind's own."""

    name = "kind"

    def __init__(self) -> None:
        self.work = run_dir()
        self.cluster = self.work.name
        self.node = f"{self.cluster}-control-plane"

    def up(self) -> Path:
        self.work.mkdir(parents=True, exist_ok=True)
        if self.cluster in run(["kind", "get", "clusters"]).split():
            say(f"the kind cluster {self.cluster} runs already")
            run(["kind", "export", "kubeconfig", "--name", self.cluster, "--kubeconfig", self.kubeconfig()])
        else:
            with step(f"creating the kind cluster {self.cluster}"):
                where: list[str | Path] = ["--name", self.cluster, "--kubeconfig", self.kubeconfig()]
                run(["kind", "create", "cluster", *where, "--wait", "180s"])
        self._tiny_volumes()
        return self.kubeconfig()

    def down(self) -> None:
        run(["kind", "delete", "cluster", "--name", self.cluster])
        self.kubeconfig().unlink(missing_ok=True)

    def kubeconfig(self) -> Path:
        return self.work / "kubeconfig"

    def load(self, *archives: Path) -> None:
        for archive in archives:
            run(["kind", "load", "image-archive", "--name", self.cluster, archive])

    def enter(self, *command: str) -> str:
        return run(self.enter_command(*command))

    def enter_command(self, *command: str) -> list[str]:
        return ["docker", "exec", "-i", self.node, *command]

    def _tiny_volumes(self) -> None:
        """Make the volumes of class `tiny`, or make those that were released anew."""
        objects = [storage.storage_class("tiny")]
        for number in range(storage.TINY):
            name = f"tiny-{number}"
            path = f"/var/tiny/{number}"
            state = self._kubectl("get", "pv", name, "--ignore-not-found", "-o", "jsonpath={.status.phase}")
            if state == "Released":
                self._kubectl("delete", "pv", name)
            if state in ("", "Released"):
                make = f"mkdir -p {path} && (umount {path} 2>/dev/null || true)"
                mount = f"mount -t tmpfs -o size=16m,mode=0777 tmpfs {path}"
                self.enter("sh", "-c", f"{make} && {mount}")
                objects.append(storage.volume(name, "tiny", "16Mi", path, self.node))
        bundle = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self._kubectl("apply", "-f", "-", stdin=bundle)

    def _kubectl(self, *args: str, stdin: str = "") -> str:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig()), *args]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout
