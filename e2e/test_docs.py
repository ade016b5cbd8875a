"""Every command in the documents is run, and says what they show: in order, in a fresh namespace for each document.

A console block has commands after `$ ` and what they print. A document may begin with a comment that says what it
needs: `<!-- setup: object-store database rows backup -->`, and which namespace it shows: `<!-- namespace: tour -->`.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e import kit
from e2e.cluster import Cluster, kubectl_command
from e2e.object_store import ObjectStore
from e2e.support import apply, diagnose, fresh_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What documents work with; each gets a copy, so that nothing is left in the checkout.
FILES = ("config", "docs", "job_templates", "Dockerfile.distroless")
SECONDS = 420  # for one document, while others are played
ROWS = """
CREATE TABLE orders (id serial PRIMARY KEY, total numeric);
INSERT INTO orders (total) SELECT generate_series(1, 1000);
"""

IMAGE = "registry.example.com/postgres-operator:0.1.0"
SKIPPED = {
    "pip install rust-just && just demo": "runs in .ci/setup and by itself; it starts what this test runs on",
    "pipx install rust-just": "the same, for Pythons that refuse the other",
    "just test": "runs this test",
    "kubectl create namespace tour": "the test has made a namespace of its own",
    f"docker build --file Dockerfile.distroless --tag {IMAGE} .": "the image is built and tested by test_image",
    f"docker push {IMAGE}": "there is no such registry",
}
SYSTEM = "--namespace postgres-operator-system"
DRY = {
    "kubectl apply -k config/default": "other tests run on the operator that is there",
    "kubectl delete -k config/default": "the same",
    f"kubectl create configmap job-templates {SYSTEM} --from-file=my-templates": "nothing is left in that namespace",
}


@dataclass
class Command:
    text: str
    shown: list[str]


@dataclass
class Document:
    path: Path
    namespace: str
    setup: list[str]
    commands: list[Command]

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))


def read(path: Path) -> Document:
    text = path.read_text()
    comments = dict(re.findall(r"^<!-- (setup|namespace): (.*?) -->$", text, re.MULTILINE))
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    commands = [command for block in blocks for command in parse(block.splitlines())]
    return Document(path, comments.get("namespace", "demo"), comments.get("setup", "").split(), commands)


def parse(lines: list[str]) -> Iterator[Command]:
    rest = list(lines)
    while rest:
        line = rest.pop(0)
        assert line.startswith("$ "), f"a block begins with a command, not with {line!r}"
        text = line[2:]
        while text.endswith("\\"):
            text += "\n" + rest.pop(0)
        if "<<'EOF'" in text:
            end = rest.index("EOF")
            text, rest = "\n".join([text, *rest[:end], "EOF"]), rest[end + 1 :]
        shown = []
        while rest and not rest[0].startswith("$ "):
            shown.append(rest.pop(0))
        yield Command(text, shown)


# What differs from run to run.
VARYING = {
    r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}": "<uid>",
    r"\b[0-9a-f]{64}\b": "<sha256>",
    r"\b\d{4}-\d\d-\d\dT[0-9:.]+Z": "<time>",
    r"\b\d\d:\d\d:\d\d\b": "<clock>",
    r"_(before|restore)_[0-9a-f]{8}": r"_\1_<hash>",
    r"-[0-9a-f]{10}(-[a-z0-9]{5})?\b": "-<hash>",
    r"\b\d+ bytes": "<size> bytes",
    r"(Completed\s+\w+\s+)\d+": r"\1<size>",
    r"\b\d+ s\b": "<n> s",
    r"(?<!\S)(\d+[dhms])+(?!\S)": "<age>",
    r"\b17\.\d+\b": "17.x",
    r"\s+": " ",
}


def normal(line: str) -> str:
    for pattern, replacement in VARYING.items():
        line = re.sub(pattern, replacement, line)
    return line.strip()


def missing(shown: list[str], said: str) -> list[str]:
    """Lines that a document shows and that did not come, in this order; `…` stands for any others."""
    actual = iter([normal(line) for line in said.splitlines()])
    return [line for line in shown if line != "…" and normal(line) not in actual]


def named(text: str, old: str, new: str) -> str:
    """The text for another namespace; paths stay."""
    return re.sub(rf"(?<![\w/-]){re.escape(old)}(?![\w-])(?!/\w+\.yaml)", new, text)


def script(commands: list[Command], namespace: tuple[str, str]) -> str:
    """One shell for all, since they share variables; each is announced, and the first that fails is the last."""
    parts = ["set -o pipefail; exec 2>&1"]
    for number, command in enumerate(commands):
        text = named(command.text, *namespace)
        if command.text in SKIPPED:
            continue
        if command.text in DRY:
            text += " --dry-run=server"
        parts += [f"echo '@@@ {number}'", text, "code=$?; [ $code = 0 ] || { echo '@@@ failed' $code; exit; }"]
    return "\n".join([*parts, "echo '@@@ done'"])


def prepare(document: Document, namespace: str, directory: Path) -> None:
    for what in document.setup:
        match what:
            case "database":
                apply((ROOT / "docs" / "tour" / "database.yaml").read_text(), namespace)
                kit.wait_ready(namespace)
            case "rows":
                kit.sql(namespace, ROWS)
            case "object-store":  # the files are what its owner has
                server = ObjectStore(namespace)
                (directory / "ca.crt").write_text(server.start())
                keys = [f"{name}={value}\n" for name, value in server.credentials.items()]
                (directory / "keys.env").write_text("".join(keys))
            case "backup":
                apply((ROOT / "docs" / "tour" / "backup.yaml").read_text(), namespace)
                kit.completed("backup", "monday", namespace)
            case _:
                raise ValueError(f"{document.name} asks for an unknown setup, {what}")


def copy_files(cluster: Cluster, namespace: str, directory: Path) -> dict[str, str]:
    """The environment of a person who has a checkout, kubectl, and a namespace."""
    for name in FILES:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, directory / name)
    config = directory / "kubeconfig"
    config.write_text(cluster.kubeconfig().read_text())
    command = kubectl_command(config)
    command[0] = shutil.which(command[0]) or command[0]
    subprocess.run(
        [*command, "config", "set-context", "--current", f"--namespace={namespace}"], check=True, capture_output=True
    )
    (directory / "bin").mkdir()
    shim = directory / "bin" / "kubectl"
    shim.write_text(f'#!/bin/sh\nexec {" ".join(command)} "$@"\n')
    shim.chmod(0o755)
    return {**os.environ, "KUBECONFIG": str(config), "PATH": f"{shim.parent}:{os.environ['PATH']}"}


def play(document: Document, cluster: Cluster, directory: Path) -> list[str]:
    """What went otherwise than the document says."""
    with fresh_namespace(f"docs-{document.path.stem.lower()}-{secrets.token_hex(3)}") as namespace:
        environment = copy_files(cluster, namespace, directory)
        prepare(document, namespace, directory)
        text = script(document.commands, (document.namespace, namespace))
        try:
            done = subprocess.run(
                ["bash", "-c", text],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            output = done.stdout
        except subprocess.TimeoutExpired as late:
            output = f"{(late.stdout or b'').decode()}\n@@@ failed after {SECONDS} s"
        wrong = differences(document, named(output, namespace, document.namespace))
        return [*wrong, diagnose(namespace)] if wrong else []


def differences(document: Document, said: str) -> list[str]:
    """Commands that failed or said something else; in the end it must say that all were run."""
    wrong = []
    for number, answer, after in re.findall(r"^@@@ (\d+)\n(.*?)(?=^@@@ (\w+))", said, re.MULTILINE | re.DOTALL):
        command = document.commands[int(number)]
        if (lost := missing(command.shown, answer)) or after == "failed":
            shows = "\n".join(lost)
            wrong.append(f"$ {command.text}\nsaid:\n{answer}and the document shows:\n{shows}")
    if not said.endswith("@@@ done\n"):
        wrong.append(f"It ended with:\n{said[-500:]}")
    return wrong


@pytest.fixture(scope="session")
def played(
    operator: None,  # noqa: ARG001 -- it runs
    cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[dict[str, Future[list[str]]]]:
    """All documents whose tests were selected, at the same time."""
    calls = [item.callspec for item in request.session.items if getattr(item, "originalname", "") == "test_commands"]
    names = {call.params["name"] for call in calls}
    with ThreadPoolExecutor(4) as pool:
        yield {
            doc.name: pool.submit(play, doc, cluster, tmp_path_factory.mktemp(doc.path.stem))
            for doc in map(read, DOCS)
            if doc.name in names
        }


@pytest.mark.timeout(1200)  # the first one waits for those before it in the pool as well
@pytest.mark.parametrize("name", [d.name for d in map(read, DOCS) if d.commands])
def test_commands(name: str, played: dict[str, Future[list[str]]]) -> None:
    wrong = played[name].result()
    assert not wrong, "\n\n".join(wrong)


def test_what_is_not_run_is_in_a_document() -> None:
    known = {command.text for doc in map(read, DOCS) for command in doc.commands}
    assert known >= SKIPPED.keys() | DRY.keys()


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (["pod/look created"], "pod/look unchanged"),
        (["1000"], "1001"),
        (["a", "b"], "b\na"),
        (["monday   Completed   shop   863   5s"], "monday   Failed   shop   863   5s"),
    ],
)
def test_a_wrong_output_is_seen(shown: list[str], said: str) -> None:
    assert missing(shown, said)


def test_a_command_that_fails_is_seen() -> None:
    document = Document(ROOT / "README.md", "demo", [], [Command("true", []), Command("false", [])])
    assert not differences(document, "@@@ 0\n@@@ 1\n@@@ done\n")
    assert len(differences(document, "@@@ 0\n@@@ 1\noops\n@@@ failed 1\n")) == 2


def test_what_varies_is_not_compared() -> None:
    shown = ["monday   Completed   shop   863   5s", "…", "14:48:39 x, 1 s in all"]
    assert not missing(shown, "monday  Completed  shop  9912  1m5s\nother\n15:00:00 x, 20 s in all")
