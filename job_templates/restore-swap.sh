# Puts the filled database in the target's place: both get their new names in one transaction, in which a marker says
# that this Restore is done. Runs as the superuser in database "postgres". The application may be connected, and may
# reconnect all the time: it finds either the old database or the new one, or has to wait or try again for a moment.

fresh="${SCRATCH_PREFIX}_${POD_UID:0:8}"
discard=yes
untouched="Database $TARGET_DATABASE was not changed."
readonly TRIES="${SWAP_TRIES:-10}"
export PGOPTIONS="$UNDISTURBED -c lc_messages=C -c lock_timeout=30s"

# sql: runs the SQL of its standard input and prints the answer.
sql() {
    run psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=terse -v SHOW_CONTEXT=never -v uid="$RESTORE_UID" -v pod="$POD_UID" \
        -v target="$TARGET_DATABASE" -v fresh="$fresh" -v previous="$PREVIOUS_DATABASE" 2>"$scratch/errors"
}

# By its name, which only what was never swapped in has.
cleanup() {
    [[ -z $discard ]] || sql <<'SQL' || log "Database $fresh is left behind: $(masked "$scratch/errors")"
SET statement_timeout = '60s';
DROP DATABASE IF EXISTS :"fresh" WITH (FORCE);
SQL
}

# Sets winner: the UID of the pod that finished this Restore; empty when it is still to be done.
read_winner() {
    local deadline=$((SECONDS + 60))
    until sql >"$scratch/winner" <<'SQL'; do
SELECT pg_advisory_lock(hashtext('postgres_operator')) \g /dev/null
SELECT pod_uid FROM postgres_operator.restores WHERE restore_uid = :'uid' AND finished_at IS NOT NULL;
SQL
        ((SECONDS < deadline)) || fail RestoreFailed "$PGHOST:$PGPORT does not say whether the databases were swapped: $(masked "$scratch/errors"). They were if there is a database \"$PREVIOUS_DATABASE\"."
        run sleep 1
    done
    winner=$(<"$scratch/winner")
}

# RENAME holds off new sessions and waits five seconds for the old ones to end: meanwhile this ends them. The number of
# a database stays when its name changes: once the swap is visible, no session of the new target is ended.
end_sessions() {
    exec psql -XAtqw -v target="$TARGET_DATABASE" -v fresh="$fresh" >/dev/null 2>&1 <<'SQL'
SELECT oid AS old FROM pg_database WHERE datname = :'target' \gset
SELECT oid AS new FROM pg_database WHERE datname = :'fresh' \gset
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datid IN (:old, :new) AND EXISTS (SELECT FROM pg_database WHERE oid = :old AND datname = :'target') \watch 0.1
SQL
}

swap() {
    sql <<'SQL'
BEGIN ISOLATION LEVEL READ COMMITTED;
SELECT pg_advisory_xact_lock(hashtext('postgres_operator')) \g /dev/null
SELECT EXISTS (SELECT FROM postgres_operator.restores WHERE restore_uid = :'uid' AND finished_at IS NOT NULL) AS finished \gset
\if :finished
    \q
\endif
-- The new database becomes the target's like in all that is not inside a database.
SELECT format('ALTER DATABASE %I OWNER TO %I', :'fresh', pg_get_userbyid(datdba)),
       format('ALTER DATABASE %I CONNECTION LIMIT %s', :'fresh', datconnlimit),
       format('COMMENT ON DATABASE %I IS %L', :'fresh', shobj_description(oid, 'pg_database'))
FROM pg_database WHERE datname = :'target' \gexec
-- Privileges: granted anew by whoever granted them, those first that allow to grant others.
SELECT DISTINCT format('REVOKE ALL ON DATABASE %I FROM %s CASCADE', :'fresh',
                       CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE datname = :'fresh' \gexec
WITH RECURSIVE acl AS (
    SELECT a.*, datdba AS owner FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) AS a WHERE datname = :'target'
), ordered AS (
    SELECT *, 0 AS depth FROM acl WHERE grantor = owner
    UNION
    SELECT acl.*, depth + 1 FROM acl JOIN ordered o ON acl.grantor = o.grantee AND acl.privilege_type = o.privilege_type AND o.is_grantable
    WHERE acl.grantor <> acl.owner
)
SELECT format('SET LOCAL ROLE %I', pg_get_userbyid(grantor)),
       format('GRANT %s ON DATABASE %I TO %s%s', privilege_type, :'fresh',
              CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
              CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END),
       'RESET ROLE'
FROM ordered ORDER BY depth \gexec
-- Settings, of all roles and of single ones. As stored: written as SQL, a list such as search_path comes out different.
DELETE FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = :'fresh');
INSERT INTO pg_db_role_setting (setdatabase, setrole, setconfig)
SELECT new.oid, setrole, setconfig FROM pg_db_role_setting JOIN pg_database old ON old.oid = setdatabase, pg_database new
WHERE old.datname = :'target' AND new.datname = :'fresh';

