"""Creates the objects of a Database, in an order that a stop at any point leaves whole."""

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from . import names
from .api.database import Database
from .cluster import Cluster
from .decide.actions import Body, Provision
from .errors import AlreadyExists, OperatorError

# After the new volume claim was made, what goes with the old one of its name is gone by then.
_COLLECTED_WITHIN = timedelta(seconds=30)


class NameTaken(OperatorError):
    """An object that we would create exists and belongs to somebody else."""


class StillThere(OperatorError):
    """An object of a deleted Database of the same name is being collected; it is gone soon."""


async def provision(
    cluster: Cluster, seen: Callable[[str, Body], None], database: Database, action: Provision, now: datetime
) -> None:
    """Create what the action names.

    Raises:
        NameTaken: One of the names is in use.
        StillThere: One of the names is about to become free.
    """
    if action.claim:
        await create_unless_there(cluster, "PersistentVolumeClaim", action.claim)
    for service in action.services:
        seen("Service", await _create_owned(cluster, database, "Service", service))
    if action.secret:  # after what may have to be waited for: it cannot tell its own from an older one
        await _create_credentials(cluster, database, now)
    if action.server:
        seen("StatefulSet", await _create_owned(cluster, database, "StatefulSet", action.server))


async def _create_credentials(cluster: Cluster, database: Database, now: datetime) -> None:
    name, namespace = database.metadata.name, database.metadata.namespace
    claim = await cluster.get("PersistentVolumeClaim", namespace, names.data_claim(name))
    if await create_unless_there(cluster, "Secret", _credentials(database, claim)):
        return
    # Somebody made it on purpose, or it goes with an older volume: then it is collected about now.
    if claim and now - datetime.fromisoformat(claim["metadata"]["creationTimestamp"]) < _COLLECTED_WITHIN:
        raise StillThere(
            f'Secret "{names.credentials(name)}" is there already; it may go with the volume of a deleted Database, '
            f"and is kept if it is still there when the new volume is {_COLLECTED_WITHIN.seconds} s old."
        )


def _credentials(database: Database, claim: Body | None) -> Body:
    """The Secret with new random passwords. It is created once, and never read.

    Under `deletionPolicy: Delete` the volume owns it: passwords live exactly as long as the data that they open.
    """
    name, namespace = database.metadata.name, database.metadata.namespace
    metadata: Body = {
        "name": names.credentials(name),
        "namespace": namespace,
        "labels": {names.MANAGED_BY: names.OPERATOR},
    }
    if claim and database.spec.deletion_policy == "Delete":
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


async def create_unless_there(cluster: Cluster, kind: str, body: Body) -> bool:
    """Create it, or keep what is there: it fits what else is there. Returns whether it is new."""
    try:
        await cluster.create(kind, body)
    except AlreadyExists:
        return False
    return True


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
        raise StillThere(f"{what} of a deleted Database is still there, or has just gone.")
    raise NameTaken(f"{what} exists and is not ours: rename it, or this Database.")
