import asyncio
import contextlib
import itertools

import pytest
from fakes import FakeCluster, until
from prometheus_client import REGISTRY
from support import ago, backup, complete, database, failed_job, job_of, restore, schedule, store

from postgres_operator import names, watch
from postgres_operator.cache import Cache
from postgres_operator.errors import ApiError
from postgres_operator.queue import WorkQueue
from postgres_operator.watch import MANAGED_KINDS, OWN_KINDS, Watch

OURS = {names.MANAGED_BY: names.OPERATOR}


class Told:
    """Stands for Freshness, and notes what it is told: kind, name and version."""

    def __init__(self) -> None:
        self.has_confirmed: list[tuple[str, str, str]] = []
        self.has_shown: list[tuple[str, str, str]] = []
        self.has_gone: list[tuple[str, str, str]] = []

    def confirmed(self, kind, body) -> None:
        self.has_confirmed.append((kind, body["metadata"]["name"], body["metadata"]["resourceVersion"]))

    def shown(self, kind, body) -> None:
        self.has_shown.append((kind, body["metadata"]["name"], body["metadata"]["resourceVersion"]))

    def gone(self, kind, body) -> None:
        self.has_gone.append((kind, body["metadata"]["name"], body["metadata"]["resourceVersion"]))


class Eyes:
    """A Watch with its cache, queue and freshness."""

    def __init__(self) -> None:
        self.cache, self.queue, self.freshness = Cache(), WorkQueue(), Told()
        self.watch = Watch(self.cache, self.queue, self.freshness)

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
def standby() -> Eyes:
    return Eyes()


@pytest.fixture
def eyes() -> Eyes:
    """Of a leader."""
    leader = Eyes()
    leader.watch.lead()
    return leader


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
        pytest.param("BackupStore", store(), {key("BackupStore", "default")}, id="store"),
        pytest.param("ScheduledBackup", schedule(), {key("ScheduledBackup", "nightly")}, id="schedule"),
        pytest.param(
            "Backup",
            backup(labels={names.LABEL_SCHEDULE: "hourly"}),
            {NIGHTLY, key("ScheduledBackup", "hourly")},
            id="backup-of-a-schedule",
        ),
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
        {"apiVersion": names.API_VERSION, "kind": "Something", "name": "nightly", "uid": "u"},
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
        pytest.param("Job", job_of(database(), "Verify", **complete()), False, set(), id="check-ends"),
        pytest.param("Job", job_of(database(), "Verify", **failed_job()), False, set(), id="check-fails"),
        pytest.param("Job", job_of(database(), "Verify", **complete()), True, set(), id="check-is-gone"),
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


@pytest.mark.usefixtures("at_once")
async def test_filling_the_cache_is_repeated_while_the_api_server_is_away(eyes):
    cluster = FakeCluster(("Backup", backup()))
    cluster.failing = "Backup"
    priming = asyncio.create_task(eyes.watch.prime(cluster, []))
    await until(lambda: len(cluster.asked("list_all")) > 3 * len(OWN_KINDS))
    cluster.failing = ""
    await asyncio.wait_for(priming, 5)
    assert {r[0] for r in cluster.asked("list_all")} == {*OWN_KINDS, *MANAGED_KINDS}


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


async def test_a_relist_finds_what_went_back_when_etcd_was_restored(primed):
    eyes, cluster = primed
    eyes.cache.put("Backup", backup(resourceVersion="5000"))
    await eyes.watch.relist(cluster, [])
    assert eyes.cache.get(*NIGHTLY)["metadata"]["resourceVersion"] == "10"
    assert NIGHTLY in await eyes.added()


async def test_a_relist_finds_what_has_vanished(primed):
    eyes, cluster = primed
    name = job_of(backup())["metadata"]["name"]
    cluster.delete("Job", "shop", name)
    await eyes.watch.relist(cluster, [])
    assert await eyes.added() == {NIGHTLY}
    assert eyes.cache.get("Job", "shop", name) is None
    assert [kind for kind, _, _ in eyes.freshness.has_gone] == ["Job"]


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


