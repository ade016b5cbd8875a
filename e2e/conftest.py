"""Fixtures: a cluster, the operator in it, and a namespace for each test."""

from __future__ import annotations

import os
import re
import secrets
from typing import TYPE_CHECKING

import pytest

from e2e import support
from e2e.cluster import Cluster, select
from e2e.cluster.deploy import deploy

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


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


@pytest.fixture
def namespace(operator: None, plain_namespace: str) -> str:  # noqa: ARG001 -- it runs
    """A fresh namespace of a cluster in which the operator runs."""
    return plain_namespace
