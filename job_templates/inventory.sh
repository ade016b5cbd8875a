# What a database has, to compare what a dump restores with what it was made of: the names of tables, views, indexes and
# constraints, and how many rows each table has. Not what is in no dump: what belongs to extensions, temporary tables.

# The tables and views that count. postgres_operator.lines says what is selected, as for select_objects in dump.sh.
readonly RELATIONS="(
    WITH wanted AS (
        SELECT split_part(line, E'\t', 1) AS option, split_part(line, E'\t', 2) AS schema, nullif(split_part(line, E'\t', 3), '') AS name
        FROM regexp_split_to_table(current_setting('postgres_operator.lines'), E'\n') AS line)
    SELECT c.oid, relkind, format('%I.%I', nspname, relname) AS name, relpersistence = 'u' AS unlogged
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm') AND nspname NOT LIKE 'pg\_%' AND nspname NOT IN ('information_schema', 'postgres_operator')
        AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e')
        AND (NOT EXISTS (SELECT FROM wanted WHERE option IN ('schema', 'table')) OR EXISTS (
            SELECT FROM wanted WHERE option IN ('schema', 'table') AND schema = nspname AND relname = coalesce(name, relname)))
        AND NOT EXISTS (
            SELECT FROM wanted WHERE option LIKE 'exclude-%' AND schema = nspname AND relname = coalesce(name, relname))
) AS relations"

# inventory_psql LINES UNLOGGED ARGUMENT...: psql with what these functions' SQL needs; UNLOGGED is empty where a dump has no
# rows of unlogged tables.
inventory_psql() {
    local lines=$1 unlogged=$2
    shift 2
    PGCLIENTENCODING=UTF8 PGOPTIONS="$UNDISTURBED -c row_security=off" exec psql -XAtqw -F $'\t' -v ON_ERROR_STOP=1 \
        -v VERBOSITY=verbose -v relations="$RELATIONS" -v lines="$lines" -v unlogged="$unlogged" "$@"
}

# First of all, what is selected. Where a database has no encoding, its names may have any.
selected_sql() {
    cat <<'SQL'
SELECT set_config('postgres_operator.lines', :'lines', false) \g /dev/null
SELECT set_config('client_encoding', 'SQL_ASCII', false) WHERE current_setting('server_encoding') = 'SQL_ASCII' \g /dev/null
SQL
}

# inventory_sql: prints kind, name and number of rows, a line each, and a last one. JSON, since names may have tabs and
# newlines.
inventory_sql() {
    cat <<'SQL'
SELECT 'view', to_json(name), 0 FROM :relations WHERE relkind IN ('v', 'm');
-- Those that pg_dump takes for sound; of a partitioned table, before all its parts have theirs.
SELECT 'index', to_json(format('%s %I', name, relname)), 0
FROM pg_index JOIN :relations ON relations.oid = indrelid JOIN pg_class i ON i.oid = indexrelid
WHERE (indisvalid OR relations.relkind = 'p') AND indisready;
-- Not those that PostgreSQL makes by itself on each partition: it may name them anew.
SELECT 'constraint', to_json(format('%s %s %I', name, contype, conname)), 0
FROM pg_constraint JOIN :relations ON relations.oid = conrelid WHERE contype IN ('c', 'f', 'p', 'u', 'x') AND conparentid = 0;
SELECT CASE WHEN relkind = 'p' OR unlogged AND (:'unlogged' = '' OR pg_is_in_recovery())
        THEN format('SELECT ''table'', %L, 0', to_json(name))
        ELSE format('SELECT ''table'', %L, count(*) FROM ONLY %s', to_json(name), name) END
FROM :relations WHERE relkind IN ('r', 'p') \gexec
\echo all
SQL
}

# summary FILE: those lines as numbers and one checksum, in JSON: as a member of a manifest, but for the braces. Fails where
# some are missing: psql does not mind a full disk.
summary() {
    local sum
    [[ $(tail -n 1 "$1") == all ]] || return
    sum=$(sed '$d' "$1" | sort | sha256) || return
    awk -F '\t' -v sum="$sum" '{ count[$1]++; rows += $3 }
        END { printf "\"tables\": %d, \"rows\": %.0f, \"indexes\": %d, \"constraints\": %d, \"views\": %d, \"sha256\": \"%s\"",
                  count["table"], rows, count["index"], count["constraint"], count["view"], sum }' "$1"
}
