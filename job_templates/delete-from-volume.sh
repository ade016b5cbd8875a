# Deletes the artifact of one Backup, $ARTIFACT_PATH, and what killed pods of it left beside it. First it stops to be a
# backup, by one rename; so an interruption leaves nothing that looks like one, and the next run ends the work.

directory="$STORE_DIR/$ARTIFACT_PATH"
parent=${directory%/*} name=${directory##*/}
doomed="$parent/.$name.deleted"

# volume COMMAND...: a command that writes into the backup volume.
volume() {
    run "$@" 2>"$scratch/volume" ||
        fail DeletionFailed "Cannot delete $ARTIFACT_PATH from the backup volume: $(head -c 500 "$scratch/volume")"
}

[[ $name == *-"$BACKUP_UID" && $name != .* ]] || fail InternalError "$ARTIFACT_PATH is not a directory of Backup $BACKUP_UID."
if [[ ! -e $parent && ! -L $parent ]]; then
    log "There is nothing at $ARTIFACT_PATH"
    exit
fi
# Neither .. nor symbolic links lead out of the store.
[[ $(cd -P "$parent" && pwd) == "$(cd -P "$STORE_DIR" && pwd)/${ARTIFACT_PATH%/*}" ]] ||
    fail DeletionFailed "The way to $ARTIFACT_PATH leads through a symbolic link; nothing was deleted. Delete it by hand."
[[ ! -L $directory && (! -e $directory || -d $directory) ]] ||
    fail DeletionFailed "$ARTIFACT_PATH is no directory, as a dump makes it; nothing was deleted. Delete it by hand."
if [[ -s $directory/manifest.json ]]; then
    manifest=$(head -c 4000 "$directory/manifest.json" | tr -d '\0')
    [[ $manifest == *'"location": "'"$ARTIFACT_PATH"'"'* && $manifest == *'"backupUID": "'"$BACKUP_UID"'"'* ]] ||
        fail DeletionFailed "$ARTIFACT_PATH/manifest.json is not the manifest of this Backup; nothing was deleted. Look whose it is, and delete it by hand."
fi
volume rm -rf "$doomed"
if [[ -e $directory ]]; then
    volume mv -T "$directory" "$doomed"
    volume sync "$parent"
    log "Deleting $ARTIFACT_PATH"
fi
# The directory of the Database stays, be it empty: another pod may be about to write there.
volume rm -rf "$doomed" "$parent/.$name".*.partial
volume sync "$parent"
log "Deleted: $ARTIFACT_PATH"
