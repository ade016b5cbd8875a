"""As much of a Kubernetes client as setting up a cluster takes."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PATHS = {
    "Service": "services",
    "EndpointSlice": "endpointslices",
    "StorageClass": "storageclasses",
    "PersistentVolume": "persistentvolumes",
}


class Api:
    """One API server, reached with a token."""

    def __init__(self, server: str, token: str, ca: Path) -> None:
        self.server, self.token = server, token
        self._tls = ssl.create_default_context(cafile=str(ca))
        # the environment's proxy, if any, leads away from this machine
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)
        )

    def _open(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data, headers, method=method)  # noqa: S310 -- always https
        return self._opener.open(request, timeout=None if "watch=1" in path else 30)

    def get(self, path: str) -> dict[str, Any]:
        with self._open("GET", path) as response:
            found: dict[str, Any] = json.load(response)
            return found

    def patch(self, path: str, body: dict[str, Any]) -> None:
        """Merge patch; with a resourceVersion in it, a conflict is an HTTPError 409."""
        self._open("PATCH", path, body, "application/merge-patch+json").close()

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """The objects of all events until the server ends the watch, starting with what is there."""
        with self._open("GET", f"{path}?watch=1") as response:
            for line in response:
                yield json.loads(line)["object"]

    def apply(self, objects: list[dict[str, Any]]) -> None:
        """Create objects; those that exist are left alone."""
        for item in objects:
            version, kind = item["apiVersion"], _PATHS[item["kind"]]
            prefix = "/api/v1" if version == "v1" else f"/apis/{version}"
            namespace = item["metadata"].get("namespace")
            path = f"{prefix}/namespaces/{namespace}/{kind}" if namespace else f"{prefix}/{kind}"
            try:
                self._open("POST", path, item).close()
            except urllib.error.HTTPError as error:
                if error.code != 409:
                    raise RuntimeError(f"{path}: {error.read().decode()}") from error

    def ready(self) -> bool:
        try:
            self._open("GET", "/readyz").close()
        except OSError:  # refused, or answered with an error: URLError is an OSError
            return False
        return True
