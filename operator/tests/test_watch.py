import asyncio
import contextlib

import pytest
from fakes import FakeCluster, until
from support import ago, backup, complete, database, job_of, restore, store

from postgres_operator import names, watch
from postgres_operator.cache import Cache
from postgres_operator.errors import ApiError
from postgres_operator.queue import WorkQueue
from postgres_operator.watch import MANAGED_KINDS, OWN_KINDS, Watch

OURS = {names.MANAGED_BY: names.OPERATOR}


class Eyes:
    """A Watch with its cache and queue."""

    def __init__(self) -> None:
        self.cache, self.queue = Cache(), WorkQueue()
        self.watch = Watch(self.cache, self.queue)

    async def added(self) -> set:
        """The keys that were enqueued since the last call."""
        keys = set()
        while len(self.queue):
            key = await self.queue.get()
            keys.add(key)
            self.queue.done(key)
        return keys

    async def knows(self, *objects) -> None:
        for kind, body in objects:
            self.cache.put(kind, body)
        await self.added()


@pytest.fixture
def eyes() -> Eyes:
    return Eyes()


def server(owner_uid="uid-database-db", kind="StatefulSet", name="db", **meta):
    reference = {"apiVersion": names.API_VERSION, "kind": "Database", "name": "db", "uid": owner_uid}
    where = {"name": name, "namespace": "shop", "uid": f"uid-{kind}-{name}", "resourceVersion": "30", "labels": OURS}
    return {"kind": kind, "metadata": {**where, "ownerReferences": [reference], **meta}, "spec": {}, "status": {}}


def key(kind, name):
    return kind, "shop", name


WAITING = {"phase": "Pending"}
NIGHTLY, UNDO, DB = key("Backup", "nightly"), key("Restore", "undo"), key("Database", "db")


# --- which keys an object concerns


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        pytest.param("Database", database(), {DB}, id="database"),
        pytest.param("Backup", backup(), {NIGHTLY}, id="backup"),
        pytest.param("Restore", restore(), {UNDO}, id="restore"),
        pytest.param("BackupStore", store(), set(), id="a-store-has-no-key"),
        pytest.param("Job", job_of(backup(), active=1), {NIGHTLY}, id="job-of-a-backup"),
        pytest.param("Job", job_of(restore(), **complete()), {UNDO}, id="job-of-a-restore"),
        pytest.param("Job", job_of(backup(), "Reader"), {NIGHTLY}, id="reader"),
        pytest.param("Job", job_of(database(), "Verify"), {DB}, id="verification"),
        pytest.param("StatefulSet", server(), {DB}, id="server"),
        pytest.param("Service", server(kind="Service"), {DB}, id="service"),
    ],
)
async def test_the_key_of_an_object(eyes, kind, body, expected):
    eyes.watch.seen(kind, body)
    assert await eyes.added() == expected
    assert eyes.cache.get(kind, "shop", body["metadata"]["name"])["metadata"] == body["metadata"]


async def test_foreign_owners_concern_nobody(eyes):
    cron = job_of(backup())
    cron["metadata"]["ownerReferences"] = [
        {"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly", "uid": "u"},
        {"apiVersion": "other.example.com/v1", "kind": "Backup", "name": "nightly", "uid": "u"},
        {"apiVersion": names.API_VERSION, "kind": "BackupStore", "name": "nightly", "uid": "u"},
    ]
    eyes.watch.seen("Job", cron)
    del cron["metadata"]["ownerReferences"]
    eyes.watch.seen("Service", cron)
    assert await eyes.added() == set()


def waiting_things():
    return (
        ("Backup", backup("waits", status=WAITING)),
        ("Restore", restore("waits-too", status=WAITING)),
        ("Backup", backup("runs", status={"phase": "InProgress"})),
        ("Restore", restore("done", status={"phase": "Completed"})),
        ("Backup", backup("elsewhere", status=WAITING, namespace="other")),
    )


RESTORES = {key("Restore", "waits-too")}
WAITERS = {key("Backup", "waits"), *RESTORES}


def queued(reason):
    condition = {"type": "Complete", "status": "False", "reason": reason, "message": "m", "lastTransitionTime": ago(5)}
    return {"phase": "Pending", "conditions": [condition]}


def deleting(body):
    return {**body, "metadata": {**body["metadata"], "deletionTimestamp": ago(1)}}


