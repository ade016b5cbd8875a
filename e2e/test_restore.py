"""Restore on a real cluster: the target is restored or untouched."""

from __future__ import annotations

from itertools import pairwise

import pytest

from e2e import kit
from e2e.support import apply, delete, get, kubectl, psql

DAMAGE = "DROP TABLE orders CASCADE; UPDATE customers SET name = 'gone ' || id; CREATE TABLE later (n int REFERENCES customers)"


@pytest.mark.parametrize(("format_", "version"), [("custom", 17), ("plain", 15)])
def test_into_another_database_that_is_empty(namespace: str, format_: str, version: int) -> None:
    kit.create_database(namespace, name="copy", version=version, databaseName="Kopie ä", username="other")
    kit.ready_database(namespace, version=version)
    kit.sql(namespace, kit.SCHEMA)
    backup = kit.back_up(namespace, format=format_)
    kit.wait_ready(namespace, "copy")
    status = kit.restore(namespace, "copy", backupRef={"name": backup["name"]})
    assert status["restoreTime"]
    assert status["serverVersion"].startswith(str(version))
    assert kit.fingerprint(namespace) == kit.fingerprint(namespace, "copy", "Kopie ä", "other")


def test_a_target_that_is_not_empty_is_refused_untouched(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA)
    backup = kit.back_up(namespace)
    before = kit.fingerprint(namespace)
    name = kit.start_restore(namespace, backupRef={"name": backup["name"]})
    message = kit.failed("restore", name, namespace, "TargetNotEmpty")
    assert "Replace" in message
    assert "Clean" in message
    assert kit.fingerprint(namespace) == before


def test_replace_swaps_in_the_backup_and_keeps_the_old_database(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA)
    psql(
        namespace,
        "shop-0",
        "CREATE ROLE reader LOGIN; REVOKE CONNECT ON DATABASE app FROM PUBLIC; GRANT CONNECT ON DATABASE app TO reader;"
        'ALTER DATABASE app SET search_path TO "$user", public, pg_catalog; ALTER DATABASE app CONNECTION LIMIT 33;'
        "ALTER ROLE reader IN DATABASE app SET work_mem TO '5MB'; COMMENT ON DATABASE app IS 'the shop''s';",
    )
    wanted = kit.fingerprint(namespace)
    backup = kit.back_up(namespace)
    kit.sql(namespace, DAMAGE)
    damaged = kit.fingerprint(namespace)
    facts = (
        "SELECT datacl, datconnlimit, shobj_description(oid, 'pg_database'), datcollate, pg_encoding_to_char(encoding),"
        " (SELECT array_agg(setrole::regrole::text || setconfig::text ORDER BY 1) FROM pg_db_role_setting WHERE setdatabase = d.oid)"
        " FROM pg_database d WHERE datname = 'app'"
    )
    before = psql(namespace, "shop-0", facts)
    status = kit.restore(namespace, backupRef={"name": backup["name"]}, mode="Replace")
    assert kit.fingerprint(namespace) == wanted
    assert psql(namespace, "shop-0", facts) == before
    previous = status["previousDatabase"]
    assert previous.startswith("app_before_")
    assert kit.fingerprint(namespace, dbname=previous) == damaged
    names = psql(namespace, "shop-0", "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1").split()
    assert names == sorted(["app", previous, "postgres"]), "no scratch database is left"
    kit.back_up(namespace)


def test_replace_without_keeping_the_old_database(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA)
    wanted = kit.fingerprint(namespace)
    backup = kit.back_up(namespace)
    kit.sql(namespace, DAMAGE)
    status = kit.restore(namespace, backupRef={"name": backup["name"]}, mode="Replace", keepPrevious=False)
    assert "previousDatabase" not in status
    assert kit.fingerprint(namespace) == wanted
    assert psql(namespace, "shop-0", "SELECT count(*) FROM pg_database") == "4"


def test_clean_empties_the_target_first(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA)
    wanted = kit.fingerprint(namespace)
    backup = kit.back_up(namespace)
    kit.sql(namespace, DAMAGE + "; CREATE SCHEMA extra; CREATE TABLE extra.t (n int); SELECT lo_create(0)")
    kit.restore(namespace, backupRef={"name": backup["name"]}, mode="Clean")
    assert kit.fingerprint(namespace) == wanted


def test_by_location_after_the_backup_object_is_gone(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA)
    wanted = kit.fingerprint(namespace)
    backup = kit.back_up(namespace)
    delete("backup", backup["name"], namespace)
    kit.sql(namespace, DAMAGE)
    kit.restore(namespace, location=backup["backupLocation"], mode="Replace")
    assert kit.fingerprint(namespace) == wanted


