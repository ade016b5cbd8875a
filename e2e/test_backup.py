"""Backup on a real cluster: what is good is called good, and nothing else."""

from __future__ import annotations

import base64
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from e2e import kit
from e2e.cluster import kubectl_command, select
from e2e.support import apply, delete, get, items, kubectl, psql, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def locked(namespace: str, table: str) -> Iterator[None]:
    """Holds a table so that pg_dump, which wants to read it, waits."""
    text = f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; SELECT 'locked'; SELECT pg_sleep(600);"
    command = [*kubectl_command(select().kubeconfig()), "exec", "-n", namespace, "shop-0", "--"]
    psql_command = ["psql", "-XAtq", "-U", "postgres", "-d", "app", "-c", text]
    with subprocess.Popen([*command, *psql_command], stdout=subprocess.PIPE, text=True) as holder:
        held = f"SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND mode = 'AccessExclusiveLock' AND granted"
        wait_for(lambda: psql(namespace, "shop-0", held, dbname="app") == "1", 20, f"the lock on {table}")
        try:
            yield
        finally:
            psql(
                namespace,
                "shop-0",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'",
            )
            holder.wait(timeout=20)


def artifacts(namespace: str, claim: str = "backups") -> list[str]:
    """What lies under a final name."""
    return [
        path for path in kit.claim_files(namespace, claim) if "/" in path and not path.split("/")[1].startswith(".")
    ]


def leftovers(namespace: str, claim: str = "backups") -> list[str]:
    """What a run that did not finish left behind."""
    return [path for path in kit.claim_files(namespace, claim) if ".partial" in path]


@pytest.mark.parametrize(("format_", "version"), [("custom", 17), ("plain", 15)])
def test_a_backup_says_what_it_made(namespace: str, format_: str, version: int) -> None:
    kit.ready_database(namespace, version=version)
    kit.sql(namespace, kit.SCHEMA)
    status = kit.back_up(namespace, format=format_)
    uid = get("backup", status["name"], namespace)["metadata"]["uid"]
    path = f"shop/{status['name']}-{uid}"
    assert status["backupLocation"] == f"pvc://backups/{path}"
    assert status["sizeBytes"] > 1000
    assert status["checksum"].startswith("sha256:")
    assert status["serverVersion"].startswith(str(version))
    assert status["toolVersion"].startswith(str(version))
    assert status["startTime"] <= status["backupTime"] <= status["completionTime"]
    condition = status["conditions"][0]
    assert (condition["type"], condition["status"]) == ("Complete", "True")
    kit.wait_events(namespace, status["name"], "BackupCompleted")

    file = "dump.pgdump" if format_ == "custom" else "dump.sql"
    assert sorted(artifacts(namespace)) == [path, f"{path}/{file}", f"{path}/manifest.json"]
    assert leftovers(namespace) == []
    assert "ownerReferences" not in get("pvc", "backups", namespace)["metadata"]

    table = kubectl("get", "pgb", "-n", namespace).splitlines()
    assert table[0].split()[:3] == ["NAME", "PHASE", "DATABASE"]
    assert table[1].split()[:3] == [status["name"], "Completed", "shop"]
    log = kubectl("logs", f"job/{status['jobRef']['name']}", "-n", namespace)
    assert str(status["sizeBytes"]) in log
    secret = get("secret", "shop-credentials", namespace)["data"]
    for value in secret.values():
        if (text := base64.b64decode(value).decode()) != "app":
            assert text not in log


def test_everything_may_be_applied_at_once(namespace: str) -> None:
    """The Backup comes first; it waits for its Database, and for its store."""
    name = kit.start_backup(namespace, storeRef={"name": "vault"})
    waiting = kit.wait_reason("backup", name, namespace, "DatabaseNotFound")
    assert waiting["status"]["phase"] == "Pending"
    assert '"shop"' in waiting["status"]["conditions"][0]["message"]
    kit.create_database(namespace)
    kit.wait_reason("backup", name, namespace, "DatabaseNotReady")
    kit.wait_ready(namespace)
    kit.wait_reason("backup", name, namespace, "StoreNotFound")
    apply(kit.resource("BackupStore", "vault", {"pvc": {"claimName": "vault"}}), namespace)
    kit.wait_reason("backup", name, namespace, "ClaimNotFound")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "vault"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    apply(claim, namespace)
    status = kit.completed("backup", name, namespace)
    assert status["backupLocation"].startswith("pvc://vault/")


