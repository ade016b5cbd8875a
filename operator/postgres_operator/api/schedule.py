"""ScheduledBackup: Backups at the times of a cron line."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from postgres_operator.names import GROUP

from .backup import BackupSpec
from .cel import Rule, rules
from .common import ApiModel, Conditions, LabelKey, NameString, Resource, Time

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_FIVE = "^ *[^ ]+( +[^ ]+){4} *$"


def _field(number: int, value: str, message: str, names: Sequence[str] = ()) -> Rule:
    """The field of that number is a list of values, ranges and steps; names come alone or in ranges of names."""
    ranges = [f"{low}(-({'|'.join(names[n:])}))?" for n, low in enumerate(names)]
    span = "|".join([r"\*|\?", f"({value})(-({value}))?", *ranges])
    part = f"({span})(/0*[1-9][0-9]{{0,3}})?"
    line = f"(?i)^ *([^ ]+ +){{{number}}}{part}(,{part})*( |$)"
    return Rule(f"!self.matches('{_FIVE}') || self.matches(r'{line}')", message)


CronLine = Annotated[
    str,
    Field(min_length=1, max_length=256),
    Rule("!self.contains('=')", "leave out TZ= and CRON_TZ=: write the time zone into timeZone"),
    Rule(
        f"self.contains('=') || self in [{', '.join(repr(m) for m in MACROS)}] || self.matches('{_FIVE}')",
        "write five fields (minute, hour, day of month, month, day of week) with spaces between them, such as "
        f"'0 3 * * *', or one of {', '.join(MACROS)}",
    ),
    _field(0, "[0-5]?[0-9]", "minute (first field): write 0-59, such as 0, */15, 1,31 or 0-30/10"),
    _field(1, "[01]?[0-9]|2[0-3]", "hour (second field): write 0-23, such as 3, */6, 1,13 or 8-18"),
    _field(2, "0?[1-9]|[12][0-9]|3[01]", "day of month (third field): write 1-31, such as *, 1 or 1,15"),
    _field(3, "0?[1-9]|1[0-2]", "month (fourth field): write 1-12 or JAN-DEC, such as *, 1-6 or JAN,JUL", MONTHS),
    _field(
        4,
        "0?[0-6]",
        "day of week (fifth field): write 0-6 (Sunday is 0) or SUN-SAT, such as *, 1-5 or MON-FRI",
        WEEKDAYS,
    ),
    Rule(
        "self.findAll('[0-9]{1,4}-[0-9]{1,4}').all(r, int(r.split('-')[0]) <= int(r.split('-')[1]))",
        "a range begins with its lower end: write 1-5, not 5-1",
    ),
]

_LABEL = "([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_NOT_OURS = Rule(
    f"self.all(key, !key.startsWith('{GROUP}/'))",
    f"leave out what begins with {GROUP}/: the operator sets these itself",
    reason="FieldValueForbidden",
)


class TemplateMeta(ApiModel):
    """What is put onto each Backup besides the operator's own labels."""

    labels: Annotated[
        dict[LabelKey, Annotated[str, Field(max_length=63, pattern=f"^{_LABEL}$")]], Field(max_length=32), _NOT_OURS
    ] = Field({}, description="Labels of each Backup.")
    annotations: Annotated[dict[LabelKey, Annotated[str, Field(max_length=1024)]], Field(max_length=32), _NOT_OURS] = (
        Field({}, description="Annotations of each Backup.")
    )


class BackupTemplate(ApiModel):
    """The Backups to create."""

    metadata: TemplateMeta = TemplateMeta()
    spec: BackupSpec = Field(description="As the spec of a Backup.")


Count = Annotated[int, Field(ge=1, le=10000)]
_RULES = ("keepLast", "keepHourly", "keepDaily", "keepWeekly", "keepMonthly", "keepYearly", "maxAge")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


class Retention(ApiModel):
    """Which Backups of the schedule stay: those that any rule keeps. The others go, with their artifacts."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                " || ".join(f"has(self.{rule})" for rule in _RULES),
                f"write at least one rule that keeps Backups: {', '.join(_RULES)}",
                reason="FieldValueRequired",
            ),
        )
    )

    keep_last: Count | None = Field(None, description="Keep the newest so many.")
    keep_hourly: Count | None = Field(None, description="Keep the newest of each of the last so many hours with one.")
    keep_daily: Count | None = Field(None, description="The same for days.")
    keep_weekly: Count | None = Field(None, description="The same for weeks, which begin on Monday.")
    keep_monthly: Count | None = Field(None, description="The same for months.")
    keep_yearly: Count | None = Field(None, description="The same for years.")
    max_age: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,4}[hdw]$", max_length=6)] | None = Field(
        None, description="Keep what is not older than so many hours, days or weeks, such as `30d`."
    )
    dry_run: bool = Field(False, description="Delete nothing, but say what would go.")

    @property
    def age(self) -> timedelta | None:
        """`maxAge`."""
        return timedelta(**{_UNITS[self.max_age[-1]]: int(self.max_age[:-1])}) if self.max_age else None


class ScheduledBackupSpec(ApiModel):
    """When to create which Backups."""

    schedule: CronLine = Field(description="Cron line of five fields, or `@daily` and its like, in `timeZone`.")
    time_zone: Annotated[
        str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$")
    ] = Field("UTC", description="Name in the IANA time zone database, such as `Europe/Berlin`.")
    suspend: bool = Field(False, description="Create no Backups while this is true; those that run go on.")
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = Field(
        "Forbid",
        description="What to do while an earlier Backup of this schedule has not ended: `Forbid` waits for it, "
        "`Replace` deletes it first, `Allow` does not care.",
    )
    starting_deadline_seconds: Annotated[int, Field(ge=10, le=31 * 86400)] | None = Field(
        None, description="A slot that is later than this is missed; without it the newest slot is made up for."
    )
    jitter_seconds: Annotated[int, Field(ge=0, le=86400)] = Field(
        0, description="Each Backup is created later by a time up to this, the same one for each slot of a schedule."
    )
    failed_backups_history_limit: Annotated[int, Field(ge=1, le=1000)] = Field(
        10, description="How many Backups that are Failed are kept; older ones are deleted. They have no artifact."
    )
    retention: Retention | None = Field(
        None, description="Which Backups that are Completed are kept; all of them without it."
    )
    template: BackupTemplate = Field(description="The Backups to create.")


class ScheduledBackupStatus(ApiModel):
    """What was done, and what comes next."""

    last_schedule_time: Time | None = Field(None, description="The slot that a Backup was created for last.")
    next_schedule_time: Time | None = Field(
        None, description="The slot of the next Backup; in the past while that waits."
    )
    last_successful_time: Time | None = Field(None, description="When a Backup of this schedule last was Completed.")
    last_missed_time: Time | None = Field(None, description="The last slot that no Backup was created for in time.")
    active: Annotated[list[NameString], Field(max_length=32)] = Field(
        default_factory=list, description="Backups of this schedule that have not ended; at most 32 are shown."
    )
    conditions: Conditions = Field(default_factory=list)


class ScheduledBackup(Resource):
    """Creates Backups at the times of a cron line."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            # 50: the slot makes 13 characters more, and the name of a Backup should fit into a label.
            Rule(
                "size(self.metadata.name) <= 50",
                "metadata.name: write at most 50 characters; Backups are named after it and their slot",
            )
        )
    )

    spec: ScheduledBackupSpec
    status: ScheduledBackupStatus = ScheduledBackupStatus()
