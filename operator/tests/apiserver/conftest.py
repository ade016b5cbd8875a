"""A real API server with the CRDs: what it refuses cannot be guessed from the schema."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from apiserver_kit import NAMESPACE, Api, Kubectl, Make

from e2e.cluster import apiserver
from postgres_operator.api import crd
from postgres_operator.names import GROUP

CONFIG = Path(__file__).resolve().parents[3] / "config"


@pytest.fixture(scope="session")
def kubeconfig() -> Iterator[Path]:
    with apiserver.start() as path:
        yield path


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """kubectl, after it installed the CRDs."""
    kubectl = Kubectl(kubeconfig)
    kubectl("apply", "-k", str(CONFIG / "crd")).must()
    definitions = [f"crd/{kind.plural}.{GROUP}" for kind in crd.KINDS]
    kubectl("wait", "--for=condition=Established", "--timeout=30s", *definitions).must()
    return kubectl


@pytest.fixture(scope="session")
def api(kubeconfig: Path, kubectl: Kubectl) -> Api:
    kubectl("create", "namespace", NAMESPACE).must()
    return Api(kubeconfig)


@pytest.fixture(scope="session")
def make() -> Make:
    return Make()
