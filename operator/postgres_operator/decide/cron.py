"""Cron lines as Kubernetes' CronJob reads them (robfig/cron v3): which minutes they mean in a time zone.

A minute is meant when the wall clock of the zone shows a time that fits the line. So a time that the clock skips in
spring does not come that day, and one that it shows twice in autumn comes twice: the rule of robfig/cron, as its own
tests have it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from postgres_operator.api.schedule import MACROS, MONTHS, WEEKDAYS

_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
# robfig/cron gives up after as long: 30 February never comes.
_HORIZON = timedelta(days=5 * 366)


class CronInvalid(ValueError):
    """It is no cron line."""


class ZoneUnknown(ValueError):
    """There is no time zone of that name."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron line, taken apart."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    every_day: bool  # one of the two fields of days is `*`: both have to fit then, otherwise one of them

    def next(self, after: datetime, zone: ZoneInfo) -> datetime | None:
        """The first time later than `after`, in UTC; None if it does not come within five years."""
        start = after.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
        return self._search(start, after + _HORIZON, zone, 1)

    def newest(self, since: datetime, until: datetime, zone: ZoneInfo) -> datetime | None:
        """The last time that is later than `since` and not later than `until`, in UTC."""
        start = until.astimezone(UTC).replace(second=0, microsecond=0)
        found = self._search(start, since, zone, -1)
        return found if found and found > since else None

    def _search(self, at: datetime, stop: datetime, zone: ZoneInfo, way: int) -> datetime | None:
        while (stop - at) * way >= timedelta(0):
            local = at.astimezone(zone)
            leap = self._leap(local.replace(tzinfo=None), way)
            if not leap:
                return at
            # The clocks may change on the way: then minute by minute.
            steady = (at + leap).astimezone(zone).utcoffset() == local.utcoffset()
            at += leap if steady else _MINUTE * way
        return None

    def _leap(self, local: datetime, way: int) -> timedelta:
        """How far it is, on the wall clock, to the next time that may fit; zero where this one does."""
        if not self._fits(local.date()):
            midnight = datetime.combine(local.date(), time())
            return midnight + _DAY - local if way > 0 else midnight - _MINUTE - local
        if local.hour not in self.hours:
            full = local.replace(minute=0)
            return full + _HOUR - local if way > 0 else full - _MINUTE - local
        return timedelta(0) if local.minute in self.minutes else _MINUTE * way

    def _fits(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        fits = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return all(fits) if self.every_day else any(fits)


def parse(line: str) -> Cron:
    """The line, or what a name such as `@daily` stands for.

    Raises:
        CronInvalid: The API server should have refused it.
    """
    fields = MACROS.get(line, line).split()
    if len(fields) != 5:
        raise CronInvalid(f"{line!r} has {len(fields)} fields instead of 5")
    minutes, hours, days, months, weekdays = fields
    return Cron(
        _values(minutes, 0, 59),
        _values(hours, 0, 23),
        _values(days, 1, 31),
        _values(months, 1, 12, MONTHS),
        _values(weekdays, 0, 6, WEEKDAYS),
        every_day=_is_any(days) or _is_any(weekdays),
    )


def zone(name: str) -> ZoneInfo:
    """The time zone of that name.

    Raises:
        ZoneUnknown: There is none in the time zone database.
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # a directory or another file of the database is no zone either
        raise ZoneUnknown(f"{name!r} is not in the time zone database") from error


def _is_any(field: str) -> bool:
    # `*/2` leaves days out, so it is a choice of days like any other
    return any(re.fullmatch(r"[*?](/0*1)?", part) for part in field.split(","))


def _values(field: str, first: int, last: int, names: Sequence[str] = ()) -> frozenset[int]:
    """What a field allows."""
    found: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        low, dash, high = span.partition("-")
        if span in ("*", "?"):
            start, end = first, last
        else:
            start = _number(low, first, names)
            # `5/10` goes on from 5 to the end
            end = _number(high, first, names) if dash else last if slash else start
        width = _number(step, 0) if slash else 1
        if not (first <= start <= end <= last and width > 0):
            raise CronInvalid(f"{part!r} is not within {first}-{last}")
        found.update(range(start, end + 1, width))
    return frozenset(found)


def _number(text: str, first: int, names: Sequence[str] = ()) -> int:
    if text.upper() in names:
        return names.index(text.upper()) + first
    if not (text.isascii() and text.isdecimal()):
        raise CronInvalid(f"{text!r} is no number")
    return int(text)
