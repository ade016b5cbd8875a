from datetime import timedelta

import pytest
from fakes import FakeCluster
from support import NOW, ago, backup, complete, database, failed_job, job_of, pod, resource, restore, s3_store, store

from postgres_operator import names
from postgres_operator.api.backup import Backup
from postgres_operator.api.database import Database
from postgres_operator.api.restore import Restore
from postgres_operator.cache import Cache
from postgres_operator.decide import server
from postgres_operator.decide.actions import Ask, CreateClaim, CreateJob, DeleteJob, Fact, Nothing, SetStatus
from postgres_operator.decide.run import Policy
from postgres_operator.exclusion import Start
from postgres_operator.facts import Claims, DatabaseFinder, RunFinder, VerificationFinder

POLICY = Policy({"accessModes": ["ReadWriteOnce"]})
DONE = {"phase": "Completed", "backupLocation": "pvc://vault/db/nightly-1", "checksum": "sha256:" + "ab" * 32}
RUNNING = {"phase": "InProgress", "startTime": ago(50), "jobRef": {"name": "j"}}


def waiting(reason="WaitingForSlot"):
    condition = {"type": "Complete", "status": "False", "reason": reason, "message": "m", "lastTransitionTime": ago(5)}
    return {"phase": "Pending", "conditions": [condition]}


def claim(name="vault", *modes, **meta):
    modes = modes or ("ReadWriteOnce",)
    return {"metadata": {"name": name, "namespace": "shop", "uid": "c", **meta}, "spec": {"accessModes": list(modes)}}


class World:
    """What the API server has, all of it also in the cache unless it is said to lag."""

    def __init__(self, *objects, lagging=(), now=lambda: NOW) -> None:
        self.cluster, self.cache, self.now = FakeCluster(*objects, *lagging), Cache(), now
        self.claims = Claims(self.cluster)
        for kind, body in objects:
            if kind not in ("Pod", "Event", "PersistentVolumeClaim"):
                self.cache.put(kind, body)

    def finder(self, body):
        if body["kind"] == "Database":
            return DatabaseFinder(self.cluster, self.cache, Database.model_validate(body), self.now)
        model = Backup if body["kind"] == "Backup" else Restore
        return RunFinder(self.cluster, self.cache, self.claims, model.model_validate(body), POLICY, self.now)

    async def decide(self, body):
        """What reconcile does: decide until nothing more is asked for."""
        finder, asked = self.finder(body), []
        while isinstance(action := finder.decide(), Ask):
            assert action.fact not in asked
            asked.append(action.fact)
            await finder.find(action.fact)
        self.asked = asked
        return action

    async def starts(self, body) -> bool:
        action = await self.decide(body)
        if isinstance(action, SetStatus | Nothing):
            return False
        assert isinstance(action, CreateJob), action
        return True


BASE = (
    ("Database", database()),
    ("Database", database("other")),
    ("BackupStore", store()),
    ("PersistentVolumeClaim", claim()),
    ("Backup", backup(status=DONE)),
)


def new(kind, name="new", db="db", **more):
    if kind == "Backup":
        return backup(name, spec={"databaseRef": {"name": db}}, **more)
    return restore(name, spec={"databaseRef": {"name": db}, "backupRef": {"name": "nightly"}}, **more)


def why(action) -> str:
    return action.status["conditions"][0]["message"]


# --- rule 14: one Restore at a time, no Backup meanwhile

STARTED = pytest.mark.parametrize(
    ("other", "mine", "starts"),
    [
        ("Restore", "Restore", False),
        ("Restore", "Backup", False),
        ("Backup", "Restore", False),
        ("Backup", "Backup", True),
    ],
)


@STARTED
async def test_what_runs_on_the_same_database_excludes(other, mine, starts):
    world = World(*BASE, (other, new(other, "first", status=RUNNING)))
    assert await world.starts(new(mine)) is starts
    if not starts:
        action = await world.decide(new(mine))
        assert (action.status["phase"], action.status["conditions"][0]["reason"]) == ("Pending", "WaitingForSlot")
        assert f'{other} "first"' in why(action)


