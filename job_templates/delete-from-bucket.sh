# Deletes the artifact of one Backup, $ARTIFACT_PATH. First goes the manifest, without which there is no backup; so an
# interruption leaves nothing that looks like one, and the next run finds the dumps by their names. The path has the UID
# of the Backup: nobody else writes there.

readonly DUMPS='^(dump|globals)[A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$'

# fail REASON MESSAGE: as in lib.sh; this container has nobody beside it.
fail() {
    log "FAILED: $1: $2"
    text=$(printf %s "$2" | tr '\001-\037' ' ' | cut -c 1-1500 | sed 's/[\\"]/\\&/g')
    printf '{"error": {"reason": "%s", "message": "%s"}}\n' "$1" "$text" >"${TERMINATION_LOG:-/dev/termination-log}"
    rm -rf "$scratch"
    exit 1
}

# list: what of the artifact is there, in $scratch/names.
list() {
    store lsf -R --files-only "$REMOTE/$ARTIFACT_PATH" >"$scratch/all" || blame DeletionFailed "list $ARTIFACT_PATH in"
    grep -E "^manifest\.json$|$DUMPS" "$scratch/all" >"$scratch/names" || true
}

# delete NAME: it may be gone already, which rclone says by 4.
delete() {
    store deletefile "$REMOTE/$ARTIFACT_PATH/$1" || [ $? = 4 ] || blame DeletionFailed "delete $ARTIFACT_PATH/$1 from"
}

case $ARTIFACT_PATH in
*..* | *-"$BACKUP_UID"/* | .* | */.*) own=false ;;
*-"$BACKUP_UID") own=true ;;
*) own=false ;;
esac
[ "$own" = true ] || fail InternalError "$ARTIFACT_PATH is not a directory of Backup $BACKUP_UID."
fetch_manifest || blame DeletionFailed "read the manifest of $ARTIFACT_PATH in"
if [ -s "$scratch/manifest" ]; then
    grep -qF "\"location\": \"$ARTIFACT_PATH\"" "$scratch/manifest" && grep -qF "\"backupUID\": \"$BACKUP_UID\"" "$scratch/manifest" ||
        fail DeletionFailed "$ARTIFACT_PATH/manifest.json in $STORE is not the manifest of this Backup; nothing was deleted. Look whose it is, and delete it by hand."
fi
log "Deleting $ARTIFACT_PATH from $STORE"
delete manifest.json
list
while read -r name; do
    delete "$name"
done <"$scratch/names"
store backend cleanup -o max-age=-24h "$REMOTE/$ARTIFACT_PATH" || blame DeletionFailed "abort the unfinished uploads of $ARTIFACT_PATH in"
list
[ ! -s "$scratch/names" ] ||
    fail DeletionFailed "$STORE took the deletion of $ARTIFACT_PATH without an error, but still has $(head -n 1 "$scratch/names")."
rm -rf "$scratch"
log "Deleted: $ARTIFACT_PATH"