def test_the_store_named_default_is_the_default(namespace: str) -> None:
    kit.ready_database(namespace)
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "attic"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    apply([claim, kit.resource("BackupStore", "default", {"pvc": {"claimName": "attic"}})], namespace)
    assert kit.back_up(namespace)["backupLocation"].startswith("pvc://attic/")
    assert get("pvc", "backups", namespace) is None


def test_a_wrong_password(namespace: str) -> None:
    kit.ready_database(namespace)
    psql(namespace, "shop-0", "ALTER ROLE app PASSWORD 'something else'")
    message = kit.failed("backup", kit.start_backup(namespace), namespace, "AuthenticationFailed")
    assert "password authentication failed" in message
    assert artifacts(namespace) == leftovers(namespace) == []


def test_an_unreachable_host(namespace: str) -> None:
    kit.ready_database(namespace)
    kubectl("patch", "service", "shop", "-n", namespace, "-p", '{"spec":{"selector":{"database":"nowhere"}}}')
    message = kit.failed("backup", kit.start_backup(namespace), namespace, "DatabaseUnreachable")
    assert f"shop.{namespace}.svc.cluster.local" in message
    assert artifacts(namespace) == leftovers(namespace) == []


def test_a_full_volume_and_the_next_backup_elsewhere(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.noise(50))
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "small"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "tiny",
            "resources": {"requests": {"storage": "16Mi"}},
        },
    }
    apply([claim, kit.resource("BackupStore", "small", {"pvc": {"claimName": "small"}})], namespace)
    message = kit.failed("backup", kit.start_backup(namespace, storeRef={"name": "small"}), namespace, "VolumeFull")
    assert "is full" in message
    assert artifacts(namespace, "small") == leftovers(namespace, "small") == []
    kit.back_up(namespace)


def kill(namespace: str, pod: str, program: str, signal: str = "KILL") -> None:
    """Kill a program in a Job's pod; the images have no pgrep."""
    script = f'for p in /proc/[0-9]*; do [ "$(cat $p/comm 2>/dev/null)" != {program} ] || kill -{signal} "${{p#/proc/}}"; done'
    kubectl("exec", "-n", namespace, pod, "--", "bash", "-c", script)


