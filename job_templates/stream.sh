# Reads from an object store, which only the sidecar beside this container reaches (sidecar.sh): what it has to say is a
# note in $STORE_DIR, and the dump flows through a FIFO.

# heed_store: fails as the sidecar says that it has failed.
heed_store() {
    local reason text
    [[ -e $STORE_DIR/failed ]] || return 0
    { read -r reason && IFS= read -r text; } <"$STORE_DIR/failed"
    fail "$reason" "$text"
}

# await NOTE...: until one of them is there. greet REASON NOTE...: the same for the sidecar's first words, for which there
# is a limit: one that crashes before it can speak is started again and again.
await() {
    until noted "$@"; do
        heed_store
        run sleep 0.2
    done
}
greet() {
    local reason=$1 deadline=$((SECONDS + ${GREETING_SECONDS:-300}))
    shift
    until noted "$@"; do
        heed_store
        ((SECONDS < deadline)) || fail "$reason" "The container that talks to the object store has not begun its work. See its log."
        run sleep 0.2
    done
}
noted() {
    local name
    for name in "$@"; do
        [[ ! -e $STORE_DIR/$name ]] || return 0
    done
    return 1
}

# fetch_manifest: sets manifest to the text of manifest.json, which may be anybody's.
fetch_manifest() {
    greet DownloadFailed manifest.json
    manifest=$(head -c 4000 "$STORE_DIR/manifest.json" | tr -d '\0')
}

# stored_size: bytes of the dump's file; nothing where there is none.
stored_size() {
    [[ $format != directory ]] ||
        fail FormatUnsupported "$ARTIFACT_PATH is a directory of files, and only one file can be streamed: copy it to a volume, and restore it from there."
    cat "$STORE_DIR/size"
}

# read_artifact READER: prints the dump's file. Its end may be that of the sidecar: that shows afterwards.
read_artifact() {
    cat "$STORE_DIR/for-$1" || return
    until [[ -e $STORE_DIR/served-$1 ]]; do
        [[ ! -e $STORE_DIR/failed ]] || return
        sleep 0.2
    done
}
