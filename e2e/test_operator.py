"""The operator itself: what it may do, how it logs, what happens when it stops, and its templates."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e import fleet, kit
from e2e.cluster.configs import ACCOUNT, SYSTEM
from e2e.fleet import rolled_out
from e2e.support import delete, get, items, kubectl, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.audit import AuditLog

pytestmark = pytest.mark.alone
SELECTOR = "control-plane=controller-manager"
DEPLOYMENT = "deployment/postgres-operator-controller-manager"
TEMPLATES = Path(__file__).parent.parent / "job_templates"
# Less than the grace of its pod: what takes longer is killed.
STOP_SECONDS = 8.0


def can(verb: str, what: str) -> bool:
    """Asked as a review, for kubectl's own question fails in the same way whether the answer is no or there is none."""
    name, _, sub = what.partition("/")
    resource, _, group = name.partition(".")
    attributes = {"verb": verb, "resource": resource, "subresource": sub, "group": group}
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}", "system:authenticated"]
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "groups": groups, "resourceAttributes": attributes},
    }
    answer = json.loads(kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(review)))
    allowed: bool = answer["status"]["allowed"]
    return allowed


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize(
    ("what", "allowed"),
    [
        ("secrets", {"create"}),
        ("pods", {"list"}),
        ("events", {"create", "list"}),
        ("persistentvolumeclaims", {"get", "create"}),
        ("pods/exec", set()),
        ("pods/log", set()),
        ("configmaps", set()),
        ("nodes", set()),
        ("namespaces", set()),
        ("deployments.apps", set()),
        ("leases.coordination.k8s.io", set()),  # one of them, in its own namespace
        ("databases.database.example.com", {"get", "list", "watch"}),
        ("backups.database.example.com", {"get", "list", "watch", "create", "delete", "patch"}),
    ],
)
def test_what_the_operator_may_do(what: str, allowed: set[str]) -> None:
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    assert {verb for verb in verbs if can(verb, what)} == allowed


def logs() -> str:
    """Of all replicas: the leader may have changed."""
    return kubectl("logs", "-n", SYSTEM, "--selector", SELECTOR, "--tail=-1")


def restarts() -> int:
    return sum(status["restartCount"] for pod in fleet.pods() for status in pod["status"]["containerStatuses"])


def test_the_log_has_one_line_a_transition_and_no_password(namespace: str) -> None:
    kit.ready_database(namespace)
    name = kit.back_up(namespace)["name"]
    log = logs()
    lines = [line for line in log.splitlines() if f"Backup {namespace}/{name}" in line and "STATE TRANSITION" in line]
    assert ["Pending -> InProgress" in lines[0], "InProgress -> Completed" in lines[1]] == [True, True]
    assert len(lines) == 2
    database = [line for line in log.splitlines() if f"Database {namespace}/shop" in line]
    assert any("STATE TRANSITION: Verifying -> Ready" in line for line in database)
    assert any("not all replicas ready: 0/1" in line for line in database)
    secret = get("secret", "shop-credentials", namespace)["data"]
    for key in ("password", "superuser-password"):
        assert base64.b64decode(secret[key]).decode() not in log


def test_a_restarted_operator_goes_on_where_it_was(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA)
    names = [kit.start_backup(namespace) for _ in range(5)]
    kubectl("delete", "pod", fleet.leader_pod(), "-n", SYSTEM, "--grace-period=0", "--force")
    for name in names:
        status = kit.completed("backup", name, namespace)
        uid = get("backup", name, namespace)["metadata"]["uid"]
        jobs = items("jobs", namespace, f"database.example.com/uid={uid}")
        assert [j["metadata"]["name"] for j in jobs] == [status["jobRef"]["name"]]


@pytest.mark.usefixtures("operator")
def test_a_stop_takes_no_longer_than_a_few_seconds_and_ends_well(log: AuditLog) -> None:
    fleet.wait_fleet()
    leader, told = fleet.leader(), time.time()
    kubectl("delete", "pod", leader.pod, "-n", SYSTEM, "--wait=false")
    ended = log.ended[leader.identity] = fleet.wait_end(leader.pid, 20, leader.identity)
    assert ended - told < STOP_SECONDS
    assert log.released(leader.identity), "it was ended before it could give up the Lease"
    rolled_out()


def test_one_backup_takes_three_writes_and_one_event(namespace: str, log: AuditLog) -> None:
    """Measured at the API server: all that the operator writes in the namespace."""

    def writes() -> Counter[str]:
        return Counter(f"{e.verb} {e.resource}" for e in log.writes() if e.namespace == namespace)

    kit.ready_database(namespace)
    first = kit.back_up(namespace)  # the claim is known from now on
    kit.wait_events(namespace, first["name"], "BackupCompleted")
    before = writes()
    status = kit.back_up(namespace)
    kit.wait_events(namespace, status["name"], "BackupCompleted")
    assert writes() - before == {"create jobs": 1, "patch backups/status": 2, "create events": 1}
    assert (get("backup", status["name"], namespace) or {})["metadata"]["generation"] == 1


@contextmanager
def templates(changes: dict[str, str]) -> Iterator[None]:
    """The operator with other job templates mounted over its own."""
    files = {path.name: path.read_text() for path in TEMPLATES.iterdir()} | changes
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "templates"}, "data": files}
    kubectl("create", "-f", "-", "-n", SYSTEM, stdin=json.dumps(config))
    before = json.loads(kubectl("get", DEPLOYMENT, "-n", SYSTEM, "-o", "json"))["spec"]["template"]["spec"]
    container = {
        "name": "manager",
        "volumeMounts": [*before["containers"][0]["volumeMounts"], {"name": "templates", "mountPath": "/templates"}],
        "env": [*before["containers"][0].get("env", []), {"name": "JOB_TEMPLATES_DIR", "value": "/templates"}],
    }
    volumes = [*before["volumes"], {"name": "templates", "configMap": {"name": "templates"}}]
    patch = {"spec": {"template": {"spec": {"containers": [container], "volumes": volumes}}}}
    try:
        kubectl("patch", DEPLOYMENT, "-n", SYSTEM, "-p", json.dumps(patch))
        rolled_out()
        yield
    finally:
        kubectl("rollout", "undo", DEPLOYMENT, "-n", SYSTEM)
        rolled_out()
        delete("configmap", "templates", SYSTEM)


def test_templates_of_ones_own(namespace: str) -> None:
    """Overriding works, a template that Pod Security refuses and one that is broken fail what uses them, and no more."""
    kit.ready_database(namespace)
    backup = (TEMPLATES / "backup.yaml.j2").read_text()
    host_path = backup.replace("volumes:\n", "volumes:\n        - {name: host, hostPath: {path: /}}\n")
    assert host_path != backup
    broken = "kind: Job\nvalue: {{ no_such_variable }}\n"
    with templates({"backup.yaml.j2": host_path, "restore.yaml.j2": broken}):
        name = kit.start_backup(namespace)
        message = kit.failed("backup", name, namespace, "PodSecurityRejected")
        assert "hostPath" in message
        uid = get("backup", name, namespace)["metadata"]["uid"]
        wait_for(lambda: not items("jobs", namespace, f"database.example.com/uid={uid}"), 20, "its Job to be deleted")

        before = restarts()
        name = kit.start_restore(namespace, location="pvc://backups/shop/x")
        message = kit.failed("restore", name, namespace, "TemplateInvalid")
        assert "no_such_variable" in message
        assert restarts() == before
    kit.back_up(namespace)
