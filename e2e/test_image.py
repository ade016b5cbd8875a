"""What is in the operator's image, and above all what is not."""

from __future__ import annotations

import io
import json
import tarfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from e2e.cluster import operator_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHELLS = ("sh", "bash", "rbash", "dash", "ash", "ksh*", "zsh*", "fish", "busybox*", "toybox")
PACKAGE_MANAGERS = ("apt", "apt-*", "dpkg", "dpkg-*", "apk", "rpm", "dnf", "yum", "pip", "pip3*", "uv", "easy_install*")
POSTGRESQL = (
    "psql",
    "pg_*",
    "postgres",
    "initdb",
    "createdb",
    "libpq.so*",
    "libpq-*",
    "libecpg*",
    "psycopg*",
    "asyncpg*",
)
PROGRAM_PLACES = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "packages/bin", "app/bin")


class Image:
    """The files (of all layers: what a later one hides is still there) and the configuration."""

    def __init__(self, archive: Path) -> None:
        with tarfile.open(archive) as tar:

            def read(name: str) -> bytes:
                member = tar.extractfile(name)
                assert member is not None
                return member.read()

            manifest = json.loads(read("manifest.json"))[0]
            self.names: list[str] = manifest["RepoTags"]
            self.config: dict[str, Any] = json.loads(read(manifest["Config"]))["config"]
            self.files = {path for layer in manifest["Layers"] for path in _paths(read(layer))}

    def programs(self, *patterns: str) -> list[str]:
        """Files by these names in directories of programs."""
        return [path for path in self.named(*patterns) if str(PurePosixPath(path).parent) in PROGRAM_PLACES]

    def named(self, *patterns: str) -> list[str]:
        """Files by these names anywhere."""
        return sorted(p for p in self.files if any(fnmatch(PurePosixPath(p).name, pattern) for pattern in patterns))


def _paths(layer: bytes) -> Iterator[str]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        for member in tar:
            if not member.isdir():
                yield str(PurePosixPath("/", member.name).relative_to("/"))


@pytest.fixture(scope="module")
def image() -> Image:
    return Image(operator_image.archive())


CHECKS: dict[str, Callable[[Image], bool]] = {
    "no shell": lambda image: not image.programs(*SHELLS),
    "no package manager": lambda image: not image.programs(*PACKAGE_MANAGERS),
    "no package called pip": lambda image: not [p for p in image.files if "/pip/" in p],
    "nothing of PostgreSQL": lambda image: not image.named(*POSTGRESQL),
    "runs as nobody in particular": lambda image: image.config["User"] == "65532:65532",
    "starts the operator": lambda image: image.config["Entrypoint"] == ["/usr/bin/python3", "-m", "postgres_operator"],
    "has Python": lambda image: bool(image.programs("python3")),
    "has the operator": lambda image: "app/postgres_operator/__main__.py" in image.files,
    "has the templates": lambda image: any(path.startswith("app/job_templates/") for path in image.files),
    "has bytecode": lambda image: any(path.startswith("packages/kopf/__pycache__/") for path in image.files),
}


@pytest.mark.parametrize("name", CHECKS)
def test_image(image: Image, name: str) -> None:
    assert CHECKS[name](image)


def write_archive(path: Path, config: dict[str, Any], files: list[str]) -> Path:
    """An image archive with empty files."""

    def add(tar: tarfile.TarFile, name: str, content: bytes = b"") -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in files:
            add(tar, name)
    manifest = [{"Config": "config.json", "RepoTags": ["bad:1"], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        add(tar, "manifest.json", json.dumps(manifest).encode())
        add(tar, "config.json", json.dumps({"config": config}).encode())
        add(tar, "layer.tar", layer.getvalue())
    return path


@pytest.mark.parametrize("name", CHECKS)
def test_checks_can_fail(tmp_path: Path, name: str) -> None:
    files = ["./usr/bin/dash", "usr/bin/dpkg-deb", "packages/pip/__init__.py", "usr/lib/x86_64-linux-gnu/libpq.so.5.15"]
    config = {"User": "0", "Entrypoint": ["/bin/sh"]}
    assert not CHECKS[name](Image(write_archive(tmp_path / "bad.tar", config, files)))
