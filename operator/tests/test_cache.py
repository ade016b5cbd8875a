import pytest
from support import backup, complete, database, failed_job, job_of

from postgres_operator.cache import Cache
from postgres_operator.decide.jobs import ended

NIGHTLY = ("Backup", "shop", "nightly")


def version(number, **more):
    return backup(resourceVersion=str(number), **more)


@pytest.fixture
def cache() -> Cache:
    return Cache()


def kept(cache) -> str | None:
    body = cache.get(*NIGHTLY)
    return body and body["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [(9, 10, True), (10, 9, False), (10, 10, False), (99, 100, True), (100, 99, False)],
)
def test_only_newer_versions_are_taken(cache, first, second, taken):
    assert cache.put("Backup", version(first))
    assert cache.put("Backup", version(second)) is taken
    assert kept(cache) == str(second if taken else first)


def test_an_object_that_took_the_name_of_another_is_taken(cache):
    cache.put("Backup", version(10, uid="old"))
    assert cache.put("Backup", version(12, uid="new"))
    assert cache.get(*NIGHTLY)["metadata"]["uid"] == "new"


def test_a_late_answer_about_a_deleted_object_does_not_replace_its_successor(cache):
    cache.put("Backup", version(12, uid="new"))
    assert not cache.put("Backup", version(11, uid="old"))
    assert cache.get(*NIGHTLY)["metadata"]["uid"] == "new"


def test_a_version_from_before_a_restore_of_etcd_makes_way(cache):
    cache.put("Backup", version(5000))
    before = cache.get(*NIGHTLY)
    cache.rewind("Backup", before, version(12))
    assert kept(cache) is None


@pytest.mark.parametrize("now", [10, 11, 12])
def test_what_the_watch_has_shown_since_does_not_make_way(cache, now):
    cache.put("Backup", version(10))
    before = cache.get(*NIGHTLY)
    cache.put("Backup", version(now))
    cache.rewind("Backup", before, version(10))
    cache.rewind("Backup", None, version(9))
    assert kept(cache) == str(now)


def test_a_late_deletion_does_not_remove_the_successor(cache):
    cache.put("Backup", version(10, uid="old"))
    cache.put("Backup", version(12, uid="new"))
    cache.remove("Backup", version(11, uid="old"))
    assert kept(cache) == "12"
    cache.remove("Backup", version(13, uid="new"))
    assert kept(cache) is None


def test_removing_what_is_unknown_is_no_error(cache):
    cache.remove("Backup", version(10))
    assert kept(cache) is None


def test_kinds_and_namespaces_are_apart(cache):
    cache.put("Backup", version(1))
    cache.put("Restore", version(1))
    cache.put("Backup", version(1, namespace="other"))
    cache.put("Database", database())
    cache.remove("Restore", version(1))
    assert [b["metadata"]["namespace"] for b in cache.list("Backup", "shop")] == ["shop"]
    assert cache.list("Restore", "shop") == []
    assert set(cache.keys("Backup")) == {NIGHTLY, ("Backup", "other", "nightly")}
    assert list(cache.keys("Database")) == [("Database", "shop", "db")]


def test_what_nobody_looks_at_is_not_kept(cache):
    cache.put("Backup", version(1, managedFields=[{"manager": "kubectl"}], labels={"a": "b"}))
    body = cache.get(*NIGHTLY)
    assert "managedFields" not in body["metadata"]
    assert body["metadata"]["labels"] == {"a": "b"}
    assert set(body) == {"metadata", "spec", "status"}


def test_of_a_job_what_it_runs_is_not_kept(cache):
    """Thousands of finished ones would not fit into the memory."""
    job = job_of(backup(), active=1) | {"spec": {"template": {"spec": {"containers": [{"args": ["a script"]}]}}}}
    cache.put("Job", job)
    kept = cache.get("Job", "shop", job["metadata"]["name"])
    assert kept == {"metadata": job["metadata"], "status": {"active": 1}}
    assert list(cache.unfinished.values()) == [kept]


def test_objects_may_change_while_keys_are_walked(cache):
    cache.put("Backup", version(1))
    cache.put("Backup", version(1, name="weekly"))
    walked = []
    for key in cache.keys("Backup"):
        walked.append(key)
        cache.remove("Backup", cache.get(*key))
        cache.put("Backup", version(1, name="new", namespace="elsewhere"))
    assert len(walked) == 2


def test_of_jobs_it_knows_those_that_have_not_ended(cache):
    def job(version, **status):
        body = job_of(backup(), **status)
        body["metadata"]["resourceVersion"] = str(version)
        return body

    cache.put("Job", job(1))
    assert [b["metadata"]["resourceVersion"] for b in cache.unfinished.values()] == ["1"]
    cache.put("Job", job(2, active=1))
    assert [b["metadata"]["resourceVersion"] for b in cache.unfinished.values()] == ["2"]
    cache.put("Job", job(3, **complete()))
    cache.put("Job", job(2, active=1))
    assert cache.unfinished == {}
    cache.put("Job", job(4))
    cache.remove("Job", job(4))
    assert cache.unfinished == {}


@pytest.mark.parametrize(
    ("status", "finished"),
    [
        (complete(), True),
        (failed_job(), True),
        ({"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}]}, False),
        ({"conditions": [{"type": "Complete", "status": "False"}]}, False),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, False),
        ({}, False),
    ],
)
def test_only_a_terminal_condition_ends_a_job(status, finished):
    assert ended(job_of(backup(), **status)) is finished
