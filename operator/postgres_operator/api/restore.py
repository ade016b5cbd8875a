"""Restore: a finished Backup brought back into a Database."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .backup import RunStatus, terminal_rules
from .cel import Rule, immutable, rules
from .common import SUBDOMAIN, ApiModel, JobSettings, Reference, Resource, Time, Version

Mode = Literal["Fail", "Replace", "Clean"]


# What names.pvc_location makes. No segment may lead out of the volume, hide, or look like an option.
_SEGMENT = "/[A-Za-z0-9_][A-Za-z0-9._-]*"
Location = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Rule(
        f"self.matches(r'^pvc://{SUBDOMAIN}({_SEGMENT})+$') && !self.contains('..')",
        "write the backupLocation of a Backup, pvc://<claim>/<path>, without '..', without empty segments "
        "and without segments that start with '.' or '-'",
    ),
]


class RestoreSpec(JobSettings):
    """What to restore, where to, and what happens to what is there."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("has(self.backupRef) != has(self.location)", "write exactly one of backupRef and location"),
            Rule(
                "!has(self.storeRef) || has(self.location)",
                "leave out storeRef: it says where location lies, and a backupRef knows its store",
                ".storeRef",
                "FieldValueForbidden",
            ),
        )
    )

    database_ref: Reference = Field(description="The Database to restore into.")
    backup_ref: Reference | None = Field(None, description="A Backup in this namespace. Either this or `location`.")
    location: Location | None = Field(
        None,
        description="A `backupLocation`, also of a Backup object that is gone. Either this or `backupRef`.",
    )
    store_ref: Reference | None = Field(
        None, description="The BackupStore that `location` lies in; the default store otherwise."
    )
    mode: Mode = Field(
        "Fail",
        description="`Fail` refuses a target that is not empty, `Replace` swaps in a fresh database, "
        "`Clean` empties the target first.",
    )
    keep_previous: bool = Field(True, description="With `Replace`: keep the old database as `<name>_before_<uid8>`.")


class RestoreStatus(RunStatus):
    """How it went."""

    restore_time: Time | None = Field(None, description="When the operator saw that the restored state is there.")
    previous_database: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="Where the replaced database is kept."
    )


class Restore(Resource):
    """One restore of a finished Backup into a Database."""

    model_config = ConfigDict(json_schema_extra=rules(*terminal_rules("Restore", "restoreTime", "previousDatabase")))

    spec: Annotated[
        RestoreSpec, immutable("the spec of a Restore cannot change after its creation; create a new Restore")
    ]
    status: RestoreStatus = RestoreStatus()


class RestoreResult(ApiModel):
    """What the last restore step reports."""

    location: Annotated[str, Field(max_length=1024)]
    server_version: Version
    tool_version: Version
    previous_database: str | None = None
    already_restored: bool = False
    warning: str | None = None
