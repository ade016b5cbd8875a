"""ScheduledBackup: which slot is due, and what to do about it. The rules are those of Kubernetes' CronJob."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from postgres_operator import names
from postgres_operator.api.backup import FINISHED
from postgres_operator.api.common import dump
from postgres_operator.api.schedule import ScheduledBackup, ScheduledBackupStatus

from . import deletion, retention
from .actions import Action, Body, ChangeBackup, CreateBackup, DeleteBackup, Event, Nothing, SetStatus
from .conditions import condition, find, timestamp, unless_same
from .cron import Cron, CronInvalid, ZoneUnknown, parse, zone

# No timer of ours sleeps longer: the clock of the node may be set meanwhile.
_LONGEST_SLEEP = 300.0
_RETRY_REFUSED = 60.0
_RETRY_DELETION = 5.0
# A last slot that is further ahead of the clock was not made by a replica whose clock is a little off.
_CLOCKS_DIFFER = timedelta(hours=1)
_ACTIVE_SHOWN = 32


@dataclass(frozen=True, slots=True)
class Made:
    """A Backup that this schedule has made."""

    name: str
    uid: str
    resource_version: str
    phase: str = ""
    completion: datetime | None = None
    deleted: bool = False
    ending: bool = False  # its Job has ended, and its status does not say so yet
    stopped: bool = False  # it is deleted, its Job has ended, and its artifact is about to go

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.phase not in FINISHED and not self.stopped


def read_made(body: Body, *, ending: bool = False) -> Made:
    """The Backup of an API object."""
    meta, status = body["metadata"], body.get("status", {})
    completion = status.get("completionTime")
    return Made(
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        phase=status.get("phase", ""),
        completion=datetime.fromisoformat(completion) if completion else None,
        deleted="deletionTimestamp" in meta,
        ending=ending,
        stopped=deletion.stopped(body),
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """The times of a schedule."""

    cron: Cron
    zone: ZoneInfo
    delay: timedelta  # from a slot to its start


def decide(
    schedule: ScheduledBackup, backups: Sequence[Made], now: datetime, kept: Sequence[retention.Kept] = ()
) -> Action:
    """The next step of a ScheduledBackup; `backups` are those that it has made, `kept` the same for its retention."""
    if schedule.deleted:
        return Nothing()
    action = _step(schedule, backups, now)
    # Only where nothing else is to be done: what keeps a deletion from working must not keep Backups from being made.
    if isinstance(action, Nothing) and (old := _superfluous(schedule, backups)):
        limit = schedule.spec.failed_backups_history_limit
        return _delete(old, f"more than {limit} have failed", required=False, after=action.after)
    if isinstance(action, Nothing) and (next_one := _retain(schedule, kept, now)):
        return replace(next_one, after=action.after)
    return action


def _retain(
    schedule: ScheduledBackup, kept: Sequence[retention.Kept], now: datetime
) -> DeleteBackup | ChangeBackup | SetStatus | None:
    try:
        action = retention.decide(schedule, kept, zone(schedule.spec.time_zone), now)
    except ZoneUnknown:
        return None  # the condition Ready says so
    if isinstance(action, SetStatus):
        others = [c for c in dump(schedule.status)["conditions"] if c["type"] != retention.CONDITION]
        status = {**dump(schedule.status), "conditions": [*others, *action.status["conditions"]]}
        return replace(action, status=status)
    return action


def _step(schedule: ScheduledBackup, backups: Sequence[Made], now: datetime) -> Action:
    base, spec = _base(schedule.status, backups), schedule.spec
    if spec.suspend:
        return _wait(schedule, base, now, "Suspended", "No Backups are created while spec.suspend is true.")
    try:
        plan = Plan(parse(spec.schedule), zone(spec.time_zone), delay(schedule))
    except CronInvalid as error:
        return _wait(schedule, base, now, "ScheduleInvalid", f"spec.schedule cannot be read: {error}.", warn=True)
    except ZoneUnknown as error:
        message = f"spec.timeZone: {error}; write an IANA name such as Europe/Berlin."
        return _wait(schedule, base, now, "TimeZoneUnknown", message, warn=True)
    ready = now - plan.delay  # what starts now
    since = _since(schedule, now, ready)
    upcoming = plan.cron.next(max(since, ready), plan.zone)
    if upcoming is None:
        message = f"{spec.schedule!r} names no day that comes within five years."
        return _wait(schedule, base, now, "NeverDue", message, warn=True)
    slot = _due(schedule, plan, since, ready)
    if slot is None:
        return _idle(schedule, base, now, plan, upcoming)
    return _start(schedule, base, backups, now, plan, slot, upcoming)


def _start(
    schedule: ScheduledBackup,
    base: Body,
    backups: Sequence[Made],
    now: datetime,
    plan: Plan,
    slot: datetime,
    upcoming: datetime,
) -> Action:
    """A slot is due."""
    policy, deadline = schedule.spec.concurrency_policy, schedule.spec.starting_deadline_seconds
    name = names.scheduled_backup(schedule.metadata.name, slot)
    if any(made.name == name for made in backups):
        return _made(schedule, base, now, plan, slot, upcoming)
    late = (now - slot - plan.delay).total_seconds()
    if deadline is not None and late > deadline:
        return _idle(schedule, {**base, "lastMissedTime": timestamp(slot)}, now, plan, upcoming, missed=slot)
    active = [made for made in backups if made.active]
    # With what is about to end would go the only list of an artifact that is there: it is waited for.
    running = (made for made in active if not (made.deleted or made.ending))
    if policy == "Replace" and (old := next(running, None)):
        return _delete(old, f'it is replaced by Backup "{name}"', required=True, after=_RETRY_DELETION)
    if policy != "Allow" and active:
        others = ", ".join(f'"{made.name}"' for made in active[:3])
        message = f"The Backup for {timestamp(slot)} waits for {others} to end."
        wake = (upcoming + plan.delay - now).total_seconds()
        if deadline is not None:
            wake = min(wake, deadline - late)
        waiting = {**base, "nextScheduleTime": timestamp(slot)}
        return _wait(schedule, waiting, now, "WaitingForBackup", message, after=wake)
    base = {**base, "active": _shown([*base["active"], name])}
    return CreateBackup(_backup(schedule, name, slot), _made(schedule, base, now, plan, slot, upcoming))


def delay(schedule: ScheduledBackup) -> timedelta:
    """How much later than its slot each Backup of this schedule starts; another time for each schedule."""
    spread = schedule.spec.jitter_seconds + 1
    return timedelta(seconds=int(names.short_hash(schedule.metadata.uid), 16) % spread)


def _since(schedule: ScheduledBackup, now: datetime, ready: datetime) -> datetime:
    """The time up to which slots are done with: run, or missed."""
    status = schedule.status
    done = [time for time in (status.last_schedule_time, status.last_missed_time) if time]
    last = max(done, default=schedule.metadata.creation_timestamp)
    if last - now <= _CLOCKS_DIFFER:
        return last
    # A clock that was far ahead must not stop the schedule until that time comes. What was promised since is due. No
    # slot runs twice by that: its Backup has its name.
    promised = status.next_schedule_time
    return promised - timedelta(minutes=1) if promised and promised <= ready else ready


def _due(schedule: ScheduledBackup, plan: Plan, since: datetime, ready: datetime) -> datetime | None:
    """The newest slot that should have been started and was not: after an outage there is one Backup, not many."""
    promised = schedule.status.next_schedule_time
    if promised and promised > ready:
        # Also where the schedule was changed to one that, had it been there, would have had a slot since the last one.
        return None
    return plan.cron.newest(since, ready, plan.zone)


def _base(status: ScheduledBackupStatus, backups: Sequence[Made]) -> Body:
    """What of the status does not depend on the next slot."""
    successes = [made.completion for made in backups if made.phase == "Completed" and made.completion]
    if status.last_successful_time:  # the Backup may have been deleted since
        successes.append(status.last_successful_time)
    base: Body = {"active": _shown(made.name for made in backups if made.active)}
    if successes:
        base["lastSuccessfulTime"] = timestamp(max(successes))
    for key, time in (("lastScheduleTime", status.last_schedule_time), ("lastMissedTime", status.last_missed_time)):
        if time:
            base[key] = timestamp(time)
    return base


def _shown(active: Iterable[str]) -> list[str]:
    return sorted(set(active))[:_ACTIVE_SHOWN]


def _made(
    schedule: ScheduledBackup, base: Body, now: datetime, plan: Plan, slot: datetime, upcoming: datetime
) -> SetStatus:
    """The status once the Backup of a slot is there."""
    status = {**base, "lastScheduleTime": timestamp(slot), "nextScheduleTime": timestamp(upcoming)}
    status["conditions"] = _conditions(schedule, _ready(schedule, now, "Scheduled", _next(plan, upcoming), ok=True))
    return SetStatus(status, after=_sleep(upcoming + plan.delay - now))


def _idle(
    schedule: ScheduledBackup, base: Body, now: datetime, plan: Plan, upcoming: datetime, missed: datetime | None = None
) -> Action:
    """Nothing is due. What was missed is shown until a Backup is made."""
    base["nextScheduleTime"] = timestamp(upcoming)
    after = (upcoming + plan.delay - now).total_seconds()
    before, last = missed or schedule.status.last_missed_time, schedule.status.last_schedule_time
    if before is None or (last and last >= before):
        return _wait(schedule, base, now, "Scheduled", _next(plan, upcoming), ok=True, after=after)
    message = (
        f"No Backup was made for {timestamp(before)}: it could not be started within "
        f"startingDeadlineSeconds. {_next(plan, upcoming)}"
    )
    return _wait(schedule, base, now, "MissedStart", message, after=after, warn=missed is not None)


def _next(plan: Plan, upcoming: datetime) -> str:
    return f"The next Backup is made at {timestamp(upcoming + plan.delay)}."


def _wait(
    schedule: ScheduledBackup,
    base: Body,
    now: datetime,
    reason: str,
    message: str,
    *,
    ok: bool = False,
    after: float | None = None,
    warn: bool = False,
) -> Action:
    """Nothing is made now; the condition says why."""
    base["conditions"] = _conditions(schedule, _ready(schedule, now, reason, message, ok=ok))
    told = any((c.reason, c.message) == (reason, message) for c in schedule.status.conditions)
    event = Event("Warning", reason, message) if warn and not told else None
    return unless_same(
        schedule.status, SetStatus(base, event, None if after is None else _sleep(timedelta(seconds=after)))
    )


def refused(schedule: ScheduledBackup, now: datetime, reason: str, message: str) -> Action:
    """The API server did not take the Backup: shown, and tried again."""
    base = {k: v for k, v in dump(schedule.status).items() if k != "conditions"}
    return _wait(schedule, base, now, reason, message, after=_RETRY_REFUSED, warn=True)


def _ready(schedule: ScheduledBackup, now: datetime, reason: str, message: str, *, ok: bool) -> Body:
    state: Literal["True", "False"] = "True" if ok else "False"
    generation = schedule.metadata.generation
    return condition(schedule.status.conditions, "Ready", state, reason, message, now, generation)


def _conditions(schedule: ScheduledBackup, ready: Body) -> list[Body]:
    """With what retention has to say, which decides for itself."""
    said = find(schedule.status.conditions, retention.CONDITION) if schedule.spec.retention else None
    return [ready, dump(said)] if said else [ready]


def _sleep(time: timedelta) -> float:
    return min(max(time.total_seconds(), 0.01), _LONGEST_SLEEP)


def _superfluous(schedule: ScheduledBackup, backups: Sequence[Made]) -> Made | None:
    """The oldest failed Backup, if there are too many. One that is Completed is a matter of retention."""
    failed = sorted((made for made in backups if made.phase == "Failed" and not made.deleted), key=lambda m: m.name)
    return failed[0] if len(failed) > schedule.spec.failed_backups_history_limit else None


def _delete(made: Made, why: str, *, required: bool, after: float | None) -> DeleteBackup:
    return DeleteBackup(made.name, made.uid, made.resource_version, why, required, after)


def _backup(schedule: ScheduledBackup, name: str, slot: datetime) -> Body:
    # No ownerReference: with the schedule would go the only list of what lies in the store.
    meta, template = schedule.metadata, schedule.spec.template
    return {
        "apiVersion": names.API_VERSION,
        "kind": "Backup",
        "metadata": {
            "name": name,
            "namespace": meta.namespace,
            "labels": {
                **template.metadata.labels,
                names.LABEL_SCHEDULE: meta.name,
                names.LABEL_SCHEDULE_UID: meta.uid,
            },
            "annotations": {**template.metadata.annotations, names.ANNOTATION_SLOT: timestamp(slot)},
        },
        "spec": dump(template.spec),
    }
