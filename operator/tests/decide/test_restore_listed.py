"""A Restore of a name that a store lists: `backupRef` beside `storeRef`."""

import pytest
from support import NOW, backup, database, restore, s3_store

from postgres_operator.api.backup import Backup
from postgres_operator.api.database import Database
from postgres_operator.api.restore import Restore
from postgres_operator.api.store import BackupStore
from postgres_operator.decide.actions import CreateJob, SetStatus
from postgres_operator.decide.restore import decide
from postgres_operator.decide.run import Facts, Policy

BY_NAME = {"backupRef": {"name": "nightly"}, "storeRef": {"name": "far"}}


def entry(path, time="2026-03-01T01:00:00Z", name="nightly", url="s3://vault", **more):
    found = {
        "location": f"{url}/{path}",
        "name": name,
        "namespace": "shop",
        "database": "db",
        "backupTime": time,
        "sizeBytes": 1,
        "format": "custom",
        "serverVersion": "17.6",
        "partial": False,
    }
    return {**found, **more}


def far(*entries, discover=True, **s3):
    body = s3_store("far", **s3)
    body["spec"]["discover"] = discover
    body["status"] = {"backups": list(entries), "backupCount": 99}
    return BackupStore.model_validate(body)


def ask(store, source=None):
    found = Facts(now=NOW, database=Database.model_validate(database()))
    return decide(Restore.model_validate(restore(spec=BY_NAME)), source, store, found, Policy({}))


def verdict(action):
    assert isinstance(action, SetStatus)
    condition = action.status["conditions"][0]
    return action.status["phase"], condition["reason"], condition["message"]


def test_the_newest_of_that_name_is_restored_whatever_backup_objects_there_are():
    old, new = entry("db/nightly-1"), entry("db/nightly-2", "2026-03-02T01:00:00Z")
    newer = entry("db/weekly-3", "2026-03-03T01:00:00Z", "weekly")
    failed = Backup.model_validate(backup(status={"phase": "Failed"}))
    for entries in ((old, new, newer), (newer, new, old)):
        action = ask(far(*entries), failed)
        assert isinstance(action, CreateJob)
        assert action.values["artifact_path"] == "db/nightly-2"
        assert action.values["expected_sha256"] == ""  # judged by its manifest, as any location


@pytest.mark.parametrize(
    ("store", "reason", "words"),
    [
        pytest.param(None, "StoreNotFound", 'BackupStore "far" does not exist', id="no-store"),
        pytest.param(far(discover=False), "BackupNotFound", "set spec.discover", id="no-list"),
        pytest.param(far(entry("db/nightly-1"), discover=False), "BackupNotFound", "set spec.discover", id="old-list"),
        pytest.param(far(entry("db/x-1", name="x")), "BackupNotFound", "among the 1 (of 99)", id="not-listed"),
    ],
)
def test_what_it_waits_for(store, reason, words):
    phase, why, message = verdict(ask(store))
    assert (phase, why) == ("Pending", reason)
    assert words in message


@pytest.mark.parametrize(
    "other", [pytest.param({"database": "crm"}, id="database"), pytest.param({"namespace": "test"}, id="namespace")]
)
def test_the_same_name_of_another_database_is_not_guessed(other):
    phase, why, message = verdict(ask(far(entry("db/nightly-1"), entry("db/nightly-2", **other))))
    assert (phase, why) == ("Failed", "BackupAmbiguous")
    assert "s3://vault/db/nightly-1 or s3://vault/db/nightly-2" in message


def test_what_is_listed_must_lie_in_the_store():
    phase, why, _ = verdict(ask(far(entry("db/nightly-1", url="s3://other"))))
    assert (phase, why) == ("Failed", "LocationNotInStore")
