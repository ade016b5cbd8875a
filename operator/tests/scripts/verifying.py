"""Verifications for the tests of verify-*.sh: what the operator and the kubelet do around the scripts."""

import json
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from restoring import FILES
from script_runner import SCRIPTS, Outcome, Pods, Script, TestDatabase, hand_over

STEPS = {
    "List": {"verify-check": ["volume.sh", "blocks.sh", "verify-lib.sh", "restore-check.sh", "verify-list.sh"]},
    "Restore": {
        "verify-check": ["volume.sh", "blocks.sh", "verify-lib.sh", "restore-check.sh", "verify-list.sh"],
        "verify-restore": ["volume.sh", "blocks.sh", "verify-lib.sh", "inventory.sh", "verify-restore.sh"],
    },
}
_NUMBERS = count()


@dataclass
class Verification:
    """A backup that was just made, and the pods that verify it."""

    pods: Pods
    store: Path
    manifest: dict[str, object]
    selection: str = ""
    mode: str = "Restore"
    inside: tuple[str, ...] = ()  # a command that runs each step
    number: int = field(default_factory=lambda: next(_NUMBERS))

    @property
    def artifact(self) -> str:
        """Its location in the store."""
        return str(self.manifest["location"])

    @property
    def dump(self) -> Path:
        """Its file."""
        return self.store / self.artifact / str(self.manifest["file"])

    def start(self, step: str, **more: str) -> Script:
        """Start one step."""
        env = {
            "STORE_DIR": str(self.store),
            "ARTIFACT_PATH": self.artifact,
            "EXPECTED_SHA256": str(self.manifest["sha256"]),
            "MODE": "Fail",
            "WORK_DIR": str(hand_over(self.pods.directory / f"work-{self.number}")),
            "DATA_DIR": str(hand_over(self.pods.directory / f"data-{self.number}")),
            "SELECTION": self.selection,
        }
        text = "".join((SCRIPTS / name).read_text() for name in ["lib.sh", *STEPS[self.mode][step]])
        return self.pods.launch([*self.inside, "bash", "-c", text], env | more)

    def run(self, **more: str) -> Outcome:
        """Run all steps, up to the first that fails."""
        for step in STEPS[self.mode]:
            outcome = self.pods.finish(self.start(step, **more))
            assert "bash: " not in outcome.log, outcome.log  # what bash itself finds wrong
            if outcome.code:
                break
        return outcome


def dump_env(store: Path, source: TestDatabase, kind: str = "custom", **more: str) -> dict[str, str]:
    """Environment of the dump of a Backup that is to be restored for a test."""
    return {
        **source.env,
        "FORMAT": kind,
        "FILE": FILES[kind],
        "STORE_DIR": str(store),
        "ARTIFACT_PATH": f"shop/nightly-{kind}",
        "POD_UID": "pod-of-the-backup",
        "BACKUP_SOURCE": json.dumps({"databaseName": source.name}),
        "VERIFICATION": "Restore",
        **more,
    }


DUMP = ["inventory.sh", "snapshot.sh", "dump.sh"]


def back_up(pods: Pods, store: Path, source: TestDatabase, kind: str = "custom", **more: str) -> Verification:
    """Dump a database, in order to verify that."""
    outcome = pods.run(DUMP, dump_env(store, source, kind, **more))
    assert "bash: " not in outcome.log, outcome.log
    return Verification(pods, store, outcome.result, more.get("SELECTION", ""))