def test_pg_dump_killed_half_way(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE held AS SELECT 1 AS n")
    with locked(namespace, "held"):
        name = kit.start_backup(namespace)
        pod = kit.job_pod(namespace, "backup", name)
        waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postgres-operator' AND wait_event_type = 'Lock'"
        wait_for(lambda: psql(namespace, "shop-0", waits) == "1", 30, "pg_dump to wait for the lock")
        kill(namespace, pod, "pg_dump")
        message = kit.failed("backup", name, namespace, "DumpFailed")
    assert "signal" in message
    job = get("backup", name, namespace)["status"]["jobRef"]["name"]
    assert "Dumping into" in kubectl("logs", f"job/{job}", "-n", namespace), "a Job that failed keeps its log"
    assert artifacts(namespace) == leftovers(namespace) == []
    kit.back_up(namespace)


def test_a_job_deleted_by_hand(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE held AS SELECT 1 AS n")
    with locked(namespace, "held"):
        name = kit.start_backup(namespace)
        kit.job_pod(namespace, "backup", name)
        job = get("backup", name, namespace)["status"]["jobRef"]["name"]
        delete("job", job, namespace)
        kit.failed("backup", name, namespace, "JobLost")
    assert get("job", job, namespace) is None, "one Job ever"
    assert artifacts(namespace) == leftovers(namespace) == []


def test_a_job_orphaned_by_hand_is_failed_only_when_its_pod_is_gone(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE held AS SELECT 1 AS n")
    with locked(namespace, "held"):
        name = kit.start_backup(namespace)
        pod = kit.job_pod(namespace, "backup", name)
        kubectl(
            "delete",
            "job",
            get("backup", name, namespace)["status"]["jobRef"]["name"],
            "-n",
            namespace,
            "--cascade=orphan",
        )
        shown = kit.wait_reason("backup", name, namespace, "StoppingJob", says=pod)
        assert shown["status"]["phase"] == "InProgress"
        delete("pod", pod, namespace)
        kit.failed("backup", name, namespace, "JobLost")
    assert artifacts(namespace) == []


def test_a_deadline_ends_a_hanging_dump(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE held AS SELECT 1 AS n")
    with locked(namespace, "held"):
        name = kit.start_backup(namespace, activeDeadlineSeconds=30)  # until pg_dump waits
        message = kit.failed("backup", name, namespace, "DeadlineExceeded", deadline=30 + kit.MINUTE)
    assert artifacts(namespace) == []
    job = get("backup", name, namespace)["status"]["jobRef"]["name"]
    assert f"kubectl logs -n {namespace} job/{job}" in message
    assert "Dumping into" in kubectl("logs", f"job/{job}", "-n", namespace), "what hung can be looked at"


def test_a_quota_that_allows_no_pod(namespace: str) -> None:
    kit.ready_database(namespace)
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full"},
        "spec": {"hard": {"pods": "1"}},
    }
    apply(quota, namespace)
    wait_for(lambda: (get("quota", "full", namespace) or {}).get("status", {}).get("used"), 20, "the quota to count")
    name = kit.start_backup(namespace)
    message = kit.failed("backup", name, namespace, "QuotaExceeded")
    assert "exceeded quota: full" in message
    delete("quota", "full", namespace)
    assert (
        items("jobs", namespace, f"database.example.com/uid={get('backup', name, namespace)['metadata']['uid']}") == []
    )
    kit.back_up(namespace)


def test_an_image_that_does_not_exist(namespace: str) -> None:
    kit.ready_database(namespace)
    kubectl("patch", "db", "shop", "-n", namespace, "--type=merge", "-p", '{"spec":{"image":"postgres:17.999"}}')
    kit.wait_reason("db", "shop", namespace, "ImagePullFailed", deadline=90, says="postgres:17.999")
    kubectl("patch", "db", "shop", "-n", namespace, "--type=merge", "-p", '{"spec":{"image":"postgres:17"}}')

    def mended() -> bool:
        server = get("sts", "shop", namespace)
        return bool(server) and server["spec"]["template"]["spec"]["containers"][0]["image"] == "postgres:17"

    wait_for(mended, 30, "the StatefulSet to name the image")
    # The StatefulSet's controller does not replace a pod that never became ready.
    delete("pod", "shop-0", namespace)
    kit.wait_ready(namespace)


@pytest.mark.alone  # the operator is away
def test_a_report_that_was_lost_is_read_from_the_manifest(namespace: str) -> None:
    """The pod goes before the operator has seen it: the manifest tells what was made."""
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE held AS SELECT 1 AS n")
    system = "postgres-operator-system"
    deployment = ("deployment/postgres-operator-controller-manager", "-n", system)
    try:
        with locked(namespace, "held"):  # the operator sleeps while the Job ends and its pod is taken away
            name = kit.start_backup(namespace)
            kit.job_pod(namespace, "backup", name)
            kubectl("scale", *deployment, "--replicas=0")
            wait_for(lambda: not items("pods", system), 30, "the operator to be gone")
        job = get("backup", name, namespace)["status"]["jobRef"]["name"]
        kubectl("wait", "--for=condition=Complete", f"job/{job}", "-n", namespace, "--timeout=60s")
        kubectl("delete", "pods", "-n", namespace, "-l", f"batch.kubernetes.io/job-name={job}")
    finally:
        kubectl("scale", *deployment, "--replicas=3")
        kubectl("rollout", "status", *deployment, "--timeout=120s")
    status = kit.completed("backup", name, namespace)
    assert status["checksum"].startswith("sha256:")
    assert len(items("jobs", namespace, "database.example.com/kind=backup")) == 2


def test_a_backup_deleted_while_it_runs_leaves_nothing_behind(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE held AS SELECT 1 AS n")
    with locked(namespace, "held"):
        kit.start_backup(namespace, "same-name")
        pod = kit.job_pod(namespace, "backup", "same-name")
        delete("backup", "same-name", namespace)
        kit.start_backup(namespace, "same-name")  # recreated at once
        wait_for(lambda: get("pod", pod, namespace) is None, 60, "the first pod to go")
    kit.completed("backup", "same-name", namespace)
    found = artifacts(namespace)
    assert len([p for p in found if p.endswith("manifest.json")]) == 1
    assert leftovers(namespace) == []
