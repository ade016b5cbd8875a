# Shared by upload.sh and download.sh, and put before them. They run beside the containers that work on the database, in
# the uploader's image: POSIX sh, busybox's tools and rclone. What they have to say is a note in $STORE_DIR.
# They stay until they get SIGTERM, since a sidecar that ends is started again.
set -eu
umask 007
# No idle timeout: a reader or a pg_dump may pause for hours. What hangs is found by watch().
export LC_ALL=C RCLONE_CONTIMEOUT=10s RCLONE_TIMEOUT=0 RCLONE_RETRIES=1 RCLONE_STATS=0

scratch=$(mktemp -d "${TMPDIR:-/tmp}/sidecar.XXXXXX")
errors="$scratch/errors"
child=
status=0 # of the rclone that sent or received the dump
undoing=
readonly WATCH_SECONDS="${WATCH_SECONDS:-30}" ANSWER_SECONDS="${ANSWER_SECONDS:-45}" SILENCE_SECONDS="${SILENCE_SECONDS:-150}"
patience=$ANSWER_SECONDS
if [ -n "${CA_CERT:-}" ]; then
    export RCLONE_CA_CERT="$scratch/ca.crt"
    printf '%s\n' "$CA_CERT" >"$RCLONE_CA_CERT"
fi

log() { printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }

# note NAME: its standard input becomes a note, which appears at once and whole. Through no link that lies there.
note() {
    rm -f "$STORE_DIR/.$1"
    (set -C && cat >"$STORE_DIR/.$1")
    mv "$STORE_DIR/.$1" "$STORE_DIR/$1"
}
noted() { [ -e "$STORE_DIR/$1" ]; }

# pause, run COMMAND...: SIGTERM is heeded at once: a shell waits for a foreground command to end first.
pause() { run sleep 0.2; }
run() {
    "$@" &
    child=$!
    wait "$child"
}
stay() { while :; do run sleep 3600; done; }

abandon() { :; } # for scripts to replace: undoes what is not finished

leave() {
    trap '' TERM INT
    if [ -n "$undoing" ]; then
        wait "$undoing" || true
    else
        kill "$child" 2>/dev/null || true
        wait "$child" || true
        abandon
    fi
    rm -rf "$scratch"
    exit 143
}
trap leave TERM INT

# fail REASON MESSAGE: the container beside this one ends with it; reasons as in lib.sh. First that one, then what has to
# be undone: this may take long, and as soon as the other one has ended, SIGTERM comes.
fail() {
    log "FAILED: $1: $2"
    noted failed || printf '%s\n%s\n' "$1" "$2" | note failed
    abandon &
    undoing=$!
    while :; do
        for fifo in "$STORE_DIR/dump" "$STORE_DIR/for-check" "$STORE_DIR/for-load"; do
            [ ! -p "$fifo" ] || : <>"$fifo" # whoever waits for its other end goes on; some begin to wait only later
        done
        run sleep 1
    done
}

# store COMMAND...: rclone, for so many seconds at most; when it fails, said has what it says.
store() { RCLONE_LOW_LEVEL_RETRIES=3 run timeout "$patience" rclone "$@" 2>"$errors"; }

# watch PID: kills the rclone that sends or receives the dump when the store has not answered well for $SILENCE_SECONDS. By
# itself it would try for very long, or for ever.
watch() {
    answered=$(uptime_seconds)
    while sleep "$WATCH_SECONDS"; do
        if RCLONE_LOW_LEVEL_RETRIES=1 timeout "$ANSWER_SECONDS" rclone lsf "$REMOTE/$ARTIFACT_PATH" >/dev/null 2>"$scratch/probe"; then
            answered=$(uptime_seconds)
        elif [ "$(($(uptime_seconds) - answered))" -ge "$SILENCE_SECONDS" ]; then
            mv "$scratch/probe" "$scratch/outage"
            kill -KILL "$1"
            return
        fi
    done
}
uptime_seconds() { cut -d . -f 1 /proc/uptime; } # nobody sets this clock

# said: what rclone said last, in one line: without credentials, should a store repeat them, and numbers of requests.
said() {
    awk 'BEGIN { count = split("AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN", names, " ") }
        { for (i = 1; i <= count; i++) { secret = ENVIRON[names[i]]
              while (length(secret) && (at = index($0, secret))) $0 = substr($0, 1, at - 1) "***" substr($0, at + length(secret)) }
          print }' "$errors" | tr -d '\000-\011\013-\037\177-\377' | sed -e '/./!d' -e '/Streaming uploads using chunk size/d' -e '/^Terminated$/d' -e '/^Killed$/d' | tail -n 1 |
        sed -E -e 's/^[0-9/]+ [0-9:]+ [A-Z]+ *: //' -e 's/^.*(last error was|Failed to [a-z]+): //' \
            -e 's/(RequestID|HostID): [^,]*, //g' -e 's/\?[^" ]*//g' | cut -c 1-700
}

# blame REASON WHAT: fails since rclone could not do WHAT, and says why as far as that is clear.
blame() {
    [ ! -e "$scratch/outage" ] || errors="$scratch/outage"
    text=$(said)
    case $text in
    # rclone says so to each 404; the store itself tells more.
    *'directory not found'*) store backend list-multipart-uploads "$REMOTE" >/dev/null || text=$(said) ;;
    esac
    [ "$status" -le 128 ] || [ -e "$scratch/outage" ] ||
        fail "$1" "Cannot $2 $STORE: rclone was killed by signal $((status - 128)). If that was 9, it needs more memory (spec.resources.limits.memory)."
    case $text in
    *NoSuchBucket* | *'directory not found'*) why='There is no such bucket' ;;
    *StatusCode:\ 40[13]* | *AccessKey* | *'access key'* | *SignatureDoesNotMatch* | *AccessDenied* | *Token* | *credentials*)
        why='The store refuses the credentials: are they right, and may they write, read, list and delete there' ;;
    *x509* | *tls:* | *certificate* | *'HTTP response to HTTPS client'*) why='No trusted TLS connection: is the CA right' ;;
    *'no such host'* | *'dial tcp'* | *timeout* | *'deadline exceeded'* | *'connection re'* | *EOF*) why='The store cannot be reached' ;;
    '') why="The store did not answer within $ANSWER_SECONDS seconds" ;;
    *'max transfer limit'*) why="The dump is larger than ${RCLONE_MAX_TRANSFER:-}, which is what its number of parts allows, by the size of the database. The format custom is smaller than plain" ;;
    *) why='The store answers with an error' ;;
    esac
    fail "$1" "Cannot $2 $STORE: $why.${text:+ $text}"
}

# fetch_manifest: the manifest of $ARTIFACT_PATH is in $scratch/manifest; that is empty where there is none.
fetch_manifest() {
    store cat --head 4000 "$REMOTE/$ARTIFACT_PATH/manifest.json" >"$scratch/manifest" || return 1
    # Anybody may have written it.
    file=$(sed -nE 's/^\{"schema": 1, "location": "[^"]*", "file": "(dump[-0-9a-z]*\.[a-z]+)", .*$/\1/p' "$scratch/manifest")
}

# read_size FILE: its size in the store is in $scratch/size; that is empty where it is not there.
read_size() { store lsf --files-only --format s "$REMOTE/$ARTIFACT_PATH/${1:-no-file}" >"$scratch/size"; }

# publish: notes the manifest that was fetched, and the size of its file.
publish() {
    note size <"$scratch/size"
    note manifest.json <"$scratch/manifest"
}
