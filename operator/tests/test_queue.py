import asyncio

import pytest
from fakes import settle

from postgres_operator.queue import WorkQueue

SOON = 5.0  # deadline of what has to happen


@pytest.fixture
def queue() -> WorkQueue[str]:
    return WorkQueue()


async def take(queue: WorkQueue[str]) -> str:
    return await asyncio.wait_for(queue.get(), SOON)


async def nothing_to_take(queue: WorkQueue[str]) -> bool:
    """Whether a worker would wait now."""
    waiting = asyncio.create_task(queue.get())
    await settle()
    done = waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return not done


class Clock:
    """Stands for the event loop's clock: time passes when a test says so, and not by itself."""

    def __init__(self, monkeypatch) -> None:
        loop = asyncio.get_running_loop()
        self._now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: self._now)

    async def forward(self, seconds: float) -> None:
        self._now += seconds
        await settle()


@pytest.fixture
async def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


# --- one worker a key


async def test_first_in_first_out(queue):
    for key in "abc":
        queue.add(key)
    assert len(queue) == 3
    assert [await take(queue) for _ in range(3)] == ["a", "b", "c"]
    assert len(queue) == 0


async def test_a_key_waits_only_once(queue):
    queue.add("a")
    queue.add("a")
    assert len(queue) == 1


async def test_a_key_in_work_is_given_to_no_second_worker(queue):
    queue.add("a")
    await take(queue)
    queue.add("a")
    assert await nothing_to_take(queue)
    queue.done("a")
    assert await take(queue) == "a"


async def test_what_was_added_while_it_was_worked_on_runs_once_more(queue):
    queue.add("a")
    await take(queue)
    for _ in range(3):
        queue.add("a")
    queue.done("a")
    assert await take(queue) == "a"
    queue.done("a")
    assert await nothing_to_take(queue)


async def test_another_key_is_not_held_up(queue):
    queue.add("a")
    await take(queue)
    queue.add("b")
    assert await take(queue) == "b"


async def test_a_done_key_can_come_again(queue):
    queue.add("a")
    await take(queue)
    queue.done("a")
    assert await nothing_to_take(queue)
    queue.add("a")
    assert await take(queue) == "a"


async def test_many_workers_never_share_a_key_and_lose_none(queue):
    """Every add is followed by a run of its key that starts after it."""
    keys = [f"k{n}" for n in range(7)]
    version = dict.fromkeys(keys, 0)
    seen = dict.fromkeys(keys, 0)
    busy: set[str] = set()

    async def worker() -> None:
        while True:
            key = await queue.get()
            assert key not in busy
            busy.add(key)
            found = version[key]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            busy.discard(key)
            seen[key] = found
            if found % 5 == 4:
                queue.done(key, after=0)
            else:
                queue.done(key)

    async def feeder(step: int) -> None:
        for n in range(300):
            key = keys[n * step % len(keys)]
            version[key] += 1
            queue.add(key)
            if n % 3 == 0:
                await asyncio.sleep(0)

    workers = [asyncio.create_task(worker()) for _ in range(4)]
    async with asyncio.timeout(SOON):
        await asyncio.gather(*(feeder(step) for step in (1, 2, 3)))
        while seen != version:
            assert not any(w.done() for w in workers), "a worker ended: it met a key in work"
            await asyncio.sleep(0)
    for each in workers:
        each.cancel()
    outcomes = await asyncio.gather(*workers, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)


# --- later


async def test_a_delayed_key_comes_when_its_time_has_come(queue, clock):
    queue.add_after("a", 10)
    await clock.forward(9)
    assert len(queue) == 0
    await clock.forward(2)
    assert await take(queue) == "a"


@pytest.mark.parametrize("delays", [(10, 100), (100, 10)], ids=["earlier-first", "earlier-last"])
async def test_the_earlier_of_two_times_counts_and_only_once(queue, clock, delays):
    for delay in delays:
        queue.add_after("a", delay)
    await clock.forward(11)
    assert await take(queue) == "a"
    queue.done("a")
    await clock.forward(1000)
    assert len(queue) == 0


@pytest.mark.parametrize("seconds", [0, -1])
async def test_no_delay_means_now(queue, seconds):
    queue.add_after("a", seconds)
    assert len(queue) == 1


async def test_now_replaces_later(queue, clock):
    queue.add_after("a", 10)
    queue.add("a")
    await take(queue)
    queue.done("a")
    await clock.forward(11)
    assert len(queue) == 0


async def test_done_can_ask_for_another_look(queue, clock):
    queue.add("a")
    await take(queue)
    queue.done("a", after=10)
    await clock.forward(9)
    assert len(queue) == 0
    await clock.forward(2)
    assert await take(queue) == "a"


async def test_news_come_before_another_look(queue, clock):
    queue.add("a")
    await take(queue)
    queue.add("a")
    queue.done("a", after=10)
    assert await take(queue) == "a"
    queue.done("a")
    await clock.forward(11)
    assert len(queue) == 0


async def test_a_look_that_falls_due_during_work_follows_it(queue, clock):
    queue.add("a")
    await take(queue)
    queue.add_after("a", 10)
    await clock.forward(11)
    assert await nothing_to_take(queue)
    queue.done("a")
    assert await take(queue) == "a"


# --- failures


async def fail(queue: WorkQueue[str], key: str, clock: Clock) -> float:
    assert await take(queue) == key
    backoff = queue.retry(key)
    await clock.forward(backoff - 0.1)
    assert len(queue) == 0
    await clock.forward(0.2)
    return backoff


async def test_failures_back_off_exponentially_up_to_a_limit(queue, clock):
    queue.add("a")
    backoffs = [await fail(queue, "a", clock) for _ in range(10)]
    assert backoffs[:4] == [0.2, 0.4, 0.8, 1.6]
    assert backoffs[-2:] == [30.0, 30.0]


async def test_failures_may_go_on_for_days(queue):
    queue.add("a")
    for _ in range(2000):
        await take(queue)
        assert queue.retry("a") <= 30.0
        queue.add("a")


async def test_success_forgets_the_failures(queue, clock):
    queue.add("a")
    for _ in range(4):
        await fail(queue, "a", clock)
    await take(queue)
    queue.done("a")
    queue.add("a")
    assert await fail(queue, "a", clock) == 0.2


async def test_each_key_has_its_own_failures(queue, clock):
    queue.add("a")
    for _ in range(4):
        await fail(queue, "a", clock)
    await take(queue)
    queue.add("b")
    assert await fail(queue, "b", clock) == 0.2


async def test_news_do_not_wait_for_the_backoff(queue):
    queue.add("a")
    await take(queue)
    queue.retry("a")
    queue.add("a")
    assert await take(queue) == "a"
    queue.add("a")
    queue.retry("a")
    assert await take(queue) == "a"
