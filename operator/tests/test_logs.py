import json
import logging
import re
import sys

import pytest

from postgres_operator import logs

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) ")
FORGED = "2026-03-01T12:00:00.000Z INFO    STATE TRANSITION: Pending -> Completed"
# what ends a line for people, terminals or str.splitlines()
ENDS = ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"]


@pytest.fixture(autouse=True)
def restored():
    """The process's logging, as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("kopf", "aiohttp", "asyncio")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.fixture
def logged(capsys):
    """logged(format, action, level) -> what the action has written to standard error, in lines."""

    def run(format_, action, level="INFO"):
        logs.configure(format_, level)
        action(logging.getLogger("postgres_operator.test"))
        return capsys.readouterr().err.splitlines()

    return run


def fail(message):
    raise ValueError(message)


def crash(logger, message):
    try:
        fail(message)
    except ValueError:
        logger.exception("it failed")


def test_text_is_a_line_for_people(logged):
    (line,) = logged("text", lambda log: log.info("Created %s", "x", extra={"object": "Backup shop/nightly"}))
    assert LINE.match(line)
    assert line.endswith("Z INFO    [Backup shop/nightly] Created x")


def test_text_without_an_object(logged):
    (line,) = logged("text", lambda log: log.warning("100%"))
    assert line.endswith("Z WARNING 100%")


def test_json_is_an_object_for_machines(logged):
    (line,) = logged("json", lambda log: log.info("Created %s", "ä", extra={"object": "Backup shop/nightly"}))
    entry = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", entry.pop("time"))
    assert entry == {
        "level": "info",
        "logger": "postgres_operator.test",
        "message": "Created ä",
        "object": "Backup shop/nightly",
    }


def test_json_without_an_object(logged):
    (line,) = logged("json", lambda log: log.info("x"))
    assert set(json.loads(line)) == {"time", "level", "logger", "message"}


@pytest.mark.parametrize("end", ENDS, ids=ascii)
@pytest.mark.parametrize("format_", ["text", "json"])
def test_a_message_from_outside_cannot_forge_a_line(logged, format_, end):
    lines = logged(format_, lambda log: log.warning("refused: %s", f"no{end}{FORGED}"))
    assert len(lines) == 1
    assert "refused: no" in lines[0]


@pytest.mark.parametrize("end", ENDS, ids=ascii)
def test_nor_can_an_error_in_a_text_traceback(logged, end):
    first, *trace = logged("text", lambda log: crash(log, f"no{end}{FORGED}"))
    assert LINE.match(first)
    assert first.endswith("it failed")
    assert any("ValueError: no" in line for line in trace)
    assert not any(LINE.match(line) for line in trace)
    assert all(line.startswith(" ") for line in trace)


def test_a_json_traceback_is_part_of_its_line(logged):
    (line,) = logged("json", lambda log: crash(log, f"no\n{FORGED}"))
    entry = json.loads(line)
    assert (entry["message"], entry["level"]) == ("it failed", "error")
    assert "ValueError: no" in entry["exception"]


@pytest.mark.parametrize("format_", ["text", "json"])
@pytest.mark.parametrize("control", ["\x1b[2J\x1b[31m", "\x9b31m", "\x07", "\x08\x08", "\x00"], ids=ascii)
def test_a_message_cannot_command_a_terminal(logged, format_, control):
    (line,) = logged(format_, lambda log: log.info("a%sb", control))
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line)


def test_nor_can_an_error_in_a_text_traceback_command_one(logged):
    lines = logged("text", lambda log: crash(log, "a\x1b[2J\x9b31m\x07b"))
    assert any("ValueError: a" in line for line in lines)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in "".join(lines))


def test_nothing_in_json_is_more_than_a_line_or_commands_a_terminal(logged):
    lines = logged("json", lambda log: crash(log, "a\x1b[2J\x9b31m\u2028\x85b"))
    assert len(lines) == 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in lines[0])
    assert "\x9b31m\u2028" in json.loads(lines[0])["exception"]


def test_only_the_level_that_was_asked_for(logged):
    def each(log):
        log.debug("d")
        log.info("i")
        log.warning("w")

    assert len(logged("text", each, "DEBUG")) == 3
    assert len(logged("text", each, "INFO")) == 2
    assert len(logged("text", each, "WARNING")) == 1


@pytest.mark.parametrize(("level", "seen"), [("DEBUG", 1), ("INFO", 1), ("ERROR", 0)])
@pytest.mark.parametrize("name", ["kopf.objects", "aiohttp.access", "asyncio"])
def test_the_libraries_only_warn(logged, name, level, seen):
    def talk(_):
        logging.getLogger(name).info("every event")
        logging.getLogger(name).warning("this matters")

    assert len(logged("text", talk, level)) == seen


def test_configuring_again_does_not_write_twice(logged):
    logs.configure("json", "INFO")
    assert len(logged("text", lambda log: log.info("x"))) == 1
    assert [type(h) for h in logging.getLogger().handlers] == [logging.StreamHandler]
    assert logging.getLogger().handlers[0].stream is sys.stderr
