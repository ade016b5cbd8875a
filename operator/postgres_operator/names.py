"""Every name that outsiders see: the API group, labels, and the deterministic names of what we create."""

import hashlib
import re

GROUP = "database.example.com"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "postgres-operator"
LABEL_KIND = f"{GROUP}/kind"  # kind of the owner, in lower case
LABEL_UID = f"{GROUP}/uid"  # uid of the owner
LABEL_CLAIM = f"{GROUP}/claim"  # hash of the claim that a Job's pod mounts
LABEL_DATABASE = f"{GROUP}/database"  # name of the Database that a Job works on
ANNOTATION_LOCATION = f"{GROUP}/location"  # URL of the artifact that a Job writes or reads
ANNOTATION_DATA_OWNER = f"{GROUP}/data-owner"  # Unix UID that a data directory belongs to
ANNOTATION_CREATED_FOR = f"{GROUP}/created-for"  # UID of the Database that a data volume was made for
ANNOTATION_APPLIED = f"{GROUP}/applied"  # hash of the manifest that was applied last

SUPERUSER = "postgres"
DEFAULT_STORE = "default"
DEFAULT_CLAIM = "backups"
MARKER_SCHEMA = "postgres_operator"  # holds the table of finished restores; never dumped
POSTGRES_PORT = 5432

_IDENTIFIER_BYTES = 63  # NAMEDATALEN - 1


def short_hash(*parts: str) -> str:
    """Ten hex digits that stand for the parts; equal parts give an equal hash."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:10]


def job_name(kind: str, name: str, uid: str) -> str:
    """The one name that the Job of this object can ever have (at most 63 characters, a DNS label).

    The hash of kind and UID makes it unique; the object's name only helps people.
    """
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower())[:36].strip("-")
    return f"{kind.lower()}-{readable}-{short_hash(kind, uid)}"


def credentials(database: str) -> str:
    """Name of the Secret that holds a Database's passwords."""
    return f"{database}-credentials"


def data_claim(database: str) -> str:
    """Name of the claim that the StatefulSet's first pod mounts (`<template>-<pod>`)."""
    return f"data-{database}-0"


def host(database: str, namespace: str) -> str:
    """DNS name under which a Database is reached inside the cluster."""
    return f"{database}.{namespace}.svc.cluster.local"


def artifact_path(database: str, backup: str, uid: str) -> str:
    """Directory of a finished backup inside its store; the UID keeps a recreated Backup apart."""
    return f"{database}/{backup[:100]}-{uid}"


def pvc_location(claim: str, path: str) -> str:
    """URL of an artifact in a volume, for `status.backupLocation` and `spec.location`."""
    return f"pvc://{claim}/{path}"


def split_location(location: str) -> tuple[str, str]:
    """Claim and path of what `pvc_location` made."""
    claim, _, path = location.removeprefix("pvc://").partition("/")
    return claim, path


def previous_database(database_name: str, restore_uid: str) -> str:
    """Name under which a replaced database is kept: `<name>_before_<uid8>`, within PostgreSQL's 63 bytes."""
    return _truncate(database_name, f"_before_{restore_uid[:8]}")


def scratch_prefix(database_name: str) -> str:
    """Start of the name of the database a restore fills; the script adds `_<first 8 of the pod's UID>`."""
    return _truncate(database_name, "_restore", _IDENTIFIER_BYTES - len("_12345678"))


def _truncate(name: str, suffix: str, limit: int = _IDENTIFIER_BYTES) -> str:
    room = limit - len(suffix.encode())
    return name.encode()[:room].decode(errors="ignore") + suffix
