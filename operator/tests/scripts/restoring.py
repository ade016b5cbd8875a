"""Backups and restores for the tests of the restore-*.sh: what the operator and the kubelet do around the scripts."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from script_runner import BIN, SUPERUSER_PASSWORD, Outcome, Pods, Script, TestDatabase, hand_over

NewDatabase = Callable[..., TestDatabase]
STEPS = {
    "Fail": ["restore-check", "restore-load"],
    "Clean": ["restore-check", "restore-load"],
    "Replace": ["restore-check", "restore-prepare", "restore-load", "restore-swap"],
}
FILES = {"custom": "dump.pgdump", "plain": "dump.sql", "directory": "dump.dir"}
BLOCK = 8 << 20  # bytes, as in blocks.sh
MORE_FILES = {"restore-load": ["restore-target.sh", "restore-parallel.sh"]}


@dataclass
class Restore:
    """One pod of a Restore, whose steps run one by one."""

    pods: Pods
    store: Path
    target: TestDatabase
    artifact: str
    mode: str = "Fail"
    keep_previous: bool = True
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    pod: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def scratch(self) -> str:
        return f"{self.prefix}_{self.pod[:8]}"

    @property
    def prefix(self) -> str:
        return f"{self.target.name}_restore"

    @property
    def previous(self) -> str:
        return f"{self.target.name}_before_{self.uid[:8]}"

    @property
    def work(self) -> Path:
        """Where the steps leave notes for each other."""
        return hand_over(self.pods.directory / f"work-{self.pod}")

    def examined(self) -> None:
        """What restore-check leaves for restore-load, where a test does without it."""
        (file,) = (self.store / self.artifact).glob("dump.*")
        content = file.read_bytes()
        blocks = [content[i : i + BLOCK] for i in range(0, len(content), BLOCK)]
        (self.work / "blocks").write_text("".join(f"{hashlib.sha256(block).hexdigest()}\n" for block in blocks))
        entries = len(re.findall(rb"^-- Name: ", content, re.MULTILINE))
        if file.suffix == ".pgdump":
            listed = subprocess.run([BIN / "pg_restore", "--list", file], capture_output=True, check=False).stdout
            entries = len(re.findall(rb"^\d", listed, re.MULTILINE))
        (self.work / "entries").write_text(f"{entries}\n")

    def twin(self) -> "Restore":
        """A second pod of the same Restore."""
        return Restore(self.pods, self.store, self.target, self.artifact, self.mode, self.keep_previous, self.uid)

    def env(self, step: str, **more: str) -> dict[str, str]:
        """Environment of a step, as the template sets it."""
        env = {
            "STORE_DIR": str(self.store),
            "ARTIFACT_PATH": self.artifact,
            "EXPECTED_SHA256": "",
            "RESTORE_UID": self.uid,
            "POD_UID": self.pod,
            "MODE": self.mode,
            "WORK_DIR": str(self.work),
        }
        if step == "restore-load":
            env |= self.target.env
        if step in ("restore-prepare", "restore-swap"):
            env |= self.target.server.env("postgres", "postgres", SUPERUSER_PASSWORD)
            env |= {"TARGET_DATABASE": self.target.name, "SCRATCH_PREFIX": self.prefix}
        if step == "restore-prepare":
            env |= {"TARGET_OWNER": self.target.owner}
        if step == "restore-swap":
            env |= {"PREVIOUS_DATABASE": self.previous, "KEEP_PREVIOUS": str(self.keep_previous).lower()}
        return env | more

    def start(self, step: str, **more: str) -> Script:
        """Start one step."""
        if step == "restore-load" and not (self.work / "blocks").exists():
            self.examined()
        return self.pods.start([*MORE_FILES.get(step, []), f"{step}.sh"], self.env(step, **more))

    def step(self, step: str, **more: str) -> Outcome:
        """Run one step."""
        outcome = self.pods.finish(self.start(step, **more))
        assert "bash: " not in outcome.log, outcome.log  # what bash itself finds wrong
        return outcome

    def steps(self, *steps: str) -> None:
        """Run steps that must succeed."""
        for step in steps:
            outcome = self.step(step)
            assert outcome.code == 0, (outcome.report, outcome.log)

    def run(self, **more: str) -> Outcome:
        """Run all steps, up to the first that fails."""
        for step in STEPS[self.mode]:
            outcome = self.step(step, **more)
            if outcome.code:
                break
        return outcome


def back_up(
    pods: Pods, store: Path, source: TestDatabase, kind: str = "custom", name: str = "nightly", **more: str
) -> str:
    """Dump a database; the location of the backup in the store."""
    env = {
        **source.env,
        "FORMAT": kind,
        "FILE": FILES[kind],
        "STORE_DIR": str(store),
        "ARTIFACT_PATH": f"shop/{name}-{kind}",
        "POD_UID": "pod-of-the-backup",
        "BACKUP_SOURCE": json.dumps({"databaseName": source.name}),
        **more,
    }
    location = pods.run("dump.sh", env).result["location"]
    assert isinstance(location, str)
    return location


def copy(origin: Path, path: str, store: Path) -> Path:
    """Copy a backup of one store into another one, to be damaged there; its directory."""
    shutil.copytree(origin / path, store / path)
    for copied in store.rglob("*"):
        copied.chmod(0o777)
    return store / path


def manifest_of(content: bytes, kind: str, location: str, file: str) -> bytes:
    """The manifest that a dump with this content has, as a file."""
    manifest = {
        "schema": 1,
        "location": location,
        "file": file,
        "format": kind,
        "sizeBytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "serverVersion": "15.20",
        "toolVersion": "15.20",
        "backupTime": "2024-02-29T00:00:00Z",
        "source": {},
    }
    return json.dumps(manifest).encode() + b"\n"


def forge(store: Path, content: bytes, kind: str = "plain", name: str = "forged") -> str:
    """A backup with this content and a manifest that fits; its location in the store."""
    file = FILES[kind]
    directory = store / "shop" / name
    directory.mkdir(parents=True)
    (directory / file).write_bytes(content)
    (directory / "manifest.json").write_bytes(manifest_of(content, kind, f"shop/{name}", file))
    return f"shop/{name}"


def contents(database: TestDatabase, *options: str) -> str:
    """All that pg_dump sees in a database, as text to compare."""
    command = [BIN / "pg_dump", "--no-owner", "--exclude-schema=postgres_operator", *options]
    env = {**os.environ, **database.server.env(database.name)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if "restrict " not in line)