@STARTED
async def test_a_job_that_is_there_excludes_before_its_status_is_written(other, mine, starts):
    """Its owner may also be gone altogether, and the Job still run."""
    job = job_of(new(other, "first"), active=1)
    assert await World(*BASE, ("Job", job)).starts(new(mine)) is starts
    assert await World(*BASE, (other, new(other, "first")), ("Job", job)).starts(new(mine)) is starts


@pytest.mark.parametrize("mine", ["Backup", "Restore"])
@pytest.mark.parametrize("other", ["Backup", "Restore"])
async def test_what_has_ended_excludes_nothing(other, mine):
    for status in (complete(), failed_job()):
        assert await World(*BASE, ("Job", job_of(new(other, "first"), **status))).starts(new(mine))
    for phase in ("Completed", "Failed"):
        assert await World(*BASE, (other, new(other, "first", status={"phase": phase}))).starts(new(mine))


@pytest.mark.parametrize("mine", ["Backup", "Restore"])
@pytest.mark.parametrize("other", ["Backup", "Restore"])
async def test_other_databases_and_namespaces_exclude_nothing(other, mine):
    far = new(other, "first", status=RUNNING, namespace="far")
    near = new(other, "second", db="other", status=RUNNING)
    jobs = [("Job", job_of(body, active=1)) for body in (far, near)]
    assert await World(*BASE, (other, far), (other, near), *jobs).starts(new(mine))


@pytest.mark.parametrize("mine", ["Backup", "Restore"])
async def test_nothing_excludes_itself(mine):
    body = new(mine, status=waiting())
    assert await World(*BASE, (mine, body)).starts(body)


async def test_a_verification_excludes_nothing():
    job = job_of(database(), "Verify", active=1)
    job["metadata"]["labels"][names.LABEL_DATABASE] = "db"
    assert await World(*BASE, ("Job", job)).starts(new("Restore"))


async def test_a_run_and_its_job_are_named_once():
    first = new("Restore", "first", status=RUNNING)
    world = World(*BASE, ("Restore", first), ("Job", job_of(first, active=1)))
    assert why(await world.decide(new("Backup"))) == 'Waiting for Restore "first" to end.'


# --- order: a waiting Restore is not overtaken for ever


OLD, YOUNG = ago(100), ago(10)


@pytest.mark.parametrize(
    ("other", "mine", "starts"),
    [
        pytest.param(new("Restore", "a", status=waiting(), creationTimestamp=OLD), "Backup", False, id="older-restore"),
        pytest.param(
            new("Restore", "a", status=waiting(), creationTimestamp=OLD), "Restore", False, id="restores-in-order"
        ),
        pytest.param(
            new("Restore", "a", status=waiting(), creationTimestamp=YOUNG), "Backup", True, id="younger-restore"
        ),
        pytest.param(
            new("Restore", "a", status=waiting(), creationTimestamp=YOUNG), "Restore", True, id="i-am-the-older-restore"
        ),
        pytest.param(
            new("Restore", "a", status=waiting("BackupNotFound"), creationTimestamp=OLD),
            "Backup",
            True,
            id="it-waits-for-something-else",
        ),
        pytest.param(
            new("Restore", "a", status=waiting(), creationTimestamp=OLD, deletionTimestamp=ago(1)),
            "Backup",
            True,
            id="it-is-being-deleted",
        ),
        pytest.param(new("Restore", "a", creationTimestamp=OLD), "Backup", True, id="it-has-not-been-looked-at"),
        pytest.param(
            new("Restore", "a", db="other", status=waiting(), creationTimestamp=OLD), "Backup", True, id="elsewhere"
        ),
        pytest.param(
            new("Backup", "a", status=waiting(), creationTimestamp=OLD), "Restore", True, id="backups-do-not-hold-up"
        ),
    ],
)
async def test_older_waiting_restores_go_first(other, mine, starts):
    world = World(*BASE, (other["kind"], other))
    assert await world.starts(new(mine, creationTimestamp=ago(50))) is starts


