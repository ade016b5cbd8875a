# Loads the backup as the application role: into the target (MODE Fail, Clean) or the database that restore-prepare made
# (Replace). All runs in one psql session that is fed step by step. In the target it is one transaction; its COMMIT is
# sent only after the dump was sent in full, so whatever stops before that, this script included, undoes everything.

target=$PGDATABASE
untouched="Database $target was not changed."
end="end-of-answer-$RANDOM$RANDOM$RANDOM"
discard=
trap '' PIPE # when psql has ended, writing to it fails; it says itself why it ended
export PGOPTIONS=$UNDISTURBED

cleanup() {
    [[ -z $discard ]] || PGDATABASE=$target psql -XAtqw -v fresh="$discard" 2>"$scratch/errors" <<'SQL' ||
SET statement_timeout = '60s';
DROP DATABASE IF EXISTS :"fresh" WITH (FORCE);
SQL
        log "Database $discard is left behind: $(masked "$scratch/errors")"
}

start_session() {
    mkfifo "$scratch/in" "$scratch/out"
    # Verbose errors carry the code and the place that masking needs; they are shown masked only.
    psql -XAtqw -v ON_ERROR_STOP=1 -v VERBOSITY=verbose -v uid="$RESTORE_UID" -v location="$ARTIFACT_PATH" \
        -v patience="${LOCK_PATIENCE:-60s}" <"$scratch/in" >"$scratch/out" 2>"$scratch/errors" &
    session=$!
    exec {to}>"$scratch/in" {from}<"$scratch/out"
}

# tell: sends the SQL of its standard input to the session. hear: waits for the answer, up to the line by which the server
# shows that it did all of that (psql's own \echo would show up before a statement that was left open). Both fail when
# the session has ended.
tell() { { cat && printf "\n\\o\nSELECT '%s';\n" "$end"; } 1>&"$to" 2>/dev/null; }
hear() {
    local line
    answer=
    while IFS= read -r line <&"$from"; do
        [[ $line != "$end" ]] || return 0
        answer+="${answer:+$'\n'}$line"
    done
    return 1
}
ask() { tell && hear; }
# The last question also ends the input: where the dump left a quote open, the session would wait for more otherwise.
ask_last() { tell && exec {to}>&- && hear; }

# broken REASON WHAT: the session has ended before its time.
broken() {
    local reason=$1 text statement status=0 hint=
    exec {to}>&-
    wait "$session" || status=$?
    sed -E 's/((ERROR|FATAL|PANIC):  )[0-9A-Z]{5}: /\1/' "$scratch/errors" >"$scratch/terse"
    text=$(masked "$scratch/terse")
    statement=$(sed -nE 's/^(CONTEXT:  )?SQL statement "(DROP .*) CASCADE"$/\2/p' "$scratch/errors" | tail -n 1)
    [[ $reason != CleanFailed || -z $statement ]] || text+=" ($statement)"
    # What a function raises is the application's own text, and may quote any data.
    # psql says so in the last line of an error, pg_restore in its context.
    ! grep -aE '^LOCATION: | (RAISE|ASSERT)$' "$scratch/errors" | tail -n 1 | grep -qE ' (exec_stmt_(raise|assert), .*|RAISE|ASSERT)$' ||
        text='ERROR: a function of the application raised an exception, whose text is left out here: it may quote data'
    case $reason:$(grep -aE -m 1 '(ERROR|FATAL|PANIC): ' "$scratch/terse") in
    *'out of shared memory'*) reason=TooManyObjects hint="Restore with spec.mode Replace, which needs no lock on each of them, or raise max_locks_per_transaction." ;;
    *'unrecognized configuration parameter'* | *'invalid command \'*) reason=VersionMismatch hint="The dump needs a newer PostgreSQL: use an image (spec.image of the Database) like the one that made it." ;;
    *'role "'*'" does not exist'*) hint="Create that role and restore again." ;;
    *'permission denied to create extension'*) hint="Have a superuser create it in the target first." ;;
    *'lock timeout'*) hint="Other sessions use it: stop the application for the restore, or use spec.mode Replace." ;;
    CleanFailed:*'must be owner'* | CleanFailed:*'permission denied'*) hint="It belongs to another role: have that drop it, or use spec.mode Replace." ;;
    esac
    ! grep -qa '^backslash commands are restricted' "$scratch/errors" || text="it has a command of psql's own, such as \\!, which no pg_dump writes"
    [[ -n $text ]] || text="psql ended with exit code $status"
    fail "$reason" "$2: $text. ${hint:+$hint }$untouched"
}

