import asyncio
import math
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import settle
from kubernetes.aio.client import Configuration
from support import backup

from postgres_operator import cluster, gate
from postgres_operator.cluster import Cluster
from postgres_operator.errors import ApiError, NotLeading, OperatorError
from postgres_operator.gate import WriteGate

SOURCES = Path(gate.__file__).parents[1]
SOON = 10.0  # deadline of what has to happen, on a busy machine


class Clock:
    """Stands for the module `time` in the gate."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Watchdog:
    """Stands for what ends the process."""

    def __init__(self) -> None:
        self.set_to: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.set_to.append(seconds)


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gate, "time", clock)
    return clock


@pytest.fixture
def watchdog() -> Watchdog:
    return Watchdog()


@pytest.fixture
def shut_gate(watchdog) -> WriteGate:
    """As at the start."""
    return WriteGate(watchdog)


@pytest.fixture
def open_gate(shut_gate) -> WriteGate:
    """Open for 10 s of the clock."""
    shut_gate.hold(1010.0)
    return shut_gate


# --- open and shut


def passes(gate: WriteGate) -> bool:
    """Whether a write is made; `is_open` must say the same."""
    said = gate.is_open
    try:
        with gate.write():
            made = True
    except NotLeading:
        made = False
    assert made is said
    return made


def test_shut_at_the_start(shut_gate):
    assert not passes(shut_gate)


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        pytest.param(0, True, id="at-once"),
        pytest.param(9.999, True, id="until-then"),
        pytest.param(10, False, id="not-at-that-time"),
        pytest.param(10.001, False, id="not-after-it"),
        pytest.param(1e9, False, id="nor-ever"),
    ],
)
def test_open_until_the_given_time(open_gate, clock, later, expected):
    clock.now += later
    assert passes(open_gate) is expected


def test_open_for_longer_when_told_again(open_gate, clock):
    clock.now += 9
    open_gate.hold(1019.0)
    clock.now += 9
    assert passes(open_gate)
    clock.now += 1
    assert not passes(open_gate)


def test_a_time_that_has_passed_opens_nothing(shut_gate):
    shut_gate.hold(999.0)
    assert not passes(shut_gate)


def test_each_hold_sets_the_end_of_the_process_to_the_same_time(open_gate, clock, watchdog):
    clock.now += 4
    open_gate.hold(1014.0)
    clock.now += 20
    open_gate.hold(1020.0)
    assert watchdog.set_to == [10.0, 10.0, -4.0]


def test_without_an_election_it_is_open_and_nothing_ends_the_process(shut_gate, clock, watchdog):
    shut_gate.hold(math.inf)
    clock.now += 1e9
    assert passes(shut_gate)
    assert watchdog.set_to == []


def test_shut_where_the_end_of_the_process_cannot_be_set():
    def broken(_: float) -> None:
        raise RuntimeError("can't start a thread")

    gate = WriteGate(broken)
    with pytest.raises(RuntimeError, match="thread"):
        gate.hold(1010.0)
    assert not passes(gate)


async def test_once_shut_it_stays_so(open_gate):
    assert await open_gate.shut(SOON)
    assert not passes(open_gate)
    open_gate.hold(1020.0)
    assert not passes(open_gate)


# --- writes that are under way


class Writing:
    """A task within the gate until it is told to end."""

    def __init__(self, gate: WriteGate) -> None:
        self._gate, self._end = gate, asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        with self._gate.write():
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self.task

    async def fail(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture
async def writing(open_gate) -> Writing:
    writing = Writing(open_gate)
    await settle()
    return writing


async def test_shutting_waits_for_no_write_where_there_is_none(open_gate):
    assert await open_gate.shut(0) is True


async def test_shutting_waits_until_all_writes_have_ended(open_gate, writing):
    other = Writing(open_gate)
    await settle()
    shutting = asyncio.create_task(open_gate.shut(SOON))
    await settle()
    assert not passes(open_gate)
    await writing.end()
    await settle()
    assert not shutting.done()
    await other.end()
    assert await shutting is True


async def test_a_write_without_an_answer_is_in_doubt_for_a_minute(open_gate, writing, clock):
    """The API server may still work on it: until then nobody may be let in its place."""
    shutting = asyncio.create_task(open_gate.shut(SOON))
    await settle()
    await writing.fail()
    assert await shutting is False
    clock.now += 59
    assert await open_gate.shut(SOON) is False
    clock.now += 1
    assert await open_gate.shut(SOON) is True


async def test_shutting_tells_that_a_write_has_not_ended(open_gate, writing):
    assert await open_gate.shut(0.01) is False
    await writing.end()
    assert await open_gate.shut(0.01) is True


async def test_a_write_that_began_in_time_may_end_later(open_gate, clock, writing):
    clock.now += 11
    assert not passes(open_gate)
    await writing.end()


async def test_a_refused_write_is_not_under_way(shut_gate):
    assert not passes(shut_gate)
    assert await shut_gate.shut(0) is True


# --- the client goes through it


@pytest.fixture
async def client(shut_gate):
    answered: list[bool] = []
    configuration = Configuration()
    configuration.host = "http://127.0.0.1:1"  # nothing listens there
    client = Cluster(configuration, write=shut_gate.write, contact=answered.append)
    yield client, answered
    await client.close()


@pytest.mark.parametrize("method", cluster._VERBS)
async def test_no_write_of_the_client_is_sent_when_it_is_shut(client, method):
    client, answered = client
    with pytest.raises(NotLeading):
        await client._request(method, "/api/v1/namespaces/shop/secrets/x", {})
    assert answered == []


BODY = backup()
WRITES = {
    "create": lambda client: client.create("Backup", BODY),
    "replace": lambda client: client.replace("Backup", BODY),
    "set-status": lambda client: client.set_status("Backup", BODY, {"phase": "Completed"}),
    "delete": lambda client: client.delete("Backup", "shop", "nightly", "uid", "10"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_refused_write_is_an_error_for_who_asked_for_it(client, write):
    client, _ = client
    with pytest.raises(NotLeading):
        await write(client)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_a_write_of_the_client_is_under_way_until_it_is_answered(client, shut_gate, monkeypatch, write):
    client, _ = client
    shut_gate.hold(1010.0)
    sent, answer = asyncio.Event(), asyncio.Event()

    class Response:
        status = 200

        async def read(self) -> bytes:
            sent.set()
            await answer.wait()  # only the head has come
            return b"{}"

    async def call_api(*_, **__) -> Response:
        return Response()

    monkeypatch.setattr(client._client, "call_api", call_api)
    writing = asyncio.create_task(write(client))
    async with asyncio.timeout(SOON):
        await sent.wait()
    assert await shut_gate.shut(0.01) is False
    answer.set()
    await writing
    assert await shut_gate.shut(0.01) is True


async def test_reads_do_not_ask_the_gate(client):
    client, answered = client
    with pytest.raises(ApiError, match="ClientConnectorError"):
        await client.get("Backup", "shop", "nightly")
    with pytest.raises(ApiError, match="ClientConnectorError"):
        await client.list("Pod", "shop", labelSelector="a=b")
    assert answered == [False, False]


def test_who_is_refused_can_tell_it_from_an_answer_of_the_api_server():
    assert issubclass(NotLeading, OperatorError)
    assert not issubclass(NotLeading, ApiError)


# --- the end of the process


class Child:
    """A process that runs some code, and says on standard output what the tests are to know."""

    def __init__(self, code: str) -> None:
        prelude = "import asyncio, os, re, sys, threading, time\nfrom postgres_operator import gate\n"
        prelude += "gate._last_words = sys.stderr\n"
        pipe = subprocess.PIPE
        command = [sys.executable, "-u", "-c", prelude + textwrap.dedent(code)]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=SOURCES)

    def read(self) -> str:
        return self.process.stdout.readline().strip()

    def write(self, line: str) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def lives_for(self, seconds: float) -> bool:
        """Whether it has not ended by then."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def ended(self) -> tuple[int, float]:
        """Its exit code, and when it was gone, by the clock that all processes share."""
        return self.process.wait(SOON), time.monotonic()


