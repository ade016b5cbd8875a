"""dump.sh and read-manifest.sh."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from script_runner import BIN, Outcome, Pods, Server, TestDatabase, hand_over, identifier, new_databases, until

from postgres_operator.api.backup import Manifest

NewDatabase = Callable[..., TestDatabase]
FILES = {"custom": "dump.pgdump", "plain": "dump.sql"}
SOURCE = {"database": "shop", "databaseName": 'K\u00e4ufe "x" \\', "backup": "nightly"}
PATH = "shop/nightly-1f0c"


# The session of a pg_dump that waits for a table.
LOCKED = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LOCK TABLE %ACCESS SHARE%' AND wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[TestDatabase]:
    """A database with some rows, a large object and the operator's own schema; the tests only read it."""
    with new_databases(server) as create:
        db = create("Kä\"ufe's $x")
        db.app_sql(
            "CREATE TABLE orders AS SELECT g AS id, 'row-data-' || md5(g::text) AS t FROM generate_series(1, 2000) g;"
            "SELECT lo_from_bytea(0, 'large');"
            "CREATE SCHEMA postgres_operator; CREATE TABLE postgres_operator.restores (restore_uid uuid)"
        )
        yield db


def _env(db: TestDatabase, store: Path, **more: str) -> dict[str, str]:
    env = {
        **db.env,
        "FORMAT": "custom",
        "STORE_DIR": str(store),
        "ARTIFACT_PATH": PATH,
        "POD_UID": "pod-1",
        "BACKUP_SOURCE": json.dumps(SOURCE),
    }
    env |= more
    return {"FILE": FILES.get(env["FORMAT"], "dump"), **env}


def _read(pods: Pods, store: Path, path: str = PATH) -> Outcome:
    return pods.run("read-manifest.sh", {"STORE_DIR": str(store), "ARTIFACT_PATH": path})


def _content(store: Path) -> list[str]:
    return sorted(str(p.relative_to(store)) for p in store.rglob("*") if not p.is_dir())


def _directories(store: Path) -> set[str]:
    return {p.name for p in (store / "shop").iterdir()} if (store / "shop").exists() else set()


# --- a dump that succeeds


@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_a_dump_is_what_its_manifest_says(pods: Pods, shop: TestDatabase, store: Path, kind: str) -> None:
    before = time.time()
    outcome = pods.run("dump.sh", _env(shop, store, FORMAT=kind))
    manifest, file = outcome.result, store / PATH / FILES[kind]
    assert json.loads((store / PATH / "manifest.json").read_text()) == manifest
    assert (store / PATH / "manifest.json").read_text().count("\n") == 1
    assert manifest == {
        "schema": 1,
        "location": PATH,
        "file": FILES[kind],
        "format": kind,
        "sizeBytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "serverVersion": manifest["serverVersion"],
        "toolVersion": manifest["toolVersion"],
        "backupTime": manifest["backupTime"],
        "source": SOURCE,
    }
    parsed = Manifest.model_validate(manifest)
    assert before - 1 <= parsed.backup_time.timestamp() <= time.time()
    assert shop.sql("SHOW server_version").split()[0] == parsed.server_version
    assert parsed.tool_version in subprocess.check_output([BIN / "pg_dump", "-V"], text=True).split()
    assert _content(store) == [f"{PATH}/{FILES[kind]}", f"{PATH}/manifest.json"]
    assert _directories(store) == {"nightly-1f0c"}
    assert "row-data" not in outcome.log
    assert _read(pods, store).result == manifest


@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_a_dump_has_everything_but_our_own_schema(pods: Pods, shop: TestDatabase, store: Path, kind: str) -> None:
    assert pods.run("dump.sh", _env(shop, store, FORMAT=kind)).result
    file = store / PATH / FILES[kind]
    script = [BIN / "pg_restore", "-f", "-", file] if kind == "custom" else ["cat", file]
    text = subprocess.check_output(script, text=True)
    assert text.count("\trow-data-") == 2000
    assert "lo_create" in text
    assert "postgres_operator" not in text
    assert ("OWNER TO" in text) == (kind == "custom")  # there, pg_restore leaves it out


def test_group_may_use_the_files_and_others_may_not(pods: Pods, shop: TestDatabase, store: Path) -> None:
    assert pods.run("dump.sh", _env(shop, store)).result
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in (store / "shop").rglob("*")}
    assert modes == {"nightly-1f0c": "0o770", "dump.pgdump": "0o660", "manifest.json": "0o660"}


