"""An API server for unit tests: it holds objects, answers reads, and notes what it was asked."""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping

from support import ago

from postgres_operator.decide.actions import Body
from postgres_operator.errors import AlreadyExists, ApiError, Conflict, NotFound


class FakeCluster:
    """The reading half of `cluster.Cluster`."""

    def __init__(self, *objects: tuple[str, Body]) -> None:
        self.objects: dict[tuple[str, str, str], Body] = {}
        self.requests: list[tuple[str, ...]] = []
        self.failing: str = ""  # a kind whose listing breaks off after its first object
        self.on_listed: Callable[[str], None] = lambda _: None  # called with a kind once it was listed
        for kind, body in objects:
            self.put(kind, body)

    def put(self, kind: str, body: Body) -> None:
        meta = body["metadata"]
        self.objects[kind, meta["namespace"], meta["name"]] = copy.deepcopy(body)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        del self.objects[kind, namespace, name]

    def asked(self, verb: str) -> list[tuple[str, ...]]:
        return [r[1:] for r in self.requests if r[0] == verb]

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        self.requests.append(("get", kind, namespace, name))
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def list(self, kind: str, namespace: str, **selectors: str) -> list[Body]:
        self.requests.append(("list", kind, namespace, *selectors.values()))
        return [copy.deepcopy(b) for (k, ns, _), b in self.objects.items() if (k, ns) == (kind, namespace)]

    async def list_all(
        self, kind: str, namespace: str, label_selector: str, *, metadata_only: bool = False
    ) -> AsyncIterator[Body]:
        self.requests.append(("list_all", kind, namespace, label_selector))
        wanted = dict(part.split("=") for part in label_selector.split(",") if part)
        for (known, where, _), body in list(self.objects.items()):
            labels = body["metadata"].get("labels", {})
            if known != kind or namespace not in ("", where) or wanted.items() - labels.items():
                continue
            yield copy.deepcopy({"metadata": body["metadata"]} if metadata_only else body)
            if kind == self.failing:
                raise ApiError(f"GET {kind}: connection lost")
        self.on_listed(kind)


class WritableCluster(FakeCluster):
    """Both halves, as far as the API server's rules about names and versions go."""

    def __init__(self, *objects: tuple[str, Body]) -> None:
        super().__init__(*objects)
        self.version = 1000
        self.refuses: dict[str, ApiError] = {}  # a kind, and why none of it is created

    def _write(self, kind: str, body: Body) -> Body:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.put(kind, body)
        return copy.deepcopy(body)

    def _read(self, kind: str, namespace: str, name: str, version: str) -> Body:
        known = self.objects.get((kind, namespace, name))
        if known is None:
            raise NotFound(f'{kind} "{name}" not found', 404)
        if known["metadata"]["resourceVersion"] != version:
            raise Conflict(f'{kind} "{name}" has been modified', 409)
        return copy.deepcopy(known)

    async def create(self, kind: str, body: Body) -> Body:
        meta = body["metadata"]
        self.requests.append(("create", kind, meta["namespace"], meta.get("name", "")))
        if error := self.refuses.get(kind):
            raise error
        if (kind, meta["namespace"], meta.get("name")) in self.objects:
            raise AlreadyExists(f'{kind} "{meta["name"]}" already exists', 409)
        self.version += 1
        made = {
            "name": f"{kind.lower()}-{self.version}",
            "uid": f"uid-{self.version}",
            "creationTimestamp": ago(0),
            **meta,
        }
        return self._write(kind, {**copy.deepcopy(body), "metadata": made})

    async def set_status(self, kind: str, body: Body, status: Body) -> Body:
        meta = body["metadata"]
        self.requests.append(("set_status", kind, meta["namespace"], meta["name"]))
        known = self._read(kind, meta["namespace"], meta["name"], meta["resourceVersion"])
        return self._write(kind, {**known, "status": copy.deepcopy(status)})

    async def patch(self, kind: str, namespace: str, name: str, resource_version: str, change: Body) -> Body:
        self.requests.append(("patch", kind, namespace, name))
        known = self._read(kind, namespace, name, resource_version)
        return self._write(kind, _merged(known, change))


def _merged(body: Body, change: Mapping) -> Body:
    """A JSON merge patch."""
    merged = {**body, **{k: _merged(body.get(k, {}), v) if isinstance(v, Mapping) else v for k, v in change.items()}}
    return {k: v for k, v in merged.items() if v is not None}


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Let the event loop turn until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0)


async def settle(turns: int = 20) -> None:
    """Let everything that is ready to run do so."""
    for _ in range(turns):
        await asyncio.sleep(0)
