"""A backup and a restore, shown step by step: python -m e2e.demo, run by `just demo`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from e2e import kit
from e2e.support import delete, get, items, kubectl, psql, wait_for

NAMESPACE = "demo"
SAMPLES = Path(__file__).parent.parent / "docs" / "tour"
ROWS = """
CREATE TABLE orders (id serial PRIMARY KEY, customer text NOT NULL, total numeric(10,2) NOT NULL);
INSERT INTO orders (customer, total) SELECT 'customer ' || n % 100, n % 977 / 7.0 FROM generate_series(1, 100000) n;
"""
CHECKSUM = "SELECT count(*) AS rows, md5(string_agg(o::text, '|' ORDER BY id)) AS checksum FROM orders o"


def say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def show(*args: str) -> str:
    """Run kubectl and show both what was typed and what it said."""
    print(f"$ kubectl {' '.join(args)}", flush=True)
    text = kubectl(*args)
    print(text.rstrip(), flush=True)
    return text


def run(manifest: str) -> None:
    path = SAMPLES / manifest
    print(f"$ kubectl apply -n {NAMESPACE} -f {path.relative_to(SAMPLES.parent.parent)}", flush=True)
    print(kubectl("apply", "-n", NAMESPACE, "-f", str(path)).rstrip(), flush=True)


def clean_up() -> None:
    """What an earlier run left, so that this one starts from nothing."""
    if get("namespace", NAMESPACE):
        say(f"An earlier run left namespace {NAMESPACE}; deleting it")
        delete("namespace", NAMESPACE)


def main() -> int:
    began = time.monotonic()
    clean_up()
    say("A namespace that enforces Pod Security `restricted`, and a Database in it")
    kubectl("create", "namespace", NAMESPACE)
    kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    wait_for(lambda: get("serviceaccount", "default", NAMESPACE), 30, "the namespace to be set up")
    run("database.yaml")
    show("wait", "-n", NAMESPACE, "--for=jsonpath={.status.phase}=Ready", "database/shop", "--timeout=180s")

    say("Rows in it")
    kit.sql(NAMESPACE, ROWS)
    before = kit.sql(NAMESPACE, CHECKSUM)
    print(before)

    say("A Backup")
    run("backup.yaml")
    show("wait", "-n", NAMESPACE, "--for=condition=Complete", "backup/monday", "--timeout=180s")
    job = get("backup", "monday", NAMESPACE)["status"]["jobRef"]["name"]
    show("logs", "-n", NAMESPACE, f"job/{job}")

    say("Damage: a WHERE was forgotten")
    kit.sql(NAMESPACE, "UPDATE orders SET total = 0; DELETE FROM orders WHERE id > 10")
    print(kit.sql(NAMESPACE, CHECKSUM))

    say("A Restore: a fresh database is filled, then takes the place of the damaged one, which is kept")
    run("restore.yaml")
    show("wait", "-n", NAMESPACE, "--for=condition=Complete", "restore/undo", "--timeout=180s")

    say("The rows again")
    after = kit.sql(NAMESPACE, CHECKSUM)
    print(after)
    print(psql(NAMESPACE, "shop-0", "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1"))

    say("What is there now")
    show("get", "-n", NAMESPACE, "databases,backups,restores,jobs,pods,pvc")
    assert len(items("backups", NAMESPACE)) == 1
    if before != after:
        print("\nThe rows differ.", file=sys.stderr)
        return 1
    say(f"Done in {time.monotonic() - began:.0f} s: all rows are as they were. `just cluster-down` ends the cluster.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
