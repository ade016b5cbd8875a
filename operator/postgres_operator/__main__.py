"""The process: settings, flags, logging and exit code; everything else is a Replica's."""

import argparse
import asyncio
import logging
import signal
import sys

from pydantic import ValidationError

from . import logs
from .errors import OperatorError
from .replica import Replica
from .settings import Settings

logger = logging.getLogger("postgres_operator")


def _settings(arguments: list[str]) -> Settings:
    parser = argparse.ArgumentParser(
        prog="postgres_operator", description="Settings come from the environment.", allow_abbrev=False
    )
    parser.add_argument(
        "--leader-elect", nargs="?", const="true", metavar="BOOL", help="run for leader; else be the only replica"
    )
    flag = parser.parse_args(arguments).leader_elect
    return Settings() if flag is None else Settings(enable_leader_election=flag)


async def _run(settings: Settings) -> None:
    await Replica(settings).run()


def main() -> int:
    """The process: 0 after a signal, 1 on any failure, 2 where a setting or flag is wrong."""
    # Process 1 ignores signals without a handler, and ours are set up only once everything runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = _settings(sys.argv[1:])
    except ValidationError as error:
        print(f"Settings are wrong, and nothing was started: {error}", file=sys.stderr)
        return 2
    logs.configure(settings.log_format, settings.log_level)
    try:
        asyncio.run(_run(settings))
    except OperatorError as error:
        logger.critical("%s", error, exc_info=error.__cause__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
