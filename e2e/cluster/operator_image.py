"""Builds the operator's image from Dockerfile.distroless, with Docker or with buildah."""

from __future__ import annotations

import json
import os
import tarfile
from functools import partial
from typing import TYPE_CHECKING

from e2e.cluster import build, docker_answers, images
from e2e.cluster.paths import ROOT, cache_dir
from e2e.cluster.progress import run, say

if TYPE_CHECKING:
    from pathlib import Path

# As a Deployment says it, and as a container runtime completes it.
NAME = "postgres-operator:dev"
FULL_NAME = f"docker.io/library/{NAME}"
DOCKERFILE = ROOT / "Dockerfile.distroless"
_STAND_INS = {"BUILD_IMAGE": images.PYTHON_BUILD, "BASE_IMAGE": images.PYTHON_BASE}


def archive() -> Path:
    """The image as a docker-archive, built where its inputs have changed."""
    return build_from(ROOT)


def build_from(context: Path) -> Path:
    """The same for another tree, which has the files that the Dockerfile copies."""
    engine = "docker" if docker_answers() else "buildah"
    inputs: list[Path | str] = [DOCKERFILE, context / "requirements.txt", context / "operator" / "postgres_operator"]
    inputs.append(context / "job_templates")
    builder = partial(_docker if engine == "docker" else _buildah, context)
    return build.cached("operator-image", [*inputs, engine], builder, ".tar")


def image_id(path: Path) -> str:
    """The identity of the image in an archive: it changes with any content."""
    with tarfile.open(path) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        return str(json.load(manifest)[0]["Config"]).removesuffix(".json").rpartition("/")[2]


def _arguments() -> list[str]:
    return ["--build-arg", "PIP_INDEX_URL"] if "PIP_INDEX_URL" in os.environ else []


def _stand_ins() -> list[Path]:
    return [
        build.image("python3-build", images.python_build),
        build.image("python3-base", images.python_base),
    ]


def _docker(context: Path, target: Path) -> None:
    arguments = _arguments()
    try:
        for image in ("docker.io/library/python:3.11-slim-bookworm", "gcr.io/distroless/python3-debian12:nonroot"):
            run(["docker", "pull", "--quiet", image])
    except RuntimeError as error:
        say(f"  no base image from its registry, so one of Debian packages: {error}")
        for base in _stand_ins():
            run(["docker", "load", "--input", base])
        arguments += [f"--build-arg={key}={value}" for key, value in _STAND_INS.items()]
    run(["docker", "build", "--file", DOCKERFILE, "--tag", FULL_NAME, *arguments, context])
    run(["docker", "save", "--output", target, FULL_NAME])


def _buildah(context: Path, target: Path) -> None:
    store = cache_dir() / "buildah"
    buildah = ["buildah", "--storage-driver", "overlay"]
    buildah += ["--root", str(store / "root"), "--runroot", str(store / "run")]
    arguments = _arguments()
    with build.locked(store.with_suffix(".lock")):
        for archived, name in zip(_stand_ins(), _STAND_INS.values(), strict=True):
            digest = archived.stem.rpartition("-")[2]
            pinned = f"{name}-{digest}"
            # one name for each content: a base that changed must not be taken for the old one
            if not run([*buildah, "images", "--quiet", "--filter", f"reference={pinned}"]):
                run([*buildah, "pull", "--quiet", f"docker-archive:{archived}"])
                run([*buildah, "tag", name, pinned])
            argument = next(key for key, value in _STAND_INS.items() if value == name)
            arguments += ["--build-arg", f"{argument}={pinned}"]
        # Isolation by chroot needs no privilege and keeps the network of the caller; a
        # private certificate authority of this machine has to be handed in.
        options = ["--isolation", "chroot", "--layers", "--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]
        options += ["--pull-never", "--ignorefile", str(DOCKERFILE.with_name(".dockerignore"))]
        run([*buildah, "bud", *options, "--file", DOCKERFILE, "--tag", FULL_NAME, *arguments, context])
        target.unlink(missing_ok=True)
        run([*buildah, "push", "--quiet", FULL_NAME, f"docker-archive:{target}:{FULL_NAME}"])
