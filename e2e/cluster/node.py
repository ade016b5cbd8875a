"""The inside of the local cluster: a node's programs in namespaces of their own.

Run by local.py as process 1 of new network, mount and process namespaces:
python -m e2e.cluster.node RUN_DIR HYPERKUBE PORT ARCHIVE...

When this process ends, the kernel ends everything else in here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.cluster import cgroups, configs, storage
from e2e.cluster.api import Api
from e2e.cluster.configs import API_IP, NODE, NODE_IP
from e2e.cluster.pki import Pki
from e2e.cluster.progress import run, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Node:
    """Starts the programs of the node, each with a log of its own."""

    def __init__(self, work: Path, hyperkube: Path, port: int, archives: Sequence[Path]) -> None:
        self.work, self.hyperkube, self.port, self.archives = work, hyperkube, port, archives
        self.pki_dir = work / "pki"
        self.log_dir = work / "log"
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, program: str, *args: str | Path) -> None:
        """Start a program in the background."""
        kubernetes = program in configs.HYPERKUBE
        command = [str(self.hyperkube), program] if kubernetes else [program]
        # appended to: it may not be the first start
        with (self.log_dir / f"{program}.log").open("a") as log:
            self.running[program] = subprocess.Popen(
                [*command, *map(str, args)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        """Poll until `ready`, or raise with the log of the first program that ended instead."""

        def ready_or_broken() -> bool:
            for program, process in self.running.items():
                if process.poll() is not None:
                    log = (self.log_dir / f"{program}.log").read_text(errors="replace")
                    raise RuntimeError(f"{program} ended with {process.returncode}:\n{log[-2000:]}")
            return ready()

        until(what, ready_or_broken, within=120)

    def main(self) -> None:
        """Bring the node up, then serve until killed."""
        _mounts()
        cgroups.prepare(self.work.name)
        _network()
        self._containerd()
        importing = ThreadPoolExecutor().submit(self._import)
        pki, api = self._control_plane()
        self._node_programs()
        pool = storage.Pool(self.work, api)
        pool.create()
        api.apply(configs.dns_service())
        threading.Thread(target=pool.recycle, daemon=True).start()
        self.wait_for("the node to be ready", lambda: _node_ready(api))
        self.wait_for("the default service account", lambda: _default_account(api))
        importing.result()
        # the file is what says that the cluster is ready
        pki.kubeconfig(self.work / "kubeconfig", f"https://127.0.0.1:{self.port}", api.token)
        threading.Thread(target=self._keep, args=("kubelet", self._kubelet), daemon=True).start()
        self._keep("kube-apiserver", self._apiserver)

    def _keep(self, program: str, start: Callable[[], None]) -> None:
        """Start a program again whenever it ends, as systemd does, or a kubelet with a static pod; for ever."""
        while True:
            self.running[program].wait()
            time.sleep(1)  # one that ends at once must not keep a CPU busy
            start()

    def _apiserver(self) -> None:
        self.start("kube-apiserver", *configs.apiserver(self.work, self.pki_dir))

    def _containerd(self) -> None:
        (self.work / "cni").mkdir()
        (self.work / "cni" / "10-pods.conflist").write_text(json.dumps(configs.cni()))
        config = self.work / "containerd.toml"
        config.write_text(configs.containerd(self.work))
        self.start("containerd", "--config", config)

    def _import(self) -> None:
        ctr = ["ctr", "-n", "k8s.io"]

        def answers() -> bool:
            return subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0

        self.wait_for("containerd", answers)
        with (self.log_dir / "import.log").open("w") as log:
            for archive in self.archives:
                command = [*ctr, "image", "import", str(archive)]
                subprocess.run(command, stdout=log, stderr=log, check=True)

    def _control_plane(self) -> tuple[Pki, Api]:
        pki = Pki(self.pki_dir)
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        names.append("kubernetes.default.svc.cluster.local")
        alt_names = [*(f"DNS:{name}" for name in names), *(f"IP:{ip}" for ip in ("127.0.0.1", NODE_IP, API_IP))]
        pki.cert("api", "/CN=kube-apiserver", ",".join(alt_names))
        pki.cert("kubelet-client", "/O=system:masters/CN=apiserver-kubelet-client")
        token = pki.user("admin", "system:masters")
        users = {"admin": token}
        for name in ("kube-controller-manager", "kube-scheduler"):
            users[name] = pki.user(f"system:{name}")
        users["kube-proxy"] = pki.user("system:kube-proxy")
        users["kubelet"] = pki.user(f"system:node:{NODE}", "system:nodes")
        for name, secret in users.items():
            pki.kubeconfig(self.pki_dir / f"{name}.conf", "https://127.0.0.1:6443", secret)
        (self.work / "audit.yaml").write_text(json.dumps(configs.audit_policy()))

        self.start("etcd", "--data-dir", self.work / "etcd", "--unsafe-no-fsync", "--log-level=warn")
        self._apiserver()
        self.start("socat", f"UNIX-LISTEN:{self.work}/api.sock,fork,mode=600", "TCP:127.0.0.1:6443,nodelay")
        api = Api("https://127.0.0.1:6443", token, pki.ca)
        self.wait_for("the API server", api.ready)
        self.start("kube-controller-manager", *configs.controller_manager(self.pki_dir))
        config = ("--kubeconfig", self.pki_dir / "kube-scheduler.conf")
        self.start("kube-scheduler", *config, "--leader-elect=false")
        return pki, api

    def _kubelet(self) -> None:
        kubelet = self.work / "kubelet.yaml"
        kubelet.write_text(json.dumps(configs.kubelet(self.work)))
        self.start(
            "kubelet", "--config", kubelet, "--kubeconfig", self.pki_dir / "kubelet.conf", "--hostname-override", NODE,
            "--node-ip", NODE_IP, "--root-dir", self.work / "kubelet", "--cert-dir", self.pki_dir,
        )  # fmt: skip

    def _node_programs(self) -> None:
        self._kubelet()
        proxy = self.work / "proxy.yaml"
        proxy.write_text(json.dumps(configs.kube_proxy(self.pki_dir)))
        self.start("kube-proxy", "--config", proxy)
        corefile = self.work / "Corefile"
        corefile.write_text(configs.coredns(self.pki_dir / "admin.conf"))
        self.start("coredns", "-conf", corefile)


def _mounts() -> None:
    # private to this namespace already; the kubelet expects shared mounts within it
    run(["mount", "--make-rshared", "/"])
    # what is written here by containerd, the kubelet and CNI must not stay behind on the host
    for directory in ("/run", "/var/log", "/var/lib/cni"):
        Path(directory).mkdir(parents=True, exist_ok=True)
        run(["mount", "-t", "tmpfs", "tmpfs", directory])


def _network() -> None:
    # A bridge that goes nowhere gives the node an address and a default route.
    for command in (
        "ip link set lo up",
        "ip link add uplink0 type bridge",
        f"ip addr add {NODE_IP}/24 dev uplink0",
        "ip link set uplink0 up",
        f"ip route add default via {configs.GATEWAY}",
        "sysctl -qw net.ipv4.ip_forward=1",
    ):
        run(command.split())
    # Without it, a pod cannot reach a Service whose pod is on the same bridge. The
    # module is loaded with the first bridge, where it is not part of the kernel.
    with contextlib.suppress(RuntimeError):
        run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"])


def _node_ready(api: Api) -> bool:
    try:
        conditions = api.get(f"/api/v1/nodes/{NODE}").get("status", {}).get("conditions", [])
    except urllib.error.HTTPError:
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _default_account(api: Api) -> bool:
    try:
        api.get("/api/v1/namespaces/default/serviceaccounts/default")
    except urllib.error.HTTPError:
        return False
    return True


def _reap_until(child: int) -> int:
    """Process 1 inherits the orphans of its namespace: wait for all, until `child` ends."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def main() -> None:
    work, hyperkube, port, *archives = sys.argv[1:]
    child = os.fork()
    if child:
        sys.exit(_reap_until(child))
    Node(Path(work), Path(hyperkube), int(port), [Path(a) for a in archives]).main()


if __name__ == "__main__":
    main()
