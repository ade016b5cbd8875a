# Restores the backup into a server of its own, and compares what is there then with what the dump has seen. Only this
# container reaches that server, through a Unix socket; its data lies in $DATA_DIR, and is worth nothing afterwards.
# What executes the dump here has no password of anything.

readonly data="$DATA_DIR/data"
cleanup() { rm -rf "$data"; }
# The superuser must not be called like a role of the dump.
export PGHOST=$scratch PGPORT=5432 PGUSER='superuser of the test' PGDATABASE=postgres

start_server() {
    run initdb -D "$data" -U "$PGUSER" -A trust -E UTF8 --locale=C --no-sync >"$scratch/initdb" 2>&1 ||
        incomplete "initdb cannot make a server for the test: $(masked "$scratch/initdb")."
    # Nothing has to survive a crash. /dev/shm is small in a container, so nothing runs in parallel.
    postgres -D "$data" -k "$scratch" -c listen_addresses= -c fsync=off -c full_page_writes=off -c synchronous_commit=off \
        -c wal_level=minimal -c max_wal_senders=0 -c autovacuum=off -c max_locks_per_transaction=1024 \
        -c max_parallel_workers=0 -c max_parallel_maintenance_workers=0 -c log_min_error_statement=panic \
        -c logging_collector=off >"$scratch/server" 2>&1 &
    server=$!
    trap 'kill -QUIT "$server"; exit 143' TERM INT # otherwise it would wait for the session that loads
    until run psql -XAtqw -c 'SHOW server_version' >"$scratch/version" 2>"$scratch/connect"; do
        kill -0 "$server" 2>/dev/null || incomplete "The server for the test does not start: $(masked "$scratch/server")."
        run sleep 0.1
    done
    read -r server_version _ <"$scratch/version"
}

