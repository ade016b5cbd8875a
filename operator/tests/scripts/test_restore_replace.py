"""Mode Replace: restore-prepare.sh, restore-load.sh into a database of its own, restore-swap.sh."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from restoring import NewDatabase, Restore, back_up, contents, forge
from script_runner import BIN, Pods, Script, Server, TestDatabase, hand_over, identifier, literal, new_databases, until

END = "\n--\n-- PostgreSQL database dump complete\n--\n"
NAME = 'Shöp "x" it\'s'
LOADED = ("restore-prepare", "restore-load")


CONTENT = "CREATE TABLE stock AS SELECT 1 AS id; SELECT lo_from_bytea(7, 'large')"


@pytest.fixture(scope="module")
def backup(server: Server, base: Path, spies: Path) -> tuple[Path, str]:
    """A store, and in it a backup of the shop."""
    store, pods = hand_over(base / "replace"), Pods(hand_over(base / "replace-pods"), spies)
    with new_databases(server) as create:
        shop = create("source")
        shop.app_sql(CONTENT)
        artifact = back_up(pods, store, shop)
    return store, artifact


@pytest.fixture
def shop(database: NewDatabase) -> TestDatabase:
    """A database with a weird name, a table and a large object."""
    shop = database(NAME)
    shop.app_sql(CONTENT)
    return shop


@pytest.fixture
def restore(pods: Pods, shop: TestDatabase, backup: tuple[Path, str]) -> Restore:
    """A Restore of the backup of the shop, which has a table more since then."""
    shop.app_sql("CREATE TABLE later AS SELECT 2 AS id")
    return Restore(pods, backup[0], shop, backup[1], "Replace")


def _tables(database: TestDatabase) -> str:
    return database.sql("SELECT relname FROM pg_class WHERE relkind = 'r' AND oid >= 16384 ORDER BY 1")


RESTORED, UNTOUCHED = "stock", "later\nstock"


def _is_untouched(restore: Restore) -> bool:
    """Whether the target is as it was, and nothing is left beside it."""
    databases = {n for n in restore.target.server.databases() if n.startswith(restore.target.name)}
    return _tables(restore.target) == UNTOUCHED and databases == {restore.target.name}


def _marker(restore: Restore) -> str:
    finished = "SELECT restore_uid, pod_uid FROM postgres_operator.restores WHERE finished_at IS NOT NULL"
    records = restore.target.server.sql(finished).splitlines()
    return "".join(r.partition("|")[2] for r in records if r.startswith(restore.uid))


# --- what it makes


@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_the_restored_database_takes_the_place_of_the_old_one(
    pods: Pods, shop: TestDatabase, store: Path, kind: str
) -> None:
    backed_up = contents(shop)
    restore = Restore(pods, store, shop, back_up(pods, store, shop, kind), "Replace")
    shop.app_sql("CREATE TABLE later AS SELECT 2 AS id")
    replaced = contents(shop)
    assert restore.run().result == {
        "location": restore.artifact,
        "serverVersion": shop.server.version,
        "toolVersion": shop.server.version,
        "alreadyRestored": False,
        "previousDatabase": restore.previous,
    }
    assert contents(shop) == backed_up
    assert contents(TestDatabase(shop.server, restore.previous, shop.owner)) == replaced
    assert restore.scratch not in shop.server.databases()
    assert _marker(restore) == restore.pod


def test_the_replaced_database_is_dropped_when_nobody_wants_it(restore: Restore) -> None:
    restore.keep_previous = False
    assert set(restore.run().result) == {"location", "serverVersion", "toolVersion", "alreadyRestored"}
    assert _tables(restore.target) == RESTORED
    assert restore.previous not in restore.target.server.databases()


def test_a_replaced_database_that_cannot_be_dropped_is_a_warning(restore: Restore) -> None:
    restore.keep_previous = False
    restore.target.server.sql(f"ALTER DATABASE {identifier(NAME)} IS_TEMPLATE true")
    try:
        result = restore.run().result
        assert restore.previous in result["warning"]
        assert "cannot drop a template database" in result["warning"]
        assert _tables(restore.target) == RESTORED
    finally:
        restore.target.server.sql(f"ALTER DATABASE {identifier(restore.previous)} IS_TEMPLATE false")


@pytest.fixture
def tablespace(server: Server) -> Iterator[str]:
    """A tablespace that goes after the databases in it."""
    directory = hand_over(server.directory / "tablespace")
    server.sql(f"CREATE TABLESPACE \"Platz ü\" LOCATION '{directory}'")
    yield '"Platz ü"'
    server.sql('DROP TABLESPACE "Platz ü"')


PROPERTIES = """
SELECT datdba::regrole, pg_encoding_to_char(encoding), datcollate, datctype, datlocprovider,
    coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
    dattablespace, datconnlimit, shobj_description(oid, 'pg_database'),
    ARRAY(SELECT a::text FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) a ORDER BY 1),
    ARRAY(SELECT (setrole, setconfig)::text FROM pg_db_role_setting WHERE setdatabase = d.oid ORDER BY 1)
