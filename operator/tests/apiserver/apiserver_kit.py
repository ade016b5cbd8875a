"""kubectl and bodies for the tests against an API server."""

import itertools
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster import build
from postgres_operator.names import API_VERSION, GROUP

NAMESPACE = "crds"


@dataclass(frozen=True)
class Answer:
    """What kubectl said."""

    accepted: bool
    text: str


class Kubectl:
    """kubectl against the API server of this test run."""

    def __init__(self, kubeconfig: Path) -> None:
        self._command = [str(build.hyperkube()), "kubectl", f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}"]

    def __call__(self, *arguments: str, stdin: Any = None) -> Answer:
        done = subprocess.run(
            [*self._command, *arguments],
            input=None if stdin is None else json.dumps(stdin),
            capture_output=True,
            text=True,
            check=False,
        )
        return Answer(done.returncode == 0, done.stdout + done.stderr)

    def must(self, *arguments: str, stdin: Any = None) -> str:
        answer = self(*arguments, stdin=stdin)
        assert answer.accepted, answer.text
        return answer.text

    def apply(self, body: Mapping[str, Any]) -> Answer:
        return self("apply", "-f", "-", stdin=body)

    def read(self, body: Mapping[str, Any]) -> Any:
        """The object as it is stored now."""
        return json.loads(self.must("get", f"{body['kind']}.{GROUP}", body["metadata"]["name"], "-o", "json"))

    def patch_status(self, body: Mapping[str, Any], status: Mapping[str, Any] | None) -> Answer:
        return self(
            "patch", f"{body['kind']}.{GROUP}", body["metadata"]["name"],
            "--subresource=status", "--type=merge", f"--patch={json.dumps({'status': status})}",
        )  # fmt: skip


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