# --- what our own requests bring


async def test_the_answer_to_a_write_reaches_cache_and_queue_and_is_awaited(eyes):
    eyes.watch.learned("Backup", backup(resourceVersion="11"))
    assert await eyes.added() == {NIGHTLY}
    assert eyes.cache.get(*NIGHTLY)["metadata"]["resourceVersion"] == "11"
    assert eyes.freshness.has_confirmed == [("Backup", "nightly", "11")]
    assert eyes.freshness.has_shown == []


FOREIGN = {names.MANAGED_BY: "Helm"}


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        pytest.param("Database", database(), True, id="database"),
        pytest.param("Backup", backup(), True, id="backup"),
        pytest.param("Restore", restore(), True, id="restore"),
        pytest.param("BackupStore", store(), True, id="store"),
        pytest.param("Backup", backup(labels=FOREIGN), True, id="backup-with-labels-of-somebody"),
        pytest.param("Job", job_of(backup()), True, id="our-job"),
        pytest.param("StatefulSet", server(), True, id="our-server"),
        pytest.param("Service", server(kind="Service"), True, id="our-service"),
        pytest.param("StatefulSet", server(labels=FOREIGN), False, id="somebody-elses-server"),
        pytest.param("StatefulSet", server(labels={}), False, id="a-server-that-lost-our-label"),
        pytest.param("Service", {**server(), "metadata": backup()["metadata"]}, False, id="no-labels-at-all"),
    ],
)
async def test_only_what_is_watched_is_awaited(eyes, kind, body, expected):
    eyes.watch.learned(kind, body)
    assert bool(eyes.freshness.has_confirmed) is expected
    assert eyes.cache.get(kind, "shop", body["metadata"]["name"])


async def test_what_a_watch_or_a_list_brings_is_not_awaited(eyes):
    eyes.watch.seen("Backup", backup())
    await eyes.watch.prime(FakeCluster(("Database", database())), [])
    assert eyes.freshness.has_confirmed == []


async def test_what_a_relist_finds_is_awaited(primed):
    eyes, cluster = primed
    cluster.put("Restore", restore())
    await eyes.watch.relist(cluster, [])
    assert eyes.freshness.has_confirmed == [("Restore", "undo", "10")]


# --- a new leader


def finished(kind="backup", result="complete") -> float:
    """Jobs counted until now."""
    labels = {"kind": kind, "result": result}
    return REGISTRY.get_sample_value("postgres_operator_jobs_finished_total", labels) or 0


@pytest.fixture
def at_once(monkeypatch) -> None:
    """A relist that failed is repeated without a pause."""
    monkeypatch.setattr(watch, "_RELIST_AGAIN_SECONDS", 0)


@pytest.fixture
async def leader(primed) -> tuple[Eyes, FakeCluster]:
    """Of a cluster with a Database, a Backup and its Job, which runs."""
    eyes, cluster = primed
    await eyes.watch.take_over(cluster, [])
    return eyes, cluster


def next_version(body, number=21):
    return {**body, "metadata": {**body["metadata"], "resourceVersion": str(number)}}


async def test_a_new_leader_sees_what_the_last_one_did(primed):
    eyes, cluster = primed
    cluster.put("Backup", backup(status={"phase": "InProgress"}, resourceVersion="11"))
    cluster.put("Restore", restore())
    cluster.delete("Job", "shop", job_of(backup())["metadata"]["name"])
    await eyes.watch.take_over(cluster, [])
    assert eyes.cache.get(*NIGHTLY)["status"] == {"phase": "InProgress"}
    assert await eyes.added() == {DB, NIGHTLY, UNDO}, "all there is: what was to be done is not known"
    assert eyes.cache.list("Job", "shop") == []


