"""A real API server with the CRDs: what it refuses cannot be guessed from the schema."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from apiserver_kit import NAMESPACE, Api, Kubectl, Make
from lab import Operator, World, operator
from replicas import Replicas

from e2e.cluster import apiserver
from postgres_operator.api import crd
from postgres_operator.names import GROUP

CONFIG = Path(__file__).resolve().parents[3] / "config"
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@pytest.fixture(scope="session")
def audit_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the API server writes down who asked for what."""
    return tmp_path_factory.mktemp("audit") / "audit.log"


@pytest.fixture(scope="session")
def kubeconfig(audit_log: Path) -> Iterator[Path]:
    policy = audit_log.with_name("policy.json")
    policy.write_text(json.dumps(POLICY))
    with apiserver.start(f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}") as path:
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


@pytest.fixture
async def world(kubeconfig: Path, kubectl: Kubectl) -> AsyncIterator[World]:
    """A namespace of the test's own, and its cluster as users and controllers act on it."""
    namespace = f"test-{uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace).must()
    async with operator(kubeconfig, namespace, agent="test") as admin:
        yield World(admin.cluster, namespace)


@pytest.fixture
async def ours(kubeconfig: Path, world: World) -> AsyncIterator[Operator]:
    async with operator(kubeconfig, world.namespace) as one:
        yield one


@pytest.fixture
async def rival(kubeconfig: Path, world: World) -> AsyncIterator[Operator]:
    async with operator(kubeconfig, world.namespace) as another:
        yield another


@pytest.fixture
async def replicas(kubeconfig: Path, world: World, tmp_path: Path) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(stack, kubeconfig, tmp_path, world)
