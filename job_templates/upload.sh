# Uploads the dump that the container beside this one writes into a FIFO, and then its manifest, which makes it a backup.
# rclone takes the end of its input for the end of the dump, whatever was the cause of it. So a process here holds the
# FIFO open, too, until the dump is noted to be whole; when this container is killed, both die at once.

readonly PARTS="${MAX_PARTS:-10000}" # of one object: a limit of S3
object="$REMOTE/$ARTIFACT_PATH/$FILE"
roles="$REMOTE/$ARTIFACT_PATH/${GLOBALS:-}"
watcher=

# Leaves neither the file of this pod nor an unfinished upload of it, unless a manifest names it. Once the manifest was
# sent, it may be there without being seen: only another one proves that ours does not count.
abandon() {
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null || true
    noted sending && ! noted manifest.json || return 0
    patience=10 # the kubelet waits for 30 seconds
    if noted committing; then
        if ! fetch_manifest || [ -z "$file" ] || [ "$file" = "$FILE" ]; then
            log "What was uploaded stays: its manifest may be there."
            return 0
        fi
    fi
    log "Removing what was uploaded"
    store deletefile "$object" || [ $? = 4 ] || log "That failed: $(said)" # 4: there is none
    ! noted globals || store deletefile "$roles" || [ $? = 4 ] || log "That failed: $(said)"
    # Of any age: clocks differ.
    store backend cleanup -o max-age=-24h "$object" || log "The unfinished upload stays: $(said)"
}

# Sets chunk: large enough for four times the size of the database, as plain text may well be. rclone keeps so much in
# memory for each of its connections, and reads one more ahead: 128 MiB for databases up to 160 GB.
choose_chunk() {
    expected=$(tr -cd 0-9 <"$STORE_DIR/expected")
    chunk=$(((${expected:-0} * 4 / PARTS >> 20) + 1))
    [ "$chunk" -ge 8 ] || chunk=8
    connections=$((128 / chunk - 1))
    [ "$connections" -le 4 ] || connections=4
    [ "$connections" -ge 1 ] || connections=1
    export RCLONE_CONFIG_STORE_CHUNK_SIZE="${chunk}Mi" RCLONE_CONFIG_STORE_UPLOAD_CONCURRENCY="$connections"
    export RCLONE_MAX_TRANSFER="$((chunk * PARTS))Mi" # rclone does not count the parts of a stream
}

# Sends the FIFO's content, until the dump is whole; fails when rclone ends before that.
send() {
    note sending </dev/null
    (until noted dumped; do sleep 0.2 3<&-; done) 3<>"$STORE_DIR/dump" &
    # Each part has a checksum, which the store compares. One of the whole stream would be compared with nothing.
    RCLONE_IGNORE_CHECKSUM=true RCLONE_STREAMING_UPLOAD_CUTOFF=0 rclone rcat "$object" <"$STORE_DIR/dump" 2>"$errors" &
    child=$!
    watch "$child" &
    watcher=$!
    wait "$child" || status=$?
    [ "$status" = 0 ] || blame UploadFailed "upload the dump to"
    kill "$watcher"
    noted dumped || fail UploadFailed "The upload to $STORE ended before the dump did."
}

# Fails when the store does not have as many bytes as were dumped.
compare_size() {
    store lsf --files-only --format s "$object" >"$scratch/size" || blame UploadFailed "read back the size of the dump from"
    stored=$(cat "$scratch/size")
    dumped=$(sed -nE 's/^.*, "sizeBytes": ([0-9]+), "sha256": .*$/\1/p' "$STORE_DIR/dumped")
    [ "$stored" = "$dumped" ] ||
        fail UploadFailed "$STORE took the dump of $dumped bytes without an error, but has ${stored:-none} of them. Back up again; when that repeats, it is the store that loses data."
}

# send_globals: the file of the roles, where there is one.
send_globals() {
    ! noted globals || store copyto --no-check-dest "$STORE_DIR/globals" "$roles" || blame UploadFailed "upload the roles to"
}

# The manifest that is there first counts, also where two pods of a Job are at it at once. Not every store knows the
# condition, so we look before, too.
commit() {
    fetch_manifest || blame UploadFailed "look for a finished backup in"
    [ -s "$scratch/manifest" ] || put_manifest
    [ "$file" = "$FILE" ] || abandon
    publish || blame UploadFailed "read back the size of the dump from"
}

put_manifest() {
    note committing </dev/null
    cp "$STORE_DIR/dumped" "$scratch/ours"
    : >"$scratch/put"
    store copyto --no-check-dest --header-upload 'If-None-Match: *' "$scratch/ours" "$REMOTE/$ARTIFACT_PATH/manifest.json" ||
        cp "$errors" "$scratch/put"
    fetch_manifest || blame UploadFailed "read back the manifest from"
    if [ ! -s "$scratch/manifest" ]; then
        cp "$scratch/put" "$errors"
        blame UploadFailed "write the manifest of the dump, which stays in"
    fi
}

# The container was killed, most likely for its memory, and is started again.
resume() {
    noted manifest.json || noted failed || {
        ! noted committing || { fetch_manifest && [ "$file" = "$FILE" ] && publish && stay; }
        fail UploadFailed "The container upload was killed while it sent the dump to $STORE. If that was for its memory, raise spec.resources.limits.memory."
    }
    stay
}

! noted begun || resume
note begun </dev/null
fetch_manifest || blame UploadFailed "look for a finished backup in"
if [ -s "$scratch/manifest" ]; then
    publish || blame UploadFailed "read the size of the finished dump in"
    stay
fi
mkfifo "$STORE_DIR/dump"
note ready </dev/null
until noted expected; do pause; done
choose_chunk
log "Uploading to $STORE, $ARTIFACT_PATH/$FILE, in parts of $chunk MiB"
send
compare_size
send_globals
commit
log "Uploaded: $(cat "$STORE_DIR/size") bytes, and the manifest"
stay
