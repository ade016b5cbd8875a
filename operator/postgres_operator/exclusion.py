"""Who has to wait for whom: one Restore at a time into a Database, and no Backup of it meanwhile.

Read at the moment of the decision, not before: from there to the creation of the Job nothing else gets a turn.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from . import names
from .api.backup import Backup
from .api.restore import Restore
from .cache import Cache, Key
from .decide.actions import Body, Claim
from .decide.deletion import stopped
from .decide.run import waits_for_slot
from .decide.run_status import Run


class Start(NamedTuple):
    """What a run takes whose Job is being created this moment."""

    database: str
    claim: str  # empty for none
    job: str


Starting = Mapping[Key, Start]
NOBODY: Starting = MappingProxyType({})


def blockers(cache: Cache, run: Run, claim: Claim | None, starting: Starting) -> Iterator[str]:
    """What must end before this run may start, as people would name it."""
    kinds = ("Restore",) if isinstance(run, Backup) else ("Restore", "Backup")
    named = set()
    for kind in kinds:
        for body in cache.list(kind, run.metadata.namespace):
            if _same_database(run, body) and (_active(body) or (kind == "Restore" and _goes_first(body, run))):
                named.add(body["metadata"]["uid"])
                yield f'{kind} "{body["metadata"]["name"]}"'
    for (kind, namespace, name), start in starting.items():
        if namespace != run.metadata.namespace or (kind, namespace, name) == run.key:
            continue
        if (kind in kinds and start.database == run.spec.database_ref.name) or _exclusive(claim, start.claim):
            yield f'{kind} "{name}"'
    for job in _others(cache, run):
        labels, name = job["metadata"]["labels"], job["metadata"]["name"]
        same = labels.get(names.LABEL_DATABASE) == run.spec.database_ref.name
        # Also one whose owner was deleted: it may still run.
        if same and labels.get(names.LABEL_KIND, "").title() in kinds and labels.get(names.LABEL_UID) not in named:
            yield f'Job "{name}"'
        elif holder := holding(claim, job):
            yield holder


def claim_blockers(cache: Cache, run: Run, claim: Claim | None, starting: Starting) -> Iterator[str]:
    """What must end before a Job of the run may have the claim, whatever it does with the Database."""
    for (kind, namespace, name), start in starting.items():
        if namespace == run.metadata.namespace and _exclusive(claim, start.claim):
            yield f'{kind} "{name}"'
    yield from filter(None, (holding(claim, job) for job in _others(cache, run)))


def holding(claim: Claim | None, job: Body) -> str:
    """The Job as people would name it, if it has the claim and only one pod at a time may mount that; else empty."""
    labels, name = job["metadata"].get("labels", {}), job["metadata"]["name"]
    if claim and claim.exclusive and labels.get(names.LABEL_CLAIM) == names.short_hash(claim.name):
        return f'Job "{name}", which has claim "{claim.name}" (ReadWriteOncePod)'
    return ""


def _same_database(run: Run, body: Body) -> bool:
    other = body["metadata"]["uid"] != run.metadata.uid
    return other and bool(body["spec"]["databaseRef"]["name"] == run.spec.database_ref.name)


def _active(body: Body) -> bool:
    return bool(body.get("status", {}).get("phase") == "InProgress") and not stopped(body)


def _goes_first(body: Body, run: Run) -> bool:
    """Whether a waiting Restore is ahead of this run: otherwise ever new Backups could keep it waiting."""
    if body.get("status", {}).get("phase") != "Pending":
        return False
    other, mine = Restore.model_validate(body), run.metadata
    before = (other.metadata.creation_timestamp, other.metadata.uid) < (mine.creation_timestamp, mine.uid)
    return waits_for_slot(other) and not other.deleted and before


def _exclusive(claim: Claim | None, claimed: str) -> bool:
    return claim is not None and claim.exclusive and claim.name == claimed


def _others(cache: Cache, run: Run) -> Iterator[Body]:
    """Jobs of other owners that have not ended."""
    for (_, namespace, _), body in cache.unfinished.items():
        if namespace == run.metadata.namespace and body["metadata"]["labels"].get(names.LABEL_UID) != run.metadata.uid:
            yield body