def test_a_dump_is_in_the_encoding_of_its_database(pods: Pods, database: NewDatabase, store: Path) -> None:
    db = database(options="TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    db.app_sql("SET client_encoding = 'UTF8'; CREATE TABLE t AS SELECT 'Größe'::text")
    assert pods.run("dump.sh", _env(db, store, FORMAT="plain")).result
    dump = (store / PATH / "dump.sql").read_bytes()
    assert b"client_encoding = 'LATIN1'" in dump
    assert "Größe".encode("latin-1") in dump


def test_what_is_promoted_is_on_disk(pods: Pods, shop: TestDatabase, store: Path, place: Path) -> None:
    calls = place / "calls"
    calls.touch()
    calls.chmod(0o666)
    for program in ("sync", "openssl", "cp", "mv"):
        pods.shim(program, f'echo "{program} $*" >>{calls}; exec "$REAL" "$@"')
    assert pods.run("dump.sh", _env(shop, store)).result
    partial = f"{store}/shop/.nightly-1f0c.pod-1.partial"
    done = [line for line in calls.read_text().splitlines() if not line.startswith("cp ")]
    assert done == [
        f"sync {partial}/dump.pgdump",
        "openssl dgst -sha256 -r",
        f"sync {partial}/manifest.json {partial}",
        f"mv -T {partial} {store}/{PATH}",
        f"sync {store}/shop {store}",
    ]


# --- running twice, and at once


def test_a_second_pod_reports_what_the_first_one_made(pods: Pods, shop: TestDatabase, store: Path) -> None:
    first = pods.run("dump.sh", _env(shop, store)).result
    pods.shim("pg_dump", '[ "$1" = --version ] && exec "$REAL" "$@"; exit 9')
    second = pods.run("dump.sh", _env(shop, store, POD_UID="pod-2"))
    assert second.result == first
    assert _directories(store) == {"nightly-1f0c"}


def test_a_second_pod_does_not_trust_what_is_broken(pods: Pods, shop: TestDatabase, store: Path) -> None:
    assert pods.run("dump.sh", _env(shop, store)).result
    with (store / PATH / "dump.pgdump").open("r+b") as file:
        file.truncate(100)
    assert pods.run("dump.sh", _env(shop, store, POD_UID="pod-2")).reason == "ChecksumMismatch"
    assert (store / PATH / "dump.pgdump").stat().st_size == 100


def test_a_directory_that_is_no_backup_is_left_alone(pods: Pods, shop: TestDatabase, store: Path) -> None:
    (store / PATH).mkdir(parents=True)
    (store / PATH / "notes.txt").write_text("mine")
    hand_over(store / "shop")
    outcome = pods.run("dump.sh", _env(shop, store))
    assert outcome.reason == "ArtifactMissing"
    assert _content(store) == [f"{PATH}/notes.txt"]
    assert _directories(store) == {"nightly-1f0c"}


def test_of_two_pods_at_once_one_wins_and_both_report_it(
    pods: Pods, shop: TestDatabase, store: Path, place: Path
) -> None:
    pods.shim("mv", f'touch {store}/waiting-$$; until [ -e {place}/go ]; do sleep 0.05; done; exec "$REAL" "$@"')
    both = [pods.start("dump.sh", _env(shop, store, POD_UID=f"pod-{i}")) for i in (1, 2)]
    until(lambda: len(list(store.glob("waiting-*"))) == 2)
    (place / "go").touch()
    results = [script.wait().result for script in both]
    assert results[0] == results[1] == json.loads((store / PATH / "manifest.json").read_text())
    assert _directories(store) == {"nightly-1f0c"}
    assert sum("Another pod" in script.log for script in both) == 1


def test_something_else_under_the_final_name_stays(pods: Pods, shop: TestDatabase, store: Path) -> None:
    pods.shim("mv", f'mkdir {store}/{PATH}; touch {store}/{PATH}/other; exec "$REAL" "$@"')
    assert pods.run("dump.sh", _env(shop, store)).reason == "ArtifactMissing"
    assert _content(store) == [f"{PATH}/other"]
    assert _directories(store) == {"nightly-1f0c"}


# --- leftovers of killed pods


def test_only_old_leftovers_of_the_same_backup_go(pods: Pods, shop: TestDatabase, store: Path) -> None:
    parent = store / "shop"
    hand_over(parent)
    old = time.time() - 2 * 86400
    for name, directory_time, file_time in (
        (".nightly-1f0c.old.partial", old, old),
        (".nightly-1f0c.young.partial", time.time(), time.time()),
        (".nightly-1f0c.writing.partial", old, time.time()),
        (".other-1f0c.old.partial", old, old),
        ("nightly-1f0c.old.partial", old, old),
    ):
        hand_over(parent / name)
        (parent / name / "dump.pgdump").write_text("x")
        os.utime(parent / name / "dump.pgdump", (file_time, file_time))
        os.utime(parent / name, (directory_time, directory_time))
    assert pods.run("dump.sh", _env(shop, store)).result
    assert _directories(store) == {
        ".nightly-1f0c.young.partial",
        ".nightly-1f0c.writing.partial",
        ".other-1f0c.old.partial",
        "nightly-1f0c.old.partial",
        "nightly-1f0c",
    }


# --- stopped half-way

STEPS = {"pg_dump": "exit 0", "sync": "", "pg_restore": "", "openssl": "", "cp": "", "mv": ""}


@pytest.mark.parametrize("step", STEPS)
def test_sigterm_leaves_nothing(pods: Pods, shop: TestDatabase, store: Path, step: str) -> None:
    _block(pods, store, step)
    script = pods.start("dump.sh", _env(shop, store))
    until((store / "blocked").exists)
    script.terminate()
    outcome = script.wait(8)  # the kubelet waits for 10 s
    assert outcome.code != 0
    assert outcome.report == {}
    (store / "blocked").unlink()
    assert _content(store) == []
    assert _directories(store) == set()


@pytest.mark.parametrize("step", STEPS)
def test_after_sigkill_there_is_no_backup_and_another_pod_makes_it(
    pods: Pods, shop: TestDatabase, store: Path, step: str
) -> None:
    _block(pods, store, step)
    script = pods.start("dump.sh", _env(shop, store))
    until((store / "blocked").exists)
    script.kill()
    assert script.wait().report == {}
    assert _read(pods, store).reason == "ArtifactMissing"
    assert _directories(store) == {".nightly-1f0c.pod-1.partial"}
    pods.shim(step, 'exec "$REAL" "$@"')
    assert pods.run("dump.sh", _env(shop, store, POD_UID="pod-2")).result
    assert _directories(store) == {".nightly-1f0c.pod-1.partial", "nightly-1f0c"}


def _block(pods: Pods, store: Path, step: str) -> None:
    """The program does its work and then hangs."""
    wait = f"touch {store}/blocked; exec sleep 1000"
    pods.shim(step, f'[ "$1" = --version ] && exec "$REAL" "$@"; [ {step} = mv ] || "$REAL" "$@"; {wait}')


def test_sigterm_ends_what_pg_dump_does_in_the_server(pods: Pods, shop: TestDatabase, store: Path) -> None:
    holder = shop.server.start_sql("BEGIN; LOCK TABLE orders", shop.name)
    script = pods.start("dump.sh", _env(shop, store))
    until(lambda: shop.sql(LOCKED))
    script.terminate()
    assert script.wait(8).code != 0
    until(lambda: not shop.sql(LOCKED))
    assert _directories(store) == set()
    holder.communicate()


def test_a_killed_pg_dump_is_a_failure_that_names_the_signal(pods: Pods, shop: TestDatabase, store: Path) -> None:
    holder = shop.server.start_sql("BEGIN; LOCK TABLE orders", shop.name)
    script = pods.start("dump.sh", _env(shop, store))
    until(lambda: shop.sql(LOCKED))
    os.kill(script.child("pg_dump"), signal.SIGKILL)
    outcome = script.wait()
    holder.communicate()
    assert outcome.reason == "DumpFailed"
    assert "signal KILL" in outcome.message
    assert "spec.resources.limits.memory" in outcome.message
    assert _directories(store) == set()


# --- failures


def _fails(pods: Pods, db: TestDatabase, store: Path, **env: str) -> tuple[str, str]:
    """A run that fails, and leaves nothing."""
    outcome = pods.run("dump.sh", _env(db, store, **env))
    reason = outcome.reason
    assert _content(store) == []
    assert _directories(store) == set()
    assert "row-data" not in outcome.log + outcome.message
    return reason, outcome.message


def test_a_table_that_the_role_may_not_read(pods: Pods, database: NewDatabase, store: Path) -> None:
    db = database()
    db.sql("CREATE TABLE \"Löhne\" AS SELECT 'row-data'")
    reason, message = _fails(pods, db, store)
    assert reason == "DumpFailed"
    assert "permission denied for table Löhne" in message


def test_the_server_ends_the_session(pods: Pods, shop: TestDatabase, store: Path) -> None:
    holder = shop.server.start_sql("BEGIN; LOCK TABLE orders", shop.name)
    script = pods.start("dump.sh", _env(shop, store))
    pid = until(lambda: shop.sql(LOCKED))
    shop.sql(f"SELECT pg_terminate_backend({pid})")
    outcome = script.wait()
    holder.communicate()
    assert outcome.reason == "DumpFailed"
    assert "terminating connection due to administrator command" in outcome.message
    assert _directories(store) == set()


def test_the_message_has_the_server_s_own_but_no_rows(pods: Pods, shop: TestDatabase, store: Path) -> None:
    _print(
        pods,
        'pg_dump: error: Dumping the contents of table "orders" failed: PQgetResult() failed.',
        'pg_dump: detail: Error message from server: ERROR:  invalid input syntax for type money: "row-data"',
        "pg_dump: detail: Command was: COPY public.orders (id, note) TO stdout; row-data",
    )
    reason, message = _fails(pods, shop, store)
    assert reason == "DumpFailed"
    assert 'Dumping the contents of table "orders" failed' in message
    assert 'invalid input syntax for type money: "…"' in message


def _print(pods: Pods, *lines: str) -> None:
    text = "\n".join(lines)
    pods.shim("pg_dump", f'[ "$1" = --version ] && exec "$REAL" "$@"\ncat >&2 <<"END"\n{text}\nEND\nexit 1')


def test_no_room_for_the_dump(pods: Pods, shop: TestDatabase, store: Path) -> None:
    pods.shim("pg_dump", '[ "$1" = --version ] && exec "$REAL" "$@"; exec "$REAL" "$@" --file=/dev/full')
    reason, message = _fails(pods, shop, store, FORMAT="plain")
    assert reason == "VolumeFull"
    assert "free" in message


def test_no_room_for_the_manifest(pods: Pods, shop: TestDatabase, store: Path) -> None:
    pods.shim("cp", 'exec "$REAL" "$1" /dev/full')
    assert _fails(pods, shop, store)[0] == "VolumeFull"


def test_no_quota_for_the_directory(pods: Pods, shop: TestDatabase, store: Path) -> None:
    pods.shim("mkdir", 'echo "mkdir: cannot create directory: Disk quota exceeded" >&2; exit 1')
    assert _fails(pods, shop, store)[0] == "VolumeFull"


def test_no_room_on_the_server_is_not_the_volume_s_fault(pods: Pods, shop: TestDatabase, store: Path) -> None:
    _print(pods, "pg_dump: error: query failed: ERROR:  could not write to file: No space left on device")
    assert _fails(pods, shop, store)[0] == "DumpFailed"


def test_a_volume_that_cannot_be_written(pods: Pods, shop: TestDatabase, store: Path) -> None:
    store.chmod(0o555)
    reason, message = _fails(pods, shop, store)
    assert reason == "DumpFailed"
    assert "Permission denied" in message


@pytest.mark.parametrize(("version", "good"), [("18.0", False), ("18.1", False), ("18.2", True), ("18.10", True)])
def test_tools_that_dump_wrong_values_are_refused(
    pods: Pods, shop: TestDatabase, store: Path, version: str, good: bool
) -> None:
    pods.shim(
        "pg_dump", f'[ "$1" != --version ] || {{ echo "pg_dump (PostgreSQL) {version}"; exit; }}; exec "$REAL" "$@"'
    )
    outcome = pods.run("dump.sh", _env(shop, store))
    assert outcome.code == 0 if good else outcome.reason == "VersionMismatch"


def test_a_server_newer_than_pg_dump(pods: Pods, shop: TestDatabase, store: Path) -> None:
    pods.shim("pg_dump", 'echo "pg_dump (PostgreSQL) 14.25 (Debian 14.25-1)"')
    reason, message = _fails(pods, shop, store)
    assert reason == "VersionMismatch"
    assert f"pg_dump 14.25 cannot dump PostgreSQL {shop.server.version}" in message


@pytest.mark.parametrize("kind", ["custom", "plain"])
@pytest.mark.parametrize("cut", ["-s -40", "-s 50%", "-s 0"])
def test_a_dump_that_lacks_its_end(pods: Pods, shop: TestDatabase, store: Path, kind: str, cut: str) -> None:
    if cut == "-s 50%":
        cut = "-s $(($(stat -c %s $file) / 2))"
    file = f"file={store}/shop/.nightly-1f0c.pod-1.partial/{FILES[kind]}"
    pods.shim("pg_dump", f'[ "$1" = --version ] && exec "$REAL" "$@"; "$REAL" "$@"; {file}; truncate {cut} $file')
    assert _fails(pods, shop, store, FORMAT=kind)[0] == "DumpFailed"


def test_login_problems_are_told_apart(pods: Pods, shop: TestDatabase, store: Path) -> None:
    assert _fails(pods, shop, store, PGPASSWORD="x")[0] == "AuthenticationFailed"
    assert _fails(pods, shop, store, PGDATABASE="missing")[0] == "DatabaseMissing"


def test_a_source_that_is_no_object_is_not_promoted(pods: Pods, shop: TestDatabase, store: Path) -> None:
    assert _fails(pods, shop, store, BACKUP_SOURCE="")[0] == "ManifestInvalid"


def test_another_format_is_refused(pods: Pods, shop: TestDatabase, store: Path) -> None:
    assert _fails(pods, shop, store, FORMAT="tar")[0] == "InternalError"


# --- reading a manifest

MANIFEST = {
    "schema": 1,
    "location": PATH,
    "file": "dump.sql",
    "format": "plain",
    "sizeBytes": 4,
    "sha256": hashlib.sha256(b"dump").hexdigest(),
    "serverVersion": "17.6",
    "toolVersion": "18beta1",
    "backupTime": "2026-01-02T03:04:05Z",
    "source": {"database": "shop", "nested": {}},
}


@pytest.fixture
def backup(store: Path) -> Path:
    """A small backup; its manifest is not written yet."""
    (store / PATH).mkdir(parents=True)
    (store / PATH / "dump.sql").write_bytes(b"dump")
    return store / PATH


def test_a_manifest_is_reported(pods: Pods, store: Path, backup: Path) -> None:
    (backup / "manifest.json").write_text(json.dumps(MANIFEST) + "\n")
    assert _read(pods, store).result == MANIFEST


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": 2},
        {"file": "../other/dump.sql"},
        {"file": "/etc/passwd"},
        {"file": "dump.pgdump"},
        {"format": "custom"},
        {"format": "directory"},
        {"sizeBytes": "4"},
        {"sizeBytes": 0},
        {"sizeBytes": -4},
        {"sha256": "0123"},
        {"sha256": MANIFEST["sha256"].upper()},  # type: ignore[attr-defined]
        {"serverVersion": "x"},
        {"toolVersion": ""},
        {"backupTime": "yesterday"},
        {"source": "shop"},
        {"location": 'a", "file": "dump.sql'},
    ],
    ids=str,
)
def test_a_manifest_that_is_not_as_dumps_write_it(
    pods: Pods, store: Path, backup: Path, wrong: dict[str, object]
) -> None:
    (backup / "manifest.json").write_text(json.dumps({**MANIFEST, **wrong}) + "\n")
    assert _read(pods, store).reason == "ManifestInvalid"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "null\n",
        json.dumps(MANIFEST)[:-5],
        json.dumps(MANIFEST) + "\n" + json.dumps(MANIFEST),
        " " * 5000,
        "\0" * 300,
    ],
    ids=["empty", "no keys", "null", "cut", "two", "long", "zeros"],
)
def test_a_file_that_is_no_manifest(pods: Pods, store: Path, backup: Path, text: str) -> None:
    (backup / "manifest.json").write_text(text)
    assert _read(pods, store).reason == "ManifestInvalid"


