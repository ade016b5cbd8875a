import base64
import gzip
import json
from datetime import timedelta

import pytest
from support import NOW, ago, complete, ended, failed_job, job_of, pod, resource, waiting

from postgres_operator import names
from postgres_operator.api.store import BackupStore
from postgres_operator.decide.actions import Ask, Claim, CreateJob, DeleteJob, Event, Fact, Nothing, SetStatus
from postgres_operator.decide.jobs import Problem, read_job
from postgres_operator.decide.run import Policy
from postgres_operator.decide.store import StoreFacts, content, decide, refused

POLICY = Policy({}, uploader_image="registry.example.com/rclone:1")
DAY = 86400
MONDAY = ["db/monday-1", "monday", "shop", "db", "app", "2026-02-28T01:00:00Z", 10, "custom", "17.6", 0]
TUESDAY = ["db/tuesday-1", "tuesday", "shop", "db", "app", "2026-03-01T01:00:00Z", 20, "plain", "17.6", 1]


def bucket(status=None, *, discover=True, generation=1, spec=None, **s3):
    wanted = {"s3": {"bucket": "vault", **s3}, "discover": discover, **(spec or {})}
    return resource("BackupStore", "all", wanted, status, generation=generation)


def volume(status=None):
    return resource("BackupStore", "all", {"pvc": {"claimName": "vault"}, "discover": True}, status)


def read(body) -> BackupStore:
    return BackupStore.model_validate(body)


def listing(body, *, age=5, number=1, hash_=None, **status):
    """A Job that lists; those of higher numbers came later."""
    job = job_of(body, age=age, **status)
    job["metadata"] |= {
        "name": f"discover-all-{number}",
        "uid": f"uid-listing-{number}",
        "annotations": {names.ANNOTATION_VERIFIES: hash_ or content(read(body))},
    }
    return job


def ask(body, *listings, now=NOW, **facts):
    return decide(read(body), StoreFacts(now, tuple(read_job(job) for job in listings), **facts), POLICY)


def packed(*entries):
    lines = "".join(entry if isinstance(entry, str) else json.dumps(entry) + "\n" for entry in entries)
    return base64.b64encode(gzip.compress(lines.encode())).decode()


def report(*entries, count=None, invalid=0, backups=None):
    result = {
        "count": len(entries) if count is None else count,
        "invalid": invalid,
        "backups": backups or packed(*entries),
    }
    return [pod("Succeeded", ended(0, json.dumps({"result": result}), name="discover"))]


def failure(reason="DownloadFailed", message="Cannot list"):
    error = json.dumps({"error": {"reason": reason, "message": message}})
    return [pod("Failed", ended(1, error, name="discover"))]


def condition(action_or_body):
    status = action_or_body["status"] if isinstance(action_or_body, dict) else action_or_body.status
    (only,) = status["conditions"]
    assert only["type"] == "Discovered"
    return only


def listed(*entries, **more):
    body = bucket()
    action = ask(body, listing(body, **complete()), pods=report(*(entries or (MONDAY, TUESDAY)), **more))
    assert isinstance(action, SetStatus)
    return {**body, "status": action.status}


# Off ------------------------------------------------------------------------------------------------------------------


def test_without_discover_nothing_runs_and_nothing_is_written():
    assert ask(bucket(discover=False)) == Nothing()


def test_switched_off_its_jobs_and_its_list_go():
    on = listed()
    off = {**on, "spec": {**on["spec"], "discover": False}}
    deletion = ask(off, listing(off, **complete()))
    assert isinstance(deletion, DeleteJob)
    assert deletion.name == "discover-all-1"
    action = ask(off)
    assert (condition(action)["status"], condition(action)["reason"]) == ("False", "DiscoveryOff")
    assert action.status["backups"] == []
    assert ask({**off, "status": action.status}) == Nothing()


def test_a_store_that_is_being_deleted_is_left_alone():
    body = bucket()
    body["metadata"]["deletionTimestamp"] = ago(1)
    assert ask(body) == Nothing()


# The Job --------------------------------------------------------------------------------------------------------------


