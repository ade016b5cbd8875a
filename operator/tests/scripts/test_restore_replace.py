"""Mode Replace: restore-prepare.sh, restore-load.sh into a database of its own, restore-swap.sh."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from restoring import NewDatabase, Restore, back_up, contents
from script_runner import Pods, Server, TestDatabase, identifier, literal, until


@pytest.fixture
def shop(database: NewDatabase) -> TestDatabase:
    """A database with a weird name, one table and one large object."""
    shop = database('Shöp "x" it\'s')
    shop.app_sql("CREATE TABLE stock AS SELECT 1 AS id; SELECT lo_from_bytea(7, 'large')")
    return shop


@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_the_restored_database_takes_the_place_of_the_old_one(
    pods: Pods, shop: TestDatabase, store: Path, kind: str
) -> None:
    backed_up = contents(shop)
    restore = Restore(pods, store, shop, back_up(pods, store, shop, kind), "Replace")
    shop.app_sql("CREATE TABLE later AS SELECT 2 AS id")
    replaced = contents(shop)
    result = restore.run().result
    assert result == {
        "location": restore.artifact,
        "serverVersion": "15.20",
        "toolVersion": "15.20",
        "alreadyRestored": False,
        "previousDatabase": restore.previous,
    }
    assert contents(shop) == backed_up
    assert contents(TestDatabase(shop.server, restore.previous, shop.owner)) == replaced
    assert restore.scratch not in shop.server.databases()
