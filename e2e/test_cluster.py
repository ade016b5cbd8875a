"""The cluster that the other tests rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e import fleet
from e2e.audit import AuditLog
from e2e.cluster import Cluster, cgroups, kubectl_command
from e2e.cluster.local import Local
from e2e.support import KubectlError, apply, delete, get, kubectl, wait_for

pytestmark = pytest.mark.alone
POD_SECURITY: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 999,
    "fsGroup": 999,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def shell_pod(name: str, script: str, claim: str = "") -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "main",
        "image": "postgres:17",
        "command": ["bash", "-c", script],
        "securityContext": CONTAINER_SECURITY,
    }
    spec: dict[str, Any] = {"restartPolicy": "Never", "securityContext": POD_SECURITY, "containers": [container]}
    if claim:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def claim(name: str, storage_class: str, size: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"storageClassName": storage_class, "accessModes": ["ReadWriteOnce"]}
    spec |= {"resources": {"requests": {"storage": size}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def outcome(name: str, namespace: str) -> str:
    """Wait for the pod to end, and return its log."""

    def ended() -> bool:
        pod = get("pod", name, namespace)
        return pod is not None and pod["status"].get("phase") in ("Succeeded", "Failed")

    wait_for(ended, 60, f"pod {name} to end")
    return kubectl("logs", name, "-n", namespace).strip()


def test_pods_resolve_services(plain_namespace: str) -> None:
    script = "getent hosts kubernetes.default.svc.cluster.local && getent hosts kubernetes.default"
    apply(shell_pod("dns", script), plain_namespace)
    assert "kubernetes.default" in outcome("dns", plain_namespace)


def test_restricted_profile_is_enforced(plain_namespace: str) -> None:
    pod = shell_pod("root", "true")
    pod["spec"]["securityContext"] = {}
    with pytest.raises(KubectlError, match="violates PodSecurity"):
        apply(pod, plain_namespace)


def test_exec_passes_stdin_and_exit_code(plain_namespace: str) -> None:
    apply(shell_pod("idle", "sleep 600"), plain_namespace)
    kubectl("wait", "--for=condition=Ready", "pod/idle", "-n", plain_namespace, "--timeout=60s")
    assert kubectl("exec", "-i", "idle", "-n", plain_namespace, "--", "cat", stdin="a\nb") == "a\nb"
    with pytest.raises(KubectlError, match="exit code 7"):
        kubectl("exec", "idle", "-n", plain_namespace, "--", "bash", "-c", "exit 7")


def volume_of(name: str, namespace: str) -> str:
    found = get("pvc", name, namespace)
    assert found is not None
    return str(found["spec"]["volumeName"])


def phase(volume: str) -> str:
    found = get("pv", volume)
    return str(found["status"]["phase"]) if found else "gone"


@pytest.mark.parametrize("storage_class", ["standard", "tiny"])
def test_released_volumes_come_back_empty(cluster: Cluster, plain_namespace: str, storage_class: str) -> None:
    if cluster.name != "local":
        pytest.skip("other clusters make and delete volumes as they are asked for")
    write = "touch /data/file /data/.hidden && mkdir -m 0 /data/closed"
    apply([claim("data", storage_class, "1Mi"), shell_pod("writer", write, "data")], plain_namespace)
    outcome("writer", plain_namespace)
    volume = volume_of("data", plain_namespace)
    on_node = f"{cluster.kubeconfig().parent}/volumes/{volume}"
    assert "file" in cluster.enter("ls", "-A", on_node)
    delete("pod", "writer", plain_namespace)
    delete("pvc", "data", plain_namespace)
    wait_for(lambda: phase(volume) == "Available", 30, f"{volume} to be offered again")
    assert cluster.enter("ls", "-A", on_node) == ""
    assert cluster.enter("stat", "-c", "%a %u", on_node).split() == ["777", "0"]


def test_tiny_volume_is_full_at_16_mib(cluster: Cluster, plain_namespace: str) -> None:
    if cluster.name == "existing":
        pytest.skip("a given cluster has no such class")
    fill = "head -c 32M /dev/zero >/data/file; stat -c %s /data/file"
    apply([claim("data", "tiny", "16Mi"), shell_pod("writer", f"exec 2>&1; {fill}", "data")], plain_namespace)
    log = outcome("writer", plain_namespace)
    assert "No space left on device" in log
    assert log.splitlines()[-1] == str(16 << 20)


def test_enter_runs_on_the_node(cluster: Cluster) -> None:
    if cluster.name == "existing":
        pytest.skip("the node of a given cluster is out of reach")
    assert "kube-proxy" in cluster.enter("iptables-save", "-t", "nat") or "KUBE" in cluster.enter("iptables-save")


def test_the_audit_log_is_complete_and_survives_the_api_server(cluster: Cluster, plain_namespace: str) -> None:
    """An entry is there as soon as the answer is; the API server is started again when it ends."""
    if cluster.name != "local":
        pytest.skip("about the local cluster")
    with AuditLog(Local().work / "log" / "audit.log") as log:
        for name in ("before", "after"):
            kubectl("create", "configmap", name, "-n", plain_namespace)
            seen = [(e.name, e.code) for e in log.entries() if e.namespace == plain_namespace and e.verb == "create"]
            assert seen[-1] == (name, 201)
            if name == "before":
                fleet.restart_api()


def traces(work: Path) -> list[str]:
    """Processes, mounts, cgroups and files of a local cluster."""
    needle = str(work).encode()
    found = [str(path) for path in cgroups.leftovers(work.name)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            seen = process / "cmdline", process / "mountinfo"
            found += [str(path) for path in seen if needle in path.read_bytes()]
        except OSError:
            continue  # ended while we looked
    return found + ([str(work)] if work.exists() else [])


@pytest.mark.parametrize("how", ["down", "kill"])
def test_local_cluster_leaves_nothing_behind(cluster: Cluster, how: str) -> None:
    """Of a second cluster of this checkout, beside the one in use."""
    if cluster.name != "local":
        pytest.skip("about the local cluster")
    second = Local("second")
    try:
        config = second.up()
        assert second.up() == config, "starting again changes nothing"
        mine = [*kubectl_command(config)]
        pod = json.dumps(shell_pod("idle", "sleep 600"))
        subprocess.run([*mine, "apply", "-f", "-"], input=pod, text=True, check=True)
        subprocess.run([*mine, "wait", "--for=condition=Ready", "pod/idle", "--timeout=60s"], check=True)
        assert traces(second.work), "this finds a running cluster"
        if how == "kill":
            os.kill(int((second.work / "supervisor.pid").read_text()), signal.SIGKILL)
            wait_for(lambda: not processes(second.work), 30, "all processes to end")
    finally:
        second.down()
    assert traces(second.work) == []
    assert get("namespace", "default"), "the first one still runs"


def processes(work: Path) -> list[str]:
    return [trace for trace in traces(work) if trace.startswith("/proc/")]
