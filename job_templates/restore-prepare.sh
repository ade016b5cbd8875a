# Makes an empty database beside the target, like it in all that cannot be changed later, for restore-load to fill.
# Runs as the superuser in database "postgres", where a table records which databases are ours to drop.

fresh="${SCRATCH_PREFIX}_${POD_UID:0:8}"
discard=
export PGOPTIONS="$UNDISTURBED -c lc_messages=C"

# sql: runs the SQL of its standard input and prints the answer.
sql() {
    run psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse -v SHOW_CONTEXT=never -v uid="$RESTORE_UID" -v pod="$POD_UID" \
        -v target="$TARGET_DATABASE" -v owner="$TARGET_OWNER" -v fresh="$fresh" 2>"$scratch/errors"
}
failed() { fail RestoreFailed "$1: $(masked "$scratch/errors"). Database $TARGET_DATABASE was not changed."; }

cleanup() {
    [[ -z $discard ]] || sql <<'SQL' || log "Database $fresh is left behind: $(masked "$scratch/errors")"
SET statement_timeout = '60s';
DROP DATABASE IF EXISTS :"fresh" WITH (FORCE);
SQL
}

# Leftovers are recorded, of this target and of a Restore that never finished; a second pod of this one may be using its
# own. DROP waits five seconds for sessions to end; one that stays keeps its database, until the next Restore.
drop_leftovers() {
    sql <<'SQL' | while IFS= read -r line; do log "$line"; done || true
\set ON_ERROR_STOP off
CREATE TEMPORARY VIEW leftover AS
    SELECT r.scratch FROM postgres_operator.restores r JOIN pg_database d ON d.datname = r.scratch
    WHERE r.target = :'target' AND r.finished_at IS NULL AND (r.restore_uid <> :'uid' OR r.pod_uid = :'pod');
SELECT format('Dropping %s, which a Restore that was stopped left behind', scratch) FROM leftover;
SELECT format('DROP DATABASE IF EXISTS %I', scratch) FROM leftover \gexec
SELECT format('%s is in use: it is left to the next Restore', scratch) FROM leftover;
SQL
    sql <<'SQL' || failed "Cannot tidy up table postgres_operator.restores"
DELETE FROM postgres_operator.restores
WHERE target = :'target' AND finished_at IS NULL AND restore_uid <> :'uid' AND scratch NOT IN (SELECT datname FROM pg_database);
SQL
}

# The statements for the extensions that the owner could not create when the dump is loaded, as the target has them.
privileged_extensions() {
    PGDATABASE=$TARGET_DATABASE sql <<'SQL'
SELECT concat(
    CASE WHEN n.nspname <> 'public' AND n.nspname NOT LIKE 'pg\_%'
        THEN format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION %I; ', n.nspname, pg_get_userbyid(n.nspowner)) END,
    -- The dump grants them too, but its role may not: then PostgreSQL only warns where they are there already.
    (SELECT string_agg(format('GRANT %s ON SCHEMA %I TO %s; ', privilege_type, n.nspname,
                              CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END), '')
     FROM aclexplode(n.nspacl) WHERE n.nspname <> 'public' AND n.nspname NOT LIKE 'pg\_%'),
    format('CREATE EXTENSION IF NOT EXISTS %I SCHEMA %I', e.extname, n.nspname),
    -- What was upgraded may have a version that can no longer be installed directly: then it is the default one.
    CASE WHEN v.version IS NOT NULL THEN format(' VERSION %L', v.version) END, ' CASCADE;')
FROM pg_extension e
JOIN pg_namespace n ON n.oid = e.extnamespace
LEFT JOIN pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion
WHERE e.oid >= 16384 AND (v.superuser AND NOT v.trusted) IS NOT FALSE
ORDER BY e.oid;
SQL
}

connect 20
state=$(
    sql <<'SQL'
BEGIN;
SELECT pg_advisory_xact_lock(hashtext('postgres_operator')) \g /dev/null
CREATE SCHEMA IF NOT EXISTS postgres_operator;
CREATE TABLE IF NOT EXISTS postgres_operator.restores (
    restore_uid uuid, pod_uid uuid, target text NOT NULL, scratch text NOT NULL, previous text, finished_at timestamptz,
    PRIMARY KEY (restore_uid, pod_uid)
);
COMMIT;
SELECT CASE
    WHEN EXISTS (SELECT FROM postgres_operator.restores WHERE restore_uid = :'uid' AND finished_at IS NOT NULL) THEN 'finished'
    WHEN NOT EXISTS (SELECT FROM pg_database WHERE datname = :'target') THEN 'missing'
    -- What is not recorded is not ours. Never record it, or it would be dropped as a leftover.
    WHEN EXISTS (SELECT FROM pg_database WHERE datname = :'fresh')
        AND NOT EXISTS (SELECT FROM postgres_operator.restores WHERE scratch = :'fresh' AND pod_uid = :'pod') THEN 'taken'
END;
SQL
) || failed "Cannot record this Restore in database $PGDATABASE"
case $state in
finished)
    log "Another pod has finished this Restore already."
    touch "$WORK_DIR/finished"
    exit 0
    ;;
missing) fail DatabaseMissing "There is no database \"$TARGET_DATABASE\" on $PGHOST:$PGPORT to replace." ;;
taken) fail RestoreFailed "There is a database \"$fresh\" already, which is not ours: rename or drop it." ;;
esac
drop_leftovers

log "Creating database $fresh like $TARGET_DATABASE"
discard=yes
sql <<'SQL' || failed "Cannot create database $fresh"
INSERT INTO postgres_operator.restores (restore_uid, pod_uid, target, scratch) VALUES (:'uid', :'pod', :'target', :'fresh')
ON CONFLICT DO NOTHING;
-- As JSON, columns that only some versions of PostgreSQL have are NULL in the others.
-- Without connections, but for superusers: nobody is to meddle with the extensions' scripts.
SELECT format('CREATE DATABASE %I TEMPLATE template0 CONNECTION LIMIT 0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L TABLESPACE %I',
              :'fresh', :'owner', pg_encoding_to_char(encoding), datcollate, datctype, spcname)
    || CASE d ->> 'datlocprovider'
           WHEN 'c' THEN ' LOCALE_PROVIDER libc'
           WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', coalesce(d ->> 'datlocale', d ->> 'daticulocale'))
           WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', d ->> 'datlocale')
           ELSE '' END
    || CASE WHEN d ->> 'daticurules' IS NULL THEN '' ELSE format(' ICU_RULES %L', d ->> 'daticurules') END
FROM pg_database JOIN pg_tablespace ON pg_tablespace.oid = dattablespace, to_jsonb(pg_database) AS d
WHERE datname = :'target' \gexec
SQL
privileged_extensions >"$scratch/extensions" || failed "Cannot list the extensions of database $TARGET_DATABASE"
PGDATABASE=$fresh sql <"$scratch/extensions" >/dev/null || failed "Cannot create the target's extensions in database $fresh"
sql <<<'ALTER DATABASE :"fresh" CONNECTION LIMIT -1' || failed "Cannot open database $fresh"
printf '%s' "$fresh" >"$WORK_DIR/scratch"
discard=
log "Database $fresh is ready, with $(grep -c 'CREATE EXTENSION' "$scratch/extensions" || true) extensions that need a superuser"