def test_a_manifest_whose_file_is_gone_or_another(pods: Pods, store: Path, backup: Path) -> None:
    (backup / "manifest.json").write_text(json.dumps(MANIFEST) + "\n")
    (backup / "dump.sql").write_bytes(b"dump and more")
    outcome = _read(pods, store)
    assert outcome.reason == "ChecksumMismatch"
    assert "13 bytes" in outcome.message
    (backup / "dump.sql").unlink()
    assert _read(pods, store).reason == "ArtifactMissing"
    (backup / "dump.sql").symlink_to("/etc/passwd")
    assert _read(pods, store).reason == "ArtifactMissing"


@pytest.mark.parametrize(
    "path",
    [
        "shop/missing",
        "",
        "shop",
        "../backups/" + PATH,
        "shop/../" + PATH,
        "/" + PATH,
        PATH + "/",
        "link",
        "-P",
        "link/x",
    ],
)
def test_paths_that_are_no_backup_of_this_store(pods: Pods, store: Path, place: Path, backup: Path, path: str) -> None:
    (backup / "manifest.json").write_text(json.dumps(MANIFEST) + "\n")
    (place / "outside" / "x").mkdir(parents=True)
    (store / "link").symlink_to(backup if path == "link" else place / "outside")
    outcome = _read(pods, store, path)
    assert outcome.reason == "ArtifactMissing"