def test_the_first_job_of_a_bucket():
    action = ask(bucket(serviceAccountName="reader"))
    assert isinstance(action, CreateJob)
    assert action.template == "discover.yaml.j2"
    assert (action.claim, action.service_account) == (None, "reader")
    assert action.values["store_url"] == "s3://vault"
    assert action.values["uploader_image"] == POLICY.uploader_image
    assert condition(action.then)["reason"] == "Discovering"
    assert condition(action.then)["status"] == "False"


def test_a_volume_needs_its_claim():
    assert ask(volume()) == Ask(Fact.CLAIM)
    missing = ask(volume(), claim_known=True)
    assert condition(missing)["reason"] == "ClaimNotFound"
    assert '"vault" does not exist' in condition(missing)["message"]
    assert missing.after == 60
    claim = Claim("vault", ("ReadWriteOnce",))
    action = ask(volume(), claim=claim, claim_known=True)
    assert isinstance(action, CreateJob)
    assert action.claim == claim


def test_two_leaders_make_the_same_job_and_the_next_one_is_another():
    body = listed()
    old = listing(body, age=DAY + 1, **complete())
    first, second, third = ask(bucket()), *(ask(body, old, pods=report(MONDAY, TUESDAY)) for _ in "ab")
    assert second.name == third.name != first.name
    assert second.then == Nothing()  # the list stays until there is another one


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"endpoint": "https://new.example.com"}, id="endpoint"),
        pytest.param({"credentialsSecretRef": {"name": "new"}}, id="keys"),
        pytest.param({"serviceAccountName": "new"}, id="account"),
    ],
)
def test_another_way_to_the_store_is_tried_at_once(change):
    job = listing(bucket(), **complete())
    assert isinstance(ask(bucket(**change), job), CreateJob)
    assert isinstance(ask(bucket(), job), Ask)


def test_another_interval_is_no_reason():
    body = listed()
    slower = {**body, "spec": {**body["spec"], "discoverIntervalSeconds": 2 * DAY}}
    assert content(read(slower)) == content(read(body))
    assert isinstance(ask(body, listing(body, age=DAY + 1, **complete()), pods=[]), CreateJob)
    assert ask(slower, listing(body, age=DAY + 1, **complete()), pods=[]) == Nothing(DAY - 1)


# What it found --------------------------------------------------------------------------------------------------------


def test_what_was_found_is_in_the_status_the_newest_first():
    body = listed(MONDAY, TUESDAY)
    status = body["status"]
    assert [backup["location"] for backup in status["backups"]] == ["s3://vault/db/tuesday-1", "s3://vault/db/monday-1"]
    assert status["backups"][0] == {
        "location": "s3://vault/db/tuesday-1",
        "name": "tuesday",
        "namespace": "shop",
        "database": "db",
        "databaseName": "app",
        "backupTime": "2026-03-01T01:00:00Z",
        "sizeBytes": 20,
        "format": "plain",
        "serverVersion": "17.6",
        "partial": True,
    }
    assert (status["backupCount"], status["invalidCount"]) == (2, 0)
    assert status["lastDiscoveryTime"] == "2026-03-01T12:00:00Z"
    assert condition(body)["message"] == "Backups in s3://vault: 2."


def test_the_same_again_is_not_written():
    body = listed()
    later = NOW + timedelta(seconds=100)
    job = listing(body, age=0, **complete())
    assert ask(body, job, now=later, pods=report(MONDAY, TUESDAY)) == Nothing(DAY - 100)
    action = ask(body, job, now=later, pods=report(MONDAY, [*TUESDAY[:6], 21, *TUESDAY[7:]]))  # as many, but others
    assert isinstance(action, SetStatus)
    assert action.status["lastDiscoveryTime"] == "2026-03-01T12:01:40Z"


