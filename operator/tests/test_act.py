"""What is decided, carried out against an API server that answers in awkward ways."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from fakes import WritableCluster
from support import NOW, backup, database, schedule

from postgres_operator import names
from postgres_operator.cache import Cache
from postgres_operator.cluster import _error
from postgres_operator.decide.run import Policy
from postgres_operator.errors import ApiError
from postgres_operator.reconcile import Reconciler
from postgres_operator.render import Renderer

NIGHTLY = ("Backup", "shop", "nightly")
POLICY = Policy({"accessModes": ["ReadWriteOnce"]})
RENDERER = Renderer(Path(__file__).resolve().parents[2] / "job_templates", 1001, 1002)


class Lab:
    """A reconciler whose cache has what the API server has."""

    def __init__(self, *objects) -> None:
        self.cluster, self.cache, self.time = WritableCluster(*objects), Cache(), NOW
        for kind, body in objects:
            self.cache.put(kind, body)
        self.reconciler = Reconciler(self.cluster, self.cache, self.cache.put, RENDERER, POLICY, lambda: self.time)

    async def settle(self, key, steps: int = 10) -> float | None:
        """Reconcile until nothing is to be done now; seconds until the next look."""
        for _ in range(steps):
            if (after := await self.reconciler.reconcile(key)) != 0:
                return after
        raise AssertionError(f"{key} does not settle")

    async def see_and_settle(self, *keys) -> None:
        """The same, while the watch shows what was written, until nothing is."""
        before = -1
        while self.cluster.version != before:
            before = self.cluster.version
            for (kind, *_), body in list(self.cluster.objects.items()):
                self.cache.put(kind, body)
            for key in keys:
                await self.settle(key)

    def why(self, key) -> tuple[str, str]:
        (condition, *_) = self.cluster.objects[key]["status"]["conditions"]
        return condition["reason"], condition["message"]


def claim(**meta):
    return {
        "metadata": {"name": "backups", "namespace": "shop", "uid": "c", "resourceVersion": "7", **meta},
        "spec": {"accessModes": ["ReadWriteOnce"]},
    }


# --- the claim that backups go to by default


async def test_the_default_claim_is_made_and_the_backup_goes_on():
    lab = Lab(("Database", database()), ("Backup", backup()))
    await lab.settle(NIGHTLY)
    assert [kind for kind, *_ in lab.cluster.asked("create")] == ["PersistentVolumeClaim", "Job"]


async def test_a_default_claim_that_is_being_deleted_is_waited_for_and_shown():
    lab = Lab(("Database", database()), ("Backup", backup()))
    lab.cluster.put("PersistentVolumeClaim", claim(deletionTimestamp="2026-03-01T11:59:00Z"))
    assert await lab.settle(NIGHTLY) == pytest.approx(20)
    reason, message = lab.why(NIGHTLY)
    assert reason == "ClaimNotFound"
    assert message.startswith('PersistentVolumeClaim "backups" is being deleted; waiting until it is gone.')
    lab.cluster.delete("PersistentVolumeClaim", "shop", "backups")
    await lab.settle(NIGHTLY)
    assert lab.why(NIGHTLY)[0] == "Running"


# --- versions that go back


async def restored(policy: str) -> dict:
    """The Backup in the end, of which the cache had a newer version than the API server will ever have."""
    body = backup(spec={"deletionPolicy": policy}, resourceVersion="12")
    lab = Lab(("Backup", {**body, "metadata": {**body["metadata"], "resourceVersion": "5000"}}))
    lab.cluster.put("Backup", body)
    await lab.settle(NIGHTLY)
    assert lab.cache.get(*NIGHTLY)["metadata"]["resourceVersion"] == str(lab.cluster.version)
    return lab.cluster.objects[NIGHTLY]


async def test_a_status_is_written_after_etcd_was_restored():
    assert (await restored("Retain"))["status"]["conditions"][0]["reason"] == "DatabaseNotFound"


async def test_a_finalizer_is_written_after_etcd_was_restored():
    assert (await restored("Delete"))["metadata"]["finalizers"] == [names.FINALIZER]


# --- what admission refuses

AWAY = 'Internal error occurred: failed calling webhook "w": failed to call webhook: connection refused'


async def test_a_webhook_that_is_away_is_shown_and_the_backup_goes_on_once_it_is_back():
    lab = Lab(("Database", database()), ("Backup", backup()))
    lab.cluster.put("PersistentVolumeClaim", claim())
    lab.cluster.refuses["Job"] = _error("POST", "…", 500, {"reason": "InternalError", "message": AWAY})
    assert await lab.settle(NIGHTLY) == pytest.approx(20)
    reason, message = lab.why(NIGHTLY)
    assert (reason, AWAY in message) == ("RequestRefused", True)
    lab.cluster.refuses.clear()
    await lab.settle(NIGHTLY)
    assert lab.why(NIGHTLY)[0] == "Running"


# --- retention


OFTEN = ("ScheduledBackup", "shop", "often")
SLOTS = ["2026-02-27T03:00:00Z", "2026-02-28T03:00:00Z", "2026-03-01T03:00:00Z"]


class Breaking(WritableCluster):
    """Deletes nothing."""

    async def delete(self, kind, namespace, name, *_):
        raise ApiError(f'DELETE {kind} "{name}" in {namespace}: connection lost')


def retaining(keep: int) -> Lab:
    """A schedule with three Backups."""
    ready = {"nextScheduleTime": "2026-03-02T03:00:00Z", "lastScheduleTime": SLOTS[-1]}
    made = schedule("often", spec={"retention": {"keepLast": keep}}, status=ready)
    labels = {names.LABEL_SCHEDULE: "often", names.LABEL_SCHEDULE_UID: made["metadata"]["uid"]}
    backups = [
        backup(
            names.scheduled_backup("often", datetime.fromisoformat(slot)),
            spec={"deletionPolicy": "Retain"},
            status={"phase": "Completed", "backupTime": slot, "completionTime": slot},
            labels=labels,
            annotations={names.ANNOTATION_SLOT: slot, "example.com/mine": "a"},
            creationTimestamp=slot,
        )
        for slot in SLOTS
    ]
    return Lab(("ScheduledBackup", made), *(("Backup", one) for one in backups))


async def test_a_stop_between_the_change_of_a_policy_and_the_deletion_leaves_no_trace():
    lab = retaining(2)
    oldest = ("Backup", "shop", "often-202602270300")
    lab.cluster.__class__ = Breaking
    with pytest.raises(ApiError, match="connection lost"):
        await lab.see_and_settle(OFTEN)
    left = lab.cluster.objects[oldest]
    assert (left["spec"]["deletionPolicy"], left["metadata"]["finalizers"]) == ("Delete", [names.FINALIZER])
    # Meanwhile somebody wants to keep more.
    other = retaining(3).cache.get(*OFTEN)
    restarted = Lab(
        ("ScheduledBackup", other), *((k[0], b) for k, b in lab.cluster.objects.items() if k[0] == "Backup")
    )
    await restarted.see_and_settle(OFTEN, oldest)
    spared = restarted.cluster.objects[oldest]
    assert (spared["spec"]["deletionPolicy"], spared["metadata"]["finalizers"]) == ("Retain", [])
    assert spared["metadata"]["annotations"].keys() == {names.ANNOTATION_SLOT, "example.com/mine"}


# --- the Secret of a Database

SHOP = ("Database", "shop", "db")
SECRET = ("Secret", "shop", "db-credentials")


@pytest.fixture
def provisioning():
    """A Database of whose older namesake the Secret is still there."""
    lab = Lab(("Database", database(ready=False, phase="Pending")))
    lab.cluster.put("Secret", {"metadata": {"name": "db-credentials", "namespace": "shop", "uid": "old"}})
    return lab


def has_server(lab) -> bool:
    return ("StatefulSet", "shop", "db") in lab.cluster.objects


@pytest.mark.parametrize("tries", [1, 5])
async def test_a_secret_that_a_slow_garbage_collector_takes_is_made_anew(provisioning, tries):
    for _ in range(tries):
        assert await provisioning.settle(SHOP) == pytest.approx(2)
        assert not has_server(provisioning), "its pod would miss the Secret"
    provisioning.cluster.delete(*SECRET)
    await provisioning.settle(SHOP)
    assert provisioning.cluster.objects[SECRET]["metadata"]["uid"] != "old"
    assert has_server(provisioning)


async def test_a_secret_that_stays_is_kept(provisioning):
    await provisioning.settle(SHOP)
    provisioning.time = NOW + timedelta(seconds=29)
    assert await provisioning.settle(SHOP) == pytest.approx(2)
    provisioning.time = NOW + timedelta(seconds=30)
    await provisioning.settle(SHOP)
    assert provisioning.cluster.objects[SECRET]["metadata"]["uid"] == "old"
    assert has_server(provisioning)


async def test_a_secret_that_is_made_is_not_waited_for():
    lab = Lab(("Database", database(ready=False, phase="Pending")))
    await lab.settle(SHOP)
    assert has_server(lab)


async def test_a_service_that_was_still_there_holds_up_nothing_once_it_is_gone():
    lab = Lab(("Database", database(ready=False, phase="Pending")))
    owner = {"kind": "Database", "name": "db", "uid": "old", "apiVersion": names.API_VERSION}
    lab.cluster.put("Service", {"metadata": {"name": "db", "namespace": "shop", "ownerReferences": [owner]}})
    assert await lab.settle(SHOP) == pytest.approx(2)
    lab.cluster.delete("Service", "shop", "db")
    await lab.settle(SHOP)
    assert has_server(lab)
