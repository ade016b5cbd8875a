"""What people type, with the real kubectl."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from apiserver_kit import Kubectl

from postgres_operator.settings import Settings

CONFIG = Path(__file__).resolve().parents[3] / "config"
SHOWN = [
    pytest.param(block, id=f"{path.stem}-{number}")
    for path in sorted((CONFIG.parent / "docs").glob("*.md"))
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL))
    if "kind: Kustomization" in block
]
SYSTEM = "postgres-operator-system"
MANAGER = "postgres-operator-controller-manager"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:{MANAGER}"
LEASES = "postgres-operator-leases"
KUBERNETES = "1.35"

Objects = dict[tuple[str, str], dict[str, Any]]


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


ABOUT_LEASES = [
    pytest.param("create", "", True, id="makes it"),
    pytest.param("get", MANAGER, True, id="reads it"),
    pytest.param("watch", MANAGER, True, id="watches it"),
    pytest.param("update", MANAGER, True, id="renews it"),
    pytest.param("patch", MANAGER, False, id="patches it"),
    pytest.param("delete", MANAGER, False, id="deletes it"),
    pytest.param("get", "other", False, id="reads another"),
    pytest.param("update", "other", False, id="takes another"),
    pytest.param("watch", "", False, id="watches all"),
    pytest.param("list", "", False, id="lists all"),
]


def may(kubectl: Kubectl, verb: str, name: str, namespace: str) -> bool:
    """What the API server says of the operator's account and a Lease (all of them, without a name)."""
    what = "leases.coordination.k8s.io" + (f"/{name}" if name else "")
    answer = kubectl("auth", "can-i", verb, what, f"--as={ACCOUNT}", "-n", namespace)
    return {"yes": True, "no": False}[answer.text.split()[-1]]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("verb", "name", "allowed"), ABOUT_LEASES)
def test_of_leases_the_operator_may_use_its_own(verb: str, name: str, *, allowed: bool, kubectl: Kubectl) -> None:
    assert may(kubectl, verb, name, SYSTEM) is allowed
    assert not may(kubectl, verb, name, "default"), "not in the namespaces of others"


@pytest.mark.usefixtures("installed")
def test_a_watch_of_the_one_lease_is_a_watch_by_name(kubectl: Kubectl) -> None:
    def watch(name: str) -> str:
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"
        selector = f"fieldSelector=metadata.name%3D{name}&timeoutSeconds=1"
        return kubectl("get", "--raw", f"{leases}?watch=1&{selector}", f"--as={ACCOUNT}").text

    assert "Forbidden" not in watch(MANAGER)
    assert "Forbidden" in watch("other")


def built(kubectl: Kubectl, directory: str) -> Objects:
    """What kustomize makes of a directory, by kind and name."""
    documents = yaml.safe_load_all(kubectl("kustomize", str(CONFIG / directory)).must())
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert found, directory
    return found


def variables(objects: Objects) -> dict[str, str | None]:
    """Environment of the operator; None where the value is not given literally."""
    (container,) = objects["Deployment", MANAGER]["spec"]["template"]["spec"]["containers"]
    return {env["name"]: env.get("value") for env in container["env"]}


@pytest.mark.parametrize("directory", sorted(str(p.relative_to(CONFIG)) for p in CONFIG.glob("overlays/*")))
def test_what_an_overlay_makes_is_complete_and_valid(directory: str, kubectl: Kubectl) -> None:
    overlay = built(kubectl, directory)
    assert overlay.keys() >= built(kubectl, "default").keys()
    for document in overlay.values():
        if document["kind"] != "CustomResourceDefinition":  # unchanged, and validated when they were installed
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    settings = {name.lower(): value or "given" for name, value in variables(overlay).items()}
    assert settings.keys() <= Settings.model_fields.keys(), "a variable of another name has no effect"
    Settings.model_validate(settings)


def test_the_overlay_for_development_is_smaller_and_more_patient(kubectl: Kubectl) -> None:
    default, dev = built(kubectl, "default"), built(kubectl, "overlays/dev")
    assert dev["Deployment", MANAGER]["spec"]["replicas"] == 2
    assert dev["PodDisruptionBudget", f"{MANAGER}-pdb"]["spec"]["minAvailable"] == 1
    terms = {"LEASE_DURATION_SECONDS": "30", "LEASE_RENEW_DEADLINE_SECONDS": "20"}
    assert variables(dev) == {**variables(default), **terms}
    changed = {key for key, document in dev.items() if document != default[key]}
    assert changed == {("Deployment", MANAGER), ("PodDisruptionBudget", f"{MANAGER}-pdb")}


def test_the_overlay_that_moves_the_lease_moves_nothing_else(kubectl: Kubectl) -> None:
    default, moved = built(kubectl, "default"), built(kubectl, "overlays/lease-namespace")
    assert moved.keys() - default.keys() == {("Namespace", LEASES)}
    assert variables(moved) == {**variables(default), "LEASE_NAMESPACE": LEASES}
    changed = {key for key, document in default.items() if document != moved[key]}
    election = {("Role", "postgres-operator-leader-election"), ("RoleBinding", "postgres-operator-leader-election")}
    assert changed == {("Deployment", MANAGER), *election}
    for key in election:
        assert moved[key]["metadata"].pop("namespace") == LEASES
        assert default[key]["metadata"].pop("namespace") == SYSTEM
        assert moved[key] == default[key], "the account stays where it is"


@pytest.mark.usefixtures("installed")
def test_the_lease_can_be_used_where_the_overlay_has_moved_it(kubectl: Kubectl) -> None:
    said = kubectl("apply", "-k", str(CONFIG / "overlays/lease-namespace")).must()
    assert "Warning" not in said
    answers = {case.id: may(kubectl, *case.values[:2], LEASES) for case in ABOUT_LEASES}
    assert answers == {case.id: case.values[2] for case in ABOUT_LEASES}


@pytest.mark.parametrize("kustomization", SHOWN)
def test_what_the_documents_show_can_be_built(kustomization: str, tmp_path: Path, kubectl: Kubectl) -> None:
    shutil.copytree(CONFIG, tmp_path / "config")
    (tmp_path / "config" / "mine").mkdir()
    (tmp_path / "config" / "mine" / "kustomization.yaml").write_text(kustomization)
    documents = list(yaml.safe_load_all(kubectl("kustomize", str(tmp_path / "config" / "mine")).must()))
    assert documents != list(yaml.safe_load_all(kubectl("kustomize", str(CONFIG / "default")).must()))
    kinds = {document["kind"]: document["spec"] for document in documents if "spec" in document}
    replicas, staying = kinds["Deployment"]["replicas"], kinds["PodDisruptionBudget"]["minAvailable"]
    assert staying < replicas, "no node of its could be drained"


def test_the_samples_are_taken(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "samples").must()
    answer = kubectl("apply", "-n", "samples", "-k", str(CONFIG / "samples")).must()
    kinds = [line.split("/")[0].split(".")[0] for line in answer.splitlines()]
    assert set(kinds) == {"database", "backup", "restore", "backupstore", "scheduledbackup", "persistentvolumeclaim"}


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
