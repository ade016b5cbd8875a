"""A bare control plane, etcd and the API server, for tests that need no controllers.

    with apiserver.start() as kubeconfig:
        ...

Ready in a few seconds. There are no nodes, and nothing acts on objects: Jobs stay as
they are, deleted namespaces stay terminating. RBAC is on, the user is an admin
(impersonate others with `--as`). Service accounts need not exist for pods.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.cluster import build, configs
from e2e.cluster.api import Api
from e2e.cluster.local import free_port
from e2e.cluster.pki import Pki
from e2e.cluster.progress import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def start(*flags: str) -> Iterator[Path]:
    """Run etcd and the API server (with further flags); yield the path of a kubeconfig."""
    binary = build.hyperkube()
    work = Path(tempfile.mkdtemp(prefix="pgop-api-"))
    client, peer, port = free_port(), free_port(), free_port()
    etcd = f"http://127.0.0.1:{client}"
    pki = Pki(work / "pki")
    pki.cert("api", "/CN=kube-apiserver", "IP:127.0.0.1")
    token = pki.user("admin", "system:masters")
    programs: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> None:
        with (work / f"{command[0]}.log").open("w") as log:
            # not even kill -9 of the test run may leave them behind
            wrapped = ["setpriv", "--pdeathsig", "KILL", str(binary), *command]
            programs.append(subprocess.Popen(wrapped, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def ready() -> bool:
        for program in programs:
            if program.poll() is not None:
                logs = [log.read_text(errors="replace")[-2000:] for log in work.glob("*.log")]
                raise RuntimeError("\n".join([f"a program ended with {program.returncode}:", *logs]))
        return api.ready()

    try:
        run(
            "etcd", f"--data-dir={work}/etcd", "--unsafe-no-fsync", "--log-level=warn",
            f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
        )  # fmt: skip
        run(
            "kube-apiserver", f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}",
            # whose address nobody will use: the host's would be wanted otherwise, which may have none
            "--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={configs.SERVICE_NET}", f"--cert-dir={work}/pki",
            f"--tls-cert-file={work}/pki/api.crt", f"--tls-private-key-file={work}/pki/api.key",
            f"--token-auth-file={work}/pki/tokens.csv", *configs.service_accounts(work / "pki"),
            "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", *flags,
        )  # fmt: skip
        server = f"https://127.0.0.1:{port}"
        api = Api(server, token, pki.ca)
        until("the API server", ready, within=60)
        yield pki.kubeconfig(work / "kubeconfig", server, token)
    finally:
        for program in reversed(programs):
            program.kill()
            program.wait()
        shutil.rmtree(work)
