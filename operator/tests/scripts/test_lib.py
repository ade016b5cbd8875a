import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from script_runner import APP_PASSWORD, Pods, Server, TestDatabase, literal, until

NewDatabase = Callable[..., TestDatabase]


# --- outcomes


def test_report_and_log(pods: Pods) -> None:
    outcome = pods.run([], {}, 'log "one step"; report \'{"sizeBytes": 1}\'')
    assert outcome.result == {"sizeBytes": 1}
    assert outcome.log.endswith(" one step\n")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('a "b" \\n c\\', 'a "b" \\n c\\'),
        ("two\nlines\tand\x1b[31m colour", "two lines and [31m colour"),
        ("Größe €", "Größe €"),
        ("", ""),
    ],
)
def test_messages_are_json_whatever_they_contain(pods: Pods, message: str, expected: str) -> None:
    outcome = pods.run([], {"MESSAGE": message}, 'fail DumpFailed "$MESSAGE"')
    assert (outcome.code, outcome.reason, outcome.message) == (1, "DumpFailed", expected)


@pytest.mark.parametrize("character", ["\\", "ä", "€", "😀"])
@pytest.mark.parametrize("offset", range(4))
def test_a_long_message_is_cut_between_characters(pods: Pods, character: str, offset: int) -> None:
    text = "x" * offset + character * 3000
    message = pods.run([], {"MESSAGE": text[:30000]}, 'fail DumpFailed "$MESSAGE"').message
    assert message.endswith("…")
    assert text.startswith(message.removesuffix("…"))
    assert len(message.encode()) > 1480


def test_the_first_failure_counts_also_from_a_subshell(pods: Pods) -> None:
    outcome = pods.run([], {}, 'text=$(fail VolumeFull "the cause") || fail DumpFailed "what it led to"')
    assert (outcome.reason, outcome.message) == ("VolumeFull", "the cause")


@pytest.mark.parametrize(
    "text",
    ["false", "f() { false; log 'not reached'; }; f", 'log "$MISSING"', "x=$(false); log 'not reached'", "run false"],
)
def test_what_no_script_expects_is_an_internal_error(pods: Pods, text: str) -> None:
    outcome = pods.run([], {}, text)
    assert outcome.reason == "InternalError"
    assert "not reached" not in outcome.log


def test_an_internal_error_names_the_command_but_not_its_values(pods: Pods) -> None:
    outcome = pods.run([], {"VALUE": APP_PASSWORD}, 'grep "$VALUE" </dev/null')
    assert outcome.message.endswith('at: grep "$VALUE" < /dev/null')


def test_a_container_without_room_says_so(pods: Pods) -> None:
    outcome = pods.run([], {"TMPDIR": "/nowhere"}, "true")
    assert (outcome.reason, "room?" in outcome.message) == ("InternalError", True)


# --- signals


def test_sigterm_ends_children_and_cleans_up_at_once(pods: Pods) -> None:
    text = 'cleanup() { log "children: $(jobs -p)"; }\nrun sleep 1000\nlog "not reached"'
    script = pods.start([], {}, text)
    script.child("sleep")
    script.terminate()
    outcome = script.wait(5)
    assert outcome.code == 143
    assert outcome.report == {}  # Kubernetes knows why the pod had to end
    assert "children: \n" in outcome.log
    assert "not reached" not in outcome.log
    assert not script.descendants()
    assert not list((script.directory / "tmp").iterdir())


def test_run_passes_standard_input_and_exit_codes(pods: Pods) -> None:
    outcome = pods.run([], {}, "run sed s/a/b/ <<<aaa; status=0; run bash -c 'exit 7' || status=$?; report $status")
    assert outcome.code == 0
    assert "baa\n" in outcome.log
    assert outcome.report == {"result": 7}


# --- connections


def test_connect_tells_the_server_version(pods: Pods, database: NewDatabase) -> None:
    db = database('Käufe & "Co"\'s')
    outcome = pods.run([], db.env, 'connect 5; report "{\\"v\\": \\"$server_version\\"}"')
    assert outcome.result["v"] == db.sql("SHOW server_version").split(" ", maxsplit=1)[0]


def test_a_connection_on_which_nothing_is_said_is_not_forgotten(pods: Pods, database: NewDatabase) -> None:
    """Also through TCP: routers forget it after minutes."""
    ask = "run psql -XAtqc 'SHOW tcp_keepalives_idle; SHOW tcp_keepalives_interval' >$scratch/a; "
    more = f"export PGOPTIONS=$UNDISTURBED; connect 5; {ask}" + 'report "$(json_string "$(<$scratch/a)")"'
    assert pods.run([], database().env, more).report == {"result": "60 10"}


