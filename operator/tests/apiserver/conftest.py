"""A real API server with the CRDs: what it refuses cannot be guessed from the schema."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from apiserver_kit import NAMESPACE, Kubectl, Make

from e2e.cluster import apiserver
from postgres_operator.api import crd
from postgres_operator.names import GROUP

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def kubectl() -> Iterator[Kubectl]:
    with apiserver.start() as kubeconfig:
        kubectl = Kubectl(kubeconfig)
        kubectl.must("apply", "-k", str(ROOT / "config/crd"))
        names = [f"crd/{kind.plural}.{GROUP}" for kind in crd.KINDS]
        kubectl.must("wait", "--for=condition=Established", "--timeout=30s", *names)
        kubectl.must("create", "namespace", NAMESPACE)
        yield kubectl


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()
