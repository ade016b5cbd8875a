# What restore-load.sh does in the target itself, which is all around the dump for MODE Fail and Clean; put before it.

# Where the target itself keeps which Restores were committed.
readonly CREATE_MARKERS='CREATE SCHEMA IF NOT EXISTS postgres_operator;
    CREATE TABLE postgres_operator.restores (restore_uid uuid PRIMARY KEY, location text NOT NULL, finished_at timestamptz NOT NULL);'

# The transaction in the target, until all is ready for the dump.
begin_in_target() {
    ask <<SQL || broken RestoreFailed "Cannot begin"
-- Read committed: what is read after the wait for the lock must be what another pod has committed meanwhile.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
\set AUTOCOMMIT off
SELECT pg_advisory_xact_lock(hashtext('postgres_operator')) \g /dev/null
SELECT to_regclass('postgres_operator.restores') IS NULL AS first \gset
\if :first
    $CREATE_MARKERS
\endif
SELECT 'restored' FROM postgres_operator.restores WHERE restore_uid = :'uid';
-- Until this is emptied at the very end, no COMMIT succeeds: not even one inside the dump.
CREATE TEMPORARY TABLE incomplete (row integer, CONSTRAINT dump_is_incomplete UNIQUE (row) DEFERRABLE INITIALLY DEFERRED);
INSERT INTO incomplete VALUES (1), (1);
SQL
    if [[ $answer == restored ]]; then
        log "This Restore has been committed already."
        finished true
    fi
    ask <<'SQL' || broken RestoreFailed "Cannot see what is in the database"
-- What people made: every object that no extension owns and that is no part of another object. Not what is ours,
-- default privileges (settings rather than data), user mappings and labels (they go with server and type), schemas of
-- extensions.
CREATE FUNCTION pg_temp.objects(OUT classid oid, OUT objid oid, OUT type text, OUT identity text) RETURNS SETOF record
LANGUAGE plpgsql AS $objects$
DECLARE
    catalog oid;
BEGIN
    FOR catalog IN
        SELECT c.oid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'oid'
        WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r'
            AND (NOT c.relisshared OR c.oid = 'pg_subscription'::regclass)
            AND c.relname NOT IN ('pg_extension', 'pg_default_acl', 'pg_user_mapping', 'pg_enum')
    LOOP
        RETURN QUERY EXECUTE format($query$
            WITH made AS MATERIALIZED (
                SELECT o.oid FROM %2$s o
                WHERE %3$s AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = %1$s AND d.objid = o.oid AND d.objsubid = 0 AND d.deptype IN ('a', 'i', 'P', 'S', 'e'))
            )
            SELECT %1$s::oid, oid, i.type, i.identity FROM made, pg_identify_object(%1$s, oid, 0) i
            WHERE i.identity IS NOT NULL AND i.schema IS DISTINCT FROM 'postgres_operator'
                AND concat(i.schema, i.name) !~ '^pg_(toast|temp)'
            $query$, CASE catalog WHEN 'pg_largeobject_metadata'::regclass THEN 'pg_largeobject'::regclass::oid ELSE catalog END,
            catalog::regclass, CASE catalog
                WHEN 'pg_largeobject_metadata'::regclass THEN 'true' -- may have any number
                WHEN 'pg_subscription'::regclass THEN
                    'o.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())'
                WHEN 'pg_namespace'::regclass THEN
                    $$o.oid >= 16384 AND o.nspname NOT IN ('public', 'postgres_operator') AND NOT EXISTS (
                        SELECT FROM pg_depend d JOIN pg_depend e USING (classid, objid)
                        WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = o.oid
                            AND (d.classid = 'pg_extension'::regclass OR e.deptype = 'e'))$$
                ELSE 'o.oid >= 16384' -- lower ones come with the server
            END);
    END LOOP;
