# Shared by all Job scripts: put before each of them when a Job is rendered.
# Values come through the environment only; the outcome goes into the pod's termination message as one JSON object.
set -euo pipefail
umask 007
export LC_ALL=C PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-10}" PGAPPNAME="${PGAPPNAME:-postgres-operator}"

readonly TERMINATION_LOG="${TERMINATION_LOG:-/dev/termination-log}"
scratch=$(mktemp -d "${TMPDIR:-/tmp}/job.XXXXXX") # for captured error output; never on a backup volume

log() { printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*"; }

# A JSON string of the arguments: quotes and control characters escaped, cut to fit a termination message (4096 bytes)
# at a character's boundary.
json_string() {
    local text
    text=$(printf '%s' "$*" | head -c 1500 | iconv -c -f UTF-8 -t UTF-8 2>/dev/null | tr '\n\t' '  ' | tr -d '\000-\037\177')
    text=${text//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

# report JSON: the result of this script.
report() { printf '{"result": %s}\n' "$1" >"$TERMINATION_LOG"; }

# fail REASON MESSAGE: reasons are part of the interface, see docs/reasons.md.
fail() {
    trap - ERR
    log "FAILED: $1: $2"
    printf '{"error": {"reason": "%s", "message": %s}}\n' "$1" "$(json_string "$2")" >"$TERMINATION_LOG"
    exit 1
}

# masked FILE: the first error that PostgreSQL's programs wrote there, in one line, without what may be row data:
# DETAIL and CONTEXT lines are left out, and so are quoted values (identifiers stay).
masked() {
    grep -aE -m1 '(ERROR|FATAL|PANIC|error|fatal): ' "$1" 2>/dev/null |
        sed -E -e 's/^(psql|pg_dump|pg_restore)[^ ]*: (<stdin>:[0-9]+: |[^ ]+:[0-9]+: )?//' \
            -e 's/(: |value |string |range |literal |for type [a-z ]+: )"[^"]*("|$)/\1"…"/g' | head -c 800 || true
}

# connect_failure FILE: turns the error output of a failed connection into an outcome.
connect_failure() {
    local text
    text=$(masked "$1")
    case $text in
    *'password authentication failed'* | *'no password supplied'* | *'no pg_hba.conf entry'* | *'role "'*'does not exist'*)
        fail AuthenticationFailed "$PGHOST:$PGPORT refuses the login: $text. Do the passwords in the Secret fit the server's?" ;;
    *'database "'*'does not exist'*)
        fail DatabaseMissing "There is no such database on $PGHOST:$PGPORT: $text" ;;
    *)
        fail DatabaseUnreachable "No connection to $PGHOST:$PGPORT: ${text:-$(head -c 300 "$1" | tr '\n' ' ')}" ;;
    esac
}

# connect SECONDS: waits that long for a server that lets us log in to $PGDATABASE; sets server_version.
# pg_isready alone would pass with a wrong password and for a missing database.
connect() {
    local deadline=$((SECONDS + $1))
    until server_version=$(psql -XAtqw -c 'SHOW server_version' 2>"$scratch/connect"); do
        if grep -qaE 'password|pg_hba|does not exist' "$scratch/connect" || ((SECONDS >= deadline)); then
            connect_failure "$scratch/connect"
        fi
        sleep 1
    done
    server_version=${server_version%% *}
}

tool_version() { "$1" --version | sed -E 's/^.*\(PostgreSQL\) ([0-9A-Za-z.]+).*$/\1/'; }

trap 'fail InternalError "The script stopped unexpectedly at: $BASH_COMMAND"' ERR
trap 'exit 143' TERM INT
