"""A write of an old leader, begun while its gate was open, arrives when a new one is at work: it changes nothing.

Both wait for no Lease here; the old one's gate shuts once its write is on the way.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lab import Operator, World, operator
from proxy import Fault, Match, Proxy, Request, to

from postgres_operator.cache import Key
from postgres_operator.errors import ApiError, Conflict, NotLeading
from postgres_operator.gate import WriteGate
from postgres_operator.names import API_VERSION

COMPARED = ("Database", "Backup", "Job", "StatefulSet", "Service", "Secret", "PersistentVolumeClaim")


class Old:
    """An operator that leads until it has begun the write that a test is about."""

    def __init__(self, operator: Operator, gate: WriteGate, proxy: Proxy) -> None:
        self.operator, self._gate, self.proxy = operator, gate, proxy
        self.advance(hours=1)  # whatever it writes differs from what the new one writes

    def advance(self, hours: int) -> None:
        self.operator.clock = lambda: datetime.now(UTC) + timedelta(hours=hours)

    async def look(self) -> None:
        await self.operator.look()

    async def settle(self, key: Key) -> None:
        await self.operator.settle(key)

    @asynccontextmanager
    async def late(self, match: Match, key: Key) -> AsyncIterator[Request]:
        """It works on the key until it makes this request, which arrives when the block ends."""
        switch = self.proxy.switch(Fault.HOLD, match, times=1)
        working = asyncio.create_task(self.operator.settle(key))
        try:
            request = await switch.catches()
            assert not await self._gate.shut(0), "the write is under way"
            yield request
            switch.off()
            await asyncio.wait([working], timeout=20)
            assert isinstance(working.exception(), NotLeading | Conflict | None)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


@pytest.fixture
async def old(kubeconfig: Path, world: World, tmp_path: Path) -> AsyncIterator[Old]:
    gate = WriteGate(end_after=lambda _: None)
    gate.hold(math.inf)
    async with Proxy(kubeconfig).serve() as proxy:
        way = proxy.kubeconfig(tmp_path / "old")
        async with operator(way, world.namespace, write=gate.write) as one:
            yield Old(one, gate, proxy)


@pytest.fixture
async def new(kubeconfig: Path, world: World) -> AsyncIterator[Operator]:
    async with operator(kubeconfig, world.namespace) as one:
        yield one


async def everything(world: World) -> dict[tuple[str, str], Any]:
    """All that the operator makes or writes about, with its versions."""
    lists = {kind: await world.cluster.list(kind, world.namespace) for kind in COMPARED}
    return {(kind, body["metadata"]["name"]): body for kind, bodies in lists.items() for body in bodies}


def key(world: World, kind: str = "Backup", name: str = "b") -> tuple[str, str, str]:
    return kind, world.namespace, name


async def backup(world: World, *warm: Operator | Old) -> None:
    """A Backup that can start, known to these."""
    await world.ready_database()
    await world.claim()
    await world.backup("b")
    for one in warm:
        await one.look()


async def completes(world: World, new: Operator) -> None:
    """The Job of the Backup ends well, and the new leader says so."""
    (job,) = await world.jobs()
    await world.finish(job)
    await new.take_over()
    await new.settle(key(world))
    assert (await world.get("Backup", "b"))["status"]["phase"] == "Completed"


async def test_a_job_comes_when_the_new_leader_has_made_it(old: Old, new: Operator, world: World):
    await backup(world, old, new)
    async with old.late(to("POST", "jobs"), key(world)) as job:
        await new.take_over()
        await new.settle(key(world))
        left = await everything(world)
    assert job.status == 409
    assert await everything(world) == left


async def test_a_job_comes_when_the_backup_has_ended(old: Old, new: Operator, world: World):
    await backup(world, old, new)
    async with old.late(to("POST", "jobs"), key(world)) as job:
        await new.take_over()
        await new.settle(key(world))
        await completes(world, new)
        left = await everything(world)
    assert job.status == 409
    assert await everything(world) == left


@pytest.mark.parametrize("relists", [True, False], ids=["before the relist", "after the relist"])
async def test_a_job_comes_before_the_new_leader_decides(relists, old: Old, new: Operator, world: World):
    await backup(world, old, new)
    old.proxy.switch(Fault.DROP, to("POST", "jobs"), times=1)
    with pytest.raises(ApiError, match="POST"):
        await old.settle(key(world))
    (made,) = await world.jobs()
    if relists:
        await new.take_over()
    await new.settle(key(world))
    (job,) = await world.jobs()
    assert job["metadata"]["uid"] == made["metadata"]["uid"]
    found = await world.get("Backup", "b")
    assert (found["status"]["phase"], found["status"]["jobRef"]["name"]) == ("InProgress", job["metadata"]["name"])
    await completes(world, new)


@pytest.mark.parametrize("completed", [False, True], ids=["that runs", "that has ended"])
async def test_a_status_comes_for_a_backup(completed, old: Old, new: Operator, world: World):
    await backup(world, old, new)
    async with old.late(to("PATCH", "backups/status"), key(world)) as status:
        await new.take_over()
        await new.settle(key(world))
        if completed:
            await completes(world, new)
        left = await everything(world)
    assert status.status == 409
    assert await everything(world) == left


async def test_an_end_comes_for_a_backup_that_has_ended(old: Old, new: Operator, world: World):
    await backup(world, old, new)
    await old.settle(key(world))
    (job,) = await world.jobs()
    await world.finish(job)
    await old.look()
    async with old.late(to("PATCH", "backups/status"), key(world)) as status:
        await new.take_over()
        await new.settle(key(world))
        left = await everything(world)
        assert left["Backup", "b"]["status"]["phase"] == "Completed"
    assert b"Completed" in status.body
    assert status.status == 409
    assert await everything(world) == left


async def test_a_deletion_comes_for_a_job_that_has_ended_well(old: Old, new: Operator, world: World):
    """By the old leader's clock no pod of it has started in time."""
    await backup(world, old, new)
    await old.settle(key(world))
    old.advance(hours=2)
    async with old.late(to("DELETE", "jobs"), key(world)) as deletion:
        await new.take_over()
        await completes(world, new)
        left = await everything(world)
    assert deletion.status == 409
    assert await everything(world) == left


