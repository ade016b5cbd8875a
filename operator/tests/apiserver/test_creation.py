"""What the API server takes and refuses when an object is created."""

from typing import Any, get_args

import pytest
from apiserver_kit import Api, Make
from cron_oracle import Line, lines
from hypothesis import given, settings

from postgres_operator.api import crd
from postgres_operator.api.backup import ExtraArg
from postgres_operator.api.common import dump
from postgres_operator.api.schedule import MACROS
from postgres_operator.decide import cron

MODELS = {kind.name: kind.model for kind in crd.KINDS}
DB, BACKUP = {"databaseRef": {"name": "shop"}}, {"backupRef": {"name": "b"}}
TABLE = {"name": "orders"}
META = {"namespace": "crds", "uid": "0"}


def database(**spec: Any) -> tuple[str, dict[str, Any]]:
    return "Database", spec


def backup(**spec: Any) -> tuple[str, dict[str, Any]]:
    return "Backup", DB | spec


def restore(**spec: Any) -> tuple[str, dict[str, Any]]:
    return "Restore", DB | spec


BESIDE = ("replicas", "storage", "deletionPolicy", "databaseName", "username")


def external(**more: Any) -> tuple[str, dict[str, Any]]:
    server = {"host": "pg.example.com", "credentialsSecretRef": {"name": "login"}, "caSecretRef": {"name": "ca"}}
    beside = {k: more.pop(k) for k in list(more) if k in BESIDE}
    return "Database", {"external": {k: v for k, v in (server | more).items() if v is not None}, **beside}


def schedule(line: str = "0 3 * * *", **spec: Any) -> tuple[str, dict[str, Any]]:
    return "ScheduledBackup", {"schedule": line, "template": {"spec": DB}, **spec}


def template(**metadata: Any) -> tuple[str, dict[str, Any]]:
    return schedule(template={"metadata": metadata, "spec": DB})


def s3(**changes: Any) -> tuple[str, dict[str, Any]]:
    return "BackupStore", {"s3": {"bucket": "vault", **changes}}


def located(location: str) -> tuple[str, dict[str, Any]]:
    return restore(location=location)


