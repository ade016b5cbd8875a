"""Dumps of format directory, and what is dumped and restored by several sessions at once."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_store import ObjectStore
from restoring import NewDatabase, Restore, back_up, contents, copy
from script_runner import Pods, Server, TestDatabase, hand_over, new_databases, until
from streaming import FINAL, MANIFEST, StreamPod

from postgres_operator.api.backup import Manifest

CONTENT = """
CREATE TABLE orders AS SELECT g AS id, 'row-data-' || md5(g::text) AS t FROM generate_series(1, 2000) g;
ALTER TABLE orders ADD PRIMARY KEY (id);
CREATE TABLE lines AS SELECT g AS id, (g % 2000) + 1 AS order_id FROM generate_series(1, 2000) g;
ALTER TABLE lines ADD FOREIGN KEY (order_id) REFERENCES orders (id);
CREATE SCHEMA "My schema"; COMMENT ON SCHEMA "My schema" IS E'-- TOC entry 1 (\nCREATE SCHEMA public;';
CREATE TABLE "My schema".empty ();
SELECT lo_from_bytea(7, 'large');
"""
# Only the superuser may create it: it and its schema are in the dump, and in the database that is to be filled.
EXTENSION = "CREATE SCHEMA ext; GRANT USAGE ON SCHEMA ext TO PUBLIC; CREATE EXTENSION pageinspect SCHEMA ext"
# The session of a pg_dump that waits for a table.
LOCKED = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE %ACCESS SHARE%' AND wait_event_type = 'Lock'"
Backups = dict[str, tuple[Path, str]]


def _fill(db: TestDatabase) -> TestDatabase:
    db.sql(EXTENSION)
    db.app_sql(CONTENT)
    return db


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[TestDatabase]:
    """A database that the tests only read."""
    with new_databases(server) as create:
        yield _fill(create('Sh"op'))


@pytest.fixture(scope="module")
def backups(base: Path, spies: Path, shop: TestDatabase) -> Backups:
    """A backup of it in each format: its store, and where it is in that."""
    store, pods = hand_over(base / "formats"), Pods(hand_over(base / "formats-pods"), spies)
    found = {kind: (store, back_up(pods, store, shop, kind)) for kind in ("custom", "plain")}
    plain = {"COMPRESSION": "none", "JOBS": "2"}
    return {**found, "directory": (store, back_up(pods, store, shop, "directory", **plain))}


@pytest.fixture
def backup(backups: Backups, store: Path) -> Path:
    """A directory of one's own to damage."""
    return copy(*backups["directory"], store) / "dump.dir"


@pytest.fixture
def target(database: NewDatabase) -> TestDatabase:
    """A database to restore into."""
    target = database('Shöp "x" it\'s')
    target.sql(EXTENSION)
    return target


def _sums(directory: Path) -> bytes:
    files = sorted(directory.iterdir())
    return b"".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n".encode() for f in files)


def _table(directory: Path) -> Path:
    """The file with the rows of a table: the largest."""
    return max((f for f in directory.iterdir() if f.name[0].isdigit()), key=lambda f: f.stat().st_size)


# --- dumps


@pytest.mark.parametrize("compression", ["", "none"])
def test_a_dump_is_what_its_manifest_says(pods: Pods, shop: TestDatabase, store: Path, compression: str) -> None:
    path = back_up(pods, store, shop, "directory", COMPRESSION=compression, JOBS="2")
    directory, text = store / path / "dump.dir", (store / path / "manifest.json").read_text()
    manifest = Manifest.model_validate_json(text)
    assert (manifest.format, manifest.file) == ("directory", "dump.dir")
    assert manifest.sha256 == hashlib.sha256(_sums(directory)).hexdigest()
    assert manifest.size_bytes == sum(f.stat().st_size for f in directory.iterdir())
    assert {oct(f.stat().st_mode & 0o777) for f in directory.iterdir()} == {"0o660"}
    assert oct(directory.stat().st_mode & 0o777) == "0o770"
    assert (_table(directory).suffix == ".gz") == (compression == "")
    assert "--jobs=2" in (pods.started[0].directory / "argv").read_text()
    read = pods.run("read-manifest.sh", {"STORE_DIR": str(store), "ARTIFACT_PATH": path})
    assert read.result == json.loads(text)