def test_an_unreadable_manifest_is_no_success(pods: Pods, store: Path, backup: Path) -> None:
    (backup / "manifest.json").write_text(json.dumps(MANIFEST) + "\n")
    (backup / "manifest.json").chmod(0)
    assert _read(pods, store).reason in ("ArtifactMissing", "ManifestInvalid", "InternalError")


# --- compression


@pytest.mark.parametrize(
    ("compression", "option"),
    [("none", "--compress=0"), ("gzip", "--compress=6"), ("gzip:1", "--compress=1"), ("gzip:9", "--compress=9")],
)
def test_compression_as_every_version_of_pg_dump_takes_it(
    pods: Pods, shop: TestDatabase, store: Path, compression: str, option: str
) -> None:
    script = pods.start("dump.sh", _env(shop, store, COMPRESSION=compression))
    manifest = pods.finish(script).result
    assert option in (script.directory / "argv").read_text().split()
    plain = b"row-data-" in (store / PATH / FILES["custom"]).read_bytes()
    assert plain == (compression == "none")
    assert _read(pods, store).result == manifest


def test_by_itself_pg_dump_decides(pods: Pods, shop: TestDatabase, store: Path) -> None:
    script = pods.start("dump.sh", _env(shop, store))
    assert pods.finish(script).result
    assert "--compress" not in (script.directory / "argv").read_text()
    assert b"row-data-" not in (store / PATH / FILES["custom"]).read_bytes()