async def test_a_new_leader_begins_with_what_waits_longest(warm):
    """So that the oldest gets the first slot; Restores before all Backups."""
    eyes, cluster = warm
    cluster.put("Backup", backup("a-new", creationTimestamp=ago(1)))
    cluster.put("Backup", backup("z-old", creationTimestamp=ago(99)))
    cluster.put("Restore", restore(creationTimestamp=ago(1)))
    await eyes.watch.take_over(cluster, [])
    order = [await eyes.queue.get() for _ in range(len(eyes.queue))]
    assert [name for _, _, name in order] == ["db", "undo", "z-old", "nightly", "a-new"]


async def test_a_new_leader_looks_at_its_namespaces_only(primed):
    eyes, cluster = primed
    await eyes.watch.take_over(cluster, ["shop", "third"])
    assert {r[1] for r in cluster.asked("list_all")} == {"shop", "third"}


@pytest.mark.usefixtures("at_once")
async def test_a_new_leader_goes_on_only_when_it_has_seen_everything(primed):
    eyes, cluster = primed
    cluster.put("Restore", restore())
    cluster.failing = "Backup"
    taking_over = asyncio.create_task(eyes.watch.take_over(cluster, []))
    await until(lambda: len(cluster.asked("list_all")) > 5 * len(OWN_KINDS))
    assert not taking_over.done()
    cluster.failing = ""
    await asyncio.wait_for(taking_over, 5)
    assert eyes.cache.get(*UNDO)


async def test_a_new_leader_that_meets_a_bug_says_so(primed):
    eyes, cluster = primed
    cluster.on_listed = lambda kind: {}[kind]
    with pytest.raises(KeyError):
        await eyes.watch.take_over(cluster, [])


# --- Jobs that end


@pytest.mark.parametrize(
    ("owner", "status", "labels"),
    [
        pytest.param(backup(), complete(), ("backup", "complete"), id="backup-complete"),
        pytest.param(backup(), failed_job(), ("backup", "failed"), id="backup-failed"),
        pytest.param(restore(), complete(), ("restore", "complete"), id="restore-complete"),
        pytest.param(database(), failed_job(), ("database", "failed"), id="verification-failed"),
    ],
)
async def test_the_leader_counts_a_job_that_ends_once(leader, owner, status, labels):
    eyes, _ = leader
    eyes.watch.seen("Job", next_version(job_of(owner, active=1), 30))
    before = finished(*labels)
    ended = next_version(job_of(owner, **status), 31)
    eyes.watch.seen("Job", ended)
    eyes.watch.learned("Job", ended)
    eyes.watch.seen("Job", next_version(ended, 32))
    eyes.watch.seen("Job", next_version(ended, 33), deleted=True)
    assert finished(*labels) == before + 1


@pytest.mark.parametrize("brought_by", ["answer", "relist", "deletion"])
async def test_the_leader_counts_a_job_whose_end_the_watch_did_not_show(leader, brought_by):
    eyes, cluster = leader
    before, ended = finished(), next_version(job_of(backup(), **complete()))
    if brought_by == "answer":
        eyes.watch.learned("Job", ended)
    elif brought_by == "relist":
        cluster.put("Job", ended)
        await eyes.watch.relist(cluster, [])
    else:
        eyes.watch.seen("Job", ended, deleted=True)
    assert finished() == before + 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(next_version(job_of(backup(), active=1)), id="goes-on"),
        pytest.param(next_version(job_of(backup("other"), **complete())), id="was-never-seen-running"),
    ],
)
async def test_the_leader_does_not_count_a_job_that(leader, body):
    eyes, _ = leader
    before = finished()
    eyes.watch.seen("Job", body)
    assert finished() == before


async def test_a_running_job_that_is_deleted_is_not_counted(leader):
    eyes, _ = leader
    before = finished(), finished(result="failed")
    eyes.watch.seen("Job", next_version(job_of(backup(), active=1)), deleted=True)
    assert (finished(), finished(result="failed")) == before


@pytest.fixture
async def warm(standby) -> tuple[Eyes, FakeCluster]:
    """A standby that knows what there is."""
    cluster = FakeCluster(("Database", database()), ("Backup", backup()), ("Job", job_of(backup(), active=1)))
    await standby.watch.prime(cluster, [])
    cluster.requests.clear()
    return standby, cluster