def test_every_file_is_on_disk_before_the_name_is_final(pods: Pods, shop: TestDatabase, store: Path) -> None:
    calls = hand_over(pods.directory / "calls") / "calls"
    for program in ("sync", "mv"):
        pods.shim(program, f'echo "{program} $*" >>{calls}; exec "$REAL" "$@"')
    directory = store / back_up(pods, store, shop, "directory") / "dump.dir"
    files, parent, manifest, rename, *_ = calls.read_text().splitlines()
    assert files.split() == ["sync", *sorted(f.name for f in directory.iterdir())]
    assert parent.endswith(".partial/dump.dir")
    assert manifest.endswith(".partial")
    assert rename.startswith("mv -T ")


def _fails(pods: Pods, db: TestDatabase, store: Path, **env: str) -> str:
    with pytest.raises(AssertionError):
        back_up(pods, store, db, "directory", JOBS="2", **env)
    report = json.loads((pods.started[-1].directory / "termination-log").read_text())
    assert report["error"]["reason"] == "DumpFailed"
    assert list((store / "shop").iterdir()) == []
    assert "row-data" not in pods.started[-1].log
    return str(report["error"]["message"])


@pytest.mark.parametrize(
    ("damage", "compression", "words"),
    [
        pytest.param("truncate -s -5 $(ls -S $dir/*.dat* | head -n 1)", "gzip", "cannot read", id="cut"),
        pytest.param(
            "sed -i '1000,$d' $(ls -S $dir/[0-9]*.dat | head -n 1)",
            "none",
            "end of a table's data",
            id="cut after a row",
        ),
        pytest.param("rm $(ls -S $dir/*.dat* | head -n 1)", "none", "cannot read", id="missing"),
        pytest.param("ln -s /etc/passwd $dir/0.dat", "gzip", "not with what it writes", id="link"),
    ],
)
def test_what_pg_dump_did_not_leave_whole_is_no_backup(
    pods: Pods, shop: TestDatabase, store: Path, damage: str, compression: str, words: str
) -> None:
    directory = f"dir={store}/shop/.nightly-directory.pod-of-the-backup.partial/dump.dir"
    pods.shim("pg_dump", f'[ "$1" = --version ] && exec "$REAL" "$@"; "$REAL" "$@"; {directory}; {damage}')
    assert words in _fails(pods, shop, store, COMPRESSION=compression)


def test_a_worker_that_fails_leaves_nothing_and_its_own_reason(pods: Pods, database: NewDatabase, store: Path) -> None:
    db = _fill(database())
    # The leader locks it; the rows are a worker's.
    db.sql("CREATE TABLE hidden AS SELECT 'row-data'; GRANT SELECT ON hidden TO app")
    db.sql("ALTER TABLE hidden ENABLE ROW LEVEL SECURITY")
    assert 'affected by row-level security policy for table "hidden"' in _fails(pods, db, store)


def test_a_worker_that_is_killed_leaves_nothing(pods: Pods, database: NewDatabase, store: Path) -> None:
    db = database()
    db.app_sql("CREATE TABLE long AS SELECT n, md5(n::text) FROM generate_series(1, 600000) n")  # time to kill
    kill = "for i in {1..2000}; do pkill -KILL -P $! && break; sleep 0.01; done; wait $!"
    pods.shim("pg_dump", f'[ "$1" = --version ] && exec "$REAL" "$@"; "$REAL" "$@" & {kill}')
    assert "worker process died" in _fails(pods, db, store)


def test_sigterm_leaves_nothing(pods: Pods, shop: TestDatabase, store: Path) -> None:
    holder = shop.server.start_sql("BEGIN; LOCK TABLE orders", shop.name)
    env = {**shop.env, "FORMAT": "directory", "FILE": "dump.dir", "JOBS": "2", "STORE_DIR": str(store)}
    env |= {"ARTIFACT_PATH": "shop/x", "POD_UID": "p", "BACKUP_SOURCE": "{}"}
    script = pods.start("dump.sh", env)
    until(lambda: shop.sql(LOCKED))
    script.terminate()
    assert script.wait(8).report == {}
    holder.communicate()
    assert list((store / "shop").iterdir()) == []


# --- damage is found before the target is touched


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _link(file: Path) -> None:
    file.rename(file.parent.parent / "moved")
    file.symlink_to("../moved")


def _hide(file: Path) -> None:
    (file.parent / ".hidden").touch()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "added": lambda file: file.with_name("0.dat").touch(),
    "hidden": _hide,
    "cut": _cut,
    "one bit": _flip,
    "link": _link,
    "renamed": lambda file: file.rename(file.with_name(f"{file.stem}0.dat")),
    "all a link": lambda file: _link(file.parent),
    "no table of contents": lambda file: file.with_name("toc.dat").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_directory(pods: Pods, store: Path, backup: Path, damage: str) -> None:
    DAMAGE[damage](_table(backup))
    env = {"STORE_DIR": str(store), "ARTIFACT_PATH": "shop/nightly-directory", "EXPECTED_SHA256": "", "MODE": "Replace"}
    outcome = pods.run("restore-check.sh", {**env, "WORK_DIR": str(hand_over(pods.directory / "work"))})
    assert outcome.reason == ("ArtifactMissing" if damage == "all a link" else "ChecksumMismatch")
    assert "shop/nightly-directory/dump.dir" in outcome.message


