"""Databases whose server is somebody else's: one over TLS that these tests make themselves, without the operator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from e2e import kit
from e2e.cluster.pki import Pki
from e2e.support import apply, get, items, kubectl, psql, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Server = Callable[[int], str]

# Nobody gets in without TLS, but for the tests themselves, inside the pod.
ACCESS = "local all all trust\nhostssl all all all scram-sha-256\n"
SETTINGS = ("ssl=on", "ssl_cert_file=/tls/tls.crt", "ssl_key_file=/tls/tls.key", "hba_file=/tls/pg_hba.conf")
ROLES = """
CREATE ROLE sales LOGIN PASSWORD 'open sesame';
CREATE DATABASE sales OWNER sales;
CREATE DATABASE copy OWNER sales;
"""


def secret(name: str, **content: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}


def stateful_set(version: int) -> dict[str, Any]:
    """As little as `restricted` takes."""
    arguments = [word for setting in SETTINGS for word in ("-c", setting)]
    container = {
        "name": "postgres",
        "image": f"postgres:{version}",
        "args": arguments,
        "env": [{"name": "POSTGRES_PASSWORD", "value": "root's"}, {"name": "PGDATA", "value": "/data/pgdata"}],
        "readinessProbe": {"exec": {"command": ["pg_isready", "-q", "-h", "127.0.0.1"]}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "run", "mountPath": "/var/run/postgresql"},
            {"name": "tls", "mountPath": "/tls"},
        ],
    }
    pod = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 999,
            "runAsGroup": 999,
            "fsGroup": 999,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "run", "emptyDir": {}},
            # PostgreSQL takes a key of root's that its group may read.
            {"name": "tls", "secret": {"secretName": "server", "defaultMode": 0o440}},
        ],
    }
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    labels = {"is": "outside"}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "outside"},
        "spec": {
            "serviceName": "outside",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
        },
    }


@pytest.fixture
def server(namespace: str, tmp_path: Path) -> Server:
    """server(version): starts one with a certificate of a private authority; its host name."""

    def start(version: int) -> str:
        host = f"outside.{namespace}.svc.cluster.local"
        pki, other = Pki(tmp_path / "pki"), Pki(tmp_path / "other")
        pki.cert("server", "/CN=outside", f"DNS:{host}")
        key, certificate = ((pki.dir / f"server.{end}").read_text() for end in ("key", "crt"))
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "outside"},
            "spec": {"selector": {"is": "outside"}, "ports": [{"port": 5432}]},
        }
        apply(
            [
                secret("server", **{"tls.key": key, "tls.crt": certificate, "pg_hba.conf": ACCESS}),
                secret("login", password="open sesame", **{"superuser-password": "root's"}),
                secret("authority", **{"ca.crt": pki.ca.read_text()}),
                secret("other-authority", **{"ca.crt": other.ca.read_text()}),
                service,
                stateful_set(version),
            ],
            namespace,
        )
        answers(namespace)
        psql(namespace, "outside-0", ROLES)
        return host

    return start


def answers(namespace: str) -> None:
    def ready() -> Any:
        return (get("sts", "outside", namespace) or {}).get("status", {}).get("readyReplicas")

    wait_for(ready, 90, "the server to be ready")


def create(namespace: str, name: str, host: str, image: str = "postgres:17", **external: Any) -> None:
    """A Database with that external server, or a change of it."""
    wanted = {"host": host, "credentialsSecretRef": {"name": "login"}, "caSecretRef": {"name": "authority"}}
    spec = {"image": image, "databaseName": name, "username": "sales", "external": wanted | external}
    apply(kit.resource("Database", name, spec), namespace)


def fingerprint(namespace: str, database: str) -> str:
    return psql(namespace, "outside-0", kit.FINGERPRINT, database, "sales")


def checks(namespace: str, database: str) -> list[dict[str, Any]]:
    """The check Jobs of a Database."""
    found = get("db", database, namespace)
    assert found
    uid = found["metadata"]["uid"]
    return items("jobs", namespace, f"database.example.com/uid={uid}")


def says(namespace: str, database: str) -> str:
    """The message of a Database; empty while it has none."""
    conditions = (get("db", database, namespace) or {}).get("status", {}).get("conditions", [])
    return conditions[0]["message"] if conditions else ""


def test_backup_and_restore(namespace: str, server: Server) -> None:
    host = server(17)
    create(namespace, "sales", host)
    create(namespace, "copy", host, superuser="postgres")
    status = kit.wait_ready(namespace, "sales")["status"]
    assert status["endpoint"] == f"{host}:5432"
    assert status["secretName"] == "login"
    assert status["serverVersion"].startswith("17.")
    assert status["toolVersion"].startswith("17.")
    for kind, mine in (("sts", ["outside"]), ("svc", ["outside"]), ("pvc", ["data-outside-0"])):
        assert [found["metadata"]["name"] for found in items(kind, namespace)] == mine, "nothing is deployed"
    given = {"server", "login", "authority", "other-authority"}
    assert {s["metadata"]["name"] for s in items("secrets", namespace)} == given, "no credentials are made"

    psql(namespace, "outside-0", kit.SCHEMA, "sales", "sales")
    wanted = fingerprint(namespace, "sales")
    backup = kit.back_up(namespace, "sales")
    kit.wait_ready(namespace, "copy")
    kit.restore(namespace, "copy", backupRef={"name": backup["name"]})
    assert fingerprint(namespace, "copy") == wanted

    psql(namespace, "outside-0", "DROP TABLE orders CASCADE", "copy", "sales")
    kit.restore(namespace, "copy", backupRef={"name": backup["name"]}, mode="Replace")
    assert fingerprint(namespace, "copy") == wanted
    refused = kit.start_restore(namespace, database="sales", backupRef={"name": backup["name"]}, mode="Replace")
    assert "spec.external.superuser" in kit.failed("restore", refused, namespace, "SuperuserMissing")


def test_what_a_check_finds_is_said_and_passes(namespace: str, server: Server) -> None:
    host = server(17)
    create(namespace, "sales", host, "postgres:15", credentialsSecretRef={"name": "missing"})
    found = kit.wait_reason("database", "sales", namespace, "CredentialsLost")
    assert found["status"]["phase"] == "Failed"
    assert '"missing"' in says(namespace, "sales")

    create(namespace, "sales", host, "postgres:15", caSecretRef={"name": "missing"})
    kit.wait_reason("database", "sales", namespace, "CredentialsLost")
    wait_for(lambda: "ca.crt" in says(namespace, "sales"), 60, "the missing authority to be named")

    create(namespace, "sales", host, "postgres:15", caSecretRef={"name": "other-authority"})
    kit.wait_reason("database", "sales", namespace, "TlsFailed")
    assert "certificate verify failed" in says(namespace, "sales")

    create(namespace, "sales", f"outside.{namespace}", "postgres:15")
    wait_for(lambda: "does not match host name" in says(namespace, "sales"), 60, "the name to be wrong")

    create(namespace, "sales", host, "postgres:15")
    status = kit.wait_reason("database", "sales", namespace, "VersionMismatch")["status"]
    assert (status["phase"], status["ready"]) == ("Failed", False)
    assert status["serverVersion"].startswith("17.")
    assert status["toolVersion"].startswith("15.")
    backup = kit.start_backup(namespace, database="sales")
    waiting = kit.wait_reason("backup", backup, namespace, "VersionMismatch")
    assert waiting["status"]["phase"] == "Pending"
    assert not items("jobs", namespace, "database.example.com/kind=backup")

    create(namespace, "sales", host, "postgres:17")
    kit.completed("backup", backup, namespace)


def test_a_server_that_stops_and_starts(namespace: str, server: Server) -> None:
    interval = 30
    create(namespace, "sales", server(17), checkIntervalSeconds=interval)
    ready = kit.wait_ready(namespace, "sales")
    (first,) = checks(namespace, "sales")

    def next_check() -> bool:
        found = checks(namespace, "sales")
        done = [job for job in found if job.get("status", {}).get("succeeded")]
        return len(found) == len(done) == 1 and done[0]["metadata"]["uid"] != first["metadata"]["uid"]

    wait_for(next_check, interval + 60, "the next check to be the only one that is left")
    version = get("db", "sales", namespace)["metadata"]["resourceVersion"]
    assert version == ready["metadata"]["resourceVersion"], "nothing is written while all stays well"

    kubectl("scale", "sts", "outside", "-n", namespace, "--replicas=0")
    wait_for(lambda: get("pod", "outside-0", namespace) is None, 30, "the server to be gone")
    status = kit.wait_phase("database", "sales", namespace, "Failed", deadline=interval + 60)["status"]
    assert status["ready"] is False
    assert status["conditions"][0]["reason"] == "DatabaseUnreachable", json.dumps(status)
    backup = kit.start_backup(namespace, database="sales")
    kit.wait_reason("backup", backup, namespace, "DatabaseNotReady")

    kubectl("scale", "sts", "outside", "-n", namespace, "--replicas=1")
    answers(namespace)
    kit.wait_phase("database", "sales", namespace, "Ready", deadline=interval + 60)
    kit.completed("backup", backup, namespace)
    kit.wait_events(namespace, "sales", "DatabaseReady", "DatabaseReady", "DatabaseUnreachable")
