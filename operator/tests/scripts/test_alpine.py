"""With the tools of an Alpine image of postgres, which are busybox's: a backup, its verification, its restore."""

from pathlib import Path

import pytest
import verifying
from object_store import busybox_tools
from restoring import FILES, STEPS, NewDatabase, Restore, back_up, contents, forge
from script_runner import Pods
from test_restore_load import RICH


@pytest.fixture(scope="module")
def tools(base: Path) -> Path:
    """Where they are, and bash."""
    directory = busybox_tools(base / "alpine")
    (directory / "bash").symlink_to("/bin/bash")
    return directory


@pytest.fixture(autouse=True)
def alpine(pods: Pods, tools: Path) -> None:
    """Nothing else is there but PostgreSQL's programs: no openssl either."""
    pods.tools = str(tools)


@pytest.mark.parametrize("kind", FILES)
def test_a_backup_is_verified(pods: Pods, database: NewDatabase, store: Path, kind: str) -> None:
    shop = database()
    shop.app_sql(RICH)
    assert verifying.back_up(pods, store, shop, kind, COMPRESSION="none").run().result


@pytest.mark.parametrize("mode", STEPS)
@pytest.mark.parametrize("kind", FILES)
def test_a_backup_comes_back(pods: Pods, database: NewDatabase, store: Path, kind: str, mode: str) -> None:
    shop = database()
    shop.app_sql(RICH)
    artifact = back_up(pods, store, shop, kind)
    target = database("target") if mode == "Fail" else shop
    assert Restore(pods, store, target, artifact, mode).run().result["alreadyRestored"] is False
    assert contents(target) == contents(shop)


def test_what_was_cut_is_no_backup(pods: Pods, database: NewDatabase, store: Path) -> None:
    """A file of rows in a directory, which pg_restore takes for whole."""
    shop = database()
    shop.app_sql("CREATE TABLE t AS SELECT generate_series(1, 2000)")
    rows = f"{store}/shop/.nightly-directory.pod-of-the-backup.partial/dump.dir/[0-9]*.dat"
    pods.shim("pg_dump", f'[ "$1" = --version ] && exec "$REAL" "$@"; "$REAL" "$@"; sed -i \'1000,$d\' {rows}')
    with pytest.raises(AssertionError, match="end of a table's data"):
        back_up(pods, store, shop, "directory", COMPRESSION="none")


@pytest.mark.parametrize("rest", [20_000, 100_000, 300_000])
def test_why_a_dump_cannot_be_loaded(pods: Pods, database: NewDatabase, store: Path, rest: int) -> None:
    """sed cannot pass on what comes after that."""
    artifact = forge(
        store, b"SELECT 1/0;\n" + b"-- more\n" * (rest // 8) + b"\n--\n-- PostgreSQL database dump complete\n--\n"
    )
    outcome = Restore(pods, store, database(), artifact).run()
    assert (outcome.reason, "division by zero" in outcome.message) == ("RestoreFailed", True), outcome.message
