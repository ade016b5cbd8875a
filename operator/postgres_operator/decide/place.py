"""Where artifacts lie: the one decision that knows which kinds of stores there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from postgres_operator import names
from postgres_operator.api.store import BackupStore, S3Store


@dataclass(frozen=True, slots=True)
class Place:
    """An artifact's directory in a store, and what a Job's pod needs to get there."""

    location: str  # URL, for people and for Restores
    path: str  # the same, inside the store
    store: Mapping[str, Any]  # as templates see it
    claim: str = ""  # name of the volume claim; an object store has none
    service_account: str = ""

    @property
    def annotations(self) -> dict[str, str]:
        """By which a Job that works here is known later, when the store may be gone."""
        return {names.ANNOTATION_LOCATION: self.location, names.ANNOTATION_PATH: self.path}


def url(store: BackupStore | None) -> str:
    """URL of a store; where a namespace has none, of the claim that is made."""
    if store is None:
        return names.volume(names.DEFAULT_CLAIM)
    if s3 := store.spec.s3:
        return names.bucket(s3.bucket, s3.prefix or "")
    assert store.spec.pvc  # the API server sees to it that there is exactly one
    return names.volume(store.spec.pvc.claim_name)


def inside(store: BackupStore | None, path: str) -> Place:
    """The place of that path in the store."""
    location = names.location(url(store), path)
    if store and store.spec.s3:
        return _streamed(store.spec.s3, location, path)
    return _mounted(location)


def of(location: str, store: BackupStore | None) -> Place | None:
    """The place of a URL in the store; None when it lies elsewhere."""
    path = names.path_in(url(store), location)
    return inside(store, path) if path else None


def known(location: str, store: BackupStore | None) -> Place | None:
    """The place of what a Job of ours wrote: a claim's URL says all, whatever the store is now."""
    return _mounted(location) if names.volume_of(location) else of(location, store)


def _mounted(location: str) -> Place:
    claim = names.volume_of(location)
    path = names.path_in(names.volume(claim), location)
    return Place(location, path, {"kind": "pvc", "claim_name": claim}, claim=claim)


def _streamed(s3: S3Store, location: str, path: str) -> Place:
    values = {
        "kind": "s3",
        "bucket": s3.bucket,
        "prefix": s3.prefix or "",
        "endpoint": s3.endpoint or "",
        "region": s3.region,
        "path_style": s3.path_style,
        "credentials_secret": s3.credentials_secret_ref.name if s3.credentials_secret_ref else None,
        "ca_secret": s3.ca_secret_ref.name if s3.ca_secret_ref else None,
    }
    return Place(location, path, values, service_account=s3.service_account_name or "")
