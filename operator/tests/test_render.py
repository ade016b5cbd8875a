import json
import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support import NOW, SHA, backup, complete, database, job_of, location_of, restore, s3_store, store

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.database import Database
from postgres_operator.api.restore import Restore
from postgres_operator.api.store import BackupStore
from postgres_operator.decide import backup as backups
from postgres_operator.decide import database as databases
from postgres_operator.decide import deletion as deletions
from postgres_operator.decide import external as externals
from postgres_operator.decide import restore as restores
from postgres_operator.decide import server, verification
from postgres_operator.decide import store as stores
from postgres_operator.decide.actions import Claim, CreateJob
from postgres_operator.decide.jobs import read_job
from postgres_operator.decide.run import Facts, Policy
from postgres_operator.errors import TemplateInvalid
from postgres_operator.render import Renderer

KUBERNETES = "1.35"
GOLDEN = Path(__file__).with_name("golden")
TEMPLATES = Path(__file__).resolve().parents[2] / "job_templates"
RENDERER = Renderer(TEMPLATES, 1001, 1002)

UID = "4b1c7a9e-0d5f-4a6e-9b57-1f0c3f6f2d11"
VAULT = Claim("vault", ("ReadWriteOnce",))
SHARED = Claim("vault", ("ReadWriteMany",))
PLACED = {
    "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "db", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
    "imagePullSecrets": [{"name": "registry"}],
    "activeDeadlineSeconds": 3600,
}
NASTY = {"databaseName": 'x"\nkind: Evil $(PGPASSWORD) $$', "username": "no"}
PARTIAL = {
    "excludeSchemas": ["x\": $(PGPASSWORD) $$ '{{ 7 * 7 }}' Größe"],
    "excludeTables": [{"name": "logs"}, {"schema": "s.t", "name": "a b"}],
}
EXTERNAL = {
    "databaseName": "sales",
    "username": "sales",
    "external": {
        "host": "pg.example.com",
        "port": 6432,
        "credentialsSecretRef": {"name": "login"},
        "caSecretRef": {"name": "authority"},
        "superuser": "root",
    },
}
DONE = {"phase": "Completed", "backupLocation": "pvc://vault/db/nightly-1", "checksum": f"sha256:{SHA}"}
POLICY = Policy({}, 604_800)
# An object store of one's own, and Amazon's, which knows a pod by its service account.
BUCKET = s3_store(
    prefix="team/a.b",
    endpoint="https://s3.example.com:9000",
    region="eu",
    credentialsSecretRef={"name": "keys"},
    caSecretRef={"name": "authority"},
)
AMAZON = s3_store(pathStyle=False, region="eu-central-1", serviceAccountName="backups")


# --- real decisions


def of_backup(spec=None, db=None, claim=VAULT, to=None):
    run = Backup.model_validate(backup(spec=spec, uid=UID))
    facts = Facts(NOW, Database.model_validate(db or database()), claim=None if to else claim, claim_known=not to)
    return run, backups.decide(run, BackupStore.model_validate(to or store()), facts, backups.Reader(), POLICY)


def of_reader(to=None):
    body = backup(status={"phase": "InProgress", "jobRef": {"name": "j"}}, uid=UID)
    job = job_of(body, **complete())
    if to:
        job["metadata"]["annotations"][names.ANNOTATION_LOCATION] = location_of(body, "s3://vault/team/a.b")
    facts = Facts(NOW, Database.model_validate(database()), read_job(job), pods=[])
    run, chosen = Backup.model_validate(body), BackupStore.model_validate(to) if to else None
    return run, backups.decide(run, chosen, facts, backups.Reader(), POLICY)


def of_deletion(spec=None, db=None, claim=VAULT, to=None):
    body = backup(spec={"deletionPolicy": "Delete", **(spec or {})}, uid=UID, deletionTimestamp=NOW.isoformat())
    body["status"] = {
        "phase": "Completed",
        "backupLocation": location_of(body, "s3://vault/team/a.b" if to else "pvc://vault"),
    }
    if to == AMAZON:
        body["status"]["backupLocation"] = location_of(body, "s3://vault")
    facts = deletions.DeletionFacts(
        NOW,
        database=Database.model_validate(db) if db else None,
        store=BackupStore.model_validate(to) if to else None,
        jobs_are_live=True,
        pods=[],
        claim=None if to else claim,
        claim_known=not to,
    )
    run = Backup.model_validate(body)
    return run, deletions.decide(run, facts, POLICY).then


