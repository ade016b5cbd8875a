"""BackupStore with `discover`: what lies in it is listed in its status, by a chain of Jobs."""

import json
import zlib
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from postgres_operator import names
from postgres_operator.api.common import dump
from postgres_operator.api.store import BackupStore, BackupStoreStatus, DiscoveredBackup, DiscoveryResult

from . import chain as chains
from . import place as places
from .actions import Action, Ask, Body, Claim, CreateJob, DeleteJob, Event, Fact, Nothing, SetStatus
from .chain import GONE_RETRY_SECONDS, Chain
from .conditions import condition, find, timestamp, unless_same
from .jobs import Job, Problem, failure, result, trouble
from .run import Policy

_DEADLINE_SECONDS = 900
_RETRY_SECONDS = 60.0
_RETRY_AT_MOST_SECONDS = 3600.0

# One line of a report, as discover.sh writes it; its text is empty where the manifest does not say it.
_ENTRY = (
    "path", "name", "namespace", "database", "databaseName", "backupTime", "sizeBytes", "format", "serverVersion",
    "partial",
)  # fmt: skip
_MOST_ENTRIES = 100
_MOST_BYTES = 128 * 1024  # of all lines, uncompressed


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What decisions about a BackupStore look at; None where it was not asked for, or does not exist."""

    now: datetime
    listings: Sequence[Job] = ()
    pods: Sequence[Body] | None = None  # of the last of them
    refusals: Sequence[Body] | None = None
    claim: Claim | None = None
    claim_known: bool = False


def content(store: BackupStore) -> str:
    """Hash of what a listing is good for: this place, and this way to get there."""
    place = places.inside(store, "")
    return names.short_hash(store.metadata.uid, json.dumps(dict(place.store), sort_keys=True), place.service_account)


def last_listing(store: BackupStore, listings: Sequence[Job]) -> Job | None:
    """The newest listing of what the spec names, otherwise the newest one at all."""
    return chains.newest(listings, content(store))


def decide(store: BackupStore, facts: StoreFacts, policy: Policy) -> Action:
    """The next step of a BackupStore."""
    if store.deleted:
        return Nothing()
    if not store.spec.discover:
        return _off(store, facts)
    job = last_listing(store, facts.listings)
    if job is None or job.verifies != content(store):
        return _list(store, facts, policy, job)
    chain = Chain(facts.now, facts.listings, job, _DEADLINE_SECONDS)
    if chain.runs:
        if chain.given_up:
            return _go_on(store, facts, policy, chain)
        return Nothing(GONE_RETRY_SECONDS) if job.deleting else _running(store, facts, chain)
    outcome = _outcome(store, facts, job)
    if not isinstance(outcome, Nothing):
        return outcome
    if tidying := chain.tidy():
        return tidying
    due = _interval(store, job) - chain.age
    return Nothing(due) if due > 0 else _list(store, facts, policy, job)


def failed_status(store: BackupStore, now: datetime, problem: Problem) -> SetStatus | Nothing:
    """What lies in the store cannot be listed; the last list stays."""
    before = find(store.status.conditions, "Discovered")
    known = before is not None and before.reason == problem.reason
    event = None if known else Event("Warning", problem.reason, problem.message)
    return unless_same(store.status, SetStatus(_status(store, store.status, "False", problem, now), event))


def refused(store: BackupStore, now: datetime, problem: Problem) -> Action:
    """The Job cannot be made; tried again after a while."""
    return replace(failed_status(store, now, problem), after=_RETRY_SECONDS)


def _off(store: BackupStore, facts: StoreFacts) -> Action:
    """Nothing runs, and no list is left that nobody keeps up to date."""
    for job in facts.listings:  # switched on again, it begins anew
        if not job.deleting:
            return DeleteJob(job.name, job.uid, job.resource_version, GONE_RETRY_SECONDS)
    if not store.status.conditions:
        return Nothing()
    off = Problem("DiscoveryOff", "spec.discover is false: what lies in the store is not listed.")
    return unless_same(store.status, SetStatus(_status(store, BackupStoreStatus(), "False", off, facts.now)))


def _list(store: BackupStore, facts: StoreFacts, policy: Policy, previous: Job | None) -> Action:
    place = places.inside(store, "")
    if place.claim and not facts.claim_known:
        return Ask(Fact.CLAIM)
    if place.claim and facts.claim is None:
        message = f'PersistentVolumeClaim "{place.claim}" does not exist: create it.'
        return refused(store, facts.now, Problem("ClaimNotFound", message))
    hash_, before = content(store), find(store.status.conditions, "Discovered")
    elsewhere = previous is not None and previous.verifies != hash_
    first = before is None or before.reason == "DiscoveryOff" or elsewhere
    return CreateJob(
        name=chains.next_name("Discover", store.metadata.name, hash_, previous),
        template="discover.yaml.j2",
        values={
            "store": dict(place.store),
            "store_url": places.url(store),
            "uploader_image": policy.uploader_image,
            "active_deadline_seconds": _DEADLINE_SECONDS,
            # Its successor comes before that and deletes it; this is for when there is none.
            "ttl_seconds_after_finished": store.spec.discover_interval_seconds + _DEADLINE_SECONDS,
            "resources": {},
            "node_selector": {},
            "tolerations": [],
            "image_pull_secrets": [],
        },
        annotations={names.ANNOTATION_VERIFIES: hash_},
        claim=facts.claim,
        service_account=place.service_account,
        # The outcome of the last one stands until that of this one is known, if it was about the same place.
        then=_discovering(store, facts) if first else Nothing(),
    )


def _discovering(store: BackupStore, facts: StoreFacts) -> SetStatus:
    begun = Problem("Discovering", f"What lies in {places.url(store)} is being listed.")
    return SetStatus(_status(store, store.status, "False", begun, facts.now))


def _go_on(store: BackupStore, facts: StoreFacts, policy: Policy, chain: Chain) -> Action:
    """The listing does not end: say so, and make the next one, which may run elsewhere."""
    job, before = chain.last, find(store.status.conditions, "Discovered")
    if before is None or before.status == "True" or before.reason == "Discovering":  # what was seen before says more
        message = (
            f"Job {job.name}, which lists {places.url(store)}, has not ended {chain.given_up_after} s after it was "
            f"created: kubectl describe job -n {store.metadata.namespace} {job.name} says why. Another one lists it."
        )
        return replace(failed_status(store, facts.now, Problem("DeadlineExceeded", message)), after=0)
    if tidying := chain.tidy():
        return tidying
    return Nothing(_RETRY_SECONDS) if chain.crowded else _list(store, facts, policy, job)


def _running(store: BackupStore, facts: StoreFacts, chain: Chain) -> Action:
    if chains.refused(find(store.status.conditions, "Discovered")):
        return replace(_discovering(store, facts), after=0)  # no more: here it is
    problem = trouble(chain.last, chain.age, facts.pods, facts.refusals, patient=_listed(store))
    if isinstance(problem, Ask):
        return problem
    if problem is None:
        return chain.look_again
    return replace(failed_status(store, facts.now, problem), after=chain.look_again.after)


def _outcome(store: BackupStore, facts: StoreFacts, job: Job) -> Action:
    """What a finished listing says; nothing where the status says it already."""
    before = find(store.status.conditions, "Discovered")
    if chains.refused(before):
        return Nothing()  # which came later
    if facts.pods is None:
        return Ask(Fact.PODS)
    if job.failed:
        if not facts.pods and before and before.status == "False" and before.reason != "Discovering":
            return Nothing()  # what was seen while it was there says more than that it is gone
        return failed_status(store, facts.now, failure(job, facts.pods, "DiscoveryFailed"))
    found = _read(store, result(facts.pods))
    if found is not None:
        return _discovered(store, facts.now, found)
    if _listed(store) and not facts.pods:
        return Nothing()  # it was read before the pod went
    return failed_status(store, facts.now, Problem("ResultLost", f"Job {job.name} left no report; it is repeated."))


def _listed(store: BackupStore) -> bool:
    before = find(store.status.conditions, "Discovered")
    return before is not None and before.status == "True"


def _interval(store: BackupStore, job: Job) -> float:
    """Seconds from one listing to the next; after a failure, about as many as it has lasted."""
    interval = float(store.spec.discover_interval_seconds)
    before = find(store.status.conditions, "Discovered")
    if before is None or before.status == "True":
        return interval
    lasted = (job.created - before.last_transition_time).total_seconds()
    return min(interval, _RETRY_AT_MOST_SECONDS, max(_RETRY_SECONDS, lasted))


def _read(store: BackupStore, report: Body | None) -> BackupStoreStatus | None:
    """What a listing reports; None where that is not readable. Single entries that are not valid are counted only."""
    try:
        outcome = DiscoveryResult.model_validate(report)
        packed = b64decode(outcome.backups, validate=True)
        lines = zlib.decompressobj(wbits=31).decompress(packed, _MOST_BYTES).decode().splitlines()
    except (ValueError, zlib.error):
        return None
    backups = [entry for line in lines[:_MOST_ENTRIES] if (entry := _entry(store, line))]
    wrong = min(len(lines), _MOST_ENTRIES) - len(backups)
    return BackupStoreStatus(
        backups=sorted(backups, key=lambda backup: backup.backup_time, reverse=True),
        backup_count=max(outcome.count - wrong, 0),
        invalid_count=outcome.invalid + wrong,
    )


def _entry(store: BackupStore, line: str) -> DiscoveredBackup | None:
    try:
        said = dict(zip(_ENTRY, json.loads(line), strict=True))
        location = names.location(places.url(store), said.pop("path"))
        return DiscoveredBackup.model_validate({"location": location, **{k: v for k, v in said.items() if v != ""}})
    except (ValueError, TypeError):
        return None


def _discovered(store: BackupStore, now: datetime, found: BackupStoreStatus) -> SetStatus | Nothing:
    message = f"Backups in {places.url(store)}: {found.backup_count}."
    if len(found.backups) != found.backup_count:
        meta = store.metadata
        message += (
            f" The status has room for {len(found.backups)} of them; all are in the log of the Job: kubectl logs "
            f"-n {meta.namespace} -l {names.LABEL_UID}={meta.uid} --tail=-1"
        )
    if found.invalid_count:
        message += f" Manifests that are not valid, or whose dump is not there in full: {found.invalid_count}."
    return unless_same(store.status, SetStatus(_status(store, found, "True", Problem("Discovered", message), now)))


def _status(
    store: BackupStore, list_: BackupStoreStatus, is_true: Literal["True", "False"], problem: Problem, now: datetime
) -> Body:
    """The status with this list, and why it is as it is."""
    generation = store.metadata.generation
    stated = condition(store.status.conditions, "Discovered", is_true, problem.reason, problem.message, now, generation)
    body = {**dump(list_), "conditions": [stated]}
    if is_true == "True":
        body["lastDiscoveryTime"] = timestamp(now)
    return body