@pytest.mark.parametrize("exported", [True, False])
def test_a_server_that_cannot_check_its_clients(pods: Pods, database: NewDatabase, exported: bool) -> None:
    """For want of the system's help, or since it is older than that setting."""
    setting = "client_connection_check_interval"
    message = f'FATAL:  invalid value for parameter "{setting}": 1000'
    pods.shim(
        "psql",
        f"if [[ ${{PGOPTIONS:-}} == *{setting}* ]]; then echo 'psql: error: {message}' >&2; exit 2; fi\n"
        + ("" if exported else "[[ $* != *version* ]] || { echo 13.22; exit; }\n")
        + 'exec "$REAL" "$@"',
    )
    more = "export PGOPTIONS=$UNDISTURBED; " if exported else ""
    more += "connect 0; PGOPTIONS=$UNDISTURBED run psql -XAtqc 'SELECT 7' >&2; report '{}'"
    assert pods.run([], database().env, more).result == {}


def _connect(pods: Pods, env: dict[str, str]) -> tuple[str, str]:
    outcome = pods.run([], env, "connect 0")
    return outcome.reason, outcome.message


def test_wrong_password(pods: Pods, database: NewDatabase) -> None:
    reason, message = _connect(pods, {**database().env, "PGPASSWORD": "geheim-wrong"})
    assert reason == "AuthenticationFailed"
    assert 'password authentication failed for user "app"' in message


def test_no_password(pods: Pods, database: NewDatabase) -> None:
    assert _connect(pods, {**database().env, "PGPASSWORD": ""})[0] == "AuthenticationFailed"


def test_a_database_that_the_role_may_not_use(pods: Pods, database: NewDatabase) -> None:
    db = database()
    db.sql("CREATE ROLE guest LOGIN; REVOKE CONNECT ON DATABASE app FROM PUBLIC")
    db.sql(f"ALTER ROLE guest PASSWORD {literal(APP_PASSWORD)}")
    reason, message = _connect(pods, {**db.env, "PGUSER": "guest"})
    assert reason == "AuthenticationFailed"
    assert 'permission denied for database "app"' in message


def test_a_role_that_may_not_log_in(pods: Pods, database: NewDatabase) -> None:
    db = database()
    db.sql("ALTER ROLE app NOLOGIN")
    assert _connect(pods, db.env)[0] == "AuthenticationFailed"


@pytest.mark.parametrize("name", ["missing", 'mis"sing', "password"])
def test_missing_database(pods: Pods, database: NewDatabase, name: str) -> None:
    reason, message = _connect(pods, {**database().env, "PGDATABASE": name})
    assert reason == "DatabaseMissing"
    assert name.partition('"')[0] in message


def test_nobody_listens(pods: Pods, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    reason, message = _connect(pods, {**server.env(), "PGPORT": str(port)})
    assert reason == "DatabaseUnreachable"
    assert f"127.0.0.1:{port}" in message
    assert "Connection refused" in message


def test_a_host_that_does_not_exist(pods: Pods, server: Server) -> None:
    reason, message = _connect(pods, {**server.env(), "PGHOST": "no-such-host.invalid"})
    assert reason == "DatabaseUnreachable"
    assert 'host name "no-such-host.invalid"' in message


def test_connect_waits_for_a_server_that_is_not_there_yet(pods: Pods, database: NewDatabase) -> None:
    db = database()
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))  # taken, but nobody listens
        script = pods.start([], {**db.env, "PGPORT": str(late.getsockname()[1])}, "connect 20; report '{}'")
        until(lambda: "Not yet" in script.log)
        late.listen()
        threading.Thread(target=_forward, args=(late, db.server.port), daemon=True).start()
        assert script.wait().code == 0


def test_the_wait_is_bounded(pods: Pods, server: Server) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        outcome = pods.run([], {**server.env(), "PGPORT": str(closed.getsockname()[1])}, "connect 2")
    assert outcome.reason == "DatabaseUnreachable"
    assert 1 <= outcome.log.count("Not yet") <= 3


