"""Database: a PostgreSQL server that the operator runs."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from .cel import Rule, immutable, rules, same
from .common import ApiModel, Conditions, NameString, PodSettings, Quantity, Resource, Version

DEFAULT_IMAGE = "postgres:17"

# Goes into PG* variables and file names: nothing that libpq could take for a connection string, a tool for an
# option or a shell for a path.
PostgresName = Annotated[
    str,
    Field(min_length=1, max_length=63),
    Rule("size(bytes(self)) <= 63", "write at most 63 bytes of UTF-8: PostgreSQL cuts longer names"),
    Rule(
        "!self.contains('=') && !self.contains('/') && !self.contains('..') && !self.startsWith('-')",
        "write a name without '=', '/', '://' and '..' that does not start with '-', such as app",
    ),
    Rule(
        r"!self.matches(r'\pC')",
        "write a name without control characters, line breaks and invisible characters",
    ),
]

# The major version that an image's tag names, or '' (`latest`, a date, no tag, only a digest). The digest is
# cut off first, for it may look like a tag; a tag holds no slash, which tells it from a registry's port.
_MAJOR = "{}.find('^[^@]+').find(':[0-9]{{1,2}}([^0-9/][^/]*)?$').find('[0-9]+')"
_OLD_MAJOR, _NEW_MAJOR = _MAJOR.format("oldSelf"), _MAJOR.format("self")

Image = Annotated[
    str,
    Field(min_length=1, max_length=512),
    Rule(
        "self.matches('^[a-zA-Z0-9][a-zA-Z0-9._:/@-]*$')",
        "write an image reference, such as postgres:17 or registry.example.com:5000/postgres:17",
    ),
    Rule(
        f"{_OLD_MAJOR} == '' || {_NEW_MAJOR} == '' || {_OLD_MAJOR} == {_NEW_MAJOR}",
        "the major version cannot change, the data directory would not fit: create a new Database with this "
        "image, and restore a Backup of this one into it",
        reason="FieldValueForbidden",
    ),
]


class Storage(ApiModel):
    """The volume of the data directory. It cannot change: the claim template of a StatefulSet cannot."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # A rule on the field itself would be skipped when the field is added or taken away.
            Rule(
                same("storageClassName"),
                "the storage class cannot change; create a new Database, and restore a Backup of this one into it",
                ".storageClassName",
                "FieldValueForbidden",
            ),
            # Refused rather than ignored: the StatefulSet would keep its size, and the operator may not patch
            # claims.
            Rule(
                "self.size == oldSelf.size",
                "the size cannot change here; expand the PersistentVolumeClaim data-<name>-0 itself, if its "
                "class allows it",
                ".size",
                "FieldValueForbidden",
            ),
            Rule("string(self.size).matches('[1-9]')", "write a size above zero, such as 10Gi", ".size"),
        )
    )

    size: Quantity = Field("1Gi", description="Size of the volume that is claimed. Cannot change.")
    storage_class_name: NameString | None = Field(
        None, description="The cluster's default class otherwise. Cannot change."
    )


class DatabaseSpec(PodSettings):
    """What the server should be."""

    image: Image = Field(DEFAULT_IMAGE, description="A stock postgres image; its major version cannot change.")
    replicas: Annotated[int, Field(ge=1, le=9)] = Field(
        1, description="Only 1 is supported; more is refused with a condition."
    )
    database_name: Annotated[
        PostgresName,
        Rule(
            "!(self in ['postgres', 'template0', 'template1'])",
            "write another name: postgres, template0 and template1 are PostgreSQL's own databases",
        ),
        immutable("the name of the database cannot change; create a new Database"),
    ] = Field("app", description="Database to create. Cannot change.")
    username: Annotated[
        PostgresName,
        Rule(
            "!(self in ['postgres', 'public', 'none']) && !self.startsWith('pg_')",
            "write another name: postgres, public, none and what starts with pg_ are PostgreSQL's own",
        ),
        immutable("the application role cannot change; create a new Database"),
    ] = Field("app", description="Application role; owns the database. Cannot change.")
    storage: Storage = Storage()
    deletion_policy: Literal["Retain", "Delete"] = Field(
        "Retain", description="Whether volume and credentials go when the Database is deleted."
    )


DatabasePhase = Literal["Pending", "Provisioning", "Verifying", "Ready", "Updating", "Failed"]


class DatabaseStatus(ApiModel):
    """What was found."""

    phase: DatabasePhase | None = None
    ready: bool | None = None
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    secret_name: Annotated[str, Field(max_length=253)] | None = None
    server_version: Annotated[str, Field(max_length=64)] | None = None
    verified: Annotated[str, Field(max_length=64)] | None = Field(
        None,
        description="Hash of the server (its pods' revision and the spec) that the last successful verification saw.",
    )
    observed_generation: int | None = None
    conditions: Conditions = Field(default_factory=list)


class Database(Resource):
    """A PostgreSQL server with one database and one application role."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # 52: a label of a StatefulSet's pods is its name and eleven characters more, and at most 63.
            Rule(
                "size(self.metadata.name) <= 52 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "metadata.name: write at most 52 lower case letters, digits and '-', with a letter first and "
                "no '-' at the end; Services and StatefulSets are named after it",
            )
        )
    )

    spec: DatabaseSpec = DatabaseSpec()
    status: DatabaseStatus = DatabaseStatus()


class VerifyResult(ApiModel):
    """What the verification Job reports."""

    server_version: Version
