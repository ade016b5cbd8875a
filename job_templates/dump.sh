# Dumps $PGDATABASE as $FILE into the directory $ARTIFACT_PATH of the store, and reports its manifest. How it gets there,
# and becomes a backup only as a whole, is said by dump-to-volume.sh and dump-to-stream.sh.

report_existing() {
    log "Another pod of this Job has finished this backup: $ARTIFACT_PATH"
    read_manifest
    report "$manifest"
    exit 0
}

# compress METHOD[:LEVEL]: versions before 16 know gzip only, and that by its level, as all do.
compress() {
    case $1 in
    none) options+=(--compress=0) ;;
    gzip) options+=(--compress=6) ;;
    gzip:*) options+=(--compress="${1#*:}") ;;
    *)
        ((${tool%%[!0-9]*} >= 16)) || fail VersionMismatch \
            "pg_dump $tool cannot compress with ${1%:*}, which came with version 16: create a Backup with another spec.compression, or set spec.image of the Database to a newer version."
        options+=(--compress="$1")
        ;;
    esac
}

# select_objects LINES: each is an option of pg_dump, a schema and perhaps a name, with tabs between. They become exact
# names, in the encoding in which pg_dump will talk. It would not mind what does not exist where that is to be left out.
select_objects() {
    local lines found missing= n
    PGCLIENTENCODING='' PGOPTIONS=$UNDISTURBED run psql -XAtqw -v ON_ERROR_STOP=1 -v lines="$1" >"$scratch/selection" 2>"$scratch/connect" <<'SQL' ||
SELECT current_setting('client_encoding') AS own \gset
SET client_encoding = 'UTF8';
SELECT set_config('postgres_operator.lines', :'lines', false) \g /dev/null
SELECT set_config('client_encoding', :'own', false) \g /dev/null
SELECT CASE WHEN name IS NULL THEN EXISTS (SELECT FROM pg_namespace WHERE nspname = schema)
        ELSE EXISTS (SELECT FROM pg_class JOIN pg_namespace s ON s.oid = relnamespace
            WHERE nspname = schema AND relname = name AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')) END,
    format('--%s="%s"', option, replace(schema, '"', '""')) || coalesce('."' || replace(name, '"', '""') || '"', '')
FROM (SELECT n, split_part(line, E'\t', 1), split_part(line, E'\t', 2), nullif(split_part(line, E'\t', 3), '')
      FROM regexp_split_to_table(current_setting('postgres_operator.lines'), '\n') WITH ORDINALITY AS lines (line, n)
) AS wanted (n, option, schema, name) ORDER BY n;
SQL
        fail DumpFailed "Cannot look for the schemas and tables that spec names: $(masked "$scratch/connect")"
    mapfile -t lines <<<"$1"
    mapfile -t found <"$scratch/selection"
    for n in "${!lines[@]}"; do
        [[ ${found[n]} == 't|'* ]] || missing+="${missing:+, }${lines[n]//$'\t'/ }"
    done
    [[ -z $missing ]] ||
        fail DumpFailed "What spec names does not exist in database $PGDATABASE: $missing. Names have to be exact; create a Backup with those that there are."
    options+=(--strict-names "${found[@]#t|}")
}

dump() {
    exec pg_dump "${options[@]}" "$@" 2>"$scratch/dump"
}

# dump_failed STATUS: pg_dump has ended with it.
dump_failed() {
    local text
    if (($1 > 128)); then
        text="If that was KILL, it needs more memory (spec.resources.limits.memory)."
        fail DumpFailed "pg_dump was killed by signal $(kill -l "$1"). $text"
    fi
    grep -a 'Error message from server: ' "$scratch/dump" >"$scratch/server" || true
    text="$(masked "$scratch/dump") $(masked "$scratch/server")"
    fail DumpFailed "pg_dump failed with exit code $1: $text"
}

# One line, in the form that read_manifest reads.
write_manifest() {
    printf '{"schema": 1, "location": "%s", "file": "%s", "format": "%s", ' "$ARTIFACT_PATH" "$FILE" "$FORMAT"
    printf '"sizeBytes": %d, "sha256": "%s", ' "$size" "$sha256"
    printf '"serverVersion": "%s", "toolVersion": "%s", ' "$server_version" "$tool"
    printf '"backupTime": "%s", %s%s' "$began" "$globals_field" "${inventory:+"\"inventory\": $inventory, "}"
    printf '"source": %s}\n' "$BACKUP_SOURCE"
}

connect 20
tool=$(tool_version pg_dump)
log "PostgreSQL $server_version at $PGHOST:$PGPORT, pg_dump $tool, database $PGDATABASE"
if ((${server_version%%[!0-9]*} > ${tool%%[!0-9]*})); then
    fail VersionMismatch "pg_dump $tool cannot dump PostgreSQL $server_version: set spec.image of the Database to that version."
fi
# Where it may not read a sequence, it dumps a wrong value and says nothing (release notes of 18.2).
[[ $tool != 18.[01] ]] || fail VersionMismatch "pg_dump $tool may dump wrong values of sequences: set spec.image of the Database to version 18.2 or newer."
[[ $FORMAT == custom || $FORMAT == plain || $FORMAT == directory ]] || fail InternalError "FORMAT is $FORMAT, not custom, plain or directory."
options=(--format="$FORMAT" --exclude-schema=postgres_operator --no-owner --no-password)
read -ra extra <<<"${EXTRA_ARGS:-}"
options+=("${extra[@]}")
[[ $FORMAT != directory ]] || options+=(--jobs="${JOBS:-1}")
compression=${COMPRESSION:-}
[[ -z $compression ]] || compress "$compression"
selection=${SELECTION:-}
[[ -z $selection ]] || select_objects "$selection"
open_store
began=$(date -u +%Y-%m-%dT%H:%M:%SZ)
[[ ${VERIFICATION:-} != Restore ]] || hold_snapshot
log "Dumping into $ARTIFACT_PATH/$FILE"
globals_field= # of the manifest
[[ -z ${GLOBALS:-} ]] || dump_globals
unset PGCLIENTENCODING # the dump is in the database's own encoding
store_dump
[[ ${VERIFICATION:-} != Restore ]] || take_inventory
write_manifest >"$scratch/manifest"
finish_backup
log "Backup $ARTIFACT_PATH: $size bytes, sha256 $sha256, $SECONDS s in all"
report "$manifest"
