"""Every name that outsiders see: the API group, labels, and the deterministic names of what we create."""

import hashlib
import re
from datetime import UTC, datetime

GROUP = "database.example.com"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "postgres-operator"
LABEL_KIND = f"{GROUP}/kind"  # kind of the owner, in lower case
LABEL_UID = f"{GROUP}/uid"  # uid of the owner
LABEL_CLAIM = f"{GROUP}/claim"  # hash of the claim that a Job's pod mounts
LABEL_DATABASE = f"{GROUP}/database"  # name of the Database that a pod or Job belongs to
LABEL_SCHEDULE = f"{GROUP}/schedule"  # name of the ScheduledBackup that made a Backup
LABEL_SCHEDULE_UID = f"{GROUP}/schedule-uid"  # and its UID
FINALIZER = f"{GROUP}/artifact"  # holds a Backup until its artifact is deleted
ANNOTATION_SLOT = f"{GROUP}/slot"  # time that a Backup of a ScheduledBackup was made for
ANNOTATION_RETAINED = f"{GROUP}/retained"  # on a Backup that retention is about to delete: its policy was Retain
ANNOTATION_LOCATION = f"{GROUP}/location"  # URL of the artifact that a Job writes or reads
ANNOTATION_PATH = f"{GROUP}/path"  # its path inside the store
ANNOTATION_DATA_OWNER = f"{GROUP}/data-owner"  # Unix UID that a data directory belongs to
ANNOTATION_CREATED_FOR = f"{GROUP}/created-for"  # UID of the Database that a data volume was made for
ANNOTATION_VERIFIES = f"{GROUP}/verifies"  # hash of the external server or the store that a Job looks at
ANNOTATION_APPLIED = f"{GROUP}/applied"  # hash of the manifest that was applied last

SUPERUSER = "postgres"
DEFAULT_STORE = "default"
DEFAULT_CLAIM = "backups"
UPLOADER_IMAGE = "rclone/rclone:1.76.0"
POSTGRES_PORT = 5432

_VOLUME = "pvc://"
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


def scheduled_backup(schedule: str, slot: datetime) -> str:
    """The one name that the Backup of this slot can ever have: `<schedule>-<YYYYMMDDhhmm in UTC>`."""
    return f"{schedule}-{slot.astimezone(UTC):%Y%m%d%H%M}"


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


def volume(claim: str) -> str:
    """URL of a volume that holds backups."""
    return f"{_VOLUME}{claim}"


def bucket(name: str, prefix: str) -> str:
    """URL of a bucket, or of what lies below a prefix in it."""
    return f"s3://{name}/{prefix}" if prefix else f"s3://{name}"


def location(store: str, path: str) -> str:
    """URL of an artifact in the store of that URL, for `status.backupLocation` and `spec.location`."""
    return f"{store}/{path}"


def path_in(store: str, location: str) -> str:
    """Path of an artifact inside the store of that URL; empty when it lies elsewhere."""
    return location.removeprefix(f"{store}/") if location.startswith(f"{store}/") else ""


def volume_of(location: str) -> str:
    """Claim of the volume that an artifact lies in; empty when that is a bucket."""
    return location.removeprefix(_VOLUME).partition("/")[0] if location.startswith(_VOLUME) else ""


def previous_database(database_name: str, restore_uid: str) -> str:
    """Name under which a replaced database is kept: `<name>_before_<uid8>`, within PostgreSQL's 63 bytes."""
    return _truncate(database_name, f"_before_{restore_uid[:8]}")


def scratch_prefix(database_name: str) -> str:
    """Start of the name of the database a restore fills; the script adds `_<first 8 of the pod's UID>`."""
    return _truncate(database_name, "_restore", _IDENTIFIER_BYTES - len("_12345678"))


def _truncate(name: str, suffix: str, limit: int = _IDENTIFIER_BYTES) -> str:
    room = limit - len(suffix.encode())
    return name.encode()[:room].decode(errors="ignore") + suffix