# --- restores


@pytest.mark.parametrize(
    ("kind", "mode", "jobs"),
    [
        ("directory", "Fail", "1"),
        ("directory", "Clean", "1"),
        ("directory", "Replace", "1"),
        ("directory", "Replace", "2"),
        ("custom", "Replace", "2"),
    ],
)
def test_what_was_dumped_is_restored(
    pods: Pods, backups: Backups, shop: TestDatabase, target: TestDatabase, kind: str, mode: str, jobs: str
) -> None:
    target.app_sql("CREATE TABLE later ()" if mode != "Fail" else "")
    restore = Restore(pods, backups[kind][0], target, backups[kind][1], mode)
    assert restore.run(JOBS=jobs).result
    # Not the privileges: those of the schema that was there name the role that granted them.
    same = ("--no-privileges",)
    assert contents(target, *same) == contents(shop, *same)
    used = "".join((script.directory / "argv").read_text() for script in pods.started)
    assert ("--jobs=2" in used) == (jobs == "2")
    assert restore.scratch not in target.server.databases()


def _change(directory: Path) -> None:
    """Rows that are as readable as those that were checked."""
    file = _table(directory)
    content = file.read_bytes()
    assert b"row-data-" in content
    file.write_bytes(content.replace(b"row-data-", b"row-fake-"))


@pytest.mark.parametrize(("mode", "jobs"), [("Fail", "1"), ("Clean", "1"), ("Replace", "1"), ("Replace", "2")])
def test_what_is_changed_after_the_check_changes_nothing(
    pods: Pods, store: Path, backup: Path, target: TestDatabase, mode: str, jobs: str
) -> None:
    target.app_sql("CREATE TABLE later ()" if mode != "Fail" else "")
    before = contents(target)
    restore = Restore(pods, store, target, "shop/nightly-directory", mode)
    restore.steps("restore-check", *(["restore-prepare"] if mode == "Replace" else []))
    _change(backup)
    outcome = restore.step("restore-load", JOBS=jobs)
    assert outcome.reason == "ChecksumMismatch"
    assert "was changed since" in outcome.message
    assert contents(target) == before
    assert restore.scratch not in target.server.databases()


def test_a_custom_dump_that_is_changed_after_the_check_is_not_swapped_in(
    pods: Pods, backups: Backups, store: Path, target: TestDatabase
) -> None:
    copied = copy(*backups["custom"], store)
    restore = Restore(pods, store, target, "shop/nightly-custom", "Replace")
    restore.steps("restore-check", "restore-prepare")
    _flip(copied / "dump.pgdump")
    assert restore.step("restore-load", JOBS="2").reason == "ChecksumMismatch"
    assert restore.scratch not in restore.target.server.databases()


RAISES = """
CREATE FUNCTION good(t text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
    IF current_database() LIKE '%\\_restore\\_%' THEN RAISE 'no good: %', t; END IF; RETURN true;
END $$;
CREATE TABLE checked (t text CHECK (public.good(t))); INSERT INTO checked VALUES ('row-data');
"""


@pytest.mark.parametrize(
    ("sql", "superuser_sql", "words"),
    [
        pytest.param(RAISES, "", "a function of the application raised an exception", id="a function raises"),
        pytest.param("", "CREATE TABLE t (); GRANT SELECT ON t TO app; DROP ROLE IF EXISTS gone; CREATE ROLE gone;"
                     "GRANT SELECT ON t TO gone", 'role "gone" does not exist. Create that role', id="a role is gone"),
    ],
)  # fmt: skip
def test_a_session_that_fails_leaves_the_target_alone(
    pods: Pods, store: Path, database: NewDatabase, sql: str, superuser_sql: str, words: str
) -> None:
    target = database()
    target.app_sql(CONTENT + sql)
    target.sql(superuser_sql)
    restore = Restore(pods, store, target, back_up(pods, store, target, "directory"), "Replace")
    if superuser_sql:
        target.sql("DROP OWNED BY gone; DROP ROLE gone")
    before = contents(target)
    outcome = restore.run(JOBS="2")
    assert outcome.reason == "RestoreFailed"
    assert words in outcome.message
    assert "row-data" not in outcome.message + outcome.log
    assert contents(target) == before
    assert restore.scratch not in target.server.databases()


