"""Objects for tests, as the API server would return them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from postgres_operator import names
from postgres_operator.api.database import Database
from postgres_operator.decide.run import verification

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SHA = "ab" * 32


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def resource(kind: str, name: str, spec: dict[str, Any], status: dict[str, Any] | None = None, **meta: Any) -> dict:
    return {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{kind.lower()}-{name}",
            "generation": 1,
            "resourceVersion": "10",
            "creationTimestamp": ago(60),
            **meta,
        },
        "spec": spec,
        "status": status or {},
    }


def database(name: str = "db", *, ready: bool = True, spec: dict | None = None, **status: Any) -> dict:
    state = {"phase": "Ready" if ready else "Provisioning", "ready": ready, **status}
    body = resource("Database", name, spec or {}, state)
    if ready and "external" in body["spec"]:
        state.setdefault("verified", verification(Database.model_validate(body)))
    return body


def backup(name: str = "nightly", *, spec: dict | None = None, status: dict | None = None, **meta: Any) -> dict:
    return resource("Backup", name, {"databaseRef": {"name": "db"}, **(spec or {})}, status, **meta)


def restore(name: str = "undo", *, spec: dict | None = None, status: dict | None = None, **meta: Any) -> dict:
    wanted = {"databaseRef": {"name": "db"}, **(spec or {"backupRef": {"name": "nightly"}})}
    return resource("Restore", name, wanted, status, **meta)


def store(name: str = "default", claim: str = "vault") -> dict:
    return resource("BackupStore", name, {"pvc": {"claimName": claim}})


def schedule(name: str = "nightly", *, spec: dict | None = None, status: dict | None = None, **meta: Any) -> dict:
    wanted = {"schedule": "0 3 * * *", "template": {"spec": {"databaseRef": {"name": "db"}}}, **(spec or {})}
    return resource("ScheduledBackup", name, wanted, status, **meta)


def s3_store(name: str = "default", **s3: Any) -> dict:
    return resource("BackupStore", name, {"s3": {"bucket": "vault", **s3}})


def job_of(owner: dict, kind: str | None = None, *, age: float = 5, **status: Any) -> dict:
    """The Job of a run or a verification, `age` seconds old."""
    meta = owner["metadata"]
    kind = kind or owner["kind"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.job_name(kind, meta["name"], meta["uid"]),
            "namespace": meta["namespace"],
            "uid": f"uid-job-{meta['uid']}",
            "resourceVersion": "20",
            "creationTimestamp": ago(age),
            "labels": {
                names.MANAGED_BY: names.OPERATOR,
                names.LABEL_KIND: owner["kind"].lower(),
                names.LABEL_UID: meta["uid"],
                names.LABEL_DATABASE: owner["spec"].get("databaseRef", {}).get("name", ""),
                names.LABEL_CLAIM: names.short_hash("vault"),
            },
            "annotations": {
                names.ANNOTATION_LOCATION: location_of(owner),
                names.ANNOTATION_PATH: path_of(owner),
            },
            "ownerReferences": [
                {
                    "apiVersion": names.API_VERSION,
                    "kind": owner["kind"],
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                }
            ],
        },
        "status": status,
    }


def path_of(owner: dict) -> str:
    meta = owner["metadata"]
    return names.artifact_path("db", meta["name"], meta["uid"])


def location_of(owner: dict, store: str = "pvc://vault") -> str:
    return names.location(store, path_of(owner))


def complete(**more: Any) -> dict[str, Any]:
    return {"conditions": [{"type": "Complete", "status": "True"}], **more}


def failed_job(reason: str = "BackoffLimitExceeded", message: str = "") -> dict[str, Any]:
    return {"conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": message}]}


def pod(
    phase: str = "Running", *containers: dict, init: tuple[dict, ...] = (), sidecar: str = "upload", **status: Any
) -> dict:
    return {
        "metadata": {"name": "pod-1", "namespace": "shop"},
        "spec": {"initContainers": [{"name": sidecar, "restartPolicy": "Always"}, {"name": "dump"}]},
        "status": {
            "phase": phase,
            "initContainerStatuses": list(init),
            "containerStatuses": list(containers),
            **status,
        },
    }


def ended(code: int = 0, message: str = "", name: str = "dump", **more: Any) -> dict:
    return {"name": name, "state": {"terminated": {"exitCode": code, "message": message, **more}}}


def waiting(reason: str, message: str = "", name: str = "dump") -> dict:
    return {"name": name, "state": {"waiting": {"reason": reason, "message": message}}}


def manifest(owner: dict, **changes: Any) -> dict:
    return {
        "schema": 1,
        "location": path_of(owner),
        "file": "dump.pgdump",
        "format": "custom",
        "sizeBytes": 4096,
        "sha256": SHA,
        "serverVersion": "17.6",
        "toolVersion": "17.6",
        "backupTime": "2026-03-01T11:59:00Z",
        "source": {},
        **changes,
    }
