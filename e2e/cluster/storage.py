"""Storage classes over a fixed pool of local volumes, which are emptied and used again.

`standard` (the default) are directories whose size is not enforced; `tiny` are
tmpfs mounts of 16 MiB, for tests that fill a disk.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import time
import urllib.error
from typing import TYPE_CHECKING, Any

from e2e.cluster.configs import NODE
from e2e.cluster.progress import run

if TYPE_CHECKING:
    from pathlib import Path

    from e2e.cluster.api import Api

STANDARD = 40
TINY = 4
_VOLUMES = "/api/v1/persistentvolumes"


def storage_class(name: str, *, default: bool = False) -> dict[str, Any]:
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Retain",
    }


def volume(name: str, class_name: str, size: str, path: str, node: str) -> dict[str, Any]:
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "storageClassName": class_name,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }


class Pool:
    """The volumes of a local cluster."""

    def __init__(self, work: Path, api: Api) -> None:
        self.work, self.api = work, api

    def create(self) -> None:
        objects = [storage_class("standard", default=True), storage_class("tiny")]
        for name, size in self._names().items():
            path = self._path(name)
            path.mkdir(parents=True)
            if name.startswith("tiny"):
                run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path])
            self._empty(path)
            objects.append(volume(name, name.split("-")[0], size, str(path), NODE))
        self.api.apply(objects)

    def recycle(self) -> None:
        """Empty released volumes and offer them again, for ever."""
        while True:
            # the watch ends now and then; what is wrong with it shows in the API server's log
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                for item in self.api.watch(_VOLUMES):
                    if item.get("status", {}).get("phase") == "Released":
                        self._recycle_one(item["metadata"]["name"])
            time.sleep(1)

    def _recycle_one(self, name: str) -> None:
        # Events repeat and come late: by now the volume may belong to a new claim.
        # While it is Released nobody can bind it, only this thread ends that.
        current = self.api.get(f"{_VOLUMES}/{name}")
        if current["status"]["phase"] != "Released" or name not in self._names():
            return
        self._empty(self._path(name))
        version = current["metadata"]["resourceVersion"]
        with contextlib.suppress(urllib.error.HTTPError):  # changed meanwhile: another event follows
            patch = {"metadata": {"resourceVersion": version}, "spec": {"claimRef": None}}
            self.api.patch(f"{_VOLUMES}/{name}", patch)

    @staticmethod
    def _names() -> dict[str, str]:
        sizes = {f"standard-{number}": "10Gi" for number in range(STANDARD)}
        return sizes | {f"tiny-{number}": "16Mi" for number in range(TINY)}

    def _path(self, name: str) -> Path:
        return self.work / "volumes" / name

    @staticmethod
    def _empty(path: Path) -> None:
        for entry in path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        # fsGroup left its mark; a new volume may be used by anybody, as with other provisioners
        shutil.chown(path, 0, 0)
        path.chmod(0o777)
