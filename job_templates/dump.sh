# Dumps $PGDATABASE into the directory $ARTIFACT_PATH of the backup volume, and reports its manifest.
# The directory gets its final name by one rename, when all in it is proven and on disk: there is no half a backup.

final="$STORE_DIR/$ARTIFACT_PATH"
parent=${final%/*}
partial="$parent/.${final##*/}.$POD_UID.partial"
cleanup() { rm -rf "$partial"; }

# write_failure FILE REASON MESSAGE: a write into the volume failed, and FILE says how.
write_failure() {
    local free
    if grep -qaE 'No space left|quota exceeded' <(grep -av ' ERROR: ' "$1"); then # not what the server ran out of
        free=$(df -Ph "$STORE_DIR" | awk 'END { print $4 " of " $2 " free" }')
        fail VolumeFull "The backup volume is full ($free). Make room or enlarge the claim."
    fi
    fail "$2" "$3"
}

# volume COMMAND...: a command that writes into the backup volume.
volume() {
    run "$@" 2>"$scratch/volume" ||
        write_failure "$scratch/volume" DumpFailed "Cannot write to the backup volume: $(head -c 500 "$scratch/volume")"
}

report_existing() {
    log "Another pod of this Job has finished this backup: $ARTIFACT_PATH"
    read_manifest
    report "$manifest"
    exit 0
}

# What pods left behind that were killed. Nothing was written there for a day: such a pod does not run any more.
remove_leftovers() {
    local leftover
    for leftover in "$parent/.${final##*/}".*.partial; do
        if [[ -d $leftover && -z $(find "$leftover" -mtime -1) ]]; then
            log "Removing ${leftover##*/}, which a pod that was killed left behind"
            rm -rf "$leftover" || log "That failed."
        fi
    done
}

dump() {
    local status=0 text
    run pg_dump --format="$FORMAT" --file="$partial/$file" --exclude-schema=postgres_operator \
        --no-owner --no-password 2>"$scratch/dump" || status=$?
    ((status != 0)) || return 0
    if ((status > 128)); then
        text="If that was KILL, it needs more memory (spec.resources.limits.memory)."
        fail DumpFailed "pg_dump was killed by signal $(kill -l "$status"). $text"
    fi
    grep -a 'Error message from server: ' "$scratch/dump" >"$scratch/server" || true
    text="$(masked "$scratch/dump") $(masked "$scratch/server")"
    write_failure "$scratch/dump" DumpFailed "pg_dump failed with exit code $status: $text"
}

# pg_dump said that all is well; the file has to say so itself, to its end.
prove() {
    local key end
    if [[ $FORMAT == custom ]]; then
        # Reads all of it, as a restore will; the list of contents alone is at the beginning.
        run pg_restore --file=/dev/null "$partial/$file" 2>"$scratch/proof" ||
            fail DumpFailed "pg_dump ended well, but pg_restore cannot read what it wrote: $(masked "$scratch/proof")"
    else
        # Versions since August 2025 begin with \restrict and a key, and end with \unrestrict and the same key.
        key=$(head -n 10 "$partial/$file" | sed -n 's/^\\restrict //p')
        end=$(tail -c 1000 "$partial/$file")
        [[ $end == *$'\n-- PostgreSQL database dump complete\n'* && (-z $key || $end == *$'\n\\unrestrict '"$key") ]] ||
            fail DumpFailed "pg_dump ended well, but the end of what it wrote is missing."
    fi
}

# One line, in the form that read_manifest reads.
write_manifest() {
    printf '{"schema": 1, "location": "%s", "file": "%s", "format": "%s", ' "$ARTIFACT_PATH" "$file" "$FORMAT"
    printf '"sizeBytes": %d, "sha256": "%s", ' "$size" "$sha256"
    printf '"serverVersion": "%s", "toolVersion": "%s", ' "$server_version" "$tool"
    printf '"backupTime": "%s", "source": %s}\n' "$began" "$BACKUP_SOURCE"
}

connect 20
tool=$(tool_version pg_dump)
log "PostgreSQL $server_version at $PGHOST:$PGPORT, pg_dump $tool, database $PGDATABASE"
if ((${server_version%%[!0-9]*} > ${tool%%[!0-9]*})); then
    fail VersionMismatch "pg_dump $tool cannot dump PostgreSQL $server_version: set spec.image of the Database to that version."
fi
[[ ! -e $final ]] || report_existing

volume mkdir -p "$parent"
remove_leftovers
cleanup
volume mkdir "$partial"

case $FORMAT in
custom) file=dump.pgdump ;;
plain) file=dump.sql ;;
*) fail InternalError "FORMAT is $FORMAT, not custom or plain." ;;
esac
began=$(date -u +%Y-%m-%dT%H:%M:%SZ)
log "Dumping into $ARTIFACT_PATH/$file"
unset PGCLIENTENCODING # the dump is in the database's own encoding
dump
volume sync "$partial/$file"
size=$(stat -c %s "$partial/$file")
log "Dumped $size bytes in $SECONDS s; reading them back"
prove
run sha256sum <"$partial/$file" >"$scratch/sha256"
read -r sha256 _ <"$scratch/sha256"

write_manifest >"$scratch/manifest"
volume cp "$scratch/manifest" "$partial/manifest.json"
volume sync "$partial/manifest.json" "$partial"
ARTIFACT_PATH="${partial#"$STORE_DIR"/}" read_manifest # as whoever restores it will

if ! run mv -T "$partial" "$final" 2>"$scratch/volume"; then
    [[ ! -e $final ]] || report_existing
    write_failure "$scratch/volume" DumpFailed "Cannot rename the finished dump: $(head -c 500 "$scratch/volume")"
fi
volume sync "$parent" "$STORE_DIR" # both may be new
log "Backup $ARTIFACT_PATH: $size bytes, sha256 $sha256, $SECONDS s in all"
report "$manifest"