GOOD = [
    pytest.param(database(), id="empty spec"),
    pytest.param(("Database", None), id="no spec at all"),
    pytest.param(database(image="registry.example.com:5000/a/postgres:17.6-alpine@sha256:" + 64 * "0"), id="image"),
    pytest.param(database(image="postgres"), id="image without a tag"),
    pytest.param(database(databaseName="a" * 63, username="b" * 63), id="longest names"),
    pytest.param(database(databaseName="Größe der Läden", username="o'hara $x"), id="unusual names"),
    pytest.param(database(username="pgbouncer", databaseName="postgres1"), id="nearly reserved names"),
    pytest.param(external(databaseName="postgres", username="postgres"), id="external, as providers name them"),
    pytest.param(database(storage={"size": "500Mi", "storageClassName": "fast.local"}), id="storage"),
    pytest.param(database(storage={"storageClassName": "fast"}), id="storage class only"),
    pytest.param(database(storage={"size": 1073741824}), id="size as a number"),
    pytest.param(database(resources={"limits": {"cpu": 1, "memory": "1Gi"}}), id="cpu as a number"),
    pytest.param(database(resources={"requests": {"ephemeral-storage": "0.5Gi"}}), id="ephemeral storage"),
    pytest.param(database(nodeSelector={"kubernetes.io/os": "linux"}), id="node selector"),
    pytest.param(
        database(tolerations=[{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]),
        id="toleration",
    ),
    pytest.param(database(imagePullSecrets=[{"name": "registry"}]), id="image pull secret"),
    pytest.param(database(deletionPolicy="Delete"), id="deletion policy"),
    pytest.param(external(), id="external server"),
    pytest.param(external(sslMode="require", caSecretRef=None), id="external server without an authority"),
    pytest.param(external(sslMode="disable", caSecretRef=None), id="external server without TLS"),
    pytest.param(external(host="2001:db8::1", port=6432, superuser="root"), id="external server by its address"),
    pytest.param(external(credentialsSecretRef={"name": "credentials"}), id="external server and credentials"),
    pytest.param(external(replicas=1, storage={"size": "1Gi"}), id="external server and defaults spelt out"),
    pytest.param(backup(), id="backup"),
    pytest.param(backup(storeRef={"name": "s"}, format="plain", activeDeadlineSeconds=10), id="backup with all"),
    pytest.param(backup(compression={"method": "gzip", "level": 9}), id="backup with gzip"),
    pytest.param(backup(compression={"method": "lz4", "level": 12}), id="backup with lz4"),
    pytest.param(backup(compression={"method": "zstd", "level": 22}), id="backup with zstd"),
    pytest.param(backup(compression={"method": "zstd"}), id="backup with the default level"),
    pytest.param(backup(format="plain", compression={"method": "none"}), id="plain backup without compression"),
    pytest.param(backup(format="directory", jobs=32, compression={"method": "gzip"}), id="backup with jobs"),
    pytest.param(backup(includeGlobals=True), id="backup with roles"),
    pytest.param(backup(extraArgs=list(get_args(ExtraArg))), id="backup with extra arguments"),
    pytest.param(backup(schemas=["sales", "$x \"Größe\" 'a' \\"]), id="backup of schemas"),
    pytest.param(backup(excludeSchemas=["s"] * 50, excludeTables=[TABLE] * 50), id="backup with much left out"),
    pytest.param(backup(schemas=["a"], excludeTables=[{"schema": "a", "name": "b"}]), id="part of a schema"),
    pytest.param(backup(tables=[{"name": "n" * 63}]), id="backup of a table"),
    pytest.param(schedule(template={"spec": DB | {"tables": [TABLE] * 50}}), id="schedule of tables"),
    pytest.param(restore(**BACKUP), id="restore of a Backup"),
    pytest.param(restore(**BACKUP, mode="Replace", keepPrevious=False), id="restore with a mode"),
    pytest.param(restore(**BACKUP, mode="Replace", jobs=32), id="restore with jobs"),
    pytest.param(located("pvc://backups/shop/b-1234"), id="restore of a location"),
    pytest.param(located("pvc://my.claim-1/_a/B.c/d-e"), id="location with dots and dashes"),
    pytest.param(restore(location="pvc://c/p", storeRef={"name": "s"}), id="location in a store"),
    pytest.param(restore(**BACKUP, storeRef={"name": "s"}), id="name in a store"),
    pytest.param(located("s3://my.bucket-1/_a/B.c/d-e"), id="location in a bucket"),
    pytest.param(("BackupStore", {"pvc": {"claimName": "backups"}}), id="store"),
    pytest.param(("BackupStore", {"pvc": {"claimName": "data-archive-2024"}}), id="claim that is nearly a server's"),
    pytest.param(
        ("BackupStore", {"pvc": {"claimName": "c"}, "discover": True, "discoverIntervalSeconds": 300}), id="discover"
    ),
    pytest.param(schedule(), id="schedule"),
    pytest.param(
        schedule(retention={"keepLast": 3, "keepYearly": 10000, "maxAge": "52w"}), id="schedule with retention"
    ),
    pytest.param(
        schedule(
            timeZone="America/Argentina/Buenos_Aires",
            suspend=True,
            concurrencyPolicy="Replace",
            startingDeadlineSeconds=10,
            jitterSeconds=86400,
            failedBackupsHistoryLimit=1,
        ),
        id="schedule with all",
    ),
    pytest.param(schedule(timeZone="Etc/GMT+5"), id="time zone with a plus"),
    pytest.param(template(labels={"team": "shop", "a.example.com/b": ""}, annotations={"a/b": "c d"}), id="template"),
    pytest.param(s3(), id="bucket"),
    pytest.param(s3(bucket="a.b-3"), id="bucket with dots and dashes"),
    pytest.param(s3(bucket="b" * 63, prefix="p" * 256), id="longest bucket"),
    pytest.param(s3(prefix="team/Production_1/a.b"), id="prefix"),
    pytest.param(s3(endpoint="https://s3.example.com"), id="endpoint"),
    pytest.param(s3(endpoint="http://minio.storage.svc.cluster.local:9000"), id="endpoint with a port"),
    pytest.param(s3(endpoint="https://10.0.0.1:9000"), id="endpoint by address"),
    pytest.param(s3(region="RegionOne", pathStyle=False), id="region"),
    pytest.param(
        s3(credentialsSecretRef={"name": "keys"}, caSecretRef={"name": "ca"}, serviceAccountName="writer"),
        id="credentials",
    ),
]


def test_an_empty_list_may_stand_beside_any_other(api: Api, make: Make) -> None:
    api.create(make(*backup(tables=[TABLE], schemas=[], excludeSchemas=[], excludeTables=[]))).must()
    api.create(make(*backup(tables=[], schemas=["a"], excludeSchemas=[], excludeTables=[TABLE]))).must()


@pytest.mark.parametrize("wanted", GOOD)
def test_is_taken_with_the_defaults_of_the_model(wanted: tuple[str, dict[str, Any]], api: Api, make: Make) -> None:
    body = make(*wanted)
    api.create(body).must()

    stored = api.read(body)
    model = MODELS[body["kind"]].model_validate({**body, "metadata": body["metadata"] | META})

    assert model.spec == type(model.spec).model_validate(stored["spec"])  # type: ignore[attr-defined]
    scalars = {k: v for k, v in dump(model)["spec"].items() if v not in ([], {})}
    assert set(stored["spec"]) == set(scalars), "the API server has stored every default"


NAME = "write a name without '=', '/', '://' and '..'"
EITHER = "write either tables or the other lists"
LEVEL = "write a level of 1 to 9 for gzip, 1 to 12 for lz4 or 1 to 22 for zstd, and leave it out for none"
LOCATION = "write the backupLocation of a Backup, pvc://<claim>/<path> or s3://<bucket>/<path>"
BUCKET = "write the name of a bucket: lower case letters"
PREFIX = "write a path without a slash at its ends"
ENDPOINT = "write the server's scheme, host and port alone"
REGION = "write a region: letters, digits"
IMAGE = "write an image reference, such as postgres:17"
HOST = "write a DNS name or an IP address"
INVISIBLE = "write a name without control characters"
RESERVED_DB = "postgres, template0 and template1 are PostgreSQL's own databases"
RESERVED_ROLE = "what starts with pg_ are PostgreSQL's own"

BAD = [
    # ---- names that libpq, a tool or a script would take for something else
    pytest.param(database(databaseName="dbname=x"), "spec.databaseName", NAME, id="database with ="),
    pytest.param(database(databaseName="postgres://h/x"), "spec.databaseName", NAME, id="database as a URL"),
    pytest.param(database(databaseName="-c"), "spec.databaseName", NAME, id="database as an option"),
    pytest.param(database(databaseName="a..b"), "spec.databaseName", NAME, id="database with .."),
    pytest.param(database(databaseName="a/b"), "spec.databaseName", NAME, id="database with /"),
    pytest.param(database(databaseName="a\nb"), "spec.databaseName", INVISIBLE, id="database with a newline"),
    pytest.param(database(databaseName="a\x07b"), "spec.databaseName", INVISIBLE, id="database with a bell"),
    pytest.param(database(databaseName="a\u202eb"), "spec.databaseName", INVISIBLE, id="database turned around"),
    pytest.param(database(databaseName="a\x85b"), "spec.databaseName", INVISIBLE, id="database with a C1 control"),
    pytest.param(database(databaseName=""), "spec.databaseName", "at least 1 chars", id="database without a name"),
    pytest.param(database(databaseName="a" * 64), "spec.databaseName", "may not be more than 63", id="long database"),
    pytest.param(database(databaseName="ä" * 32), "spec.databaseName", "63 bytes", id="database of 64 bytes"),
    pytest.param(database(databaseName="postgres"), "spec.databaseName", RESERVED_DB, id="database postgres"),
    pytest.param(database(databaseName="template0"), "spec.databaseName", RESERVED_DB, id="database template0"),
    pytest.param(database(databaseName="template1"), "spec.databaseName", RESERVED_DB, id="database template1"),
    pytest.param(database(username="user=x"), "spec.username", NAME, id="role with ="),
    pytest.param(database(username="x://y"), "spec.username", NAME, id="role as a URL"),
    pytest.param(database(username="-U"), "spec.username", NAME, id="role as an option"),
    pytest.param(database(username="a..b"), "spec.username", NAME, id="role with .."),
    pytest.param(database(username="a/b"), "spec.username", NAME, id="role with /"),
    pytest.param(database(username="ä" * 32), "spec.username", "63 bytes", id="role of 64 bytes"),
    pytest.param(database(username="a\tb"), "spec.username", INVISIBLE, id="role with a tab"),
    pytest.param(database(username="postgres"), "spec.username", RESERVED_ROLE, id="role postgres"),
    pytest.param(external(databaseName="template1"), "spec.databaseName", RESERVED_DB, id="external, template1"),
    pytest.param(external(username="pg_x"), "spec.username", RESERVED_ROLE, id="external, role pg_"),
    pytest.param(
        external(databaseName="postgres", superuser="root"),
        "spec.external.superuser",
        "the database postgres cannot be replaced",
        id="external, database postgres with a superuser",
    ),
    pytest.param(database(username="pg_x"), "spec.username", RESERVED_ROLE, id="role pg_"),
    pytest.param(database(username="public"), "spec.username", RESERVED_ROLE, id="role public"),
    pytest.param(database(username="none"), "spec.username", RESERVED_ROLE, id="role none"),
    # ---- the rest of a Database
    pytest.param(database(image="-rm postgres"), "spec.image", IMAGE, id="image as an option"),
    pytest.param(database(image="postgres:17\n"), "spec.image", IMAGE, id="image with a newline"),
    pytest.param(database(image=""), "spec.image", "at least 1 chars", id="empty image"),
    pytest.param(database(image="a" * 513), "spec.image", "may not be more than 512", id="long image"),
    pytest.param(database(replicas=0), "spec.replicas", "greater than or equal to 1", id="no replicas"),
    pytest.param(database(replicas=10), "spec.replicas", "less than or equal to 9", id="many replicas"),
    pytest.param(database(storage={"size": "0"}), "spec.storage.size", "size above zero", id="size zero"),
    pytest.param(database(storage={"size": 0}), "spec.storage.size", "size above zero", id="size number zero"),
    pytest.param(database(storage={"size": "big"}), "spec.storage.size", "should match", id="size in words"),
    pytest.param(database(storage={"size": "-1Gi"}), "spec.storage.size", "should match", id="negative size"),
    pytest.param(
        database(storage={"storageClassName": "Fast"}), "storageClassName", "should match", id="storage class"
    ),
    pytest.param(database(deletionPolicy="Keep"), "spec.deletionPolicy", '"Retain", "Delete"', id="deletion policy"),
    pytest.param(database(nodeSelector={"k" * 318: ""}), "spec.nodeSelector", "at most 317", id="long label key"),
    pytest.param(database(nodeSelector={"k": "v" * 64}), "spec.nodeSelector.k", "more than 63", id="long label"),
    pytest.param(
        database(nodeSelector={f"k{i}": "" for i in range(33)}), "nodeSelector", "at most 32", id="many labels"
    ),
    pytest.param(database(tolerations=33 * [{"key": "k"}]), "tolerations", "at most 32", id="many tolerations"),
    pytest.param(database(imagePullSecrets=[{}]), "imagePullSecrets[0].name", "Required", id="unnamed secret"),
    pytest.param(
        database(resources={"limits": {"nvidia.com/gpu": 1}}), "nvidia.com/gpu", "unknown field", id="other resource"
    ),
    pytest.param(database(imgae="postgres"), "spec.imgae", "unknown field", id="misspelt field"),
    # ---- a Database with an external server
    pytest.param(external(replicas=2), "spec.replicas", "leave out replicas", id="external, replicas"),
    pytest.param(external(storage={"size": "2Gi"}), "spec.storage", "leave out storage", id="external, size"),
    pytest.param(
        external(storage={"storageClassName": "a"}), "spec.storage", "leave out storage", id="external, class"
    ),
    pytest.param(
        external(deletionPolicy="Delete"),
        "spec.deletionPolicy",
        "leave out deletionPolicy",
        id="external, deletion policy",
    ),
    pytest.param(external(host=None), "spec.external.host", "Required value", id="external, no host"),
    pytest.param(external(host=""), "spec.external.host", "at least 1 chars", id="external, empty host"),
    pytest.param(external(host="/var/run"), "spec.external.host", HOST, id="external, a socket"),
    pytest.param(external(host="a,b"), "spec.external.host", HOST, id="external, two hosts"),
    pytest.param(external(host="host=a b"), "spec.external.host", HOST, id="external, a connection string"),
    pytest.param(external(host="pg:5432"), "spec.external.host", HOST, id="external, host and port"),
    pytest.param(external(host="a\n"), "spec.external.host", HOST, id="external, host with a newline"),
    pytest.param(external(port=0), "spec.external.port", "greater than or equal to 1", id="external, port"),
    pytest.param(external(sslMode="prefer"), "spec.external.sslMode", '"verify-full"', id="external, sslMode prefer"),
    pytest.param(external(caSecretRef=None), "spec.external.caSecretRef", "sslMode: require", id="external, no CA"),
    pytest.param(
        external(caSecretRef=None, sslMode="verify-ca"),
        "spec.external.caSecretRef",
        "sslMode: require",
        id="external, no CA to verify",
    ),
    pytest.param(
        external(sslMode="disable"), "spec.external.caSecretRef", "leave out caSecretRef", id="external, idle CA"
    ),
    pytest.param(
        external(credentialsSecretRef=None),
        "spec.external.credentialsSecretRef",
        "Required value",
        id="external, no credentials",
    ),
    pytest.param(
        external(credentialsSecretRef={"name": "sales-credentials"}),
        "spec.external.credentialsSecretRef",
        "does not end in -credentials, such as warehouse-login",
        id="external, credentials as those of a Database of ours",
    ),
    pytest.param(
        external(superuser="app"),
        "spec.external.superuser",
        "name another role than username",
        id="external, superuser as application role",
    ),
    pytest.param(external(superuser="-U"), "spec.external.superuser", NAME, id="external, superuser as an option"),
    pytest.param(external(checkIntervalSeconds=29), "checkIntervalSeconds", "to 30", id="external, often"),
    # ---- Backup
    pytest.param(("Backup", None), "spec", "Required value", id="backup without spec"),
    pytest.param(("Backup", {}), "spec.databaseRef", "Required value", id="backup of nothing"),
    pytest.param(backup(databaseRef={"name": ""}), "spec.databaseRef.name", "at least 1", id="unnamed database"),
    pytest.param(backup(databaseRef={"name": "../x"}), "spec.databaseRef.name", "should match", id="path as a name"),
    pytest.param(backup(format="tar"), "spec.format", '"custom", "plain"', id="format"),
    pytest.param(backup(jobs=2), "spec.jobs", "write format: directory", id="jobs for one file"),
    pytest.param(backup(format="directory", jobs=0), "spec.jobs", "to 1", id="no jobs"),
    pytest.param(backup(format="directory", jobs=33), "spec.jobs", "to 32", id="many jobs"),
    pytest.param(backup(activeDeadlineSeconds=9), "spec.activeDeadlineSeconds", "to 10", id="short deadline"),
    pytest.param(backup(startDeadlineSeconds=86401), "spec.startDeadlineSeconds", "to 86400", id="late start"),
    pytest.param(backup(compression={}), "spec.compression.method", "Required value", id="no method"),
    pytest.param(backup(compression={"method": "bzip2"}), "spec.compression.method", '"zstd"', id="method"),
    pytest.param(backup(compression={"method": "none", "level": 1}), "compression.level", LEVEL, id="idle level"),
    pytest.param(backup(compression={"method": "gzip", "level": 10}), "compression.level", LEVEL, id="gzip level"),
    pytest.param(backup(compression={"method": "lz4", "level": 13}), "compression.level", LEVEL, id="lz4 level"),
    pytest.param(backup(compression={"method": "zstd", "level": 23}), "compression.level", "to 22", id="zstd level"),
    pytest.param(backup(compression={"method": "gzip", "level": 0}), "compression.level", "to 1", id="level zero"),
    pytest.param(
        backup(format="plain", compression={"method": "gzip"}),
        "spec.compression",
        "write format: custom",
        id="compressed text",
    ),
    *(
        pytest.param(
            backup(extraArgs=[arg]), "spec.extraArgs[0]", '"--no-comments", "--no-privileges"', id=f"pg_dump {arg}"
        )
        for arg in ("--file=/tmp/x", "-fx", "--host=evil", "--no-comments --file=x", "--no-comments\n", "", "--inserts")
    ),
    pytest.param(backup(extraArgs=["--no-comments"] * 17), "spec.extraArgs", "at most 16", id="many extra arguments"),
    pytest.param(backup(tables=[TABLE], schemas=["s"]), "spec.tables", EITHER, id="tables and schemas"),
    pytest.param(backup(tables=[TABLE], excludeSchemas=["s"]), "spec.tables", EITHER, id="tables without schemas"),
    pytest.param(backup(tables=[TABLE], excludeTables=[TABLE]), "spec.tables", EITHER, id="tables without tables"),
    pytest.param(
        backup(schemas=["a"], excludeSchemas=["b"]), "spec.excludeSchemas", "either schemas or", id="schemas both ways"
    ),
    pytest.param(backup(schemas=["a\nb"]), "spec.schemas[0]", "should match", id="schema of two lines"),
    pytest.param(backup(schemas=["a\n"]), "spec.schemas[0]", "should match", id="schema with an end of line"),
    pytest.param(backup(schemas=[""]), "spec.schemas[0]", "at least 1", id="schema without a name"),
    pytest.param(backup(schemas=["s"] * 51), "spec.schemas", "at most 50", id="many schemas"),
    pytest.param(backup(schemas=["s" * 64]), "spec.schemas[0]", "more than 63", id="long schema"),
    pytest.param(backup(schemas=["postgres_operator"]), "spec.schemas[0]", "in no dump", id="our own schema"),
    pytest.param(
        backup(tables=[{"schema": "postgres_operator", "name": "a"}]), "tables[0].schema", "in no dump", id="our table"
    ),
    pytest.param(backup(tables=[{"schema": "a"}]), "spec.tables[0].name", "Required value", id="table without a name"),
    pytest.param(backup(tables=[{"name": "a\tb"}]), "spec.tables[0].name", "should match", id="table with a tab"),
    # ---- Restore
    pytest.param(("Restore", None), "spec", "Required value", id="restore without spec"),
    pytest.param(restore(), "spec", "exactly one of backupRef and location", id="restore of nothing"),
    pytest.param(restore(**BACKUP, location="pvc://c/p"), "spec", "exactly one of backupRef", id="restore of both"),
    pytest.param(restore(**BACKUP, jobs=2), "spec.jobs", "write mode: Replace", id="jobs in one transaction"),
    pytest.param(restore(**BACKUP, mode="Replace", jobs=33), "spec.jobs", "to 32", id="many jobs of a restore"),
    pytest.param(restore(**BACKUP, mode="Merge"), "spec.mode", '"Fail", "Replace", "Clean"', id="mode"),
    pytest.param(located("gs://bucket/key"), "spec.location", LOCATION, id="other scheme"),
    pytest.param(located("S3://bucket/key"), "spec.location", LOCATION, id="scheme in capitals"),
    pytest.param(located("s3://bucket"), "spec.location", LOCATION, id="location without a key"),
    pytest.param(located("s3://bucket/"), "spec.location", LOCATION, id="location with an empty key"),
    pytest.param(located("s3:///key"), "spec.location", LOCATION, id="location without a bucket"),
    pytest.param(located("s3://Bucket/x"), "spec.location", LOCATION, id="location with a bad bucket"),
    pytest.param(located("s3://k:s@bucket/x"), "spec.location", LOCATION, id="location with credentials"),
    pytest.param(located("s3://bucket/a/../x"), "spec.location", LOCATION, id="key that leads out"),
    pytest.param(located("s3://bucket/a//b"), "spec.location", LOCATION, id="key with an empty segment"),
    pytest.param(located("s3://bucket/a/-rf"), "spec.location", LOCATION, id="key with an option"),
    pytest.param(located("s3://bucket/a?x=y"), "spec.location", LOCATION, id="location with a query"),
    pytest.param(located("s3://bucket/$(id)"), "spec.location", LOCATION, id="location with a command"),
    pytest.param(located("/backups/x"), "spec.location", LOCATION, id="location as a path"),
    pytest.param(located("pvc://claim"), "spec.location", LOCATION, id="location without a path"),
    pytest.param(located("pvc://claim/"), "spec.location", LOCATION, id="location with an empty path"),
    pytest.param(located("pvc:///path"), "spec.location", LOCATION, id="location without a claim"),
    pytest.param(located("pvc://Claim/x"), "spec.location", LOCATION, id="location with a bad claim"),
    pytest.param(located("pvc://claim/../x"), "spec.location", LOCATION, id="location that leads out"),
    pytest.param(located("pvc://claim/a..b"), "spec.location", LOCATION, id="location with dots inside"),
    pytest.param(located("pvc://claim/a//b"), "spec.location", LOCATION, id="location with an empty segment"),
    pytest.param(located("pvc://claim/a/"), "spec.location", LOCATION, id="location with a slash at its end"),
    pytest.param(located("pvc://claim/.a"), "spec.location", LOCATION, id="location with a hidden segment"),
    pytest.param(located("pvc://claim/a/-rf"), "spec.location", LOCATION, id="location with an option"),
    pytest.param(located("pvc://claim/a b"), "spec.location", LOCATION, id="location with a space"),
    pytest.param(located("pvc://claim/a\nb"), "spec.location", LOCATION, id="location with a newline"),
    pytest.param(located("pvc://claim/a\n"), "spec.location", LOCATION, id="location with a newline at its end"),
    pytest.param(located("pvc://c/" + "a" * 1017), "spec.location", "more than 1024", id="long location"),
    # ---- BackupStore
    pytest.param(("BackupStore", None), "spec", "Required value", id="store without spec"),
    pytest.param(("BackupStore", {}), "spec", "write exactly one of pvc and s3", id="store of nothing"),
    pytest.param(
        ("BackupStore", {"pvc": {"claimName": "c"}, "s3": {"bucket": "vault"}}),
        "spec",
        "exactly one",
        id="store of two",
    ),
    pytest.param(("BackupStore", {"pvc": {}}), "spec.pvc.claimName", "Required value", id="store without a claim"),
    pytest.param(
        ("BackupStore", {"pvc": {"claimName": "data-shop-0"}}), "spec.pvc.claimName", "data of a server", id="its data"
    ),
    pytest.param(("BackupStore", {"pvc": {"claimName": "A/b"}}), "claimName", "should match", id="claim as a path"),
    # ---- ScheduledBackup; test_cron_lines has the lines themselves
    pytest.param(("ScheduledBackup", None), "spec", "Required value", id="schedule without spec"),
    pytest.param(("ScheduledBackup", {"schedule": "@daily"}), "spec.template", "Required value", id="no template"),
    pytest.param(schedule(retention={"keepLast": 0}), "spec.retention.keepLast", "greater", id="retention of none"),
    pytest.param(schedule(retention={"maxAge": "30m"}), "spec.retention.maxAge", "should match", id="age in minutes"),
    pytest.param(schedule(template={}), "spec.template.spec", "Required value", id="template without spec"),
    pytest.param(
        schedule(template={"spec": {"format": "custom"}}), "spec.template.spec.databaseRef", "Required", id="of nothing"
    ),
    pytest.param(
        schedule(template={"spec": DB | {"format": "tar"}}), "spec.template.spec.format", '"custom", "plain"', id="tar"
    ),
    pytest.param(schedule("TZ=UTC 0 3 * * *"), "spec.schedule", "the time zone into timeZone", id="TZ"),
    pytest.param(schedule("CRON_TZ=UTC 0 3 * * *"), "spec.schedule", "the time zone into timeZone", id="CRON_TZ"),
    pytest.param(schedule("0 3 * *"), "spec.schedule", "write five fields", id="four fields"),
    pytest.param(schedule("@every 1h"), "spec.schedule", "write five fields", id="every"),
    pytest.param(schedule("60 3 * * *"), "spec.schedule", "minute (first field)", id="minute"),
    pytest.param(schedule("0 24 * * *"), "spec.schedule", "hour (second field)", id="hour"),
    pytest.param(schedule("0 3 0 * *"), "spec.schedule", "day of month (third field)", id="day"),
    pytest.param(schedule("0 3 * 13 *"), "spec.schedule", "month (fourth field)", id="month"),
    pytest.param(schedule("0 3 * * 7"), "spec.schedule", "day of week (fifth field)", id="day of week"),
    pytest.param(schedule("0 3 5-1 * *"), "spec.schedule", "a range begins with its lower end", id="backward range"),
    pytest.param(schedule("0," * 130 + "0 3 * * *"), "spec.schedule", "more than 256", id="long line"),
    pytest.param(schedule(timeZone="Europe/../x"), "spec.timeZone", "should match", id="time zone as a path"),
    pytest.param(schedule(timeZone=""), "spec.timeZone", "at least 1", id="no time zone"),
    pytest.param(schedule(concurrencyPolicy="Skip"), "concurrencyPolicy", '"Allow", "Forbid", "Replace"', id="policy"),
    pytest.param(schedule(startingDeadlineSeconds=9), "startingDeadlineSeconds", "to 10", id="short late start"),
    pytest.param(schedule(jitterSeconds=-1), "jitterSeconds", "to 0", id="negative jitter"),
    pytest.param(schedule(failedBackupsHistoryLimit=0), "failedBackupsHistoryLimit", "to 1", id="no history"),
    pytest.param(template(labels={"a": "b c"}), "metadata.labels.a", "should match", id="label with a space"),
    pytest.param(
        template(labels={"database.example.com/schedule-uid": "x"}), "metadata.labels", "leave out", id="label of ours"
    ),
    pytest.param(
        template(annotations={"database.example.com/slot": "x"}), "metadata.annotations", "leave out", id="note of ours"
    ),
    pytest.param(
        schedule(retention={}), "spec.retention", "at least one rule", id="retention of everything or nothing"
    ),
    pytest.param(("BackupStore", {"s3": {}}), "spec.s3.bucket", "Required value", id="store without a bucket"),
    pytest.param(s3(bucket=""), "spec.s3.bucket", "at least 3", id="empty bucket"),
    pytest.param(s3(bucket="ab"), "spec.s3.bucket", "at least 3", id="short bucket"),
    pytest.param(s3(bucket="b" * 64), "spec.s3.bucket", "more than 63", id="long bucket"),
    *(
        pytest.param(s3(bucket=bucket), "spec.s3.bucket", BUCKET, id=f"bucket {bucket!r}")
        for bucket in (
            "Vault",
            "-rf",
            "a..b",
            "va/ult",
            "va:ult",
            "va_ult",
            ".vault",
            "vault-",
            "vault\n",
            "$(id)",
            "k@b",
        )
    ),
    pytest.param(s3(prefix=""), "spec.s3.prefix", "at least 1", id="empty prefix"),
    pytest.param(s3(prefix="p" * 257), "spec.s3.prefix", "more than 256", id="long prefix"),
    *(
        pytest.param(s3(prefix=prefix), "spec.s3.prefix", PREFIX, id=f"prefix {prefix!r}")
        for prefix in (
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "a..b",
            ".a",
            "a/.b",
            "-a",
            "a/-b",
            "a b",
            "a:b",
            "a\n",
            "a$b",
            "a'b",
            "ä",
        )
    ),
    pytest.param(s3(endpoint="https://" + "a" * 273), "spec.s3.endpoint", "more than 280", id="long endpoint"),
    *(
        pytest.param(s3(endpoint=endpoint), "spec.s3.endpoint", ENDPOINT, id=f"endpoint {endpoint!r}")
        for endpoint in (
            "",
            "s3.example.com",
            "ftp://s3.example.com",
            "HTTPS://s3.example.com",
            "https://",
            "https://:9000",
            "https://s3.example.com/",
            "https://s3.example.com/path",
            "https://s3.example.com?a=b",
            "https://s3#a",
            "https://key:secret@s3.example.com",
            "https://s3.example.com:",
            "https://s3.example.com:port",
            "https://s3.example.com:123456",
            "https://-s3",
            "https://s3 -v",
            "https://s3\n",
            "https://$(id)",
            "https://s3,x",
        )
    ),
    pytest.param(s3(region=""), "spec.s3.region", "at least 1", id="empty region"),
    pytest.param(s3(region="r" * 64), "spec.s3.region", "more than 63", id="long region"),
    *(
        pytest.param(s3(region=region), "spec.s3.region", REGION, id=f"region {region!r}")
        for region in ("-eu", "eu west", "eu/west", "eu\n", "$(id)", "eu,acl=public")
    ),
    pytest.param(s3(pathStyle="yes"), "spec.s3.pathStyle", "must be of type boolean", id="path style in words"),
    pytest.param(s3(serviceAccountName="a/b"), "serviceAccountName", "should match", id="service account as a path"),
    pytest.param(s3(serviceAccountName=""), "serviceAccountName", "at least 1", id="empty service account"),
    pytest.param(s3(credentialsSecretRef={}), "credentialsSecretRef.name", "Required", id="unnamed credentials"),
    pytest.param(s3(credentialsSecretRef={"name": "-x"}), "credentialsSecretRef.name", "match", id="bad credentials"),
    pytest.param(s3(caSecretRef={"name": "A"}), "caSecretRef.name", "should match", id="bad authority"),
    pytest.param(s3(accessKey="x"), "spec.s3.accessKey", "unknown field", id="credentials in the open"),
]


@pytest.mark.parametrize(("wanted", "field", "message"), BAD)
def test_is_refused(wanted: tuple[str, dict[str, Any]], field: str, message: str, api: Api, make: Make) -> None:
    answer = api.create(make(*wanted))
    assert not answer.accepted
    assert field in answer.text
    assert message in answer.text


@pytest.mark.parametrize("name", ["a", "a" * 52, "shop-2"])
def test_a_database_may_be_called(name: str, api: Api, make: Make) -> None:
    api.create(make("Database", name=name)).must()


@pytest.mark.parametrize("name", ["a" * 53, "2shop", "shop.eu"])
def test_a_database_may_not_be_called(name: str, api: Api, make: Make) -> None:
    answer = api.create(make("Database", name=name))
    assert not answer.accepted
    assert "metadata.name: write at most 52 lower case letters" in answer.text


@pytest.mark.parametrize("name", ["nightly.shop", "a" * 51])
def test_a_schedule_is_named_within_50_characters(name: str, api: Api, make: Make) -> None:
    answer = api.create(make(*schedule(), name=name))
    assert answer.accepted is (len(name) <= 50)
    assert answer.accepted or "metadata.name: write at most 50 characters" in answer.text


LINES = [
    *MACROS, "* * * * *", "? ? ? ? ?", "  0  3 * *  * ", "00 03 01 01 00", "0-59 0-23 1-31 1-12 0-6", "59 23 31 12 6",
    "*/15 */6 */2 */3 */2", "5/10 1/2 3/4 1/6 1/3", "1-10/3 * * * *", "0,15,30-45/5,59 * * * *",
    "0 0 * jan,MAR-dec Sun",
    "0 0 * JAN-JAN SUN-SAT/2", "0 0 30 2 *", "*/1 * * * *", "*/01 * * * *", "*/9999 * * * *", "0 0 * FEB/3 MON/2",
    # what is refused
    "", " ", "@Daily", "@every 5m", "@reboot", "@daily ", "daily", "* * * *", "* * * * * *", "0 3 * * * 2026",
    "0\t3 * * *",
    "0\n3 * * *", "0 3 * * *\n", "60 * * * *", "100 * * * *", "-1 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *",
    "* * * 0 *", "* * * 13 *", "* * * * 7", "* * * * SUNDAY", "* * * MON *", "* * * * JAN", "*/0 * * * *", "*/ * * * *",
    "/5 * * * *", "1- * * * *", "-5 * * * *", "5-1 * * * *", "* 8-3 * * *", "* * 31-1 * *", "* * * 12-1 *",
    "* * * * 6-0",
    "0 0 * DEC-JAN *", "0 0 * * SAT-SUN", "1,,2 * * * *", ",1 * * * *", "1, * * * *", "1-2-3 * * * *", "1/2/3 * * * *",
    "* *-5 * * *", "*5 * * * *", "1.5 * * * *", "a * * * *", "0x1 * * * *", "L * * * *", "* * L * *", "* * 15W * *",
    "* * * * 1#2", "H * * * *", "* * * * MON-5", "\u0661 * * * *", "TZ=UTC * * * * *", "1-5,9-2 * * * *",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_cron_lines_that_are_taken_are_those_that_can_be_read(line: str, api: Api, make: Make) -> None:
    answer = api.create(make(*schedule(line)))
    try:
        cron.parse(line)
    except cron.CronInvalid:
        assert not answer.accepted
        assert "spec.schedule" in answer.text
    else:
        assert answer.accepted or line in STRICTER, answer.text


# Harmless, but nobody means it.
STRICTER = {"0\t3 * * *", "0\n3 * * *", "0 3 * * *\n", "* * * * MON-5"}


@settings(max_examples=100, deadline=None)
@given(lines())
def test_random_cron_lines_are_taken(api: Api, make: Make, line: Line) -> None:
    if len(line.text) <= 256:
        api.create(make(*schedule(line.text))).must()
