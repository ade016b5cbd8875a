"""Backup: one logical dump of a Database into a store."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .cel import Rule, immutable_but, rules, same
from .common import ApiModel, Conditions, Failure, JobSettings, Reference, Resource, Time, Version

Format = Literal["custom", "plain", "directory"]
Jobs = Annotated[int, Field(ge=1, le=32)]
CompressionMethod = Literal["none", "gzip", "lz4", "zstd"]
# None says where the dump goes or who connects, leaves out what outlives a crash, or writes what cannot be restored.
ExtraArg = Literal[
    "--no-comments",
    "--no-privileges",
    "--no-publications",
    "--no-security-labels",
    "--no-subscriptions",
    "--no-tablespaces",
    "--no-toast-compression",
    "--no-unlogged-table-data",
    "--serializable-deferrable",
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
VerificationMode = Literal["None", "List", "Restore"]
RunPhase = Literal["Pending", "InProgress", "Completed", "Failed"]
FINISHED = ("Completed", "Failed")


class Compression(ApiModel):
    """How the data in a dump is compressed."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!has(self.level) || self.level <= {'none': 0, 'gzip': 9, 'lz4': 12, 'zstd': 22}[self.method]",
                "write a level of 1 to 9 for gzip, 1 to 12 for lz4 or 1 to 22 for zstd, and leave it out for none",
                ".level",
            )
        )
    )

    method: CompressionMethod = Field(description="`none`, `gzip`, `lz4` or `zstd`; the last two need version 16.")
    level: Annotated[int, Field(ge=1, le=22)] | None = Field(
        None, description="Higher is smaller and slower; otherwise the method's own default."
    )

    def __str__(self) -> str:
        """As pg_dump 16 takes it: `zstd` or `zstd:19`."""
        return self.method if self.level is None else f"{self.method}:{self.level}"


# One line for a script: PostgreSQL itself takes any character but zero.
_NO_CONTROLS = r"^[^\x00-\x1f\x7f]+$"
SchemaName = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=_NO_CONTROLS),
    Rule("self != 'postgres_operator'", "leave out postgres_operator: it is the operator's own, and in no dump"),
]
Schemas = Annotated[list[SchemaName], Field(max_length=50)]


class Table(ApiModel):
    """A table, view, materialized view, foreign table or sequence, by its exact name."""

    schema_name: SchemaName = Field("public", alias="schema", description="The schema that it is in.")
    name: Annotated[str, Field(min_length=1, max_length=63, pattern=_NO_CONTROLS)] = Field(
        description="Its name there, as it is: without quotes or patterns."
    )


Tables = Annotated[list[Table], Field(max_length=50)]


class Verification(ApiModel):
    """How to prove, after a Backup is Completed, that it can be restored."""

    mode: VerificationMode = Field(
        "None",
        description="`List` reads the artifact back and compares its checksum; `Restore` then also restores it into a "
        "server inside the Job's pod and compares tables, rows, indexes, constraints and views with what was dumped.",
    )


def _some(field: str) -> str:
    return f"(has(self.{field}) && size(self.{field}) > 0)"


class BackupSpec(JobSettings):
    """What to dump, and where to."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "self.format != 'plain' || !has(self.compression) || self.compression.method == 'none'",
                "write format: custom or directory, or leave out compression: plain is text as it is",
                ".compression",
            ),
            Rule(
                "self.jobs == 1 || self.format == 'directory'",
                "write format: directory, or leave out jobs: several sessions can only write to files of their own",
                ".jobs",
            ),
            Rule(
                f"!{_some('tables')} || !({_some('schemas')} || {_some('excludeSchemas')} || {_some('excludeTables')})",
                "write either tables or the other lists: beside tables, pg_dump would not heed them",
                ".tables",
            ),
            Rule(
                f"!{_some('schemas')} || !{_some('excludeSchemas')}",
                "write either schemas or excludeSchemas: what is not in schemas is left out anyway",
                ".excludeSchemas",
            ),
        )
    )

    database_ref: Reference = Field(description="The Database to dump.")
    store_ref: Reference | None = Field(
        None,
        description="The BackupStore; otherwise the one named `default`, otherwise the claim `backups`, which is made.",
    )
    format: Format = Field(
        "custom",
        description="As of pg_dump: `custom` (compressed), `plain` (SQL) or `directory` (compressed, one file for each "
        "table; into a volume only).",
    )
    jobs: Jobs = Field(1, description="Of the format `directory`: how many tables are dumped at once.")
    compression: Compression | None = Field(
        None, description="Of the formats `custom` and `directory`; otherwise pg_dump's own: gzip."
    )
    include_globals: bool = Field(
        False, description="Keep the server's roles, memberships and settings of roles, too: as SQL, without passwords."
    )
    schemas: Schemas = Field([], description="Dump these schemas only, by their exact names: a partial Backup.")
    exclude_schemas: Schemas = Field([], description="Leave out these schemas: a partial Backup.")
    tables: Tables = Field([], description="Dump these tables only: a partial Backup.")
    exclude_tables: Tables = Field([], description="Leave out these tables: a partial Backup.")
    extra_args: Annotated[list[ExtraArg], Field(max_length=16)] = Field(
        [], description="More options of pg_dump; those that cannot harm a backup."
    )
    verification: Verification = Field(Verification(), description="What follows once the Backup is Completed.")

    deletion_policy: Literal["Retain", "Delete"] = Field(
        "Retain", description="Whether the artifact stays or goes when the Backup is deleted. Can always change."
    )

    @property
    def partial(self) -> bool:
        """Whether a part of the database is left out."""
        return bool(self.schemas or self.exclude_schemas or self.tables or self.exclude_tables)


def selection(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a Backup one of a part of its database, by its spec as in the API; empty for the whole."""
    return {field: spec[field] for field in ("schemas", "excludeSchemas", "tables", "excludeTables") if spec.get(field)}


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
        return self.phase in FINISHED


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

    spec: Annotated[
        BackupSpec,
        immutable_but(
            BackupSpec,
            "deletion_policy",
            "the spec of a Backup cannot change after its creation, but for deletionPolicy; create a new Backup",
        ),
    ]
    status: BackupStatus = BackupStatus()


class Globals(ApiModel):
    """The file beside the dump that has the server's roles."""

    file: Annotated[str, Field(pattern=r"^globals(-[0-9a-f-]{36})?\.sql$")]
    sha256: Sha256


class Inventory(ApiModel):
    """How much a dump has, as a snapshot of the database said."""

    tables: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=0)]
    indexes: Annotated[int, Field(ge=0)]
    constraints: Annotated[int, Field(ge=0)]
    views: Annotated[int, Field(ge=0)]

    def __str__(self) -> str:
        """As people read it."""
        return (
            f"{self.tables} tables with {self.rows} rows, {self.indexes} indexes, "
            f"{self.constraints} constraints and {self.views} views"
        )


class Manifest(ApiModel):
    """What a dump script reports, and what lies beside the artifact as `manifest.json`."""

    location: Annotated[str, Field(max_length=512)]
    # Of an object store's, the name holds the UID of the pod that wrote it: no two ever write the same object.
    file: Annotated[str, Field(pattern=r"^dump(-[0-9a-f-]{36})?\.(pgdump|sql|dir)$")]
    format: Format
    size_bytes: Annotated[int, Field(gt=0)]
    sha256: Sha256
    server_version: Version
    tool_version: Version
    backup_time: Time
    globals: Globals | None = None
    inventory: Inventory | None = None
    source: dict[str, Any] = Field(default_factory=dict)
