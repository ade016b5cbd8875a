"""The server's roles, kept beside a dump: globals.sh."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import ObjectStore
from restoring import Restore, back_up
from script_runner import BIN, Pods, Server, TestDatabase, literal, new_databases
from streaming import FINAL, MANIFEST, StreamPod

from postgres_operator.api.backup import Manifest

NewPod = Callable[..., StreamPod]
# Settings that look like statements, and names that look like literals: none of them may be taken for what it is not.
LOOKALIKE = "x\nALTER ROLE postgres NOLOGIN;\n-- 'y'\nCREATE ROLE postgres;\nALTER ROLE postgres '"
ROLES = f"""
CREATE ROLE "it's ""q"" -- \\ É" LOGIN PASSWORD 'geheim-1' VALID UNTIL '2031-01-01';
CREATE ROLE readers NOLOGIN; GRANT readers TO "it's ""q"" -- \\ É" WITH ADMIN OPTION;
CREATE ROLE other SUPERUSER PASSWORD 'geheim-2';
ALTER ROLE readers SET my.setting = {literal(LOOKALIKE)};
ALTER ROLE readers SET work_mem = '5MB';
COMMENT ON ROLE readers IS {literal(LOOKALIKE)};
ALTER ROLE postgres SET my.setting = {literal(LOOKALIKE)};
ALTER ROLE shop SET quote_all_identifiers = on;
"""
SEEN = """
SELECT r.rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolvaliduntil, setconfig,
    shobj_description(r.oid, 'pg_authid'), ARRAY(SELECT (m.rolname, admin_option)::text FROM pg_auth_members
        JOIN pg_roles m ON m.oid = member WHERE roleid = r.oid ORDER BY 1)
