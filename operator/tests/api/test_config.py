import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from postgres_operator.api import crd
from postgres_operator.names import API_VERSION

Documents = Callable[[str], list[dict[str, Any]]]

NAMESPACE = "postgres-operator-system"
MANAGER = "postgres-operator-controller-manager"
ROOT = Path(__file__).resolve().parents[3] / "config"
KUBERNETES = "1.35"


def kustomization(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((directory / "kustomization.yaml").read_text())
    return found


DIRECTORIES = sorted(p.parent for p in ROOT.rglob("kustomization.yaml"))
FILES = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.yaml") if p.name != "kustomization.yaml")
# Parts of objects; test_install looks at what the overlays make of them.
PATCHES = {
    str((directory / patch["path"]).relative_to(ROOT))
    for directory in DIRECTORIES
    for patch in kustomization(directory).get("patches", [])
    if "path" in patch
}
# Kinds of the Prometheus Operator, which not every cluster knows: nobody checks them here but the tests below.
OF_OTHERS = {"monitoring/podmonitor.yaml", "monitoring/prometheusrule.yaml"}


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


@pytest.fixture
def budget(documents: Documents) -> dict[str, Any]:
    (found,) = documents("pdb/manager.yaml")
    return found


@pytest.mark.parametrize("path", [f for f in FILES if f not in PATCHES])
def test_valid_for_kubernetes(path: str, documents: Documents) -> None:
    for document in documents(path):
        # Ours: the tests with an API server check those.
        if document["apiVersion"] != API_VERSION and path not in OF_OTHERS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("path", [f for f in FILES if not f.startswith("samples/")])
def test_what_lives_in_a_namespace_lives_in_the_operator_s(path: str, documents: Documents) -> None:
    namespaced = {"Deployment", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget", "Role", "RoleBinding"}
    namespaced |= {"PodMonitor", "PrometheusRule"}
    for document in documents(path):
        if document["kind"] in namespaced:
            assert document["metadata"]["namespace"] == NAMESPACE


@pytest.mark.parametrize("directory", DIRECTORIES, ids=[str(d.relative_to(ROOT)) for d in DIRECTORIES])
def test_a_kustomization_lists_every_file_beside_it(directory: Path) -> None:
    listing = kustomization(directory)
    patches = [patch["path"] for patch in listing.get("patches", []) if "path" in patch]
    beside = {p.name for p in directory.glob("*.yaml")} - {"kustomization.yaml"}
    assert {name for name in [*listing["resources"], *patches] if not name.startswith("..")} == beside


def test_the_installation_consists_of_all_directories_but_optional_ones() -> None:
    listed = {(ROOT / "default" / name).resolve() for name in kustomization(ROOT / "default")["resources"]}
    others = {d for d in DIRECTORIES if d.name in {"default", "samples", "monitoring"} or d.parent.name == "overlays"}
    assert listed == set(DIRECTORIES) - others


@pytest.mark.parametrize(
    ("path", "name"),
    [("manager/namespace.yaml", NAMESPACE), ("overlays/lease-namespace/namespace.yaml", "postgres-operator-leases")],
)
def test_the_namespace_enforces_restricted(path: str, name: str, documents: Documents) -> None:
    (namespace,) = documents(path)
    assert namespace["metadata"]["name"] == name
    for mode in ("enforce", "audit", "warn"):
        assert namespace["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"


def test_names_that_outsiders_use(deployment: dict[str, Any], pod: dict[str, Any]) -> None:
    assert deployment["metadata"]["name"] == MANAGER
    assert deployment["spec"]["template"]["metadata"]["labels"]["control-plane"] == "controller-manager"
    assert deployment["spec"]["selector"]["matchLabels"] == {"control-plane": "controller-manager"}
    assert pod["serviceAccountName"] == MANAGER


def test_one_replica_leads_and_the_others_stand_by(deployment: dict[str, Any], container: dict[str, Any]) -> None:
    assert deployment["spec"]["replicas"] == 3
    assert "args" not in container, "a flag would win over the variable of whoever follows the documents"
    fields = {env["name"]: env["valueFrom"]["fieldRef"]["fieldPath"] for env in container["env"]}
    assert fields == {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}


def test_a_rollout_takes_no_replica_away_before_the_new_one_is_ready(deployment: dict[str, Any]) -> None:
    rolling = {"maxUnavailable": 0, "maxSurge": 1}
    assert deployment["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}


def test_replicas_are_spread_but_none_waits_for_a_node(deployment: dict[str, Any], pod: dict[str, Any]) -> None:
    """A rule that must be kept would hold up a rollout, or the second replica on a cluster of one node."""
    ours = {"labelSelector": deployment["spec"]["selector"], "matchLabelKeys": ["pod-template-hash"]}
    spread = {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", **ours}
    keys = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    assert pod["topologySpreadConstraints"] == [{"topologyKey": key, **spread} for key in keys]
    term = {"topologyKey": "kubernetes.io/hostname", **ours}
    preferred = [{"weight": 100, "podAffinityTerm": term}]
    assert pod["affinity"] == {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def test_one_node_at_a_time_is_drained(deployment: dict[str, Any], budget: dict[str, Any]) -> None:
    assert budget["metadata"]["name"] == f"{MANAGER}-pdb"
    assert budget["spec"] == {
        "minAvailable": deployment["spec"]["replicas"] - 1,
        # what does not run holds up no drain
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": deployment["spec"]["selector"],
    }


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


def test_how_soon_a_probe_acts(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """A hung replica is restarted within a minute; one that ends in order has time to give the Lease up."""
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/healthz", "port": "probes"},
        "initialDelaySeconds": 15,
        "periodSeconds": 20,
        "timeoutSeconds": 5,
        "failureThreshold": 2,
        "terminationGracePeriodSeconds": 5,
    }
    assert container["readinessProbe"] == {
        "httpGet": {"path": "/readyz", "port": "probes"},
        "initialDelaySeconds": 5,
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": 2,
    }
    assert pod["terminationGracePeriodSeconds"] == 10


def test_probes_are_let_in_by_the_network_policy(container: dict[str, Any], documents: Documents) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"probes": 8081}
    assert container["livenessProbe"]["httpGet"]["port"] in ports
    assert container["readinessProbe"]["httpGet"]["port"] in ports

    (policy,) = documents("network-policy/manager.yaml")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    into = {port["port"]: rule.get("from") for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert into == dict.fromkeys(ports.values())
    out = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert 5432 not in out, "the control plane reaches no database"


def test_prometheus_finds_the_pods_and_keeps_their_labels(
    deployment: dict[str, Any], container: dict[str, Any], documents: Documents
) -> None:
    (monitor,) = documents("monitoring/podmonitor.yaml")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert monitor["spec"] == {"selector": deployment["spec"]["selector"], "podMetricsEndpoints": [endpoint]}
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    assert endpoint == {"port": "probes", "path": "/metrics", "honorLabels": True}


def test_the_alerts_are_those_of_the_documents(documents: Documents) -> None:
    text = (ROOT.parent / "docs" / "observability.md").read_text()
    (block,) = re.findall(r"^```promql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    shown = [re.fullmatch(r"# (.*)\n([^#]+)", alert.strip()) for alert in block.split("\n\n")]
    (rule,) = documents("monitoring/prometheusrule.yaml")
    (group,) = rule["spec"]["groups"]
    alerts = [(alert["annotations"]["summary"], alert["expr"].split()) for alert in group["rules"]]
    assert alerts == [(found[1], found[2].split()) for found in shown if found]
    assert len({alert["alert"] for alert in group["rules"]}) == len(shown) == 8
    assert [alert.get("for") for alert in group["rules"]] == [None] * 7 + ["2m"]


CREDENTIAL = re.compile(r"\w*SecretRef|imagePullSecrets|serviceAccountName|claimName")


def guarded(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Every field that names a Secret, a ServiceAccount or a claim, as the policy's expressions spell it."""
    for name, inner in schema.get("properties", {}).items():
        if CREDENTIAL.fullmatch(name):
            yield f"{path}.?{name}"
        else:
            yield from guarded(inner, f"{path}.?{name}")


def test_every_field_that_names_a_secret_is_guarded(documents: Documents) -> None:
    """A field of a new store or resource goes into the policy, or its Secret can be borrowed."""
    (policy,) = documents("admission/credentials.yaml")
    text = " ".join(variable["expression"] for variable in policy["spec"]["variables"])
    (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
    fields: set[str] = set()
    for kind in crd.KINDS:
        assert kind.plural in rule["resources"]
        spec = crd.definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for path in guarded(spec, ""):
            assert path in text, f"{kind.name} {path}"
            assert f"'{path.split('.?')[1]}'" in text, f"{kind.name} {path}: its parent belongs to `moved`"
            fields.add(path)
    assert ".?imagePullSecrets" in fields


def test_only_the_operator_is_excepted_from_the_guard(documents: Documents) -> None:
    (policy,) = documents("admission/credentials.yaml")
    (account,) = documents("rbac/service_account.yaml")
    user = f"system:serviceaccount:{account['metadata']['namespace']}:{account['metadata']['name']}"
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"].split() == ["request.userInfo.username", "!=", f"'{user}'"]
    assert policy["spec"]["failurePolicy"] == "Fail"
    (binding,) = documents("admission/credentials_binding.yaml")
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}


def test_as_many_secrets_are_asked_for_as_can_be_named(documents: Documents) -> None:
    (policy,) = documents("admission/credentials.yaml")
    checks = [v["expression"] for v in policy["spec"]["validations"] if "variables.readable" in v["expression"]]
    assert [f"named) <= {n} ||" in check and f"named[{n}])" in check for n, check in enumerate(checks)] == [True] * 10
