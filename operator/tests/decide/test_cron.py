"""Cron lines against an oracle that walks minute by minute, and the tables of robfig/cron's own tests."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cron_oracle import ZONES, Line, changes, lines, moments, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from postgres_operator.api.schedule import MACROS
from postgres_operator.decide.cron import CronInvalid, ZoneUnknown, parse, zone

NEW_YORK, BERLIN = ZoneInfo("America/New_York"), ZoneInfo("Europe/Berlin")


@settings(max_examples=150, deadline=None)
@given(lines(), st.sampled_from(ZONES), st.data())
def test_all_times_of_some_days(line, name, data):
    since = data.draw(moments(name))
    until = since + timedelta(minutes=data.draw(st.integers(1, 3 * 1440)))
    expected = walk(line, name, since, until)
    cron, found, at = parse(line.text), [], since
    while (at := cron.next(at, ZoneInfo(name))) and at <= until:
        found.append(at)
    assert found == expected
    assert cron.newest(since, until, ZoneInfo(name)) == (expected[-1] if expected else None)


def only(local):
    """The line of one minute of the year."""
    of = (local.minute, local.hour, local.day, local.month)
    text = " ".join(map(str, of)) + " *"
    return Line(text, *(frozenset({n}) for n in of), frozenset(range(7)), any_day=True)


@pytest.mark.parametrize("name", [name for name in ZONES if changes(name)])
def test_single_minutes_around_the_changes_of_the_clock(name):
    """Seen from either side, all of the way to the minute leads over the change."""
    there, day = ZoneInfo(name), timedelta(hours=30)
    for change in changes(name)[-2:]:
        for minutes in range(-1560, 1560, 97):
            line = only((change + timedelta(minutes=minutes)).astimezone(there))
            expected = walk(line, name, change - day, change + day)
            cron = parse(line.text)
            assert expected
            assert cron.next(change - day, there) == expected[0]
            assert cron.newest(change - day, change + day, there) == expected[-1]


def iso(text):
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("after", "line", "expected"),
    [
        # the clock goes from 2 to 3: what falls between does not come
        pytest.param("2012-03-11T00:00:00-05:00", "30 2 11 Mar ?", "2013-03-11T02:30:00-04:00", id="skipped-this-year"),
        pytest.param("2012-03-11T00:00:00-05:00", "0 2 * * ?", "2012-03-12T02:00:00-04:00", id="2am-nightly-skipped"),
        pytest.param("2012-03-11T01:00:00-05:00", "0 * * * ?", "2012-03-11T03:00:00-04:00", id="hourly-over-the-gap"),
        pytest.param("2012-03-11T00:00:00-05:00", "0 1 * * ?", "2012-03-11T01:00:00-05:00", id="1am-before-the-gap"),
        # the clock goes from 2 back to 1: what falls between comes twice
        pytest.param("2012-11-04T00:00:00-04:00", "0 1 * * ?", "2012-11-04T01:00:00-04:00", id="1am-nightly-first"),
        pytest.param("2012-11-04T01:00:00-04:00", "0 1 * * ?", "2012-11-04T01:00:00-05:00", id="1am-nightly-again"),
        pytest.param("2012-11-04T01:00:00-05:00", "0 1 * * ?", "2012-11-05T01:00:00-05:00", id="1am-nightly-twice"),
        pytest.param("2012-11-04T01:45:00-04:00", "30 1 04 Nov ?", "2012-11-04T01:30:00-05:00", id="half-past-again"),
        pytest.param("2012-11-04T00:00:00-04:00", "0 2 * * ?", "2012-11-04T02:00:00-05:00", id="2am-comes-once"),
        pytest.param("2012-11-04T01:00:00-05:00", "0 * * * ?", "2012-11-04T02:00:00-05:00", id="hourly-after"),
        # days of month and of week
        pytest.param("2012-07-09T00:00:00-04:00", "0 0 1,15 * Sun", "2012-07-15T00:00:00-04:00", id="either-day"),
        pytest.param("2012-07-15T23:59:00-04:00", "0 0 1,15 * Sun", "2012-07-22T00:00:00-04:00", id="or-the-weekday"),
        pytest.param("2012-07-01T00:00:00-04:00", "0 0 * * Mon", "2012-07-02T00:00:00-04:00", id="only-the-weekday"),
        pytest.param(
            "2012-07-02T00:00:00-04:00", "0 0 */10 * Sun", "2012-07-08T00:00:00-04:00", id="a-step-is-a-choice"
        ),
        pytest.param("2012-07-02T00:00:00-04:00", "0 0 9 * */1", "2012-07-09T00:00:00-04:00", id="a-step-of-1-is-none"),
        pytest.param("2012-02-29T00:00:00-05:00", "0 0 29 2 ?", "2016-02-29T00:00:00-05:00", id="leap-year"),
    ],
)
def test_next_as_robfig_cron_has_it(after, line, expected):
    assert parse(line).next(iso(after), NEW_YORK) == iso(expected)


@pytest.mark.parametrize("line", ["0 0 30 2 *", "0 0 31 APR,JUN ?"])
def test_a_day_that_never_comes(line):
    assert parse(line).next(datetime(2026, 1, 1, tzinfo=UTC), NEW_YORK) is None
    assert parse(line).newest(datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), NEW_YORK) is None


def test_newest_excludes_the_beginning_and_includes_the_end():
    cron = parse("0 3 * * *")
    night = datetime(2026, 3, 2, 3, 0, tzinfo=UTC)
    assert cron.newest(night - timedelta(days=1), night, ZoneInfo("UTC")) == night
    assert cron.newest(night, night + timedelta(hours=23), ZoneInfo("UTC")) is None


def test_the_newest_of_a_year_takes_no_time():
    cron = parse("* * * * *")
    until = datetime(2026, 3, 2, 3, 0, 59, tzinfo=UTC)
    assert cron.newest(until - timedelta(days=400), until, BERLIN) == until.replace(second=0)


@pytest.mark.parametrize(("name", "line"), MACROS.items())
def test_macros(name, line):
    assert parse(name) == parse(line)


@pytest.mark.parametrize(
    ("line", "minutes"),
    [("5/20", {5, 25, 45}), ("1-10/4", {1, 5, 9}), ("*/25", {0, 25, 50}), ("3,1-2", {1, 2, 3}), ("007", {7})],
)
def test_minutes(line, minutes):
    assert parse(f"{line} * * * *").minutes == minutes


def test_names_count_from_the_first():
    cron = parse("0 0 * jan-MAR/2,Dec sun,WED-fri")
    assert (cron.months, cron.weekdays) == ({1, 3, 12}, {0, 3, 4, 5})


@pytest.mark.parametrize(
    "line",
    ["", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7", "5-1 * * * *",
     "*/0 * * * *", "*/ * * * *", "1- * * * *", "-1 * * * *", "1,,2 * * * *", "a * * * *", "² * * * *", "* * * * MON-",
     "@every 1h", "@reboot", "TZ=UTC 0 3 * * *"],
)  # fmt: skip
def test_what_is_no_cron_line(line):
    with pytest.raises(CronInvalid):
        parse(line)


@pytest.mark.parametrize("name", ["Europe/Atlantis", "Europe", "europe/berlin", "tzdata.zi", "Local", "../UTC"])
def test_what_is_no_time_zone(name):
    with pytest.raises(ZoneUnknown, match="not in the time zone database"):
        zone(name)


def test_a_time_zone():
    assert zone("Europe/Berlin") == BERLIN
