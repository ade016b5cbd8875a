# Hands out what lies in the object store to the containers beside this one, which mount $STORE_DIR to read only: the
# manifest as a note, and the dump through one FIFO for each of its readers.

# serve READER: hands out the dump once, when the reader opens its FIFO.
serve() {
    exec >"$STORE_DIR/for-$1"
    rclone cat "$REMOTE/$ARTIFACT_PATH/$file" 2>"$scratch/for-$1" &
    child=$!
    exec >&2
    watch "$child" &
    watcher=$!
    wait "$child" || status=$?
    kill "$watcher" 2>/dev/null || true
    case $status in
    0 | 141) note "served-$1" </dev/null ;; # 141: the reader has closed it, and knows why
    *)
        errors="$scratch/for-$1"
        blame DownloadFailed "read $ARTIFACT_PATH/$file from"
        ;;
    esac
}

! noted begun || fail DownloadFailed "The container download was killed while it read from $STORE. If that was for its memory, raise spec.resources.limits.memory."
note begun </dev/null
fetch_manifest || blame DownloadFailed "read $ARTIFACT_PATH from"
[ -s "$scratch/manifest" ] || fail ArtifactMissing "There is no finished backup at $ARTIFACT_PATH of $STORE: it has no manifest.json."
for reader in check load; do
    mkfifo "$STORE_DIR/for-$reader"
    serve "$reader" &
done
read_size "$file" || blame DownloadFailed "read the size of $ARTIFACT_PATH/$file in"
publish
stay