def database(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "Database", "metadata": {"name": "db"}, "spec": spec}


@pytest.mark.parametrize("plural", ["persistentvolumeclaims", "secrets", "services", "statefulsets"])
async def test_an_object_of_a_database_comes_when_it_is_there(plural, old: Old, new: Operator, world: World):
    await world.create("Database", database())
    for one in (old, new):
        await one.look()
    # A Secret that is older than the leader may belong to an older volume for so long.
    new.clock = lambda: datetime.now(UTC) + timedelta(minutes=1)
    async with old.late(to("POST", plural), key(world, "Database", "db")) as creation:
        await new.take_over()
        await new.settle(key(world, "Database", "db"))
        left = await everything(world)
    assert creation.status == 409
    assert await everything(world) == left


async def test_a_server_comes_that_the_new_leader_has_changed_since(old: Old, new: Operator, world: World):
    async def wants(image: str) -> None:
        path = f"/apis/{API_VERSION}/namespaces/{world.namespace}/databases/db"
        await world.cluster._request("PATCH", path, {"spec": {"image": image}}, "application/merge-patch+json")

    async def image() -> str:
        (container, *_) = (await world.get("StatefulSet", "db"))["spec"]["template"]["spec"]["containers"]
        return container["image"]

    await world.create("Database", database(image="postgres:17.4"))
    await old.look()
    await old.settle(key(world, "Database", "db"))
    await wants("postgres:17.5")
    await old.look()
    async with old.late(to("PUT", "statefulsets"), key(world, "Database", "db")) as server:
        await wants("postgres:17.6")
        await new.look()
        await new.settle(key(world, "Database", "db"))
        left = await everything(world)
        assert await image() == "postgres:17.6"
    assert server.status == 409
    assert await everything(world) == left
