import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from postgres_operator import metrics, probes


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Watches:
    """Stands for Freshness."""

    stale = ""


@pytest.fixture
def watches() -> Watches:
    return Watches()


@pytest.fixture
def health(watches, clock) -> probes.Health:
    return probes.Health(watches, clock)


@pytest.fixture
def get(health):
    """get(path) -> (status, body, content type), over HTTP."""
    port = probes.serve(health, 0)

    def request(path: str, method: str = "GET") -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode(), response.getheader("Content-Type")
        finally:
            connection.close()

    return request


def test_alive_while_the_loop_turns(get, health, clock):
    assert get("/healthz") == (200, "ok\n", "text/plain")
    clock.now += 9.9
    assert get("/healthz")[0] == 200
    clock.now += 2.3
    status, body, _ = get("/healthz")
    assert (status, body) == (503, "the event loop has been blocked for 12 s\n")
    health.beat()
    assert get("/healthz")[0] == 200


def test_neither_alive_nor_ready_while_a_watch_is_stale(get, health, watches):
    health.ready = True
    watches.stale = "Job"
    says = (503, "the watch of kind Job is stale although the API server answers\n", "text/plain")
    assert get("/healthz") == get("/readyz") == says
    watches.stale = ""
    assert get("/healthz") == get("/readyz") == (200, "ok\n", "text/plain")


def test_the_oldest_trouble_is_named_first(health, watches, clock):
    """A blocked event loop cannot hear what the watches show."""
    watches.stale = "Job"
    clock.now += 3600
    assert health.trouble == "the event loop has been blocked for 3600 s"


def test_ready_only_when_told_so_and_alive(get, health, clock):
    assert get("/readyz") == (503, "caches are not filled, or it is stopping\n", "text/plain")
    health.ready = True
    assert get("/readyz") == (200, "ok\n", "text/plain")
    clock.now += 11
    assert get("/readyz") == (503, "the event loop has been blocked for 11 s\n", "text/plain")
    health.beat()
    assert get("/readyz")[0] == 200
    health.ready = False
    assert get("/readyz")[0] == 503


def test_alive_does_not_mean_ready_nor_the_other_way_round(get):
    assert (get("/healthz")[0], get("/readyz")[0]) == (200, 503)


def test_metrics_are_prometheus_text(get):
    metrics.RECONCILES.labels("Backup", "ok").inc()
    status, body, content_type = get("/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert 'postgres_operator_reconciles_total{kind="Backup",result="ok"}' in body


@pytest.mark.parametrize("path", ["/", "/healthzz", "/metrics/../etc/passwd", "/readyz/"])
def test_there_is_nothing_else(get, path):
    assert get(path) == (404, "not found\n", "text/plain")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_probes_are_read_only(get, method):
    assert get("/healthz", method)[0] == 501


def test_many_at_once(get):
    together = threading.Barrier(8, timeout=5)

    def ask(_):
        together.wait()
        return get("/healthz")[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [200] * 8


def test_a_slow_client_does_not_hold_up_the_others(health):
    port = probes.serve(health, 0)
    slow = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    slow.connect()
    slow.sock.sendall(b"GET /healthz HT")
    quick = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    quick.request("GET", "/healthz")
    assert quick.getresponse().status == 200
    quick.close()
    slow.close()


def test_probes_are_no_news(get, capfd):
    get("/healthz")
    get("/nothing")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_pods_have_addresses_of_either_family(health, address):
    if ":" in address and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    connection = http.client.HTTPConnection(address, probes.serve(health, 0), timeout=5)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_port_in_use_is_an_error(health):
    port = probes.serve(health, 0)
    with pytest.raises(OSError, match="in use"):
        probes.serve(health, port)


def test_serving_does_not_keep_the_process(health):
    before = set(threading.enumerate())
    probes.serve(health, 0)
    (serving,) = set(threading.enumerate()) - before
    assert serving.daemon
