"""restore-check.sh: nothing goes near the database before the backup is known to be whole."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from restoring import FILES, back_up, forge
from script_runner import Outcome, Pods, Server, hand_over, new_databases

Check = Callable[..., Outcome]
KINDS = ("custom", "plain")


@pytest.fixture(scope="module")
def dumps(server: Server, base: Path, spies: Path) -> Iterator[dict[str, bytes]]:
    """One dump of each format."""
    store, pods = hand_over(base / "check"), Pods(hand_over(base / "check-pods"), spies)
    with new_databases(server) as create:
        db = create()
        db.app_sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")
        yield {kind: (store / back_up(pods, store, db, kind) / FILES[kind]).read_bytes() for kind in KINDS}


@pytest.fixture
def check(pods: Pods, store: Path) -> Check:
    """Runs the script, which is given no credentials."""

    def run(path: str, expected: str = "", mode: str = "Replace") -> Outcome:
        env = {"STORE_DIR": str(store), "ARTIFACT_PATH": path, "EXPECTED_SHA256": expected, "MODE": mode}
        env["WORK_DIR"] = str(hand_over(pods.directory / "work"))
        return pods.run("restore-check.sh", env)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_backup(check: Check, store: Path, dumps: dict[str, bytes], kind: str) -> None:
    path = forge(store, dumps[kind], kind)
    expected = hashlib.sha256(dumps[kind]).hexdigest()
    for outcome in (check(path), check(path, expected)):
        assert outcome.code == 0, outcome.report
        assert f"sha256 {expected}" in outcome.log


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("shop/none", "ArtifactMissing"),
        ("../outside/forged", "ArtifactMissing"),
        ("shop/empty", "ArtifactMissing"),
        ("shop/invalid", "ManifestInvalid"),
    ],
)
def test_no_finished_backup(check: Check, store: Path, path: str, reason: str) -> None:
    forge(store.parent / "outside", b"x", name="../forged")
    (store / "shop" / "empty").mkdir(parents=True)
    forge(store, b"x", name="invalid")
    (store / "shop" / "invalid" / "manifest.json").write_text('{"schema": 2}\n')
    outcome = check(path)
    assert outcome.reason == reason
    assert path in outcome.message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["cut", "longer", "one bit"])
def test_a_damaged_file(check: Check, store: Path, dumps: dict[str, bytes], kind: str, damage: str) -> None:
    path = forge(store, dumps[kind], kind)
    content = bytearray(dumps[kind])
    match damage:
        case "cut":
            content.pop()
        case "longer":
            content += b"\n"
        case _:
            content[len(content) // 2] ^= 1
    (store / path / FILES[kind]).write_bytes(content)
    outcome = check(path)
    assert outcome.reason == "ChecksumMismatch"
    assert f"{path}/{FILES[kind]}" in outcome.message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["Clean", "Replace"])
def test_a_part_of_a_database_takes_nothing_away(
    check: Check, store: Path, dumps: dict[str, bytes], kind: str, mode: str
) -> None:
    path = forge(store, dumps[kind], kind)
    manifest = store / path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"source": {}', '"source": {"partial": true, "backup": "b"}'))
    outcome = check(path, mode=mode)
    assert outcome.reason == "BackupPartial"
    assert f"mode {mode} would take away the rest" in outcome.message
    assert check(path, mode="Fail").code == 0


def test_a_name_does_not_make_it_a_part(check: Check, store: Path, dumps: dict[str, bytes]) -> None:
    path = forge(store, dumps["custom"], "custom")
    manifest = store / path / "manifest.json"
    source = json.dumps({"databaseName": '"source": {"partial": true, "x": "'})
    manifest.write_text(manifest.read_text().replace('"source": {}', f'"source": {source}'))
    assert check(path).code == 0


def test_another_file_than_the_backup_recorded(check: Check, store: Path, dumps: dict[str, bytes]) -> None:
    outcome = check(forge(store, dumps["plain"]), "0" * 64)
    assert outcome.reason == "ChecksumMismatch"
    assert "0" * 64 in outcome.message


def test_an_archive_of_a_newer_pg_dump(check: Check, store: Path, dumps: dict[str, bytes]) -> None:
    content = bytearray(dumps["custom"])
    assert content[:5] == b"PGDMP"
    content[6] = 99  # minor version of the archive format
    outcome = check(forge(store, bytes(content), "custom"))
    assert outcome.reason == "VersionMismatch"
    assert "spec.image" in outcome.message


def test_what_is_no_archive(check: Check, store: Path, dumps: dict[str, bytes]) -> None:
    outcome = check(forge(store, dumps["plain"], "custom"))
    assert outcome.reason == "RestoreFailed"
    assert "dump.pgdump" in outcome.message


def test_a_file_that_cannot_be_read(check: Check, pods: Pods, store: Path) -> None:
    pods.shim("cat", '[[ $1 != */dump.* ]] || { echo "cat: $1: Input/output error" >&2; exit 1; }; exec "$REAL" "$@"')
    outcome = check(forge(store, b"x"))
    assert outcome.reason == "ChecksumMismatch"
    assert "Input/output error" in outcome.message