@pytest.mark.parametrize(
    ("kind", "body", "deleted", "woken"),
    [
        pytest.param("Database", database(), False, WAITERS, id="database-becomes-ready"),
        pytest.param("BackupStore", store(), False, WAITERS, id="store-appears"),
        pytest.param("Backup", backup(), False, RESTORES, id="backup-appears"),
        pytest.param("Backup", backup(status={"phase": "Completed"}), False, RESTORES, id="backup-ends"),
        pytest.param("Restore", restore(), True, WAITERS, id="restore-is-gone"),
        pytest.param("Restore", restore(status=queued("ClaimNotFound")), False, WAITERS, id="restore-leaves-the-queue"),
        pytest.param("Restore", restore(status=queued("WaitingForSlot")), False, set(), id="restore-queues"),
        pytest.param("Restore", restore(status={"phase": "InProgress"}), False, set(), id="restore-begins"),
        pytest.param("Job", job_of(backup(), **complete()), False, RESTORES, id="job-of-a-backup-ends"),
        pytest.param("Job", job_of(restore(), **complete()), False, WAITERS, id="job-of-a-restore-ends"),
        pytest.param("Job", deleting(job_of(restore(), active=1)), True, WAITERS, id="job-is-gone"),
        pytest.param("Job", job_of(restore(), active=1), True, WAITERS, id="job-is-gone-without-notice"),
        pytest.param("Job", job_of(restore(), active=1), False, set(), id="job-runs"),
        pytest.param("Backup", backup(status={"phase": "InProgress"}), False, set(), id="backup-begins"),
        pytest.param("StatefulSet", server(), False, set(), id="server-changes"),
    ],
)
async def test_what_waits_is_woken_by_what_it_may_wait_for(eyes, kind, body, deleted, woken):
    await eyes.knows(*waiting_things(), *([(kind, body)] if deleted else []))
    eyes.watch.seen(kind, body, deleted=deleted)
    assert WAITERS & await eyes.added() == woken


async def test_only_waiters_of_the_namespace_are_woken(eyes):
    await eyes.knows(*waiting_things())
    eyes.watch.seen("Database", database())
    assert await eyes.added() == WAITERS | {DB}


# --- the cache


async def test_what_is_known_already_enqueues_nothing(eyes):
    eyes.watch.seen("Backup", backup(resourceVersion="10"))
    await eyes.added()
    eyes.watch.seen("Backup", backup(resourceVersion="10"))
    eyes.watch.seen("Backup", backup(resourceVersion="9"))
    assert await eyes.added() == set()
    eyes.watch.seen("Backup", backup(resourceVersion="11"))
    assert await eyes.added() == {NIGHTLY}


async def test_a_deletion_enqueues_and_forgets(eyes):
    body = job_of(backup(), active=1)
    await eyes.knows(("Job", body))
    eyes.watch.seen("Job", body, deleted=True)
    assert await eyes.added() == {NIGHTLY}
    assert eyes.cache.list("Job", "shop") == []


# --- the first listing


async def test_everything_is_known_before_anything_is_decided(eyes):
    cluster = FakeCluster(
        ("Database", database()),
        ("Backup", backup()),
        ("Backup", backup("far", namespace="other")),
        ("Job", job_of(backup())),
        ("StatefulSet", server()),
        ("StatefulSet", server(name="foreign", labels={})),
    )
    await eyes.watch.prime(cluster, [])
    assert await eyes.added() == {DB, NIGHTLY, ("Backup", "other", "far")}
    assert eyes.cache.get("Database", "shop", "db")["spec"] == {}
    assert eyes.cache.get("StatefulSet", "shop", "foreign") is None
    assert {r[0] for r in cluster.asked("list_all")} == {*OWN_KINDS, *MANAGED_KINDS}


async def test_only_the_given_namespaces_are_listed(eyes):
    cluster = FakeCluster(("Backup", backup()), ("Backup", backup(namespace="other")))
    await eyes.watch.prime(cluster, ["shop", "third"])
    assert await eyes.added() == {NIGHTLY}
    assert {r[1] for r in cluster.asked("list_all")} == {"shop", "third"}


# --- the relist: what a watch has lost


@pytest.fixture
async def primed(eyes) -> tuple[Eyes, FakeCluster]:
    cluster = FakeCluster(("Database", database()), ("Backup", backup()), ("Job", job_of(backup(), active=1)))
    await eyes.watch.prime(cluster, [])
    await eyes.added()
    cluster.requests.clear()
    return eyes, cluster


async def test_a_relist_of_what_is_known_does_nothing(primed):
    eyes, cluster = primed
    await eyes.watch.relist(cluster, [])
    assert await eyes.added() == set()
    assert cluster.asked("get") == []


async def test_a_relist_finds_what_was_created(primed):
    eyes, cluster = primed
    cluster.put("Restore", restore())
    await eyes.watch.relist(cluster, [])
    assert await eyes.added() == {UNDO}
    # Lists are metadata only; what is new is read in full.
    assert eyes.cache.get(*UNDO)["spec"]["databaseRef"] == {"name": "db"}
    assert cluster.asked("get") == [UNDO]


async def test_a_relist_finds_what_has_changed(primed):
    eyes, cluster = primed
    ended = job_of(backup(), **complete())
    ended["metadata"]["resourceVersion"] = "21"
    cluster.put("Job", ended)
    await eyes.watch.relist(cluster, [])
    assert await eyes.added() == {NIGHTLY}
    assert eyes.cache.get("Job", "shop", ended["metadata"]["name"])["status"] == complete()