def test_what_does_not_fit_is_said():
    message = condition(listed(MONDAY, count=900, invalid=3))["message"]
    assert "900." in message
    assert "room for 1 of them" in message
    assert "kubectl logs -n shop -l database.example.com/uid=uid-backupstore-all --tail=-1" in message
    assert message.endswith("not there in full: 3.")


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(["../up", *MONDAY[1:]], id="a-way-out"),
        pytest.param(["-x/y", *MONDAY[1:]], id="an-option"),
        pytest.param([*MONDAY[:1], "No Name", *MONDAY[2:]], id="no-name"),
        pytest.param([*MONDAY[:5], "2026-02-31T00:00:00Z", *MONDAY[6:]], id="no-date"),
        pytest.param([*MONDAY[:6], 0, *MONDAY[7:]], id="no-bytes"),
        pytest.param([*MONDAY[:7], "tar", *MONDAY[8:]], id="no-format"),
        pytest.param([*MONDAY[:4], "\ud83d", *MONDAY[5:]], id="half-a-character"),
        pytest.param([{"x": 1}, *MONDAY[1:]], id="no-path"),
        pytest.param(MONDAY[:5], id="too-short"),
        pytest.param("[\n", id="no-json"),
        pytest.param("7\n", id="no-list"),
    ],
)
def test_an_entry_that_is_not_valid_is_a_number_only(entry):
    status = listed(entry, TUESDAY)["status"]
    assert [backup["name"] for backup in status["backups"]] == ["tuesday"]
    assert (status["backupCount"], status["invalidCount"]) == (1, 1)


def test_what_a_manifest_does_not_say_is_left_out():
    (backup,) = listed(["db/x-1", "", "", "", "", *MONDAY[5:]])["status"]["backups"]
    assert backup.keys().isdisjoint({"name", "namespace", "database", "databaseName"})


LOST = [
    pytest.param([], id="no-pod"),
    pytest.param(report(backups="%%%"), id="no-base64"),
    pytest.param(report(backups="AAAA"), id="no-gzip"),
    pytest.param(report(count=-1), id="no-count"),
]


@pytest.mark.parametrize("pods", LOST)
def test_a_report_that_is_lost(pods):
    body = bucket()
    job = listing(body, age=30, **complete())
    action = ask(body, job, pods=pods)
    assert condition(action)["reason"] == "ResultLost"
    assert ask({**body, "status": action.status}, job, pods=pods) == Nothing(30)
    action = ask(listed(), job, pods=pods)
    if not pods:
        assert action == Nothing(DAY - 30), "it was read before the pod went"
        return
    assert (condition(action)["status"], condition(action)["reason"]) == ("False", "ResultLost")
    assert action.status["backups"] == listed()["status"]["backups"]


def test_a_list_of_another_place_does_not_count_for_a_report_that_is_lost():
    body = listed()
    old = listing(body, **complete())
    body = {**body, "spec": {**body["spec"], "s3": {"bucket": "vault", "endpoint": "https://new.example.com"}}}
    action = ask(body, old)
    assert (condition(action.then)["status"], condition(action.then)["reason"]) == ("False", "Discovering")
    assert action.then.status["backups"] == listed()["status"]["backups"]
    body = {**body, "status": action.then.status}
    assert condition(ask(body, old, listing(body, number=2, **complete()), pods=[]))["reason"] == "ResultLost"


def test_a_bomb_is_not_unpacked():
    status = listed(MONDAY, "x" * 10**7 + "\n", TUESDAY)["status"]
    assert [backup["name"] for backup in status["backups"]] == ["monday"]


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_failure_keeps_the_list_and_says_why():
    body = listed()
    job = listing(body, **failed_job())
    action = ask(body, job, pods=failure())
    assert (condition(action)["status"], condition(action)["reason"]) == ("False", "DownloadFailed")
    assert action.event == Event("Warning", "DownloadFailed", "Cannot list")
    assert action.status["backups"] == body["status"]["backups"]
    assert action.status["lastDiscoveryTime"] == body["status"]["lastDiscoveryTime"]
    failing = {**body, "status": action.status}
    assert ask(failing, job, pods=failure()) == Nothing(55)
    assert ask(failing, job, pods=[]) == Nothing(55)  # what was seen says more than that it is gone
    again = ask(failing, listing(body, age=61, **failed_job()), pods=failure())
    assert isinstance(again, CreateJob)
    assert again.then == Nothing()


