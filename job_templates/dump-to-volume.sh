# Dumps into a volume: the artifact's directory gets its final name by one rename, when all in it is proven and on disk.
# There is no half a backup.

final="$STORE_DIR/$ARTIFACT_PATH"
parent=${final%/*}
partial="$parent/.${final##*/}.$POD_UID.partial"
cleanup() { rm -rf "$partial"; }

# heed_room FILE: fails when the errors there say that the volume is full; the server may have run out of room, too.
heed_room() {
    if grep -qaE 'No space left|[Qq]uota exceeded' <(grep -av ' ERROR: ' "$1"); then
        fail VolumeFull "The backup volume is full ($(room "$STORE_DIR")). Make room or enlarge the claim."
    fi
}

# volume COMMAND...: a command that writes into the backup volume.
volume() {
    run "$@" 2>"$scratch/volume" && return
    heed_room "$scratch/volume"
    fail DumpFailed "Cannot write to the backup volume: $(head -c 500 "$scratch/volume")"
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

open_store() {
    [[ ! -e $final ]] || report_existing
    volume mkdir -p "$parent"
    remove_leftovers
    cleanup
    volume mkdir "$partial"
}

# pg_dump said that all is well; the file has to say so itself, to its end.
prove() {
    local key end
    if [[ $FORMAT != plain ]]; then
        # Reads all of it, as a restore will; the list of contents alone is at the beginning.
        run pg_restore --file=/dev/null "$partial/$FILE" 2>"$scratch/proof" ||
            fail DumpFailed "pg_dump ended well, but pg_restore cannot read what it wrote: $(masked "$scratch/proof")"
    else
        # Versions since August 2025 begin with \restrict and a key, and end with \unrestrict and the same key.
        key=$(head -n 10 "$partial/$FILE" | sed -n 's/^\\restrict //p')
        end=$(tail -c 1000 "$partial/$FILE")
        [[ $end == *$'\n-- PostgreSQL database dump complete\n'* && (-z $key || $end == *$'\n\\unrestrict '"$key") ]] ||
            fail DumpFailed "pg_dump ended well, but the end of what it wrote is missing."
    fi
}

# store_dump: sets size and sha256 of what is written.
store_dump() {
    local status=0
    run dump --file="$partial/$FILE" || status=$?
    if ((status != 0)); then
        heed_room "$scratch/dump"
        dump_failed "$status"
    fi
    if [[ $FORMAT == directory ]]; then
        seal_directory
        return
    fi
    volume sync "$partial/$FILE"
    size=$(stat -c %s "$partial/$FILE")
    log "Dumped $size bytes in $SECONDS s; reading them back"
    prove
    run sha256 <"$partial/$FILE" >"$scratch/sha256"
    read -r sha256 <"$scratch/sha256"
}

# seal_directory: store_dump for a directory: its size is the sum of its files, its checksum that of the list of theirs.
seal_directory() {
    local directory="$partial/$FILE"
    volume chmod g=u "$directory" # pg_dump locks out the group
    list_directory "$directory" >"$scratch/files" || fail DumpFailed "pg_dump ended well, but not with what it writes. See the log."
    volume in_directory xargs -0 sync <"$scratch/files"
    volume sync "$directory"
    size=$(directory_size "$directory")
    log "Dumped $size bytes in $SECONDS s; reading them back"
    prove
    prove_ends
    run directory_sums "$directory" >"$scratch/sums"
    sha256=$(sha256 <"$scratch/sums")
}
in_directory() { cd "$partial/$FILE" && exec "$@"; }

# Without compression, pg_restore takes a file for whole that was cut. The data of each table ends with \. and newlines.
prove_ends() {
    local file tables=()
    while IFS= read -r -d '' file; do
        [[ ! $file =~ ^[0-9]+\.dat$ ]] || tables+=("$file")
    done <"$scratch/files"
    ((${#tables[@]} > 0)) || return 0
    printf '%s\0' "${tables[@]}" >"$scratch/tables"
    run in_directory xargs -0 tail -q -c 5 <"$scratch/tables" >"$scratch/ends"
    [[ $(tr -d '\n' <"$scratch/ends") == "$(printf '\\.%.0s' "${tables[@]}")" ]] ||
        fail DumpFailed "pg_dump ended well, but the end of a table's data is missing."
}

# store_globals FILE: puts the roles beside the dump.
store_globals() {
    volume cp "$scratch/globals" "$partial/$1"
    volume sync "$partial/$1"
}

# finish_backup: from now on it is one.
finish_backup() {
    volume cp "$scratch/manifest" "$partial/manifest.json"
    volume sync "$partial/manifest.json" "$partial"
    ARTIFACT_PATH="${partial#"$STORE_DIR"/}" read_manifest # as whoever restores it will
    if ! run mv -T "$partial" "$final" 2>"$scratch/volume"; then
        [[ ! -e $final ]] || report_existing
        heed_room "$scratch/volume"
        fail DumpFailed "Cannot rename the finished dump: $(head -c 500 "$scratch/volume")"
    fi
    volume sync "$parent" "$STORE_DIR" # both may be new
}