@pytest.mark.parametrize("kinds", ["RRR", "RRB", "RBB", "BRB", "BBR"])
@pytest.mark.parametrize("same_second", [True, False])
async def test_of_all_that_wait_one_can_always_start(kinds, same_second):
    """No deadlock, whatever the order of creation; and they all get their turn."""
    left = {}
    for n, letter in enumerate(kinds):
        kind = "Restore" if letter == "R" else "Backup"
        left[f"r{n}"] = new(kind, f"r{n}", status=waiting(), creationTimestamp=ago(50 if same_second else 50 - n))
    while left:
        world = World(*BASE, *((body["kind"], body) for body in left.values()))
        able = [name for name, body in left.items() if await world.starts(body)]
        assert able
        restores = [name for name in able if left[name]["kind"] == "Restore"]
        assert len(restores) <= 1 or not same_second
        del left[(restores or able)[0]]


async def test_at_most_one_restore_starts_when_a_slot_becomes_free():
    bodies = [new("Restore", f"r{n}", status=waiting(), creationTimestamp=ago(50)) for n in range(4)]
    world = World(*BASE, *(("Restore", b) for b in bodies))
    assert [await world.starts(body) for body in bodies].count(True) == 1


async def test_whoever_decides_next_sees_the_job_that_was_just_created():
    """What reconcile does between two decisions: it puts the created Job into the cache."""
    first, second = new("Restore", "first"), new("Restore", "second")
    world = World(*BASE, ("Restore", first), ("Restore", second))
    assert await world.starts(first)
    world.cache.put("Job", job_of(first))
    assert not await world.starts(second)
    assert not await world.starts(new("Backup"))


# --- ReadWriteOncePod: one pod at a time, whatever its Database


def other_user(claim_name="vault", **status):
    job = job_of(new("Backup", "first", db="other"), **(status or {"active": 1}))
    job["metadata"]["labels"][names.LABEL_CLAIM] = names.short_hash(claim_name)
    return job


@pytest.mark.parametrize("mine", ["Backup", "Restore"])
@pytest.mark.parametrize(
    ("modes", "job", "starts"),
    [
        pytest.param(("ReadWriteOncePod",), other_user(), False, id="pod-and-busy"),
        pytest.param(("ReadWriteOncePod",), other_user(**complete()), True, id="pod-and-done"),
        pytest.param(("ReadWriteOncePod",), other_user("another"), True, id="pod-and-another-claim-busy"),
        pytest.param(("ReadWriteOnce",), other_user(), True, id="once-and-busy"),
        pytest.param(("ReadWriteMany",), other_user(), True, id="many-and-busy"),
    ],
)
async def test_read_write_once_pod_serialises(mine, modes, job, starts):
    world = World(*BASE, ("PersistentVolumeClaim", claim("vault", *modes)), ("Job", job))
    action = await world.decide(new(mine))
    assert isinstance(action, CreateJob) is starts
    if not starts:
        assert job["metadata"]["name"] in why(action)
        assert "ReadWriteOncePod" in why(action)
    else:
        assert action.claim.access_modes == modes


@pytest.mark.parametrize(
    ("mode", "others", "starting", "expected"),
    [
        pytest.param("ReadWriteOncePod", [other_user()], {}, "Job ", id="busy"),
        pytest.param("ReadWriteOncePod", [], {("Restore", "shop", "r"): "vault"}, 'Restore "r"', id="about-to-be-busy"),
        pytest.param("ReadWriteOncePod", [other_user(**complete())], {}, "", id="done"),
        pytest.param("ReadWriteOncePod", [other_user("another")], {}, "", id="another-claim-busy"),
        pytest.param("ReadWriteOncePod", [], {("Restore", "far", "r"): "vault"}, "", id="another-namespace"),
        pytest.param("ReadWriteOnce", [other_user()], {("Restore", "shop", "r"): "vault"}, "", id="once-and-busy"),
    ],
)
async def test_a_verification_waits_for_who_has_a_read_write_once_pod_claim(mode, others, starting, expected):
    body = backup("proven", spec={"verification": {"mode": "List"}}, status=DONE)
    world = World(*BASE, ("PersistentVolumeClaim", claim("vault", mode)), *(("Job", job) for job in others))
    begun = {key: Start("other", name, "j") for key, name in starting.items()}
    model = Backup.model_validate(body)
    finder = VerificationFinder(world.cluster, world.cache, world.claims, model, POLICY, world.now, begun)
    assert finder.decide() == Ask(Fact.CLAIM)
    await finder.find(Fact.CLAIM)
    action = finder.decide()
    if expected:
        assert action.status["conditions"][0]["reason"] == "WaitingForSlot"
        assert expected in why(action)
    else:
        assert isinstance(action, CreateJob)


