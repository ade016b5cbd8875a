"""Databases, backups and restores, as the tests need them."""

from __future__ import annotations

import json
import secrets
from typing import Any

from e2e.support import GROUP, apply, get, items, kubectl, psql, wait_for

API = f"{GROUP}/v1"
TERMINAL = ("Completed", "Failed")
# A failure has to be visible within a minute.
MINUTE = 60.0


def resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API, "kind": kind, "metadata": {"name": name}, "spec": spec}


def create_database(namespace: str, name: str = "shop", version: int = 17, **spec: Any) -> None:
    apply(resource("Database", name, {"image": f"postgres:{version}", **spec}), namespace)


def ready_database(namespace: str, name: str = "shop", version: int = 17, **spec: Any) -> dict[str, Any]:
    """A Database that is Ready."""
    create_database(namespace, name, version, **spec)
    return wait_ready(namespace, name)


def wait_ready(namespace: str, name: str = "shop") -> dict[str, Any]:
    return wait_phase("database", name, namespace, "Ready", deadline=120)


def wait_phase(kind: str, name: str, namespace: str, *phases: str, deadline: float = MINUTE) -> dict[str, Any]:
    """The object, once it is in one of the phases."""
    last: dict[str, Any] = {}

    def seen() -> dict[str, Any] | None:
        found = get(kind, name, namespace) or {}
        last.update(found.get("status", {}))
        return found if found.get("status", {}).get("phase") in phases else None

    try:
        return wait_for(seen, deadline, f"{kind}/{name} to be {' or '.join(phases)}")
    except AssertionError as error:
        raise AssertionError(f"{error}; its status: {json.dumps(last, indent=1)}") from error


def wait_reason(
    kind: str, name: str, namespace: str, reason: str, deadline: float = MINUTE, says: str = ""
) -> dict[str, Any]:
    """The object, once its first condition has that reason, and a message that says so."""

    def seen() -> dict[str, Any] | None:
        found = get(kind, name, namespace) or {}
        conditions = found.get("status", {}).get("conditions", [])
        shown = conditions and conditions[0]["reason"] == reason and says in conditions[0]["message"]
        return found if shown else None

    return wait_for(seen, deadline, f"{kind}/{name} to show {reason} {says}".rstrip())


def start_backup(namespace: str, name: str | None = None, database: str = "shop", **spec: Any) -> str:
    name = name or f"backup-{secrets.token_hex(3)}"
    apply(resource("Backup", name, {"databaseRef": {"name": database}, **spec}), namespace)
    return name


def finish(kind: str, name: str, namespace: str, deadline: float = 120) -> dict[str, Any]:
    """The status of a run that ended, either way."""
    status: dict[str, Any] = wait_phase(kind, name, namespace, *TERMINAL, deadline=deadline)["status"]
    return status


def completed(kind: str, name: str, namespace: str, deadline: float = 120) -> dict[str, Any]:
    """The status of a run that must end well."""
    status = finish(kind, name, namespace, deadline)
    assert status["phase"] == "Completed", json.dumps(status, indent=1)
    return status


def failed(kind: str, name: str, namespace: str, reason: str, deadline: float = MINUTE) -> str:
    """The message of a run that must fail for this reason."""
    status = finish(kind, name, namespace, deadline)
    assert status["phase"] == "Failed", json.dumps(status, indent=1)
    assert status["error"]["reason"] == reason, status["error"]
    message: str = status["error"]["message"]
    return message


def back_up(namespace: str, database: str = "shop", **spec: Any) -> dict[str, Any]:
    """A Backup that completed: its status, with its name."""
    name = start_backup(namespace, database=database, **spec)
    return {**completed("backup", name, namespace), "name": name}


def start_restore(namespace: str, name: str | None = None, database: str = "shop", **spec: Any) -> str:
    name = name or f"restore-{secrets.token_hex(3)}"
    apply(resource("Restore", name, {"databaseRef": {"name": database}, **spec}), namespace)
    return name


def restore(namespace: str, database: str = "shop", deadline: float = 120, **spec: Any) -> dict[str, Any]:
    """A Restore that completed: its status."""
    name = start_restore(namespace, database=database, **spec)
    return completed("restore", name, namespace, deadline)


def sql(namespace: str, text: str, database: str = "shop", dbname: str = "app", user: str = "app") -> str:
    """Run SQL in a Database's pod, as its application role by default."""
    return psql(namespace, f"{database}-0", text, dbname=dbname, user=user)


def claim_files(namespace: str, claim: str = "backups") -> list[str]:
    """Paths of all files and directories in a claim, seen by a pod that mounts it."""
    name = f"look-{secrets.token_hex(3)}"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 999,
                "runAsGroup": 999,
                "fsGroup": 999,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "look",
                    "image": "postgres:17",
                    "command": ["find", "/backups", "-mindepth", "1", "-printf", "%P\\n"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "store", "mountPath": "/backups"}],
                }
            ],
            "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
    apply(pod, namespace)
    wait_phase("pod", name, namespace, "Succeeded", deadline=60)
    found = kubectl("logs", name, "-n", namespace).splitlines()
    kubectl("delete", "pod", name, "-n", namespace, "--wait=false")
    return found