FROM pg_roles r LEFT JOIN pg_db_role_setting s ON setrole = r.oid AND setdatabase = 0
WHERE r.oid >= 16384 ORDER BY 1
"""


@pytest.fixture(scope="module")
def shop(server: Server) -> Iterator[TestDatabase]:
    """A database on a server with roles."""
    with new_databases(server) as create:
        db = create("shop")
        db.app_sql("CREATE TABLE t AS SELECT 1 AS id")
        db.sql(ROLES)
        yield db
        db.sql("ALTER ROLE postgres RESET ALL")


@pytest.fixture
def pod(pods: Pods, s3: ObjectStore, uploader: Path, shop: TestDatabase) -> NewPod:
    """pod(**values): a pod of a Backup that keeps the roles in an object store."""

    def new(**values: Any) -> StreamPod:
        return StreamPod(pods, s3, uploader, shop, "backup.yaml.j2", {"include_globals": True, **values})

    return new


def _named(manifest: Any, content: bytes, file: str = "globals.sql") -> bool:
    assert Manifest.model_validate(manifest).globals
    assert list(manifest)[-2:] == ["globals", "source"]
    return bool(manifest["globals"] == {"file": file, "sha256": hashlib.sha256(content).hexdigest()})


def test_the_roles_come_back_without_passwords_and_the_superuser_stays_as_it_is(
    pods: Pods, shop: TestDatabase, store: Path
) -> None:
    server = shop.server
    path = back_up(pods, store, shop, GLOBALS="globals.sql")
    content = (store / path / "globals.sql").read_bytes()
    assert _named(json.loads((store / path / "manifest.json").read_text()), content)
    assert b"geheim" not in content
    assert b"SCRAM-SHA" not in content
    assert b"PASSWORD" not in content
    before = server.sql(SEEN)
    assert "5MB" in before
    server.sql('DROP OWNED BY readers; DROP ROLE readers; ALTER ROLE "it\'s ""q"" -- \\ É" NOLOGIN; DROP ROLE other')
    server.sql("ALTER ROLE postgres SET work_mem = '7MB'; ALTER ROLE postgres RESET my.setting")
    login = server.env()
    command = [BIN / "psql", "-Xqf", store / path / "globals.sql"]
    done = subprocess.run(command, env=login, capture_output=True, text=True, check=True)
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
    assert all(line.endswith("already exists") for line in errors), errors
    assert server.sql(SEEN) == before
    assert server.sql("SELECT setconfig FROM pg_db_role_setting WHERE setrole = 10") == "{work_mem=7MB}"
    assert server.sql("SELECT rolcanlogin, rolsuper FROM pg_roles WHERE oid = 10") == "t|t"
    # who had a password has it still
    assert server.sql("SELECT 1", "shop", user="shop", password=shop.env["PGPASSWORD"]) == "1"


@pytest.mark.parametrize("mode", ["Clean", "Replace"])
def test_a_restore_says_that_they_are_there_and_leaves_them_alone(
    pods: Pods, shop: TestDatabase, store: Path, mode: str
) -> None:
    path = back_up(pods, store, shop, "plain", GLOBALS="globals.sql")
    (store / path / "globals.sql").unlink()
    assert Restore(pods, store, shop, path, mode).run().result["globals"] == "globals.sql"
    assert f"The roles of the server are in {path}/globals.sql; they are not restored" in pods.started[1].log


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param('echo "pg_dumpall: error: query failed: ERROR:  permission denied for table pg_x" >&2; exit 1',
                     "permission denied for table pg_x", id="an error"),
        pytest.param('"$REAL" "$@" | head -n 20', "the end of what it wrote is missing", id="cut"),
        pytest.param("kill -KILL $$", "ended without a message", id="killed"),
    ],
)  # fmt: skip
def test_without_the_roles_there_is_no_backup(
    pods: Pods, shop: TestDatabase, store: Path, text: str, words: str
) -> None:
    pods.shim("pg_dumpall", text)
    with pytest.raises(AssertionError):
        back_up(pods, store, shop, GLOBALS="globals.sql")
    report = json.loads((pods.started[-1].directory / "termination-log").read_text())
    assert report["error"]["reason"] == "DumpFailed"
    assert words in report["error"]["message"]
    assert list((store / "shop").iterdir()) == []


def test_the_roles_are_uploaded_before_the_manifest(pod: NewPod, s3: ObjectStore) -> None:
    one = pod()
    manifest = one.run().result
    roles = f"{FINAL}/globals-{one.uid}.sql"
    assert set(s3.objects()) == {one.file, roles, MANIFEST}
    assert _named(manifest, s3.get(roles), f"globals-{one.uid}.sql")
    second = pod()
    assert second.run().result == manifest
    assert set(s3.objects()) == {one.file, roles, MANIFEST}


def test_roles_that_cannot_be_uploaded_leave_nothing(pod: NewPod, s3: ObjectStore, place: Path) -> None:
    one = pod()
    shim = place / "no-roles" / "rclone"
    shim.parent.mkdir()
    shim.write_text(
        f'#!/bin/sh\ncase $1:$3 in copyto:*/globals) {one.uploader}/rclone "$@"; '
        f'echo "AccessDenied" >&2; exit 1 ;; esac\nexec {one.uploader}/rclone "$@"\n'
    )
    shim.chmod(0o755)
    one.uploader = Path(f"{shim.parent}:{one.uploader}")
    outcome = one.run()
    assert outcome.reason == "UploadFailed"
    assert "Cannot upload the roles to" in outcome.message
    assert s3.objects() == {}


def test_too_many_roles_for_a_stream_are_refused(pods: Pods, pod: NewPod, s3: ObjectStore) -> None:
    pods.shim("pg_dumpall", '"$REAL" "$@"; head -c 9000000 /dev/zero | tr "\\0" " "; echo; "$REAL" "$@"')
    outcome = pod().run()
    assert outcome.reason == "DumpFailed"
    assert "without spec.includeGlobals, or into a volume" in outcome.message
    assert s3.objects() == {}