async def test_read_write_once_pod_does_not_wait_for_itself():
    body = new("Backup", status=waiting())
    exclusive = ("PersistentVolumeClaim", claim("vault", "ReadWriteOncePod"))
    assert await World(*BASE, exclusive, ("Backup", body)).starts(body)


# --- which objects a decision rests on


async def test_a_job_of_our_name_that_is_not_ours_is_not_followed():
    body = new("Restore", status=RUNNING)
    foreign = job_of(body, **complete())
    foreign["metadata"]["ownerReferences"][0]["uid"] = "somebody"
    world = World(*BASE, ("Restore", body), ("Job", foreign))
    action = await world.decide(body)
    assert world.asked == [Fact.LIVE_JOB, Fact.PODS]
    assert (action.status["phase"], action.status["error"]["reason"]) == ("Failed", "JobLost")


async def test_a_job_that_the_cache_does_not_know_yet_is_found():
    body = new("Restore", status=RUNNING)
    job = job_of(body, active=1, ready=1)
    world = World(*BASE, ("Restore", body), lagging=[("Job", job)])
    action = await world.decide(body)
    assert (action.status["phase"], action.status["conditions"][0]["reason"]) == ("InProgress", "Running")
    assert world.cache.get("Job", "shop", job["metadata"]["name"])


async def test_a_job_is_lost_only_when_its_pods_are_gone_too():
    body = new("Restore", status=RUNNING)
    world = World(*BASE, ("Restore", body), ("Pod", pod("Running")))
    action = await world.decide(body)
    assert (action.status["phase"], action.status["conditions"][0]["reason"]) == ("InProgress", "StoppingJob")
    name = names.job_name("Restore", "new", body["metadata"]["uid"])
    assert world.cluster.asked("get") == [("Job", "shop", name)]
    assert world.cluster.asked("list") == [("Pod", "shop", f"batch.kubernetes.io/job-name={name}")]


async def test_refusals_are_those_of_this_very_job():
    body = new("Backup", status={**RUNNING, "error": {"reason": "X", "message": "m"}})
    job = job_of(body, age=12)
    assert await World(*BASE, ("Job", job)).decide(body) == DeleteJob(
        job["metadata"]["name"], job["metadata"]["uid"], "20", 3.0
    )
    body = new("Backup", status=RUNNING)
    world = World(*BASE, ("Job", job))
    await world.decide(body)
    selector = f"involvedObject.uid={job['metadata']['uid']},reason=FailedCreate"
    pods = f"batch.kubernetes.io/job-name={job['metadata']['name']}"
    assert world.cluster.asked("list") == [("Pod", "shop", pods), ("Event", "shop", selector)]


async def test_refusals_of_the_reader_are_its_own():
    body = new("Backup", status=RUNNING)
    reader = job_of(body, "Reader", age=12)
    reader["metadata"]["uid"] = "uid-job-reader"
    world = World(*BASE, ("Job", job_of(body, age=60, **complete())), ("Job", reader))
    await world.decide(body)
    assert world.asked == [Fact.PODS, Fact.READER_PODS, Fact.READER_REFUSALS]
    selector = "involvedObject.uid=uid-job-reader,reason=FailedCreate"
    assert world.cluster.asked("list")[-1] == ("Event", "shop", selector)


async def test_a_restore_mounts_the_claim_of_its_backup_not_that_of_the_store():
    other = backup(status={**DONE, "backupLocation": "pvc://elsewhere/db/nightly-1"}, resourceVersion="11")
    world = World(*BASE, ("Backup", other), ("PersistentVolumeClaim", claim("elsewhere")))
    action = await world.decide(new("Restore"))
    assert action.claim.name == action.values["store"]["claim_name"] == "elsewhere"


