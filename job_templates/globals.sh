# Keeps what belongs to the server and not to a database: its roles, their memberships and their settings. No password is in
# it. A person may run it as a superuser; so it must do nothing to that one.

# dump_globals: writes and stores them, and sets globals_field to what the manifest says of them.
dump_globals() {
    local text sha256
    log "Keeping the roles as $GLOBALS"
    PGOPTIONS=$UNDISTURBED run psql -XAtqw >"$scratch/own" 2>"$scratch/connect" <<'SQL' || connect_failure "$scratch/connect"
-- The server's first superuser; and that of servers of ours, who is a lesser role elsewhere.
SELECT quote_ident(rolname) FROM pg_roles WHERE oid = 10 OR rolname = 'postgres';
SQL
    # With passwords, it would need the superuser.
    if ! PGOPTIONS=$UNDISTURBED run pg_dumpall --globals-only --no-role-passwords --no-tablespaces --no-password \
        --database="$PGDATABASE" >"$scratch/all" 2>"$scratch/dump"; then
        text=$(masked "$scratch/dump")
        fail DumpFailed "pg_dumpall cannot read the server's roles: ${text:-it has ended without a message}"
    fi
    others "$scratch/own" "$scratch/all" >"$scratch/globals" && [[ $(tail -n 20 "$scratch/globals") == *$'\n-- PostgreSQL database cluster dump complete\n'* ]] ||
        fail DumpFailed "pg_dumpall ended well, but the end of what it wrote is missing."
    store_globals "$GLOBALS"
    sha256=$(sha256 <"$scratch/globals")
    globals_field="\"globals\": {\"file\": \"$GLOBALS\", \"sha256\": \"$sha256\"}, "
}

# others OWN ALL: the statements of ALL but those about the roles that OWN lists. A value may go over several lines, each of
# which may look like a statement: so quotes are followed.
others() {
    awk '
        NR == FNR { own[$0]; next }
        quote == "" {
            dropped = 0
            if (/^(--|\\)/) { print; next }
            for (role in own)
                if (index($0, "CREATE ROLE " role ";") == 1 || index($0, "ALTER ROLE " role " ") == 1) dropped = 1
        }
        {
            if (!dropped) print
            gsub(/[^"\047]/, "")
            for (i = 1; i <= length($0); i++) {
                mark = substr($0, i, 1)
                if (quote == "") quote = mark
                else if (mark == quote) quote = ""
            }
        }
        END { exit quote != "" }' "$@"
}
