# Makes sure that the backup is whole and readable, before anything touches the database. Needs no credentials. Leaves in
# $WORK_DIR for the steps after it: the checksums of its blocks, how many entries it has, and plain text's end.

# contents: the dump's list of contents, one entry a line.
contents() {
    case $format in
    custom | directory) pg_restore --list "${directory[@]}" 2>"$scratch/list" | lines '^[0-9]' ;;
    plain)
        lines -E '^-- (Name: |PostgreSQL database dump complete$)' |
            sed -n -e "/^-- PostgreSQL/w $WORK_DIR/complete" -e '/^-- Name: /p'
        ;;
    esac
}

# lines PATTERN: grep, which does not fail where there are none. It holds a whole line, for which it may lack memory (2).
lines() {
    local status=0
    grep -a "$@" || status=$?
    ((status != 2)) || status=137
    ((status == 1)) || return "$status"
}

# One reading for all: the dump may come through a FIFO.
examine() {
    { read_artifact check | note_blocks "$WORK_DIR/blocks" | tee "$scratch/whole"; } 2>"$scratch/errors" | {
        contents | wc -l >"$WORK_DIR/entries" || echo "${PIPESTATUS[0]}" >"$scratch/unreadable"
        cat >/dev/null
    }
}

read_manifest
# Both would take away what is not in it. The key is no part of a name: there, quotes are escaped.
if [[ $manifest == *'"source": {"partial": true, '* && $MODE != Fail ]]; then
    fail BackupPartial "$ARTIFACT_PATH has a part of a database only, and mode $MODE would take away the rest of the target: restore it with mode Fail into an empty Database. Nothing was changed."
fi
((${JOBS:-1} == 1)) || [[ $format != plain ]] ||
    fail FormatUnsupported "$ARTIFACT_PATH is plain SQL, which only one session can load: create a Restore without spec.jobs. Nothing was changed."
directory=() # what pg_restore reads instead of its input
[[ $format != directory ]] || directory=("$STORE_DIR/$ARTIFACT_PATH/$file")
if [[ -n $globals ]]; then
    log "The roles of the server are in $ARTIFACT_PATH/$globals; they are not restored by this"
    printf '%s' "$globals" >"$WORK_DIR/globals" # for restore-swap
fi
name="$ARTIFACT_PATH/$file"
log "Checking $name: $format, $size bytes"
mkfifo "$scratch/whole"
sha256 <"$scratch/whole" >"$scratch/sha256" &
hasher=$!
status=0
run examine || status=$?
heed_store
((status != 3)) || no_room
((status != 0 && status != 141)) || wait "$hasher" || status=$? # 141: the hasher has ended before its input did
((status <= 128)) || stopped "$status"
((status == 0)) || fail ChecksumMismatch "$name cannot be read: $(head -c 300 "$scratch/errors")"
read -r actual <"$scratch/sha256"
[[ $actual == "$sha256" ]] ||
    fail ChecksumMismatch "$name is damaged: its sha256 is $actual, its manifest says $sha256. Restore another backup."
[[ -z $EXPECTED_SHA256 || $actual == "$EXPECTED_SHA256" ]] ||
    fail ChecksumMismatch "$name is not what was backed up: its sha256 is $actual, its Backup says $EXPECTED_SHA256."

if [[ -e $scratch/unreadable ]]; then
    status=$(<"$scratch/unreadable")
    ((status <= 128)) || stopped "$status"
    # Only pg_restore can find that a dump cannot be read, and it says so.
    [[ $format != plain && $status == [1-9]* && -s $scratch/list ]] || no_room
    tool=$(tool_version pg_restore)
    if grep -qaE 'unsupported version|does not support compression' "$scratch/list"; then
        fail VersionMismatch "pg_restore $tool cannot read $name, which a newer pg_dump wrote: use an image (spec.image of the Database) of that version."
    fi
    fail RestoreFailed "pg_restore $tool cannot read $name: $(masked "$scratch/list")"
fi
[[ -s $WORK_DIR/entries ]] || no_room
log "The backup is whole: sha256 $actual, $SECONDS s"
