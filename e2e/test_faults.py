"""What goes wrong with a Backup, on a volume and in an object store: it fails for its reason, leaves nothing under a
final name, and does no harm to the next one.

All tests share one namespace. What goes wrong with a server of objects happens to one of its own, at the same time.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from e2e import containers, fleet, kit
from e2e.object_store import ObjectStore, secret
from e2e.support import apply, fresh_namespace, get, kubectl, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from e2e.cluster import Cluster

# A dump that is looked at while it is written must not be over before: the little that there is takes half a minute so.
SLOW: dict[str, Any] = {"compression": {"method": "zstd", "level": 15}}

Strike = Callable[[str], AbstractContextManager[None]]  # takes the name of the Backup


class Place(Protocol):
    """What lies where Backups go to."""

    def objects(self) -> Iterable[str]:
        """All that has a final name."""

    def unfinished(self) -> list[str]:
        """What has none yet."""


@dataclass(frozen=True)
class Volume:
    """A claim with backups."""

    namespace: str
    claim: str

    def objects(self) -> list[str]:
        return [path for path in self._files() if "/" in path and not path.split("/")[1].startswith(".")]

    def unfinished(self) -> list[str]:
        return [path for path in self._files() if path.endswith(".partial")]

    def _files(self) -> list[str]:
        return kit.claim_files(self.namespace, self.claim)


@dataclass
class Case:
    """One thing that goes wrong with a Backup."""

    what: str
    store: str  # name of the BackupStore
    reason: str
    says: str  # in the message
    strike: Strike | None = None  # without: its store is wrong from the beginning
    # A pod that is killed does not tidy up, and a store that does not answer forgets no upload: that is no backup.
    may_leave: int = 0
    database: str = "big"
    spec: dict[str, Any] = field(default_factory=dict)
    seconds: float = field(default=0, init=False)
    left: int = field(default=0, init=False)
    message: str = field(default="", init=False)


class Scene:
    """A namespace with the Databases `big` and `victim`, and the BackupStores `pvc` and `s3`."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.server = ObjectStore(namespace)
        self.places: dict[str, Place] = {}
        self._victim = threading.Lock()  # whose server dies for one case only
        for name in ("big", "victim"):
            kit.create_database(namespace, name)
        self.add(self.server, "s3")
        self.add_volume("pvc")
        for name in ("big", "victim"):
            kit.wait_ready(namespace, name)
            kit.sql(namespace, kit.noise(80), name)

    def add(self, server: ObjectStore, name: str = "") -> ObjectStore:
        """A server of objects, and a BackupStore for it."""
        server.start()
        apply(server.backup_store(name or server.name), self.namespace)
        self.places[name or server.name] = server
        return server

    def add_volume(self, name: str, **claim: Any) -> None:
        """A claim, and a BackupStore for it."""
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}} | claim
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
        apply([body, kit.resource("BackupStore", name, {"pvc": {"claimName": name}})], self.namespace)
        self.places[name] = Volume(self.namespace, name)

    def place(self, store: str) -> Place:
        """Where that BackupStore has its backups; one that is wrong has none, but is about the server."""
        return self.places.get(store, self.server)

    def under_way(self, name: str, store: str) -> str:
        """The pod of a Backup that has begun to write, and does not end soon."""
        pod = kit.job_pod(self.namespace, "backup", name)
        place = self.place(store)
        if isinstance(place, ObjectStore):
            wait_for(place.unfinished, 120, f"the upload of {name} to begin", every=0.1)
        else:
            size = 'ls -s /backups/*/.*."$POD_UID".partial/dump.pgdump'  # not one that a killed pod has left
            look = ("exec", "-n", self.namespace, pod, "--", "sh", "-c", size)
            wait_for(lambda: int(kubectl(*look).split()[0]) > 1000, 120, f"the dump of {name} to grow", every=0.1)
        return pod

    def killing(self, store: str, container: str, program: str = "") -> Strike:
        """SIGKILL to what runs in the Backup's own pod."""

        def strike(name: str) -> AbstractContextManager[None]:
            containers.kill(self.namespace, self.under_way(name, store), container, program)
            return nullcontext()

        return strike

    def stopping_the_server(self, store: str) -> Strike:
        """The server of the database dies, and is started again."""

        def strike(name: str) -> AbstractContextManager[None]:
            self.under_way(name, store)
            containers.kill(self.namespace, "victim-0", "postgres")
            return nullcontext()

        return strike

    def evicting(self, store: str) -> Strike:
        """The pod uses more of the node's disk than it may: the kubelet ends it, when it notices that."""

        @contextmanager
        def strike(name: str) -> Iterator[None]:
            pod = self.under_way(name, store)
            hog = "exec dd if=/dev/zero of=/tmp/hog bs=1M count=64 2>/dev/null"
            with containers.stopped(self.namespace, pod, "dump", "pg_dump"):
                kubectl("exec", "-n", self.namespace, pod, "-c", "dump", "--", "sh", "-c", hog)
                yield

        return strike

    def ailing(self, server: ObjectStore, illness: Callable[[], AbstractContextManager[None]]) -> Strike:
        """The server of objects goes wrong, and stays so until the Backup has failed."""

        def strike(name: str) -> AbstractContextManager[None]:
            self.under_way(name, server.name)
            return illness()

        return strike

    def suffer(self, cases: list[Case]) -> None:
        """One after the other."""
        for case in cases:
            with self._victim if case.database == "victim" else nullcontext():
                self._suffer(case)

    def _suffer(self, case: Case) -> None:
        place = self.place(case.store)
        before, unfinished = sorted(place.objects()), len(place.unfinished())
        began = time.monotonic()
        ref = {"name": case.store}
        spec = case.spec | (SLOW if case.strike else {})
        name = kit.start_backup(self.namespace, database=case.database, storeRef=ref, **spec)
        with case.strike(name) if case.strike else nullcontext():
            case.message = kit.failed("backup", name, self.namespace, case.reason, deadline=240)
        case.seconds = time.monotonic() - began
        case.left = len(place.unfinished()) - unfinished
        assert case.says in case.message, (case.what, case.message)
        assert sorted(place.objects()) == before, f"{case.what}: there is something under a final name"
        assert case.left <= case.may_leave, f"{case.what}: something is left behind"
        if case.strike:
            kit.wait_ready(self.namespace, case.database)
            after = kit.start_backup(self.namespace, database=case.database, storeRef=ref)
            kit.completed("backup", after, self.namespace, deadline=240)