async def test_a_backup_uses_the_named_store_then_the_default_then_makes_a_claim():
    far = (("BackupStore", store("far", "remote")), ("PersistentVolumeClaim", claim("remote")))
    world = World(*BASE, *far)
    assert (await world.decide(backup("x", spec={"storeRef": {"name": "far"}}))).claim.name == "remote"
    assert (await world.decide(new("Backup"))).claim.name == "vault"
    bare = World(("Database", database()))
    action = await bare.decide(new("Backup"))
    assert isinstance(action, CreateClaim)
    bare.cluster.put("PersistentVolumeClaim", claim(names.DEFAULT_CLAIM))
    assert (await bare.decide(new("Backup"))).claim.name == names.DEFAULT_CLAIM


# --- an object store


async def test_an_object_store_asks_for_no_claim_and_makes_none():
    body = new("Backup")
    world = World(("Database", database()), ("BackupStore", s3_store()), ("Backup", body))
    assert isinstance(await world.decide(body), CreateJob)
    assert world.asked == []
    assert world.cluster.requests == []


async def test_a_restore_reads_where_its_backup_wrote():
    near, far = s3_store(), s3_store("far", bucket="remote")
    written = backup(spec={"storeRef": {"name": "far"}}, status={**DONE, "backupLocation": "s3://remote/db/nightly-1"})
    world = World(("Database", database()), ("BackupStore", near), ("BackupStore", far), ("Backup", written))
    action = await world.decide(new("Restore"))
    assert isinstance(action, CreateJob)
    assert action.values["store"]["bucket"] == "remote"
    assert world.asked == []


async def test_a_restore_by_location_reads_from_the_store_that_it_names():
    far = s3_store("far", bucket="remote")
    world = World(("Database", database()), ("BackupStore", s3_store()), ("BackupStore", far))
    body = restore(spec={"location": "s3://remote/db/x-1", "storeRef": {"name": "far"}})
    assert (await world.decide(body)).values["store"]["bucket"] == "remote"


@STARTED
async def test_who_excludes_whom_does_not_depend_on_the_store(other, mine, starts):
    written = backup(status={**DONE, "backupLocation": "s3://vault/db/nightly-1"})
    first = new(other, "first", status=RUNNING)
    job = job_of(new(other, "second"), active=1)
    del job["metadata"]["labels"][names.LABEL_CLAIM]
    base = (("Database", database()), ("BackupStore", s3_store()), ("Backup", written))
    for busy in ((other, first), ("Job", job)):
        assert await World(*base, busy).starts(new(mine)) is starts


# --- claims are remembered for a minute


async def test_a_claim_is_read_once_a_minute():
    cluster = FakeCluster(("PersistentVolumeClaim", claim("vault", "ReadWriteMany", "ReadWriteOnce")))
    claims = Claims(cluster)
    first = await claims.get("shop", "vault", "uid-db", NOW)
    assert first.shared
    assert not first.exclusive
    assert await claims.get("shop", "vault", "uid-db", NOW + timedelta(seconds=59)) == first
    assert len(cluster.asked("get")) == 1
    assert await claims.get("shop", "vault", "uid-db", NOW + timedelta(seconds=61)) == first
    assert len(cluster.asked("get")) == 2


async def test_a_missing_claim_is_never_remembered():
    cluster = FakeCluster()
    claims = Claims(cluster)
    assert await claims.get("shop", "vault", "uid-db", NOW) is None
    cluster.put("PersistentVolumeClaim", claim())
    assert await claims.get("shop", "vault", "uid-db", NOW)
    assert await claims.get("other", "vault", "uid-db", NOW) is None


async def test_what_was_seen_is_forgotten_with_the_database():
    """A namespace that was deleted and made anew within the minute has no claim yet."""
    cluster = FakeCluster(("PersistentVolumeClaim", claim()))
    claims = Claims(cluster)
    assert await claims.get("shop", "vault", "uid-db", NOW)
    cluster.objects.clear()
    assert await claims.get("shop", "vault", "uid-of-its-successor", NOW) is None


