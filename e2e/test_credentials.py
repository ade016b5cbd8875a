"""Nobody borrows a Secret, on the installation as it is: with a user who may create our resources and nothing else."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from e2e import kit
from e2e.cluster.configs import SYSTEM
from e2e.support import GROUP, KubectlError, apply, get, items, kubectl, wait_for

PASSWORD = "not-for-everybody"
RESOURCES = ("databases", "backups", "restores", "backupstores")
POLICY = "postgres-operator-credentials"


def allow(namespace: str, user: str, name: str, **rule: Any) -> None:
    """Give a user one right in the namespace, and wait until it counts."""
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": [rule]}
    apply(role, namespace)
    kubectl("create", "rolebinding", name, f"--role={name}", f"--user={user}", "-n", namespace)
    what = ".".join(filter(None, (rule["resources"][0], rule["apiGroups"][0])))
    what = "/".join((what, *rule.get("resourceNames", [])[:1]))
    question = ("auth", "can-i", rule["verbs"][0], what, f"--as={user}", "-n", namespace)
    wait_for(lambda: kubectl(*question), 30, f"the right of {user} to count")  # kubectl fails where it says no


def author(namespace: str) -> str:
    """A user who may create our resources and nothing else."""
    allow(namespace, "author", "author", apiGroups=[GROUP], resources=[*RESOURCES], verbs=["*"])
    return "author"


def secret(namespace: str, name: str, **data: str) -> None:
    kubectl("create", "secret", "generic", name, *(f"--from-literal={k}={v}" for k, v in data.items()), "-n", namespace)


def create(namespace: str, user: str, kind: str, name: str, **spec: Any) -> None:
    """As `kubectl apply` of that user."""
    manifest = json.dumps(kit.resource(kind, name, spec))
    kubectl("apply", "-n", namespace, f"--as={user}", "-f", "-", stdin=manifest)


def test_who_may_read_no_secret_uses_the_operator_and_borrows_none(namespace: str) -> None:
    user = author(namespace)
    create(namespace, user, "Database", "shop", image="postgres:17")
    kit.wait_ready(namespace)
    create(namespace, user, "Backup", "first", databaseRef={"name": "shop"})
    kit.completed("backup", "first", namespace)

    secret(namespace, "registry", password=PASSWORD)
    for kind, spec in {
        "Database": {},
        "Backup": {"databaseRef": {"name": "shop"}},
        "Restore": {"databaseRef": {"name": "shop"}, "backupRef": {"name": "first"}},
    }.items():
        with pytest.raises(KubectlError, match=f'{kind} "mine" names the Secret "registry", which author may not read'):
            create(namespace, user, kind, "mine", **spec, imagePullSecrets=[{"name": "registry"}])
        assert get(kind, "mine", namespace) is None

    pull: dict[str, Any] = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["registry"]}
    allow(namespace, user, "registry", **pull, verbs=["get"])
    create(namespace, user, "Backup", "second", databaseRef={"name": "shop"}, imagePullSecrets=[{"name": "registry"}])
    kit.completed("backup", "second", namespace)


def test_a_secret_is_not_borrowed_by_the_name_of_a_database(namespace: str) -> None:
    """`<name>-credentials` of another purpose lacks the key that the server starts with: nothing is handed out."""
    user = author(namespace)
    secret(namespace, "payments-credentials", username="app", password=PASSWORD)
    create(namespace, user, "Database", "payments", image="postgres:17")
    status = kit.wait_reason("database", "payments", namespace, "CredentialsLost")["status"]
    assert status["phase"] == "Failed"
    (pod,) = items("pods", namespace, "database=payments")
    (container,) = pod["status"]["containerStatuses"]
    assert (container["restartCount"], set(container["state"])) == (0, {"waiting"})
    kept = (get("secret", "payments-credentials", namespace) or {})["data"]
    assert base64.b64decode(kept["password"]).decode() == PASSWORD


@pytest.mark.usefixtures("operator")
def test_the_policy_fits_the_kinds(namespace: str) -> None:
    """Kubernetes compares its expressions with the CRDs, and would say here what it does not understand."""

    def checked() -> dict[str, Any] | None:
        status: dict[str, Any] = (get("validatingadmissionpolicy", POLICY) or {}).get("status", {})
        return status if status.get("observedGeneration") else None

    assert namespace
    assert not wait_for(checked, 60, "the policy to be checked").get("typeChecking", {}).get("expressionWarnings")
    assert SYSTEM in json.dumps((get("validatingadmissionpolicy", POLICY) or {})["spec"]["matchConditions"])