def test_a_wrong_password_is_not_tried_again(pods: Pods, database: NewDatabase) -> None:
    outcome = pods.run([], {**database().env, "PGPASSWORD": "x"}, "connect 1000")
    assert outcome.reason == "AuthenticationFailed"
    assert "Not yet" not in outcome.log


def _forward(listener: socket.socket, port: int) -> None:
    client, _ = listener.accept()
    upstream = socket.create_connection(("127.0.0.1", port))

    def copy(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    threading.Thread(target=copy, args=(client, upstream), daemon=True).start()
    copy(upstream, client)


# --- masked messages


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            'psql:<stdin>:7: ERROR:  invalid input syntax for type integer: "row data"',
            'ERROR:  invalid input syntax for type integer: "…"',
            id="value at the end",
        ),
        pytest.param(
            'ERROR:  value "99999999999" is out of range for type integer',
            'ERROR:  value "…" is out of range for type integer',
            id="value in the middle",
        ),
        pytest.param(
            'ERROR:  invalid input syntax for type json: "{"role": "row data", "x": "y',
            'ERROR:  invalid input syntax for type json: "…"',
            id="value with quotes that ends on the next line",
        ),
        pytest.param(
            'ERROR:  malformed array literal: "role "row data""',
            'ERROR:  malformed array literal: "…"',
            id="value that looks like a name",
        ),
        pytest.param(
            'ERROR:  syntax error at or near "row data" at character 3',
            'ERROR:  syntax error at or near "…"',
            id="token",
        ),
        pytest.param(
            'pg_dump: error: query failed: ERROR:  permission denied for table "Umsätze"',
            'query failed: ERROR:  permission denied for table "Umsätze"',
            id="non-ASCII name",
        ),
        pytest.param(
            'psql:<stdin>:9: ERROR:  new row for relation "orders" violates check constraint "positive"',
            'ERROR:  new row for relation "orders" violates check constraint "positive"',
            id="two names",
        ),
        pytest.param(
            'ERROR:  null value in column "a" of relation "b" violates not-null constraint',
            'ERROR:  null value in column "a" of relation "b" violates not-null constraint',
            id="names and text",
        ),
        pytest.param(
            'ERROR:  invalid value for parameter "search_path": "row data"',
            'ERROR:  invalid value for parameter "search_path": "…"',
            id="name, then value",
        ),
        pytest.param(
            'ERROR:  role name "pg_x" is reserved',
            'ERROR:  role name "pg_x" is reserved',
            id="name of something",
        ),
        pytest.param(
            'psql: error: connection to server at "10.0.0.1", port 5432 failed: FATAL:  role "x y" does not exist',
            'connection to server at "10.0.0.1", port 5432 failed: FATAL:  role "x y" does not exist',
            id="connection",
        ),
        pytest.param(
            "pg_restore: error: could not execute query: FEHLER:  ungültige Eingabe für Typ integer: »row data«",
            "could not execute query: FEHLER:  …",
            id="German",
        ),
        pytest.param(
            "pg_restore: error: could not execute query: FEHLER:  »row data ERROR:  row data«",
            "could not execute query: FEHLER:  …",
            id="German with a value that looks English",
        ),
        pytest.param(
            "psql:<stdin>:7: ERROR:  la sintaxis de entrada no es válida para tipo integer: «row data»",
            'ERROR:  la sintaxis de entrada no es válida para tipo integer: "…"',
            id="Spanish",
        ),
        pytest.param(
            "psql:<stdin>:7: ERROR:  „row data“ at",
            'ERROR:  "…"',
            id="low quotes",
        ),
        pytest.param(
            "psql: error: connection to server failed: FATAL:  role \u2018x\u2019 does not exist",
            'connection to server failed: FATAL:  role "x" does not exist',
            id="curled quotes around a name",
        ),
    ],
)
def test_masked(pods: Pods, place: Path, line: str, expected: str) -> None:
    (place / "errors").write_text(f"NOTICE:  row data\n{line}\nDETAIL:  Key (id)=(row data)\nERROR:  the second\n")
    outcome = pods.run([], {"FILE": str(place / "errors")}, 'report "$(json_string "$(masked "$FILE")")"')
    assert outcome.report == {"result": expected}


def test_masked_says_nothing_without_an_error(pods: Pods, place: Path) -> None:
    (place / "errors").write_text("NOTICE:  all is well\n")
    outcome = pods.run([], {"FILE": str(place / "errors")}, 'report "$(json_string "$(masked "$FILE")")"')
    assert outcome.report == {"result": ""}
