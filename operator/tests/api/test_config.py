from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from postgres_operator.names import API_VERSION

Documents = Callable[[str], list[dict[str, Any]]]

NAMESPACE = "postgres-operator-system"
MANAGER = "postgres-operator-controller-manager"
ROOT = Path(__file__).resolve().parents[3] / "config"
FILES = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.yaml") if p.name != "kustomization.yaml")
KUBERNETES = "1.35"


@pytest.fixture
def deployment(documents: Documents) -> dict[str, Any]:
    (found,) = documents("manager/deployment.yaml")
    return found


@pytest.fixture
def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return found


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


@pytest.mark.parametrize("path", FILES)
def test_valid_for_kubernetes(path: str, documents: Documents) -> None:
    for document in documents(path):
        if document["apiVersion"] != API_VERSION:  # ours: the tests with an API server check those
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("path", [f for f in FILES if not f.startswith("samples/")])
def test_what_lives_in_a_namespace_lives_in_the_operator_s(path: str, documents: Documents) -> None:
    namespaced = {"Deployment", "ServiceAccount", "NetworkPolicy"}
    for document in documents(path):
        if document["kind"] in namespaced:
            assert document["metadata"]["namespace"] == NAMESPACE


@pytest.mark.parametrize("directory", sorted(str(p.parent.relative_to(ROOT)) for p in ROOT.rglob("kustomization.yaml")))
def test_a_kustomization_lists_every_file_beside_it(directory: str) -> None:
    listed = yaml.safe_load((ROOT / directory / "kustomization.yaml").read_text())["resources"]
    beside = {p.name for p in (ROOT / directory).glob("*.yaml")} - {"kustomization.yaml"}
    assert {name for name in listed if not name.startswith("..")} == beside


def test_the_namespace_enforces_restricted(documents: Documents) -> None:
    (namespace,) = documents("manager/namespace.yaml")
    assert namespace["metadata"]["name"] == NAMESPACE
    for mode in ("enforce", "audit", "warn"):
        assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_names_that_outsiders_use(deployment: dict[str, Any], pod: dict[str, Any]) -> None:
    assert deployment["metadata"]["name"] == MANAGER
    assert deployment["spec"]["template"]["metadata"]["labels"]["control-plane"] == "controller-manager"
    assert deployment["spec"]["selector"]["matchLabels"] == {"control-plane": "controller-manager"}
    assert pod["serviceAccountName"] == MANAGER


def test_the_pod_is_restricted(pod: dict[str, Any], container: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
    assert [set(volume) for volume in pod["volumes"]] == [{"name", "emptyDir"}]


def test_memory_is_limited(container: dict[str, Any]) -> None:
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


def test_probes_are_let_in_by_the_network_policy(container: dict[str, Any], documents: Documents) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"probes": 8081}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "probes"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "probes"}

    (policy,) = documents("network-policy/manager.yaml")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    into = {port["port"]: rule.get("from") for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert into == dict.fromkeys(ports.values())
    out = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert 5432 not in out, "the control plane reaches no database"
