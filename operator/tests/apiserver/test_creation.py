"""What the API server takes and refuses when an object is created."""

from typing import Any

import pytest
from apiserver_kit import Api, Make

from postgres_operator.api import crd
from postgres_operator.api.common import dump

MODELS = {kind.name: kind.model for kind in crd.KINDS}
DB, BACKUP = {"databaseRef": {"name": "shop"}}, {"backupRef": {"name": "b"}}
META = {"namespace": "crds", "uid": "0"}


def database(**spec: Any) -> tuple[str, dict[str, Any]]:
    return "Database", spec


def backup(**spec: Any) -> tuple[str, dict[str, Any]]:
    return "Backup", DB | spec


def restore(**spec: Any) -> tuple[str, dict[str, Any]]:
    return "Restore", DB | spec


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
    pytest.param(backup(), id="backup"),
    pytest.param(backup(storeRef={"name": "s"}, format="plain", activeDeadlineSeconds=10), id="backup with all"),
    pytest.param(restore(**BACKUP), id="restore of a Backup"),
    pytest.param(restore(**BACKUP, mode="Replace", keepPrevious=False), id="restore with a mode"),
    pytest.param(located("pvc://backups/shop/b-1234"), id="restore of a location"),
    pytest.param(located("pvc://my.claim-1/_a/B.c/d-e"), id="location with dots and dashes"),
    pytest.param(restore(location="pvc://c/p", storeRef={"name": "s"}), id="location in a store"),
    pytest.param(("BackupStore", {"pvc": {"claimName": "backups"}}), id="store"),
]


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
LOCATION = "write the backupLocation of a Backup, pvc://<claim>/<path>"
IMAGE = "write an image reference, such as postgres:17"
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
    # ---- Backup
    pytest.param(("Backup", None), "spec", "Required value", id="backup without spec"),
    pytest.param(("Backup", {}), "spec.databaseRef", "Required value", id="backup of nothing"),
    pytest.param(backup(databaseRef={"name": ""}), "spec.databaseRef.name", "at least 1", id="unnamed database"),
    pytest.param(backup(databaseRef={"name": "../x"}), "spec.databaseRef.name", "should match", id="path as a name"),
    pytest.param(backup(format="tar"), "spec.format", '"custom", "plain"', id="format"),
    pytest.param(backup(activeDeadlineSeconds=9), "spec.activeDeadlineSeconds", "to 10", id="short deadline"),
    pytest.param(backup(startDeadlineSeconds=86401), "spec.startDeadlineSeconds", "to 86400", id="late start"),
    # ---- Restore
    pytest.param(("Restore", None), "spec", "Required value", id="restore without spec"),
    pytest.param(restore(), "spec", "exactly one of backupRef and location", id="restore of nothing"),
    pytest.param(restore(**BACKUP, location="pvc://c/p"), "spec", "exactly one of backupRef", id="restore of both"),
    pytest.param(restore(**BACKUP, storeRef={"name": "s"}), "spec.storeRef", "leave out storeRef", id="idle store"),
    pytest.param(restore(**BACKUP, mode="Merge"), "spec.mode", '"Fail", "Replace", "Clean"', id="mode"),
    pytest.param(located("s3://bucket/key"), "spec.location", LOCATION, id="other scheme"),
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
    pytest.param(("BackupStore", {}), "spec.pvc", "Required value", id="store of nothing"),
    pytest.param(("BackupStore", {"pvc": {}}), "spec.pvc.claimName", "Required value", id="store without a claim"),
    pytest.param(("BackupStore", {"pvc": {"claimName": "A/b"}}), "claimName", "should match", id="claim as a path"),
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