@pytest.mark.parametrize("compression", ["lz4", "zstd:19"])
def test_a_method_that_the_tools_do_not_know_is_refused_before_the_dump(
    pods: Pods, shop: TestDatabase, store: Path, compression: str
) -> None:
    pods.shim("pg_dump", '[ "$1" = --version ] && exec echo "pg_dump (PostgreSQL) 15.18"; exec "$REAL" "$@"')
    reason, message = _fails(pods, shop, store, COMPRESSION=compression)
    assert reason == "VersionMismatch"
    assert f"cannot compress with {compression.partition(':')[0]}, which came with version 16" in message
    assert "spec.compression" in message


@pytest.mark.parametrize("compression", ["lz4", "lz4:12", "zstd", "zstd:19"])
def test_newer_tools_are_told_method_and_level(pods: Pods, shop: TestDatabase, store: Path, compression: str) -> None:
    given = pods.directory / "given"
    given.touch()
    given.chmod(0o666)
    version = '[ "$1" = --version ] && exec echo "pg_dump (PostgreSQL) 16.4"'
    pods.shim("pg_dump", f'{version}\necho "$@" >>{given}; exec "$REAL" "${{@/#--compress=*/--compress=1}}"')
    assert pods.run("dump.sh", _env(shop, store, COMPRESSION=compression)).result
    assert f" --compress={compression} " in given.read_text()


