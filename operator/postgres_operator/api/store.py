"""BackupStore: where backups lie."""

from typing import Annotated

from pydantic import Field

from .cel import immutable
from .common import ApiModel, Conditions, NameString, Resource


class PvcStore(ApiModel):
    """A PersistentVolumeClaim in the same namespace."""

    claim_name: Annotated[
        NameString, immutable("the claim of a BackupStore cannot change; create another BackupStore")
    ] = Field(description="The claim; it must exist. Cannot change.")


class BackupStoreSpec(ApiModel):
    """The kind of store; exactly one."""

    pvc: PvcStore


class BackupStoreStatus(ApiModel):
    """What was found."""

    conditions: Conditions = Field(default_factory=list)


class BackupStore(Resource):
    """A place for backups."""

    spec: BackupStoreSpec
    status: BackupStoreStatus = BackupStoreStatus()
