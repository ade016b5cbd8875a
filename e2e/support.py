"""Talking to the cluster the way a user does: through kubectl. What is polled is read without, for that costs a hundredth."""

from __future__ import annotations

import functools
import json
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlencode

from kubernetes import config
from urllib3.exceptions import HTTPError

from e2e.cluster import kubectl_command, select
from e2e.cluster.configs import SYSTEM
from e2e.cluster.paths import ROOT

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
    """The object, or None when there is none of that name; kinds as kubectl knows them."""
    resource = _resource(kind)
    return _read(resource.path(namespace or ("default" if resource.namespaced else "")) + f"/{name}")


def items(kind: str, namespace: str | None = None, selector: str = "") -> list[dict[str, Any]]:
    """All objects of a kind, of one namespace or of all."""
    query = "?" + urlencode({"labelSelector": selector}) if selector else ""
    listed = _read(_resource(kind).path(namespace or "") + query) or {"items": []}
    found: list[dict[str, Any]] = listed["items"]
    return found


class _Resource(NamedTuple):
    """Where the API server serves a kind."""

    prefix: str
    plural: str
    namespaced: bool

    def path(self, namespace: str) -> str:
        return "/".join([self.prefix, *(["namespaces", namespace] if namespace else []), self.plural])


def _resource(word: str) -> _Resource:
    """What kubectl takes the word for: the name of a kind, its plural, or a short name."""
    if word.lower() not in _resources():
        _resources.cache_clear()  # it may have come since
    return _resources()[word.lower()]


@functools.cache
def _resources() -> dict[str, _Resource]:
    groups = (_read("/apis") or {})["groups"]
    known: dict[str, _Resource] = {}
    for prefix in ["/api/v1", *(f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups)]:
        for served in (_read(prefix) or {"resources": []})["resources"]:
            resource = _Resource(prefix, served["name"], served["namespaced"])
            if "/" not in served["name"]:
                full = f"{served['name']}.{prefix.split('/')[2]}"
                for word in (served["singularName"], served["name"], full, *served.get("shortNames", [])):
                    known.setdefault(word, resource)
    return known


@functools.cache
def _client() -> Any:
    return config.new_client_from_config(str(select().kubeconfig()))


def _read(path: str) -> dict[str, Any] | None:
    """What the API server answers; None where that is 404, KubectlError where it is another error or nothing."""
    client = _client()
    settings = client.configuration
    headers = {"Accept": "application/json", "Authorization": settings.get_api_key_with_prefix("BearerToken") or ""}
    try:
        answer = client.call_api("GET", settings.host + path, headers, _request_timeout=60)
        text = answer.read()
    except (HTTPError, OSError) as error:
        raise KubectlError(f"GET {path}: {error}") from error
    if answer.status == 404:
        return None
    if answer.status >= 400:
        raise KubectlError(f"GET {path}: {answer.status} {text[:500]!r}")
    found: dict[str, Any] = json.loads(text)
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
    """What one wants to see when a test failed: what has not gone well, in a few lines; all else is in a file."""
    ours = kubectl("api-resources", "--namespaced", f"--api-group={GROUP}", "-o", "name").split()
    parts = [_try("get", "all,pvc", "-o", "wide", *_in(namespace))]
    parts += [_try("get", kind, "-o", "yaml", *_in(namespace)) for kind in ours]
    parts.append(_try("get", "events", "--sort-by=.lastTimestamp", *_in(namespace)))
    for pod in items("pods", namespace):
        name = pod["metadata"]["name"]
        parts.append(_try("logs", name, "--all-containers", "--prefix", "--tail=60", *_in(namespace)))
    for pod in items("pods", SYSTEM):
        parts.append(_try("logs", pod["metadata"]["name"], "--tail=100", *_in(SYSTEM)))
    file = ROOT / "build" / "failed" / f"{namespace}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(parts))
    return "\n".join([f"Everything about {namespace} is in {file.relative_to(ROOT)}.", *_trouble(ours, namespace)])


def _trouble(kinds: list[str], namespace: str) -> Iterator[str]:
    """Whatever is neither finished well nor ready, a line each, and the last warnings."""
    for kind in kinds:
        for body in items(kind, namespace):
            status = body.get("status", {})
            if status.get("phase") not in ("Completed", "Ready"):
                yield f"{kind}/{body['metadata']['name']}: {json.dumps(status)[:600]}"
    warnings = _try("get", "events", "--field-selector=type=Warning", "--sort-by=.lastTimestamp", *_in(namespace))
    yield from warnings.splitlines()[-10:]


def _try(*args: str) -> str:
    try:
        return f"$ kubectl {' '.join(args)}\n{kubectl(*args)}"
    except KubectlError as error:
        return str(error)


def _in(namespace: str | None) -> list[str]:
    return ["--namespace", namespace] if namespace else []
