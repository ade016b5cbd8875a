"""A dump is streamed within little memory and less disk, and as fast as pg_dump and rclone are by hand."""

from __future__ import annotations

import os
import secrets
from copy import deepcopy
from datetime import datetime
from typing import Any

import pytest

from e2e import kit
from e2e.object_store import BUCKET, ObjectStore
from e2e.support import apply, fresh_namespace, get, items, kubectl, wait_for

MIB = int(os.environ.get("E2E_STREAM_MIB", "128"))
LIMITS = {"ephemeral-storage": "64Mi", "memory": "256Mi"}
# The spec of a Backup, the options of pg_dump that give the same, and what is left at least of the text: it is that of
# random bytes, which gzip halves.
UNCOMPRESSED = {"format": "custom", "compression": {"method": "none"}}
WAYS: dict[str, tuple[dict[str, Any], str, float]] = {
    "custom": ({"format": "custom"}, "--format=custom", 0.4),
    "custom, uncompressed": (UNCOMPRESSED, "--format=custom --compress=0", 0.9),
    "plain": ({"format": "plain"}, "--format=plain", 0.9),
}
# Rows that become one MiB of a dump, and as many of these as are wanted.
LOAD = f"""
CREATE TABLE block AS SELECT n, string_agg(sha512((n || ':' || m || random())::bytea), '') AS body
FROM generate_series(1, 256) n, generate_series(1, 32) m GROUP BY n;
CREATE TABLE noise (part int, n int, body bytea);
ALTER TABLE noise ALTER body SET STORAGE EXTERNAL;
INSERT INTO noise SELECT part, n, set_byte(body, 0, part % 256) FROM generate_series(1, {MIB}) part, block;
"""
UPLOAD = f"""
printf '%s\\n' "$CA_CERT" >/tmp/ca.crt
export RCLONE_CA_CERT=/tmp/ca.crt
mkfifo /stream/dump
rclone rcat "store:{BUCKET}/by-hand-$POD_UID" </stream/dump && touch /stream/done
sleep 600
"""
DUMP = """
until [ -p /stream/dump ]; do sleep 0.1; done
pg_dump --no-owner {options} >/stream/dump
until [ -e /stream/done ]; do sleep 0.1; done
"""


def by_hand(pod: dict[str, Any], options: str) -> dict[str, Any]:
    """The pod of a Backup, with plain commands instead of the scripts."""
    spec = deepcopy(pod["spec"])
    spec.pop("nodeName")
    spec["volumes"] = [v for v in spec["volumes"] if not v["name"].startswith("kube-api-access")]
    spec["initContainers"][0]["command"] = ["sh", "-c", UPLOAD]
    spec["containers"][0]["command"] = ["bash", "-c", DUMP.format(options=options)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"by-hand-{secrets.token_hex(3)}"}, "spec": spec}


def seconds(pod: dict[str, Any]) -> float:
    """How long its dump took, uploaded and all."""
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 0, ended
    return (datetime.fromisoformat(ended["finishedAt"]) - datetime.fromisoformat(ended["startedAt"])).total_seconds()


@pytest.mark.alone  # it measures
@pytest.mark.timeout(600 + MIB)
@pytest.mark.usefixtures("operator")
def test_as_fast_as_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    with fresh_namespace(f"streaming-{secrets.token_hex(3)}") as namespace:
        server = ObjectStore(namespace)
        server.start()
        apply(server.backup_store("default"), namespace)
        kit.ready_database(namespace, storage={"size": "9Gi"})
        psql = ("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-U", "app")
        kubectl("exec", "-i", "shop-0", "-n", namespace, "--", *psql, stdin=LOAD, timeout=900)
        for what, (spec, options, left) in WAYS.items():
            name = kit.start_backup(namespace, **spec, resources={"limits": LIMITS}, activeDeadlineSeconds=3600)
            status = kit.completed("backup", name, namespace, deadline=300 + MIB)
            pod = items("pods", namespace, f"batch.kubernetes.io/job-name={status['jobRef']['name']}")[0]
            bare = by_hand(pod, options)
            apply(bare, namespace)
            ended = wait_for(
                lambda bare=bare: _ended(get("pod", bare["metadata"]["name"], namespace)), 300 + MIB, "the dump by hand"
            )
            size = status["sizeBytes"] / 2**20
            assert size > MIB * left
            ours, theirs = seconds(pod), seconds(ended)
            lines.append(
                f"{what:20} {size:6.0f} MiB, 256 MiB of memory, 64 MiB of disk: {ours:.0f} s ({MIB / max(ours, 1):.0f} MiB/s of text),"
                f" pg_dump | rclone rcat by hand {theirs:.0f} s, ratio {theirs / max(ours, 1):.2f}"
            )
    with capsys.disabled():
        print("\n" + "\n".join(lines), flush=True)


def _ended(pod: dict[str, Any] | None) -> dict[str, Any] | None:
    """The pod, when it has."""
    return pod if pod and pod["status"]["phase"] in ("Succeeded", "Failed") else None
