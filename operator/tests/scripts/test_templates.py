"""Each template, through the operator's own renderer, with what the decisions put into it."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import kubernetes_validate
import pytest
from script_runner import SCRIPTS

from postgres_operator.api.backup import Backup
from postgres_operator.api.common import Resource
from postgres_operator.api.database import Database
from postgres_operator.api.restore import Restore
from postgres_operator.decide import backup as backups
from postgres_operator.decide import database as databases
from postgres_operator.decide import restore as restores
from postgres_operator.decide import server
from postgres_operator.decide.actions import Body, Claim, CreateJob
from postgres_operator.decide.jobs import Job
from postgres_operator.decide.run import Facts
from postgres_operator.render import Renderer

RENDERER = Renderer(SCRIPTS, 999, 998)
NASTY = 'B\u00fccher: "x"\nkind: Evil\t{{ 7 * 7 }} {% raw %} $(PGPASSWORD) $$ \U0001f600 \' \u2028\\'
SECRET = "shop-credentials"
APP = (SECRET, "password")
SUPERUSER = (SECRET, "superuser-password")
STORE = "store-credentials"
CA = "store-ca"
KEYS = {name: (STORE, name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")}
SIDECARS = {"upload", "download"}
# "*": the script that knows the kind of store.
FILES = {
    "dump": ["lib.sh", "*.sh", "dump-to-*.sh", "dump.sh"],
    "read-manifest": ["lib.sh", "*.sh", "read-manifest.sh"],
    "verify": ["lib.sh", "verify.sh"],
    "restore-check": ["lib.sh", "*.sh", "blocks.sh", "restore-check.sh"],
    "verify-check": ["lib.sh", "*.sh", "blocks.sh", "verify-lib.sh", "restore-check.sh", "verify-list.sh"],
    "verify-restore": ["lib.sh", "*.sh", "blocks.sh", "verify-lib.sh", "inventory.sh", "verify-restore.sh"],
    "restore-prepare": ["lib.sh", "restore-prepare.sh"],
    "restore-load": ["lib.sh", "*.sh", "blocks.sh", "restore-target.sh", "restore-load.sh"],
    "restore-swap": ["lib.sh", "restore-swap.sh"],
    "upload": ["sidecar.sh", "upload.sh"],
    "download": ["sidecar.sh", "download.sh"],
}


def _values(**more: Any) -> dict[str, Any]:
    """As job_values() of the decisions makes them."""
    values = {
        "image": "registry.example.com/postgres:17.6-alpine",
        "resources": {"requests": {"cpu": "1", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "node_selector": {"disktype": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists", "tolerationSeconds": 5}],
        "image_pull_secrets": [{"name": "registry"}],
        "database": {
            "host": "shop.apps.svc.cluster.local",
            "port": 5432,
            "name": NASTY,
            "username": NASTY + "user",
            "superuser": "postgres",
            "secret_name": SECRET,
            "ssl_mode": None,
            "ca_secret_name": None,
        },
        "active_deadline_seconds": 3600,
        "ttl_seconds_after_finished": None,
    }
    return values | more


PATH = "shop/nightly-1f0c"
VOLUME = {"artifact_path": PATH, "uploader_image": "", "store": {"kind": "pvc", "claim_name": "backups"}}
BUCKET = {
    "artifact_path": PATH,
    "uploader_image": "registry.example.com/rclone:1",
    "store": {
        "kind": "s3",
        "bucket": NASTY,
        "prefix": "team/a",
        "endpoint": "https://s3.example.com",
        "region": "us-east-1",
        "path_style": True,
        "credentials_secret": STORE,
        "ca_secret": CA,
    },
}
BACKUP = {
    "format": "custom",
    "jobs": 1,
    "include_globals": False,
    "compression": "",
    "selection": "",
    "verification": "None",
    "extra_args": "",
    "source": '{"databaseName": "$(PGPASSWORD) \\"x\\""}',
}
RESTORE = {
    "expected_sha256": "0" * 64,
    "restore_uid": "0d6a",
    "mode": "Fail",
    "jobs": 1,
    "keep_previous": True,
    "scratch_prefix": NASTY + "_restore",
    "previous_database": NASTY + "_before",
}
LIST = {"verification": "List", "selection": "", "expected_sha256": "0" * 64}
JOBS = {
    "verify": ("verify.yaml.j2", {"create_missing": False}),
    "verify, first time": ("verify.yaml.j2", {"create_missing": True}),
    "backup with roles": ("backup.yaml.j2", {**VOLUME, **BACKUP, "include_globals": True}),
    "restore, Replace with jobs": ("restore.yaml.j2", {**VOLUME, **RESTORE, "mode": "Replace", "jobs": 2}),
}
MORE_FILES = {
    ("backup with roles", "dump"): "globals.sh",
    ("restore, Replace with jobs", "restore-load"): "restore-parallel.sh",
}
for _kind, _store in (("", VOLUME), (", s3", BUCKET)):
    JOBS |= {
        f"backup{_kind}": ("backup.yaml.j2", {**_store, **BACKUP}),
        f"read-manifest{_kind}": ("read-manifest.yaml.j2", _store),
        f"check, List{_kind}": ("verify-backup.yaml.j2", {**_store, **LIST}),
        f"check, Restore{_kind}": ("verify-backup.yaml.j2", {**_store, **LIST, "verification": "Restore"}),
        f"restore, Fail{_kind}": ("restore.yaml.j2", {**_store, **RESTORE}),
        f"restore, Clean{_kind}": ("restore.yaml.j2", {**_store, **RESTORE, "mode": "Clean"}),
        f"restore, Replace{_kind}": ("restore.yaml.j2", {**_store, **RESTORE, "mode": "Replace"}),
    }
every_job = pytest.mark.parametrize("job", JOBS)


def _owner() -> Resource:
    return Backup.model_validate(
        {"metadata": {"name": "nightly", "namespace": "apps", "uid": "u1"}, "spec": {"databaseRef": {"name": "shop"}}}
    )


def _render(job: str, **more: Any) -> Body:
    template, values = JOBS[job]
    action = CreateJob(
        "backup-nightly-1", template, _values(**values, **more), claim=Claim("backups", ("ReadWriteOnce",))
    )
    return RENDERER.job(_owner(), action)


def _pod(body: Body) -> Body:
    return dict(body["spec"]["template"]["spec"])


def _containers(body: Body) -> dict[str, Body]:
    pod = _pod(body)
    return {c["name"]: c for c in [*pod.get("initContainers", []), *pod["containers"]]}


def _env(container: Body) -> dict[str, str]:
    """The environment as the container sees it, but for secrets."""
    seen: dict[str, str] = {}
    for entry in container["env"]:
        seen[entry["name"]] = _expand(entry["value"], seen) if "value" in entry else "(from elsewhere)"
    return {e["name"]: seen[e["name"]] for e in container["env"] if "value" in e}


def _expand(text: str, variables: dict[str, str]) -> str:
    """What the kubelet makes of $(NAME) and $$ (k8s.io/kubernetes third_party/forked/golang/expansion)."""
    return re.sub(
        r"\$(\$|\(([^)]*)\))",
        lambda m: "$" if m[1] == "$" else variables.get(m[2], m[0]),
        text,
    )


def _secrets(container: Body) -> dict[str, tuple[str, str]]:
    refs = {e["name"]: e["valueFrom"].get("secretKeyRef") for e in container["env"] if "valueFrom" in e}
    return {name: (ref["name"], ref["key"]) for name, ref in refs.items() if ref}


@every_job
@pytest.mark.parametrize("version", ["1.30", "1.34"])
def test_it_is_a_valid_job(job: str, version: str) -> None:
    kubernetes_validate.validate(_render(job), version, strict=True)


@every_job
def test_it_is_valid_without_anything_optional(job: str) -> None:
    bare = _render(job, resources={}, node_selector={}, tolerations=[], image_pull_secrets=[])
    kubernetes_validate.validate(bare, "1.34", strict=True)


@every_job
def test_the_job_runs_one_pod_once_and_not_for_ever(job: str) -> None:
    spec, pod = _render(job)["spec"], _pod(_render(job))
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert (spec["activeDeadlineSeconds"], pod["activeDeadlineSeconds"]) == (3600, 3600)
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 30)
    assert "ttlSecondsAfterFinished" not in spec
    assert _render(job, ttl_seconds_after_finished=60)["spec"]["ttlSecondsAfterFinished"] == 60
    assert _render(job, ttl_seconds_after_finished=0)["spec"]["ttlSecondsAfterFinished"] == 0


@every_job
def test_pod_settings_get_into_the_pod(job: str) -> None:
    values, pod = _values(), _pod(_render(job))
    assert pod["nodeSelector"] == values["node_selector"]
    assert pod["tolerations"] == values["tolerations"]
    assert pod["imagePullSecrets"] == values["image_pull_secrets"]
    for name, container in _containers(_render(job)).items():
        assert container["image"] == (BUCKET["uploader_image"] if name in SIDECARS else values["image"])
        assert container["resources"] == values["resources"]
        assert container.get("restartPolicy") == ("Always" if name in SIDECARS else None)


@every_job
def test_values_get_into_the_environment_as_they_are(job: str) -> None:
    seen = {k: v for c in _containers(_render(job)).values() for k, v in _env(c).items()}
    values = _values()
    if not job.startswith(("read-manifest", "check")):
        assert seen["PGHOST"] == "shop.apps.svc.cluster.local"
        assert seen["PGPORT"] == "5432"
    streamed = job.endswith("s3")
    if job.startswith("backup"):
        assert seen["BACKUP_SOURCE"] == BACKUP["source"]
        assert seen["FILE"] == ("dump-(from elsewhere).pgdump" if streamed else "dump.pgdump")
    if not job.startswith("verify"):
        assert (seen["STORE_DIR"], seen["ARTIFACT_PATH"]) == ("/stream" if streamed else "/backups", PATH)
    if streamed:
        assert seen["REMOTE"] == f"store:{NASTY}/team/a"
        assert seen["RCLONE_CONFIG_STORE_ENDPOINT"] == "https://s3.example.com"
        assert seen["RCLONE_CONFIG_STORE_FORCE_PATH_STYLE"] == "true"
    if job.startswith("restore, Replace"):
        assert seen["TARGET_DATABASE"] == values["database"]["name"]
        assert seen["TARGET_OWNER"] == values["database"]["username"]
        assert (seen["SCRATCH_PREFIX"], seen["PREVIOUS_DATABASE"]) == (NASTY + "_restore", NASTY + "_before")
        assert seen["KEEP_PREVIOUS"] == "true"
    elif not job.startswith(("read-manifest", "check")):
        assert (seen["PGDATABASE"], seen["PGUSER"]) == (NASTY, NASTY + "user")


@every_job
def test_scripts_are_there_word_for_word_and_get_what_they_need(job: str) -> None:
    for name, container in _containers(_render(job)).items():
        shell, option, text = container["command"]
        assert (shell, option) == ("sh" if name in SIDECARS else "bash", "-c")
        store = "stream" if job.endswith("s3") else "volume"
        names = [file.replace("*", store) for file in FILES[name]]
        if more := MORE_FILES.get((job, name)):
            names.insert(-1, more)
        files = [(SCRIPTS / file).read_text() for file in names]
        assert _expand(text, {}) == "".join(files)
        script = "".join(files if name in SIDECARS else files[1:])  # lib.sh has functions for all kinds of scripts
        assert "args" not in container
        given = {e["name"] for e in container["env"]}
        required = set(_required(script))
        if job == "verify":
            required -= {"SUPERUSER", "SUPERUSER_PASSWORD"}
        assert required <= given


def _required(script: str) -> Iterator[str]:
    """Variables in capitals that a script reads without setting them or having a default."""
    ours = set(re.findall(r"\b([A-Z][A-Z_0-9]+)\+?=", script)) | {"SECONDS", "RANDOM", "UNDISTURBED", "PIPESTATUS"}
    ours.add("BASH_REMATCH")
    for name in re.findall(r"\$\{?([A-Z][A-Z_0-9]+)(?![A-Z_0-9]|:?-)", script):
        if name not in ours:
            yield name


# --- who has which password


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("backup", {"dump": {"PGPASSWORD": APP}}),
        ("read-manifest", {"read-manifest": {}}),
        ("check, Restore", {"verify-check": {}, "verify-restore": {}}),
        ("verify", {"verify": {"PGPASSWORD": APP}}),
        ("verify, first time", {"verify": {"PGPASSWORD": APP, "SUPERUSER_PASSWORD": SUPERUSER}}),
        ("restore, Fail", {"restore-check": {}, "restore-load": {"PGPASSWORD": APP}}),
        ("restore, Clean", {"restore-check": {}, "restore-load": {"PGPASSWORD": APP}}),
        (
            "restore, Replace",
            {
                "restore-check": {},
                "restore-prepare": {"PGPASSWORD": SUPERUSER},
                "restore-load": {"PGPASSWORD": APP},
                "restore-swap": {"PGPASSWORD": SUPERUSER},
            },
        ),
    ],
)
def test_containers_run_in_this_order_with_these_credentials(job: str, expected: dict[str, Any]) -> None:
    if not job.startswith("verify"):
        assert {c: s for c, s in _credentials(f"{job}, s3").items() if c not in SIDECARS} == expected
    body = _render(job)
    containers = _containers(body)
    assert list(containers) == list(expected)
    assert {name: _secrets(c) for name, c in containers.items()} == expected
    assert len(_pod(body)["containers"]) == 1  # the last one is the one whose report counts
    assert not any("envFrom" in c for c in containers.values())
    assert all(set(volume) & {"persistentVolumeClaim", "emptyDir"} for volume in _pod(body)["volumes"])


def _credentials(job: str) -> dict[str, dict[str, tuple[str, str]]]:
    return {name: _secrets(c) for name, c in _containers(_render(job)).items()}


@pytest.mark.parametrize(
    ("job", "sidecar"), [("backup", "upload"), ("restore, Fail", "download"), ("check, Restore", "download")]
)
def test_only_the_sidecar_has_the_store_s_credentials(job: str, sidecar: str) -> None:
    first, *others = _credentials(f"{job}, s3").items()
    assert first == (sidecar, {**KEYS, "CA_CERT": (CA, "ca.crt")})
    assert not {name for _, secrets in others for name in secrets} & {*KEYS, "CA_CERT"}


def test_a_store_may_do_without_a_secret_an_authority_and_an_endpoint() -> None:
    template, values = JOBS["backup, s3"]
    bare = {**BUCKET["store"], "endpoint": "", "prefix": "", "credentials_secret": None, "ca_secret": None}  # type: ignore[dict-item]
    action = CreateJob("backup-nightly-1", template, _values(**{**values, "store": bare}))
    upload = _containers(RENDERER.job(_owner(), action))["upload"]
    assert _secrets(upload) == {}
    env = _env(upload)
    assert (env["RCLONE_CONFIG_STORE_PROVIDER"], env["REMOTE"]) == ("AWS", f"store:{NASTY}")
    assert "RCLONE_CONFIG_STORE_ENDPOINT" not in env


@every_job
def test_a_login_belongs_to_its_password(job: str) -> None:
    for container in _containers(_render(job)).values():
        key = _secrets(container).get("PGPASSWORD")
        if key:
            user, database = ("postgres", "postgres") if key == SUPERUSER else (NASTY + "user", NASTY)
            assert (_env(container)["PGUSER"], _env(container)["PGDATABASE"]) == (user, database)
        else:
            assert not any(name.startswith("PG") for name in _env(container))


# --- volumes


@every_job
def test_only_a_dump_may_write_to_the_backup_volume(job: str) -> None:
    for name, container in _containers(_render(job)).items():
        mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
        if name == "verify":
            assert not mounts.keys() & {"/backups", "/stream"}
        else:
            store = mounts["/stream" if job.endswith("s3") else "/backups"]
            assert store.get("readOnly", False) is (name not in ("dump", *SIDECARS))
        assert "readOnly" not in mounts["/tmp"]  # noqa: S108 - a volume of the pod


@every_job
def test_what_is_mounted_is_there_and_nothing_else(job: str) -> None:
    body = _render(job)
    volumes = {v["name"]: v for v in _pod(body)["volumes"]}
    mounted = {m["name"] for c in _containers(body).values() for m in c["volumeMounts"]}
    assert mounted == set(volumes)
    if "backups" in volumes:
        assert volumes["backups"]["persistentVolumeClaim"] == {"claimName": "backups"}


@pytest.mark.parametrize("job", ["restore, Replace", "restore, Replace, s3"])
def test_what_executes_a_dump_can_leave_nothing_to_the_superuser_s_steps(job: str) -> None:
    containers = _containers(_render(job))
    writable = {name: {m["name"] for m in c["volumeMounts"] if not m.get("readOnly")} for name, c in containers.items()}
    used = {name: {m["name"] for m in c["volumeMounts"]} for name, c in containers.items()}
    assert not writable["restore-load"] & (used["restore-prepare"] | used["restore-swap"])
    assert writable["restore-prepare"] & used["restore-load"] == {"work"}  # the scratch database's name


# --- what the decisions really pass


NOW = datetime(2026, 1, 2, tzinfo=UTC)
DATABASE = Database.model_validate(
    {
        "metadata": {"name": "shop", "namespace": "apps", "uid": "u-shop"},
        "spec": {"databaseName": "shop", "username": "shop", "storage": {"size": "1Gi"}},
        "status": {"phase": "Ready", "ready": True},
    }
)
FACTS = Facts(NOW, DATABASE, claim=Claim("backups"), claim_known=True)


def _run(kind: type, name: str, spec: Body, status: Body) -> Any:
    meta = {"name": name, "namespace": "apps", "uid": f"u-{name}"}
    return kind.model_validate({"metadata": meta, "spec": {"databaseRef": {"name": "shop"}, **spec}, "status": status})


def _backup_job() -> tuple[Resource, Any]:
    backup = _run(Backup, "nightly", {}, {})
    return backup, backups.decide(backup, None, FACTS, backups.Reader(), backups.Policy({}))


def _reader_job() -> tuple[Resource, Any]:
    backup = _run(Backup, "nightly", {}, {"phase": "InProgress", "jobRef": {"name": "j"}})
    job = Job("j", "u-j", "u-nightly", NOW, "pvc://backups/shop/nightly-u-nightly", complete=True)
    facts = Facts(NOW, DATABASE, job=job, pods=[], claim=Claim("backups"), claim_known=True)
    return backup, backups.decide(backup, None, facts, backups.Reader(), backups.Policy({}))


def _restore_job(mode: str) -> tuple[Resource, Any]:
    done = {"phase": "Completed", "backupLocation": "pvc://backups/shop/nightly-u1", "checksum": "sha256:" + "0" * 64}
    backup = _run(Backup, "nightly", {}, done)
    restore = _run(Restore, "back", {"backupRef": {"name": "nightly"}, "mode": mode}, {})
    return restore, restores.decide(restore, backup, None, FACTS, backups.Policy({}))


def _verify_job() -> tuple[Resource, Any]:
    body = server.stateful_set(DATABASE, 999)
    body["metadata"] |= {"uid": "u-set", "generation": 1}
    body["status"] = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    services = frozenset(s["metadata"]["name"] for s in server.services(DATABASE))
    facts = databases.DatabaseFacts(NOW, server=body, services=services)
    return DATABASE, databases.decide(DATABASE, facts)


@pytest.mark.parametrize(
    ("decision", "containers"),
    [
        pytest.param(_backup_job, ["dump"], id="backup"),
        pytest.param(_reader_job, ["read-manifest"], id="read-manifest"),
        pytest.param(_verify_job, ["verify"], id="verify"),
        pytest.param(lambda: _restore_job("Fail"), ["restore-check", "restore-load"], id="restore"),
        pytest.param(
            lambda: _restore_job("Replace"),
            ["restore-check", "restore-prepare", "restore-load", "restore-swap"],
            id="restore, Replace",
        ),
    ],
)
def test_decisions_and_templates_agree_on_the_values(
    decision: Callable[[], tuple[Resource, Any]], containers: list[str]
) -> None:
    owner, action = decision()
    assert isinstance(action, CreateJob), action
    body = RENDERER.job(owner, action)
    kubernetes_validate.validate(body, "1.34", strict=True)
    assert list(_containers(body)) == containers
