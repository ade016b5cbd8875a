import copy

import kubernetes_validate
import pytest
from support import resource

from postgres_operator import names
from postgres_operator.api.database import Database
from postgres_operator.decide import server

KUBERNETES = "1.35"
FULL = {
    "image": "registry.example.com:5000/postgres:17",
    "storage": {"size": "5Gi", "storageClassName": "fast"},
    "deletionPolicy": "Delete",
    "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "db", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
    "imagePullSecrets": [{"name": "registry"}],
}


def db(spec=None, name="db") -> Database:
    return Database.model_validate(resource("Database", name, spec or {}))


def pod_of(spec=None, uid=999):
    return server.stateful_set(db(spec), uid)["spec"]["template"]["spec"]


@pytest.mark.parametrize("spec", [{}, FULL], ids=["defaults", "everything"])
def test_valid_for_kubernetes(spec):
    database = db(spec)
    objects = [server.stateful_set(database, 999), *server.services(database), server.claim(database)]
    assert [o["kind"] for o in objects] == ["StatefulSet", "Service", "Service", "PersistentVolumeClaim"]
    for body in objects:
        kubernetes_validate.validate(body, KUBERNETES, strict=True)


# --- Pod Security `restricted`


@pytest.mark.parametrize("spec", [{}, FULL], ids=["defaults", "everything"])
@pytest.mark.parametrize("uid", [999, 70])
def test_pods_pass_restricted(spec, uid):
    """The profile's list: kubernetes.io/docs/concepts/security/pod-security-standards."""
    pod = pod_of(spec, uid)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all({"emptyDir"} == volume.keys() - {"name"} for volume in pod["volumes"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {pod["securityContext"][k] for k in ("runAsUser", "runAsGroup", "fsGroup")} == {uid}
    assert "initContainers" not in pod
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile", "procMount"} & security.keys()
        assert not any("hostPort" in port for port in container["ports"])


def test_the_server_has_no_token_and_writes_only_to_its_volumes():
    pod = pod_of()
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {m["name"] for m in container["volumeMounts"]}
    claimed = {"data"}
    assert mounted == claimed | {v["name"] for v in pod["volumes"]}


def test_the_password_comes_from_the_secret_and_only_the_superusers():
    env = {e["name"]: e for e in pod_of()["containers"][0]["env"]}
    assert env["POSTGRES_PASSWORD"]["valueFrom"] == {
        "secretKeyRef": {"name": "db-credentials", "key": "superuser-password"}
    }
    assert env["POSTGRES_USER"]["value"] == "postgres"
    assert {"POSTGRES_PASSWORD"} == {e["name"] for e in env.values() if "valueFrom" in e}


def test_the_data_lie_below_the_mount():
    (container,) = pod_of()["containers"]
    env = {e["name"]: e.get("value") for e in container["env"]}
    mount = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "data")
    assert env["PGDATA"] == f"{mount}/pgdata"


def test_no_mount_lies_below_a_directory_of_the_images():
    """Their data directory is a volume of the image, at another place since PostgreSQL 18, and has been a symlink."""
    (container,) = pod_of()["containers"]
    assert not [m for m in container["volumeMounts"] if m["mountPath"].startswith("/var/lib/postgresql")]


def test_shared_memory_is_more_than_the_runtimes_64_mib():
    """Parallel queries and index builds need it; without a limit it could fill the node's memory."""
    pod = pod_of()
    (container,) = pod["containers"]
    name = next(m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm")  # noqa: S108
    volume = next(v for v in pod["volumes"] if v["name"] == name)
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "256Mi"}


# --- who owns the data directory


@pytest.mark.parametrize(
    ("image", "uid"),
    [
        ("postgres:17", 999),
        ("postgres:17-alpine", 70),
        ("postgres:17.6-alpine3.22", 70),
        ("registry.example.com:5000/library/postgres:17-bookworm", 999),
        ("alpine/postgres:17", 999),
        ("alpine.example.com/postgres", 999),
        ("postgres:17-alpine@sha256:" + "0" * 64, 70),
    ],
)
def test_the_images_uid(image, uid):
    assert server.image_uid(image) == uid
    assert server.data_uid(db({"image": image}), None) == uid
    assert server.claim(db({"image": image}))["metadata"]["annotations"][names.ANNOTATION_DATA_OWNER] == str(uid)


@pytest.mark.parametrize(
    ("recorded", "uid"),
    [("70", 70), ("999", 999), ("", 999), ("root", 999), ("-1", 999), ("70\n", 999)],
)
def test_the_volumes_record_wins_over_the_image(recorded, uid):
    claim = {"metadata": {"annotations": {names.ANNOTATION_DATA_OWNER: recorded}}}
    assert server.data_uid(db({"image": "postgres:17"}), claim) == uid


@pytest.mark.parametrize("claim", [None, {}, {"metadata": {}}, {"metadata": {"annotations": {}}}])
def test_without_a_record_the_image_decides(claim):
    assert server.data_uid(db({"image": "postgres:17-alpine"}), claim) == 70


# --- deletion


def test_by_default_nothing_that_holds_data_is_deleted():
    database = db()
    policy = server.stateful_set(database, 999)["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert policy == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert "ownerReferences" not in server.claim(database)["metadata"]


def test_delete_takes_the_volume_with_the_server_but_not_when_it_is_scaled():
    database = db({"deletionPolicy": "Delete"})
    policy = server.stateful_set(database, 999)["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert policy == {"whenDeleted": "Delete", "whenScaled": "Retain"}
    assert "ownerReferences" not in server.claim(database)["metadata"]


def test_server_and_services_go_with_their_database():
    database = db()
    for body in (server.stateful_set(database, 999), *server.services(database)):
        (reference,) = body["metadata"]["ownerReferences"]
        assert (reference["apiVersion"], reference["kind"]) == ("database.example.com/v1", "Database")
        assert (reference["name"], reference["uid"], reference["controller"]) == ("db", "uid-database-db", True)


# --- names and labels that outsiders rely on


def test_names_and_labels():
    database = db()
    sts = server.stateful_set(database, 999)
    labels = {"app": "database", "database": "db", "database.example.com/database": "db"}
    assert sts["metadata"]["name"] == "db"
    assert sts["spec"]["replicas"] == 1
    assert sts["spec"]["template"]["metadata"]["labels"] == sts["spec"]["selector"]["matchLabels"] == labels
    client, headless = server.services(database)
    assert client["spec"]["selector"] == headless["spec"]["selector"] == labels
    assert client["metadata"]["name"] == "db"
    assert "clusterIP" not in client["spec"]
    assert headless["metadata"]["name"] == sts["spec"]["serviceName"] == "db-pods"
    assert headless["spec"]["clusterIP"] == "None"
    assert client["spec"]["ports"] == [{"name": "postgres", "port": 5432, "targetPort": "postgres"}]
    assert {"name": "postgres", "containerPort": 5432} in sts["spec"]["template"]["spec"]["containers"][0]["ports"]


def test_what_is_watched_by_label_has_the_label():
    database = db()
    for body in (server.stateful_set(database, 999), *server.services(database)):
        assert body["metadata"]["labels"][names.MANAGED_BY] == names.OPERATOR


def test_the_claim_is_the_one_that_the_first_pod_mounts():
    sts, claim = server.stateful_set(db(FULL), 999), server.claim(db(FULL))
    (template,) = sts["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == f"{template['metadata']['name']}-{sts['metadata']['name']}-0"
    assert claim["spec"] == template["spec"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"]["requests"]["storage"] == "5Gi"
    assert claim["metadata"]["annotations"][names.ANNOTATION_CREATED_FOR] == "uid-database-db"


def test_without_a_storage_class_the_clusters_default_is_used():
    assert "storageClassName" not in server.claim(db())["spec"]


def test_the_longest_name_fits_everywhere():
    name = "d" * 52
    database = db(name=name)
    revision = f"{name}-{'0' * 10}"  # controller-revision-hash of the pods
    labels = [*server.stateful_set(database, 999)["spec"]["selector"]["matchLabels"].values(), revision]
    assert max(map(len, labels)) <= 63
    assert all(len(s["metadata"]["name"]) <= 63 for s in server.services(database))


def test_pod_settings_arrive():
    pod = pod_of(FULL)
    (container,) = pod["containers"]
    assert container["image"] == FULL["image"]
    assert container["resources"] == FULL["resources"] | {}
    assert pod["nodeSelector"] == FULL["nodeSelector"]
    assert pod["tolerations"] == FULL["tolerations"]
    assert pod["imagePullSecrets"] == FULL["imagePullSecrets"]


# --- the fingerprint


def test_the_fingerprint_covers_everything_and_is_stable():
    sts = server.stateful_set(db(FULL), 999)
    assert sts == server.stateful_set(db(copy.deepcopy(FULL)), 999)
    recorded = sts["metadata"].pop("annotations")[names.ANNOTATION_APPLIED]
    assert recorded == server.fingerprint(sts)
    sts["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] += 1
    assert recorded != server.fingerprint(sts)


def test_the_fingerprint_does_not_depend_on_the_order_of_keys():
    assert server.fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == server.fingerprint({"b": {"d": 3, "c": 2}, "a": 1})


# --- updates


def test_an_update_keeps_what_cannot_change_and_replaces_the_rest():
    """A StatefulSet of an operator of another version, say."""
    live = server.stateful_set(db(FULL), 999)
    live["metadata"] |= {"resourceVersion": "77", "uid": "u"}
    live["spec"] |= {
        "podManagementPolicy": "OrderedReady",
        "serviceName": "old",
        "selector": {"matchLabels": {"a": "b"}},
    }
    live["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] = "old"
    wanted = server.stateful_set(db(), 999)
    live["metadata"]["finalizers"] = ["foregroundDeletion"]
    live["metadata"]["labels"]["team"] = "shop"
    live["metadata"]["annotations"]["note"] = "by hand"
    made = server.updated(live, wanted)
    for field in ("podManagementPolicy", "serviceName", "selector", "volumeClaimTemplates"):
        assert made["spec"][field] == live["spec"][field] != wanted["spec"][field]
    meta = made["metadata"]
    assert meta["resourceVersion"] == "77"
    assert meta["labels"] == {**wanted["metadata"]["labels"], "team": "shop"}
    assert meta["annotations"] == {**wanted["metadata"]["annotations"], "note": "by hand"}
    assert meta["finalizers"] == ["foregroundDeletion"]
    assert meta["ownerReferences"] == wanted["metadata"]["ownerReferences"]
    assert made["spec"]["template"] == wanted["spec"]["template"]
    assert "nodeSelector" not in made["spec"]["template"]["spec"]
    assert made["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    kubernetes_validate.validate(made, KUBERNETES, strict=True)
