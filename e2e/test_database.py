"""Database on a real cluster."""

from __future__ import annotations

import base64
import json

from e2e import kit
from e2e.support import apply, delete, get, items, kubectl, wait_for, wait_gone


def uid(kind: str, name: str, namespace: str) -> str:
    """Empty while there is none of that name."""
    return str((get(kind, name, namespace) or {}).get("metadata", {}).get("uid", ""))


def test_a_database_becomes_ready_and_says_how_to_reach_it(namespace: str) -> None:
    kit.create_database(namespace, storage={"size": "1Gi"})
    kubectl("wait", "--for=jsonpath={.status.phase}=Ready", "database/shop", "-n", namespace, "--timeout=120s")
    status = get("database", "shop", namespace)["status"]
    endpoint = f"shop.{namespace}.svc.cluster.local:5432"
    assert status["endpoint"] == endpoint
    assert status["ready"] is True
    assert status["secretName"] == "shop-credentials"
    assert status["serverVersion"].startswith("17")
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Ready")
    said = f"Database is ready at {endpoint}"
    wait_for(lambda: said in [e["message"] for e in kit.events(namespace, "shop")], 15, "the Event")

    table = kubectl("get", "db", "-n", namespace).splitlines()
    assert table[0].split() == ["NAME", "PHASE", "READY", "ENDPOINT", "AGE"]
    assert table[1].split()[:4] == ["shop", "Ready", "true", endpoint]

    assert [p["metadata"]["name"] for p in items("pods", namespace, "app=database,database=shop")] == ["shop-0"]
    secret = get("secret", "shop-credentials", namespace)
    password = base64.b64decode(secret["data"]["password"]).decode()
    assert len(password) >= 24
    assert "ownerReferences" not in secret["metadata"], "what is retained must not be collected"
    assert password not in kubectl("logs", "shop-0", "-n", namespace)
    assert kit.sql(namespace, "SELECT current_user, current_database()") == "app|app"
    assert kit.sql(namespace, "SELECT rolsuper FROM pg_roles WHERE rolname = 'app'") == "f"
    shared_memory = kubectl("exec", "shop-0", "-n", namespace, "--", "df", "--output=size", "-BM", "/dev/shm")
    assert shared_memory.split()[-1] == "256M"


def test_names_that_are_not_ascii(namespace: str) -> None:
    kit.ready_database(namespace, version=15, databaseName="Käse & Brot", username="büro")
    answer = kit.sql(namespace, "SELECT current_user, current_database()", dbname="Käse & Brot", user="büro")
    assert answer == "büro|Käse & Brot"


def test_a_deleted_database_comes_back_with_its_data_and_passwords(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = get("secret", "shop-credentials", namespace)["data"]
    delete("database", "shop", namespace)
    wait_gone("pod", "shop-0", namespace)
    kit.ready_database(namespace)
    assert kit.sql(namespace, "SELECT answer FROM kept") == "42"
    assert get("secret", "shop-credentials", namespace)["data"] == before


def test_deletion_policy_delete_takes_volume_and_secret_also_when_it_is_set_later(namespace: str) -> None:
    kit.ready_database(namespace, name="set-at-once", deletionPolicy="Delete")
    kit.ready_database(namespace, name="kept-after-all", deletionPolicy="Delete")
    kubectl(
        "patch", "db", "kept-after-all", "-n", namespace, "--type=merge", "-p", '{"spec":{"deletionPolicy":"Retain"}}'
    )
    wait_for(
        lambda: (
            (found := get("sts", "kept-after-all", namespace))
            and found["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
        ),
        30,
        "the policy to reach the StatefulSet",
    )
    # The StatefulSet's controller takes the ownerReference off the claim again.
    wait_for(
        lambda: (
            (found := get("pvc", "data-kept-after-all-0", namespace)) and not found["metadata"].get("ownerReferences")
        ),
        30,
        "the claim to be free",
    )
    kit.wait_ready(namespace, "kept-after-all")
    for name in ("set-at-once", "kept-after-all"):
        delete("database", name, namespace)
        wait_gone("pod", f"{name}-0", namespace)
    wait_gone("pvc", "data-set-at-once-0", namespace)
    wait_gone("secret", "set-at-once-credentials", namespace)
    assert get("pvc", "data-kept-after-all-0", namespace)
    assert get("secret", "kept-after-all-credentials", namespace)


def test_more_than_one_replica_is_refused_and_a_running_server_goes_on(namespace: str) -> None:
    kit.create_database(namespace, name="two", replicas=2)
    status = kit.wait_phase("database", "two", namespace, "Failed")["status"]
    assert status["conditions"][0]["reason"] == "ReplicasNotSupported"
    assert "set it to 1" in status["conditions"][0]["message"]
    assert not get("sts", "two", namespace)
    kubectl("patch", "db", "two", "-n", namespace, "--type=merge", "-p", '{"spec":{"replicas":1}}')
    kit.wait_ready(namespace, "two")
    kubectl("patch", "db", "two", "-n", namespace, "--type=merge", "-p", '{"spec":{"replicas":3}}')
    kit.wait_reason("database", "two", namespace, "ReplicasNotSupported")
    assert get("database", "two", namespace)["status"]["phase"] == "Ready"
    assert kit.sql(namespace, "SELECT 1", "two") == "1"


def test_lost_credentials_are_named_and_never_made_anew(namespace: str) -> None:
    kit.ready_database(namespace)
    secret = get("secret", "shop-credentials", namespace)
    delete("secret", "shop-credentials", namespace)
    delete("pod", "shop-0", namespace)
    found = kit.wait_phase("database", "shop", namespace, "Failed")
    assert found["status"]["conditions"][0]["reason"] == "CredentialsLost"
    assert "shop-credentials" in found["status"]["conditions"][0]["message"]
    assert get("secret", "shop-credentials", namespace) is None
    back = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop-credentials"}, "data": secret["data"]}
    apply(json.dumps(back), namespace)
    kit.wait_ready(namespace)


def test_what_is_taken_away_is_put_back(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = uid("service", "shop", namespace)
    delete("service", "shop", namespace)
    wait_for(lambda: get("service", "shop", namespace), 20, "the Service to come back")
    assert uid("service", "shop", namespace) != before
    before = uid("pod", "shop-0", namespace)
    delete("sts", "shop", namespace)
    wait_for(lambda: get("sts", "shop", namespace), 20, "the StatefulSet to come back")
    # The Database is called ready until the operator has noticed.
    wait_for(lambda: uid("pod", "shop-0", namespace) not in ("", before), 120, "a new pod")
    kubectl("wait", "--for=condition=Ready", "pod/shop-0", "-n", namespace, "--timeout=120s", timeout=130)
    kit.wait_ready(namespace)
    assert kit.sql(namespace, "SELECT answer FROM kept") == "42"


def test_a_changed_spec_is_rolled_out(namespace: str) -> None:
    kit.ready_database(namespace)
    resources = {"spec": {"resources": {"requests": {"memory": "64Mi"}}}}
    kubectl("patch", "db", "shop", "-n", namespace, "--type=merge", "-p", json.dumps(resources))

    def rolled_out() -> bool:
        pod, found = get("pod", "shop-0", namespace), get("database", "shop", namespace)
        if pod is None or found is None:  # the pod, between the old one and the new one
            return False
        wanted = pod["spec"]["containers"][0]["resources"].get("requests") == {"memory": "64Mi"}
        return wanted and found["status"]["phase"] == "Ready"

    wait_for(rolled_out, 90, "the new requests to be in the pod")
