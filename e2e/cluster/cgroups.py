"""The cgroup that all pods of a local cluster live in, for cgroup v1 and v2.

Directories of cgroups are the one thing that outlives the namespaces.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def _unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def prepare(name: str) -> None:
    """Make the cgroup, in every hierarchy, with all controllers usable."""
    if _unified():
        _delegate(ROOT)
        (ROOT / name).mkdir(exist_ok=True)
        _delegate(ROOT / name)
        return
    for hierarchy in ROOT.iterdir():
        if hierarchy.is_symlink() or not hierarchy.is_dir():
            continue
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        # these are empty at first, and nothing can run in the group until they are not
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / file).exists():
                (group / file).write_text((hierarchy / file).read_text())


def _delegate(group: Path) -> None:
    controllers = (group / "cgroup.controllers").read_text().split()
    enable = " ".join(f"+{controller}" for controller in controllers)
    try:
        (group / "cgroup.subtree_control").write_text(enable)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # Within a container the root is an ordinary group: it cannot have both
        # processes and controlled children. The processes move to a leaf.
        leaf = group / "init"
        leaf.mkdir(exist_ok=True)
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # ended meanwhile, or of the kernel
                (leaf / "cgroup.procs").write_text(pid)
        (group / "cgroup.subtree_control").write_text(enable)


def leftovers(name: str) -> list[Path]:
    """The directories of the cgroup that exist."""
    places = [ROOT] if _unified() else list(ROOT.iterdir())
    return [place / name for place in places if not place.is_symlink() and (place / name).is_dir()]


def remove(name: str) -> bool:
    """Remove the cgroup as far as no process is left in it; true when it is gone."""
    for top in leftovers(name):
        for group in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                group.rmdir()
        with contextlib.suppress(OSError):
            top.rmdir()
    return not leftovers(name)
