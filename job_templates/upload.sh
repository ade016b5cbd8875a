# Uploads the dump that the container beside this one writes into a FIFO, and then its manifest, which makes it a backup.
# rclone takes the end of its input for the end of the dump, whatever was the cause of it. So a process here holds the
# FIFO open, too, until the dump is noted to be whole; when this container is killed, both die at once.
# The other container's image may be anybody's, and so may be what lies in $STORE_DIR: a link there may lead to this
# container's own files and credentials. So what is read there is copied first, and goes further only as what it has to be.

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
    expected=$(head -c 18 "$STORE_DIR/expected" | tr -cd 0-9)
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
    [ -p /dev/fd/3 ] || fail UploadFailed "What the container dump has put in the place of the FIFO is none."
    (until noted dumped; do sleep 0.2 3<&-; done) &
    # Each part has a checksum, which the store compares. One of the whole stream would be compared with nothing.
    RCLONE_IGNORE_CHECKSUM=true RCLONE_STREAMING_UPLOAD_CUTOFF=0 rclone rcat "$object" </dev/fd/3 3<&- 2>"$errors" &
    child=$!
    exec 3<&-
    watch "$child" &
    watcher=$!
    wait "$child" || status=$?
    [ "$status" = 0 ] || blame UploadFailed "upload the dump to"
    kill "$watcher"
    noted dumped || fail UploadFailed "The upload to $STORE ended before the dump did."
}

# Copies what the other container has noted to $scratch: the manifest, and the file of the roles, where there is one.
take_notes() {
    head -c 4000 "$STORE_DIR/dumped" | head -n 1 >"$scratch/ours"
    dumped=$(sed -nE 's/^\{"schema": 1, .*", "sizeBytes": ([0-9]+), "sha256": "[0-9a-f]+", .*\}\}$/\1/p' "$scratch/ours")
    [ -n "$dumped" ] || fail UploadFailed "What the container dump has noted is no manifest."
    noted globals || return 0
    head -c 8388608 "$STORE_DIR/globals" >"$scratch/globals"
    grep -qF "\"sha256\": \"$(sha256sum <"$scratch/globals" | cut -d ' ' -f 1)\"" "$scratch/ours" ||
        fail UploadFailed "The roles are not those that the manifest names."
}

# Fails when the store does not have as many bytes as were dumped.
compare_size() {
    read_size "$FILE" || blame UploadFailed "read back the size of the dump from"
    stored=$(cat "$scratch/size")
    [ "$stored" = "$dumped" ] ||
        fail UploadFailed "$STORE took the dump of $dumped bytes without an error, but has ${stored:-none} of them. Back up again; when that repeats, it is the store that loses data."
}

# send_globals: the file of the roles, where there is one.
send_globals() {
    [ ! -e "$scratch/globals" ] || store copyto --no-check-dest "$scratch/globals" "$roles" || blame UploadFailed "upload the roles to"
}

# The manifest that is there first counts, also where two pods of a Job are at it at once. Not every store knows the
# condition, so we look before, too.
commit() {
    fetch_manifest || blame UploadFailed "look for a finished backup in"
    [ -s "$scratch/manifest" ] || put_manifest
    if [ "$file" != "$FILE" ]; then
        abandon
        read_size "$file" || blame UploadFailed "read the size of the finished dump in"
    fi
    publish
}

put_manifest() {
    note committing </dev/null
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
        ! noted committing || { fetch_manifest && [ "$file" = "$FILE" ] && read_size "$file" && publish && stay; }
        fail UploadFailed "The container upload was killed while it sent the dump to $STORE. If that was for its memory, raise spec.resources.limits.memory."
    }
    stay
}

! noted begun || resume
note begun </dev/null
fetch_manifest || blame UploadFailed "look for a finished backup in"
if [ -s "$scratch/manifest" ]; then
    read_size "$file" || blame UploadFailed "read the size of the finished dump in"
    publish
    stay
fi
mkfifo "$STORE_DIR/dump"
exec 3<>"$STORE_DIR/dump"
note ready </dev/null
until noted expected; do pause; done
choose_chunk
log "Uploading to $STORE, $ARTIFACT_PATH/$FILE, in parts of $chunk MiB"
send
take_notes
compare_size
send_globals
commit
log "Uploaded: $(cat "$scratch/size") bytes, and the manifest"
stay