# --- a part of the database

WEIRD = "We\"ird.*? $x \\ $(id) 'Gr\u00f6\u00dfe"


@pytest.fixture
def parts(database: NewDatabase) -> TestDatabase:
    """A database with two schemas, of which one has a name like a pattern."""
    return _parts(database())


def _parts(db: TestDatabase) -> TestDatabase:
    name = identifier(WEIRD)
    db.app_sql(
        f'SET client_encoding = \'UTF8\'; CREATE SCHEMA {name}; CREATE SCHEMA "Weird"; CREATE TABLE "Weird".t1 ();'
        f"CREATE TABLE {name}.{name} (); CREATE TABLE {name}.plain (); CREATE TABLE a (); CREATE TABLE aa ();"
        "CREATE VIEW v AS SELECT 1; CREATE SEQUENCE s; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    )
    return db


def _selection(*lines: str) -> str:
    return "\n".join(line.replace(" ", "\t", 1).replace("/", "\t") for line in lines)


def _entries(store: Path) -> set[str]:
    """Kinds and names of what is in the dump but for settings."""
    listed = subprocess.check_output([BIN / "pg_restore", "--list", store / PATH / FILES["custom"]])
    entries = {line.split(b" ", 3)[3].rpartition(b" ")[0] for line in listed.splitlines() if line[:1].isdigit()}
    return {e.decode("utf-8", "replace") for e in entries if not e.startswith((b"TABLE DATA", b"SEQUENCE SET", b"ENC"))}


SETTINGS = {"- STDSTRINGS", "- SEARCHPATH", "- ENCODING"}
W1, W2 = f"TABLE {WEIRD} {WEIRD}", f"TABLE {WEIRD} plain"
PUBLIC = {"TABLE public a", "TABLE public aa", "VIEW public v", "SEQUENCE public s", "FUNCTION public f()"}
OTHER = {"SCHEMA - Weird", "TABLE Weird t1"}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(["schema Weird"], OTHER, id="a schema"),
        pytest.param([f"schema {WEIRD}"], {f"SCHEMA - {WEIRD}", W1, W2}, id="a schema with a weird name"),
        pytest.param(["schema Weird", f"exclude-table {WEIRD}/plain"], OTHER, id="a schema without another's table"),
        pytest.param(
            [f"schema {WEIRD}", f"exclude-table {WEIRD}/plain"], {f"SCHEMA - {WEIRD}", W1}, id="without a table"
        ),
        pytest.param(["exclude-schema Weird", f"exclude-schema {WEIRD}"], PUBLIC, id="without schemas"),
        pytest.param(
            ["exclude-table public/a"],
            {f"SCHEMA - {WEIRD}", W1, W2, *OTHER, *PUBLIC - {"TABLE public a"}},
            id="without one",
        ),
        pytest.param(["table public/a", f"table {WEIRD}/{WEIRD}"], {"TABLE public a", W1}, id="tables"),
        pytest.param(["table public/v", "table public/s"], {"VIEW public v", "SEQUENCE public s"}, id="others"),
    ],
)
def test_names_mean_exactly_what_they_say(
    pods: Pods, parts: TestDatabase, store: Path, lines: list[str], expected: set[str]
) -> None:
    assert pods.run("dump.sh", _env(parts, store, SELECTION=_selection(*lines))).result
    assert {e for e in _entries(store) if e not in SETTINGS} == expected