@pytest.fixture(scope="module")
def scene(operator: None, cluster: Cluster) -> Iterator[Scene]:  # noqa: ARG001 -- it runs
    if cluster.name == "existing":
        pytest.skip("processes are killed and stopped from the node, which a cluster of yours does not give away")
    with fresh_namespace(f"faults-{secrets.token_hex(3)}") as namespace:
        yield Scene(namespace)


def misconfigured(scene: Scene) -> list[Case]:
    server = scene.server
    wrong = server.credentials | {"AWS_SECRET_ACCESS_KEY": "f" * 40}
    stores = {
        "wrong-keys": {"credentialsSecretRef": {"name": "wrong-keys"}},
        "no-bucket": {"bucket": "nowhere"},
        "no-authority": {"caSecretRef": None},
        "no-host": {"endpoint": server.endpoint.replace("//s3.", "//nobody.")},
    }
    apply([secret("wrong-keys", wrong), *(server.backup_store(n, **c) for n, c in stores.items())], scene.namespace)
    return [
        Case("wrong credentials", "wrong-keys", "UploadFailed", "refuses the credentials"),
        Case("bucket missing", "no-bucket", "UploadFailed", "no such bucket"),
        Case("private authority not named", "no-authority", "UploadFailed", "TLS"),
        Case("no such host", "no-host", "UploadFailed", "cannot be reached"),
    ]


def struck(scene: Scene, store: str) -> list[Case]:
    """What can happen wherever the dump goes to."""
    little = {"resources": {"limits": {"ephemeral-storage": "16Mi"}}}
    alone = int(store == "pvc")  # the sidecar tidies up
    return [
        Case("pg_dump killed", store, "DumpFailed", "signal", scene.killing(store, "dump", "pg_dump")),
        Case("container of pg_dump killed", store, "DumpFailed", "signal", scene.killing(store, "dump"), alone),
        Case("server stopped", store, "DumpFailed", "", scene.stopping_the_server(store), database="victim"),
        Case("pod evicted", store, "Evicted", "ephemeral", scene.evicting(store), 1, spec=little),
    ]


@pytest.mark.timeout(1500)
def test_faults(scene: Scene, show: Callable[[str], None]) -> None:
    hung, broken, gone = (scene.add(ObjectStore(scene.namespace, name)) for name in ("hung", "broken", "gone"))
    scene.add(ObjectStore(scene.namespace, "full", room="24Mi"))
    scene.add_volume("small", storageClassName="tiny", resources={"requests": {"storage": "16Mi"}})
    fails, away = "answers with an error", "cannot be reached"
    rounds = [
        [Case("disk full", "small", "VolumeFull", "is full"), *struck(scene, "pvc")],
        [
            *misconfigured(scene),
            Case("rclone killed", "s3", "UploadFailed", "", scene.killing("s3", "upload", "rclone")),
            Case("container of rclone killed", "s3", "UploadFailed", "was killed", scene.killing("s3", "upload")),
            *struck(scene, "s3"),
            Case("disk full", "full", "UploadFailed", fails),
        ],
        [Case("server hangs", "hung", "UploadFailed", "did not answer", scene.ailing(hung, hung.hung), 1)],
        [Case("server answers 500", "broken", "UploadFailed", fails, scene.ailing(broken, broken.broken), 1)],
        [Case("server refuses connections", "gone", "UploadFailed", away, scene.ailing(gone, gone.gone), 1)],
    ]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(scene.suffer, rounds))
    finally:
        table = (
            f"{case.what:28} {case.store:12} {case.reason:13} {case.seconds:3.0f} s {case.left:4}  {case.message}"
            for cases in rounds
            for case in cases
        )
        show("\n".join([f"{'fault':28} {'store':12} {'reason':13} {'after':>5} {'left':>4}  message", *table]))


@pytest.mark.timeout(900)
@pytest.mark.alone  # nothing in a pod can be looked at meanwhile
def test_a_kubelet_that_is_restarted(scene: Scene) -> None:
    namespace = scene.namespace
    names = {
        store: kit.start_backup(namespace, database="big", storeRef={"name": store}, **SLOW) for store in ("pvc", "s3")
    }
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda store: scene.under_way(names[store], store), names))
    for name in names.values():
        assert (get("backup", name, namespace) or {})["status"]["phase"] == "InProgress", "its dump was over too soon"
    fleet.restart_kubelet()
    for store, name in names.items():
        status = kit.completed("backup", name, namespace, deadline=240)
        assert status["sizeBytes"] > 30_000_000, store
        assert scene.place(store).unfinished() == []
        kit.restore(namespace, "victim", backupRef={"name": name}, mode="Clean")
        assert kit.fingerprint(namespace, "victim") == kit.fingerprint(namespace, "big")
