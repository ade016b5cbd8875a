# ruff: noqa: S608 - SQL is put together from names of these tests only
import json
from collections.abc import Callable, Iterator

import pytest
from script_runner import (
    APP_PASSWORD,
    SECRET,
    SUPERUSER_PASSWORD,
    Pods,
    Server,
    TestDatabase,
    literal,
    new_databases,
    until,
)

from postgres_operator.api.database import VerifyResult

NewDatabase = Callable[..., TestDatabase]
NAMES = [("app", "app"), ("Bücher 1", "Lehrer'in"), ('da"ta $(id) :role', 'ro\\le "x" `id`'), ("数据库", "角色")]


@pytest.fixture
def clean(server: Server) -> Iterator[Server]:
    """The server; databases and roles that the script makes go at the end."""
    with new_databases(server):
        yield server


def _env(server: Server, name: str = "app", role: str = "app", create: bool = True, **more: str) -> dict[str, str]:
    env = {**server.env(name, role, APP_PASSWORD), "CREATE_MISSING": json.dumps(create)}
    if create:
        env |= {"SUPERUSER": "postgres", "SUPERUSER_PASSWORD": SUPERUSER_PASSWORD}
    return env | more


def _owner(server: Server, name: str) -> str:
    return server.sql(f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = {literal(name)}")


def test_a_login_that_works(pods: Pods, database: NewDatabase) -> None:
    db = database("Käufe", owner="Käufer")
    result = pods.run("verify.sh", _env(db.server, db.name, db.owner, create=False)).result
    assert result == {"serverVersion": db.server.version, "toolVersion": db.server.version}
    VerifyResult.model_validate(result)


@pytest.mark.parametrize(("name", "role"), NAMES)
def test_role_and_database_are_made(pods: Pods, clean: Server, name: str, role: str) -> None:
    outcome = pods.run("verify.sh", _env(clean, name, role))
    assert set(outcome.result) == {"serverVersion", "toolVersion"}
    assert _owner(clean, name) == role
    assert outcome.log.count("Created ") == 2
    again = pods.run("verify.sh", _env(clean, name, role))
    assert again.result == outcome.result
    assert "Created" not in again.log


def test_the_new_role_may_log_in_and_nothing_more(pods: Pods, clean: Server) -> None:
    assert pods.run("verify.sh", _env(clean)).result
    rights = "rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolinherit"
    assert clean.sql(f"SELECT {rights} FROM pg_roles WHERE rolname = 'app'") == "t|f|f|f|f|f|t"
    assert clean.sql("SELECT count(*) FROM pg_auth_members WHERE member = 'app'::regrole") == "0"


def test_no_password_gets_into_the_server_s_log(pods: Pods, clean: Server) -> None:
    before = len(clean.log)
    assert pods.run("verify.sh", _env(clean)).result
    assert 'database "app"' in clean.log[before:] or "|app|app|" in clean.log[before:]  # it logs what it may
    assert SECRET not in clean.log[before:]
    assert "SCRAM-SHA-256" not in clean.log[before:]


def test_no_password_gets_into_the_server_s_log_when_it_fails(pods: Pods, clean: Server) -> None:
    before = len(clean.log)
    outcome = pods.run("verify.sh", _env(clean, role="pg_reserved"))
    assert outcome.reason == "InternalError"
    assert 'role name "pg_reserved" is reserved' in outcome.message
    assert "is reserved" in clean.log[before:]
    assert SECRET not in clean.log[before:]
    assert "app" not in clean.databases()


def test_only_what_is_missing_is_made(pods: Pods, clean: Server) -> None:
    clean.sql(f"CREATE ROLE app LOGIN CREATEDB PASSWORD {literal(APP_PASSWORD)}")
    outcome = pods.run("verify.sh", _env(clean))
    assert set(outcome.result) == {"serverVersion", "toolVersion"}
    assert outcome.log.count("Created ") == 1
    assert _owner(clean, "app") == "app"
    assert clean.sql("SELECT rolcreatedb FROM pg_roles WHERE rolname = 'app'") == "t"


def test_the_database_is_made_while_somebody_uses_template1(pods: Pods, clean: Server) -> None:
    session = clean.start_sql("SELECT 1", "template1")
    outcome = pods.run("verify.sh", _env(clean))
    session.communicate()
    assert set(outcome.result) == {"serverVersion", "toolVersion"}


def test_what_is_there_is_not_changed(pods: Pods, clean: Server) -> None:
    clean.sql(f"CREATE ROLE app LOGIN PASSWORD '{SECRET}-another'")
    clean.sql("CREATE DATABASE app")
    assert pods.run("verify.sh", _env(clean)).reason == "AuthenticationFailed"
    outcome = pods.run("verify.sh", _env(clean, PGPASSWORD=f"{SECRET}-another"))
    assert set(outcome.result) == {"serverVersion", "toolVersion"}
    assert _owner(clean, "app") == "postgres"


def test_without_create_missing_nothing_is_made(pods: Pods, clean: Server) -> None:
    more = {"SUPERUSER": "postgres", "SUPERUSER_PASSWORD": SUPERUSER_PASSWORD}
    assert pods.run("verify.sh", _env(clean, create=False, **more)).reason == "AuthenticationFailed"
    clean.sql(f"CREATE ROLE app LOGIN PASSWORD {literal(APP_PASSWORD)}")
    assert pods.run("verify.sh", _env(clean, create=False, **more)).reason == "DatabaseMissing"
    assert "app" not in clean.databases()


def test_a_wrong_superuser_password(pods: Pods, clean: Server) -> None:
    outcome = pods.run("verify.sh", _env(clean, SUPERUSER_PASSWORD="x"))
    assert outcome.reason == "AuthenticationFailed"
    assert 'user "postgres"' in outcome.message


def test_two_pods_at_once(pods: Pods, clean: Server) -> None:
    lock = "SELECT pg_advisory_lock(hashtext('postgres_operator'))"
    holder = clean.start_sql(lock)
    both = [pods.start("verify.sh", _env(clean)) for _ in range(2)]
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    until(lambda: clean.sql(waiting) == "2")
    holder.communicate()
    outcomes = [script.wait() for script in both]
    assert outcomes[0].result == outcomes[1].result
    assert sum(o.log.count("Created ") for o in outcomes) == 2


def test_sigterm(pods: Pods, clean: Server) -> None:
    holder = clean.start_sql("SELECT pg_advisory_lock(hashtext('postgres_operator'))")
    script = pods.start("verify.sh", _env(clean))
    until(lambda: clean.sql("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
    script.terminate()
    outcome = script.wait(5)
    holder.communicate()
    assert (outcome.code, outcome.report) == (143, {})
    assert not list((script.directory / "tmp").iterdir())
    assert "app" not in clean.roles()


def test_a_server_that_is_not_there(pods: Pods, clean: Server) -> None:
    pods.shim(
        "psql",
        "echo 'psql: error: connection to server failed: FATAL:  the database system is starting up' >&2; exit 2",
    )
    pods.shim("sleep", "exit 0")
    script = pods.start("verify.sh", _env(clean, create=False))
    until(lambda: script.log.count("starting up") > 3)  # it waits; test_lib.py checks that it does not for ever
    script.terminate()
    assert script.wait(5).code == 143
