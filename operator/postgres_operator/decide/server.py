"""The objects that make up a Database: StatefulSet, Services, volume claim. Pure builders."""

import hashlib
import json
import re
from typing import Any

from postgres_operator import names
from postgres_operator.api.common import dump
from postgres_operator.api.database import Database

from .actions import Body

# Unix UIDs of `postgres` in the official images. PostgreSQL refuses a data directory of another owner.
_DEBIAN_UID, _ALPINE_UID = 999, 70

# Nowhere in the images: below /var/lib/postgresql their volume is at another place since version 18, and one of them
# had a symlink to nowhere, over which nothing can be mounted.
_DATA = "/pgdata"


def image_uid(image: str) -> int:
    """UID that the server of this image runs as."""
    return _ALPINE_UID if "alpine" in image.rpartition("/")[2] else _DEBIAN_UID


def data_uid(database: Database, claim: Body | None) -> int:
    """UID that the data directory belongs to: what its volume records, else the image's."""
    recorded = (claim or {}).get("metadata", {}).get("annotations", {}).get(names.ANNOTATION_DATA_OWNER, "")
    return int(recorded) if re.fullmatch(r"[1-9][0-9]{0,8}", recorded) else image_uid(database.spec.image)


def owner(database: Database) -> dict[str, Any]:
    """The ownerReference by which the API server deletes an object after its Database."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Database",
        "name": database.metadata.name,
        "uid": database.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def _metadata(database: Database, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": database.metadata.namespace,
        "labels": {
            names.MANAGED_BY: names.OPERATOR,
            names.LABEL_KIND: "database",
            names.LABEL_UID: database.metadata.uid,
        },
        "ownerReferences": [owner(database)],
    }


def _pod_labels(database: Database) -> dict[str, str]:
    # The first two are those that people look for; the third one is ours, so that no pod of others gets in by chance.
    name = database.metadata.name
    return {"app": "database", "database": name, names.LABEL_DATABASE: name}


def claim(database: Database) -> Body:
    """The data volume's claim, made before the StatefulSet so that it can record whose data it holds.

    It has no ownerReference here: under `Delete` the StatefulSet's retention policy adds one.
    """
    name = database.metadata.name
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": database.spec.storage.size}},
    }
    if database.spec.storage.storage_class_name:
        spec["storageClassName"] = database.spec.storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": names.data_claim(name),
            "namespace": database.metadata.namespace,
            "labels": {names.MANAGED_BY: names.OPERATOR, **_pod_labels(database)},
            "annotations": {
                names.ANNOTATION_DATA_OWNER: str(image_uid(database.spec.image)),
                names.ANNOTATION_CREATED_FOR: database.metadata.uid,
            },
        },
        "spec": spec,
    }


def services(database: Database) -> tuple[Body, ...]:
    """The Service that clients use, and the headless one that gives the pods their names."""
    name = database.metadata.name
    port = {"name": "postgres", "port": names.POSTGRES_PORT, "targetPort": "postgres"}

    def service(service_name: str, **spec: Any) -> Body:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata(database, service_name),
            "spec": {"selector": _pod_labels(database), "ports": [port], **spec},
        }

    return service(name), service(f"{name}-pods", clusterIP="None", publishNotReadyAddresses=True)


def stateful_set(database: Database, uid: int) -> Body:
    """The server; its annotation holds a hash of the rest, so that a change of the spec is seen."""
    name, spec = database.metadata.name, database.spec
    keep = "Retain" if spec.deletion_policy == "Retain" else "Delete"
    body: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": _metadata(database, name),
        "spec": {
            "replicas": 1,
            "serviceName": f"{name}-pods",
            # OrderedReady never replaces a pod that did not become ready: a mended image would not be rolled out.
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": _pod_labels(database)},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": keep, "whenScaled": "Retain"},
            "volumeClaimTemplates": [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"name": "data"},
                    "spec": claim(database)["spec"],
                }
            ],
            "template": {"metadata": {"labels": _pod_labels(database)}, "spec": _pod(database, uid)},
        },
    }
    body["metadata"]["annotations"] = {names.ANNOTATION_APPLIED: fingerprint(body)}
    return body


def updated(live: Body, wanted: Body) -> Body:
    """What to put in the place of a StatefulSet that is there: fields that cannot change stay as they were made."""
    fixed = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
    kept = {field: live["spec"][field] for field in fixed if field in live["spec"]}
    # What others have put there stays: labels, annotations, finalizers.
    metadata = {**live["metadata"], "ownerReferences": wanted["metadata"]["ownerReferences"]}
    for field in ("labels", "annotations"):
        metadata[field] = {**live["metadata"].get(field, {}), **wanted["metadata"][field]}
    return {**wanted, "metadata": metadata, "spec": {**wanted["spec"], **kept}}


def _pod(database: Database, uid: int) -> dict[str, Any]:
    spec = database.spec
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": uid,
            "runAsGroup": uid,
            "fsGroup": uid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "postgres",
                "image": spec.image,
                "env": [
                    {"name": "POSTGRES_USER", "value": names.SUPERUSER},
                    {
                        "name": "POSTGRES_PASSWORD",
                        "valueFrom": {
                            "secretKeyRef": {
                                "name": names.credentials(database.metadata.name),
                                "key": "superuser-password",
                            }
                        },
                    },
                    # Below the mount: a volume's root may hold lost+found.
                    {"name": "PGDATA", "value": f"{_DATA}/pgdata"},
                ],
                "ports": [{"name": "postgres", "containerPort": names.POSTGRES_PORT}],
                # Over TCP: the image's first start listens on the socket only, and is not ready then.
                "readinessProbe": {
                    "exec": {"command": ["pg_isready", "-q", "-h", "127.0.0.1", "-U", names.SUPERUSER]},
                    "periodSeconds": 2,
                    "timeoutSeconds": 5,
                },
                "resources": dump(spec.resources) if spec.resources else {},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                },
                "volumeMounts": [
                    {"name": "data", "mountPath": _DATA},
                    {"name": "run", "mountPath": "/var/run/postgresql"},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount inside the pod
                    {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the same
                ],
            }
        ],
        "volumes": [
            {"name": "run", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            # Runtimes give 64 MiB, with which parallel queries and index builds fail.
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
        ],
    }
    if spec.node_selector:
        pod["nodeSelector"] = dict(spec.node_selector)
    if spec.tolerations:
        pod["tolerations"] = [dump(t) for t in spec.tolerations]
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = [dump(s) for s in spec.image_pull_secrets]
    return pod


def fingerprint(body: Body) -> str:
    """Sixteen hex digits that change with the manifest."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