@pytest.fixture
def run() -> Iterator[Callable[[str], Child]]:
    children: list[Child] = []

    def start(code: str) -> Child:
        children.append(Child(code))
        return children[-1]

    yield start
    for child in children:
        child.process.kill()
        child.process.communicate()


def ends_in_time(child: Child) -> bool:
    """Whether it ends with code 1 at the time that it names, and not earlier."""
    until = float(child.read())
    code, gone = child.ended()
    words = child.process.stderr.read()
    assert words.startswith("Timeout ("), words
    assert code == 1
    assert until <= gone < until + SOON
    return True


def test_the_process_ends_when_its_time_is_over(run):
    child = run("""
        until = time.monotonic() + 0.5
        gate.WriteGate().hold(until)
        print(until)
        threading.Event().wait()
    """)
    assert ends_in_time(child)


def test_a_time_that_has_passed_ends_it_at_once(run):
    child = run("""
        until = time.monotonic() - 5
        print(time.monotonic())
        gate.WriteGate().hold(until)
        threading.Event().wait()
    """)
    assert ends_in_time(child)


def test_it_leaves_the_stacks_of_its_threads(run):
    child = run("""
        def a_thread_that_waits():
            threading.Event().wait()
        threading.Thread(target=a_thread_that_waits, daemon=True).start()
        gate.end_after(0.2)
        threading.Event().wait()
    """)
    assert child.ended()[0] == 1
    words = child.process.stderr.read()
    assert words.startswith("Timeout (0:00:00.2")
    assert "a_thread_that_waits" in words


