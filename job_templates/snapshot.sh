# Put before dump.sh where the Backup is to be restored for a test: a session holds a snapshot of the database open, in
# which pg_dump dumps, and takes the inventory of it meanwhile. So both have seen the same, whatever others write.

# hold_snapshot: begins, and adds to pg_dump's options.
hold_snapshot() {
    local isolation='REPEATABLE READ, READ ONLY' unlogged=yes option kept=()
    for option in "${options[@]}"; do
        case $option in
        # It is this session then that waits for such a snapshot; pg_dump refuses to take one over with that option.
        --serializable-deferrable) isolation='SERIALIZABLE, READ ONLY, DEFERRABLE' ;;
        --no-unlogged-table-data) unlogged='' kept+=("$option") ;;
        *) kept+=("$option") ;;
        esac
    done
    {
        echo "BEGIN ISOLATION LEVEL $isolation;"
        selected_sql
        cat <<'SQL'
SELECT pg_export_snapshot() AS snapshot \gset
-- Whoever empties or drops one of them (which no snapshot hides) comes before both or after both.
SELECT format('LOCK TABLE ONLY %s IN ACCESS SHARE MODE', name) FROM :relations WHERE relkind IN ('r', 'p') \gexec
-- As JSON, columns that only some versions of PostgreSQL have are NULL in the others.
-- What may have any characters is in hexadecimal digits. Where who dumps is a superuser, a restore is one's work too.
SELECT format('"encoding": "%s", "collate": "%s", "ctype": "%s", "provider": "%s", "locale": "%s", "rules": "%s", "owner": "%s", "superuser": "%s", "strangers": "%s"', VARIADIC array(
    SELECT regexp_replace(coalesce(value, ''), '[^A-Za-z0-9_.@=; -]', '?', 'g')
    FROM unnest(ARRAY[pg_encoding_to_char(encoding), datcollate, datctype, d ->> 'datlocprovider',
                      coalesce(d ->> 'datlocale', d ->> 'daticulocale'),
                      -- cut to an odd number, they are not taken for whole
                      left(encode(convert_to(d ->> 'daticurules', 'UTF8'), 'hex'), 999),
                      encode(convert_to(current_user, 'UTF8'), 'hex'), current_setting('is_superuser'),
                      -- whose default privileges a restore may not set
                      (SELECT string_agg(encode(convert_to(pg_get_userbyid(role), 'UTF8'), 'hex'), ' ')
                       FROM (SELECT DISTINCT defaclrole FROM pg_default_acl
                             WHERE NOT pg_has_role(defaclrole, 'USAGE') LIMIT 5) AS s (role))]) WITH ORDINALITY AS u (value, n) ORDER BY n))
FROM pg_database, to_jsonb(pg_database) AS d WHERE datname = current_database() \g :origin
SELECT :'snapshot' \g :ready
SQL
        inventory_sql
    } >"$scratch/inventory.sql"
    mkfifo "$scratch/hold"
    inventory_psql "${SELECTION:-}" "$unlogged" -v origin="$scratch/origin" -v ready="$scratch/snapshot" \
        -f "$scratch/inventory.sql" -f - <"$scratch/hold" >"$scratch/inventory" 2>"$scratch/session" &
    holder=$!
    exec {hold}>"$scratch/hold" # the session ends when this is closed
    until [[ -s $scratch/snapshot ]]; do
        kill -0 "$holder" 2>/dev/null || inventory_failed
        run sleep 0.1
    done
    # What waits for this session's locks would hold up pg_dump, for which this session waits: so that does not wait long.
    options=("${kept[@]}" --snapshot="$(<"$scratch/snapshot")" --lock-wait-timeout="${LOCK_PATIENCE:-20s}")
}

# take_inventory: sets inventory, when the dump is there; both have to be whole.
take_inventory() {
    local origin
    exec {hold}>&-
    wait "$holder" || inventory_failed
    inventory=$(summary "$scratch/inventory") && origin=$(<"$scratch/origin") && [[ $origin == *'"' ]] ||
        fail DumpFailed "What the dump has to have could not be noted for its verification: has the node's disk room ($(room "$scratch"))?"
    inventory="{$inventory, \"origin\": {$origin}}"
    log "Inventory: $inventory"
}

inventory_failed() {
    sed -E 's/((ERROR|FATAL|PANIC):  )[0-9A-Z]{5}: /\1/' "$scratch/session" >"$scratch/terse"
    fail DumpFailed "Cannot see what the dump has to have, for its verification: $(masked "$scratch/terse")"
}
