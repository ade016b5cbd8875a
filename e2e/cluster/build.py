"""What has to be built before a local cluster can start, each once for its inputs."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from e2e.cluster import images, rootfs
from e2e.cluster.paths import HERE, cache_dir, digest
from e2e.cluster.progress import run, step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

KUBERNETES = "1.35.4"
_KEEP = 3


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, made if need be."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cached(name: str, inputs: Sequence[Path | str], build: Callable[[Path], None], suffix: str = "") -> Path:
    """The product of `build`, from the cache where its inputs have not changed."""
    target = cache_dir() / f"{name}-{digest(inputs)[:16]}{suffix}"
    if not target.exists():
        # two checkouts may want the same thing at the same time
        with locked(cache_dir() / f".{name}.lock"):
            if not target.exists():
                temporary = target.with_name(f".{target.name}.tmp")
                try:
                    with step(f"building {name}"):
                        build(temporary)
                    temporary.rename(target)
                finally:
                    temporary.unlink(missing_ok=True)
                _forget_old(name, suffix)
    os.utime(target)  # used now: others are thrown away first
    return target


def _forget_old(name: str, suffix: str) -> None:
    hexadecimal = "[0-9a-f]" * 16
    products = sorted(cache_dir().glob(f"{name}-{hexadecimal}{suffix}"), key=lambda p: p.stat().st_mtime)
    for product in products[:-_KEEP]:
        product.unlink()


def hyperkube() -> Path:
    """The binary with all Kubernetes components."""
    source = HERE / "hyperkube"
    return cached("hyperkube", [source, KUBERNETES], partial(_compile, source))


def _compile(source: Path, target: Path) -> None:
    if not shutil.which("go"):
        raise RuntimeError("the local cluster is compiled from its Go modules: install Go 1.25 or newer")
    # Without the version the components say v0.0.0, and refuse each other.
    major, minor, _ = KUBERNETES.split(".")
    facts = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    flags = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in facts.items())
    command = ["go", "build", "-trimpath", "-o", str(target), "-ldflags", f"-s -w {flags}", "."]
    run(command, env={"CGO_ENABLED": "0"}, cwd=source)


def image(name: str, build: Callable[..., None], *args: str) -> Path:
    """The archive of an image built by a function of images.py."""
    inputs: list[Path | str] = [rootfs.SCRIPTS, HERE / "rootfs.py", inspect.getsource(build), *args]
    return cached(f"image-{name}", inputs, lambda target: build(target, *args), ".tar")


def everything() -> tuple[Path, list[Path]]:
    """The binary and the archives that every local cluster starts with, built side by side."""
    with ThreadPoolExecutor() as pool:
        binary = pool.submit(hyperkube)
        archives = [pool.submit(image, "pause", images.pause)]
        for major, suite in images.POSTGRES.items():
            archives.append(pool.submit(image, f"postgres-{major}", images.postgres, major, suite))
        return binary.result(), [archive.result() for archive in archives]
