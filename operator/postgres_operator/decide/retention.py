"""Which Backups of a schedule stay: those that any rule keeps, as with restic. The others go, one by one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Literal

from postgres_operator import names
from postgres_operator.api.backup import FINISHED, selection
from postgres_operator.api.schedule import Retention, ScheduledBackup

from . import verification
from .actions import Body, ChangeBackup, DeleteBackup, SetStatus
from .conditions import condition, find

CONDITION = "Retention"
_NAMED = 5  # in a message

# The newest Backup of a period stands for it. An hour that comes twice when the clocks change is two.
_PERIODS: tuple[tuple[str, Callable[[datetime], Any]], ...] = (
    ("keep_hourly", lambda t: (t.date(), t.hour, t.utcoffset())),
    ("keep_daily", lambda t: t.date()),
    ("keep_weekly", lambda t: t.isocalendar()[:2]),
    ("keep_monthly", lambda t: (t.year, t.month)),
    ("keep_yearly", lambda t: t.year),
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A Backup of the schedule, as far as retention looks at it."""

    name: str
    uid: str
    resource_version: str
    phase: str
    time: datetime  # of the data in it
    of: tuple[str, str] = ("", "")  # the Database, and what part of it
    ended: datetime | None = None
    doubted: bool = False  # it is Completed, but its verification has failed
    unproven: bool = False  # its verification has not ended
    finalizers: tuple[str, ...] = ()
    deleted: bool = False
    in_use: bool = False  # a Restore that has not ended names it
    policy: str = "Retain"
    condemned: bool = False  # its policy is Delete only because retention was about to delete it
    held_up: str = ""  # why its verification, or its deletion, does not go on

    @property
    def good(self) -> bool:
        """Whether it can be relied on."""
        return self.phase == "Completed" and not self.doubted and not self.unproven


def read_kept(body: Body, used: frozenset[str]) -> Kept:
    """The Backup of an API object; `used` has names and locations that Restores need."""
    meta, status = body["metadata"], body.get("status", {})
    created, ended = datetime.fromisoformat(meta["creationTimestamp"]), status.get("completionTime")
    time = status.get("backupTime") or meta["creationTimestamp"]
    conditions = {c["type"]: c for c in status.get("conditions", [])}
    deleted = "deletionTimestamp" in meta
    return Kept(
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        phase=status.get("phase", ""),
        # A node's clock may be wrong: one that is ahead would make a Backup the newest for as long.
        time=max(created, min(datetime.fromisoformat(t) for t in (time, ended or time))),
        of=(body["spec"]["databaseRef"]["name"], json.dumps(selection(body["spec"]), sort_keys=True)),
        ended=datetime.fromisoformat(ended) if ended else None,
        doubted=conditions.get("Verified", {}).get("status") == "False",
        unproven=verification.due(body),
        finalizers=tuple(meta.get("finalizers", ())),
        deleted=deleted,
        in_use=bool({meta["name"], status.get("backupLocation", "")} & used),
        policy=body["spec"].get("deletionPolicy", "Retain"),
        condemned=names.ANNOTATION_RETAINED in meta.get("annotations", {}),
        held_up=_held_up(conditions.get("Deleted" if deleted else "Verified", {})),
    )


def _held_up(told: Body) -> str:
    """What a condition says that is neither an end nor that all goes well."""
    if told.get("reason", "Running") in ("Running", "Deleting"):
        return ""
    return f"{told['reason']}: {told['message']}"


def superfluous(retention: Retention, backups: Sequence[Kept], zone: tzinfo, now: datetime) -> list[Kept]:
    """Those that no rule keeps, the oldest first.

    Of each Database, and of each part of one, for itself: never the newest good one, or what is newer than that.
    """
    going: list[Kept] = []
    for of in {b.of for b in backups}:
        there = sorted((b for b in backups if b.of == of and not b.deleted), key=_age, reverse=True)
        good = [b for b in there if b.good]
        kept = _kept(retention, good, zone, now)
        going += [b for b in good if b.name not in kept]
        # One whose verification has failed takes no place of a good one, but may be better than it seemed.
        kept = _kept(retention, [b for b in there if b.good or b.doubted], zone, now)
        going += [b for b in there if b.doubted and b.name not in kept and good and _age(b) < _age(good[0])]
    return sorted(going, key=_age)


def _kept(retention: Retention, backups: Sequence[Kept], zone: tzinfo, now: datetime) -> set[str]:
    """Names of those that any rule keeps, or that are the newest; the newest comes first."""
    kept = {b.name for b in backups[: max(retention.keep_last or 0, 1)]}
    for rule, period in _PERIODS:
        newest: dict[Any, str] = {}
        for backup in backups:
            newest.setdefault(period(backup.time.astimezone(zone)), backup.name)
        kept.update(list(newest.values())[: getattr(retention, rule) or 0])
    if retention.age is not None:
        kept.update(b.name for b in backups if now - b.time <= retention.age)
    return kept


