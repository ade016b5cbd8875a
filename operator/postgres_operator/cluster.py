"""The only file that talks to the API server. Objects are plain dicts; ApiException never leaves it.

Requests go through the client's generic `call_api`: a third of the CPU time of its typed methods.
"""

import json
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from . import names
from .decide.actions import Body
from .errors import AlreadyExists, ApiError, Conflict, Forbidden, Invalid, NotFound

_TIMEOUT_SECONDS = 15
_PAGE = 500
_MERGE = "application/merge-patch+json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


class Resource(NamedTuple):
    """Where the API server serves a kind."""

    prefix: str
    plural: str


_OWN = f"/apis/{names.API_VERSION}"
RESOURCES = {
    "Database": Resource(_OWN, "databases"),
    "Backup": Resource(_OWN, "backups"),
    "Restore": Resource(_OWN, "restores"),
    "BackupStore": Resource(_OWN, "backupstores"),
    "Job": Resource("/apis/batch/v1", "jobs"),
    "StatefulSet": Resource("/apis/apps/v1", "statefulsets"),
    "Service": Resource("/api/v1", "services"),
    "Secret": Resource("/api/v1", "secrets"),
    "PersistentVolumeClaim": Resource("/api/v1", "persistentvolumeclaims"),
    "Pod": Resource("/api/v1", "pods"),
    "Event": Resource("/api/v1", "events"),
}


class Cluster:
    """One connection pool to one API server."""

    def __init__(self, configuration: Configuration) -> None:
        # Without trust_env the client does not look for proxies and .netrc at each request.
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._client.user_agent = names.OPERATOR

    @classmethod
    async def connect(cls) -> "Cluster":
        """By the pod's service account, or by $KUBECONFIG outside a cluster."""
        configuration = Configuration()
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(client_configuration=configuration)
        return cls(configuration)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def create(self, kind: str, body: Body) -> Body:
        """Create the object; unknown fields are an error, not dropped."""
        path = _path(kind, body["metadata"]["namespace"]) + "?fieldValidation=Strict"
        return await self._request("POST", path, body)

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """The object as it is now; None where there is none."""
        try:
            return await self._request("GET", _path(kind, namespace, name))
        except NotFound:
            return None

    async def list(self, kind: str, namespace: str, **selectors: str) -> list[Body]:
        """The objects of a namespace; selectors are `labelSelector` and `fieldSelector`."""
        found = await self._request("GET", f"{_path(kind, namespace)}?{urlencode(selectors)}")
        items: list[Body] = found["items"]
        return items

    async def list_all(
        self, kind: str, namespace: str, label_selector: str, *, metadata_only: bool = False
    ) -> AsyncIterator[Body]:
        """All objects of a kind, page by page; in all namespaces where none is given."""
        query = {"limit": str(_PAGE), "labelSelector": label_selector}
        accept = _METADATA_ONLY if metadata_only else "application/json"
        while True:
            page = await self._request("GET", f"{_path(kind, namespace)}?{urlencode(query)}", accept=accept)
            for item in page["items"] or []:  # null where a list of metadata is empty
                yield item
            if not (more := page["metadata"].get("continue")):
                return
            query["continue"] = more

    async def set_status(self, kind: str, body: Body, status: Body) -> Body:
        """Replace the status of the object that was read as `body`.

        Raises:
            Conflict: It changed since.
            NotFound: It is gone.
        """
        meta = body["metadata"]
        # A merge patch leaves what it does not name: fields that are to go are named with null.
        gone = {key: None for key in body.get("status", {}) if key not in status}
        patch = {"metadata": {"resourceVersion": meta["resourceVersion"]}, "status": {**gone, **status}}
        path = _path(kind, meta["namespace"], meta["name"]) + "/status"
        return await self._request("PATCH", path, patch, content_type=_MERGE)

    async def replace(self, kind: str, body: Body) -> Body:
        """Put the object in the place of the version that `metadata.resourceVersion` names.

        Raises:
            Conflict: It changed since.
        """
        path = _path(kind, body["metadata"]["namespace"], body["metadata"]["name"]) + "?fieldValidation=Strict"
        return await self._request("PUT", path, body)

    async def delete(self, kind: str, namespace: str, name: str, uid: str, resource_version: str) -> None:
        """Delete exactly this version of this object, after what it owns; nothing happens where it has changed."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body = {"propagationPolicy": "Foreground", "preconditions": preconditions}
        try:
            await self._request("DELETE", _path(kind, namespace, name), body)
        except (NotFound, Conflict):
            return

    async def _request(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Body:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": names.OPERATOR}
        # Reads the service account's token again when it may have been rotated.
        if token := await self._configuration.get_api_key_with_prefix("BearerToken"):
            headers["Authorization"] = token
        url = self._configuration.host + path
        try:
            response = await self._client.call_api(method, url, headers, body, _request_timeout=_TIMEOUT_SECONDS)
            text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(f"{method} {path}: {type(error).__name__}: {error}") from error
        try:
            answer: Body = json.loads(text)
        except ValueError:  # plain text: "404 page not found" of a kind that is not served, a proxy on the way
            answer = {"message": text.decode(errors="replace")[:500]}
            if response.status < 400:
                raise ApiError(f"{method} {path}: the answer is no JSON: {answer['message']}") from None
        if response.status >= 400:
            raise _error(method, path, response.status, answer)
        return answer


def _path(kind: str, namespace: str, name: str = "") -> str:
    resource = RESOURCES[kind]
    parts = [resource.prefix]
    if namespace:
        parts.append(f"namespaces/{namespace}")
    parts.append(resource.plural)
    if name:
        parts.append(name)
    return "/".join(parts)


def _error(method: str, path: str, status: int, answer: Mapping[str, Any]) -> ApiError:
    reason, message = answer.get("reason", ""), f"{method} {path}: {status} {answer.get('message', '')}"
    kinds = {400: Invalid, 403: Forbidden, 404: NotFound, 409: Conflict, 422: Invalid}
    kind = AlreadyExists if reason == "AlreadyExists" else kinds.get(status, ApiError)
    return kind(message, status, reason)
