"""What the watches have seen, by kind, namespace and name; no request of ours reads what is here."""

from collections import defaultdict
from collections.abc import Iterator

from .decide.actions import Body
from .decide.jobs import ended

Key = tuple[str, str, str]  # kind, namespace, name


class Cache:
    """The newest known version of each object."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], dict[str, Body]] = defaultdict(dict)
        self.unfinished: dict[Key, Body] = {}  # Jobs, of which most have ended long ago

    def put(self, kind: str, body: Body) -> bool:
        """Keep the object unless this version of it, or a newer one, is here; returns whether it was kept.

        Answers to our own writes come here too, so that the next decision does not rest on what was before them.
        """
        meta = body["metadata"]
        known = self._objects[kind, meta["namespace"]].get(meta["name"])
        if known and version(known) >= version(body):
            return False
        # Of Jobs there are many, and each one's spec has the scripts that it runs; no decision looks at it.
        kept = ("status",) if kind == "Job" else ("spec", "status")
        slim = {k: v for k, v in body.items() if k in kept}
        slim["metadata"] = {k: v for k, v in meta.items() if k != "managedFields"}
        self._objects[kind, meta["namespace"]][meta["name"]] = slim
        if kind == "Job":
            key = kind, meta["namespace"], meta["name"]
            if ended(slim):
                self.unfinished.pop(key, None)
            else:
                self.unfinished[key] = slim
        return True

    def remove(self, kind: str, body: Body) -> None:
        """The object is gone; another one that took its name stays."""
        meta = body["metadata"]
        known = self._objects[kind, meta["namespace"]].get(meta["name"])
        if known and known["metadata"]["uid"] == meta["uid"]:
            del self._objects[kind, meta["namespace"]][meta["name"]]
            self.unfinished.pop((kind, meta["namespace"], meta["name"]), None)

    def rewind(self, kind: str, known: Body | None, fresh: Body) -> None:
        """Forget what was known before `fresh` was read, if that is older: versions go back when etcd is restored."""
        meta = fresh["metadata"]
        if known and version(known) > version(fresh) and self.get(kind, meta["namespace"], meta["name"]) is known:
            self.remove(kind, known)

    def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """The object, if it is known."""
        return self._objects[kind, namespace].get(name)

    def list(self, kind: str, namespace: str) -> list[Body]:
        """The objects of a namespace."""
        return list(self._objects[kind, namespace].values())

    def keys(self, kind: str) -> Iterator[Key]:
        """The keys of all objects of a kind; also for other threads than the one that changes the cache."""
        for known, namespace in list(self._objects):  # a list of keys is made in one go, one of items is not
            if known == kind:
                for name in list(self._objects[known, namespace]):
                    yield kind, namespace, name


def version(body: Body) -> int:
    """How new it is, among all objects of its kind."""
    # Resource versions of one kind are comparable numbers (guaranteed since Kubernetes 1.35, true before), also those
    # of an object and of its successor of the same name.
    text = body["metadata"].get("resourceVersion", "0")
    return int(text) if text.isdigit() else 0