def test_names_in_another_encoding(pods: Pods, database: NewDatabase, store: Path) -> None:
    db = _parts(database(options="TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"))
    assert pods.run("dump.sh", _env(db, store, SELECTION=_selection(f"table {WEIRD}/plain"))).result
    assert len({e for e in _entries(store) if e.startswith("TABLE")}) == 1


@pytest.mark.parametrize(
    "line",
    ["schema weird", "schema W*", "exclude-schema none", "table public/A", "table Weird/a", "table public/f",
     "exclude-table public/gone", 'exclude-table x/G"r\u00f6\u00dfe', "table public/a*"],
)  # fmt: skip
def test_a_name_that_there_is_not_fails_it(pods: Pods, parts: TestDatabase, store: Path, line: str) -> None:
    reason, message = _fails(pods, parts, store, SELECTION=_selection("table public/a", line))
    assert reason == "DumpFailed"
    assert f"does not exist in database {parts.name}: {line.replace('/', ' ')}. " in message


def test_a_name_that_the_encoding_lacks_fails_it(pods: Pods, database: NewDatabase, store: Path) -> None:
    db = database(options="TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    reason, message = _fails(pods, db, store, SELECTION=_selection("exclude-schema \u20ac"))
    assert (reason, "Cannot look for the schemas and tables" in message) == ("DumpFailed", True)
    assert 'has no equivalent in encoding "LATIN1"' in message


def test_what_goes_between_the_look_and_the_dump_fails_it(pods: Pods, parts: TestDatabase, store: Path) -> None:
    drop = "DROP TABLE public.a"
    pods.shim("pg_dump", f'[ "$1" = --version ] || psql -Xqc "{drop}"; exec "$REAL" "$@"')
    reason, message = _fails(pods, parts, store, SELECTION=_selection("table public/a", "table public/aa"))
    assert (reason, "no matching tables were found" in message) == ("DumpFailed", True)
