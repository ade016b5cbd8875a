# Loads the backup in several sessions at once; put before restore-load.sh. For mode Replace, whose database nobody uses
# before it is whole: there is no transaction around all of it. pg_restore opens the backup itself, many times.

# write_list BACKUP: what is to be restored, in the order of the dump, without what write_filter would take out of its text.
# By numbers, which the text has with --verbose: the names in a list are ambiguous.
# Nothing stops at an error by itself in here, and not every sed or grep minds a full disk: what is written there ends with
# a line that has to be there.
write_list() {
    pg_restore --list "$1" >"$scratch/all" || return
    grep -aE '^[0-9]+; [0-9]+ [0-9]+ (SCHEMA - |COMMENT - EXTENSION )' "$scratch/all" >"$scratch/some" || (($? == 1)) || return
    pg_restore --verbose --use-list="$scratch/some" -f "$scratch/text" "$1" || return
    cat >"$scratch/rules" <<RULES || return
/^-- TOC entry [0-9]+ /{s/^-- TOC entry ([0-9]+) .*\$/^\1; /;h;}
/^CREATE SCHEMA (${answer%$'\n'*});\$/{g;p;}
/^COMMENT ON EXTENSION (${answer#*$'\n'}) IS '.*';\$/{g;p;}
\$s/.*/^;end\$/p
RULES
    sed -nE -f "$scratch/rules" "$scratch/text" >"$scratch/there" || return
    [[ $(tail -n 1 "$scratch/there") == '^;end$' ]] || return
    { cat "$scratch/all" && echo ';all'; } >"$scratch/whole" || return
    grep -av -f "$scratch/there" "$scratch/whole" >"$scratch/list" || return
    [[ $(tail -n 1 "$scratch/list") == ';all' ]]
}

# load_in_parallel: after answer has the schemas and extensions that are there.
load_in_parallel() {
    local backup="$STORE_DIR/$ARTIFACT_PATH/$file"
    log "Loading $size bytes ($format) in $JOBS sessions"
    loaded=0
    run write_list "$backup" 2>"$scratch/content" || loaded=$?
    # The empty name means $PGDATABASE, and is never taken for a connection string.
    ((loaded != 0)) || run pg_restore --jobs="$JOBS" --use-list="$scratch/list" --exit-on-error --no-owner --no-password \
        --dbname= "$backup" 2>"$scratch/content" || loaded=$?
    compare_again # first: that may be why it failed
    ((loaded <= 128)) || fail RestoreFailed "pg_restore was stopped by signal $(kill -l "$loaded"). $untouched"
    ((loaded == 0)) || [[ -n $(masked "$scratch/content") ]] ||
        fail RestoreFailed "The list of what is to be restored could not be written: has the node's disk room ($(room "$scratch"))? $untouched"
    ((loaded == 0)) || {
        mv "$scratch/content" "$scratch/errors"
        broken RestoreFailed "The dump cannot be loaded"
    }
}
