"""Root file systems of Debian packages, and images made of them.

mmdebstrap resolves dependencies and unpacks them, without maintainer scripts; what
little those would have done is in images/*.sh. An image is one layer.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

from e2e.cluster.paths import HERE
from e2e.cluster.progress import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SCRIPTS = HERE / "images"
_EXCLUDE = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
    "/usr/share/debconf/*",
    "/usr/share/perl*",
    "/usr/lib/*/perl*",
    "/usr/bin/perl*",
    "/usr/lib/*/gconv/*",
    "/lib/systemd/*",
    "/usr/lib/systemd/*",
)
_STATE = ("/etc/apt/*", "/var/lib/apt/*", "/var/lib/dpkg/*", "/var/cache/*", "/var/log/*")


def rootfs(
    suite: str,
    packages: Sequence[str],
    out: Path,
    *,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    hooks: Sequence[str] = (),
) -> None:
    """Write the tar of a root file system; globs are paths, hooks are shell commands on the root $1."""
    command = ["mmdebstrap", "--quiet", "--format=tar", "--variant=extract", '--aptopt=Acquire::Retries "5"']
    # signed, but testing's lists are valid for a week only, and a mirror may be older
    command += ['--aptopt=Acquire::Check-Valid-Until "false"']
    command += [f"--include={','.join(packages)}"]
    command += [f"--dpkgopt=path-exclude={glob}" for glob in (*_EXCLUDE, *exclude)]
    command += [f"--dpkgopt=path-include={glob}" for glob in include]
    command += [f"--extract-hook={hook}" for hook in (f'{SCRIPTS}/finish-root.sh "$1"', *hooks)]
    full = out.with_suffix(".full")
    run([*command, suite, str(full)])
    filters = [f"--path-exclude={glob}" for glob in _STATE]
    with full.open("rb") as source, out.open("wb") as target:
        subprocess.run(["mmtarfilter", *filters], stdin=source, stdout=target, check=True)
    full.unlink()


def pack(root: Path, archive: Path, name: str, config: dict[str, Any]) -> None:
    """Wrap the tar of a root file system into a docker-archive."""
    with root.open("rb") as file:
        layer = hashlib.file_digest(file, "sha256").hexdigest()
    architecture = run(["dpkg", "--print-architecture"]).strip()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{layer}"]}
    image = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": rootfs,
            "history": [{"created_by": "mmdebstrap"}],  # buildah wants one entry for each layer
        }
    )
    image_id = hashlib.sha256(image.encode()).hexdigest()
    manifest = [{"Config": f"{image_id}.json", "RepoTags": [name], "Layers": [f"{layer}/layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        for path, text in ((f"{image_id}.json", image), ("manifest.json", json.dumps(manifest))):
            info = tarfile.TarInfo(path)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        info = tarfile.TarInfo(f"{layer}/layer.tar")
        info.size = root.stat().st_size
        with root.open("rb") as file:
            tar.addfile(info, file)