END
$objects$;
CREATE FUNCTION pg_temp.some_objects() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(type || ' ' || identity, ', ' ORDER BY n) FILTER (WHERE n <= 3)
        || CASE WHEN count(*) > 3 THEN format(' and %s more', count(*) - 3) ELSE '' END
    FROM (SELECT *, row_number() OVER (ORDER BY type <> 'table', type, identity) AS n FROM pg_temp.objects()) o
$$;
SELECT pg_temp.some_objects();
SQL
}

# Drops all of it, in the same transaction. Each entry of the dump takes a lock or so while it is loaded.
clean() {
    local doomed capacity dumped
    ask <<'SQL' || broken CleanFailed "Cannot count what is in the database"
WITH RECURSIVE doomed AS (
    SELECT classid, objid FROM pg_temp.objects()
    UNION
    SELECT d.classid, d.objid FROM doomed o JOIN pg_depend d ON d.refclassid = o.classid AND d.refobjid = o.objid
    WHERE d.deptype <> 'e'
)
SELECT count(*), current_setting('max_locks_per_transaction')::bigint
    * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint) FROM doomed;
SQL
    doomed=${answer%|*} capacity=${answer#*|}
    dumped=$(<"$WORK_DIR/entries")
    log "Dropping $doomed objects; the dump has $dumped entries"
    ((doomed + dumped <= capacity * 9 / 10)) ||
        fail TooManyObjects "One transaction cannot drop $doomed objects and create the dump's $dumped: the server has room for $capacity locks. Restore with spec.mode Replace, or raise max_locks_per_transaction. $untouched"
    ask <<'SQL' || broken CleanFailed "Cannot empty the database"
SELECT set_config('lock_timeout', :'patience', true) \g /dev/null
DO $$
DECLARE
    o record;
BEGIN
    FOR o IN SELECT * FROM pg_temp.objects() LOOP
        IF o.type = 'large object' THEN
            PERFORM lo_unlink(o.objid);
        ELSE
            EXECUTE format('DROP %s IF EXISTS %s CASCADE', CASE
                WHEN o.type IN ('function', 'procedure', 'aggregate') THEN 'ROUTINE'
                WHEN o.type = 'foreign-data wrapper' THEN 'FOREIGN DATA WRAPPER'
                WHEN o.type = 'statistics object' THEN 'STATISTICS'
                ELSE o.type END, o.identity);
        END IF;
    END LOOP;
END
$$;
SET LOCAL lock_timeout = 0;
SELECT pg_temp.some_objects();
SQL
    [[ -z $answer ]] || fail CleanFailed "Cannot empty the database: this stays: $answer. Drop it by hand, or use spec.mode Replace. $untouched"
}

# settle: the session ended around its COMMIT. Only a new one can tell, when no other is at it any more, which came first.
settle() {
    local deadline=$((SECONDS + 60))
    until run psql -XAtqw -v ON_ERROR_STOP=1 -v uid="$RESTORE_UID" >"$scratch/marker" 2>"$scratch/connect" <<'SQL'; do
SET lock_timeout = '60s';
SELECT pg_advisory_lock(hashtext('postgres_operator')) \g /dev/null
SELECT to_regclass('postgres_operator.restores') IS NULL AS first \gset
\if :first
\else
    SELECT 'restored' FROM postgres_operator.restores WHERE restore_uid = :'uid';
\endif
SQL
        ((SECONDS < deadline)) ||
            fail RestoreFailed "The connection was lost at the COMMIT, and $PGHOST:$PGPORT does not say whether database $PGDATABASE is restored: $(masked "$scratch/connect"). It is if table postgres_operator.restores in it lists $RESTORE_UID; else it is as it was."
        run sleep 1
    done
    [[ -s $scratch/marker ]] || broken RestoreFailed "The dump cannot be loaded"
}

finished() {
    local result="{\"location\": $(json_string "$ARTIFACT_PATH"), \"serverVersion\": \"$server_version\", \"toolVersion\": \"$(tool_version pg_restore)\", \"alreadyRestored\": $1"
    [[ -z $globals ]] || result+=", \"globals\": \"$globals\""
    report "$result}"
    exit 0
}

