"""What people type, with the real kubectl."""

import json
from pathlib import Path

import pytest
import yaml
from apiserver_kit import Kubectl

CONFIG = Path(__file__).resolve().parents[3] / "config"
SYSTEM = "postgres-operator-system"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:postgres-operator-controller-manager"


@pytest.fixture(scope="module")
def installed(kubectl: Kubectl) -> str:
    """What `kubectl apply -k config/default` prints."""
    return kubectl("apply", "-k", str(CONFIG / "default")).must()


def test_nothing_of_the_installation_is_warned_about(installed: str) -> None:
    assert "deployment.apps/postgres-operator-controller-manager created" in installed
    assert "Warning" not in installed, "Pod Security warns of pods that it would refuse"


@pytest.mark.usefixtures("installed")
def test_the_namespace_takes_the_operator_s_pod(kubectl: Kubectl) -> None:
    deployment = json.loads(kubectl("get", "-n", SYSTEM, "deployment", "-o", "json").must())["items"][0]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "manager", **deployment["spec"]["template"]["metadata"]},
        "spec": deployment["spec"]["template"]["spec"],
    }
    kubectl("create", "-n", SYSTEM, "--dry-run=server", "-f", "-", stdin=pod).must()

    del pod["spec"]["securityContext"]["seccompProfile"]
    refused = kubectl("create", "-n", SYSTEM, "--dry-run=server", "-f", "-", stdin=pod)
    assert "violates PodSecurity" in refused.text, "it is enforced here"


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("verb", "resource", "subresource", "allowed"),
    [
        ("create", "secrets", "", True),
        ("get", "secrets", "", False),
        ("list", "secrets", "", False),
        ("create", "jobs.batch", "", True),
        ("create", "pods", "", False),
        ("create", "pods", "exec", False),
        ("patch", "databases.database.example.com", "status", True),
        ("patch", "databases.database.example.com", "", False),
        ("list", "namespaces", "", False),
    ],
)
def test_the_operator_may_or_may_not(
    verb: str, resource: str, subresource: str, *, allowed: bool, kubectl: Kubectl
) -> None:
    answer = kubectl("auth", "can-i", verb, resource, f"--subresource={subresource}", f"--as={ACCOUNT}", "-A")
    assert answer.text.split()[-1] == ("yes" if allowed else "no")


def test_the_samples_are_taken(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "samples").must()
    answer = kubectl("apply", "-n", "samples", "-k", str(CONFIG / "samples")).must()
    kinds = [line.split("/")[0].split(".")[0] for line in answer.splitlines()]
    assert set(kinds) == {"database", "backup", "restore", "backupstore", "persistentvolumeclaim"}


def test_all_kinds_are_listed_by_category_and_short_name(kubectl: Kubectl) -> None:
    for name in ("postgres", "db", "pgb", "pgr", "pgstore"):
        kubectl("get", name, "-A").must()


def test_get_shows_the_columns(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "columns").must()
    backup = (CONFIG / "samples/backup.yaml").read_text()
    kubectl("create", "-n", "columns", "-f", "-", stdin=yaml.safe_load(backup)).must()
    complete = {"type": "Complete", "status": "False", "reason": "DumpFailed", "message": "m"}
    failed = {**complete, "type": "Failed", "status": "True", "reason": "Other"}
    conditions = [{**c, "lastTransitionTime": "2026-03-01T12:00:00Z"} for c in (failed, complete)]
    status = {"phase": "Failed", "sizeBytes": 5, "conditions": conditions}
    kubectl(
        "patch", "-n", "columns", "pgb/shop-1", "--subresource=status", "--type=merge",
        f"--patch={json.dumps({'status': status})}",
    ).must()  # fmt: skip

    header, row = kubectl("get", "-n", "columns", "pgb").must().splitlines()

    assert header.split() == ["NAME", "PHASE", "DATABASE", "SIZE", "REASON", "AGE"]
    assert row.split()[:5] == ["shop-1", "Failed", "shop", "5", "DumpFailed"]