def test_sigterm_ends_all_sessions(pods: Pods, backups: Backups, target: TestDatabase) -> None:
    restore = Restore(pods, backups["directory"][0], target, backups["directory"][1], "Replace")
    restore.steps("restore-check", "restore-prepare")
    ready = pods.directory / "tmp-ready"
    pods.shim(
        "pg_restore", f'[[ $* != *--jobs* ]] || {{ "$REAL" "$@"; touch {ready}; exec sleep 1000; }}; exec "$REAL" "$@"'
    )
    script = restore.start("restore-load", JOBS="2")
    until(ready.exists)
    script.terminate()
    assert script.wait(8).report == {}
    assert restore.scratch not in target.server.databases()


@pytest.mark.parametrize(
    ("program", "when", "text"),
    [
        ("sed", "$1 == -nE", '"$REAL" "$@" | head -c 5; exit 4'),
        ("sed", "$1 == -nE", '"$REAL" "$@" | head -c 5; exit 0'),
        ("grep", "$1 == -av && $2 == -f", '"$REAL" "$@" | head -n 15; exit 2'),
        ("grep", "$1 == -av && $2 == -f", '"$REAL" "$@" | head -n 15; exit 0'),
        ("grep", "$* == *SCHEMA*", "exit 2"),
    ],
    ids=["rules-fail", "rules-are-cut", "list-fails", "list-is-cut", "entries-fail"],
)
def test_a_list_that_is_not_whole_restores_nothing(
    pods: Pods, backups: Backups, target: TestDatabase, program: str, when: str, text: str
) -> None:
    """As on a full disk, which not every sed or grep minds."""
    target.app_sql("CREATE TABLE later ()")
    before = contents(target)
    restore = Restore(pods, backups["directory"][0], target, backups["directory"][1], "Replace")
    restore.steps("restore-check", "restore-prepare")
    pods.shim(program, f'if [[ {when} ]]; then {text}; fi; exec "$REAL" "$@"')
    outcome = restore.step("restore-load", JOBS="2")
    assert (outcome.reason, "has the node's disk room" in outcome.message) == ("RestoreFailed", True), outcome.message
    assert contents(target) == before
    assert restore.scratch not in target.server.databases()


def test_newer_tools_load_into_an_older_server_in_one_session(
    pods: Pods, backups: Backups, shop: TestDatabase, target: TestDatabase
) -> None:
    """Since 17 they set what that does not know, and with several sessions nothing can leave it out."""
    if int(target.server.version.split(".")[0]) >= 17:
        pytest.skip("this server knows it")
    restore = Restore(pods, backups["directory"][0], target, backups["directory"][1], "Replace")
    restore.steps("restore-check", "restore-prepare")
    unknown = 'ERROR:  unrecognized configuration parameter "transaction_timeout"'
    pods.shim(
        "pg_restore",
        'if [[ $1 == --version ]]; then echo "pg_restore (PostgreSQL) 17.6"; exit; fi\n'
        f"if [[ $* == *--jobs* ]]; then echo 'pg_restore: error: could not execute query: {unknown}' >&2; exit 1; fi\n"
        '"$REAL" "$@" | sed \'s/^SET statement_timeout = 0;$/&\\nSET transaction_timeout = 0;/\'',
    )
    outcome = restore.step("restore-load", JOBS="2")
    assert outcome.code == 0, outcome.message
    assert "one does it" in outcome.log
    restore.steps("restore-swap")
    assert contents(target, "--no-privileges") == contents(shop, "--no-privileges")


def test_plain_text_has_no_jobs(pods: Pods, backups: Backups, database: NewDatabase) -> None:
    restore = Restore(pods, backups["plain"][0], database(), backups["plain"][1], "Replace")
    outcome = restore.run(JOBS="2")
    assert outcome.reason == "FormatUnsupported"
    assert "without spec.jobs" in outcome.message


def test_a_directory_in_an_object_store_cannot_be_streamed(
    pods: Pods, s3: ObjectStore, uploader: Path, backups: Backups, database: NewDatabase
) -> None:
    origin, path = backups["directory"]
    s3.put(MANIFEST, (origin / path / "manifest.json").read_bytes())
    s3.put(f"{FINAL}/dump.dir/toc.dat", (origin / path / "dump.dir" / "toc.dat").read_bytes())
    outcome = StreamPod(pods, s3, uploader, database(), "restore.yaml.j2", {}, {}).run()
    assert outcome.reason == "FormatUnsupported"
    assert "copy it to a volume" in outcome.message
