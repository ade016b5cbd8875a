"""A cluster that the user brought along in KUBECONFIG."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn


class Existing:
    """Nothing is started or stopped here."""

    name = "existing"

    def __init__(self, kubeconfig: str) -> None:
        self._kubeconfig = Path(kubeconfig).absolute()

    def up(self) -> Path:
        if not self._kubeconfig.exists():
            raise RuntimeError(f"KUBECONFIG names {self._kubeconfig}, which does not exist")
        return self._kubeconfig

    def down(self) -> None:
        """Whoever started it will stop it."""

    def kubeconfig(self) -> Path:
        return self._kubeconfig

    def load(self, *archives: Path) -> NoReturn:
        names = ", ".join(archive.name for archive in archives)
        raise RuntimeError(f"cannot load {names} into a cluster of yours: push the image and name it in IMAGE")

    def enter(self, *command: str) -> NoReturn:
        raise RuntimeError(f"cannot run {command[0]} on the node of a cluster of yours")

    enter_command = enter