ALTER DATABASE :"target" RENAME TO :"previous";
ALTER DATABASE :"fresh" RENAME TO :"target";
-- Also where somebody has tidied the table meanwhile: the marker and the names go together.
INSERT INTO postgres_operator.restores (restore_uid, pod_uid, target, scratch, previous, finished_at)
VALUES (:'uid', :'pod', :'target', :'fresh', :'previous', clock_timestamp())
ON CONFLICT (restore_uid, pod_uid) DO UPDATE SET previous = excluded.previous, finished_at = excluded.finished_at;
COMMIT;
SQL
}

# What keeps the databases in use: prepared transactions first, since nobody else can end them.
holders() {
    sql <<'SQL'
SELECT string_agg(what, ', ') FROM (
    SELECT format('prepared transaction %L of role %I', gid, owner) FROM pg_prepared_xacts WHERE database IN (:'target', :'fresh')
    UNION ALL
    SELECT format('session %s of role %I in database %I', pid, coalesce(usename, backend_type), datname)
    FROM pg_stat_activity WHERE datname IN (:'target', :'fresh')
    LIMIT 4) AS holder (what);
SQL
}

busy() {
    fail TargetBusy "Database $TARGET_DATABASE could not be renamed, because this uses it: $1. End that, then create a new Restore. $untouched"
}

swap_in() {
    local try held terminator
    for ((try = 1; ; try++)); do
        held=$(holders) || true
        [[ $held == 'prepared transaction '* ]] || break # else the application's sessions would be ended in vain
        ((try < TRIES)) || busy "$held"
        run sleep 1
    done
    for ((try = 1; ; try++)); do
        log "Swapping the names (try $try)"
        end_sessions &
        terminator=$!
        swap || true # whether it did is what the marker tells: the connection may have been lost after the COMMIT
        kill "$terminator" 2>/dev/null || true
        wait "$terminator" 2>/dev/null || true
        mv "$scratch/errors" "$scratch/swap"
        read_winner
        [[ -z $winner ]] || return 0
        grep -qaE 'is being accessed by other users|lock timeout' "$scratch/swap" ||
            fail RestoreFailed "Cannot swap the databases: $(masked "$scratch/swap"). $untouched"
        ((try < TRIES)) || busy "$(holders)"
    done
}

drop_previous() {
    log "Dropping $PREVIOUS_DATABASE, which was replaced"
    sql <<<'DROP DATABASE IF EXISTS :"previous" WITH (FORCE)' ||
        warning="The replaced database is still there as \"$PREVIOUS_DATABASE\", drop it by hand: $(masked "$scratch/errors")"
}

# report_restored: the outcome so far.
report_restored() {
    local result="{\"location\": $(json_string "$ARTIFACT_PATH"), \"serverVersion\": \"$server_version\", \"toolVersion\": \"$(tool_version pg_restore)\", \"alreadyRestored\": $already"
    [[ $KEEP_PREVIOUS != true ]] || result+=", \"previousDatabase\": $(json_string "$PREVIOUS_DATABASE")"
    [[ ! -s $WORK_DIR/globals ]] || result+=", \"globals\": $(json_string "$(<"$WORK_DIR/globals")")"
    [[ -z $warning ]] || result+=", \"warning\": $(json_string "$warning")"
    report "$result}"
}

connect 20
already=true warning=
read_winner
if [[ -z $winner ]]; then
    already=false
    sql >"$scratch/missing" <<'SQL' || fail RestoreFailed "Cannot look for the databases: $(masked "$scratch/errors"). $untouched"
SELECT what FROM (VALUES ('target', :'target'), ('fresh', :'fresh')) AS needed (what, name)
WHERE name NOT IN (SELECT datname FROM pg_database);
SQL
    missing=$(<"$scratch/missing")
    [[ $missing != *target* ]] || fail DatabaseMissing "There is no database \"$TARGET_DATABASE\" on $PGHOST:$PGPORT to replace."
    [[ -z $missing ]] || fail RestoreFailed "Database \"$fresh\", which held the restored data, was dropped by somebody. $untouched"
    swap_in
fi
if [[ $winner == "$POD_UID" ]]; then
    discard=
else
    already=true
    log "Another pod has finished this Restore already."
fi
log "Database $TARGET_DATABASE is the restored one; what it replaced is $PREVIOUS_DATABASE"
report_restored # now: the pod may be ended while a large database is dropped
[[ $KEEP_PREVIOUS == true ]] && exit 0
drop_previous
report_restored