def test_a_blocked_event_loop_does_not_stop_it(run):
    child = run("""
        async def main():
            until = time.monotonic() + 0.5
            gate.WriteGate().hold(until)
            print(until)
            time.sleep(1000)
        asyncio.run(main())
    """)
    assert ends_in_time(child)


@pytest.mark.parametrize(
    "hog",
    [
        pytest.param('re.match(r"(a+)+$", "a" * 64 + "b")', id="regular-expression"),
        pytest.param("sum(range(10**15))", id="loop-in-c"),
        pytest.param("3 ** 10**9", id="long-number"),
    ],
)
def test_code_that_keeps_the_interpreters_lock_does_not_stop_it(run, hog):
    # A thread in Python would never have its turn: this one would end the process otherwise.
    child = run(f"""
        def too_late():
            time.sleep(1.5)
            os._exit(3)
        threading.Thread(target=too_late, daemon=True).start()
        until = time.monotonic() + 2
        gate.WriteGate().hold(until)
        print(until)
        {hog}
    """)
    assert ends_in_time(child)


def test_a_process_that_was_stopped_for_longer_ends_when_it_goes_on_and_writes_nothing(run):
    child = run("""
        guard = gate.WriteGate()
        guard.hold(time.monotonic() + 3)
        print("held", guard.is_open)
        sys.stdin.readline()
        try:
            with guard.write():
                print("written")
        except gate.NotLeading:
            print("refused")
        threading.Event().wait()
    """)
    assert child.read() == "held True"
    child.process.send_signal(signal.SIGSTOP)
    child.write("now write")
    assert child.lives_for(3.2), "it was not stopped"
    child.process.send_signal(signal.SIGCONT)
    went_on = time.monotonic()
    code, gone = child.ended()
    assert (code, child.read()) in [(1, ""), (1, "refused")]
    assert gone - went_on < SOON


def test_it_lives_as_long_as_the_time_is_extended(run):
    child = run("""
        guard = gate.WriteGate()
        for _ in range(5):
            until = time.monotonic() + 1
            guard.hold(until)
            time.sleep(0.4)
        print(until)
        threading.Event().wait()
    """)
    assert ends_in_time(child)
