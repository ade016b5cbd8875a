"""Connections to an external server: what sslMode and the certificate authority are good for."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from script_runner import BIN, SUPERUSER_PASSWORD, Pods, Server, TestDatabase, Tls, new_databases, until

NewDatabase = Callable[..., TestDatabase]
USES_TLS = 'connect 0; psql -XAtqwc "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"; report "{}"'


@pytest.fixture
def external(tls_server: Server) -> Iterator[TestDatabase]:
    """A database on the server that takes TLS only."""
    with new_databases(tls_server) as create:
        yield create("app")


def login(db: TestDatabase, mode: str, ca: Path | None = None, host: str = "localhost", **more: str) -> dict[str, str]:
    """As macro `login` makes it."""
    authority = {"PGSSLROOTCERT": str(ca)} if ca else {}
    return {
        **db.env,
        "PGHOST": host,
        "PGSSLMODE": mode,
        "CREATE_MISSING": "false",
        "PATIENCE": "5",
        **authority,
        **more,
    }


def refusal(pods: Pods, env: dict[str, str]) -> tuple[str, str]:
    outcome = pods.run("verify.sh", env)
    assert outcome.log.count("Not yet") == 0, "another try would not help"
    return outcome.reason, outcome.message


@pytest.mark.parametrize(("mode", "host"), [("verify-full", "localhost"), ("verify-ca", "127.0.0.1")])
def test_the_right_authority(pods: Pods, external: TestDatabase, tls: Tls, mode: str, host: str) -> None:
    assert pods.run("verify.sh", login(external, mode, tls.ca, host)).result["serverVersion"]
    assert pods.run([], login(external, mode, tls.ca, host), USES_TLS).log.endswith("t\n")


def test_require_encrypts_without_an_authority(pods: Pods, external: TestDatabase) -> None:
    assert pods.run([], login(external, "require"), USES_TLS).log.endswith("t\n")


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca", "require"])
def test_a_wrong_authority(pods: Pods, external: TestDatabase, tls: Tls, mode: str) -> None:
    reason, message = refusal(pods, login(external, mode, tls.other_ca))
    assert reason == "TlsFailed"
    assert "certificate verify failed" in message
    assert f"sslMode {mode}" in message


def test_verify_full_wants_the_name_that_the_certificate_is_for(pods: Pods, external: TestDatabase, tls: Tls) -> None:
    reason, message = refusal(pods, login(external, "verify-full", tls.ca, "127.0.0.1"))
    assert reason == "TlsFailed"
    assert 'server certificate for "localhost"' in message
    assert 'does not match host name "127.0.0.1"' in message


@pytest.mark.parametrize("mode", ["verify-full", "require"])
def test_a_server_without_tls_gets_no_password(pods: Pods, database: NewDatabase, tls: Tls, mode: str) -> None:
    db = database()
    reason, message = refusal(pods, login(db, mode, tls.ca))
    assert reason == "TlsFailed"
    assert "server does not support SSL, but SSL was required" in message
    assert pods.run("verify.sh", login(db, "disable")).result


def test_a_server_that_wants_tls(pods: Pods, external: TestDatabase) -> None:
    reason, message = refusal(pods, login(external, "disable"))
    assert reason == "TlsFailed"
    assert "no encryption" in message


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_an_authority_that_is_not_there(pods: Pods, external: TestDatabase, place: Path, content: str | None) -> None:
    """libpq takes `require` without the file for `require` without an authority."""
    ca = place / "ca.crt"
    if content is not None:
        ca.write_text(content)
    reason, message = refusal(pods, login(external, "require", ca))
    assert reason == ("TlsFailed" if content else "CredentialsLost")
    assert ("root certificate file" if content else "has no key ca.crt") in message


def test_a_wrong_password(pods: Pods, external: TestDatabase, tls: Tls) -> None:
    reason, message = refusal(pods, login(external, "verify-full", tls.ca, PGPASSWORD="geheim-wrong"))
    assert reason == "AuthenticationFailed"
    assert 'password authentication failed for user "app"' in message, "of the address that answered, not of the first"


def test_a_server_that_wants_a_certificate_of_ours(pods: Pods, external: TestDatabase, tls: Tls) -> None:
    access = external.server.directory / "data" / "pg_hba.conf"
    before = access.read_text()
    external.sql(f"ALTER SYSTEM SET ssl_ca_file = '{tls.ca}'")
    access.write_text(before.replace("hostssl all all", "hostssl all app") + before)
    access.write_text(access.read_text().replace("scram-sha-256", "scram-sha-256 clientcert=verify-ca", 1))
    try:
        external.sql("SELECT pg_reload_conf()")
        wanted = "SELECT setting <> '' FROM pg_settings WHERE name = 'ssl_ca_file'"
        until(lambda: external.sql(wanted) == "t")
        reason, message = refusal(pods, login(external, "verify-full", tls.ca))
        assert reason == "AuthenticationFailed"
        assert "client certificate" in message
    finally:
        access.write_text(before)
        external.sql("ALTER SYSTEM RESET ssl_ca_file")
        external.sql("SELECT pg_reload_conf()")


def test_nobody_listens(pods: Pods, external: TestDatabase, tls: Tls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    outcome = pods.run("verify.sh", login(external, "verify-full", tls.ca, PGPORT=str(port), PATIENCE="1"))
    assert outcome.reason == "DatabaseUnreachable"
    assert outcome.log.count("Not yet") >= 1, "it may come back"


def test_a_server_that_stops_in_the_middle(pods: Pods, external: TestDatabase, tls: Tls) -> None:
    line = "psql: error: connection to server at localhost failed: SSL error: unexpected eof while reading"
    pods.shim("psql", f"echo '{line}' >&2; exit 2")
    assert pods.run("verify.sh", login(external, "verify-full", tls.ca, PATIENCE="0")).reason == "DatabaseUnreachable"


# --- backup and restore, as its role and as its superuser


def test_a_dump_and_its_restore(pods: Pods, external: TestDatabase, tls: Tls, store: Path) -> None:
    external.app_sql("CREATE TABLE kept AS SELECT 42 AS answer")
    env = login(external, "verify-full", tls.ca)
    dump = {"FORMAT": "custom", "STORE_DIR": str(store), "ARTIFACT_PATH": "app/b", "BACKUP_SOURCE": '{"a": "b"}'}
    dump["FILE"] = "dump.pgdump"
    result = pods.run("dump.sh", {**env, **dump, "POD_UID": "1f0c0000"}).result
    assert result["serverVersion"] == result["toolVersion"]

    external.app_sql("DROP TABLE kept")
    restore = {**dump, "MODE": "Fail", "EXPECTED_SHA256": result["sha256"], "WORK_DIR": str(store)}
    restore |= {
        "RESTORE_UID": "00000000-0000-0000-0000-000000000001",
        "POD_UID": "00000000-0000-0000-0000-000000000002",
    }
    assert pods.run("restore-check.sh", {**env, **restore}).code == 0
    assert pods.run(["restore-target.sh", "restore-load.sh"], {**env, **restore}).result
    assert external.app_sql("SELECT answer FROM kept") == "42"
    ended = subprocess.run([BIN / "psql", "-XAtqwc", "SELECT 1"], env={**env, "PGSSLMODE": "disable"}, check=False)
    assert ended.returncode, "the server did take TLS only"


@pytest.mark.parametrize("right", [True, False])
def test_replace_proves_the_server_to_the_superuser_too(
    pods: Pods, external: TestDatabase, tls: Tls, store: Path, right: bool
) -> None:
    superuser = {"PGDATABASE": "postgres", "PGUSER": "postgres", "PGPASSWORD": SUPERUSER_PASSWORD}
    env = login(external, "verify-full", tls.ca if right else tls.other_ca, **superuser)
    env |= {"TARGET_DATABASE": "app", "TARGET_OWNER": "app", "SCRATCH_PREFIX": "app_restore", "WORK_DIR": str(store)}
    env |= {"RESTORE_UID": "00000000-0000-0000-0000-000000000003", "POD_UID": "00000000-0000-0000-0000-000000000004"}
    outcome = pods.run("restore-prepare.sh", env)
    assert outcome.code == (0 if right else 1)
    assert right or outcome.reason == "TlsFailed"
    assert ("app_restore_00000000" in external.server.databases()) is right