def _age(backup: Kept) -> tuple[datetime, str]:
    return backup.time, backup.name


def decide(
    schedule: ScheduledBackup, backups: Sequence[Kept], zone: tzinfo, now: datetime
) -> DeleteBackup | ChangeBackup | SetStatus | None:
    """The next step of `spec.retention`, if there is one; it is only asked for where nothing else is to be done."""
    action = _step(schedule, backups, zone, now)
    going = action.name if isinstance(action, DeleteBackup) else ""
    # One that was about to go when the operator stopped, and now is not: people may rely on its policy and delete it.
    spared = next((b for b in backups if b.condemned and not b.deleted and b.name != going), None)
    return _spare(spared) if spared else action


def _step(
    schedule: ScheduledBackup, backups: Sequence[Kept], zone: tzinfo, now: datetime
) -> DeleteBackup | SetStatus | None:
    retention = schedule.spec.retention
    if retention is None:
        return None
    if schedule.spec.suspend:
        return _tell(schedule, now, "RetentionHeld", "Nothing is deleted while spec.suspend is true.")
    ended = [(b.ended, b.name, b) for b in backups if b.phase in FINISHED and b.ended]
    last = max(ended)[-1] if ended else None
    if last and last.unproven:  # an older one may be the last that can be relied on
        why = f"its verification does not go on: {last.held_up}"
        return _hold(schedule, now, last, why) if last.held_up else None
    if last and not last.good:
        why = "its verification has failed" if last.doubted else "it has failed"
        return _hold(schedule, now, last, f"{why}. The next good one ends this.")
    going = superfluous(retention, backups, zone, now)
    if retention.dry_run:
        return _tell(schedule, now, "RetentionDryRun", f"Nothing is deleted while dryRun is true. {_listed(going)}")
    free = [b for b in going if not b.in_use]
    # One at a time: each is a Job, and a store that is away is to be noticed with the first one.
    leaving = [b for b in backups if b.deleted and names.FINALIZER in b.finalizers]
    if stuck := next((b for b in leaving if b.held_up), None):
        message = f'No other Backup is deleted until "{stuck.name}" is gone, and that does not go on: {stuck.held_up}'
        return _tell(schedule, now, "RetentionHeld", message)
    if free and not leaving:
        return _delete(free[0])
    return _tell(
        schedule, now, "RetentionApplied", "Backups that no rule keeps are deleted with their artifacts.", "True"
    )


def _listed(going: Sequence[Kept]) -> str:
    if not going:
        return "No Backup would go."
    named = ", ".join(f'"{b.name}"' for b in going[:_NAMED])
    more = f" and {len(going) - _NAMED} more" if len(going) > _NAMED else ""
    return f"{len(going)} would go: {named}{more}."


def _delete(backup: Kept) -> DeleteBackup:
    others = [f for f in backup.finalizers if f != names.FINALIZER]
    metadata: Body = {"finalizers": [*others, names.FINALIZER]}
    if backup.policy == "Retain":
        metadata["annotations"] = {names.ANNOTATION_RETAINED: "true"}
    change = {"metadata": metadata, "spec": {"deletionPolicy": "Delete"}}
    why = "spec.retention does not keep it"
    return DeleteBackup(
        backup.name, backup.uid, backup.resource_version, why, required=False, after=None, change=change
    )


def _spare(backup: Kept) -> ChangeBackup:
    change = {"metadata": {"annotations": {names.ANNOTATION_RETAINED: None}}, "spec": {"deletionPolicy": "Retain"}}
    return ChangeBackup(backup.name, backup.resource_version, "it was about to be deleted, and stays", change)


def _hold(schedule: ScheduledBackup, now: datetime, last: Kept, why: str) -> SetStatus | None:
    message = f'Nothing is deleted, for Backup "{last.name}" is the last one and {why}'
    return _tell(schedule, now, "RetentionHeld", message)


def _tell(
    schedule: ScheduledBackup, now: datetime, reason: str, message: str, status: Literal["True", "False"] = "False"
) -> SetStatus | None:
    """The condition, unless it says so."""
    before = find(schedule.status.conditions, CONDITION)
    generation = schedule.metadata.generation
    if before and (before.reason, before.message, before.observed_generation) == (reason, message, generation):
        return None
    new = condition(schedule.status.conditions, CONDITION, status, reason, message, now, generation)
    return SetStatus({"conditions": [new]})
