"""Random cron lines with what they mean, and a walk through time minute by minute; nothing of it is the operator's."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

MINUTE = timedelta(minutes=1)
# Clocks that change by an hour and by half of one, at midnight, a minute after it, twice a year and four times.
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Sao_Paulo", "America/Havana",
    "Africa/Casablanca", "Africa/Cairo", "Asia/Beirut", "Asia/Kathmandu", "Asia/Tehran", "Australia/Lord_Howe",
    "Pacific/Apia", "Pacific/Chatham",
)  # fmt: skip
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


@dataclass(frozen=True)
class Line:
    """A cron line and the values of its fields."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool

    def fits(self, local: datetime) -> bool:
        if (local.minute not in self.minutes) or (local.hour not in self.hours) or (local.month not in self.months):
            return False
        day, weekday = local.day in self.days, (local.weekday() + 1) % 7 in self.weekdays
        return (day and weekday) if self.any_day else (day or weekday)


@st.composite
def _parts(draw, first, last, names):
    """One element of a list: its text, its values, and whether it is a mere star."""
    low = draw(st.integers(first, last))
    high = draw(st.integers(low, last))
    step = draw(st.integers(1, 40))
    word = (lambda n: draw(st.sampled_from([str.upper, str.title]))(names[n - first])) if names else str
    match draw(st.sampled_from(["star", "one", "span", "star/", "one/", "span/"])):
        case "star":
            return draw(st.sampled_from("*?")), range(first, last + 1), True
        case "one":
            return f"{low:02}" if draw(st.booleans()) else word(low), [low], False
        case "span":
            return f"{word(low)}-{word(high)}", range(low, high + 1), False
        case "star/":
            return f"*/{step}", range(first, last + 1, step), step == 1
        case "one/":
            return f"{low}/{step}", range(low, last + 1, step), False
        case _:
            return f"{low}-{high}/{step}", range(low, high + 1, step), False


@st.composite
def _fields(draw, first, last, names=()):
    parts = draw(st.lists(_parts(first, last, names), min_size=1, max_size=3))
    values = frozenset(value for _, some, _ in parts for value in some)
    return ",".join(text for text, _, _ in parts), values, any(star for _, _, star in parts)


@st.composite
def lines(draw):
    """Cron lines; most of them mean some minute of most days."""
    usual = st.just(("*", None, True))
    fields = [
        draw(_fields(0, 59)),
        draw(_fields(0, 23)),
        draw(usual | _fields(1, 31)),
        draw(usual | usual | _fields(1, 12, _MONTHS)),
        draw(usual | _fields(0, 6, _WEEKDAYS)),
    ]
    bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]
    values = [f[1] or frozenset(range(low, high + 1)) for f, (low, high) in zip(fields, bounds, strict=True)]
    text = draw(st.sampled_from([" ", "  "])).join(f[0] for f in fields)
    return Line(text, *values, any_day=fields[2][2] or fields[4][2])


@cache
def changes(zone: str) -> list[datetime]:
    """When the clocks of a zone change, to the minute."""
    found, at, there = [], datetime(2008, 1, 1, tzinfo=UTC), ZoneInfo(zone)
    while at.year < 2031:
        day = at + timedelta(days=1)
        if at.astimezone(there).utcoffset() != day.astimezone(there).utcoffset():
            minutes = (at + n * MINUTE for n in range(1441))
            found.append(
                next(m for m in minutes if m.astimezone(there).utcoffset() != at.astimezone(there).utcoffset())
            )
        at = day
    return found


@st.composite
def moments(draw, zone):
    """Some time; often a day or less before the clocks of the zone change."""
    any_time = st.datetimes(datetime(2008, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
    if not changes(zone) or draw(st.booleans()):
        return draw(any_time).replace(microsecond=0)
    return draw(st.sampled_from(changes(zone))) - timedelta(seconds=draw(st.integers(0, 86400)))


def walk(line: Line, zone: str, since: datetime, until: datetime) -> list[datetime]:
    """All times later than `since` and not later than `until`."""
    at = since.replace(second=0, microsecond=0) + MINUTE
    found, there = [], ZoneInfo(zone)
    while at <= until:
        if line.fits(at.astimezone(there)):
            found.append(at)
        at += MINUTE
    return found
