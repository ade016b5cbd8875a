"""Pods that reach their store through a sidecar: what the operator and the kubelet do around the scripts."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from object_store import BUCKET, REGION, ObjectStore
from restoring import manifest_of
from script_runner import SCRIPTS, SECRET, Outcome, Pods, Script, TestDatabase, hand_over

from postgres_operator.api.backup import Backup
from postgres_operator.decide.actions import Body, CreateJob
from postgres_operator.render import Renderer

PATH = "shop/nightly-1f0c"
PREFIX = "team/a"
BACKUP_UID = "1f0c"
SOURCE = {"database": "shop", "databaseName": 'K\u00e4ufe "x" \\', "backup": "nightly"}
FINAL = f"{PREFIX}/{PATH}"
MANIFEST = f"{FINAL}/manifest.json"
_OWNER = {"metadata": {"name": "nightly", "namespace": "apps", "uid": "u1"}, "spec": {"databaseRef": {"name": "shop"}}}


@dataclass
class StreamPod:
    """One pod of a Job; its containers get the command and environment that the template gives them."""

    pods: Pods
    s3: ObjectStore
    uploader: Path
    database: TestDatabase
    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)  # more than the template sets, for the sidecar
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    sidecar: Script | None = None

    @cached_property
    def stream(self) -> Path:
        """The volume between the containers."""
        return hand_over(self.pods.directory / f"stream-{self.uid}")

    @cached_property
    def containers(self) -> dict[str, Body]:
        """The containers by name, in the order in which they start."""
        values = {
            "image": "postgres",
            "uploader_image": "rclone",
            "resources": {},
            "node_selector": {},
            "tolerations": [],
            "image_pull_secrets": [],
            "active_deadline_seconds": 60,
            "ttl_seconds_after_finished": None,
            "database": {
                "host": "127.0.0.1",
                "port": self.database.server.port,
                "name": self.database.name,
                "username": self.database.owner,
                "superuser": "postgres",
                "secret_name": "database",
                "ssl_mode": None,
                "ca_secret_name": None,
            },
            "store": {
                "kind": "s3",
                "bucket": BUCKET,
                "prefix": PREFIX,
                "endpoint": self.s3.endpoint,
                "region": REGION,
                "path_style": True,
                "credentials_secret": "store",
                "ca_secret": "ca" if self.s3.pki else None,
            },
            "artifact_path": PATH,
            "format": "custom",
            "jobs": 1,
            "include_globals": False,
            "compression": "",
            "selection": "",
            "verification": "None",
            "extra_args": "",
            "source": json.dumps(SOURCE),
            "backup_uid": BACKUP_UID,
            "expected_sha256": "",
            "restore_uid": str(uuid.uuid4()),
            "mode": "Fail",
            "keep_previous": True,
            "scratch_prefix": "app_restore",
            "previous_database": "app_before",
            **self.values,
        }
        job = CreateJob("nightly", self.template, values)
        pod = Renderer(SCRIPTS, 999, 998).job(Backup.model_validate(_OWNER), job)["spec"]["template"]["spec"]
        return {c["name"]: c for c in [*pod.get("initContainers", []), *pod["containers"]]}

    def start(self, name: str, **more: str) -> Script:
        """Start a container."""
        container = self.containers[name]
        env = {"HOME": "/nonexistent"}
        for entry in container["env"]:
            env[entry["name"]] = self._value(entry, env)
        shell, option, text = container["command"]
        path = str(self.uploader) if shell == "sh" else ""
        return self.pods.launch([shell, option, text.replace("$$", "$")], {**env, **more}, path)

    def _value(self, entry: Body, env: Mapping[str, str]) -> str:
        source = entry.get("valueFrom", {})
        if "fieldRef" in source:
            return self.uid
        if "secretKeyRef" in source:
            key = source["secretKeyRef"]["key"]
            login = self.database.env if key == "password" else self.database.server.env()
            ca = self.s3.pki.ca.read_text() if self.s3.pki else ""
            return {**self.s3.credentials, "AWS_SESSION_TOKEN": "", "ca.crt": ca}.get(key, login["PGPASSWORD"])
        expand = re.compile(r"\$(?:\$|\((\w+)\))")
        text = expand.sub(lambda m: env[m[1]] if m[1] else "$", entry["value"])
        moved = {"/stream": str(self.stream), "/work": str(hand_over(self.stream / "work"))}
        return moved.get(text, text)

    @property
    def file(self) -> str:
        """Key of the dump that this pod writes."""
        return f"{FINAL}/dump-{self.uid}.{'sql' if self.values.get('format') == 'plain' else 'pgdump'}"

    def start_sidecar(self) -> Script:
        """Start the sidecar, for the first time or again."""
        self.sidecar = self.start(next(iter(self.containers)), **self.env)
        return self.sidecar

    def end(self) -> None:
        """Stop the sidecar as the kubelet does when the other containers have ended."""
        assert self.sidecar
        self.sidecar.terminate()
        self.sidecar.process.wait(30)
        assert SECRET not in self.sidecar.log, "credentials are in the log"
        assert not [
            path for path in self.stream.rglob("*") if path.is_file() and SECRET in path.read_text(errors="replace")
        ]

    def finish(self, script: Script, seconds: float = 60) -> Outcome:
        """Wait for a container that must be the last one."""
        outcome = script.wait(seconds)
        self.end()
        return outcome

    def run(self, **more: str) -> Outcome:
        """Run the whole pod: the sidecar, then one container after the other, up to the first that fails."""
        self.start_sidecar()
        for name in list(self.containers)[1:]:
            script = self.start(name, **more)
            outcome = script.wait()
            assert "bash: " not in outcome.log, outcome.log
            if outcome.code:
                break
        self.end()
        return outcome


def forge(s3: ObjectStore, content: bytes, **wrong: Any) -> None:
    """A plain backup with this content, and a manifest that fits but for what is given."""
    file = "dump-forged.sql"
    manifest = json.loads(manifest_of(content, "plain", PATH, file)) | wrong
    s3.put(f"{FINAL}/{file}", content)
    s3.put(MANIFEST, (json.dumps(manifest) + "\n").encode())
