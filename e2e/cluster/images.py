"""Container images from Debian packages, for machines without a registry."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from e2e.cluster.progress import run, say
from e2e.cluster.rootfs import SCRIPTS, pack, rootfs

PAUSE = "localhost/pause:1"
# The suites that have these versions; the newest one is in Debian testing, until that has the next.
POSTGRES = {"15": "bookworm", "17": "trixie", "18": "forky"}
# Names of their own: nobody should take them for the images that they stand in for.
PYTHON_BUILD = "localhost/python3-build:debian12"
PYTHON_BASE = "localhost/distroless-python3:debian12"


def pause(archive: Path) -> None:
    """The sandbox image."""
    with tempfile.TemporaryDirectory() as tmp:
        run(["gcc", "-Os", "-static", "-s", "-o", f"{tmp}/pause", SCRIPTS / "pause.c"])
        root = Path(tmp, "root.tar")
        run(["tar", "-C", tmp, "--owner=0", "--group=0", "-cf", root, "pause"])
        pack(root, archive, PAUSE, {"Entrypoint": ["/pause"]})


def postgres(archive: Path, major: str, suite: str) -> None:
    """A stand-in for docker.io/library/postgres with the same environment contract."""
    shell = "bash coreutils dash diffutils findutils grep gzip hostname mawk sed tar util-linux xz-utils zstd"
    packages = ["base-files", *shell.split(), "libc-bin", "tzdata", f"postgresql-{major}"]
    # The JIT compiler needs 110 MB of LLVM; without it the server just does not compile.
    jit = ["/usr/lib/*/libLLVM*", "/usr/lib/*/libz3.so*", "/usr/lib/llvm*"]
    jit += ["/usr/lib/postgresql/*/lib/llvmjit*", "/usr/lib/postgresql/*/lib/bitcode/*"]
    path = f"/usr/local/bin:/usr/lib/postgresql/{major}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    # since 18, the volume is that of all versions
    volume, data = ("/var/lib/postgresql/data", "") if int(major) < 18 else ("/var/lib/postgresql", f"/{major}/docker")
    env = [f"PATH={path}", "LANG=C.UTF-8", f"PGDATA={volume}{data}", f"PG_MAJOR={major}"]
    config = {
        "Entrypoint": ["docker-entrypoint.sh"],
        "Cmd": ["postgres"],
        "Env": env,
        "StopSignal": "SIGINT",
        "ExposedPorts": {"5432/tcp": {}},
        "Volumes": {volume: {}},
    }
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp, "root.tar")
        hooks = (
            f'{SCRIPTS}/finish-postgres.sh "$1" {volume}',
            f'install -m 755 {SCRIPTS}/postgres-entrypoint.sh "$1/usr/local/bin/docker-entrypoint.sh"',
        )
        rootfs(suite, packages, root, exclude=jit, hooks=hooks)
        with tarfile.open(root) as tar:
            version = tar.extractfile("./version")
            say(f"  image postgres:{major}: {version.read().decode().strip() if version else 'unknown'}")
        pack(root, archive, f"docker.io/library/postgres:{major}", config)


def on_busybox(archive: Path, name: str, program: str, binary: str, busybox: str) -> None:
    """A stand-in for an image of Alpine and one program: busybox's shell and tools, certificates, the program."""
    config = {"Entrypoint": [program], "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp, "root.tar")
        hooks = (
            f'install -m 755 {busybox} "$1/bin/busybox"',
            # instead of what Debian's packages bring, such as another awk
            'for tool in $("$1/bin/busybox" --list-full); do ln -sf /bin/busybox "$1/$tool"; done',
            f'install -m 755 {binary} "$1/usr/local/bin/{program}"',
        )
        rootfs("bookworm", ["base-files", "ca-certificates", "tzdata"], root, hooks=hooks)
        pack(root, archive, name, config)


def python_build(archive: Path) -> None:
    """Builder stage: Debian's Python with pip."""
    packages = "base-files bash coreutils dash findutils libc-bin ca-certificates netbase python3 python3-pip"
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp, "root.tar")
        rootfs("bookworm", packages.split(), root)
        pack(root, archive, PYTHON_BUILD, {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]})


def python_base(archive: Path) -> None:
    """Final stage: Debian's Python and nothing else that could be run."""
    packages = "base-files ca-certificates netbase tzdata libpython3.11-stdlib python3.11-minimal"
    config = {
        "Env": [
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "LANG=C.UTF-8",
            "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
        ],
        "User": "65532",
        "WorkingDir": "/home/nonroot",
        "Entrypoint": ["/usr/bin/python3.11"],
    }
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp, "root.tar")
        programs = ("/bin/*", "/sbin/*", "/usr/sbin/*", "/usr/bin/*")
        links = ('ln -sf python3.11 "$1/usr/bin/python3"',)
        include = ("/usr/bin/python3*",)
        rootfs("bookworm", packages.split(), root, exclude=programs, include=include, hooks=links)
        pack(root, archive, PYTHON_BASE, config)
