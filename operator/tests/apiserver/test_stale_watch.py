"""A watch that shows nothing although the API server answers; with real processes."""

import asyncio

from proxy import Fault, Match, Request
from replicas import RETRY_PERIOD, Replica, Replicas

from postgres_operator.names import API_VERSION

LIMIT = 2  # seconds, instead of the minute and a half that it takes otherwise
PROGRAM = f"""
import sys
from postgres_operator import __main__, freshness
freshness._STALE_SECONDS = {LIMIT}
sys.exit(__main__.main())
"""
STALE = (503, "the watch of kind Backup is stale although the API server answers\n")


def watches(plural: str) -> Match:
    def match(request: Request) -> bool:
        return request.watches and request.path.partition("?")[0].endswith(f"/{plural}")

    return match


async def leader(replicas: Replicas) -> Replica:
    """It leads, and has written about a Backup that lacks its Database."""
    await replicas.world.vacant_lease()
    replica = await (await replicas.add("only")).start(program=("-c", PROGRAM))
    await replica.leads()
    await replicas.world.backup("b")
    await replica.says("DatabaseNotFound")
    await replica.renews(2)  # meanwhile the watch has shown what it wrote
    return replica


async def healthy(replica: Replica) -> bool:
    return await replica.probe("/healthz") == (200, "ok\n")


async def becomes(replica: Replica, path: str, wanted: tuple[int, str]) -> None:
    async with asyncio.timeout(10):
        while await replica.probe(path) != wanted:
            await asyncio.sleep(0.05)


async def test_a_frozen_watch_is_noticed_when_a_write_does_not_come_back(replicas: Replicas):
    replica = await leader(replicas)
    frozen = replica.proxy.switch(Fault.FREEZE, watches("backups"))
    await replica.renews(round(1.5 * LIMIT / RETRY_PERIOD))
    assert await healthy(replica), "nothing was to be seen"

    body = {"apiVersion": API_VERSION, "kind": "Database", "metadata": {"name": "db"}, "spec": {}}
    await replicas.world.create("Database", body)
    await replica.says("DatabaseNotReady")
    assert await healthy(replica), "it may be late"
    await becomes(replica, "/healthz", STALE)
    await becomes(replica, "/readyz", STALE)

    frozen.off()
    await becomes(replica, "/healthz", (200, "ok\n"))
