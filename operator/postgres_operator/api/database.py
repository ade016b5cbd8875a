"""Database: a PostgreSQL server that the operator runs, or an external one that it works with."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from postgres_operator.names import POSTGRES_PORT

from .cel import Rule, immutable, rules, same
from .common import ApiModel, Conditions, NameString, PodSettings, Quantity, Reference, Resource, Version

DEFAULT_IMAGE = "postgres:17"
DEFAULT_SIZE = "1Gi"

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
_MAJOR = "{}.image.find('^[^@]+').find(':[0-9]{{1,2}}([^0-9/][^/]*)?$').find('[0-9]+')"
_OLD_MAJOR, _NEW_MAJOR = _MAJOR.format("oldSelf"), _MAJOR.format("self")

IMAGE = "[a-zA-Z0-9][a-zA-Z0-9._:/@-]*"
Image = Annotated[
    str,
    Field(min_length=1, max_length=512),
    Rule(
        f"self.matches('^{IMAGE}$')",
        "write an image reference, such as postgres:17 or registry.example.com:5000/postgres:17",
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

    size: Quantity = Field(DEFAULT_SIZE, description="Size of the volume that is claimed. Cannot change.")
    storage_class_name: NameString | None = Field(
        None, description="The cluster's default class otherwise. Cannot change."
    )


SslMode = Literal["disable", "require", "verify-ca", "verify-full"]

# Goes into PGHOST: neither a list of hosts nor the path of a socket. With a colon it is an IPv6 address.
Host = Annotated[
    str,
    Field(min_length=1, max_length=253),
    Rule(
        "self.matches('^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$')",
        "write a DNS name or an IP address, such as db.example.com",
    ),
]


class External(ApiModel):
    """A server that is there already. Everything here may change, and is then checked anew."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "!(self.sslMode in ['verify-ca', 'verify-full']) || has(self.caSecretRef)",
                "name the Secret that has the certificate authority of the server under ca.crt; without one write "
                "sslMode: require, which encrypts, but does not prove who the server is",
                ".caSecretRef",
                "FieldValueRequired",
            ),
            Rule(
                "self.sslMode != 'disable' || !has(self.caSecretRef)",
                "leave out caSecretRef: sslMode: disable verifies nothing",
                ".caSecretRef",
                "FieldValueForbidden",
            ),
            # A Database that is not external gets the Secret <its name>-credentials, whoever wrote it.
            Rule(
                "!self.credentialsSecretRef.name.endsWith('-credentials')",
                "name a Secret whose name does not end in -credentials, such as warehouse-login: those are of "
                "Databases whose server the operator runs",
                ".credentialsSecretRef",
                "FieldValueForbidden",
            ),
        )
    )

    host: Host = Field(description="DNS name or IP address, as the pods of this namespace reach it.")
    port: Annotated[int, Field(ge=1, le=65535)] = POSTGRES_PORT
    # What is verified less is also given the password and the data: to write that down is a decision.
    ssl_mode: SslMode = Field(
        "verify-full",
        description="As libpq's `sslmode`: `verify-full` proves the server by its certificate and host name, "
        "`verify-ca` by its certificate, `require` only encrypts (with `caSecretRef` as `verify-ca`), "
        "`disable` does not encrypt.",
    )
    credentials_secret_ref: Reference = Field(
        description="Secret with the key `password` of `username`, and `superuser-password` where `superuser` is set. "
        "Its name must not end in `-credentials`."
    )
    ca_secret_ref: Reference | None = Field(
        None, description="Secret with the key `ca.crt`: certificates (PEM) that may sign the server's."
    )
    superuser: PostgresName | None = Field(
        None, description="A superuser of the server. Without one there is no Restore with mode `Replace`."
    )
    check_interval_seconds: Annotated[int, Field(ge=30, le=86400)] = Field(
        300, description="A Job logs in to the server at this interval. One that fails is repeated after a minute."
    )


class DatabaseSpec(PodSettings):
    """What the server should be."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                # A tag without a number would be a way round: from there any version can follow.
                f"has(self.external) || {_OLD_MAJOR} == '' || {_OLD_MAJOR} == {_NEW_MAJOR}",
                "the major version cannot change, the data directory would not fit, so the new tag has to name the "
                "same one (a digest may follow it); for another one create a new Database with this image, and restore "
                "a Backup of this one into it",
                ".image",
                "FieldValueForbidden",
            ),
            Rule(
                "has(self.external) == has(oldSelf.external)",
                "external can neither be added nor taken away; create a new Database",
                ".external",
                "FieldValueForbidden",
            ),
            # The defaults are there all the same: the API server fills them in before it looks at rules.
            Rule(
                "!has(self.external) || self.replicas == 1",
                "leave out replicas: no server is deployed beside external",
                ".replicas",
                "FieldValueForbidden",
            ),
            Rule(
                f"!has(self.external) || self.storage.size == '{DEFAULT_SIZE}' && !has(self.storage.storageClassName)",
                "leave out storage: no server is deployed beside external",
                ".storage",
                "FieldValueForbidden",
            ),
            Rule(
                "!has(self.external) || self.deletionPolicy == 'Retain'",
                "leave out deletionPolicy: nothing of an external server is ever deleted",
                ".deletionPolicy",
                "FieldValueForbidden",
            ),
            # What executes the content of a dump must not be a superuser.
            Rule(
                "!has(self.external) || !has(self.external.superuser) || self.external.superuser != self.username",
                "name another role than username, which loads dumps and must not be a superuser",
                ".external.superuser",
            ),
            # Providers of servers make a database and a role of this name.
            Rule(
                "!(self.databaseName in ['template0', 'template1']) && "
                "(has(self.external) || self.databaseName != 'postgres')",
                "write another name: postgres, template0 and template1 are PostgreSQL's own databases; only external "
                "may name postgres",
                ".databaseName",
            ),
            Rule(
                "!(self.username in ['public', 'none']) && !self.username.startsWith('pg_') && "
                "(has(self.external) || self.username != 'postgres')",
                "write another name: postgres, public, none and what starts with pg_ are PostgreSQL's own; only "
                "external may name postgres",
                ".username",
            ),
            # Mode Replace renames databases, and works from this one.
            Rule(
                "!has(self.external) || !has(self.external.superuser) || self.databaseName != 'postgres'",
                "leave out superuser: the database postgres cannot be replaced",
                ".external.superuser",
                "FieldValueForbidden",
            ),
        )
    )

    image: Image = Field(
        DEFAULT_IMAGE,
        description="A stock postgres image; its major version cannot change. With `external` it is the image of the "
        "tools, any version not older than the server's.",
    )
    external: External | None = Field(
        None,
        description="A server that is there already; nothing is deployed for it. Cannot be added or taken away.",
    )
    replicas: Annotated[int, Field(ge=1, le=9)] = Field(
        1, description="Only 1 is supported; more is refused with a condition."
    )
    database_name: Annotated[
        PostgresName,
        immutable("the name of the database cannot change; create a new Database"),
    ] = Field("app", description="Database to create. Cannot change.")
    username: Annotated[
        PostgresName,
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
    tool_version: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Of the image's `pg_dump`; it must not be older than the server."
    )
    verified: Annotated[str, Field(max_length=64)] | None = Field(
        None,
        description="Hash of the server (its pods' revision or its address, and the spec) that the last successful "
        "verification saw.",
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
    tool_version: Version | None = None  # a template of somebody's own may not report it