def job_pod(namespace: str, kind: str, name: str) -> str:
    """Name of the pod of a run's Job, once it runs."""

    def seen() -> str | None:
        status = (get(kind, name, namespace) or {}).get("status", {})
        job = status.get("jobRef", {}).get("name", "")
        pods = items("pods", namespace, f"batch.kubernetes.io/job-name={job}") if job else []
        running = [p["metadata"]["name"] for p in pods if p["status"]["phase"] == "Running"]
        return running[0] if running else None

    return wait_for(seen, MINUTE, f"the pod of {kind}/{name}")


def events(namespace: str, name: str) -> list[dict[str, Any]]:
    """The Events about an object."""
    selector = f"--field-selector=involvedObject.name={name}"
    found: list[dict[str, Any]] = json.loads(kubectl("get", "events", "-n", namespace, selector, "-o", "json"))["items"]
    return found


def wait_events(namespace: str, name: str, *reasons: str) -> None:
    """Wait until the object has just these Events: they come after the status, in no order."""
    wait_for(
        lambda: sorted(event["reason"] for event in events(namespace, name)) == sorted(reasons),
        15,
        f"the Events {', '.join(reasons)} of {name}",
    )


# One order of 10 lines, so that every kind of object there is in a small database is in it.
SCHEMA = """
CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL UNIQUE, note text);
CREATE TABLE orders (id bigserial PRIMARY KEY, customer int NOT NULL REFERENCES customers, total numeric(12,2) CHECK (total >= 0));
CREATE INDEX orders_total ON orders (total);
CREATE VIEW rich AS SELECT customer, sum(total) AS total FROM orders GROUP BY customer;
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE "Größe 'x'" ("naïve ""col"" x" text, m mood);
INSERT INTO customers (name, note) SELECT 'customer ' || n, E'it''s\\n"quoted"\\t' || repeat('ü', n % 50) FROM generate_series(1, 500) n;
INSERT INTO orders (customer, total) SELECT n % 500 + 1, n % 97 FROM generate_series(1, 5000) n;
INSERT INTO "Größe 'x'" VALUES (E'line\\nbreak', 'glad'), (NULL, 'sad');
SELECT lo_from_bytea(0, decode(repeat('00ff', 5000), 'hex')) FROM generate_series(1, 3);
"""


def noise(mib: int) -> str:
    """SQL for a table `noise` of so many MiB that hardly compress: 500 rows are about one in a dump."""
    return f"""
    CREATE TABLE noise AS SELECT n, string_agg(md5(random()::text || n || m), '') AS t
    FROM generate_series(1, {mib * 500}) n, generate_series(1, 64) m GROUP BY n
    """


# One line an object: what is in it, summed up. Equal lines mean equal rows, whatever their order on disk.
FINGERPRINT = """
CREATE FUNCTION pg_temp.sums() RETURNS TABLE (what text, n bigint, sum numeric) LANGUAGE plpgsql AS $$
DECLARE t record;
BEGIN
  FOR t IN SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
           WHERE c.relkind IN ('r', 'm') AND s.nspname !~ '^pg_|^information_schema$|^postgres_operator$' ORDER BY c.oid::regclass::text LOOP
    RETURN QUERY EXECUTE format(
      'SELECT %L::text, count(*), coalesce(sum((''x'' || left(md5(r::text), 15))::bit(60)::bigint::numeric), 0) FROM %s r',
      t.name, t.name);
  END LOOP;
  RETURN QUERY SELECT 'sequence ' || s.schemaname || '.' || s.sequencename, coalesce(s.last_value, 0), 0::numeric
               FROM pg_sequences s ORDER BY 1;
  RETURN QUERY SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid), 1::bigint, 0::numeric
               FROM pg_constraint WHERE connamespace::regnamespace::text !~ '^pg_|^information_schema$|^postgres_operator$'
               ORDER BY 1;
  RETURN QUERY SELECT 'index ' || indexdef, 1::bigint, 0::numeric FROM pg_indexes
               WHERE schemaname !~ '^pg_|^information_schema$|^postgres_operator$' ORDER BY 1;
  RETURN QUERY SELECT 'large objects', count(*), coalesce(sum(('x' || left(md5(lo_get(oid)), 15))::bit(60)::bigint::numeric), 0)
               FROM pg_largeobject_metadata;
END $$;
SELECT * FROM pg_temp.sums();
"""


def fingerprint(namespace: str, database: str = "shop", dbname: str = "app", user: str = "app") -> str:
    """Checksums of every table, sequence, constraint, index and large object."""
    return sql(namespace, FINGERPRINT, database, dbname, user)