async def test_a_claim_that_is_being_deleted_is_none():
    claims = Claims(FakeCluster(("PersistentVolumeClaim", claim(deletionTimestamp=ago(1)))))
    assert await claims.get("shop", "vault", "uid-db", NOW) is None


# --- a Database


def provisioned():
    body = resource("Database", "db", {}, {"phase": "Pending"})
    sts = server.stateful_set(Database.model_validate(body), 999)
    sts["metadata"] |= {"uid": "uid-sts", "generation": 1, "resourceVersion": "5"}
    sts["status"] = {
        "observedGeneration": 1,
        "replicas": 1,
        "readyReplicas": 1,
        "updatedReplicas": 1,
        "currentRevision": "r1",
        "updateRevision": "r1",
    }
    parts = [("Service", {**s, "metadata": {**s["metadata"], "uid": s["metadata"]["name"]}}) for s in _services(body)]
    return body, sts, parts


def _services(body):
    return server.services(Database.model_validate(body))


async def test_a_database_looks_for_its_volume_by_name():
    body, _, _ = provisioned()
    world = World(("Database", body))
    action = await world.decide(body)
    assert action.secret
    assert world.cluster.asked("get") == [("PersistentVolumeClaim", "shop", "data-db-0")]


async def test_a_database_sees_its_server_services_and_verification():
    body, sts, parts = provisioned()
    assert (await World(("StatefulSet", sts), parts[0]).decide(body)).services[0]["metadata"]["name"] == "db-pods"
    world = World(("StatefulSet", sts), *parts)
    action = await world.decide(body)
    assert isinstance(action, CreateJob)
    job = job_of(body, **complete())
    job["metadata"]["name"] = action.name
    world = World(("StatefulSet", sts), *parts, ("Job", job), ("Pod", pod("Succeeded")))
    done = await world.decide(body)
    assert done.status["conditions"][0]["reason"] == "ResultLost"
    assert world.cluster.asked("list") == [("Pod", "shop", f"batch.kubernetes.io/job-name={action.name}")]


async def test_a_verification_that_is_not_ours_does_not_count():
    body, sts, parts = provisioned()
    world = World(("StatefulSet", sts), *parts)
    ours = await world.decide(body)
    forged = job_of(body, **complete())
    forged["metadata"]["name"] = ours.name
    forged["metadata"]["ownerReferences"][0]["uid"] = "somebody"
    assert await World(("StatefulSet", sts), *parts, ("Job", forged)).decide(body) == ours


async def test_a_server_that_does_not_come_up_is_asked_about_its_own_pods():
    body, sts, parts = provisioned()
    sts["status"]["readyReplicas"] = 0
    not_ready = {"type": "Ready", "status": "False", "reason": "x", "message": "m", "lastTransitionTime": ago(30)}
    body["status"] = {"phase": "Verifying", "conditions": [not_ready]}
    world = World(("StatefulSet", sts), *parts, ("Pod", pod("Pending")))
    await world.decide(body)
    assert world.cluster.asked("list") == [("Pod", "shop", "app=database,database=db")]


async def test_an_external_database_sees_its_checks_and_nothing_else():
    server_of = {"host": "pg.example.com", "sslMode": "require", "credentialsSecretRef": {"name": "login"}}
    body = resource("Database", "db", {"external": server_of}, {"phase": "Pending"})
    _, sts, parts = provisioned()
    first = await World(("Database", body), ("StatefulSet", sts), *parts).decide(body)
    assert isinstance(first, CreateJob)
    mine = job_of(body, **complete())
    mine["metadata"] |= {"name": first.name, "annotations": dict(first.annotations)}
    others = job_of(resource("Database", "other", {}), age=1, active=1)
    others["metadata"]["annotations"] = dict(first.annotations)
    world = World(("Database", body), ("Job", mine), ("Job", others), ("Pod", pod("Succeeded")))
    done = await world.decide(body)
    assert done.status["conditions"][0]["reason"] == "ResultLost"
    assert world.cluster.requests == [("list", "Pod", "shop", f"batch.kubernetes.io/job-name={first.name}")]
