# What restore-check ends with where the backup is verified: its sha256 is the one that was recorded when it was made.

[[ $format != plain || -s $WORK_DIR/complete ]] || echo >"$WORK_DIR/room" || no_room # for that, it may be missing too
[[ $format != plain || -s $WORK_DIR/complete ]] || fail RestoreFailed "$name cannot be restored: its end is missing."
read -r entries <"$WORK_DIR/entries"
# For verify-restore: initdb wants to know its user's name, and not every image has one for the UID that Jobs run with.
printf 'postgres:x:%d:%d::/tmp:/bin/sh\n' "$(id -u)" "$(id -g)" >"$WORK_DIR/passwd"
report "{\"entries\": $entries}"