async def test_a_standby_keeps_its_cache_and_does_nothing_else(warm):
    eyes, _ = warm
    before = finished()
    ended = next_version(job_of(backup(), **complete()))
    eyes.watch.seen("Job", ended)
    eyes.watch.seen("Restore", restore())
    assert eyes.cache.get("Job", "shop", ended["metadata"]["name"])["status"] == ended["status"]
    assert await eyes.added() == set()
    assert finished() == before


async def test_what_a_standby_has_seen_is_worked_on_once_it_leads(warm):
    eyes, cluster = warm
    cluster.put("Restore", restore())
    eyes.watch.seen("Restore", restore())
    await eyes.watch.take_over(cluster, [])
    assert await eyes.added() == {DB, NIGHTLY, UNDO}


@pytest.mark.usefixtures("at_once")
async def test_a_replica_counts_only_once_it_has_taken_over(warm):
    eyes, cluster = warm
    cluster.failing = "Restore"
    cluster.put("Restore", restore())
    taking_over = asyncio.create_task(eyes.watch.take_over(cluster, []))
    await until(lambda: len(cluster.asked("list_all")) > len(OWN_KINDS))
    before = finished()
    eyes.watch.seen("Job", next_version(job_of(backup(), **complete())))
    assert finished() == before
    cluster.failing = ""
    cluster.put("Job", next_version(job_of(backup(), **complete())))
    await asyncio.wait_for(taking_over, 5)
    eyes.watch.seen("Job", next_version(job_of(restore(), active=1), 30))
    before = finished("restore")
    eyes.watch.seen("Job", next_version(job_of(restore(), **complete()), 31))
    assert finished("restore") == before + 1


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


@pytest.mark.parametrize("type_", [None, "ADDED", "MODIFIED", "DELETED"])
@pytest.mark.parametrize("known", ["unknown-yet", "known", "newer-known"])
async def test_whatever_kopf_brings_has_been_shown(eyes, type_, known):
    """Also what the answer to a write has brought before."""
    if known != "unknown-yet":
        await eyes.knows(("Backup", backup(resourceVersion="10" if known == "known" else "12")))
    handlers = {h.id: h.fn for h in eyes.watch.registry()._watching.get_all_handlers()}
    await handlers["seen-backup"](type=type_, body=backup(resourceVersion="10"))
    assert eyes.freshness.has_shown == [("Backup", "nightly", "10")]
    assert eyes.freshness.has_confirmed == []


@pytest.mark.parametrize("kind", [*OWN_KINDS, *MANAGED_KINDS])
async def test_every_handler_shows_its_own_kind(eyes, kind):
    handlers = {h.id: h.fn for h in eyes.watch.registry()._watching.get_all_handlers()}
    await handlers[f"seen-{kind.lower()}"](type=None, body=server(kind=kind, creationTimestamp=ago(5)))
    assert eyes.freshness.has_shown == [(kind, "db", "30")]


def test_kopf_writes_nothing_and_watches_only_what_is_ours():
    settings = watch.settings()
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True
    assert settings.queueing.idle_timeout > 0  # 0 spins
    for _ in range(2):  # anew each time, and without an end
        backoffs = list(itertools.islice(settings.networking.error_backoffs, 100))
        assert len(backoffs) == 100
        assert (min(backoffs), max(backoffs)) == (0.5, 15)
    assert settings.networking.request_timeout <= 60
    selectors = settings.watching.label_selectors
    assert {k.any_name for k in selectors} == {"jobs", "statefulsets", "services"}
    assert set(selectors.values()) == {"app.kubernetes.io/managed-by=postgres-operator"}
    for storage in (settings.persistence.diffbase_storage, settings.persistence.progress_storage):
        body = {"metadata": {"annotations": {"kopf.zalando.org/last-handled-configuration": "{}"}}}
        assert storage.fetch(body=body, key="x") is None
