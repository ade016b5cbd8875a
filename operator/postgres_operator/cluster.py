"""The only file that talks to the API server. Objects are plain dicts; ApiException never leaves it.

Requests go through the client's generic `call_api`: a third of the CPU time of its typed methods.
"""

import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.rest import RESTResponse

from . import metrics, names
from .decide.actions import Body
from .errors import AlreadyExists, ApiError, Conflict, Forbidden, Invalid, NotFound

_TIMEOUT_SECONDS = 15.0
_WATCH_SECONDS = 300
# Objects that a list has in memory at once: whole ones, of which a Job has 40 KB of scripts, or metadata alone.
PAGE = 100
_PAGE_OF_METADATA = 500
_MERGE = "application/merge-patch+json"
_UNANSWERED = (aiohttp.ClientError, TimeoutError, OSError)
_AWAY = ("error", "502", "503", "504")  # nobody answered, or a proxy for it
# A policy that does not say otherwise denies by a 422, and a webhook by a 400, as if the object were at fault; each may
# take any other code. A webhook that does not answer is a 500, and nothing is stored without it.
_DENIED = re.compile('(ValidatingAdmissionPolicy|admission webhook) .* denied (the )?request|failed calling webhook "')
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
    "ScheduledBackup": Resource(_OWN, "scheduledbackups"),
    "Job": Resource("/apis/batch/v1", "jobs"),
    "StatefulSet": Resource("/apis/apps/v1", "statefulsets"),
    "Service": Resource("/api/v1", "services"),
    "Secret": Resource("/api/v1", "secrets"),
    "PersistentVolumeClaim": Resource("/api/v1", "persistentvolumeclaims"),
    "Pod": Resource("/api/v1", "pods"),
    "Event": Resource("/api/v1", "events"),
    "Lease": Resource("/apis/coordination.k8s.io/v1", "leases"),
}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Cluster:
    """One connection pool to one API server.

    Args:
        agent: User-Agent, by which the API server's audit log tells replicas apart.
        write: Entered around each write, which it may refuse.
        contact: Told after each request whether the API server answered it.
        timeout: Seconds that a request may take.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        agent: str = names.OPERATOR,
        write: Callable[[], AbstractContextManager[None]] = nullcontext,
        contact: Callable[[bool], None] = lambda _: None,
        timeout: float = _TIMEOUT_SECONDS,
    ) -> None:
        # Without trust_env the client does not look for proxies and .netrc at each request.
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self.agent = agent
        self._write, self._contact, self._timeout = write, contact, timeout

    @classmethod
    async def connect(cls, **options: Any) -> "Cluster":
        """By the pod's service account, or by $KUBECONFIG outside a cluster; options are those of the class."""
        configuration = Configuration()
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(client_configuration=configuration)
        return cls(configuration, **options)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def create(self, kind: str, body: Body, *, dry_run: bool = False) -> Body:
        """Create the object; unknown fields are an error, not dropped. A dry run only asks whether it may be there."""
        path = _path(kind, body["metadata"]["namespace"]) + "?fieldValidation=Strict"
        return await self._request("POST", path + ("&dryRun=All" if dry_run else ""), body)

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
        limit = _PAGE_OF_METADATA if metadata_only else PAGE
        query = {"limit": str(limit), "labelSelector": label_selector}
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

    async def patch(
        self, kind: str, namespace: str, name: str, resource_version: str, change: Mapping[str, Any]
    ) -> Body:
        """Merge this into exactly that version of an object, its status aside.

        Raises:
            Conflict: It changed since.
            NotFound: It is gone.
        """
        metadata = {**change.get("metadata", {}), "resourceVersion": resource_version}
        path = _path(kind, namespace, name) + "?fieldValidation=Strict"
        return await self._request("PATCH", path, {**change, "metadata": metadata}, content_type=_MERGE)

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

    async def watch(self, kind: str, namespace: str, name: str) -> AsyncGenerator[Body, None]:
        """The object as it is and at each change, until it is deleted or the API server ends the watch."""
        query = {"watch": "1", "fieldSelector": f"metadata.name={name}", "timeoutSeconds": str(_WATCH_SECONDS)}
        path = f"{_path(kind, namespace)}?{urlencode(query)}"
        unlimited = aiohttp.ClientTimeout(sock_connect=self._timeout)
        response = await self._send("watch", "GET", path, timeout=unlimited)
        try:
            if response.status >= 400:
                _read("GET", path, response.status, await response.read())
            async for line in response.response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise _error("GET", path, event["object"].get("code", 500), event["object"])
                if event["type"] == "DELETED":
                    return
                yield event["object"]
        except (*_UNANSWERED, ValueError) as error:  # also a line that breaks off
            raise _unanswered("GET", path, error) from error
        finally:
            response.response.close()

    async def _request(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Body:
        verb = _VERBS.get(method, "list" if "?" in path else "get")
        with nullcontext() if method == "GET" else self._write():
            response = await self._send(verb, method, path, body, content_type, accept)
            try:
                text = await response.read()
            except _UNANSWERED as error:
                raise _unanswered(method, path, error) from error
        return _read(method, path, response.status, text)

    async def _send(
        self,
        verb: str,
        method: str,
        path: str,
        body: Body | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        *,
        timeout: aiohttp.ClientTimeout | None = None,  # noqa: ASYNC109 - the connection's own, to be passed on
    ) -> RESTResponse:
        """The answer, of which the head has been read; each one is counted."""
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": self.agent}
        code = "error"
        try:
            # Reads the service account's token again when it may have been rotated.
            if token := await self._configuration.get_api_key_with_prefix("BearerToken"):
                headers["Authorization"] = token
            url = self._configuration.host + path
            limit = timeout or self._timeout
            response = await self._client.call_api(method, url, headers, body, _request_timeout=limit)
            code = str(response.status)
        except _UNANSWERED as error:
            raise _unanswered(method, path, error) from error
        finally:
            metrics.API_REQUESTS.labels(verb, code).inc()
            self._contact(code not in _AWAY)
        return response


def _path(kind: str, namespace: str, name: str = "") -> str:
    resource = RESOURCES[kind]
    parts = [resource.prefix]
    if namespace:
        parts.append(f"namespaces/{namespace}")
    parts.append(resource.plural)
    if name:
        parts.append(name)
    return "/".join(parts)


def _unanswered(method: str, path: str, error: Exception) -> ApiError:
    return ApiError(f"{method} {path}: {type(error).__name__}: {error}")


def _read(method: str, path: str, status: int, text: bytes) -> Body:
    """The object in an answer; raises what an error stands for."""
    try:
        answer: Body = json.loads(text)
    except ValueError:  # plain text: "404 page not found" of a kind that is not served, a proxy on the way
        answer = {"message": text.decode(errors="replace")[:500]}
        if status < 400:
            raise ApiError(f"{method} {path}: the answer is no JSON: {answer['message']}") from None
    if status >= 400:
        raise _error(method, path, status, answer)
    return answer


def _error(method: str, path: str, status: int, answer: Mapping[str, Any]) -> ApiError:
    reason, message = answer.get("reason", ""), f"{method} {path}: {status} {answer.get('message', '')}"
    kinds = {400: Invalid, 403: Forbidden, 404: NotFound, 409: Conflict, 422: Invalid}
    kind = AlreadyExists if reason == "AlreadyExists" else kinds.get(status, ApiError)
    if _DENIED.search(message):
        kind = Forbidden
    return kind(message, status, reason)