async def test_a_relist_finds_what_has_vanished(primed):
    eyes, cluster = primed
    name = job_of(backup())["metadata"]["name"]
    cluster.delete("Job", "shop", name)
    await eyes.watch.relist(cluster, [])
    assert await eyes.added() == {NIGHTLY}
    assert eyes.cache.get("Job", "shop", name) is None


async def test_a_relist_finds_a_successor(primed):
    eyes, cluster = primed
    cluster.put("Backup", backup(uid="another", resourceVersion="40"))
    await eyes.watch.relist(cluster, [])
    assert await eyes.added() == {NIGHTLY}
    assert eyes.cache.get(*NIGHTLY)["metadata"]["uid"] == "another"


async def test_a_relist_of_one_namespace_forgets_what_was_deleted_there(eyes):
    cluster = FakeCluster(("Backup", backup()), ("Backup", backup("b", namespace="second")))
    await eyes.watch.prime(cluster, ["shop", "second"])
    await eyes.added()
    cluster.delete("Backup", "second", "b")
    await eyes.watch.relist(cluster, ["shop", "second"])
    assert await eyes.added() == {("Backup", "second", "b")}
    assert eyes.cache.get(*NIGHTLY)


@pytest.mark.parametrize("change", ["updated", "created"])
async def test_what_the_watch_brings_during_a_relist_is_not_forgotten(primed, change):
    """It is missing in a list that is older than it."""
    eyes, cluster = primed
    newer = backup(resourceVersion="50") if change == "updated" else backup("new", resourceVersion="50")
    if change == "updated":
        cluster.delete(*NIGHTLY)
    cluster.on_listed = lambda kind: eyes.watch.seen("Backup", newer) if kind == "Backup" else None
    await eyes.watch.relist(cluster, [])
    assert eyes.cache.get("Backup", "shop", newer["metadata"]["name"])["metadata"]["resourceVersion"] == "50"


async def test_a_list_that_breaks_off_deletes_nothing(primed):
    eyes, cluster = primed
    cluster.put("Backup", backup("z-last", resourceVersion="50"))
    await eyes.watch.relist(cluster, [])
    await eyes.added()
    cluster.failing = "Backup"
    with pytest.raises(ApiError):
        await eyes.watch.relist(cluster, [])
    assert eyes.cache.get(*NIGHTLY)
    assert eyes.cache.get("Backup", "shop", "z-last")
    assert await eyes.added() == set()


async def test_a_failed_relist_is_repeated(primed):
    eyes, cluster = primed
    cluster.put("Restore", restore())
    cluster.failing = "Backup"
    relisting = asyncio.create_task(eyes.watch.relist_forever(cluster, [], 0.001))
    await until(lambda: len(cluster.asked("list_all")) > 20)
    assert eyes.cache.get(*UNDO) is None
    cluster.failing = ""
    await until(lambda: eyes.cache.get(*UNDO) is not None)
    relisting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await relisting


# --- kopf


async def test_kopf_only_watches_and_every_kind_has_one_handler(eyes):
    handlers = eyes.watch.registry()._watching.get_all_handlers()
    assert len(handlers) == len({h.id for h in handlers}) == len(OWN_KINDS) + len(MANAGED_KINDS)
    registry = eyes.watch.registry()
    assert not list(registry._spawning.get_all_handlers())
    assert not list(registry._changing.get_all_handlers())
    assert not list(registry._indexing.get_all_handlers())


async def test_a_kopf_event_reaches_cache_and_queue(eyes):
    handlers = {h.id: h.fn for h in eyes.watch.registry()._watching.get_all_handlers()}
    await handlers["seen-backup"](type=None, body=backup())
    await handlers["seen-job"](type="ADDED", body=job_of(restore()))
    assert await eyes.added() == {NIGHTLY, UNDO}
    await handlers["seen-backup"](type="DELETED", body=backup())
    assert await eyes.added() == {NIGHTLY}
    assert eyes.cache.get(*NIGHTLY) is None


def test_kopf_writes_nothing_and_watches_only_what_is_ours():
    settings = watch.settings()
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True
    assert settings.queueing.idle_timeout > 0  # 0 spins
    assert list(settings.networking.error_backoffs) == list(settings.networking.error_backoffs) != []
    selectors = settings.watching.label_selectors
    assert {k.any_name for k in selectors} == {"jobs", "statefulsets", "services"}
    assert set(selectors.values()) == {"app.kubernetes.io/managed-by=postgres-operator"}
    for storage in (settings.persistence.diffbase_storage, settings.persistence.progress_storage):
        body = {"metadata": {"annotations": {"kopf.zalando.org/last-handled-configuration": "{}"}}}
        assert storage.fetch(body=body, key="x") is None
