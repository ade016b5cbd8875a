"""verify-*.sh: a good backup passes, whatever is in it; one that lacks something does not."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from restoring import NewDatabase, manifest_of
from script_runner import BIN, Outcome, Pods, TestDatabase, hand_over, until
from test_restore_load import RICH
from verifying import DUMP, Verification, back_up, dump_env

MORE = r"""
CREATE SCHEMA "Größe ""x""
y";
CREATE TABLE "Größe ""x""
y"."a	b\c" (id int PRIMARY KEY, t text);
INSERT INTO "Größe ""x""
y"."a	b\c" SELECT n, E'Zeile\n\t\\."' FROM generate_series(1, 10) n;
CREATE TABLE tree (k text, v int, CHECK (v > 0)) PARTITION BY LIST (k);
CREATE TABLE leaf PARTITION OF tree FOR VALUES IN ('a') PARTITION BY RANGE (v);
CREATE TABLE leaf1 PARTITION OF leaf FOR VALUES FROM (1) TO (100);
CREATE TABLE rest PARTITION OF tree DEFAULT;
INSERT INTO tree SELECT CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, n FROM generate_series(1, 99) n;
ALTER TABLE tree ADD PRIMARY KEY (k, v);
CREATE INDEX ON tree (v);
CREATE TABLE refers (k text, v int, FOREIGN KEY (k, v) REFERENCES tree);
CREATE TABLE goal (id int PRIMARY KEY);
CREATE TABLE whole (id int REFERENCES goal) PARTITION BY LIST (id);
CREATE TABLE adopted (id int CONSTRAINT own_name REFERENCES goal);
ALTER TABLE whole ATTACH PARTITION adopted FOR VALUES IN (1); -- a restore names the key as that of the whole
CREATE TABLE base (id int CHECK (id <> 7));
CREATE TABLE derived (more int) INHERITS (base);
INSERT INTO derived VALUES (1, 2);
CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 5);
CREATE TABLE booked (during int4range, EXCLUDE USING gist (during WITH &&));
CREATE TABLE big AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 2000) n;
ALTER TABLE big ADD PRIMARY KEY (n);
"""
# What names roles that only this server has, in each way that a dump can.
GRANTED = """
CREATE ROLE reader; CREATE ROLE writer;
GRANT SELECT ON item TO reader WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE "Quelle ""ä"" b'c" IN SCHEMA public GRANT SELECT ON TABLES TO reader;
ALTER TABLE item ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON item TO reader USING (id > 0);
COMMENT ON POLICY own ON item IS 'theirs';
"""
NewBackup = Callable[..., Verification]


@pytest.fixture
def source(database: NewDatabase) -> TestDatabase:
    """A database with some of each."""
    created = database('Quelle "ä" b\'c')
    created.app_sql(RICH + MORE)
    return created


@pytest.fixture
def small(database: NewDatabase) -> TestDatabase:
    """A database with one table."""
    created = database("small")
    created.app_sql(
        "CREATE TABLE t (id int PRIMARY KEY, v text CHECK (v <> 'x')); INSERT INTO t VALUES (1, 'a'), (2, 'b')"
    )
    return created


@pytest.mark.parametrize("kind", ["custom", "plain", "directory"])
def test_what_was_dumped_can_be_restored(kind: str, pods: Pods, store: Path, source: TestDatabase) -> None:
    source.sql(GRANTED + "CREATE EXTENSION dblink; CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext;")
    jobs = {"JOBS": "2"} if kind == "directory" else {}
    verification = back_up(pods, store, source, kind, EXTRA_ARGS="--no-unlogged-table-data", **jobs)
    result = verification.run().result
    assert (result["tables"], result["rows"], result["views"]) == (19, 2120, 2)
    assert result["serverVersion"] == source.server.version
    assert not list((pods.directory / f"data-{verification.number}").iterdir()), "its data goes with the server"


@pytest.mark.parametrize(
    "selection",
    ["table\tshop\titem\ntable\tpublic\tother", "schema\tshop\nexclude-table\tshop\titem"],
    ids=["tables", "a-schema-without-a-table"],
)
def test_a_part_is_compared_with_that_part(selection: str, pods: Pods, store: Path, database: NewDatabase) -> None:
    source = database("parts")
    source.app_sql(
        "CREATE SCHEMA shop; CREATE TABLE shop.item (id serial PRIMARY KEY); CREATE TABLE shop.line (id int);"
        "CREATE TABLE other (id int PRIMARY KEY); CREATE VIEW seen AS SELECT * FROM other;"
    )
    verification = back_up(pods, store, source, SELECTION=selection)
    assert verification.run().result["tables"] == (2 if "table\tpublic" in selection else 1)


def test_how_a_role_wants_names_quoted_is_no_false_alarm(pods: Pods, store: Path, small: TestDatabase) -> None:
    small.server.sql("ALTER ROLE small SET quote_all_identifiers = on")
    assert back_up(pods, store, small).run().result["rows"] == 2


def test_names_of_no_encoding(pods: Pods, store: Path, database: NewDatabase) -> None:
    source = database("bytes", "ENCODING SQL_ASCII TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    source.app_sql(r"SET client_encoding = SQL_ASCII; DO $$ BEGIN EXECUTE E'CREATE TABLE \"a\351\" ()'; END $$")
    assert back_up(pods, store, source).run().result["tables"] == 1


@pytest.mark.parametrize("extra", ["", "--serializable-deferrable"])
def test_what_is_written_during_the_dump_is_no_false_alarm(
    extra: str, pods: Pods, store: Path, small: TestDatabase
) -> None:
    go = pods.directory / "go"
    pods.shim("pg_dump", f'[[ $* == --version ]] || until [[ -e "{go}" ]]; do sleep 0.02; done; exec "$REAL" "$@"')
    script = pods.start(DUMP, dump_env(store, small, EXTRA_ARGS=extra))
    until(lambda: "Dumping into" in script.log)
    small.app_sql("INSERT INTO t VALUES (3, 'c'); CREATE TABLE later (id int); CREATE INDEX ON t (v)")
    go.touch()
    manifest = pods.finish(script).result
    assert (manifest["inventory"]["rows"], manifest["inventory"]["tables"]) == (2, 1)
    assert Verification(pods, store, manifest).run().result["rows"] == 2


def test_a_statement_that_waits_for_the_inventory_does_not_stop_the_dump_for_ever(
    pods: Pods, store: Path, small: TestDatabase
) -> None:
    go = pods.directory / "go"
    pods.shim("pg_dump", f'[[ $* == --version ]] || until [[ -e "{go}" ]]; do sleep 0.02; done; exec "$REAL" "$@"')
    script = pods.start(DUMP, dump_env(store, small, LOCK_PATIENCE="300"))
    until(lambda: "Dumping into" in script.log)
    session = subprocess.Popen(
        [BIN / "psql", "-c", "TRUNCATE t"], env=small.server.env(small.name), stdout=subprocess.DEVNULL
    )
    until(lambda: small.sql("SELECT 1 FROM pg_locks WHERE NOT granted"))
    go.touch()
    outcome = pods.finish(script)
    assert (outcome.reason, "timeout" in outcome.message) == ("DumpFailed", True)
    assert session.wait(10) == 0


# As the kubelet does it: a user of whom the image knows nothing, and the file that the first step leaves, mounted.
STRANGER = ("unshare", "--user", "--map-user=4242", "--map-group=4242", "--keep-caps", "--mount", "bash", "-euc")
MOUNT = '[[ ! -e $WORK_DIR/passwd ]] || mount --bind "$WORK_DIR/passwd" /etc/passwd; exec "$@"'


def test_a_user_that_the_image_does_not_know(pods: Pods, store: Path, small: TestDatabase) -> None:
    verification = back_up(pods, store, small)
    verification.inside = (*STRANGER, MOUNT, "-")
    assert verification.run().result["rows"] == 2


# --- what is bad


def _refit(verification: Verification, change: Callable[[bytes], bytes]) -> None:
    """Change the dump, and its manifest so that it fits, as nobody but whoever may write there could."""
    content = change(verification.dump.read_bytes())
    verification.dump.write_bytes(content)
    path = verification.dump.with_name("manifest.json")
    new = json.loads(manifest_of(content, "plain", verification.artifact, verification.dump.name))
    old = json.loads(path.read_text())
    path.write_text(json.dumps({**old, "sizeBytes": new["sizeBytes"], "sha256": new["sha256"]}) + "\n")


def _flip(verification: Verification) -> None:
    content = bytearray(verification.dump.read_bytes())
    content[len(content) // 2] ^= 1
    verification.dump.write_bytes(content)


def _swap(verification: Verification) -> None:
    _refit(verification, lambda content: content.replace(b"\tb\n", b"\tc\n"))


def _truncate(verification: Verification) -> None:
    verification.dump.write_bytes(verification.dump.read_bytes()[:-100])


def _take_away(verification: Verification) -> None:
    shutil.rmtree(verification.dump.parent)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(_flip, "ChecksumMismatch", id="a-bit-flipped"),
        pytest.param(_swap, "ChecksumMismatch", id="swapped-with-a-manifest-that-fits"),
        pytest.param(_truncate, "ChecksumMismatch", id="truncated"),
        pytest.param(_take_away, "ArtifactMissing", id="gone"),
    ],
)
def test_what_was_changed_in_the_store_is_found(
    damage: Callable[[Verification], None], reason: str, pods: Pods, store: Path, small: TestDatabase
) -> None:
    verification = back_up(pods, store, small, "plain")
    verification.mode = "List"
    assert verification.run().result["entries"] > 0
    damage(verification)
    assert verification.run().reason == reason


def test_a_dump_runs_no_program_here(pods: Pods, store: Path, small: TestDatabase, place: Path) -> None:
    verification = back_up(pods, store, small, "plain")
    made = hand_over(place / "programs") / "made"
    begin = b"\n\\restrict "
    _refit(verification, lambda content: content.replace(begin, f"\n\\! touch {made}".encode() + begin, 1))
    outcome = verification.run(EXPECTED_SHA256="")
    assert outcome.reason == "RestoreFailed"
    assert "backslash commands are restricted" in outcome.message
    assert not made.exists()


def test_a_directory_that_changes_after_its_check_is_found(pods: Pods, store: Path, small: TestDatabase) -> None:
    verification = back_up(pods, store, small, "directory", COMPRESSION="none")
    assert pods.finish(verification.start("verify-check")).result["entries"] > 0
    data = next(verification.dump.glob("*.dat"), None) or verification.dump / "toc.dat"
    if data.name == "toc.dat":
        data = next(path for path in verification.dump.iterdir() if path != data)
    data.write_bytes(data.read_bytes().replace(b"2\tb", b"3\tb"))
    assert pods.finish(verification.start("verify-restore")).reason == "ChecksumMismatch"


def _without(*lines: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        for line in lines:
            assert line in content
            content = content.replace(line, b"")
        return content

    return change


def _before_the_table(statement: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(b"CREATE TABLE", statement + b"\nCREATE TABLE", 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            _without(b"2\tb\n"), "Dumped: tables: 1, rows: 2, indexes: 1, constraints: 2, views: 0;", id="row"
        ),
        pytest.param(
            _without(
                b"ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id);\n",
                b",\n    CONSTRAINT t_v_check CHECK ((v <> 'x'::text))",
            ),
            "restored: tables: 1, rows: 2, indexes: 0, constraints: 0",
            id="index-key-and-check",
        ),
        pytest.param(lambda c: c.replace(b"t_pkey", b"other"), "names or the rows of single tables", id="another-name"),
        pytest.param(
            _before_the_table(b"DO $$ BEGIN RAISE EXCEPTION 'invalid: row-data'; END $$;"),
            "a function of the application raised an exception",
            id="exception",
        ),
        pytest.param(
            _before_the_table(b"DO $$ BEGIN ASSERT false, 'invalid: row-data'; END $$;"),
            "a function of the application raised an exception",
            id="assertion",
        ),
        pytest.param(_without(b"\n-- PostgreSQL database dump complete\n"), "its end is missing", id="end"),
    ],
)
def test_what_a_restore_lacks_is_found(
    change: Callable[[bytes], bytes], words: str, pods: Pods, store: Path, small: TestDatabase
) -> None:
    verification = back_up(pods, store, small, "plain")
    _refit(verification, change)
    outcome = verification.run(EXPECTED_SHA256="")
    assert (outcome.reason, words in outcome.message) == ("RestoreFailed", True), outcome.message
    assert "row-data" not in outcome.message + outcome.log


OF_A_SUPERUSER = [
    """CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
    CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION f()""",
    "CREATE PUBLICATION everything FOR ALL TABLES",
    "CREATE PUBLICATION everything FOR TABLES IN SCHEMA public",
    "CREATE ROLE writer; ALTER DEFAULT PRIVILEGES FOR ROLE writer IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC",
    "CREATE ROLE reader; GRANT SELECT ON t TO reader WITH GRANT OPTION; SET ROLE reader; GRANT SELECT ON t TO PUBLIC",
    "CREATE OPERATOR CLASS c FOR TYPE int USING btree AS OPERATOR 1 <, FUNCTION 1 btint4cmp(int, int)",
    "CREATE FUNCTION f(int, int) RETURNS int LANGUAGE internal AS 'int4pl'",
    "CREATE FOREIGN DATA WRAPPER w",
    "CREATE ACCESS METHOD m TYPE TABLE HANDLER heap_tableam_handler",
]


@pytest.mark.parametrize("kind", ["custom", "plain"])
@pytest.mark.parametrize("made", OF_A_SUPERUSER)
def test_what_only_a_superuser_can_restore_is_no_good_backup(
    pods: Pods, store: Path, small: TestDatabase, made: str, kind: str
) -> None:
    small.sql(made)
    outcome = back_up(pods, store, small, kind).run()
    assert outcome.reason == "RestoreFailed", outcome.report
    assert "a Restore is its work" in outcome.message, outcome.message


def test_what_a_superuser_dumps_is_restored_by_one(pods: Pods, store: Path, small: TestDatabase) -> None:
    """At their own risk, of an external server. What fires at a login does not disturb the comparison."""
    login = int(small.server.version.split(".")[0]) >= 17
    small.sql(
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN IF session_user LIKE 'superuser of%'"
        f" THEN RAISE 'never'; END IF; END $$; CREATE EVENT TRIGGER t ON {'login' if login else 'ddl_command_end'}"
        f" EXECUTE FUNCTION f(); {'ALTER EVENT TRIGGER t ENABLE ALWAYS;' if login else ''}"
        "ALTER ROLE small SUPERUSER"
    )
    assert back_up(pods, store, small).run().result["rows"] == 2


# --- what says nothing about the backup


def _incomplete(outcome: Outcome) -> str:
    assert outcome.reason == "VerificationIncomplete", outcome.message
    return outcome.message


def test_a_server_that_is_killed_says_nothing_about_the_backup(pods: Pods, store: Path, small: TestDatabase) -> None:
    verification = back_up(pods, store, small)
    go = pods.directory / "go"
    pods.shim("pg_restore", f'"$REAL" "$@"; [[ $* == *list* ]] || until [[ -e "{go}" ]]; do sleep 0.02; done')
    pods.finish(verification.start("verify-check"))
    script = verification.start("verify-restore")
    until(lambda: "Restoring" in script.log)
    os.kill(script.child("postgres"), signal.SIGKILL)
    go.touch()
    assert "did not hold out" in _incomplete(script.wait())


STREAM, BLOCK, FILES, DUMP_FILE = "-p /dev/stdin", "-f /dev/stdin", "$# -gt 3", '"$*" == */dump.*'


@pytest.mark.parametrize(
    ("step", "kind", "program", "reads"),
    [
        ("verify-check", "custom", "pg_restore", STREAM),
        ("verify-check", "custom", "openssl", STREAM),
        ("verify-check", "plain", "grep", STREAM),
        ("verify-check", "plain", "cat", DUMP_FILE),
        ("verify-check", "directory", "openssl", FILES),
        ("verify-restore", "plain", "openssl", BLOCK),
        ("verify-restore", "custom", "cat", DUMP_FILE),
        ("verify-restore", "directory", "openssl", FILES),
    ],
)
def test_a_killed_reader_says_nothing_about_the_backup(
    pods: Pods, store: Path, small: TestDatabase, step: str, kind: str, program: str, reads: str
) -> None:
    verification = back_up(pods, store, small, kind)
    if step == "verify-restore":
        assert pods.finish(verification.start("verify-check")).result
    pods.shim(program, f'[[ ! {reads} ]] || kill -KILL $$; exec "$REAL" "$@"')
    assert "signal KILL" in _incomplete(pods.finish(verification.start(step)))


def test_a_full_disk_says_nothing_about_the_backup(pods: Pods, store: Path, small: TestDatabase) -> None:
    """The extension of a file fails as PostgreSQL reports it."""
    verification = back_up(pods, store, small, "plain")
    full = b"DO $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;"
    _refit(verification, _before_the_table(full))
    assert "More room" in _incomplete(verification.run(EXPECTED_SHA256=""))


@pytest.mark.parametrize(
    ("program", "when", "end"),
    [
        ("awk", "$* == *exec_stmt*", "kill -9 $$"),
        ("awk", "$* == *exec_stmt*", "exit 2"),
        ("awk", "$* == *exec_stmt*", "exit 0"),  # not every awk minds a full disk
        ("grep", "$* == *FATAL*", "exit 2"),
        ("grep", '$* == *"role "*', "exit 2"),
    ],
)
def test_errors_that_are_lost_are_no_good_backup(
    pods: Pods, store: Path, small: TestDatabase, program: str, when: str, end: str
) -> None:
    verification = back_up(pods, store, small, "plain")
    _refit(verification, _before_the_table(b"CREATE VIEW v AS SELECT 1/0 FROM nirwana;"))
    pods.shim(program, f'if [[ {when} ]]; then [[ $0 != */awk ]] || cat >/dev/null; {end}; fi; exec "$REAL" "$@"')
    _incomplete(verification.run(EXPECTED_SHA256=""))


def test_an_end_that_could_not_be_noted_says_nothing_about_the_backup(
    pods: Pods, store: Path, small: TestDatabase
) -> None:
    verification = back_up(pods, store, small, "plain")
    pods.finish(verification.start("verify-check"))
    pods.shim("sed", '[[ $2 != -f ]] || { ln -s /dev/full "${3%/*}/room"; exec cat; }; exec "$REAL" "$@"')
    assert "no room" in _incomplete(pods.finish(verification.start("verify-restore")))


@pytest.mark.parametrize("kind", ["custom", "plain"])
@pytest.mark.parametrize("end", ["exit 1", "exit 0"], ids=["fails", "does-not-mind"])
def test_a_list_that_could_not_be_written_says_nothing_about_the_backup(
    pods: Pods, store: Path, small: TestDatabase, kind: str, end: str
) -> None:
    verification = back_up(pods, store, small, kind)
    pods.shim("wc", f"cat >/dev/null; {end}")
    assert "no room" in _incomplete(pods.finish(verification.start("verify-check")))


def test_a_mark_of_the_end_that_could_not_be_written_says_nothing_about_the_backup(
    pods: Pods, store: Path, small: TestDatabase
) -> None:
    verification = back_up(pods, store, small, "plain")
    pods.shim("sed", '[[ $* != */complete* ]] || { ln -s /dev/full "$WORK_DIR/room"; exec cat; }; exec "$REAL" "$@"')
    assert "no room" in _incomplete(pods.finish(verification.start("verify-check")))


@pytest.mark.parametrize("step", ["dump", "verify-restore"])
@pytest.mark.parametrize(
    ("program", "when", "text"),
    [
        ("sort", "true", 'head -n 1 "$@"; exit 2'),
        ("psql", "$* == *relations=*", '"$REAL" "$@" | sed -n 1,2p'),
        ("awk", "$* == *sum=*", "exit 2"),
    ],
    ids=["sort", "psql", "awk"],
)
def test_an_inventory_that_is_not_whole_is_none(
    pods: Pods, store: Path, small: TestDatabase, step: str, program: str, when: str, text: str
) -> None:
    shim = f'if [[ {when} ]]; then {text}; exit 0; fi; exec "$REAL" "$@"'
    if step == "dump":
        pods.shim(program, shim)
        outcome = pods.run(DUMP, dump_env(store, small))
        assert (outcome.reason, "has the node's disk room" in outcome.message) == ("DumpFailed", True)
        return
    verification = back_up(pods, store, small)
    pods.finish(verification.start("verify-check"))
    pods.shim(program, shim)
    assert "no room" in _incomplete(pods.finish(verification.start("verify-restore")))


@pytest.mark.parametrize(
    ("statement", "lacking"),
    [
        (b"CREATE EXTENSION nirwana;", 'extension "nirwana" is not available'),
        (b"CREATE FUNCTION public.f() RETURNS int LANGUAGE c AS '$libdir/nirwana';", "could not access file"),
        (b"CREATE COLLATION public.c (locale = 'ni_RW.utf8');", 'could not create locale "ni_RW.utf8"'),
    ],
)
def test_what_the_image_lacks_says_nothing_about_the_backup(
    statement: bytes, lacking: str, pods: Pods, store: Path, small: TestDatabase
) -> None:
    small.server.sql(f"ALTER ROLE small {'SUPERUSER' if b'LANGUAGE c' in statement else ''}")  # who else may do that
    verification = back_up(pods, store, small, "plain")
    _refit(verification, _before_the_table(statement))
    message = _incomplete(verification.run(EXPECTED_SHA256=""))
    assert f"The image lacks what the backup needs: ERROR:  {lacking}" in message


@pytest.mark.parametrize(
    "text",
    [
        "can only create extension in database postgres",
        "pg_cron can only be loaded via shared_preload_libraries",
        'extension "timescaledb" must be preloaded',
    ],
)
def test_what_the_server_of_the_test_does_not_load_says_nothing_about_the_backup(
    pods: Pods, store: Path, small: TestDatabase, text: str
) -> None:
    verification = back_up(pods, store, small)
    error = f"psql:<stdin>:9: ERROR:  55000: {text}"
    pods.shim("psql", f"[[ $* != *'-f -' ]] || {{ cat >/dev/null; echo '{error}' >&2; exit; }}; exec \"$REAL\" \"$@\"")
    assert "The image lacks what the backup needs" in _incomplete(verification.run())


def test_a_manifest_without_an_inventory_is_nothing_to_compare_with(
    pods: Pods, store: Path, small: TestDatabase
) -> None:
    verification = back_up(pods, store, small, VERIFICATION="None")
    assert "no inventory" in _incomplete(verification.run())


def test_a_stopped_verification_leaves_nothing(pods: Pods, store: Path, small: TestDatabase) -> None:
    verification = back_up(pods, store, small)
    pods.shim("pg_restore", '"$REAL" "$@"; [[ $* == *list* ]] || sleep 60')
    pods.finish(verification.start("verify-check"))
    script = verification.start("verify-restore")
    until(lambda: "Restoring" in script.log)
    script.terminate()
    outcome = script.wait(5)
    assert (outcome.code, outcome.report) == (143, {})
