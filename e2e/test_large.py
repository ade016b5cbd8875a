"""A third of a gibibyte there and back, or as much as is asked for, row for row, in namespaces that do not touch each other."""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from e2e import kit
from e2e.support import fresh_namespace, kubectl, psql

if TYPE_CHECKING:
    from collections.abc import Callable

DATABASE = 'Größe "XL" ☃'
# Rows of about 1 KB that compress badly: the dump is to be as large as the data.
ROWS = """
CREATE SCHEMA "Lager-Süd";
CREATE TABLE "Lager-Süd"."Artikel 'neu'" (
  id bigserial PRIMARY KEY, "näme" text NOT NULL, body bytea NOT NULL, at timestamptz NOT NULL DEFAULT now(),
  parent bigint REFERENCES "Lager-Süd"."Artikel 'neu'", CHECK (octet_length(body) > 100));
INSERT INTO "Lager-Süd"."Artikel 'neu'" ("näme", body, at, parent)
SELECT E'it''s\\n"' || n || E'"\\t\\\\ü☃', string_agg(sha512((n || ':' || m || random())::bytea), ''), now() - n * interval '1 s',
  CASE WHEN n > 1 THEN n - 1 END
FROM generate_series(1, {rows}) n, generate_series(1, 15) m GROUP BY n ORDER BY n;
CREATE INDEX ON "Lager-Süd"."Artikel 'neu'" ("näme");
CREATE TABLE parts (id int, n int, PRIMARY KEY (id, n)) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (50000);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (50000) TO (100000);
INSERT INTO parts SELECT n, n % 7 FROM generate_series(1, 99999) n;
CREATE SEQUENCE lonely START 77 INCREMENT 3; SELECT nextval('lonely');
SELECT count(lo_from_bytea(0, decode(repeat(md5(n::text), 200), 'hex'))) FROM generate_series(1, 500) n;
"""
ROWS_OF_A_GIBIBYTE = 1_120_000
COUNT = int(os.environ.get("E2E_LARGE_ROWS", str(ROWS_OF_A_GIBIBYTE // 3)))


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("version", [15, 18])
def test_all_of_it_there_and_back(version: int, show: Callable[[str], None]) -> None:
    took: dict[str, float] = {}

    def timed(what: str, begin: float) -> None:
        took[what] = time.monotonic() - begin

    with fresh_namespace(f"large-{version}-{secrets.token_hex(3)}") as namespace:
        kit.ready_database(namespace, version=version, databaseName=DATABASE, username="büro", storage={"size": "9Gi"})
        begin = time.monotonic()
        kubectl(
            "exec", "-i", "shop-0", "-n", namespace, "--", "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-U", "büro", "-d", DATABASE,
            stdin=ROWS.format(rows=COUNT), timeout=900,
        )  # fmt: skip
        timed("load", begin)
        before = kit.fingerprint(namespace, dbname=DATABASE, user="büro")

        begin = time.monotonic()
        name = kit.start_backup(namespace)
        backup = kit.completed("backup", name, namespace, deadline=900)
        timed("backup", begin)
        assert backup["sizeBytes"] >= 2**30 * COUNT // ROWS_OF_A_GIBIBYTE, backup["sizeBytes"]

        psql(namespace, "shop-0", 'DELETE FROM parts; DROP SCHEMA "Lager-Süd" CASCADE', dbname=DATABASE)
        begin = time.monotonic()
        status = kit.restore(namespace, deadline=900, backupRef={"name": name}, mode="Replace", keepPrevious=False)
        timed("restore", begin)
        assert status["serverVersion"].startswith(str(version))
        assert kit.fingerprint(namespace, dbname=DATABASE, user="büro") == before
    mib = backup["sizeBytes"] / 2**20
    show(
        f"PostgreSQL {version}: {mib:.0f} MiB, load {took['load']:.0f} s, backup {took['backup']:.0f} s"
        f" ({mib / took['backup']:.0f} MiB/s), restore {took['restore']:.0f} s, all checksums equal"
    )


@pytest.mark.usefixtures("operator")
def test_two_namespaces_with_equal_names_do_not_touch_each_other() -> None:
    with fresh_namespace(f"twin-{secrets.token_hex(3)}") as one, fresh_namespace(f"twin-{secrets.token_hex(3)}") as two:
        twins = (one, two)
        for namespace in twins:
            kit.create_database(namespace)
        for namespace in twins:
            kit.wait_ready(namespace)
            kit.sql(namespace, f"CREATE TABLE whose AS SELECT '{namespace}' AS name")
        for namespace in twins:
            kit.start_backup(namespace, "same")
        locations = [kit.completed("backup", "same", namespace)["backupLocation"] for namespace in twins]
        assert locations[0] != locations[1]
        for namespace in twins:
            kit.sql(namespace, "UPDATE whose SET name = 'damaged'")
        for namespace in twins:
            kit.start_restore(namespace, "same", backupRef={"name": "same"}, mode="Replace")
        for namespace in twins:
            kit.completed("restore", "same", namespace)
            assert kit.sql(namespace, "SELECT name FROM whose") == namespace
