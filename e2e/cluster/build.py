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
RCLONE = "1.76.0"
VERSITYGW = "1.8.0"
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
    # Without the version the components say v0.0.0, and refuse each other.
    major, minor, _ = KUBERNETES.split(".")
    facts = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return _compiled("hyperkube", ".", {f"k8s.io/component-base/version.{key}": text for key, text in facts.items()})


def rclone() -> Path:
    """The program that moves backups to and from object stores."""
    return _compiled("rclone", ".", {"github.com/rclone/rclone/fs.Version": f"v{RCLONE}"})


def versitygw() -> Path:
    """A server that speaks S3 and keeps objects as files."""
    return _compiled("versitygw", "github.com/versity/versitygw/cmd/versitygw", {"main.Version": f"v{VERSITYGW}"})


def busybox() -> Path:
    """The shell and the tools of an Alpine image, which differ from those of Debian's busybox."""
    script = rootfs.SCRIPTS / "build-busybox.sh"

    def build(target: Path) -> None:
        run([script, target])

    return cached("busybox", [script], build)


def programs() -> None:
    """All of them, one after the other: a compiler uses all cores by itself."""
    for program in (hyperkube, rclone, versitygw, busybox):
        program()


def _compiled(name: str, package: str, variables: dict[str, str]) -> Path:
    """The binary of a package that the Go module of this name requires or is; `variables` are set in it."""
    source = HERE / name
    flags = " ".join(["-s -w", *(f"-X {key}={text}" for key, text in variables.items())])
    return cached(name, [source, package, flags], partial(_compile, source, package, flags))


def _compile(source: Path, package: str, flags: str, target: Path) -> None:
    if not shutil.which("go"):
        raise RuntimeError(f"{source.name} is compiled from its Go module: install Go 1.26 or newer")
    command = ["go", "build", "-trimpath", "-o", str(target), "-ldflags", flags, package]
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
        archives.append(pool.submit(_on_busybox, f"rclone/rclone:{RCLONE}", rclone))
        archives.append(pool.submit(_on_busybox, f"versity/versitygw:v{VERSITYGW}", versitygw))
        return binary.result(), [archive.result() for archive in archives]


def _on_busybox(name: str, program: Callable[[], Path]) -> Path:
    binary = str(program())
    return image(program.__name__, images.on_busybox, f"docker.io/{name}", program.__name__, binary, str(busybox()))
