import asyncio

import pytest
from fakes import settle, until
from prometheus_client import REGISTRY

from postgres_operator.errors import ApiError, NotLeading
from postgres_operator.queue import WorkQueue
from postgres_operator.replica import work

NIGHTLY, WEEKLY = ("Backup", "shop", "nightly"), ("Backup", "shop", "weekly")


class Reconciled:
    """Stands for a Reconciler: notes the keys, and does what the test says."""

    def __init__(self) -> None:
        self.keys: list[tuple[str, str, str]] = []
        self.errors: list[Exception] = []  # one for each of the first keys
        self.after: float | None = None

    async def reconcile(self, key) -> float | None:
        self.keys.append(key)
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        return self.after


class Worker:
    """One worker with its queue."""

    def __init__(self) -> None:
        self.leading, self.queue, self.reconciler = asyncio.Event(), WorkQueue(), Reconciled()
        self.task = asyncio.create_task(work(self.leading, self.queue, self.reconciler))


@pytest.fixture
async def worker():
    worker = Worker()
    yield worker
    worker.task.cancel()
    await asyncio.wait([worker.task])


def reconciles(result: str) -> float:
    labels = {"kind": "Backup", "result": result}
    return REGISTRY.get_sample_value("postgres_operator_reconciles_total", labels) or 0


async def test_a_standby_works_on_nothing_and_the_leader_on_all_that_came_before(worker):
    worker.queue.add(NIGHTLY)
    worker.queue.add(WEEKLY)
    await settle()
    assert worker.reconciler.keys == []
    assert len(worker.queue) == 2
    worker.leading.set()
    await until(lambda: worker.reconciler.keys == [NIGHTLY, WEEKLY])


async def test_a_worker_that_may_not_write_any_more_ends(worker):
    worker.reconciler.errors = [NotLeading("it writes nothing")]
    worker.leading.set()
    worker.queue.add(NIGHTLY)
    worker.queue.add(WEEKLY)
    await until(worker.task.done)
    assert worker.task.result() is None
    assert worker.reconciler.keys == [NIGHTLY]


@pytest.mark.parametrize(
    ("error", "result"),
    [
        pytest.param(ApiError("the API server does not answer"), "error", id="an-error-of-ours"),
        pytest.param(KeyError("x"), "bug", id="a-bug"),
    ],
)
async def test_an_error_of_one_key_does_not_stop_the_others_and_it_is_tried_again(worker, error, result):
    before = reconciles(result), reconciles("ok")
    worker.reconciler.errors = [error]
    worker.leading.set()
    worker.queue.add(NIGHTLY)
    worker.queue.add(WEEKLY)
    await until(lambda: worker.reconciler.keys == [NIGHTLY, WEEKLY, NIGHTLY])
    await settle()
    assert (reconciles(result), reconciles("ok")) == (before[0] + 1, before[1] + 2)


async def test_a_key_that_asks_for_it_is_looked_at_again(worker):
    worker.reconciler.after = 0
    worker.leading.set()
    worker.queue.add(NIGHTLY)
    await until(lambda: worker.reconciler.keys[:2] == [NIGHTLY, NIGHTLY])
