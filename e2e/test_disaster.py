"""After losing everything: what a store holds is found and restored, by whoever knows the store alone."""

from __future__ import annotations

import secrets
from typing import Any

from e2e import kit
from e2e.object_store import ObjectStore, secret
from e2e.support import apply, diagnose, fresh_namespace, get, kubectl, wait_for

PREFIX = "team/production"
UNTOLD = "INSERT INTO customers (name) VALUES ('came after the backup')"


def discovering(store: dict[str, Any]) -> dict[str, Any]:
    return {**store, "spec": {**store["spec"], "discover": True}}


def listed(namespace: str, store: str, count: int) -> dict[str, dict[str, Any]]:
    """The backups that the store lists, by name, once there are so many."""

    def seen() -> dict[str, Any] | None:
        status = (get("backupstore", store, namespace) or {}).get("status", {})
        return status if status.get("backupCount") == count else None

    status = wait_for(seen, kit.MINUTE, f"backupstore/{store} to list {count} backups")
    assert status["conditions"][0]["reason"] == "Discovered"
    return {backup["name"]: backup for backup in status["backups"]}


def destroy(namespace: str, *kinds: str) -> None:
    kubectl("delete", ",".join(kinds), "--all", "-n", namespace, "--timeout=90s")


def test_a_cluster_is_thrown_away_and_a_new_one_restored_from_the_bucket(operator: None) -> None:  # noqa: ARG001 -- it runs
    suffix = secrets.token_hex(3)
    with fresh_namespace(f"outside-{suffix}") as outside, fresh_namespace(f"new-{suffix}") as new:
        server = ObjectStore(outside)
        authority = server.start()
        kit.create_database(new)
        kit.create_database(new, "copy")
        store = server.backup_store("bucket", prefix=PREFIX)
        with fresh_namespace(f"old-{suffix}") as old:
            apply([*server.secrets(authority), store], old)
            kit.ready_database(old)
            kit.sql(old, kit.SCHEMA)
            before = kit.fingerprint(old)
            monday = kit.back_up(old, name="monday", storeRef={"name": "bucket"})
            kit.sql(old, UNTOLD)
            tuesday = kit.back_up(old, name="tuesday", storeRef={"name": "bucket"})
            after = kit.fingerprint(old)
            kubectl("delete", "namespace", old, "--timeout=110s")
        assert before != after

        try:
            by_name = {"backupRef": {"name": "monday"}, "storeRef": {"name": "bucket"}}
            kit.start_restore(new, "by-name", **by_name)  # it may wait for all that it needs
            kit.wait_reason("restore", "by-name", new, "StoreNotFound")
            apply([*server.secrets(authority), discovering(store)], new)
            found = listed(new, "bucket", 2)
            assert found["monday"]["location"] == monday["backupLocation"]
            assert found["tuesday"]["sizeBytes"] == tuesday["sizeBytes"]
            assert (found["monday"]["namespace"], found["monday"]["database"]) == (old, "shop")
            location = found["tuesday"]["location"]
            kit.restore(new, "copy", location=location, storeRef={"name": "bucket"})
            assert kit.fingerprint(new, "copy") == after
            kit.completed("restore", "by-name", new)
            assert kit.fingerprint(new) == before
        except AssertionError:
            print(diagnose(new))
            raise


def test_a_volume_that_is_left_is_listed_and_what_is_wrong_is_said(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA)
    before = kit.fingerprint(namespace)
    kit.back_up(namespace, name="monday")
    destroy(namespace, "backup", "database")
    store = discovering(kit.resource("BackupStore", "left", {"pvc": {"claimName": "no-such-claim"}}))
    apply(store, namespace)
    kit.wait_reason("backupstore", "left", namespace, "ClaimNotFound")
    kit.create_database(namespace, "new")
    apply(discovering(kit.resource("BackupStore", "found", {"pvc": {"claimName": "backups"}})), namespace)
    assert list(listed(namespace, "found", 1)) == ["monday"]
    kit.restore(namespace, "new", backupRef={"name": "monday"}, storeRef={"name": "found"})
    assert kit.fingerprint(namespace, "new") == before


def test_wrong_keys_are_said_and_right_ones_are_used_at_once(namespace: str) -> None:
    server = ObjectStore(namespace)
    server.start()
    store = discovering(server.backup_store("bucket", credentialsSecretRef={"name": "wrong"}))
    wrong = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    apply([secret("wrong", wrong), store], namespace)
    kit.wait_reason("backupstore", "bucket", namespace, "DownloadFailed")
    apply(discovering(server.backup_store("bucket")), namespace)
    assert listed(namespace, "bucket", 0) == {}