# create_database: one with the encoding and locale of the one that was dumped, and the schemas that selected tables need.
# It belongs to a role like the one that has dumped it, as whom the dump is loaded: so would a Restore. Extensions that
# only a superuser can create are there, as they have to be in a Restore's target: the function creates them.
create_database() {
    local text='([A-Za-z0-9_.@=; -]*)' pattern
    pattern="\"origin\": \{\"encoding\": \"$text\", \"collate\": \"$text\", \"ctype\": \"$text\", \"provider\": \"$text\", \"locale\": \"$text\""
    pattern+="(, \"rules\": \"$text\", \"owner\": \"$text\", \"superuser\": \"$text\", \"strangers\": \"$text\")?\}"
    [[ $inventory =~ $pattern ]] || fail ManifestInvalid "The inventory in $ARTIFACT_PATH/manifest.json is not as dumps write it."
    run psql -XAtqw -v ON_ERROR_STOP=1 -v encoding="${BASH_REMATCH[1]}" -v collate="${BASH_REMATCH[2]}" -v ctype="${BASH_REMATCH[3]}" \
        -v provider="${BASH_REMATCH[4]}" -v locale="${BASH_REMATCH[5]}" -v rules="${BASH_REMATCH[7]}" -v owner="${BASH_REMATCH[8]}" \
        -v superuser="${BASH_REMATCH[9]}" -v strangers="${BASH_REMATCH[10]}" -v lines="${SELECTION:-}" \
        >"$scratch/owner" 2>"$scratch/create" <<'SQL' ||
SELECT convert_from(decode(:'owner', 'hex'), 'UTF8') AS owner \gset
SELECT CASE :'owner' WHEN '' THEN 'owner' ELSE :'owner' END AS owner, CASE :'superuser' WHEN 'on' THEN 'SUPERUSER' ELSE '' END AS kind \gset
CREATE ROLE :"owner" LOGIN :kind;
SELECT format('CREATE ROLE %I', convert_from(decode(name, 'hex'), 'UTF8')) FROM regexp_split_to_table(:'strangers', ' ') AS name WHERE name <> '' \gexec
SELECT format('CREATE DATABASE restored TEMPLATE template0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L', :'owner', :'encoding', :'collate', :'ctype')
    || CASE :'provider' WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', :'locale')
                        WHEN 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', :'locale') ELSE '' END
    || CASE :'rules' WHEN '' THEN '' ELSE format(' ICU_RULES %L', convert_from(decode(:'rules', 'hex'), 'UTF8')) END \gexec
\connect restored
SELECT DISTINCT format('CREATE SCHEMA IF NOT EXISTS %I AUTHORIZATION %I', split_part(line, E'\t', 2), :'owner')
FROM regexp_split_to_table(:'lines', '\n') AS line WHERE line LIKE E'table\t%' \gexec
CREATE SCHEMA postgres_operator;
GRANT USAGE ON SCHEMA postgres_operator TO PUBLIC;
CREATE FUNCTION postgres_operator.create_for_owner(statement text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    EXECUTE statement;
END $$;
CREATE FUNCTION postgres_operator.create_extension(statement text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
EXCEPTION WHEN insufficient_privilege THEN
    PERFORM postgres_operator.create_for_owner(statement);
END $$;
CREATE FUNCTION postgres_operator.know(role text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF to_regrole(role) IS NULL THEN
        EXECUTE 'CREATE ROLE ' || role;
    END IF;
END $$;
SELECT :'owner';
SQL
        incomplete "The image cannot make a database with the encoding and locale of the one that was dumped (${BASH_REMATCH[*]:1:5}): $(masked "$scratch/create")."
    owner=$(<"$scratch/owner")
    [[ -n $owner ]] || no_room
    export PGDATABASE=restored
}

# Tablespaces are the server's. Those who have granted what they were granted have to be known, for the server to say that
# nobody else may do that for them.
write_filter() {
    begin_filter
    cat >>"$scratch/filter" <<'FILTER'
/^SET default_tablespace = /d
/^-- Name: .*; Type: SCHEMA; Schema: -; Owner: /,/^(CREATE SCHEMA |-- \*not\* creating schema)/{/^CREATE SCHEMA public;$/d;}
/^-- Name: .*; Type: EXTENSION; Schema: -; Owner: /,/^CREATE EXTENSION /{s/^(CREATE EXTENSION .*);$/SELECT postgres_operator.create_extension($_x_$\1$_x_$);/;}
/^-- Name: .*; Type: ACL; Schema: /{
n
:acl
n
/^--$/b
s/^SET SESSION AUTHORIZATION (.*);$/SELECT postgres_operator.know($_x_$\1$_x_$);\n&/
b acl
}
FILTER
}

# load: as the owner. Its status is that of reading. Goes on after an error: some do not count.
load() {
    local codes=(0 0 0)
    { printf '%s\n' "$restrict" && filtered 2>"$scratch/content"; } |
        { PGUSER=$owner psql -XAtqw -v VERBOSITY=verbose -f - 2>&1 >/dev/null || echo $? >"$scratch/psql"; } |
        errors >"$scratch/errors" || codes=("${PIPESTATUS[@]}")
    ((codes[1] == 0 && codes[2] == 0)) || : >"$scratch/errors"
    return "${codes[0]}"
}

# errors: the first lines of those in psql's output, and a last one: without it, some may be missing (not every awk minds a
# full disk). What a function raises is the application's own text, and may quote any data; where an error comes from is
# told after it.
errors() {
    awk '/(ERROR|FATAL|PANIC):  |backslash commands are restricted/ { if (text) print text; text = $0 }
        /^LOCATION:  exec_stmt_(raise|assert),/ && match(text, /(ERROR|FATAL|PANIC):  [0-9A-Z]+: /) {
            text = substr(text, 1, RSTART + RLENGTH - 1) "a function of the application raised an exception, whose text is left out here: it may quote data" }
        END { if (text) print text; print "all" }'
}

# found OPTION... PATTERN: the first of those lines that grep selects; nothing where there is none.
found() {
    local status=0
    grep -a -m 1 "$@" "$scratch/errors" || status=$?
    ((status <= 1)) || incomplete "What the restore has reported cannot be searched: grep has ended with $status."
}

# heed_image: fails when it was the image that lacks what the server of the database has.
heed_image() {
    local text
    text=$(found -E 'ERROR:  [0-9A-Z]{5}: (extension ".*" is not available|could not open extension control file |could not access file "|could not create locale "|collation ".*" for encoding ".*" does not exist|can only create extension in database |.*(must be preloaded|shared_preload_libraries))')
    [[ -z $text ]] || incomplete "The image lacks what the backup needs: $(masked <(terse <<<"$text")). An image with that (spec.image of the Database) may help."
}

# heed_server: fails when it was the server, or its disk or memory, that did not hold out (SQLSTATE).
heed_server() {
    local text
    text=$(found -E '(FATAL|PANIC):  |ERROR:  (53[0-9A-Z]{3}|57P..|58030): ')
    if [[ -n $text || -e $scratch/psql ]] || ! kill -0 "$server" 2>/dev/null; then
        incomplete "The server for the test did not hold out: $(masked <(terse <<<"${text:-ERROR: it ended, or its connection was lost}")). More room on the node, or memory (spec.resources.limits.memory), may help."
    fi
}
terse() { sed -E 's/((ERROR|FATAL|PANIC):  )[0-9A-Z]{5}: /\1/'; }

# changed: fails, since the backup is not what verify-check has seen.
changed() {
    fail ChecksumMismatch "$name is not what was checked: it was changed since, or can no longer be read to its end."
}

# wrong: prints the first error that counts. Roles are the server's, and in no dump: what is granted to them, or a policy
# for them, is left out. So are comments on extensions that a superuser has created, also by a Restore.
wrong() {
    found -vE 'ERROR:  [0-9A-Z]{5}: (role ".*" does not exist|policy ".*" for (table|relation) ".*" does not exist|must be owner of extension .*)$|^all$'
}

read_manifest
name="$ARTIFACT_PATH/$file"
[[ -n $inventory ]] || incomplete "$ARTIFACT_PATH/manifest.json has no inventory to compare with: a template backup.yaml.j2 of your own has to run snapshot.sh."
start_server
create_database
log "Restoring $size bytes ($format) into PostgreSQL $server_version"
write_filter
loaded=0
run load || loaded=$?
heed_store
[[ $format != directory ]] || run pinned >/dev/null 2>&1 || echo $? >"$scratch/source"
[[ ! -e $scratch/source ]] || heed_pinned "$(<"$scratch/source")"
[[ $(tail -n 1 "$scratch/errors") == all ]] || no_room
heed_server
heed_image
((loaded <= 128)) || incomplete "Reading the dump was stopped by signal $(kill -l "$loaded")."
# What is missing for want of room is not the backup's.
{ ((loaded == 0)) && [[ -s $scratch/complete ]]; } || echo >"$scratch/room" || no_room
((loaded == 0)) || fail RestoreFailed "$name cannot be read: $(masked "$scratch/content")"
[[ -s $scratch/complete ]] || fail RestoreFailed "$name cannot be restored: its end is missing."
text=$(wrong)
rights=
[[ $text != *'  42501: '* ]] || rights=". A role that is no superuser may not do that, and a Restore is its work: give up what needs one, or restore by hand as a superuser"
[[ -z $text ]] || fail RestoreFailed "$name cannot be restored into an empty database: $(masked <(terse <<<"$text"))$rights"

{ selected_sql && inventory_sql; } >"$scratch/inventory.sql" || no_room
((${server_version%%[!0-9]*} < 17)) || UNDISTURBED+=' -c event_triggers=off' # one may fire at a login
run inventory_psql '' yes -f "$scratch/inventory.sql" >"$scratch/inventory" 2>"$scratch/errors" ||
    incomplete "What was restored cannot be listed: $(masked <(terse <"$scratch/errors"))."
restored=$(summary "$scratch/inventory") || no_room
restored="{$restored"
dumped=${inventory%%, \"origin\"*}
words() { tr -d '{"' <<<"${1%, \"sha256\"*}"; }
[[ $restored == "$dumped" ]] ||
    fail RestoreFailed "$name does not give what was dumped. Dumped: $(words "$dumped"); restored: $(words "$restored"). Where the numbers are the same, names or the rows of single tables differ."
kill -QUIT "$server" # nothing needs to be written any more
log "Restored in $SECONDS s: $(words "$restored")"
report "${restored%, \"sha256\"*}, \"serverVersion\": \"$server_version\"}"
