"""restore-load.sh, in the target itself: modes Fail and Clean."""

from pathlib import Path

import pytest
from restoring import NewDatabase, Restore, back_up, contents
from script_runner import Pods


RICH = '''
CREATE TABLE item (id serial PRIMARY KEY, note text, "wei""rd Größe" int UNIQUE);
INSERT INTO item (note) VALUES ('x'), (E'COMMIT;\\nBEGIN;'), ('COMMIT;'), (E'\\\\.');
CREATE TABLE line (t text); INSERT INTO line VALUES ('COMMIT;'), ('BEGIN;'), ('-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -'), ('COMMIT;');
CREATE SCHEMA "Übel ""x""";
CREATE TABLE "Übel ""x"""."a b" (id int REFERENCES item);
CREATE TYPE mood AS ENUM ('ok', 'bad'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE PROCEDURE later() LANGUAGE plpgsql AS $$
BEGIN
COMMIT;
END $$;
CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int);
CREATE VIEW v AS SELECT twice(id) FROM item; CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM item;
CREATE OPERATOR public.=== (leftarg = int, rightarg = int, function = int4pl);
CREATE COLLATION german FROM "C";
CREATE STATISTICS st ON id, note FROM item;
CREATE TEXT SEARCH CONFIGURATION ts (COPY = simple);
CREATE SEQUENCE lonely;
CREATE TABLE part (d int) PARTITION BY RANGE (d); CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (9);
INSERT INTO part VALUES (3);
SELECT lo_from_bytea(7, 'large'), lo_from_bytea(0, 'object');
'''


@pytest.mark.parametrize("kind", ["custom", "plain"])
def test_into_an_empty_database(pods: Pods, database: NewDatabase, store: Path, kind: str) -> None:
    source, target = database("source"), database('Ziel "ä" b\'c')
    source.app_sql(RICH)
    restore = Restore(pods, store, target, back_up(pods, store, source, kind))
    outcome = restore.run()
    assert outcome.result["alreadyRestored"] is False
    assert contents(target) == contents(source)
