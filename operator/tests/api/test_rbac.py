"""The permissions are the operator's main promise: widening one has to be done here as well, knowingly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postgres_operator.api import crd
from postgres_operator.names import GROUP
from postgres_operator.settings import Settings

Documents = Callable[[str], list[dict[str, Any]]]
Rule = dict[str, list[str]]
Grant = tuple[str, str, tuple[str, ...], str]

OWN = {kind.plural for kind in crd.KINDS}
ALLOWED = {
    **{(GROUP, plural): {"get", "list", "watch"} for plural in OWN},
    **{(GROUP, f"{plural}/status"): {"patch"} for plural in OWN},
    # of schedules: one for each slot; what is replaced, what failed long ago, what retention does not keep. And the
    # finalizer of those whose artifact goes with them, and the policy that says so.
    (GROUP, "backups"): {"get", "list", "watch", "create", "delete", "patch"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("apps", "statefulsets"): {"get", "list", "watch", "create", "update"},
    ("", "services"): {"get", "list", "watch", "create"},
    ("", "secrets"): {"create"},
    ("", "persistentvolumeclaims"): {"get", "create"},
    ("", "pods"): {"list"},
    ("", "events"): {"create", "list"},
}

# In the operator's namespace alone: group, resource, the names it is limited to (none: not limited), verb.
LEASE = (Settings.model_fields["lease_name"].default,)
ALLOWED_THERE: set[Grant] = {
    ("coordination.k8s.io", "leases", (), "create"),
    ("coordination.k8s.io", "leases", LEASE, "get"),
    ("coordination.k8s.io", "leases", LEASE, "watch"),
    ("coordination.k8s.io", "leases", LEASE, "update"),
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


def grants(rules: list[Rule]) -> set[Grant]:
    """Each right by itself."""
    return {
        (group, resource, tuple(rule.get("resourceNames", [])), verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


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
        pytest.param(GROUP, "backups", "update", id="replaces a Backup"),
        pytest.param(GROUP, "restores", "patch", id="changes the spec of a Restore"),
        pytest.param(GROUP, "backups", "deletecollection", id="deletes all Backups"),
        pytest.param(GROUP, "scheduledbackups", "create", id="creates a schedule"),
    ],
)
def test_the_check_finds(group: str, resource: str, verb: str) -> None:
    assert excess([{"apiGroups": [group], "resources": [resource], "verbs": [verb]}]) == [f"{verb} {group}/{resource}"]


def test_the_check_finds_urls() -> None:
    assert excess([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]) == ["get (url)//metrics"]


def test_of_leases_it_may_use_its_own_and_nothing_else(documents: Documents) -> None:
    (found,) = documents("rbac/leader_election_role.yaml")
    assert found["kind"] == "Role", "a ClusterRole could be bound everywhere"
    assert grants(found["rules"]) == ALLOWED_THERE


@pytest.mark.parametrize(
    "wider",
    [
        pytest.param({"verbs": ["list"]}, id="lists Leases"),
        pytest.param({"verbs": ["update"]}, id="changes any Lease"),
        pytest.param({"verbs": ["delete"], "resourceNames": [*LEASE]}, id="deletes its Lease"),
        pytest.param({"verbs": ["get"], "resourceNames": [*LEASE, "other"]}, id="reads another Lease"),
        pytest.param({"verbs": ["create"], "resources": ["*"]}, id="creates anything"),
    ],
)
def test_the_check_of_leases_finds(wider: Rule, documents: Documents) -> None:
    (found,) = documents("rbac/leader_election_role.yaml")
    rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], **wider}
    assert grants([*found["rules"], rule]) != ALLOWED_THERE


def test_nothing_else_is_bound_to_the_operator(config: Path, documents: Documents) -> None:
    (account,) = documents("rbac/service_account.yaml")
    name, namespace = account["metadata"]["name"], account["metadata"]["namespace"]
    assert name == "postgres-operator-controller-manager"
    files = [str(path.relative_to(config)) for path in config.rglob("*.yaml") if path.name != "kustomization.yaml"]
    bindings = [d for file in files for d in documents(file) if d["kind"] in {"RoleBinding", "ClusterRoleBinding"}]
    for binding in bindings:
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": namespace}]
    (wide,) = documents("rbac/role.yaml")
    (narrow,) = documents("rbac/leader_election_role.yaml")
    assert {(b["kind"], b["roleRef"]["kind"], b["roleRef"]["name"]) for b in bindings} == {
        ("ClusterRoleBinding", "ClusterRole", wide["metadata"]["name"]),
        ("RoleBinding", "Role", narrow["metadata"]["name"]),
    }


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
    for resource in [resource for _, resource in ALLOWED] + [grant[1] for grant in ALLOWED_THERE]:
        assert f"`{resource.partition('/')[0]}`" in page, f"SECURITY.md does not explain {resource}"
