"""Talking to the API server of the tests, and bodies of objects for it."""

import base64
import http.client
import itertools
import json
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from e2e.cluster import build
from postgres_operator.api import crd
from postgres_operator.names import API_VERSION

NAMESPACE = "crds"
PLURALS = {kind.name: kind.plural for kind in crd.KINDS}

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the API server or kubectl said."""

    accepted: bool
    text: str

    def must(self) -> str:
        assert self.accepted, self.text
        return self.text


class Kubectl:
    """The real kubectl; a call takes a third of a second."""

    def __init__(self, kubeconfig: Path) -> None:
        self._command = [str(build.hyperkube()), "kubectl", f"--kubeconfig={kubeconfig}"]

    def __call__(self, *arguments: str, stdin: Any = None) -> Answer:
        text = None if stdin is None else json.dumps(stdin)
        done = subprocess.run([*self._command, *arguments], input=text, capture_output=True, text=True, check=False)
        return Answer(done.returncode == 0, done.stdout + done.stderr)


class Api:
    """Our kinds in one namespace, over one connection; a call takes a few milliseconds."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._token = config["users"][0]["user"]["token"]
        self._connection = http.client.HTTPSConnection(
            urlsplit(cluster["server"]).netloc, context=ssl.create_default_context(cadata=authority)
        )

    def _send(self, method: str, body: Body, *, name: str = "", content: Any = None, merge: bool = False) -> Answer:
        path = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/{PLURALS[body['kind']]}{name}?fieldValidation=Strict"
        kind = "application/merge-patch+json" if merge else "application/json"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        self._connection.request(method, path, None if content is None else json.dumps(content), headers)
        response = self._connection.getresponse()
        return Answer(response.status < 300, response.read().decode())

    def create(self, body: Body) -> Answer:
        return _message(self._send("POST", body, content=body))

    def change(self, body: Body, spec: Body) -> Answer:
        """Replace the spec, as an edited file does."""
        changed = {**self.read(body), "spec": spec}
        return _message(self._send("PUT", body, name=f"/{body['metadata']['name']}", content=changed))

    def read(self, body: Body) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._send("GET", body, name=f"/{body['metadata']['name']}").must())
        return found

    def patch_status(self, body: Body, status: Body | None) -> Answer:
        name = f"/{body['metadata']['name']}/status"
        return _message(self._send("PATCH", body, name=name, content={"status": status}, merge=True))


def _message(answer: Answer) -> Answer:
    """The answer with the message alone, where it is an error."""
    return answer if answer.accepted else Answer(False, json.loads(answer.text)["message"])


class Make:
    """Bodies of objects, each with a name of its own, so that tests share one namespace."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __call__(self, kind: str, spec: Any = None, name: str = "") -> dict[str, Any]:
        body: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": name or f"{kind.lower()}-{next(self._numbers)}"},
        }
        return body if spec is None else {**body, "spec": spec}
