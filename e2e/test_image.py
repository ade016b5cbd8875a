"""What is in the operator's image, and above all what is not."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from e2e.cluster import operator_image

SHELLS = ("sh", "bash", "rbash", "dash", "ash", "ksh*", "zsh*", "fish", "busybox*", "toybox")
PACKAGE_MANAGERS = ("apt", "apt-*", "dpkg", "dpkg-*", "apk", "rpm", "dnf", "yum", "pip", "pip3*", "uv", "easy_install*")
POSTGRESQL = ("psql", "pg_*", "postgres", "initdb", "createdb", "libpq.so*", "libpq-*", "libecpg*", "psycopg*", "asyncpg*")
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
