"""Creates the objects of a Database, in an order that a stop at any point leaves whole."""

import contextlib
import secrets
from collections.abc import Callable

from . import names
from .api.database import Database
from .cluster import Cluster
from .decide.actions import Body, Provision
from .errors import AlreadyExists, OperatorError


class NameTaken(OperatorError):
    """An object that we would create exists and belongs to somebody else."""


class StillThere(OperatorError):
    """An object of a deleted Database of the same name is being collected; it is gone soon."""


async def provision(cluster: Cluster, seen: Callable[[str, Body], None], database: Database, action: Provision) -> None:
    """Create what the action names.

    Raises:
        NameTaken: One of the names is in use.
        StillThere: One of the names is about to become free.
    """
    if action.claim:
        await _keep_or_create(cluster, "PersistentVolumeClaim", action.claim)
    if action.secret:
        await _keep_or_create(cluster, "Secret", await _credentials(cluster, database))
    for service in action.services:
        seen("Service", await _create_owned(cluster, database, "Service", service))
    if action.server:
        seen("StatefulSet", await _create_owned(cluster, database, "StatefulSet", action.server))


async def _credentials(cluster: Cluster, database: Database) -> Body:
    """The Secret with new random passwords. It is created once, and never read.

    Under `deletionPolicy: Delete` the volume owns it: passwords live exactly as long as the data that they open.
    """
    name, namespace = database.metadata.name, database.metadata.namespace
    metadata: Body = {
        "name": names.credentials(name),
        "namespace": namespace,
        "labels": {names.MANAGED_BY: names.OPERATOR},
    }
    if database.spec.deletion_policy == "Delete":
        claim = await cluster.get("PersistentVolumeClaim", namespace, names.data_claim(name))
        if claim:
            metadata["ownerReferences"] = [
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "name": claim["metadata"]["name"],
                    "uid": claim["metadata"]["uid"],
                }
            ]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "stringData": {
            "username": database.spec.username,
            "password": secrets.token_urlsafe(24),
            "superuser-password": secrets.token_urlsafe(24),
        },
    }


async def _keep_or_create(cluster: Cluster, kind: str, body: Body) -> None:
    with contextlib.suppress(AlreadyExists):
        await cluster.create(kind, body)


async def _create_owned(cluster: Cluster, database: Database, kind: str, body: Body) -> Body:
    try:
        return await cluster.create(kind, body)
    except AlreadyExists:
        meta = body["metadata"]
        found = await cluster.get(kind, meta["namespace"], meta["name"])
    owners = found["metadata"].get("ownerReferences", []) if found else []
    if found and any(o["uid"] == database.metadata.uid for o in owners):
        return found
    what = f'{kind} "{meta["name"]}"'
    if found is None or any((o["kind"], o["name"]) == ("Database", database.metadata.name) for o in owners):
        raise StillThere(f"{what} of a deleted Database is still there.")
    raise NameTaken(f"{what} exists and is not ours: rename it, or this Database.")
