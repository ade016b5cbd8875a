"""Bits flipped and files cut at random: what is not the backup any more is never taken for it."""

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from restoring import FILES, back_up, copy
from script_runner import Outcome, Pods, Server, hand_over, new_databases

TIMES = 200
KINDS = tuple(FILES)
Check = Callable[[Path], Outcome]


@pytest.fixture(scope="module")
def backups(server: Server, base: Path, spies: Path) -> Iterator[Path]:
    """A store with a backup of each format, which the tests copy."""
    store, pods = hand_over(base / "random"), Pods(hand_over(base / "random-pods"), spies)
    with new_databases(server) as create:
        db = create()
        db.app_sql("CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 5000) n; SELECT lo_create(7)")
        db.app_sql("CREATE TABLE u AS SELECT * FROM t; ALTER TABLE t ADD PRIMARY KEY (n)")
        for kind in KINDS:
            back_up(pods, store, db, kind)
        yield store


@pytest.fixture
def check(pods: Pods, store: Path) -> Check:
    """Runs restore-check.sh for the backup in this directory."""
    env = {"STORE_DIR": str(store), "EXPECTED_SHA256": "", "MODE": "Replace"}
    env["WORK_DIR"] = str(hand_over(pods.directory / "work"))
    return lambda backup: pods.run("restore-check.sh", {**env, "ARTIFACT_PATH": str(backup.relative_to(store))})


def _damage(file: Path, rng: random.Random) -> str:
    """Flip one bit, or cut the file; what was done."""
    content = bytearray(file.read_bytes())
    at = rng.randrange(len(content))
    if rng.random() < 0.5:
        os.truncate(file, at)
        return f"{file.name} cut at byte {at}"
    bit = rng.randrange(8)
    content[at] ^= 1 << bit
    file.write_bytes(content)
    return f"{file.name} with bit {bit} of byte {at} flipped"


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_dump_is_never_restored(check: Check, store: Path, backups: Path, kind: str) -> None:
    rng = random.Random(kind)  # noqa: S311 - not for secrets
    backup = copy(backups, f"shop/nightly-{kind}", store)
    dump = backup / FILES[kind]
    files = sorted(dump.iterdir()) if dump.is_dir() else [dump]
    sizes = [file.stat().st_size for file in files]
    for _ in range(TIMES):
        file = rng.choices(files, sizes)[0]
        whole = file.read_bytes()
        done = _damage(file, rng)
        outcome = check(backup)
        assert outcome.code != 0, done
        assert outcome.reason == "ChecksumMismatch", done
        file.write_bytes(whole)
    assert check(backup).code == 0


def test_a_damaged_manifest_never_changes_what_is_restored(check: Check, store: Path, backups: Path) -> None:
    """It is refused, or still names the same dump: the notes on its origin are not needed for that."""
    rng = random.Random("manifest")  # noqa: S311 - not for secrets
    backup = copy(backups, "shop/nightly-custom", store)
    manifest, dump = backup / "manifest.json", (backup / FILES["custom"]).read_bytes()
    whole, refused = manifest.read_bytes(), 0
    for _ in range(TIMES):
        done = _damage(manifest, rng)
        outcome = check(backup)
        if outcome.code == 0:
            assert f"Checking shop/nightly-custom/dump.pgdump: custom, {len(dump)} bytes\n" in outcome.log, done
            assert f"sha256 {hashlib.sha256(dump).hexdigest()}" in outcome.log, done
        else:
            refused += 1
            assert outcome.reason in ("ManifestInvalid", "ArtifactMissing", "ChecksumMismatch"), done
        manifest.write_bytes(whole)
    assert refused > TIMES / 2
