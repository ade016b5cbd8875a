"""The permissions are the operator's main promise: widening one has to be done here as well, knowingly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postgres_operator.api import crd
from postgres_operator.names import GROUP

Documents = Callable[[str], list[dict[str, Any]]]
Rule = dict[str, list[str]]

OWN = {kind.plural for kind in crd.KINDS}
ALLOWED = {
    **{(GROUP, plural): {"get", "list", "watch"} for plural in OWN},
    **{(GROUP, f"{plural}/status"): {"patch"} for plural in OWN},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("apps", "statefulsets"): {"get", "list", "watch", "create", "update"},
    ("", "services"): {"get", "list", "watch", "create"},
    ("", "secrets"): {"create"},
    ("", "persistentvolumeclaims"): {"get", "create"},
    ("", "pods"): {"get", "list"},
    ("", "events"): {"create", "list"},
}


def excess(rules: list[Rule]) -> list[str]:
    """What the rules grant beyond the table above."""
    return [
        f"{verb} {group}/{resource}"
        for rule in rules
        # a rule for URLs has no resources
        for group in rule.get("apiGroups", ["(url)"])
        for resource in rule.get("resources", rule.get("nonResourceURLs", []))
        for verb in rule["verbs"]
        if verb not in ALLOWED.get((group, resource), set())
    ]


def role(documents: Documents) -> list[Rule]:
    (found,) = documents("rbac/role.yaml")
    rules: list[Rule] = found["rules"]
    return rules


def test_the_operator_may_do_what_is_listed_here_and_nothing_else(documents: Documents) -> None:
    rules = role(documents)
    assert excess(rules) == []
    granted = {(group, resource) for rule in rules for group in rule["apiGroups"] for resource in rule["resources"]}
    assert granted == ALLOWED.keys()


@pytest.mark.parametrize(
    ("group", "resource", "verb"),
    [
        pytest.param("", "secrets", "get", id="reads a Secret"),
        pytest.param("", "secrets", "list", id="lists Secrets"),
        pytest.param("", "secrets", "patch", id="changes a Secret"),
        pytest.param("*", "secrets", "create", id="any group"),
        pytest.param("", "*", "get", id="any resource"),
        pytest.param("batch", "jobs", "*", id="any verb"),
        pytest.param("", "pods/exec", "create", id="runs a command in a pod"),
        pytest.param("", "pods", "delete", id="deletes a pod"),
        pytest.param("", "pods/log", "get", id="reads a log"),
        pytest.param("", "events", "patch", id="changes an Event"),
        pytest.param("", "namespaces", "list", id="lists namespaces"),
        pytest.param("rbac.authorization.k8s.io", "clusterroles", "escalate", id="escalates"),
        pytest.param(GROUP, "databases", "patch", id="changes a spec"),
    ],
)
def test_the_check_finds(group: str, resource: str, verb: str) -> None:
    assert excess([{"apiGroups": [group], "resources": [resource], "verbs": [verb]}]) == [f"{verb} {group}/{resource}"]


def test_the_check_finds_urls() -> None:
    assert excess([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]) == ["get (url)//metrics"]


def test_nothing_else_is_bound_to_the_operator(documents: Documents) -> None:
    (binding,) = documents("rbac/role_binding.yaml")
    (account,) = documents("rbac/service_account.yaml")
    (granted,) = documents("rbac/role.yaml")
    assert binding["roleRef"]["name"] == granted["metadata"]["name"]
    assert binding["subjects"] == [
        {
            "kind": "ServiceAccount",
            "name": account["metadata"]["name"],
            "namespace": account["metadata"]["namespace"],
        }
    ]
    assert account["metadata"]["name"] == "postgres-operator-controller-manager"


def test_users_may_not_forge_a_status(documents: Documents) -> None:
    for granted in documents("rbac/user_roles.yaml"):
        for rule in granted["rules"]:
            assert rule["apiGroups"] == [GROUP]
            assert set(rule["resources"]) == OWN, "status is no resource of theirs"
            assert "*" not in rule["verbs"]


def test_the_built_in_roles_take_them_up(documents: Documents) -> None:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    roles = {r["metadata"]["name"]: r for r in documents("rbac/user_roles.yaml")}
    into = {
        name: {label.removeprefix(prefix) for label in r["metadata"]["labels"] if label.startswith(prefix)}
        for name, r in roles.items()
    }
    assert into == {"postgres-operator-editor": {"admin", "edit"}, "postgres-operator-viewer": {"view"}}
    (viewing,) = roles["postgres-operator-viewer"]["rules"]
    assert set(viewing["verbs"]) == {"get", "list", "watch"}


def test_the_security_page_explains_every_resource(config: Path) -> None:
    page = (config.parent / "SECURITY.md").read_text()
    for _, resource in ALLOWED:
        assert f"`{resource.partition('/')[0]}`" in page, f"SECURITY.md does not explain {resource}"
