# Makes sure that the backup is whole and readable, before anything touches the database. Needs no credentials.

read_manifest
name="$ARTIFACT_PATH/${artifact##*/}"
log "Checking $name: $format, $size bytes"
run sha256sum <"$artifact" >"$scratch/sha256" 2>"$scratch/errors" ||
    fail ChecksumMismatch "$name cannot be read: $(head -c 300 "$scratch/errors")"
read -r actual _ <"$scratch/sha256"
[[ $actual == "$sha256" ]] ||
    fail ChecksumMismatch "$name is damaged: its sha256 is $actual, its manifest says $sha256. Restore another backup."
[[ -z $EXPECTED_SHA256 || $actual == "$EXPECTED_SHA256" ]] ||
    fail ChecksumMismatch "$name is not what was backed up: its sha256 is $actual, its Backup says $EXPECTED_SHA256."

if [[ $format == custom ]] && ! run pg_restore --list "$artifact" >"$scratch/list" 2>"$scratch/errors"; then
    tool=$(tool_version pg_restore)
    if grep -qaE 'unsupported version|does not support compression' "$scratch/errors"; then
        fail VersionMismatch "pg_restore $tool cannot read $name, which a newer pg_dump wrote: use an image (spec.image of the Database) of that version."
    fi
    fail RestoreFailed "pg_restore $tool cannot read $name: $(masked "$scratch/errors")"
fi
log "The backup is whole: sha256 $actual, $SECONDS s"
