"""Restore: a finished Backup brought back into a Database."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .backup import Jobs, RunStatus, terminal_rules
from .cel import Rule, immutable, rules
from .common import SUBDOMAIN, ApiModel, JobSettings, Reference, Resource, Time, Version
from .store import BUCKET, SEGMENT

Mode = Literal["Fail", "Replace", "Clean"]


# What names.location makes.
Location = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    Rule(
        f"self.matches(r'^(pvc://{SUBDOMAIN}|s3://{BUCKET})(/{SEGMENT})+$') && !self.contains('..')",
        "write the backupLocation of a Backup, pvc://<claim>/<path> or s3://<bucket>/<path>, without '..', without "
        "empty segments and without segments that start with '.' or '-'",
    ),
]


class RestoreSpec(JobSettings):
    """What to restore, where to, and what happens to what is there."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("has(self.backupRef) != has(self.location)", "write exactly one of backupRef and location"),
            Rule(
                "self.jobs == 1 || self.mode == 'Replace'",
                "write mode: Replace, or leave out jobs: the other modes load the backup in one transaction",
                ".jobs",
            ),
        )
    )

    database_ref: Reference = Field(description="The Database to restore into.")
    backup_ref: Reference | None = Field(
        None,
        description="A Backup in this namespace, or, with `storeRef`, in that store. Either this or `location`.",
    )
    location: Location | None = Field(
        None,
        description="A `backupLocation`, also of a Backup object that is gone. Either this or `backupRef`.",
    )
    store_ref: Reference | None = Field(
        None,
        description="The BackupStore that `location` lies in; the default store otherwise. With `backupRef`: the name "
        "is looked up in the list of that BackupStore, which needs `discover`; the newest one is restored.",
    )
    mode: Mode = Field(
        "Fail",
        description="`Fail` refuses a target that is not empty, `Replace` swaps in a fresh database, "
        "`Clean` empties the target first.",
    )
    jobs: Jobs = Field(
        1,
        description="With `Replace`, and a backup of format `custom` or `directory` in a volume: how many tables are "
        "loaded at once.",
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
    globals: str | None = None
    warning: str | None = None
