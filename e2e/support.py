"""Talking to the cluster the way a user does: through kubectl."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from e2e.cluster import kubectl_command, select
from e2e.cluster.deploy import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GROUP = "database.example.com"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

T = TypeVar("T")


class KubectlError(AssertionError):
    """kubectl refused; the text is what it said."""


def kubectl(*args: str, stdin: str = "", timeout: float = 120) -> str:
    """Run kubectl and return its stdout; KubectlError has its stderr."""
    command = [*kubectl_command(select().kubeconfig()), *args]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise KubectlError(f"kubectl {' '.join(args)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def apply(manifest: str | dict[str, Any] | list[dict[str, Any]], namespace: str | None = None) -> None:
    """Apply YAML text, one object or a list of them."""
    if isinstance(manifest, list):
        manifest = {"apiVersion": "v1", "kind": "List", "items": manifest}
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    kubectl("apply", "-f", "-", *_in(namespace), stdin=text)


def get(kind: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
    """The object, or None when there is none of that name."""
    text = kubectl("get", kind, name, *_in(namespace), "--ignore-not-found", "-o", "json")
    return json.loads(text) if text.strip() else None


def items(kind: str, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
    """All objects of a kind, of one namespace or of all."""
    where = _in(namespace) or ["--all-namespaces"]
    found: list[dict[str, Any]] = json.loads(
        kubectl("get", kind, *where, *([f"--selector={selector}"] if selector else []), "-o", "json")
    )["items"]
    return found


def delete(kind: str, name: str, namespace: str | None = None, *, wait: bool = True) -> None:
    """Delete an object; it may be gone already."""
    kubectl("delete", kind, name, *_in(namespace), "--ignore-not-found", f"--wait={str(wait).lower()}")


def wait_for(ready: Callable[[], T | None], deadline: float, what: str, every: float = 0.3) -> T:
    """Poll until `ready` returns something true, and return that.

    `deadline` is in seconds from now. A KubectlError while polling counts as "not yet".
    The failure says what was waited for and what was seen last.
    """
    end = time.monotonic() + deadline
    while True:
        try:
            seen: Any = ready()
            if seen:
                result: T = seen
                return result
        except KubectlError as error:
            seen = error
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline:.0f} s for {what}; last seen: {seen}")
        time.sleep(every)


def wait_gone(kind: str, name: str, namespace: str | None = None, deadline: float = 60) -> None:
    """Wait until an object does not exist any more."""
    wait_for(lambda: get(kind, name, namespace) is None, deadline, f"{kind}/{name} to be gone")


def psql(namespace: str, pod: str, sql: str, dbname: str = "postgres", user: str = "postgres") -> str:
    """Run SQL within a database pod, stop at the first error; unaligned rows without headings."""
    command = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", user, "-d", dbname]
    return kubectl("exec", "-i", pod, *_in(namespace), "--", *command, stdin=sql).strip()


@contextmanager
def fresh_namespace(name: str, **labels: str) -> Iterator[str]:
    """A namespace with the restricted Pod Security profile, deleted at the end."""
    metadata = {"name": name, "labels": RESTRICTED | labels}
    apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    try:
        # a bare pod is refused before this account exists
        wait_for(lambda: get("serviceaccount", "default", name), 30, f"the default account of {name}")
        yield name
    finally:
        # its end takes seconds and nobody needs to wait for it
        delete("namespace", name, wait=False)


def diagnose(namespace: str) -> str:
    """What one wants to see when a test failed: our objects, events, and the logs of pods and operator."""
    ours = kubectl("api-resources", "--namespaced", f"--api-group={GROUP}", "-o", "name").split()
    parts = [_try("get", "all,pvc", "-o", "wide", *_in(namespace))]
    parts += [_try("get", kind, "-o", "yaml", *_in(namespace)) for kind in ours]
    parts.append(_try("get", "events", "--sort-by=.lastTimestamp", *_in(namespace)))
    for pod in items("pods", namespace):
        name = pod["metadata"]["name"]
        parts.append(_try("logs", name, "--all-containers", "--prefix", "--tail=60", *_in(namespace)))
    for pod in items("pods", NAMESPACE):
        parts.append(_try("logs", pod["metadata"]["name"], "--tail=100", *_in(NAMESPACE)))
    return "\n".join(parts)


def _try(*args: str) -> str:
    try:
        return f"$ kubectl {' '.join(args)}\n{kubectl(*args)}"
    except KubectlError as error:
        return str(error)


def _in(namespace: str | None) -> list[str]:
    return ["--namespace", namespace] if namespace else []
