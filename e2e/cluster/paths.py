"""Where the cluster keeps its files, and how files are identified."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def cache_dir() -> Path:
    """Build products, shared by all checkouts of one user."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "postgres-operator"
    path.mkdir(parents=True, exist_ok=True)
    return path


def run_dir(name: str = "") -> Path:
    """State of a running cluster: one for each checkout and name.

    Short, because it holds a Unix socket, whose path is limited to 107 bytes;
    unique in its last element, because that names the cgroup.
    """
    return Path("/tmp") / f"pgop-{digest([str(ROOT), name])[:8]}"


def digest(inputs: Iterable[Path | str]) -> str:
    """SHA-256 over strings, files and trees of files (names and contents)."""
    total = hashlib.sha256()
    for entry in inputs:
        if isinstance(entry, str):
            total.update(f"{entry}\0".encode())
            continue
        files = [entry] if entry.is_file() else sorted(p for p in entry.rglob("*") if p.is_file())
        for file in files:
            if "__pycache__" not in file.parts:
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                total.update(f"{file.relative_to(entry.parent)}\0{content}\0".encode())
    return total.hexdigest()
