# Dumps into a FIFO, from which the sidecar uploads (upload.sh). That takes the dump for whole when its manifest is noted,
# which is done when each process here has ended well, and for lost when this container ends without it.

open_store() {
    greet UploadFailed ready manifest.json
    [[ ! -e $STORE_DIR/manifest.json ]] || report_existing
}

# note NAME: its standard input becomes a note for the sidecar, which appears at once and whole.
note() {
    cat >"$STORE_DIR/.$1"
    mv "$STORE_DIR/.$1" "$STORE_DIR/$1"
}

# store_dump: sets size and sha256 of what is written.
store_dump() {
    local dumper splitter counter hasher status=0
    run psql -XAtqw -c 'SELECT pg_database_size(current_database())' >"$scratch/expected" 2>"$scratch/connect" ||
        connect_failure "$scratch/connect"
    note expected <"$scratch/expected"
    mkfifo "$scratch/pipe" "$scratch/count" "$scratch/hash"
    wc -c <"$scratch/count" >"$scratch/size" &
    counter=$!
    sha256 <"$scratch/hash" >"$scratch/sha256" &
    hasher=$!
    tee "$STORE_DIR/dump" "$scratch/count" <"$scratch/pipe" >"$scratch/hash" 2>/dev/null &
    splitter=$!
    dump >"$scratch/pipe" &
    dumper=$!
    while kill -0 "$dumper" 2>/dev/null || kill -0 "$splitter" 2>/dev/null; do
        heed_store
        run sleep 0.2
    done
    wait "$dumper" || status=$?
    wait "$splitter" || upload_broken # which may be why pg_dump failed
    ((status == 0)) || dump_failed "$status"
    wait "$counter" && wait "$hasher" || fail InternalError "The checksum of the dump could not be made."
    read -r size <"$scratch/size"
    read -r sha256 <"$scratch/sha256"
    log "Dumped $size bytes in $SECONDS s; the upload has to end"
}

# Nobody reads the FIFO any more. The sidecar says why, when it was started again.
upload_broken() {
    local deadline=$((SECONDS + ${RESTART_SECONDS:-60}))
    while ((SECONDS < deadline)); do
        heed_store
        run sleep 0.2
    done
    fail UploadFailed "The container upload ended while the dump was written. See its log."
}

# store_globals FILE: hands the roles to the sidecar, which has so much room for all of its notes.
store_globals() {
    local size
    size=$(stat -c %s "$scratch/globals")
    ((size <= 8 << 20)) || fail DumpFailed "The roles of the server take $size bytes as SQL, and 8388608 can be streamed: create a Backup without spec.includeGlobals, or into a volume."
    note globals <"$scratch/globals"
}

# finish_backup: from now on it is one.
finish_backup() {
    note dumped <"$scratch/manifest"
    await manifest.json
    read_manifest # what is in the store
    [[ $manifest == "$(<"$scratch/manifest")" ]] || report_existing
}
