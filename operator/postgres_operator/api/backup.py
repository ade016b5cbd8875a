"""Backup: one logical dump of a Database into a store."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .cel import Rule, immutable, rules, same
from .common import ApiModel, Conditions, Failure, JobSettings, Reference, Resource, Time, Version

Format = Literal["custom", "plain"]
RunPhase = Literal["Pending", "InProgress", "Completed", "Failed"]


class BackupSpec(JobSettings):
    """What to dump, and where to."""

    database_ref: Reference = Field(description="The Database to dump.")
    store_ref: Reference | None = Field(
        None,
        description="The BackupStore; otherwise the one named `default`, otherwise the claim `backups`, which is made.",
    )
    format: Format = Field("custom", description="As of pg_dump: `custom` (compressed) or `plain` (SQL).")


def terminal_rules(kind: str, *results: str) -> tuple[Rule, Rule]:
    """Rules for the root of a kind that ends: its last phase and its results stay as they are.

    They stand at the root, where they also hold when `status` as a whole is taken away.
    """
    running = "!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Completed', 'Failed'])"
    kept = " && ".join(same(name, ".status") for name in results)
    return (
        Rule(
            f"{running} || (has(self.status) && {same('phase', '.status')})",
            f"a {kind} that is Completed or Failed stays so; create a new {kind}",
            reason="FieldValueForbidden",
        ),
        Rule(
            f"{running} || (has(self.status) && {kept})",
            f"the results of a {kind} that is Completed or Failed ({', '.join(results)}) cannot change; "
            f"create a new {kind}",
            reason="FieldValueForbidden",
        ),
    )


class RunStatus(ApiModel):
    """What Backup and Restore have in common."""

    phase: RunPhase | None = None
    start_time: Time | None = None
    completion_time: Time | None = None
    job_ref: Reference | None = None
    server_version: Annotated[str, Field(max_length=64)] | None = None
    tool_version: Annotated[str, Field(max_length=64)] | None = None
    error: Failure | None = None
    conditions: Conditions = Field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the phase is terminal."""
        return self.phase in ("Completed", "Failed")


class BackupStatus(RunStatus):
    """How the dump went."""

    backup_location: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="URL that a Restore takes as `location`."
    )
    backup_time: Time | None = Field(None, description="When the dump's snapshot began.")
    size_bytes: Annotated[int, Field(ge=0)] | None = None
    checksum: Annotated[str, Field(max_length=80)] | None = Field(None, description="`sha256:` and 64 hex digits.")


class Backup(Resource):
    """One logical dump of a Database."""

    model_config = ConfigDict(
        json_schema_extra=rules(*terminal_rules("Backup", "backupLocation", "checksum", "sizeBytes"))
    )

    spec: Annotated[BackupSpec, immutable("the spec of a Backup cannot change after its creation; create a new Backup")]
    status: BackupStatus = BackupStatus()


class Manifest(ApiModel):
    """What a dump script reports, and what lies beside the artifact as `manifest.json`."""

    location: Annotated[str, Field(max_length=512)]
    file: Literal["dump.pgdump", "dump.sql"]
    format: Format
    size_bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    server_version: Version
    tool_version: Version
    backup_time: Time
    source: dict[str, Any] = Field(default_factory=dict)
