"""BackupStore: where backups lie."""

from typing import Annotated

from pydantic import ConfigDict, Field

from .backup import Format
from .cel import Rule, immutable, rules, same
from .common import SUBDOMAIN, ApiModel, Conditions, NameString, Reference, Resource, Time, Version

# One part of a path: it must not lead out of the store, hide, or look like an option.
SEGMENT = "[A-Za-z0-9_][A-Za-z0-9._-]*"
# S3's own grammar of names: three characters at least, and none that a URL or a shell would take for something else.
BUCKET = "[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"


class PvcStore(ApiModel):
    """A PersistentVolumeClaim in the same namespace."""

    claim_name: Annotated[
        NameString,
        # What a Database's server has, see names.data_claim: a store would let others read and change it.
        Rule(
            "!self.matches('^data-.+-0$')",
            "name another claim: data-<name>-0 holds the data of a server",
            reason="FieldValueForbidden",
        ),
        immutable("the claim of a BackupStore cannot change; create another BackupStore"),
    ] = Field(description="The claim; it must exist. Cannot change.")


class S3Store(ApiModel):
    """A bucket, or a part of one, of Amazon S3 or of a server that speaks its protocol."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # A rule on the field itself would be skipped when the field is added or taken away.
            Rule(
                same("prefix"),
                "the prefix of a BackupStore cannot change; create another BackupStore",
                ".prefix",
                "FieldValueForbidden",
            ),
        )
    )

    bucket: Annotated[
        str,
        Field(min_length=3, max_length=63),
        Rule(
            f"self.matches('^{BUCKET}$') && !self.contains('..')",
            "write the name of a bucket: lower case letters, digits, '-' and single dots, such as my-backups",
        ),
        immutable("the bucket of a BackupStore cannot change; create another BackupStore"),
    ] = Field(description="The bucket; it must exist. Cannot change.")
    prefix: (
        Annotated[
            str,
            Field(min_length=1, max_length=256),
            Rule(
                f"self.matches('^{SEGMENT}(/{SEGMENT})*$') && !self.contains('..')",
                "write a path without a slash at its ends, without '..', and without segments that are empty or start "
                "with '.' or '-', such as team/production",
            ),
        ]
        | None
    ) = Field(None, description="Everything lies below this path in the bucket. Cannot change.")
    endpoint: (
        Annotated[
            str,
            Field(max_length=280),
            Rule(
                rf"self.matches(r'^https?://{SUBDOMAIN}(:[0-9]{{1,5}})?$')",
                "write the server's scheme, host and port alone, such as https://minio.example.com:9000",
            ),
        ]
        | None
    ) = Field(None, description="URL of the server; that of Amazon S3 in the region otherwise.")
    region: Annotated[
        str,
        Field(min_length=1, max_length=63),
        Rule(
            "self.matches('^[A-Za-z0-9][A-Za-z0-9_-]*$')",
            "write a region: letters, digits, '-' and '_', such as eu-central-1",
        ),
    ] = Field("us-east-1", description="The region that requests are signed for.")
    path_style: bool = Field(
        True, description="Whether the bucket is named in the path of a URL, not as a part of its host."
    )
    credentials_secret_ref: Reference | None = Field(
        None,
        description="A Secret with the keys AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if need be, "
        "AWS_SESSION_TOKEN. Without it, the identity that the platform gives to the pod.",
    )
    service_account_name: NameString | None = Field(
        None, description="ServiceAccount of the Jobs' pods, by which the platform knows them."
    )
    ca_secret_ref: Reference | None = Field(
        None, description="A Secret whose key ca.crt holds the certificates that the server's must be signed by."
    )


class BackupStoreSpec(ApiModel):
    """The kind of store; exactly one."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("has(self.pvc) != has(self.s3)", "write exactly one of pvc and s3"),
            Rule(
                "has(self.pvc) == has(oldSelf.pvc)",
                "the kind of a BackupStore cannot change; create another BackupStore",
                reason="FieldValueForbidden",
            ),
        )
    )

    pvc: PvcStore | None = None
    s3: S3Store | None = None
    discover: bool = Field(False, description="List the backups that lie in the store in `status`, by a Job.")
    discover_interval_seconds: Annotated[int, Field(ge=300, le=30 * 86400)] = Field(
        86400, description="With `discover`: the next list is made so long after the last one."
    )


class DiscoveredBackup(ApiModel):
    """A backup that lies in the store, as its manifest describes it."""

    location: Annotated[str, Field(max_length=1024, pattern=f"^(pvc://{SUBDOMAIN}|s3://{BUCKET})(/{SEGMENT})+$")] = (
        Field(description="URL that a Restore takes as `location`.")
    )
    name: NameString | None = Field(None, description="The Backup that it was.")
    namespace: NameString | None = Field(None, description="Where that was.")
    database: NameString | None = Field(None, description="The Database that it is of.")
    database_name: Annotated[str, Field(max_length=63)] | None = Field(None, description="Its `databaseName`.")
    backup_time: Time = Field(description="When the dump's snapshot began.")
    size_bytes: Annotated[int, Field(gt=0)]
    format: Format
    server_version: Version
    partial: bool = Field(description="Whether it has a part of the database only.")


class BackupStoreStatus(ApiModel):
    """What was found, with `discover`."""

    backups: Annotated[list[DiscoveredBackup], Field(max_length=100)] = Field(
        [], description="As many as there is room for, the newest first; of each Database at least one, if possible."
    )
    backup_count: Annotated[int, Field(ge=0)] | None = Field(None, description="How many there are in all.")
    invalid_count: Annotated[int, Field(ge=0)] | None = Field(
        None, description="How many manifests are not valid, or name a dump that is not there in full."
    )
    last_discovery_time: Time | None = Field(
        None, description="When this list was made; one that finds the same is not written."
    )
    conditions: Conditions = Field(default_factory=list)


class BackupStore(Resource):
    """A place for backups."""

    spec: BackupStoreSpec
    status: BackupStoreStatus = BackupStoreStatus()


class DiscoveryResult(ApiModel):
    """What a Job that lists a store reports."""

    count: Annotated[int, Field(ge=0)]
    invalid: Annotated[int, Field(ge=0)]
    backups: str  # base64 of gzip of lines, each of which is a JSON array: see decide/store.py