def test_a_location_in_no_store_of_the_namespace(namespace: str) -> None:
    kit.ready_database(namespace)
    name = kit.start_restore(namespace, location="pvc://data-shop-0/pgdata/base")
    kit.wait_reason("restore", name, namespace, "StoreNotFound")
    apply(kit.resource("BackupStore", "default", {"pvc": {"claimName": "backups"}}), namespace)
    assert "spec.storeRef" in kit.failed("restore", name, namespace, "LocationNotInStore")


def test_everything_may_be_applied_at_once(namespace: str) -> None:
    name = kit.start_restore(namespace, backupRef={"name": "first"}, mode="Clean")
    found = kit.wait_reason("restore", name, namespace, "BackupNotFound")
    assert found["status"]["phase"] == "Pending"
    assert '"first"' in found["status"]["conditions"][0]["message"]
    kit.start_backup(namespace, "first")
    kit.wait_reason("restore", name, namespace, "BackupNotCompleted")
    kit.create_database(namespace)
    kit.completed("restore", name, namespace)


def test_a_failed_backup_is_not_restored(namespace: str) -> None:
    kit.ready_database(namespace)
    psql(namespace, "shop-0", "ALTER ROLE app PASSWORD 'x'")
    backup = kit.start_backup(namespace)
    kit.failed("backup", backup, namespace, "AuthenticationFailed")
    name = kit.start_restore(namespace, backupRef={"name": backup})
    assert backup in kit.failed("restore", name, namespace, "BackupFailed")


def overwrite(namespace: str, path: str, script: str) -> None:
    """Run a script in a pod that has the store: $1 is the file."""
    overrides = (
        '{"spec":{"securityContext":{"runAsNonRoot":true,"runAsUser":999,"fsGroup":999,"seccompProfile":{"type":"RuntimeDefault"}},'
        '"containers":[{"name":"vandal","image":"postgres:17","command":["bash","-ec",'
        f'"{script}","-","/backups/{path}"],'
        '"securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}},'
        '"volumeMounts":[{"name":"s","mountPath":"/backups"}]}],"volumes":[{"name":"s","persistentVolumeClaim":{"claimName":"backups"}}]}}'
    )
    kubectl("run", "vandal", "-n", namespace, "--image=postgres:17", "--restart=Never", f"--overrides={overrides}")
    kit.wait_phase("pod", "vandal", namespace, "Succeeded", deadline=60)
    delete("pod", "vandal", namespace)


@pytest.mark.parametrize("mode", ["Fail", "Replace", "Clean"])
def test_a_damaged_artifact_never_reaches_the_target(namespace: str, mode: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n")
    backup = kit.back_up(namespace)
    if mode == "Fail":
        kit.sql(namespace, "DROP TABLE t")
    before = kit.fingerprint(namespace)
    path = backup["backupLocation"].removeprefix("pvc://backups/") + "/dump.pgdump"
    overwrite(namespace, path, "printf X | dd of=$1 bs=1 seek=5000 conv=notrunc status=none")
    name = kit.start_restore(namespace, backupRef={"name": backup["name"]}, mode=mode)
    kit.failed("restore", name, namespace, "ChecksumMismatch")
    assert kit.fingerprint(namespace) == before


def test_one_at_a_time_into_a_database_and_no_backup_meanwhile(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA)
    wanted = kit.fingerprint(namespace)
    backup = kit.back_up(namespace)
    restores = [kit.start_restore(namespace, backupRef={"name": backup["name"]}, mode="Replace") for _ in range(3)]
    kit.wait_phase("restore", restores[0], namespace, "InProgress")
    later = kit.start_backup(namespace)
    found = kit.wait_reason("backup", later, namespace, "WaitingForSlot")
    assert "Restore" in found["status"]["conditions"][0]["message"]

    spans = []
    for name in restores:
        status = kit.completed("restore", name, namespace, deadline=180)
        spans.append((status["startTime"], status["completionTime"]))
    spans.sort()
    assert all(first[1] <= second[0] for first, second in pairwise(spans)), spans
    status = kit.completed("backup", later, namespace)
    assert all(not (begin < status["startTime"] < end) for begin, end in spans), (spans, status)
    assert kit.fingerprint(namespace) == wanted


def test_a_job_deleted_by_hand_leaves_the_target_whole(namespace: str) -> None:
    kit.ready_database(namespace)
    kit.sql(namespace, kit.SCHEMA)
    backup = kit.back_up(namespace)
    before = kit.fingerprint(namespace)
    name = kit.start_restore(namespace, backupRef={"name": backup["name"]}, mode="Clean")
    kit.wait_phase("restore", name, namespace, "InProgress")
    delete("job", get("restore", name, namespace)["status"]["jobRef"]["name"], namespace)
    assert "look before" in kit.failed("restore", name, namespace, "JobLost")
    assert kit.fingerprint(namespace) == before
    # An aborted run stands in nobody's way.
    kit.restore(namespace, backupRef={"name": backup["name"]}, mode="Replace")
    assert kit.fingerprint(namespace) == before