# What is there already is not made again. Names are regular expressions.
write_filter() {
    local schemas=${answer%$'\n'*} extensions=${answer#*$'\n'}
    begin_filter
    knows_timeout || cat >>"$scratch/filter" <<'FILTER'
1,/^-- (Data for )?Name: /{/^SET transaction_timeout = 0;$/d;}
FILTER
    cat >>"$scratch/filter" <<FILTER
/^-- Name: .*; Type: SCHEMA; Schema: -; Owner: /,/^(CREATE SCHEMA |-- \*not\* creating schema)/{/^CREATE SCHEMA ($schemas);\$/d;}
/^-- Name: EXTENSION .*; Type: COMMENT; Schema: -; Owner: /,/^COMMENT ON EXTENSION /{/^COMMENT ON EXTENSION ($extensions) IS '.*';\$/d;}
FILTER
    # pg_dump and pg_restore put large objects into a transaction of their own, which would be the end of ours.
    [[ $MODE == Replace ]] || cat >>"$scratch/filter" <<'FILTER'
/^-- Data for Name: .*; Type: BLOBS; Schema: -; Owner: /,/^COMMIT;$/{/^(BEGIN|COMMIT);$/d;}
FILTER
}

# changed: fails, since the backup is not what restore-check has seen.
changed() {
    fail ChecksumMismatch "$ARTIFACT_PATH/$file is not what was checked: it was changed since, or can no longer be read to its end. $untouched"
}

# keep_markers: the database that takes the target's place knows what was restored into that so far, since the Job of an
# earlier Restore may come back. Read as the application role, to whom the table belongs.
keep_markers() {
    PGDATABASE=$target connect 120 # the application may have used up its connections for a while
    PGDATABASE=$target run psql -XAtqw -v ON_ERROR_STOP=1 >"$scratch/markers" 2>"$scratch/connect" <<'SQL' ||
SET datestyle = ISO;
SELECT to_regclass('postgres_operator.restores') IS NULL AS first \gset
\if :first
\else
    COPY (SELECT restore_uid, location, finished_at FROM postgres_operator.restores) TO STDOUT;
\endif
SQL
        fail RestoreFailed "Cannot read table postgres_operator.restores, where earlier Restores are noted: $(masked "$scratch/connect"). $untouched"
    [[ -s $scratch/markers ]] || return 0
    ask < <(
        # Where one of them fails, the last line is missing, and COPY fails.
        printf '%s\nCOPY postgres_operator.restores FROM STDIN;\n' "$CREATE_MARKERS" && cat "$scratch/markers" && echo '\.'
    ) || broken RestoreFailed "Cannot note the earlier Restores"
}

# compare_again: where the loading reads files by itself, they are compared when that is done and nothing counts yet.
compare_again() {
    local status=0
    run pinned >/dev/null 2>&1 || status=$?
    heed_pinned "$status" "$untouched"
    ((status == 0)) || changed
}

read_manifest
if [[ $MODE == Replace ]]; then
    if [[ -e $WORK_DIR/finished ]]; then
        log "Another pod has finished this Restore already."
        exit 0
    fi
    PGDATABASE=$(<"$WORK_DIR/scratch")
    discard=$PGDATABASE # its owner may drop it
fi
connect 20
log "PostgreSQL $server_version at $PGHOST:$PGPORT, database $PGDATABASE, mode $MODE"
start_session
case $MODE in
Fail)
    begin_in_target
    [[ -z $answer ]] || fail TargetNotEmpty "Database $target is not empty: it has $answer. $untouched To restore all the same, create a Restore with spec.mode Replace or Clean."
    ;;
Clean)
    begin_in_target
    clean
    ;;
Replace) keep_markers ;; # each statement for itself: one transaction has room for so many locks, and half a database is never swapped in
*) fail InternalError "MODE is $MODE, not Fail, Clean or Replace." ;;
esac

ask <<'SQL' || broken RestoreFailed "Cannot see which schemas and extensions there are"
SELECT concat_ws(E'\n', coalesce(string_agg(pattern, '|') FILTER (WHERE schema), '-'),
                        coalesce(string_agg(pattern, '|') FILTER (WHERE NOT schema), '-'))
FROM (SELECT schema, regexp_replace(quote_ident(name), '[][\\.*^$(){}?+|/]', '\\\&', 'g') AS pattern
      FROM (SELECT true, nspname FROM pg_namespace WHERE (oid >= 16384 OR nspname = 'public') AND nspname NOT LIKE 'pg\_%'
            UNION ALL
            SELECT false, extname FROM pg_extension WHERE NOT pg_has_role(extowner, 'USAGE')) AS there (schema, name)
      WHERE name !~ '[\n\r]') AS patterns;
SQL
if [[ $MODE == Replace ]] && ((${JOBS:-1} > 1)) && ! knows_timeout; then
    tool=$(tool_version pg_restore)
    if ((${tool%%[!0-9]*} >= 17)); then
        log "pg_restore $tool cannot load into PostgreSQL $server_version in several sessions: one does it"
        JOBS=1
    fi
fi
if [[ $MODE == Replace ]] && ((${JOBS:-1} > 1)); then
    load_in_parallel
    ask_last </dev/null || broken RestoreFailed "The dump cannot be loaded"
    discard=
    log "Loaded in $SECONDS s"
    exit 0
fi
write_filter
printf '\\o /dev/null\n%s\n' "$restrict" >&"$to" || true # what is wrong shows below
log "Loading $size bytes ($format)"
loaded=0
run filtered 1>&"$to" 2>"$scratch/content" || loaded=$?
heed_store
[[ $format != directory ]] || compare_again
[[ ! -e $scratch/source ]] || heed_pinned "$(<"$scratch/source")" "$untouched"
if ((loaded != 0)); then
    ! grep -qaE 'Broken pipe|write error' "$scratch/content" || broken RestoreFailed "The dump cannot be loaded"
    ((loaded <= 128)) || fail RestoreFailed "Reading the dump was stopped by signal $(kill -l "$loaded"). $untouched"
    fail RestoreFailed "The dump cannot be read: $(masked "$scratch/content"). $untouched"
fi
[[ -s $scratch/complete ]] || fail RestoreFailed "The dump cannot be read: its end is missing. $untouched"
printf '%s\n' "$unrestrict" 2>/dev/null >&"$to" || true

if [[ $MODE == Replace ]]; then
    ask_last </dev/null || broken RestoreFailed "The dump cannot be loaded"
    discard=
    log "Loaded in $SECONDS s"
    exit 0
fi
ask_last <<'SQL' || settle
RESET ROLE; -- whatever the dump has set
INSERT INTO postgres_operator.restores VALUES (:'uid', :'location', pg_catalog.clock_timestamp());
DELETE FROM pg_temp.incomplete;
COMMIT;
SQL
log "Restored in $SECONDS s"
finished false