FROM pg_database d WHERE datname = {}
"""
ROLES = ("own er", 'gr"anter', "Leserin ü", "nobody else")


@pytest.mark.usefixtures("tablespace")  # first: databases go before it
@pytest.mark.parametrize(
    "options",
    [
        "TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'POSIX' TABLESPACE \"Platz ü\"",
        "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk' CONNECTION LIMIT 7",
    ],
)
def test_all_that_is_not_inside_a_database_is_carried_over(
    pods: Pods, server: Server, database: NewDatabase, store: Path, options: str
) -> None:
    if "icu" in options and server.sql("SELECT count(*) FROM pg_collation WHERE collname = 'und-x-icu'") == "0":
        pytest.skip("this server was built without it")
    shop = database(NAME, options)
    name, app = identifier(NAME), identifier(shop.owner)
    roles = [identifier(role) for role in ROLES]
    server.sql(";".join(f"CREATE ROLE {role}" for role in roles))
    owner, granter, reader, other = roles
    server.sql(
        f"COMMENT ON DATABASE {name} IS {literal(chr(10) + 'Ein ' + NAME)};"
        f'ALTER DATABASE {name} SET search_path = "$user", \'a, "b\', public;'
        f"ALTER DATABASE {name} SET my.setting = 'it''s, \"ü\"';"
        f"ALTER ROLE {app} IN DATABASE {name} SET statement_timeout = '1h';"
        f"ALTER ROLE {reader} IN DATABASE {name} SET temp_tablespaces = \"Platz ü\", '';"
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT ALL ON DATABASE {name} TO {granter} WITH GRANT OPTION;"
        f"SET ROLE {granter}; GRANT CREATE ON DATABASE {name} TO {other} WITH GRANT OPTION;"
        f"GRANT CONNECT ON DATABASE {name} TO {reader}; RESET ROLE;"
        f"SET ROLE {other}; GRANT CREATE ON DATABASE {name} TO {reader}; RESET ROLE;"
        f"GRANT TEMPORARY ON DATABASE {name} TO {reader};"
        f"ALTER DATABASE {name} OWNER TO {owner}; GRANT {owner} TO {app}"
    )
    before = server.sql(PROPERTIES.format(literal(NAME)))
    restore = Restore(pods, store, shop, back_up(pods, store, shop), "Replace")
    assert restore.run().result
    assert server.sql(PROPERTIES.format(literal(NAME))) == before
    assert server.sql(PROPERTIES.format(literal(restore.previous))) == before


def test_extensions_that_need_a_superuser(pods: Pods, shop: TestDatabase, store: Path) -> None:
    """As in the target, in whatever schema; what the role can create itself comes with the dump."""
    shop.sql(
        'CREATE SCHEMA "Ext\\ü/x"; CREATE EXTENSION dblink SCHEMA "Ext\\ü/x";'
        " CREATE EXTENSION pageinspect VERSION '1.8';"
        ' GRANT USAGE ON SCHEMA "Ext\\ü/x" TO PUBLIC; CREATE EXTENSION citext'
    )
    shop.app_sql("CREATE TABLE t (c citext); CREATE EXTENSION hstore; CREATE TABLE u (h hstore)")
    before = contents(shop)
    installed = "SELECT extname, extversion, extnamespace::regnamespace FROM pg_extension ORDER BY 1"
    extensions = shop.sql(installed)
    for kind in ("custom", "plain"):
        restore = Restore(pods, store, shop, back_up(pods, store, shop, kind), "Replace")
        assert restore.run().result
        assert contents(shop) == before
        assert shop.sql(installed) == extensions


def test_settings_of_roles_do_not_disturb(restore: Restore) -> None:
    server, owner = restore.target.server, identifier(restore.target.owner)
    disturbing = [f"ALTER ROLE {owner} SET statement_timeout = 1"]
    for setting in ("default_transaction_read_only = on", "search_path = nöne"):
        disturbing += [f"ALTER ROLE {role} SET {setting}" for role in ("postgres", owner)]
    server.sql(";".join(disturbing))
    try:
        assert restore.run().result["alreadyRestored"] is False
    finally:
        server.sql("SET default_transaction_read_only = off; ALTER ROLE postgres RESET ALL")


# --- who else is there


@contextmanager
def _reconnecting(database: TestDatabase, sessions: int = 3) -> Iterator[list[tuple[int, str]]]:
    """An application that connects again and again: how much was seen before each connection, and what it saw."""
    seen: list[tuple[int, str]] = []
    stop = Event()
    env = {**os.environ, **database.env}

    def work() -> None:
        query = "SELECT string_agg(relname, '+' ORDER BY 1) FROM pg_class WHERE relname IN ('stock', 'later')"
        while not stop.is_set():
            before = len(seen)
            command = [BIN / "psql", "-XAtqw", "-c", query, "-c", "SELECT pg_sleep(0.05)"]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            seen.append((before, done.stdout.strip() or done.stderr))

    threads = [Thread(target=work) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(seen) > 5)
        yield seen
        count = len(seen)
        until(lambda: len(seen) > count + 5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_an_application_that_reconnects_all_the_time(restore: Restore) -> None:
    idle = restore.target.server.start_sql("BEGIN; LOCK TABLE stock", restore.target.name)
    with _reconnecting(restore.target) as seen:
        assert restore.run().result
    idle.communicate()
    texts = [text for _, text in seen]
    assert {"later+stock", "stock"} <= set(texts)
    first_new = texts.index("stock")
    assert "later+stock" not in {text for before, text in seen if before > first_new}
    refused = [text for text in texts if "stock" not in text]
    assert all("terminat" in text or "does not exist" in text for text in refused), refused
    assert len(refused) < 20


@pytest.fixture
def immortal(pods: Pods, restore: Restore) -> Iterator[None]:
    """A session in the target that cannot be ended: what would end it does not do so."""
    restore.steps(*LOADED)
    pods.shim("psql", 'if [[ $* == *"-v target="* && $* != *"-v uid="* ]]; then exec sleep 60; fi; exec "$REAL" "$@"')
    session = restore.target.server.start_sql("SELECT 1", restore.target.name)
    yield
    session.communicate()


def _start_swap(restore: Restore) -> Script:
    script = restore.start("restore-swap")
    renaming = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'ALTER DATABASE%RENAME%' AND state = 'active'"
    until(lambda: restore.target.server.sql(renaming))
    return script


@pytest.mark.usefixtures("immortal")
def test_a_session_that_cannot_be_ended(restore: Restore) -> None:
    outcome = restore.step("restore-swap", SWAP_TRIES="1")
    assert outcome.reason == "TargetBusy"
    assert "session " in outcome.message
    assert "of role postgres in database" in outcome.message
    assert _is_untouched(restore)


def test_a_prepared_transaction(restore: Restore) -> None:
    restore.steps(*LOADED)
    with restore.target.server.start_sql("SELECT 'the application'", restore.target.name) as application:
        restore.target.app_sql("BEGIN; INSERT INTO stock VALUES (2); PREPARE TRANSACTION 'T ü''1'")
        outcome = restore.step("restore-swap", SWAP_TRIES="1")
        output, _ = application.communicate("SELECT 'still there';\n")
    assert outcome.reason == "TargetBusy"
    assert "prepared transaction 'T ü''1' of role" in outcome.message
    assert "still there" in output
    assert _is_untouched(restore)


# --- two pods of one Restore


def test_of_two_pods_one_swaps_and_the_other_finds_that(restore: Restore) -> None:
    twin = restore.twin()
    restore.steps(*LOADED)
    twin.steps(*LOADED)  # and leaves alone what the first one made
    restore.target.app_sql("INSERT INTO stock VALUES (3)")
    assert restore.step("restore-swap").result["alreadyRestored"] is False
    restore.target.app_sql("INSERT INTO stock VALUES (4)")
    result = twin.step("restore-swap").result
    assert result["alreadyRestored"] is True
    assert result["previousDatabase"] == restore.previous
    assert restore.target.app_sql("SELECT id FROM stock") == "1\n4"
    assert TestDatabase(restore.target.server, restore.previous, "").sql("SELECT id FROM stock") == "1\n3"
    assert twin.scratch not in restore.target.server.databases()
    assert _marker(restore) == restore.pod


def test_two_pods_swap_at_the_same_time(restore: Restore) -> None:
    twin = restore.twin()
    restore.steps(*LOADED)
    twin.steps(*LOADED)
    scripts = [r.start("restore-swap") for r in (restore, twin)]
    assert sorted(script.wait().result["alreadyRestored"] for script in scripts) == [False, True]
    assert _tables(restore.target) == RESTORED
    assert not {restore.scratch, twin.scratch} & restore.target.server.databases()


def test_the_other_pod_swaps_and_tidies_up_just_before(pods: Pods, restore: Restore) -> None:
    """Nothing but the marker can tell then: the restored database must not be swapped out, and dropped."""
    restore.keep_previous = False
    late, here = restore.twin(), pods.directory
    restore.steps(*LOADED)
    late.steps(*LOADED)
    wait = f"touch {here}/late; until [[ -e {here}/go ]]; do sleep 0.02; done"  # after its first look at the marker
    pods.shim(
        "psql",
        f'[[ $POD_UID == {late.pod} ]] || exec "$REAL" "$@"; sql=$(cat)\n'
        f"[[ $sql != *pg_prepared_xacts* ]] || {{ {wait}; }}\n"
        'exec "$REAL" "$@" <<<"$sql"',
    )
    script = late.start("restore-swap")
    until((here / "late").exists)
    assert restore.step("restore-swap").result["alreadyRestored"] is False
    restore.target.app_sql("INSERT INTO stock VALUES (4)")
    (here / "go").touch()
    assert script.wait().result["alreadyRestored"] is True
    assert restore.target.app_sql("SELECT id FROM stock") == "1\n4"
    assert _marker(restore) == restore.pod


def test_a_pod_that_comes_after_the_end_changes_nothing(restore: Restore) -> None:
    assert restore.run().result
    restore.target.app_sql("INSERT INTO stock VALUES (4)")
    databases = restore.target.server.databases()
    for late in (restore.twin(), restore):
        assert late.run().result["alreadyRestored"] is True
    assert restore.target.app_sql("SELECT id FROM stock") == "1\n4"
    assert restore.target.server.databases() == databases


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_job_of_an_earlier_restore_comes_back(pods: Pods, restore: Restore, jobs: str) -> None:
    """Also when the database into which it restored was replaced since."""
    earlier = Restore(pods, restore.store, restore.target, restore.artifact, "Clean")
    assert earlier.run().result["alreadyRestored"] is False
    restore.target.server.sql(f"ALTER DATABASE {identifier(NAME)} SET datestyle = 'German'")
    assert restore.run(JOBS=jobs).result["alreadyRestored"] is False
    restore.target.app_sql("INSERT INTO stock VALUES (4)")
    assert earlier.twin().run().result["alreadyRestored"] is True
    assert restore.target.app_sql("SELECT id FROM stock") == "1\n4"


# --- what fails or is killed leaves the target as it was


def test_the_dump_cannot_be_loaded(restore: Restore, store: Path) -> None:
    restore.store = store
    restore.artifact = forge(store, f"SELECT 1/0;{END}".encode())
    outcome = restore.run()
    assert outcome.reason == "RestoreFailed"
    assert "division by zero" in outcome.message
    assert _is_untouched(restore)


def test_more_than_one_transaction_can_hold(restore: Restore, store: Path) -> None:
    """The way out that TooManyObjects recommends."""
    lock = "SELECT pg_catalog.pg_advisory_xact_lock(%d, g) FROM pg_catalog.generate_series(1, 2500) g;\n"
    locks = [lock % number for number in range(8)]
    restore.store, restore.artifact = store, forge(store, f"{''.join(locks)}{END}".encode())
    assert restore.run().result
    restore.mode, restore.uid = "Fail", restore.pod
    assert restore.step("restore-load").reason == "TooManyObjects"


@pytest.mark.parametrize("end", [Script.terminate, Script.kill])
def test_the_load_is_ended_and_the_next_restore_tidies_up(pods: Pods, restore: Restore, end: object) -> None:
    go = pods.directory / "go"
    pods.shim("pg_restore", f'"$REAL" "$@"; until [[ $1 == --list || -e "{go}" ]]; do sleep 0.02; done')
    restore.steps("restore-prepare")
    script = restore.start("restore-load")
    connected = "SELECT datname FROM pg_stat_activity"
    until(lambda: restore.scratch in restore.target.server.sql(connected).splitlines())
    script.child("sed")
    end(script)  # type: ignore[operator]
    assert script.wait(9).code in (143, -signal.SIGKILL)
    go.touch()
    left = restore.scratch in restore.target.server.databases()
    assert left == (end is Script.kill)
    following = Restore(pods, restore.store, restore.target, restore.artifact, "Replace")
    following.steps("restore-prepare")
    assert restore.scratch not in restore.target.server.databases()
    assert following.scratch in restore.target.server.databases()
    records = restore.target.server.sql("SELECT restore_uid FROM postgres_operator.restores")
    assert records == following.uid


def test_a_leftover_in_use_is_left_alone(pods: Pods, restore: Restore) -> None:
    restore.steps("restore-prepare")
    session = restore.target.server.start_sql("SELECT 1", restore.scratch)
    following = Restore(pods, restore.store, restore.target, restore.artifact, "Replace")
    outcome = following.step("restore-prepare")
    session.communicate()
    assert outcome.code == 0
    assert f"{restore.scratch} is in use" in outcome.log
    assert {restore.scratch, following.scratch} <= restore.target.server.databases()


def test_databases_that_only_look_like_leftovers_are_nobodys_to_drop(
    pods: Pods, restore: Restore, database: NewDatabase
) -> None:
    theirs = Restore(pods, restore.store, database("other"), restore.artifact, "Replace")
    theirs.steps("restore-prepare")  # of another target
    database(f"{restore.prefix}_00000000", owner="somebody")  # of nobody
    restore.steps("restore-prepare")
    assert {theirs.scratch, f"{restore.prefix}_00000000"} <= restore.target.server.databases()


def test_a_database_with_the_name_that_we_need(restore: Restore, database: NewDatabase) -> None:
    database(restore.scratch, owner="somebody")
    for _ in range(2):
        assert restore.step("restore-prepare").reason == "RestoreFailed"
    assert restore.scratch in restore.target.server.databases()


@pytest.mark.usefixtures("immortal")
def test_the_swap_is_killed_half_way(restore: Restore) -> None:
    _start_swap(restore).kill()
    ours = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'postgres-operator'"
    until(lambda: not restore.target.server.sql(ours))
    assert _tables(restore.target) == UNTOUCHED
    assert not _marker(restore)


@pytest.mark.usefixtures("immortal")
def test_the_swap_is_asked_to_end(restore: Restore) -> None:
    script = _start_swap(restore)
    script.terminate()
    assert script.wait(9).code == 143
    assert not script.descendants()
    assert _is_untouched(restore)


@pytest.mark.parametrize(("last", "swapped"), [("q", False), ("{n;q}", True)])
def test_the_connection_is_lost_around_the_commit(pods: Pods, restore: Restore, last: str, swapped: bool) -> None:
    restore.steps(*LOADED)
    stop = f'sed -u "/^ON CONFLICT .restore_uid, pod_uid/{last}"'
    pods.shim("psql", f'[[ $* == *"-v uid="* ]] || exec "$REAL" "$@"; {stop} | "$REAL" "$@"')
    outcome = restore.step("restore-swap")
    if swapped:
        assert outcome.result["alreadyRestored"] is False
        assert _tables(restore.target) == RESTORED
    else:
        assert outcome.reason == "RestoreFailed"
        assert _tables(restore.target) == UNTOUCHED


def test_the_marker_comes_with_the_swap_also_where_the_table_was_tidied(restore: Restore) -> None:
    restore.steps(*LOADED)
    restore.target.server.sql("DELETE FROM postgres_operator.restores", "postgres")
    assert restore.step("restore-swap").result["alreadyRestored"] is False
    assert _tables(restore.target) == RESTORED
    assert restore.step("restore-swap").result["alreadyRestored"] is True


def test_the_name_for_the_replaced_database_is_taken(restore: Restore, database: NewDatabase) -> None:
    database(restore.previous, owner="somebody")
    outcome = restore.run()
    assert outcome.reason == "RestoreFailed"
    assert "Cannot swap the databases: ERROR:  database " in outcome.message
    assert _tables(restore.target) == UNTOUCHED
    assert restore.scratch not in restore.target.server.databases()


def test_the_target_is_not_there(restore: Restore) -> None:
    name, server = identifier(restore.target.name), restore.target.server
    server.sql(f"ALTER DATABASE {name} RENAME TO elsewhere")
    assert restore.step("restore-prepare").reason == "DatabaseMissing"
    server.sql(f"ALTER DATABASE elsewhere RENAME TO {name}")
    restore.steps(*LOADED)
    server.sql(f"ALTER DATABASE {name} RENAME TO elsewhere")
    assert restore.step("restore-swap").reason == "DatabaseMissing"
    assert restore.scratch not in server.databases()


def test_the_filled_database_is_not_there(restore: Restore) -> None:
    restore.steps(*LOADED)
    restore.target.server.sql(f"DROP DATABASE {identifier(restore.scratch)}")
    outcome = restore.step("restore-swap")
    assert outcome.reason == "RestoreFailed"
    assert "dropped by somebody" in outcome.message
    assert _is_untouched(restore)


def test_an_extension_that_is_gone_from_the_server(restore: Restore) -> None:
    restore.target.sql(
        "CREATE EXTENSION pageinspect; UPDATE pg_extension SET extname = 'gone' WHERE extname = 'pageinspect'"
    )
    outcome = restore.step("restore-prepare")
    assert outcome.reason == "RestoreFailed"
    assert 'extension "gone" is not available' in outcome.message
    assert _is_untouched(restore)


@pytest.mark.parametrize("step", ["restore-prepare", "restore-swap"])
def test_a_wrong_password_of_the_superuser(restore: Restore, step: str) -> None:
    assert restore.step(step, PGPASSWORD="wrong").reason == "AuthenticationFailed"
    assert _is_untouched(restore)