@pytest.mark.parametrize(
    ("lasted", "delay"),
    [pytest.param(10, 60, id="first"), pytest.param(600, 600, id="later"), pytest.param(DAY, 3600, id="at-most")],
)
def test_the_longer_it_fails_the_later_it_is_tried_again(lasted, delay):
    body = bucket()
    body = {**body, "status": ask(body, listing(body, **failed_job()), pods=failure()).status}
    job = listing(body, age=0, **failed_job())
    job["metadata"]["creationTimestamp"] = ago(-lasted)
    assert ask(body, job, now=NOW + timedelta(seconds=lasted), pods=failure()) == Nothing(delay)


def test_a_refusal_is_shown_and_tried_again():
    action = refused(read(bucket()), NOW, Problem("QuotaExceeded", "exceeded quota"))
    assert (condition(action)["reason"], action.after) == ("QuotaExceeded", 60)


def test_a_next_listing_that_is_refused_is_tried_again_later_and_not_written_over():
    body, problem = listed(), Problem("TemplateInvalid", "no")
    job = listing(body, age=DAY + 1, **complete())
    assert isinstance(ask(body, job, pods=report(MONDAY, TUESDAY)), CreateJob)
    body = {**body, "status": refused(read(body), NOW, problem).status}
    assert isinstance(ask(body, job, pods=report(MONDAY, TUESDAY)), CreateJob)
    assert refused(read(body), NOW, problem) == Nothing(60)
    running = listing(body, number=2, active=1)
    action = ask(body, job, running)
    assert (condition(action)["reason"], action.after) == ("Discovering", 0)
    body = {**body, "status": action.status}
    assert isinstance(ask(body, job, running), Nothing)
    late = listing(body, number=2, age=800, **complete())
    assert condition(ask(body, job, late, pods=report(MONDAY)))["reason"] == "Discovered"


def test_a_claim_that_is_lost_after_a_good_listing_is_asked_for_again_and_again():
    body = volume()
    job = listing(body, age=DAY + 1, **complete())
    body = {**body, "status": ask(body, listing(body, **complete()), pods=report(MONDAY)).status}
    for _ in "ab":
        action = ask(body, job, pods=report(MONDAY), claim_known=True)
        assert action.after == 60
        body = {**body, "status": action.status} if isinstance(action, SetStatus) else body
    assert action == Nothing(60)
    assert condition(body)["reason"] == "ClaimNotFound"
    assert body["status"]["backups"]


def test_a_pod_that_cannot_start_is_shown_while_it_waits():
    missing = waiting("CreateContainerConfigError", 'secret "keys" not found', name="discover")
    body = bucket()
    job = listing(body, age=11, active=1)
    assert ask(body, job) == Ask(Fact.PODS)
    action = ask(body, job, pods=[pod("Pending", missing)])
    assert condition(action)["reason"] == "CredentialsLost"
    slow = [pod("Pending", waiting("ImagePullBackOff", "slow", name="discover"))]
    assert condition(ask(body, job, pods=slow))["reason"] == "ImagePullFailed"
    assert isinstance(ask(listed(), job, pods=slow), Nothing)  # that may pass


def test_a_listing_that_does_not_end_is_followed_by_another_one():
    body = listed()
    old = listing(body, age=2000, number=1, **complete())
    hung = listing(body, age=960, number=2, active=1, ready=1)
    action = ask(body, old, hung)
    assert condition(action)["reason"] == "DeadlineExceeded"
    failing = {**body, "status": action.status}
    assert ask(failing, old, hung).name == "discover-all-1"
    assert isinstance(ask(failing, hung), CreateJob)
    assert isinstance(ask(body, listing(body, age=959, active=1, ready=1)), Nothing)


def test_earlier_listings_go_when_the_next_one_has_ended():
    body = listed()
    old, new = listing(body, age=DAY, **complete()), listing(body, number=2, **complete())
    action = ask(body, old, new, pods=report(MONDAY, TUESDAY))
    assert isinstance(action, DeleteJob)
    assert action.uid == "uid-listing-1"
