"""An S3 server over TLS in a namespace of a test, what can go wrong with it, and a look at what lies in it."""

from __future__ import annotations

import json
import secrets
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e import kit
from e2e.cluster.build import RCLONE, VERSITYGW
from e2e.cluster.pki import Pki
from e2e.containers import stopped
from e2e.support import apply, kubectl, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "backups"
PORT = 7070
_ACCOUNT = 65532
_RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def new_credentials() -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}


def secret(name: str, values: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}


@dataclass(frozen=True)
class ObjectStore:
    """A pod and a Service of that name; the Secrets NAME-keys and NAME-ca are for a BackupStore."""

    namespace: str
    name: str = "s3"
    credentials: dict[str, str] = field(default_factory=new_credentials)
    room: str = ""  # on its disk; that of the node otherwise

    @property
    def endpoint(self) -> str:
        return f"https://{self.host}:{PORT}"

    @property
    def host(self) -> str:
        return f"{self.name}.{self.namespace}.svc.cluster.local"

    def backup_store(self, name: str, **changes: Any) -> dict[str, Any]:
        """A BackupStore for it, with more or other fields; None leaves one out."""
        spec = {
            "bucket": BUCKET,
            "endpoint": self.endpoint,
            "credentialsSecretRef": {"name": f"{self.name}-keys"},
            "caSecretRef": {"name": f"{self.name}-ca"},
        }
        merged = {key: value for key, value in (spec | changes).items() if value is not None}
        return kit.resource("BackupStore", name, {"s3": merged})

    def secrets(self, authority: str) -> list[dict[str, Any]]:
        """What a namespace needs for a BackupStore of this server."""
        return [secret(f"{self.name}-keys", self.credentials), secret(f"{self.name}-ca", {"ca.crt": authority})]

    def start(self) -> str:
        """Run it with an empty bucket; return the certificate of its authority, which nobody else knows."""
        with tempfile.TemporaryDirectory() as directory:
            pki = Pki(Path(directory))
            pki.cert("tls", f"/CN={self.name}", f"DNS:{self.host},DNS:localhost")
            authority = pki.ca.read_text()
            files = {name: (pki.dir / name).read_text() for name in ("tls.crt", "tls.key")}
        port = {"port": PORT, "targetPort": PORT}
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name},
            "spec": {"selector": {"app": self.name}, "ports": [port]},
        }
        apply([*self.secrets(authority), secret(f"{self.name}-tls", files), service, self._pod()], self.namespace)
        kubectl("wait", "--for=condition=Ready", f"pod/{self.name}", "-n", self.namespace, "--timeout=90s")
        self.rclone("mkdir", f"store:{BUCKET}")
        return authority

    def _pod(self) -> dict[str, Any]:
        keys = [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": f"{self.name}-keys", "key": key}}}
            for name, key in (
                ("ROOT_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
                ("ROOT_SECRET_KEY", "AWS_SECRET_ACCESS_KEY"),
                ("RCLONE_S3_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID"),
                ("RCLONE_S3_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY"),
            )
        ]
        remote = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": f"https://localhost:{PORT}"}
        settings = {f"RCLONE_CONFIG_STORE_{key}": text for key, text in remote.items()}
        settings |= {"RCLONE_CONFIG": "/dev/null", "RCLONE_CA_CERT": "/ca/ca.crt", "HOME": "/tmp"}
        server = (
            "mkdir -p /data/objects /data/meta && "
            f"exec versitygw --port :{PORT} --cert /tls/tls.crt --key /tls/tls.key posix --sidecar /data/meta /data/objects"
        )
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "labels": {"app": self.name}},
            "spec": {
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": _ACCOUNT,
                    "runAsGroup": _ACCOUNT,
                    "fsGroup": _ACCOUNT,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "server",
                        "image": f"versity/versitygw:v{VERSITYGW}",
                        "command": ["sh", "-c", server],
                        "env": keys[:2],
                        "securityContext": _RESTRICTED,
                        # a server that hangs still takes connections, and stays behind its Service
                        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tls", "mountPath": "/tls"}],
                    },
                    {
                        "name": "look",
                        "image": f"rclone/rclone:{RCLONE}",
                        "command": ["sleep", "86400"],
                        "env": [*keys[2:], *({"name": name, "value": text} for name, text in settings.items())],
                        "securityContext": _RESTRICTED,
                        "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
                    },
                ],
                "volumes": [
                    {"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": self.room} if self.room else {}},
                    {"name": "tls", "secret": {"secretName": f"{self.name}-tls"}},
                    {"name": "ca", "secret": {"secretName": f"{self.name}-ca"}},
                ],
            },
        }

    # A look

    def rclone(self, *args: str) -> str:
        """What rclone prints; the server is its remote `store`."""
        return self._exec("look", "rclone", *args)

    def shell(self, script: str) -> str:
        """The same for a script of several commands; /tmp is its own."""
        return self._exec("look", "sh", "-euc", script)

    def _exec(self, container: str, *command: str) -> str:
        return kubectl("exec", self.name, "-c", container, "-n", self.namespace, "--", *command)

    def objects(self) -> dict[str, int]:
        """Sizes of all objects by their keys."""
        found = json.loads(self.rclone("lsjson", "-R", "--files-only", f"store:{BUCKET}"))
        return {entry["Path"]: entry["Size"] for entry in found}

    def unfinished(self) -> list[str]:
        """Keys of all multipart uploads that were neither completed nor aborted."""
        found = json.loads(self.rclone("backend", "list-multipart-uploads", f"store:{BUCKET}"))
        return sorted(entry["Key"] for entry in found[BUCKET] or [])

    # What goes wrong; all of it is mended at the end

    @contextmanager
    def hung(self) -> Iterator[None]:
        """It takes connections and never answers."""
        with stopped(self.namespace, self.name, "server"):
            yield

    @contextmanager
    def broken(self) -> Iterator[None]:
        """It answers 500 to every request: it may not read its own files."""
        self._exec("server", "chmod", "0", f"/data/objects/{BUCKET}")
        try:
            yield
        finally:
            self._exec("server", "chmod", "755", f"/data/objects/{BUCKET}")

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Connections are refused."""
        self._select("nobody")
        try:
            yield
        finally:
            self._select(self.name)
            look = f"RCLONE_CONFIG_STORE_ENDPOINT={self.endpoint} rclone lsf --retries 1 store:"
            wait_for(lambda: self.shell(look), 30, f"the Service {self.name} to lead to its pod again")

    def _select(self, app: str) -> None:
        patch = json.dumps({"spec": {"selector": {"app": app}}})
        kubectl("patch", "service", self.name, "-n", self.namespace, "-p", patch)