def of_restore(mode, db=None, claim=VAULT, to=None, **spec):
    run = Restore.model_validate(restore(spec={"backupRef": {"name": "nightly"}, "mode": mode, **spec}, uid=UID))
    facts = Facts(NOW, Database.model_validate(db or database()), claim=None if to else claim, claim_known=not to)
    done = {**DONE, "backupLocation": "s3://vault/team/a.b/db/nightly-1"} if to else DONE
    chosen = BackupStore.model_validate(to) if to else None
    return run, restores.decide(run, Backup.model_validate(backup(status=done)), chosen, facts, POLICY)


def of_backup_verification(mode, claim=VAULT, to=None, **spec):
    done = {**DONE, "backupLocation": "s3://vault/team/a.b/db/nightly-1"} if to else DONE
    run = Backup.model_validate(backup(spec={"verification": {"mode": mode}, **spec}, status=done, uid=UID))
    facts = Facts(NOW, Database.model_validate(database()), claim=None if to else claim, claim_known=not to)
    return run, verification.decide(run, BackupStore.model_validate(to or store()), facts, POLICY)


def of_verification(version=None, spec=None):
    body = database(ready=False, spec=spec, **({"serverVersion": version} if version else {}))
    run = Database.model_validate(body)
    sts = server.stateful_set(run, 999)
    sts["metadata"] |= {"uid": "uid-sts", "generation": 1, "resourceVersion": "1"}
    counts = {"replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
    sts["status"] = {"observedGeneration": 1, "currentRevision": "r1", "updateRevision": "r1", **counts}
    return run, databases.decide(run, databases.DatabaseFacts(NOW, sts, frozenset({"db", "db-pods"})))


def of_listing(to):
    store = BackupStore.model_validate({**to, "spec": {**to["spec"], "discover": True}})
    claim = VAULT if "pvc" in to["spec"] else None
    return store, stores.decide(store, stores.StoreFacts(NOW, claim=claim, claim_known=True), POLICY)


def of_check(**external):
    spec = {**EXTERNAL, "external": EXTERNAL["external"] | external}
    run = Database.model_validate(database(ready=False, spec=spec))
    return run, externals.decide(run, databases.DatabaseFacts(NOW))


CASES = {
    "backup": of_backup(),
    "backup-plain-shared-placed": of_backup({"format": "plain", **PLACED}, claim=SHARED),
    "backup-nasty-names": of_backup(db=database(spec=NASTY)),
    "backup-compressed": of_backup({"compression": {"method": "zstd", "level": 19}}),
    "backup-directory-globals": of_backup({"format": "directory", "jobs": 4, "includeGlobals": True}),
    "backup-extra-args": of_backup({"extraArgs": ["--no-comments", "--no-tablespaces"]}),
    "backup-partial-nasty-names": of_backup(PARTIAL, database(spec=NASTY)),
    "backup-s3-partial-nasty-names": of_backup(PARTIAL, database(spec=NASTY), to=BUCKET),
    "backup-s3": of_backup(to=BUCKET),
    "backup-s3-globals": of_backup({"includeGlobals": True}, to=BUCKET),
    "backup-s3-amazon-plain-placed": of_backup({"format": "plain", **PLACED}, to=AMAZON),
    "backup-s3-nasty-names": of_backup(db=database(spec=NASTY), to=BUCKET),
    "read-manifest": of_reader(),
    "delete": of_deletion(db=database(spec={"image": "postgres:16"})),
    "delete-shared-placed-without-database": of_deletion(PLACED, claim=SHARED),
    "delete-s3": of_deletion(to=BUCKET),
    "delete-s3-amazon": of_deletion(to=AMAZON),
    "read-manifest-s3": of_reader(BUCKET),
    "backup-verified": of_backup({"verification": {"mode": "Restore"}}),
    "verify-backup-list": of_backup_verification("List"),
    "verify-backup-restore": of_backup_verification("Restore"),
    "verify-backup-s3-list": of_backup_verification("List", to=AMAZON),
    "verify-backup-s3-restore-placed": of_backup_verification("Restore", to=BUCKET, **PARTIAL, **PLACED),
    "restore-fail": of_restore("Fail"),
    "restore-clean": of_restore("Clean"),
    "restore-replace": of_restore("Replace"),
    "restore-replace-jobs": of_restore("Replace", jobs=4),
    "restore-replace-nasty-names-placed": of_restore(
        "Replace", database(spec=NASTY), SHARED, keepPrevious=False, **PLACED
    ),
    "restore-s3-fail": of_restore("Fail", to=AMAZON),
    "restore-s3-replace-nasty-names-placed": of_restore("Replace", database(spec=NASTY), to=BUCKET, **PLACED),
    "discover-volume": of_listing(store()),
    "discover-bucket": of_listing(BUCKET),
    "verify-first": of_verification(),
    "verify-again": of_verification("17.6"),
    "backup-external": of_backup(db=database(spec=EXTERNAL)),
    "backup-s3-external": of_backup(db=database(spec=EXTERNAL), to=BUCKET),
    "restore-external-fail": of_restore("Fail", database(spec=EXTERNAL)),
    "restore-external-replace": of_restore("Replace", database(spec=EXTERNAL)),
    "verify-external": of_check(),
    "verify-external-without-authority": of_check(sslMode="require", caSecretRef=None),
    "verify-external-require-with-authority": of_check(sslMode="require"),
    "verify-placed": of_verification(spec={k: v for k, v in PLACED.items() if k != "activeDeadlineSeconds"}),
}
each_case = pytest.mark.parametrize("case", CASES)


def render(case):
    owner, action = CASES[case]
    assert isinstance(action, CreateJob), action
    return RENDERER.job(owner, action)


def containers(job):
    pod = job["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def expanded(text):
    """What the kubelet makes of a command or a value: k8s.io/kubernetes/third_party/forked/golang/expansion."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda m: "$" if m[1] == "$" else f"<expanded {m[1]}>", text)


def environment(container):
    return {e["name"]: expanded(e["value"]) for e in container["env"] if "value" in e}


def sidecar(container):
    return container.get("restartPolicy") == "Always"


def uploader(container):
    """Whether it talks to an object store, if there is one."""
    return container["image"] == names.UPLOADER_IMAGE


def scripts_of(text):
    """Names of the files of ours that this text consists of, to the letter."""
    chosen = []
    while text:
        found = [path for path in TEMPLATES.glob("*.sh") if text.startswith(path.read_text())]
        assert len(found) == 1, f"no script of ours: {text[:200]}"
        chosen.append(found[0].name)
        text = text.removeprefix(found[0].read_text())
    return chosen


def summarised(job):
    """The Job with its scripts named instead of quoted."""
    for container in containers(job):
        shell, flag, text = container["command"]
        scripts = scripts_of(expanded(text))
        # The uploader's image has no bash.
        assert (shell, flag, scripts[0]) == (
            ("sh", "-c", "sidecar.sh") if uploader(container) else ("bash", "-c", "lib.sh")
        )
        container["command"] = [shell, flag, f"<{' + '.join(scripts)}>"]
    return json.loads(json.dumps(job))  # no anchors


@each_case
def test_golden(case, update_golden):
    text = yaml.safe_dump(summarised(render(case)), sort_keys=False, width=120, allow_unicode=True)
    path = GOLDEN / f"{case}.yaml"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.exists(), "pytest --update-golden writes it; read it before you commit it"
    assert text == path.read_text(), "pytest --update-golden accepts the change"


def test_every_golden_file_is_of_a_case_and_every_template_has_one():
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)
    assert {action.template for _, action in CASES.values()} == {path.name for path in TEMPLATES.glob("*.yaml.j2")}


@each_case
def test_valid_for_kubernetes(case):
    kubernetes_validate.validate(render(case), KUBERNETES, strict=True)


@each_case
def test_pods_pass_restricted(case):
    """The profile's list: kubernetes.io/docs/concepts/security/pod-security-standards."""
    pod = render(case)["spec"]["template"]["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.keys()
    assert all(volume.keys() & {"emptyDir", "persistentVolumeClaim", "secret"} for volume in pod["volumes"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsUser"] == 1001
    assert pod["securityContext"]["runAsGroup"] == pod["securityContext"]["fsGroup"] == 1002
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        }


@each_case
def test_one_pod_once_and_not_for_ever(case):
    """Rules 7 and 9."""
    spec = render(case)["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    deadline = CASES[case][1].values["active_deadline_seconds"]
    assert spec["template"]["spec"]["activeDeadlineSeconds"] == deadline > 0
    # So long its pod may take to start: the kubelet is to end it, who keeps the log.
    assert spec["activeDeadlineSeconds"] == deadline + (
        600 if case.startswith(("backup", "restore", "verify-backup")) else 0
    )
    assert not {"completions", "parallelism", "suspend", "manualSelector"} & spec.keys()


def test_only_what_is_not_needed_for_an_account_is_deleted_after_a_while():
    assert render("backup")["spec"]["ttlSecondsAfterFinished"] == 604_800
    assert render("verify-first")["spec"]["ttlSecondsAfterFinished"] == 120
    assert render("backup-s3")["spec"]["ttlSecondsAfterFinished"] == 604_800
    for case in ("restore-replace", "restore-fail", "restore-s3-fail", "read-manifest", "read-manifest-s3"):
        assert "ttlSecondsAfterFinished" not in render(case)["spec"]


@each_case
def test_identity_is_set_in_code(case):
    owner, action = CASES[case]
    job = render(case)
    meta = job["metadata"]
    assert (meta["name"], meta["namespace"]) == (action.name, "shop")
    (reference,) = meta["ownerReferences"]
    assert (reference["apiVersion"], reference["kind"]) == (names.API_VERSION, type(owner).__name__)
    assert (reference["name"], reference["uid"]) == (owner.metadata.name, owner.metadata.uid)
    assert reference["controller"] is True
    assert meta["labels"][names.MANAGED_BY] == names.OPERATOR
    assert meta["labels"][names.LABEL_UID] == owner.metadata.uid
    assert job["spec"]["template"]["metadata"]["labels"] == meta["labels"]
    assert all(len(value) <= 63 for value in meta["labels"].values())


@each_case
def test_a_claim_that_is_not_shared_keeps_its_pods_together(case):
    """Rule 13. Jobs that mount a volume carry its label, so that the next pod and ReadWriteOncePod find them."""
    job, (_, action) = render(case), CASES[case]
    volumes = job["spec"]["template"]["spec"]["volumes"]
    mounted = [v["persistentVolumeClaim"] for v in volumes if "persistentVolumeClaim" in v]
    assert [claim["claimName"] for claim in mounted] == ([action.claim.name] if action.claim else [])
    label = job["metadata"]["labels"].get(names.LABEL_CLAIM)
    affinity = job["spec"]["template"]["spec"].get("affinity")
    assert label == (names.short_hash("vault") if action.claim else None)
    if action.claim and not action.claim.shared:
        (term,) = affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["labelSelector"] == {"matchLabels": {names.LABEL_CLAIM: label}}
        assert term["topologyKey"] == "kubernetes.io/hostname"
    else:
        assert affinity is None


@each_case
def test_nothing_of_the_outside_is_in_a_script(case):
    """Rule 10: values reach scripts through the environment only, and no connection string is built."""
    summarised(render(case))  # each command is a file of ours, to the letter
    for container in containers(render(case)):
        assert "args" not in container
        urls = {name for name, value in environment(container).items() if "://" in value}
        assert urls <= ({"STORE", "STORE_URL", "RCLONE_CONFIG_STORE_ENDPOINT"} if uploader(container) else set())


@each_case
def test_passwords_come_from_the_secret_only(case):
    for container in containers(render(case)):
        for variable in container["env"]:
            secret = any(word in variable["name"] for word in ("PASSWORD", "AWS_", "CA_CERT"))
            assert secret is ("secretKeyRef" in variable.get("valueFrom", {}))
            if secret and not uploader(container):
                wanted = "login" if "external" in case else "db-credentials"
                assert variable["valueFrom"]["secretKeyRef"]["name"] == wanted


@each_case
def test_who_knows_the_database_does_not_know_the_store_and_the_other_way_round(case):
    for container in containers(render(case)):
        secrets = [e["valueFrom"]["secretKeyRef"] for e in container["env"] if "secretKeyRef" in e.get("valueFrom", {})]
        if uploader(container):
            assert {secret["name"] for secret in secrets} <= {"keys", "authority"}
            assert not any(e["name"].startswith("PG") for e in container["env"])
        else:
            assert {secret["name"] for secret in secrets} <= {"login" if "external" in case else "db-credentials"}
            assert not any(e["name"].startswith(("AWS_", "RCLONE_")) for e in container["env"])


@pytest.mark.parametrize("case", [case for case in CASES if "s3" in case and not case.startswith("delete")])
def test_an_object_store_is_reached_by_one_sidecar_alone(case):
    """Rule 6: who writes to the store is not who dumps, and no disk is between them."""
    job = render(case)
    pod = job["spec"]["template"]["spec"]
    (beside,) = [c for c in pod["initContainers"] if sidecar(c)]
    assert (beside, beside["image"]) == (pod["initContainers"][0], names.UPLOADER_IMAGE)
    assert beside["name"] == ("upload" if case.startswith("backup") else "download")
    store = CASES[case][1].values["store"]
    env = {e["name"]: e.get("value", e.get("valueFrom", {}).get("secretKeyRef")) for e in beside["env"]}
    assert env["RCLONE_CONFIG_STORE_REGION"] == store["region"]
    assert env.get("RCLONE_CONFIG_STORE_ENDPOINT", "") == store["endpoint"]
    if store["credentials_secret"]:
        assert env["AWS_SECRET_ACCESS_KEY"] == {"name": "keys", "key": "AWS_SECRET_ACCESS_KEY"}
        assert env["CA_CERT"] == {"name": "authority", "key": "ca.crt"}
        assert "serviceAccountName" not in pod
    else:
        assert not [name for name in env if name.startswith("AWS_")]
        assert pod["serviceAccountName"] == "backups"
    disks = {v["name"]: v["emptyDir"] for v in pod["volumes"] if v["name"] != "ca"}
    assert [name for name, disk in disks.items() if "sizeLimit" in disk] == ["stream"]
    sharing = [{m["name"] for m in c["volumeMounts"]} for c in containers(job) if c is not beside]
    assert all(mounts & {m["name"] for m in beside["volumeMounts"]} <= {"stream"} for mounts in sharing)


def keys_of(container):
    return {e["valueFrom"]["secretKeyRef"]["key"] for e in container["env"] if "secretKeyRef" in e.get("valueFrom", {})}


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("restore")])
def test_what_executes_a_dump_is_not_the_superuser(case):
    """Rule 12; and it shares no writable volume with what has the superuser's password."""
    writable: dict[str, set[str]] = {}
    for container in containers(render(case)):
        keys = set() if sidecar(container) else keys_of(container)
        assert len(keys) <= 1
        assert (keys == {"password"}) is (container["name"] == "restore-load")
        for mount in container["volumeMounts"]:
            if not mount.get("readOnly"):
                writable.setdefault(mount["name"], set()).add(container["name"])
    assert all(users == {"restore-load"} for users in writable.values() if "restore-load" in users)
    assert "backups" not in writable
    assert writable.get("stream", {"download"}) == {"download"}


@each_case
def test_what_logs_in_to_an_external_server_proves_it_first(case):
    """And only that has the authority; nothing of its Secret but the certificate is mounted."""
    for container in containers(render(case)):
        env = environment(container)
        external = "PGHOST" in env and "external" in case
        without = case.endswith("without-authority")
        proof = "verify-ca" if case.endswith("require-with-authority") else "verify-full"
        assert env.get("PGSSLMODE") == (("require" if without else proof) if external else None)
        mounts = [m for m in container["volumeMounts"] if m["name"] == "ca"]
        if external and not without:
            assert env["PGSSLROOTCERT"] == "/ca/ca.crt"
            assert mounts == [{"name": "ca", "mountPath": "/ca", "readOnly": True}]
        else:
            assert "PGSSLROOTCERT" not in env
            assert mounts == []
    secrets = [v["secret"] for v in render(case)["spec"]["template"]["spec"]["volumes"] if "secret" in v]
    projected = {"secretName": "authority", "optional": True, "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    assert secrets == ([projected] if "external" in case and not case.endswith("without-authority") else [])


@pytest.mark.parametrize("store", ["", "-s3"])
def test_a_dump_is_made_by_the_application_role(store):
    for case, keys in (("backup", {"password"}), ("read-manifest", set())):
        assert [keys_of(c) for c in containers(render(case + store)) if not sidecar(c)] == [keys]


def test_only_the_first_verification_has_the_superusers_password():
    assert keys_of(containers(render("verify-first"))[0]) == {"password", "superuser-password"}
    assert keys_of(containers(render("verify-again"))[0]) == {"password"}


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("placed")])
def test_pod_settings_arrive(case):
    job = render(case)
    pod = job["spec"]["template"]["spec"]
    for field in ("nodeSelector", "tolerations", "imagePullSecrets"):
        assert pod[field] == PLACED[field]
    assert all(c["resources"] == PLACED["resources"] for c in containers(job))


@pytest.mark.parametrize("case", [case for case in CASES if "nasty-names" in case])
def test_names_that_look_like_yaml_or_like_variables_arrive_as_they_are(case):
    """A name such as $(PGPASSWORD) would otherwise become the password, and end up in the manifest."""
    job = render(case)
    assert job["kind"] == "Job"
    for container in containers(job):
        env = environment(container)
        if container["name"] in ("dump", "restore-load"):
            assert (env["PGDATABASE"], env["PGUSER"]) == (NASTY["databaseName"], "no")
        if container["name"] == "dump":
            assert json.loads(env["BACKUP_SOURCE"])["databaseName"] == NASTY["databaseName"]
        if container["name"] in ("restore-prepare", "restore-swap"):
            assert env["TARGET_DATABASE"] == NASTY["databaseName"]
            assert env["PGUSER"] == "postgres"
        assert env.pop("FILE", "") in ("", "dump.pgdump", "dump-<expanded (POD_UID)>.pgdump")
        assert "<expanded" not in "".join(env.values())


# --- templates of one's own

GOOD = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: mine
  namespace: kube-system
  labels: {app.kubernetes.io/managed-by: somebody}
  ownerReferences: []
spec:
  backoffLimit: 0
  template:
    metadata:
      labels: {job: mine}
    spec:
      restartPolicy: Never
      automountServiceAccountToken: true
      securityContext: {runAsUser: 0, runAsNonRoot: false}
      initContainers:
        - name: first
          image: busybox
          securityContext: {privileged: true}
      containers:
        - name: main
          image: {{ image | tojson }}
          securityContext: {privileged: true, capabilities: {add: [SYS_ADMIN]}}
          env:
            - {name: VALUE, value: {{ value | tojson }}}
"""
OWNER = Backup.model_validate(backup())


def action(template="t.yaml.j2", value="v", **more):
    values = {"image": "postgres:17", "value": value, "active_deadline_seconds": 60}
    return CreateJob(name="the-name", template=template, values=values, **more)


@pytest.fixture
def own(tmp_path):
    def write(text: str | bytes, name: str = "t.yaml.j2") -> Renderer:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return Renderer(tmp_path, 1001, 1002)

    return write


def test_a_template_cannot_choose_name_owner_or_rights(own):
    job = own(GOOD).job(OWNER, action(labels={"x": "y"}, annotations={"a": "b"}))
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    meta, pod = job["metadata"], job["spec"]["template"]["spec"]
    assert (meta["name"], meta["namespace"], meta["annotations"]) == ("the-name", "shop", {"a": "b"})
    assert meta["labels"][names.MANAGED_BY] == names.OPERATOR
    assert meta["labels"]["x"] == "y"
    assert [r["uid"] for r in meta["ownerReferences"]] == [OWNER.metadata.uid]
    assert job["spec"]["template"]["metadata"] == {"labels": meta["labels"]}
    assert pod["securityContext"]["runAsUser"] == 1001
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in containers(job):
        assert "privileged" not in container["securityContext"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert job["spec"]["activeDeadlineSeconds"] == pod["activeDeadlineSeconds"] == 60
    assert job["spec"]["podReplacementPolicy"] == "Failed"


VALUES = [
    "x\nkind: Evil",
    "no",
    "null",
    "~",
    "1e3",
    "0x10",
    "2026-01-01",
    "",
    " ",
    'it\'s "quoted" \\ and \\" escaped',
    "{{ image }} {% raw %} {# c #}",
    "a: b # c",
    "&anchor *alias !tag |\n>",
    "$(id) `id` ${HOME}",
    "<b>&amp;</b>",
    "tab\tcr\rnul-free\x7f\x85\u2028\u2029\ufeff",
    "äöü 漢字 😀 𠮷",
]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_values_survive_verbatim(own, value):
    (env,) = own(GOOD).job(OWNER, action(value=value))["spec"]["template"]["spec"]["containers"][0]["env"]
    assert env == {"name": "VALUE", "value": value}


# what JSON can carry, and so what an API object can contain
texts = st.text(st.characters(exclude_categories=("Cs",)))
# YAML takes no key that is longer than 1024 characters as it is spelled; names are shorter
keys = st.text(st.characters(exclude_categories=("Cs",)), max_size=63)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    directory = tmp_path_factory.mktemp("good")
    (directory / "t.yaml.j2").write_text(GOOD)
    return Renderer(directory, 1001, 1002)


@given(value=st.one_of(texts, st.lists(texts), st.dictionaries(keys, texts), st.integers(), st.booleans()))
def test_any_value_survives_verbatim(good, value):
    (env,) = good.job(OWNER, action(value=value))["spec"]["template"]["spec"]["containers"][0]["env"]
    assert env == {"name": "VALUE", "value": value}


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(changed("{{ image | tojson }}", "{{ missing | tojson }}"), id="undefined-variable"),
        pytest.param(changed("{{ image | tojson }}", "{{ missing }}"), id="undefined-variable-without-filter"),
        pytest.param(changed("{{ image | tojson }}", "{{ image.missing }}"), id="undefined-attribute"),
        pytest.param(changed("{{ image | tojson }}", "{{ image | nofilter }}"), id="unknown-filter"),
        pytest.param(changed("{{ image | tojson }}", "{{ image "), id="syntax-error"),
        pytest.param(changed("{{ image | tojson }}", "{% if image %}"), id="unclosed-block"),
        pytest.param(changed("{{ image | tojson }}", "{{ 1 / 0 }}"), id="division"),
        pytest.param(changed("{{ image | tojson }}", "{{ image + 1 }}"), id="wrong-type"),
        pytest.param(changed("{{ image | tojson }}", "{% for i in range(10 ** 9) %}{% endfor %}"), id="endless-loop"),
        pytest.param(changed("{{ image | tojson }}", "{{ ''.__class__.__mro__ }}"), id="out-of-the-sandbox"),
        pytest.param(changed("{{ image | tojson }}", "{{ script('../secret') }}"), id="script-outside"),
        pytest.param(changed("{{ image | tojson }}", "{{ script('missing.sh') }}"), id="script-missing"),
        pytest.param("{% include 'missing' %}", id="include-missing"),
        pytest.param("a: [", id="no-yaml"),
        pytest.param("", id="empty"),
        pytest.param("just text", id="text"),
        pytest.param("- a\n- b", id="a-list"),
        pytest.param(GOOD + "---\n" + GOOD, id="two-documents"),
        pytest.param(changed("kind: Job", "kind: Pod"), id="a-pod"),
        pytest.param(changed("batch/v1", "v1"), id="another-group"),
        pytest.param(changed("      containers:", "      others:"), id="no-containers"),
        pytest.param(GOOD[: GOOD.index("      containers:")] + "      containers: []\n", id="empty-containers"),
        pytest.param(GOOD + "        - text\n", id="a-container-that-is-text"),
        pytest.param(changed("        - name: first\n", "        - text\n        - name: first\n"), id="an-init-text"),
        pytest.param(changed("  backoffLimit: 0\n", ""), id="no-backoff-limit"),
        pytest.param(changed("backoffLimit: 0", "backoffLimit: 1"), id="a-second-try"),
        pytest.param(changed("      restartPolicy: Never\n", ""), id="no-restart-policy"),
        pytest.param(changed("restartPolicy: Never", "restartPolicy: OnFailure"), id="restarts"),
        pytest.param(changed("  backoffLimit: 0\n", "  backoffLimit: 0\n  parallelism: 2\n"), id="two-pods"),
        pytest.param(changed("  backoffLimit: 0\n", "  backoffLimit: 0\n  completions: 2\n"), id="two-completions"),
        *(
            pytest.param(changed(f"name: {name}", f"name: {name}\n          {field}"), id=f"{name}-{field}")
            for name, field in [
                ("first", "restartPolicy: Never"),
                ("first", "restartPolicy: OnFailure"),
                ("first", "restartPolicyRules: []"),
                ("main", "restartPolicy: Always"),
                ("main", "restartPolicy: OnFailure"),
                ("main", "restartPolicyRules: [{action: Restart}]"),
            ]
        ),
        pytest.param(changed("image: busybox", "image: 2026-01-01"), id="a-date"),
        pytest.param(changed("image: busybox", "image: !!python/object:os.system {}"), id="an-object"),
        pytest.param(GOOD + "            - &a [*a]\n", id="an-endless-list"),
        pytest.param(GOOD + "            - {name: X, value: '{{ 'x' * 300000 }}'}\n", id="huge"),
        pytest.param(
            GOOD + "      x0: &x0 [a,a,a,a,a,a,a,a,a]\n"
            + "".join(f"      x{n + 1}: &x{n + 1} [{','.join([f'*x{n}'] * 9)}]\n" for n in range(5)),
            id="huge-by-aliases",
        ),
        pytest.param(b"\xff\xfe", id="not-utf-8"),
        *(
            pytest.param(changed("      restartPolicy", f"      {field}: {value}\n      restartPolicy"), id=field)
            for field, value in {
                "hostNetwork": "true",
                "hostPID": "true",
                "hostIPC": "true",
                "shareProcessNamespace": "true",
                "serviceAccountName": "admin",
                "serviceAccount": "admin",
                "nodeName": "control-plane",
            }.items()
        ),
    ],
)  # fmt: skip
def test_mistakes_of_a_template_are_told_by_its_name(own, text):
    with pytest.raises(TemplateInvalid, match=r"Template t\.yaml\.j2"):
        own(text).job(OWNER, action())


def test_a_sidecar_may_start_again_and_is_as_harmless_as_the_others(own):
    job = own(changed("- name: first", "- name: first\n          restartPolicy: Always")).job(OWNER, action())
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    sidecar, main = containers(job)
    assert (sidecar["restartPolicy"], "restartPolicy" in main) == ("Always", False)
    assert sidecar["securityContext"] == main["securityContext"]
    assert sidecar["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_service_account_is_set_in_code_and_has_no_token(own):
    pod = own(GOOD).job(OWNER, action(service_account="writer"))["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("writer", False)
    assert "serviceAccountName" not in own(GOOD).job(OWNER, action())["spec"]["template"]["spec"]


def test_a_missing_template_is_told_by_its_name(tmp_path):
    with pytest.raises(TemplateInvalid, match=r"gone\.yaml\.j2"):
        Renderer(tmp_path, 1, 1).job(OWNER, action("gone.yaml.j2"))


@pytest.mark.parametrize("filtered", ["{{ missing | tojson }}", "{{ missing }}", "{{ image.missing }}"])
def test_what_is_undefined_is_named(own, filtered):
    with pytest.raises(TemplateInvalid, match="missing"):
        own(changed("{{ image | tojson }}", filtered)).job(OWNER, action())


def test_a_template_may_use_scripts_beside_it(own):
    own("echo {{ not_rendered }}", "x.sh")
    job = own(changed("{{ image | tojson }}", "{{ script('x.sh') | tojson }}")).job(OWNER, action())
    assert job["spec"]["template"]["spec"]["containers"][0]["image"] == "echo {{ not_rendered }}"


def test_one_rendering_does_not_change_the_next(own):
    renderer = own(GOOD)
    first = renderer.job(OWNER, action(claim=VAULT))
    first["spec"]["template"]["spec"]["securityContext"]["runAsUser"] = 0
    containers(first)[0]["securityContext"]["capabilities"]["drop"].clear()
    second = renderer.job(OWNER, action())
    assert second["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 1001
    assert containers(second)[0]["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert "affinity" not in second["spec"]["template"]["spec"]


def test_a_template_that_cannot_be_read_is_told_by_its_name(tmp_path):
    (tmp_path / "t.yaml.j2").mkdir()
    with pytest.raises(TemplateInvalid, match=r"t\.yaml\.j2"):
        Renderer(tmp_path, 1, 1).job(OWNER, action())
