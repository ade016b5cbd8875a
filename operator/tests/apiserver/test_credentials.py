"""Nobody borrows a Secret: what the admission policy refuses to whom, asked of a real API server with RBAC.

The kinds take any field here, so that the policy is tested on all that it names, whatever the CRDs have by now.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apiserver_kit import Answer, Kubectl

from e2e.cluster import apiserver
from postgres_operator.names import API_VERSION, GROUP, VERSION

CONFIG = Path(__file__).resolve().parents[3] / "config"
OPERATOR = "system:serviceaccount:postgres-operator-system:postgres-operator-controller-manager"
KINDS = {k: f"{k.lower()}s" for k in ("Database", "Backup", "Restore", "BackupStore", "ScheduledBackup")}
# May write our kinds and nothing else; may get one Secret and make tokens of one account besides.
AUTHOR, READER = "author", "reader"
THEIRS, OTHER = "theirs", "other"

Spec = dict[str, Any]


def definition(kind: str) -> dict[str, Any]:
    """A CRD that takes any spec and has the subresource `status`, as ours do."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": VERSION, "served": True, "storage": True, "subresources": {"status": {}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{KINDS[kind]}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": KINDS[kind], "singular": kind.lower()},
            "versions": [{**version, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def role(name: str, *users: str, **rule: Any) -> list[dict[str, Any]]:
    """A Role of one rule, and what binds these users to it."""
    group = "rbac.authorization.k8s.io"
    subjects = [{"kind": "User", "name": user, "apiGroup": group} for user in users]
    ref = {"apiGroup": group, "kind": "Role", "name": name}
    return [
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": name}, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": ref,
            "subjects": subjects,
        },
    ]


def grants() -> list[dict[str, Any]]:
    one: dict[str, Any] = {"apiGroups": [""], "resourceNames": [THEIRS]}
    return [
        *role("authors", AUTHOR, READER, OPERATOR, apiGroups=[GROUP], resources=["*"], verbs=["*"]),
        *role("readers", READER, **one, resources=["secrets"], verbs=["get"]),
        *role("actors", READER, **one, resources=["serviceaccounts/token"], verbs=["create"]),
        *role("keepers", READER, **one, resources=["persistentvolumeclaims"], verbs=["update"]),
    ]


def listed(*bodies: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": [*bodies]}


def body(kind: str, spec: Spec, name: str = "x") -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


class Namespace:
    """One namespace, in which users write."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl, self.name = kubectl, name

    def create(self, user: str, kind: str, spec: Spec, *, dry: bool = True) -> Answer:
        flags = ["--dry-run=server"] if dry else []
        return self.kubectl("create", f"-n={self.name}", f"--as={user}", "-f", "-", *flags, stdin=body(kind, spec))

    def replace(self, user: str, kind: str, before: Spec, after: Spec) -> Answer:
        """What the user is told who changes an object that an admin has made."""
        self.kubectl("delete", f"-n={self.name}", kind, "x", "--ignore-not-found").must()
        self.kubectl("create", f"-n={self.name}", "-f", "-", stdin=body(kind, before)).must()
        return self.kubectl("replace", f"-n={self.name}", f"--as={user}", "-f", "-", stdin=body(kind, after))


def in_force(namespace: Namespace) -> None:
    """Wait until the API server has taken the policy up."""
    deadline = time.monotonic() + 30
    while namespace.create(AUTHOR, "Database", {"imagePullSecrets": [{"name": OTHER}]}).accepted:
        assert time.monotonic() < deadline, "the policy refuses nothing"


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with apiserver.start() as kubeconfig:
        kubectl = Kubectl(kubeconfig)
        kubectl("apply", "-f", "-", stdin=listed(*map(definition, KINDS)))
        kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all").must()
        kubectl("apply", "-k", str(CONFIG / "admission")).must()
        for name in ("here", "there"):
            kubectl("create", "namespace", name).must()
        kubectl("apply", "-n=here", "-f", "-", stdin=listed(*grants())).must()
        kubectl("apply", "-n=there", "-f", "-", stdin=listed(*grants()[:2])).must()
        found = Namespace(kubectl, "here")
        in_force(found)
        yield found


def external(**more: Any) -> Spec:
    return {"external": {"host": "db.example.com", **more}}


def s3(**more: Any) -> Spec:
    return {"s3": {"bucket": "b", "endpoint": "https://s3.example.com", **more}}


def volume(claim: str, **more: Any) -> Spec:
    return {"pvc": {"claimName": claim}, **more}


def pulled(*secrets: str) -> Spec:
    return {"imagePullSecrets": [{"name": name} for name in secrets]}


NAMING = [
    pytest.param("Database", lambda name: external(credentialsSecretRef={"name": name}), id="login"),
    pytest.param("Database", lambda name: external(caSecretRef={"name": name}), id="certificate of a server"),
    pytest.param("Database", pulled, id="registry of a Database"),
    pytest.param("Database", lambda name: pulled(THEIRS, *[THEIRS] * 6, name), id="the last of eight"),
    pytest.param(
        "Database",
        lambda name: (
            pulled(*[THEIRS] * 8) | external(credentialsSecretRef={"name": THEIRS}, caSecretRef={"name": name})
        ),
        id="one of ten",
    ),
    pytest.param("Backup", pulled, id="registry of a Backup"),
    pytest.param("Restore", pulled, id="registry of a Restore"),
    pytest.param("BackupStore", lambda name: s3(credentialsSecretRef={"name": name}), id="keys of a bucket"),
    pytest.param(
        "BackupStore",
        lambda name: s3(credentialsSecretRef={"name": THEIRS}, caSecretRef={"name": name}),
        id="certificate of a store",
    ),
    pytest.param("ScheduledBackup", lambda name: {"template": {"spec": pulled(name)}}, id="registry of a template"),
]


@pytest.mark.parametrize(("kind", "naming"), NAMING)
def test_a_secret_is_named_by_who_may_read_it(kind: str, naming: Any, namespace: Namespace) -> None:
    namespace.create(READER, kind, naming(THEIRS)).must()
    for user in (READER, AUTHOR):
        refused = namespace.create(user, kind, naming(OTHER))
        assert not refused.accepted
        # the author, who may read none, is told of the first one
        assert f'{kind} "x" names the Secret "{OTHER if user == READER else ""}' in refused.text
        assert f"which {user} may not read: name another one, or have the verb get on secrets granted" in refused.text
        assert 'in the namespace "here"' in refused.text


def test_a_right_in_another_namespace_is_none_here(namespace: Namespace) -> None:
    there = Namespace(namespace.kubectl, "there")
    assert not there.create(READER, "Database", pulled(THEIRS)).accepted


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        pytest.param("Database", {}, id="empty"),
        pytest.param("Database", {"image": "registry.example.com/postgres:17"}, id="image"),
        pytest.param("Database", external(), id="external without Secrets"),
        pytest.param("Backup", {"databaseRef": {"name": "db"}}, id="backup"),
        pytest.param("Restore", {"databaseRef": {"name": "db"}}, id="restore"),
        pytest.param("ScheduledBackup", {"template": {"spec": {"databaseRef": {"name": "db"}}}}, id="schedule"),
    ],
)
def test_who_may_read_nothing_may_still_create_what_names_no_secret(
    kind: str, spec: Spec, namespace: Namespace
) -> None:
    namespace.create(AUTHOR, kind, spec).must()


def test_more_than_can_be_checked_is_refused(namespace: Namespace) -> None:
    refused = namespace.create(READER, "Database", pulled(*[THEIRS] * 11))
    assert "at most 10 Secrets can be checked" in refused.text


def test_a_service_account_is_named_by_who_may_act_as_it(namespace: Namespace) -> None:
    """The uploader's pod runs as it, so its rights at the cloud's provider are lent as a Secret would be."""
    namespace.create(READER, "BackupStore", s3(serviceAccountName=THEIRS)).must()
    refused = namespace.create(READER, "BackupStore", s3(serviceAccountName=OTHER))
    assert 'BackupStore "x" names the ServiceAccount "other", which reader may not act as' in refused.text


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(s3(), id="neither keys nor account"),
        pytest.param(s3(caSecretRef={"name": THEIRS}), id="a certificate only"),
    ],
)
def test_without_keys_a_store_acts_as_the_default_account(spec: Spec, namespace: Namespace) -> None:
    refused = namespace.create(READER, "BackupStore", spec)
    assert 'BackupStore "x" names the ServiceAccount "default", which reader may not act as' in refused.text
    namespace.create(READER, "BackupStore", spec | s3(credentialsSecretRef={"name": THEIRS})).must()


def test_a_claim_is_named_by_who_may_change_it(namespace: Namespace) -> None:
    """Jobs write into it, and the dumps that lie there can be read by way of a Restore."""
    namespace.create(READER, "BackupStore", volume(THEIRS)).must()
    refused = namespace.create(READER, "BackupStore", volume(OTHER))
    assert 'BackupStore "x" names the PersistentVolumeClaim "other", which reader may not change' in refused.text
    assert "have the verb update on persistentvolumeclaims granted for the name" in refused.text
    assert 'in the namespace "here"' in refused.text
    there = Namespace(namespace.kubectl, "there")
    assert not there.create(READER, "BackupStore", volume(THEIRS)).accepted


def test_the_operator_may_copy_a_template(namespace: Namespace) -> None:
    namespace.create(OPERATOR, "Backup", pulled(OTHER)).must()


LOGIN = external(credentialsSecretRef={"name": OTHER})
KEYS = s3(credentialsSecretRef={"name": OTHER})

HARMLESS = [
    pytest.param("Database", LOGIN, LOGIN | {"deletionPolicy": "Delete"}, id="deletion policy"),
    pytest.param("Database", LOGIN, LOGIN | {"resources": {"limits": {"cpu": 1}}}, id="resources"),
    pytest.param("Database", pulled(OTHER), {}, id="pull secret taken away"),
    pytest.param("Database", LOGIN, {}, id="all of it taken away"),
    pytest.param("Database", pulled(OTHER, THEIRS), pulled(OTHER, THEIRS), id="nothing"),
    pytest.param("Database", pulled(OTHER) | {"image": "r.example.com:5000/a/postgres:17"},
                 pulled(OTHER) | {"image": "r.example.com:5000/a/postgres:17.6@sha256:00"}, id="tag and digest"),
    pytest.param("BackupStore", KEYS, KEYS | {"discover": True}, id="beside the bucket"),
    pytest.param("BackupStore", volume(OTHER), volume(OTHER, discover=True), id="beside the claim"),
    pytest.param("ScheduledBackup", {"schedule": "@daily", "template": {"spec": pulled(OTHER)}},
                 {"schedule": "@weekly", "template": {"spec": pulled(OTHER)}}, id="schedule"),
]  # fmt: skip

REDIRECTING = [
    pytest.param("Database", LOGIN, external(host="evil.example.com", credentialsSecretRef={"name": OTHER}), id="host"),
    pytest.param("Database", LOGIN, LOGIN | {"image": "evil.example.com/postgres:17"}, id="image beside a login"),
    pytest.param("Database", pulled(OTHER), pulled(OTHER) | {"image": "evil.example.com/postgres"}, id="registry"),
    pytest.param("Database", pulled(OTHER) | {"image": "r.example.com:5000/a/postgres:17"},
                 pulled(OTHER) | {"image": "r.example.com:6000/a/postgres:17"}, id="registry's port"),
    pytest.param("Database", pulled(OTHER) | {"image": "a/postgres:17"},
                 pulled(OTHER) | {"image": "b/postgres:17"}, id="repository"),
    pytest.param("Database", pulled(OTHER), external(credentialsSecretRef={"name": OTHER}), id="for another purpose"),
    pytest.param("Database", {}, pulled(OTHER), id="a first one"),
    pytest.param("Database", pulled(THEIRS), pulled(THEIRS, OTHER), id="one more"),
    pytest.param("BackupStore", KEYS, s3(endpoint="https://evil.example.com", credentialsSecretRef={"name": OTHER}),
                 id="endpoint"),
    pytest.param("ScheduledBackup", {"template": {"spec": pulled(OTHER)}},
                 {"template": {"spec": pulled(OTHER) | {"databaseRef": {"name": "mine"}}}},
                 id="Database with another image"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "before", "after"), HARMLESS)
def test_what_lies_beside_a_secret_can_be_changed(kind: str, before: Spec, after: Spec, namespace: Namespace) -> None:
    namespace.replace(AUTHOR, kind, before, after).must()


@pytest.mark.parametrize(("kind", "before", "after"), REDIRECTING)
def test_a_secret_cannot_be_sent_elsewhere(kind: str, before: Spec, after: Spec, namespace: Namespace) -> None:
    refused = namespace.replace(READER, kind, before, after)
    assert f'names the Secret "{OTHER}", which reader may not read' in refused.text


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        pytest.param(volume(THEIRS), volume(OTHER), 'PersistentVolumeClaim "other"', id="claim"),
        pytest.param(s3(credentialsSecretRef={"name": THEIRS}), s3(), 'ServiceAccount "default"', id="keys taken away"),
    ],
)
def test_a_store_cannot_be_moved_to_what_is_not_theirs(
    before: Spec, after: Spec, what: str, namespace: Namespace
) -> None:
    assert f"names the {what}, which reader may not" in namespace.replace(READER, "BackupStore", before, after).text


def test_an_object_that_is_deleted_can_let_go_and_not_be_redirected(namespace: Namespace) -> None:
    """The operator acts on a store that hangs at a finalizer; so `is being deleted` is no excuse."""
    kubectl, here, store = namespace.kubectl, f"-n={namespace.name}", "backupstore/held"
    held = body("BackupStore", KEYS, "held")
    held["metadata"]["finalizers"] = ["example.com/held"]
    kubectl("create", here, "-f", "-", stdin=held).must()
    kubectl("delete", here, store, "--wait=false", f"--as={AUTHOR}").must()

    def patch(user: str, change: Any) -> Answer:
        return kubectl("patch", here, store, f"--as={user}", "--type=merge", f"--patch={json.dumps(change)}")

    refused = patch(AUTHOR, {"spec": {"s3": {"endpoint": "https://evil.example.com"}}})
    assert f'names the Secret "{OTHER}"' in refused.text
    patch(AUTHOR, {"metadata": {"labels": {"a": "b"}}}).must()
    patch(AUTHOR, {"metadata": {"finalizers": None}}).must()


def test_a_status_is_not_looked_at(namespace: Namespace) -> None:
    kubectl, here = namespace.kubectl, f"-n={namespace.name}"
    kubectl("create", here, "-f", "-", stdin=body("Database", LOGIN, "judged")).must()
    change = json.dumps({"status": {"phase": "Ready"}})
    for user in (AUTHOR, OPERATOR):
        patch = ["--subresource=status", "--type=merge", f"--patch={change}"]
        kubectl("patch", here, "database/judged", f"--as={user}", *patch).must()


def test_the_kinds_as_they_are(kubectl: Kubectl) -> None:
    """The same with the CRDs of this version, whose schemas may lack fields that the policy names."""
    kubectl("apply", "-k", str(CONFIG / "admission")).must()
    kubectl("create", "namespace", "credentials").must()
    kubectl("apply", "-n=credentials", "-f", "-", stdin=listed(*grants())).must()
    ours = Namespace(kubectl, "credentials")
    in_force(ours)
    specs: dict[str, Spec] = {
        "Database": {},
        "Backup": {"databaseRef": {"name": "db"}},
        "Restore": {"databaseRef": {"name": "db"}, "backupRef": {"name": "b"}},
    }
    for kind, spec in specs.items():
        ours.create(AUTHOR, kind, spec).must()
        ours.create(READER, kind, spec | pulled(*[THEIRS] * 8)).must()
        refused = ours.create(READER, kind, spec | pulled(THEIRS, OTHER))
        assert f'{kind} "x" names the Secret "{OTHER}", which reader may not read' in refused.text
    ours.create(READER, "BackupStore", volume(THEIRS)).must()
    assert 'PersistentVolumeClaim "other"' in ours.create(AUTHOR, "BackupStore", volume(OTHER)).text
