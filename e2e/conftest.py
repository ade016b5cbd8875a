"""Fixtures: a cluster, the operator in it, and a namespace for each test."""

from __future__ import annotations

import os
import re
import secrets
from typing import TYPE_CHECKING

import pytest

from e2e import support
from e2e.audit import AuditLog
from e2e.cluster import Cluster, select
from e2e.cluster.deploy import deploy
from e2e.cluster.local import Local

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

_failed = pytest.StashKey[bool]()
_LONG = ("test_faults.py", "test_large.py", "test_s3.py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # the longest files first: one that comes last keeps the other processes waiting
    items.sort(key=lambda item: item.path.name not in _LONG)


@pytest.fixture
def show(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Prints a text at the end of the run; what tests print side by side is not seen."""
    return lambda text: record_property("show", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for text in (value for name, value in report.user_properties if name == "show"):
                terminalreporter.write_line(f"\n{text}")


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """A running cluster."""
    chosen = select()
    chosen.up()
    return chosen


@pytest.fixture(scope="session")
def kubeconfig(cluster: Cluster) -> Path:
    """For clients other than kubectl."""
    return cluster.kubeconfig()


@pytest.fixture(scope="session")
def operator(cluster: Cluster) -> None:
    """The operator, rolled out; E2E_DEPLOYED=1 says that this was done already."""
    if os.environ.get("E2E_DEPLOYED") != "1":
        deploy(cluster)


@pytest.fixture
def plain_namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:  # noqa: ARG001 -- it runs
    """A fresh namespace with Pod Security `restricted`, without the operator being needed."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    name = f"{words[:40].strip('-')}-{secrets.token_hex(3)}"
    with support.fresh_namespace(name):
        yield name
        if request.node.stash.get(_failed, False):
            print(support.diagnose(name))


@pytest.fixture(autouse=True)
def told(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where the tests of a file share a `scene`, prints what there is to see in it when one failed."""
    yield
    if "scene" in request.fixturenames and request.node.stash.get(_failed, False):
        print(support.diagnose(request.getfixturevalue("scene").namespace))


@pytest.fixture
def namespace(operator: None, plain_namespace: str) -> str:  # noqa: ARG001 -- it runs
    """A fresh namespace of a cluster in which the operator runs."""
    return plain_namespace


@pytest.fixture
def log(cluster: Cluster) -> Iterator[AuditLog]:
    """The audit log from now on; at the end, it must show one writer at a time."""
    if cluster.name != "local":
        pytest.skip("faults are made on the local cluster only, whose audit log is at hand")
    with AuditLog(Local().work / "log" / "audit.log") as found:
        yield found
        found.check_single_writer()
