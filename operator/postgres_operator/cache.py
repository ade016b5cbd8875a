"""What the watches have seen, by kind, namespace and name; no request of ours reads what is here."""

from collections import defaultdict
from collections.abc import Iterator

from .decide.actions import Body

Key = tuple[str, str, str]  # kind, namespace, name


class Cache:
    """The newest known version of each object."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], dict[str, Body]] = defaultdict(dict)

    def put(self, kind: str, body: Body) -> bool:
        """Keep the object unless this version of it, or a newer one, is here; returns whether it was kept.

        Answers to our own writes come here too, so that the next decision does not rest on what was before them.
        """
        meta = body["metadata"]
        known = self._objects[kind, meta["namespace"]].get(meta["name"])
        if known and _version(known) >= _version(body):
            return False
        slim = {k: v for k, v in body.items() if k in ("spec", "status")}
        slim["metadata"] = {k: v for k, v in meta.items() if k != "managedFields"}
        self._objects[kind, meta["namespace"]][meta["name"]] = slim
        return True

    def remove(self, kind: str, body: Body) -> None:
        """The object is gone; another one that took its name stays."""
        meta = body["metadata"]
        known = self._objects[kind, meta["namespace"]].get(meta["name"])
        if known and known["metadata"]["uid"] == meta["uid"]:
            del self._objects[kind, meta["namespace"]][meta["name"]]

    def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """The object, if it is known."""
        return self._objects[kind, namespace].get(name)

    def list(self, kind: str, namespace: str) -> list[Body]:
        """The objects of a namespace."""
        return list(self._objects[kind, namespace].values())

    def keys(self, kind: str) -> Iterator[Key]:
        """The keys of all objects of a kind."""
        for (known, namespace), objects in list(self._objects.items()):
            if known == kind:
                for name in list(objects):
                    yield kind, namespace, name


def _version(body: Body) -> int:
    # Resource versions of one kind are comparable numbers (guaranteed since Kubernetes 1.35, true before), also those
    # of an object and of its successor of the same name.
    version = body["metadata"].get("resourceVersion", "0")
    return int(version) if version.isdigit() else 0
