"""Log lines for people, or JSON for machines; one line an event either way."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

_CONTROL = {c: f"\\x{c:02x}" for c in (*range(32), *range(127, 160))} | {
    ord("\n"): "\\n",
    ord("\t"): "\\t",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
        subject = getattr(record, "object", "")
        line = f"{at}Z {record.levelname:<7} {f'[{subject}] ' if subject else ''}{_message(record)}"
        if not record.exc_info:
            return line
        trace = self.formatException(record.exc_info).splitlines()
        return "\n    ".join([line, *(text.translate(_CONTROL) for text in trace)])


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if subject := getattr(record, "object", ""):
            line["object"] = subject
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _message(record: logging.LogRecord) -> str:
    # A name or message from outside must not be able to forge a line, or to command a terminal.
    return record.getMessage().translate(_CONTROL)


def about(key: tuple[str, str, str]) -> dict[str, str]:
    """`extra` of a log call: the object, by kind, namespace and name, that the line is about."""
    kind, namespace, name = key
    return {"object": f"{kind} {namespace}/{name}"}


def configure(format_: Literal["text", "json"], level: str) -> None:
    """Log to standard error from now on; kopf only warns, its news of every event is of no use here."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if format_ == "json" else _Text())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("kopf", "aiohttp", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
