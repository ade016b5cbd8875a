# Shared by all Job scripts: put before each of them when a Job is rendered.
# Values come through the environment only; the outcome goes into the pod's termination message as one JSON object.
set -euo pipefail
umask 007
# C: one byte is one character, and messages are in English. UTF8: so are names, whatever the database's encoding.
export LC_ALL=C PGCLIENTENCODING=UTF8 PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-10}" PGAPPNAME="${PGAPPNAME:-postgres-operator}"

readonly TERMINATION_LOG="${TERMINATION_LOG:-/dev/termination-log}"
scratch= # a directory for captured error output; never on a backup volume

log() { printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }

# A JSON string of the arguments: quotes and control characters escaped, cut to fit a termination message (4096 bytes)
# at a character's boundary.
json_string() {
    local text=${*//[[:cntrl:]]/ }
    if ((${#text} > 1500)); then
        text=${text:0:1500}
        while [[ $text == *[$'\x80'-$'\xbf'] ]]; do text=${text%?}; done
        text="${text%[$'\xc0'-$'\xff']}…"
    fi
    text=${text//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

# report JSON: the result of this script; the last thing it does.
report() { printf '{"result": %s}\n' "$1" >"$TERMINATION_LOG"; }

# fail REASON MESSAGE: reasons are part of the interface, see docs/troubleshooting.md. In a subshell too, the first one counts.
fail() {
    log "FAILED: $1: $2"
    [[ -s $TERMINATION_LOG ]] ||
        printf '{"error": {"reason": "%s", "message": %s}}\n' "$1" "$(json_string "$2")" >"$TERMINATION_LOG"
    exit 1
}

# run COMMAND...: the command, but SIGTERM is heeded at once: bash waits for a foreground command to end first.
run() {
    "$@" <&0 &
    wait $!
}

# room DIRECTORY: what is left on its disk.
room() { df -Ph "$1" | awk 'END { print $4 " of " $2 " free" }'; }

# sha256: the checksum of its standard input. Where the image has openssl, that is several times as fast.
sha256() { if command -v openssl >/dev/null; then openssl dgst -sha256 -r; else sha256sum; fi | cut -c 1-64; }

cleanup() { :; } # for scripts to replace: runs at the very end, whatever that is

finish() {
    local code=$? command=$BASH_COMMAND
    trap '' TERM INT
    set +e
    # shellcheck disable=SC2046 # process ids
    kill $(jobs -p) 2>/dev/null
    wait
    cleanup
    rm -rf "$scratch"
    # A signal leaves no report: Kubernetes knows better why the pod had to end.
    if ((code != 0 && code <= 128)) && [[ ! -s $TERMINATION_LOG ]]; then
        fail InternalError "The script stopped unexpectedly (exit code $code) at: $command"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 143' TERM INT
scratch=$(mktemp -d "${TMPDIR:-/tmp}/job.XXXXXX") || fail InternalError "The container cannot write to its /tmp: has the node's disk room?"

# masked FILE: the first error that PostgreSQL's programs wrote there, in one line and without what may be row data:
# DETAIL and CONTEXT lines are left out; a quoted text stays only where it is a name, by the word before it, and from
# the first one that is not all is left out (a value may contain quotes and newlines itself). A server may speak another
# language, and quote as that does: what it says is left out where it does not say ERROR, and the words for names are English.
masked() {
    local kinds='relation|table|view|index|sequence|column|constraint|trigger|rule|policy|type|domain|schema|extension|function'
    kinds+='|procedure|aggregate|operator|cast|collation|locale|language|role|user|database|tablespace|encoding|parameter|publication'
    kinds+='|subscription|server|wrapper|method|class|family|configuration|dictionary|object|file|directory|at|host|certificate for'
    grep -aE -m1 '(ERROR|FATAL|PANIC|error|fatal): ' "$1" 2>/dev/null |
        sed -E -e 's/^(psql|pg_dump|pg_restore)[^ ]*: ((error|detail): )?//' \
            -e $'s/:  /\003/' -e $'/(ERROR|FATAL|PANIC)\003/!s/\003.*/\003…/' -e $'s/\003/:  /' \
            -e 's/«|»|„|“|”|‘|’|‚|‹|›|「|」|『|』/"/g' \
            -e ':name' -e "s/^(([^\"]*[^a-z])?($kinds)( name)? )\"([^\"]*)\"/\1"$'\001\\5\002/' -e 'tname' \
            -e 's/".*"( is out of range for type [a-z ]+)$/"…"\1/' -e 'tend' -e 's/".*/"…"/' -e ':end' \
            -e $'s/[\001\002]/"/g' | head -c 800 || true
}

# tls_failed FILE: whether a connection failed for its TLS settings: another try would not help. A server of ours, for
# which there are none, says "no encryption" too; one that stops in the middle ends with an "unexpected eof".
tls_failed() {
    [[ -n ${PGSSLMODE:-} ]] &&
        grep -qaE 'SSL error: |does not support SSL|server certificate|root certificate|, (no encryption|SSL off)$' \
            <(grep -av 'unexpected eof' "$1")
}

# connect_failure FILE: turns the error output of a failed connection into an outcome.
connect_failure() {
    local text
    # There is a line for each address of the host; the last one says what ended the attempt.
    text=$(masked <(sed -nE 's/^(psql: error: )?(connection to server .* failed: )/psql: error: \2/p' "$1" | tail -n 1))
    [[ -n $text ]] || text=$(masked "$1")
    if tls_failed "$1"; then
        fail TlsFailed "No connection to $PGHOST:$PGPORT with sslMode $PGSSLMODE, as spec.external of the Database says: $text"
    fi
    case $(<"$1") in
    *'password authentication failed'* | *'no password supplied'* | *'no pg_hba.conf entry'* | \
        *'is not permitted to log in'* | *'permission denied for database'* | *'valid client certificate'* | *'role "'*'" does not exist'*)
        fail AuthenticationFailed "$PGHOST:$PGPORT refuses the login: $text. Do the passwords in the Secret fit the server's?" ;;
    *'database "'*'" does not exist'*)
        fail DatabaseMissing "There is no such database on $PGHOST:$PGPORT: $text" ;;
    *)
        fail DatabaseUnreachable "No connection to $PGHOST:$PGPORT: $text" ;;
    esac
}

# PGOPTIONS that no setting of a server, database or role can disturb: names mean PostgreSQL's own, and are quoted where they
# have to be, nothing is read-only, nothing times out, what is committed is on disk, a connection on which nothing is said
# for long is not forgotten on its way, and the server notices within a second that a client is gone (its transaction
# rolls back).
readonly CHECKED=' -c client_connection_check_interval=1s'
UNDISTURBED='-c search_path=pg_catalog -c standard_conforming_strings=on -c default_transaction_read_only=off
 -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0
 -c quote_all_identifiers=off -c tcp_keepalives_idle=60 -c tcp_keepalives_interval=10 -c synchronous_commit=on'$CHECKED

# connect SECONDS: waits that long for a server that lets us log in to $PGDATABASE; sets server_version ("17.6").
# pg_isready alone would pass with a wrong password and for a missing database.
connect() {
    local deadline=$((SECONDS + $1))
    [[ -z ${PGSSLROOTCERT:-} || -s $PGSSLROOTCERT ]] || # libpq might go on without
        fail CredentialsLost "The Secret that spec.external.caSecretRef of the Database names is not there, or has no key ca.crt."
    until run psql -XAtqw -c 'SHOW server_version' >"$scratch/version" 2>"$scratch/connect"; do
        if [[ ${PGOPTIONS:-} == *"$CHECKED"* ]] && grep -qa client_connection_check_interval "$scratch/connect"; then
            PGOPTIONS=${PGOPTIONS/"$CHECKED"/} UNDISTURBED=${UNDISTURBED/"$CHECKED"/} # not every system can do that
            continue
        fi
        if grep -qaE 'password authentication|no password|pg_hba|to log in|permission denied|" does not exist|client certificate' "$scratch/connect" ||
            tls_failed "$scratch/connect" || ((SECONDS >= deadline)); then
            connect_failure "$scratch/connect"
        fi
        log "Not yet: $(masked "$scratch/connect")"
        run sleep 1
    done
    read -r server_version _ <"$scratch/version"
    ((${server_version%%[!0-9]*} >= 14)) || UNDISTURBED=${UNDISTURBED/"$CHECKED"/} # where that setting came
    if knows_timeout; then
        UNDISTURBED+=' -c transaction_timeout=0'
        [[ -z ${PGOPTIONS:-} ]] || PGOPTIONS+=' -c transaction_timeout=0'
    fi
}

# knows_timeout: whether the server has transaction_timeout, which pg_dump and pg_restore since 17 set at the beginning.
knows_timeout() { ((${server_version%%[!0-9]*} >= 17)); }

tool_version() { "$1" --version | sed -E 's/^.*\(PostgreSQL\) ([0-9A-Za-z.]+).*$/\1/'; }

# read_manifest: sets manifest (JSON, one line), file, format, size and sha256 of the dump in $ARTIFACT_PATH, globals (the file
# of the roles) and inventory where it has them, and makes sure that the dump is there in full. It may be anybody's.
read_manifest() {
    local version='"([0-9][0-9A-Za-z.~+-]*)"' actual
    local pattern='^\{"schema": 1, "location": "[^"\\]+", "file": "(dump(-[0-9a-z-]+)?\.(pgdump|sql|dir))", "format": "(custom|plain|directory)"'
    pattern+=', "sizeBytes": ([1-9][0-9]{0,17}), "sha256": "([0-9a-f]{64})", "serverVersion": '"$version"
    pattern+=', "toolVersion": '"$version"', "backupTime": "[0-9TZ:-]+"'
    pattern+='(, "globals": \{"file": "(globals(-[0-9a-z-]+)?\.sql)", "sha256": "[0-9a-f]{64}"\})?'
    pattern+='(, "inventory": (\{[^\{}]*\{[^\{}]*\}\}))?, "source": \{.*\}\}$'
    fetch_manifest
    [[ $manifest =~ $pattern && $manifest != *$'\n'* ]] || fail ManifestInvalid "$ARTIFACT_PATH/manifest.json is not a manifest as dumps write it."
    file=${BASH_REMATCH[1]} format=${BASH_REMATCH[4]} size=${BASH_REMATCH[5]} sha256=${BASH_REMATCH[6]}
    globals=${BASH_REMATCH[10]} inventory=${BASH_REMATCH[13]}
    [[ $format == custom && $file == *.pgdump || $format == plain && $file == *.sql || $format == directory && $file == *.dir ]] ||
        fail ManifestInvalid "$ARTIFACT_PATH/manifest.json names $file, but its format is $format."
    actual=$(stored_size)
    [[ -n $actual ]] || fail ArtifactMissing "$ARTIFACT_PATH/$file is missing."
    [[ $actual == "$size" ]] || fail ChecksumMismatch "$ARTIFACT_PATH/$file has $actual bytes; its manifest says $size."
}
