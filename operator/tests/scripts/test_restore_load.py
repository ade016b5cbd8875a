"""restore-load.sh in the target itself: modes Fail and Clean."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from restoring import NewDatabase, Restore, back_up, contents, forge
from script_runner import Pods, Script, Server, TestDatabase, hand_over, identifier, new_databases, until

from postgres_operator.api.backup import ExtraArg

KINDS = ("custom", "plain")
# Some of each: weird names, what looks like the statements that the filter looks for, every common kind of object.
RICH = r'''
CREATE EXTENSION hstore;
CREATE TABLE item (id serial PRIMARY KEY, note text, "wei""rd Größe" int UNIQUE, h hstore);
INSERT INTO item (note) VALUES ('row-data'), (E'COMMIT;\nBEGIN;'), (E'\\.'), ('äöü €');
CREATE TABLE line (t text);
INSERT INTO line VALUES ('-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -'), ('BEGIN;'), ('COMMIT;'),
    ('-- Name: EXTENSION hstore; Type: COMMENT; Schema: -; Owner: -'), ('COMMENT ON EXTENSION hstore IS '';');
CREATE SCHEMA "Übel ""x""";
CREATE TABLE "Übel ""x"""."a b" (id int REFERENCES item DEFERRABLE INITIALLY DEFERRED);
CREATE TYPE mood AS ENUM ('ok', 'bad');
CREATE TYPE pair AS (a int, b mood);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE PROCEDURE later() LANGUAGE plpgsql AS $$
BEGIN
COMMIT;
END $$;
CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int);
CREATE VIEW v AS SELECT public.twice(id) FROM public.item;
CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM public.item;
CREATE OPERATOR public.=== (leftarg = int, rightarg = int, function = int4pl);
CREATE COLLATION german FROM "C";
CREATE STATISTICS st ON id, note FROM item;
CREATE TEXT SEARCH CONFIGURATION ts (COPY = simple);
CREATE SEQUENCE lonely;
CREATE TABLE part (d int) PARTITION BY RANGE (d);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (9);
INSERT INTO part VALUES (3);
CREATE CAST (pair AS text) WITH INOUT;
SELECT lo_from_bytea(7, 'large'), lo_from_bytea(70000, 'object');
COMMENT ON LARGE OBJECT 7 IS 'lucky';
'''


@pytest.fixture(scope="module")
def backups(server: Server, base: Path, spies: Path) -> tuple[Path, str]:
    """A store with backups shop/rich-custom and -plain of one database, and what that contains."""
    store, pods = hand_over(base / "load"), Pods(hand_over(base / "load-pods"), spies)
    with new_databases(server) as create:
        source = create("source")
        source.app_sql(RICH)
        for kind in KINDS:
            back_up(pods, store, source, kind, "rich")
        content = contents(source)
    return store, content


@pytest.fixture
def backed_up(backups: tuple[Path, str]) -> str:
    """What the backups contain."""
    return backups[1]


@pytest.fixture
def restore(pods: Pods, backups: tuple[Path, str], database: NewDatabase) -> Iterator[Restore]:
    """A Restore into an empty database."""
    target = database('Ziel "ä" b\'c')
    yield Restore(pods, backups[0], target, "shop/rich-custom")
    target.sql("DROP SUBSCRIPTION IF EXISTS x")  # a database with one cannot be dropped


@pytest.fixture(scope="module")
def untouched(server: Server) -> Iterator[TestDatabase]:
    """An empty database for all Restores that fail and leave it so."""
    with new_databases(server) as create:
        yield create('Unberührt "x"')


@pytest.fixture
def failing(pods: Pods, backups: tuple[Path, str], untouched: TestDatabase) -> Restore:
    """A Restore that is to fail."""
    return Restore(pods, backups[0], untouched, "shop/rich-custom")


@pytest.fixture
def held(pods: Pods) -> Callable[[], None]:
    """Makes pg_restore wait after it wrote all; to be called to let it go on."""
    go = pods.directory / "go"
    pods.shim("pg_restore", f'"$REAL" "$@"; until [[ -e "{go}" ]]; do sleep 0.02; done')
    return go.touch


SESSION = "SELECT pid FROM pg_stat_activity WHERE application_name = 'postgres-operator' AND "
LOADING = SESSION + "query LIKE '%public.%' AND wait_event = 'ClientRead'"  # with the dump, and waiting for more
WAITING = SESSION + "wait_event_type = 'Lock'"


def _pid(restore: Restore, sessions: str) -> int:
    return int(until(lambda: restore.target.sql(sessions)))


def _is_empty(target: TestDatabase) -> bool:
    """Whether a failed restore left nothing, not even our schema."""
    until(
        lambda: not target.server.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'postgres-operator'")
    )
    objects = target.sql("SELECT count(*) FROM pg_class WHERE oid >= 16384")
    return (objects, target.sql("SELECT count(*) FROM pg_largeobject_metadata")) == ("0", "0") and not target.sql(
        "SELECT nspname FROM pg_namespace WHERE nspname = 'postgres_operator'"
    )


# --- into an empty database


@pytest.mark.parametrize("kind", KINDS)
def test_all_comes_back(restore: Restore, backed_up: str, kind: str) -> None:
    restore.artifact = f"shop/rich-{kind}"
    assert restore.run().result == {
        "location": restore.artifact,
        "serverVersion": restore.target.server.version,
        "toolVersion": restore.target.server.version,
        "alreadyRestored": False,
    }
    assert contents(restore.target) == backed_up
    marker = restore.target.app_sql(
        "SELECT restore_uid, location, finished_at > now() - interval '1 min' FROM postgres_operator.restores"
    )
    assert marker == f"{restore.uid}|{restore.artifact}|t"
    owners = restore.target.sql(
        "SELECT DISTINCT relowner::regrole FROM pg_class WHERE oid >= 16384 AND relname !~ 'toast|hstore'"
    )
    assert owners == identifier(restore.target.owner)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("selection", "tables"),
    [
        pytest.param("schema\tside", "side.a", id="schema"),
        pytest.param("schema\tpublic", "public.b, public.c", id="public"),
        pytest.param("table\tpublic\tb", "public.b", id="table"),
        pytest.param("exclude-schema\tside\nexclude-table\tpublic\tb", "public.c", id="without"),
    ],
)
def test_a_part_comes_back_into_an_empty_database(
    pods: Pods, store: Path, database: NewDatabase, kind: str, selection: str, tables: str
) -> None:
    origin, target = database("origin"), database("target")
    origin.app_sql(
        "CREATE SCHEMA side; CREATE TABLE side.a (); CREATE TABLE b AS SELECT 1; CREATE TABLE c (); "
        "SELECT lo_from_bytea(7, 'large')"
    )
    path = back_up(pods, store, origin, kind, SELECTION=selection)
    assert Restore(pods, store, target, path).run().result
    assert (
        target.sql(
            "SELECT string_agg(format('%s.%s', schemaname, tablename), ', ' ORDER BY tablename) FROM pg_tables "
            "WHERE tableowner = 'target' AND schemaname <> 'postgres_operator'"
        )
        == tables
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arg", get_args(ExtraArg))
def test_every_extra_argument_makes_what_can_be_restored(
    pods: Pods, store: Path, database: NewDatabase, kind: str, arg: str
) -> None:
    origin, target = database("origin"), database("target")
    origin.app_sql(
        "CREATE TABLE a AS SELECT 1; COMMENT ON TABLE a IS 'x'; CREATE SCHEMA b; SELECT lo_from_bytea(7, 'x')"
    )
    path = back_up(pods, store, origin, kind, EXTRA_ARGS=arg)
    assert Restore(pods, store, target, path).run().result
    assert target.sql("SELECT count(*) FROM a") == "1"
    assert (target.sql("SELECT obj_description('a'::regclass)") == "x") == (arg != "--no-comments")


@pytest.mark.parametrize("mode", ["Fail", "Clean"])
def test_a_second_run_finds_the_marker_and_stops(restore: Restore, mode: str) -> None:
    restore.mode = mode
    assert restore.step("restore-load").result["alreadyRestored"] is False
    restore.target.app_sql("INSERT INTO line VALUES ('written since')")
    assert restore.twin().step("restore-load").result["alreadyRestored"] is True
    assert "written since" in restore.target.app_sql("SELECT t FROM line")


def test_another_restore_is_refused_then(restore: Restore) -> None:
    assert restore.step("restore-load").result
    restore.uid = "00000000-0000-4000-8000-000000000000"
    assert restore.step("restore-load").reason == "TargetNotEmpty"


DISTURBING = {
    "default_transaction_read_only": "on",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "default_transaction_isolation": "serializable",
    "search_path": '"Ü x", information_schema, pg_temp',
    "standard_conforming_strings": "off",
    "client_encoding": "latin1",
    "quote_all_identifiers": "on",
}


@pytest.mark.parametrize("whose", ["DATABASE", "ROLE"])
def test_settings_of_the_target_do_not_disturb(restore: Restore, backed_up: str, whose: str) -> None:
    name = identifier(restore.target.name)
    for setting, value in DISTURBING.items():
        restore.target.server.sql(f"ALTER {whose} {name} SET {setting} = {value}")
    assert restore.step("restore-load").result
    restore.target.server.sql(f"ALTER {whose} {name} RESET ALL")
    assert contents(restore.target) == backed_up


def test_a_database_in_another_encoding(pods: Pods, database: NewDatabase, store: Path) -> None:
    options = "ENCODING LATIN1 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    source, target = database("source", options), database("täröt", options)
    source.app_sql('CREATE SCHEMA "Österreich"; CREATE TABLE "Österreich"."Größe" AS SELECT \'äöü\' AS "ß"')
    for kind in KINDS:
        restore = Restore(pods, store, target, back_up(pods, store, source, kind), "Clean")
        assert restore.step("restore-load").result
        assert contents(target) == contents(source)


@pytest.mark.parametrize("kind", KINDS)
def test_what_looks_like_a_dump_inside_a_function_is_left_alone(
    pods: Pods, database: NewDatabase, store: Path, kind: str
) -> None:
    """A body with lines that the filter knows, in a dump without any data and of a schema that has a new owner."""
    source, target = database("functions"), database("copy")
    source.sql(f"ALTER SCHEMA public OWNER TO {source.owner}")
    body = "COPY x FROM stdin;\nCREATE SCHEMA postgres_operator;\nCREATE SCHEMA public;\n"
    source.app_sql(f"CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN /*\n{body}*/ END $$")
    restore = Restore(pods, store, target, back_up(pods, store, source, kind), "Fail")
    assert restore.step("restore-load").result
    assert body in target.sql("SELECT prosrc FROM pg_proc WHERE proname = 'f'")


@pytest.mark.parametrize(("kind", "schema"), [("custom", 'Ext "x"'), ("plain", 'Ext "x"'), ("custom", "public")])
def test_extensions_of_the_superuser_stay_and_do_not_disturb(
    pods: Pods, database: NewDatabase, store: Path, kind: str, schema: str
) -> None:
    source, target = database("source"), database("target")
    for db in (source, target):
        if schema != "public":
            db.sql(f"CREATE SCHEMA {identifier(schema)} AUTHORIZATION {db.owner}")
        db.sql(
            f"CREATE EXTENSION dblink SCHEMA {identifier(schema)}; CREATE EXTENSION citext SCHEMA {identifier(schema)}"
        )
    source.app_sql(f"CREATE TABLE t (c {identifier(schema)}.citext)")
    source.app_sql("INSERT INTO t VALUES ('Ab')")
    for mode in ("Fail", "Clean"):
        restore = Restore(pods, store, target, back_up(pods, store, source, kind, mode), mode)
        assert restore.step("restore-load").result
        assert contents(target) == contents(source)
        assert target.sql("SELECT DISTINCT extowner::regrole FROM pg_extension") == "postgres"


# --- what a target that is not empty is told


OBJECTS = {
    "table public.x": "CREATE TABLE x (a int) PARTITION BY RANGE (a)",
    'view "a b"."V ""ü"""': 'CREATE SCHEMA "a b"; CREATE VIEW "a b"."V ""ü""" AS SELECT 1',
    "materialized view public.x": "CREATE MATERIALIZED VIEW x AS SELECT 1",
    "sequence public.x": "CREATE SEQUENCE x",
    "function public.x()": "CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "procedure public.x()": "CREATE PROCEDURE x() LANGUAGE sql AS 'SELECT 1'",
    "aggregate public.x(integer)": "CREATE AGGREGATE x(int) (sfunc = int4pl, stype = int)",
    "type public.x": "CREATE TYPE x AS ENUM ()",
    "schema x": "CREATE SCHEMA x",
    "operator public.===(integer,integer)": "CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4pl)",
    "operator family public.x USING btree": "CREATE OPERATOR FAMILY x USING btree",
    "collation public.x": 'CREATE COLLATION x FROM "C"',
    "conversion public.x": "CREATE CONVERSION x FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
    "cast (boolean AS pg_catalog.money)": "CREATE CAST (boolean AS money) WITH INOUT",
    "text search dictionary public.x": "CREATE TEXT SEARCH DICTIONARY x (TEMPLATE = simple)",
    "text search configuration public.x": "CREATE TEXT SEARCH CONFIGURATION x (PARSER = default)",
    "text search parser public.x": "CREATE TEXT SEARCH PARSER x (START = prsd_start, GETTOKEN = prsd_nexttoken,"
    " END = prsd_end, LEXTYPES = prsd_lextype)",
    "text search template public.x": "CREATE TEXT SEARCH TEMPLATE x (LEXIZE = dsimple_lexize)",
    "foreign-data wrapper x": "CREATE FOREIGN DATA WRAPPER x",
    "server x": "CREATE EXTENSION postgres_fdw SCHEMA public; CREATE SERVER x FOREIGN DATA WRAPPER postgres_fdw;"
    " CREATE USER MAPPING FOR public SERVER x",
    "publication x": "CREATE PUBLICATION x",
    "subscription x": "CREATE SUBSCRIPTION x CONNECTION 'dbname=none' PUBLICATION p"
    " WITH (connect = false, slot_name = NONE)",
    "event trigger x": "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
    " CREATE EVENT TRIGGER x ON sql_drop EXECUTE FUNCTION f()",
    "language x": "CREATE LANGUAGE x HANDLER plpgsql_call_handler",
    "access method x": "CREATE ACCESS METHOD x TYPE INDEX HANDLER bthandler",
    "large object 5": "SELECT lo_create(5)",
}


@pytest.mark.parametrize(
    "name",
    [
        "table public.x",
        'view "a b"."V ""ü"""',
        "cast (boolean AS pg_catalog.money)",
        "subscription x",
        "large object 5",
    ],
)
def test_what_people_made_counts_whatever_it_is(restore: Restore, name: str) -> None:
    restore.target.sql(OBJECTS[name])
    outcome = restore.step("restore-load")
    assert outcome.reason == "TargetNotEmpty"
    assert name in outcome.message
    assert "spec.mode Replace or Clean" in outcome.message
    assert "postgres_operator" not in restore.target.sql("SELECT nspname FROM pg_namespace")


def test_three_objects_are_named_and_the_others_counted(restore: Restore) -> None:
    restore.target.app_sql("CREATE TABLE b (id serial PRIMARY KEY); CREATE TABLE a (); CREATE TYPE e AS ENUM ();")
    restore.target.app_sql("CREATE VIEW v AS SELECT 1; CREATE VIEW w AS SELECT 1")
    outcome = restore.step("restore-load")
    assert "it has table public.a, table public.b, type public.e and 2 more." in outcome.message


def test_what_does_not_count(restore: Restore) -> None:
    restore.target.sql(
        'CREATE EXTENSION pg_trgm; CREATE SCHEMA "e x"; CREATE EXTENSION ltree SCHEMA "e x";'
        " ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor; COMMENT ON SCHEMA public IS 'x';"
    )
    session = restore.target.server.start_sql("CREATE TEMPORARY TABLE t AS SELECT 1 AS id", restore.target.name)
    assert restore.step("restore-load").result
    session.communicate()
    assert "CREATE EXTENSION IF NOT EXISTS ltree" in contents(restore.target)


# --- Clean


@pytest.mark.parametrize("kind", KINDS)
def test_clean_leaves_only_the_backup(restore: Restore, backed_up: str, kind: str) -> None:
    restore.artifact, restore.mode = f"shop/rich-{kind}", "Clean"
    restore.target.app_sql(RICH)
    restore.target.app_sql(
        'CREATE TABLE "only here" (c hstore); CREATE TABLE "Übel ""x""".more (i int REFERENCES item);'
        " CREATE FUNCTION f(mood, pair) RETURNS SETOF item LANGUAGE sql AS 'SELECT * FROM item';"
        " SELECT lo_create(g) FROM generate_series(100, 200) g;"
        " CREATE TABLE looped (a int PRIMARY KEY, b int REFERENCES looped);"
    )
    assert restore.run().result["alreadyRestored"] is False
    assert contents(restore.target) == backed_up


def test_clean_can_drop_objects_of_every_kind(restore: Restore, backed_up: str) -> None:
    restore.mode = "Clean"
    for number, statements in enumerate(OBJECTS.values()):
        path = f"CREATE SCHEMA s{number}; SET search_path = s{number}, public;"
        restore.target.sql(path + statements)
    restore.target.server.sql(f"ALTER ROLE {identifier(restore.target.owner)} SUPERUSER")
    assert restore.step("restore-load").result
    restore.target.sql("DROP EXTENSION postgres_fdw")
    assert contents(restore.target) == backed_up


@pytest.mark.parametrize("kind", KINDS)
def test_the_backup_of_an_empty_database(restore: Restore, store: Path, kind: str) -> None:
    before = contents(restore.target)
    restore.store, restore.artifact, restore.mode = store, back_up(restore.pods, store, restore.target, kind), "Clean"
    restore.target.app_sql("CREATE TABLE t ()")
    assert restore.run().result
    assert contents(restore.target) == before


def test_clean_names_what_it_must_not_drop(restore: Restore) -> None:
    restore.mode = "Clean"
    restore.target.app_sql("CREATE TABLE mine AS SELECT 1 AS id")
    restore.target.sql("CREATE SCHEMA s; CREATE TABLE s.theirs AS SELECT 2 AS id")
    before = contents(restore.target)
    outcome = restore.step("restore-load")
    assert outcome.reason == "CleanFailed"
    assert "(DROP table IF EXISTS s.theirs). It belongs to another role" in outcome.message
    assert "was not changed" in outcome.message
    assert contents(restore.target) == before


def test_clean_does_not_wait_for_other_sessions_for_ever(restore: Restore) -> None:
    restore.mode = "Clean"
    restore.target.app_sql("CREATE TABLE a AS SELECT 1 AS id; CREATE TABLE b AS SELECT 2 AS id")
    before = contents(restore.target)
    session = restore.target.server.start_sql("BEGIN; LOCK TABLE b IN ACCESS SHARE MODE", restore.target.name)
    outcome = restore.step("restore-load", LOCK_PATIENCE="100ms")
    session.communicate()
    assert outcome.reason == "CleanFailed"
    assert "Other sessions use it" in outcome.message
    assert contents(restore.target) == before


@pytest.mark.parametrize(("objects", "fits"), [(2300, True), (2700, False)])
def test_clean_knows_how_much_one_transaction_can_hold(
    restore: Restore, backed_up: str, objects: int, fits: bool
) -> None:
    restore.mode = "Clean"
    restore.target.app_sql(f"DO $$ BEGIN FOR i IN 1..{objects} LOOP PERFORM lo_create(0); END LOOP; END $$")
    outcome = restore.step("restore-load")
    if fits:
        assert outcome.result["alreadyRestored"] is False
        assert contents(restore.target) == backed_up
    else:
        assert outcome.reason == "TooManyObjects"
        assert f"{objects} objects" in outcome.message
        assert "spec.mode Replace" in outcome.message
        assert restore.target.sql("SELECT count(*) FROM pg_largeobject_metadata") == str(objects)


# --- what stops half-way leaves the target as it was


def _fails_without_trace(restore: Restore, reason: str, *words: str) -> None:
    outcome = restore.step("restore-load")
    assert outcome.reason == reason
    for word in (*words, "was not changed"):
        assert word in outcome.message
    assert "row-data" not in outcome.message + outcome.log
    assert _is_empty(restore.target)


def _cut_short(pods: Pods, kind: str, size: int, end: str) -> None:
    """Make what reads the dump deliver only so many bytes."""
    program, wanted = {"custom": ("pg_restore", "-f"), "plain": ("cat", "/block"), "file": ("cat", "/dump.")}[kind]
    pods.shim(
        program,
        f'if [[ $* == *{wanted}* ]]; then "$REAL" "$@" 2>/dev/null | head -c {size}; {end}; fi; exec "$REAL" "$@"',
    )


ALL = 10_000_000  # bytes


@pytest.mark.parametrize("size", [0, 2000, ALL])
def test_pg_restore_is_killed(pods: Pods, failing: Restore, size: int) -> None:
    failing.artifact = "shop/rich-custom"
    _cut_short(pods, "custom", size, "kill -9 $$")
    _fails_without_trace(failing, "RestoreFailed", "stopped by signal KILL")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["kill -9 $$", "exit 0"])
def test_what_passes_the_dump_on_ends_too_early(pods: Pods, failing: Restore, kind: str, end: str) -> None:
    failing.artifact = f"shop/rich-{kind}"
    _cut_short(pods, "plain", 5000, end)
    _fails_without_trace(failing, "RestoreFailed", "cannot be read")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("end", "reason", "words"),
    [
        ("kill -9 $$", "RestoreFailed", "stopped by signal KILL"),
        ("exit 0", "ChecksumMismatch", "can no longer be read to its end"),
    ],
)
def test_what_reads_the_dump_ends_too_early(
    pods: Pods, failing: Restore, kind: str, end: str, reason: str, words: str
) -> None:
    failing.artifact = f"shop/rich-{kind}"
    _cut_short(pods, "file", 5000, end)
    _fails_without_trace(failing, reason, words)


def test_pg_restore_ends_well_but_too_early(pods: Pods, failing: Restore) -> None:
    failing.artifact = "shop/rich-custom"
    _cut_short(pods, "custom", 5000, "exit 0")
    _fails_without_trace(failing, "RestoreFailed", "its end is missing")


@pytest.mark.parametrize("size", [2000, ALL])
def test_the_filter_is_killed(pods: Pods, failing: Restore, size: int) -> None:
    pods.shim("sed", f'if [[ $2 == -f ]]; then "$REAL" "$@" | head -c {size}; kill -9 $$; fi; exec "$REAL" "$@"')
    _fails_without_trace(failing, "RestoreFailed")


def test_the_dump_cannot_be_read(pods: Pods, failing: Restore) -> None:
    error = "pg_restore: error: could not read from input file: I/O error"
    _cut_short(pods, "custom", 5000, f"echo '{error}' >&2; exit 1")
    _fails_without_trace(failing, "RestoreFailed", "I/O error")


def test_the_session_is_ended_by_the_server(failing: Restore, held: Callable[[], None]) -> None:
    script = failing.start("restore-load")
    failing.target.sql(f"SELECT pg_terminate_backend({_pid(failing, LOADING)})")
    held()
    outcome = script.wait()
    assert outcome.reason == "RestoreFailed"
    assert "terminating connection due to administrator command" in outcome.message
    assert _is_empty(failing.target)


def test_psql_is_killed(failing: Restore, held: Callable[[], None]) -> None:
    script = failing.start("restore-load")
    _pid(failing, LOADING)
    os.kill(script.child("psql"), signal.SIGKILL)
    held()
    assert script.wait().reason == "RestoreFailed"
    assert _is_empty(failing.target)


@pytest.mark.parametrize("end", [Script.terminate, Script.kill])
def test_the_pod_is_ended(
    restore: Restore, backed_up: str, held: Callable[[], None], end: Callable[[Script], None]
) -> None:
    script = restore.start("restore-load")
    _pid(restore, LOADING)
    end(script)
    assert script.wait(9).code in (143, -signal.SIGKILL)
    assert _is_empty(restore.target)
    held()
    assert restore.step("restore-load").result["alreadyRestored"] is False
    assert contents(restore.target) == backed_up


def test_of_two_pods_one_restores_and_the_other_finds_that(
    restore: Restore, backed_up: str, held: Callable[[], None]
) -> None:
    # Where one sees only what was there when it began, the second must still see the first one's marker.
    isolation = "default_transaction_isolation = 'repeatable read'"
    restore.target.server.sql(f"ALTER DATABASE {identifier(restore.target.name)} SET {isolation}")
    first = restore.start("restore-load")
    _pid(restore, LOADING)
    second = restore.twin().start("restore-load")
    _pid(restore, WAITING)
    held()
    assert first.wait().result["alreadyRestored"] is False
    assert second.wait().result["alreadyRestored"] is True
    assert contents(restore.target) == backed_up


def test_the_second_pod_restores_when_the_first_is_killed(
    restore: Restore, backed_up: str, held: Callable[[], None]
) -> None:
    first = restore.start("restore-load")
    _pid(restore, LOADING)
    second = restore.twin().start("restore-load")
    _pid(restore, WAITING)
    first.kill()
    held()
    assert second.wait().result["alreadyRestored"] is False
    assert contents(restore.target) == backed_up


def test_a_pod_that_waits_for_another_can_be_ended(restore: Restore, held: Callable[[], None]) -> None:
    first = restore.start("restore-load")
    _pid(restore, LOADING)
    second = restore.twin().start("restore-load")
    _pid(restore, WAITING)
    second.terminate()
    assert second.wait(9).code == 143
    held()
    assert first.wait().code == 0


@pytest.mark.parametrize(("last", "restored"), [("q", False), ("{n;q}", True)])
def test_the_connection_is_lost_around_the_commit(pods: Pods, restore: Restore, last: str, restored: bool) -> None:
    stop = f'sed -u "/pg_temp.incomplete;/{last}"'
    pods.shim("psql", f'[[ $* == *patience* ]] || exec "$REAL" "$@"; {stop} | "$REAL" "$@"')
    if restored:
        assert restore.step("restore-load").result["alreadyRestored"] is False
        assert restore.target.app_sql("SELECT count(*) FROM line") == "5"
    else:
        _fails_without_trace(restore, "RestoreFailed")


# --- dumps that do not fit


FAILING = [
    ("CREATE TABLE t ();\nCOMMIT;\n", ["dump_is_incomplete"]),
    ("CREATE TABLE t ();\nROLLBACK;\nCREATE TABLE public.t2 ();\n", ["does not exist"]),
    ("CREATE TABLE t ();\nROLLBACK;\nBEGIN;\nCREATE TABLE public.t2 ();\n", ["does not exist"]),
    ("CREATE TABLE t ();\nSELECT 'open\n", ["syntax error"]),
    ("CREATE TABLE t ();\nDO $$ BEGIN\n", ["unterminated dollar-quoted string"]),
    ("CREATE TABLE t ();\nSELECT (1\n", ["syntax error"]),
    ("CREATE TABLE t (i int);\nCOPY t (i) FROM stdin;\n1\nrow-data\n\\.\n", ["syntax for type integer"]),
    ("DO $$ BEGIN RAISE EXCEPTION 'the row-data'; END $$;\n", ["a function of the application raised"]),
    ("DO $$ BEGIN RAISE 'row-data' USING ERRCODE = '23514'; END $$;\n", ["a function of the application raised"]),
    ("DO $$ BEGIN ASSERT false, 'row-data'; END $$;\n", ["a function of the application raised"]),
    ('CREATE TABLE t (); GRANT SELECT ON t TO "Leser ü";\n', ['role "Leser ü" does not exist', "Create that role"]),
    ("CREATE EXTENSION dblink;\n", ['create extension "dblink"', "Have a superuser create it"]),
    ('CREATE TABLE t (i int CONSTRAINT "c ü" CHECK (i > 0)); INSERT INTO t VALUES (-1);\n', ['constraint "c ü"']),
]
START = "SET client_encoding = 'UTF8';\nSET search_path = public;\n"
END = "\n--\n-- PostgreSQL database dump complete\n--\n"


@pytest.mark.parametrize(("content", "words"), FAILING)
def test_a_dump_that_fails(failing: Restore, store: Path, content: str, words: list[str]) -> None:
    failing.store, failing.artifact = store, forge(store, (START + content + END).encode())
    _fails_without_trace(failing, "RestoreFailed", *words)


def test_a_dump_runs_no_program_here(failing: Restore, store: Path, place: Path) -> None:
    made = hand_over(place / "programs") / "made"
    content = f"{START}CREATE TABLE t (id int);\n\\! touch {made}\n{END}"
    failing.store, failing.artifact = store, forge(store, content.encode())
    _fails_without_trace(failing, "RestoreFailed", "a command of psql's own", "no pg_dump writes")
    assert not made.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("CREATE TABLE t ();\n\\connect\nCREATE TABLE public.t2 ();\n", ["does not exist"]),
        ("CREATE TABLE t ();\n\\q\n", ["psql ended"]),
    ],
)
def test_a_dump_ends_no_session_where_psql_has_no_restricted_mode(
    pods: Pods, failing: Restore, store: Path, content: str, words: list[str]
) -> None:
    pods.shim("psql", '[ "$1" = --help=commands ] || exec "$REAL" "$@"')
    failing.store, failing.artifact = store, forge(store, (START + content + END).encode())
    _fails_without_trace(failing, "RestoreFailed", *words)


def test_a_dump_that_needs_more_locks_than_there_are(failing: Restore, store: Path) -> None:
    locks = "SELECT pg_catalog.pg_advisory_xact_lock(g) FROM pg_catalog.generate_series(1, 20000) g;\n"
    failing.store, failing.artifact = store, forge(store, (locks + END).encode())
    _fails_without_trace(failing, "TooManyObjects", "spec.mode Replace")


def test_a_dump_of_a_newer_version(failing: Restore, store: Path) -> None:
    failing.store, failing.artifact = store, forge(store, ("SET setting_of_the_future = 0;\n" + END).encode())
    _fails_without_trace(failing, "VersionMismatch", "needs a newer PostgreSQL")


NEWER = "SET statement_timeout = 0;\nSET transaction_timeout = 0;\n"
KEPT = """
-- Name: f(); Type: FUNCTION; Schema: public; Owner: -
CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$
SELECT '
SET transaction_timeout = 0;
' $$;
"""


def test_newer_tools_set_what_an_older_server_does_not_know(restore: Restore, store: Path) -> None:
    """Those of 17 and newer, with an external server."""
    if int(restore.target.server.version.split(".")[0]) >= 17:
        pytest.skip("this server knows it")
    restore.store, restore.artifact = store, forge(store, (NEWER + START + KEPT + END).encode())
    assert restore.step("restore-load").result["alreadyRestored"] is False
    assert restore.target.sql("SELECT f()") == "\nSET transaction_timeout = 0;"


def test_what_the_dump_sets_does_not_disturb_the_marker(restore: Restore, store: Path) -> None:
    sets = "SET search_path = ''; SET client_encoding = 'LATIN1'; SET ROLE pg_monitor; SET lock_timeout = 1;\n"
    restore.target.server.sql(f"GRANT pg_monitor TO {identifier(restore.target.owner)}")
    restore.store, restore.artifact = store, forge(store, ("CREATE TABLE public.t ();\n" + sets + END).encode())
    assert restore.step("restore-load").result["alreadyRestored"] is False


# --- logins


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"PGPASSWORD": "wrong"}, "AuthenticationFailed"), ({"PGDATABASE": "nöne"}, "DatabaseMissing")],
)
def test_no_login(failing: Restore, change: dict[str, str], reason: str) -> None:
    assert failing.step("restore-load", **change).reason == reason
