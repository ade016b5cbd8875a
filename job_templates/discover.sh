# Lists the backups that lie in a store: all of them in the log, the newest ones in the report. A backup is a directory
# <database>/<name> with a manifest as dumps write it, and the file that this names, in full. Any of it may be
# anybody's. This is no sidecar: it ends.

readonly TERMINATION_LOG="${TERMINATION_LOG:-/dev/termination-log}"
readonly ROOM=4000 # bytes for the list in the report: a termination message has 4096
tab=$(printf '\t')
trap 'rm -rf "$scratch"' EXIT

# fail REASON MESSAGE: as in lib.sh.
fail() {
    log "FAILED: $1: $2"
    text=$(printf '%s' "$2" | tr '\000-\037' ' ' | sed 's/[\\"]/\\&/g')
    printf '{"error": {"reason": "%s", "message": "%s"}}\n' "$1" "$text" >"$TERMINATION_LOG"
    exit 1
}

# choose_files: "<bytes>;<path>" of the directories that have a manifest, by names that a location may have, goes to
# $scratch/places, the same of dumps to $scratch/dumps; bytes are those of the file. (No bound of musl's may be above 255.)
choose_files() {
    segment='[A-Za-z0-9_][A-Za-z0-9._-]*'
    sed -nE -e '/\.\.|^.{200}.{200}/d' -e "s#^([0-9]+;$segment/$segment)/manifest\\.json\$#\\1#p" "$scratch/files" >"$scratch/places"
    sed -nE "\\#^[0-9]+;$segment/$segment/dump[^/]*(/[^/]*)?\$#p" "$scratch/files" >"$scratch/dumps"
}

# read_manifests: prints each path and its manifest, which is one line, in one line; the form is that of read_manifest in
# lib.sh.
read_manifests() {
    version='"[0-9][0-9A-Za-z.~+-]*"'
    form='\{"schema": 1, "location": "[^"\\]+", "file": "dump(-[0-9a-z-]+)?(\.pgdump", "format": "custom"|\.sql", "format": "plain"|\.dir", "format": "directory")'
    form="$form, \"sizeBytes\": [1-9][0-9]{0,17}, \"sha256\": \"[0-9a-f]{64}\", \"serverVersion\": $version, \"toolVersion\": $version"
    form="$form, \"backupTime\": \"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z\""
    form="$form(, \"globals\": \\{[^{}]*\\})?(, \"inventory\": \\{[^{}]*\\{[^{}]*\\}\\})?, \"source\": \\{.*\\}\\}"
    # As there, more than 4000 bytes are none.
    sed -nE 's/^[0-3]?[0-9]{1,3};//p' "$scratch/places" | while IFS= read -r path; do
        if { IFS= read -r line && ! IFS= read -r more && [ -z "$more" ]; } 2>/dev/null <"$manifests/$path/manifest.json"; then
            printf '%s\t%s\n' "$path" "$line"
        fi
    done | sed -nE "/^[^$tab]+$tab$form\$/p"
}

# describe: of what read_manifests printed, prints what is whole, in columns: time, database, entry for the report, line
# for the log. Texts stay as JSON has them.
describe() {
    awk -F '\t' -v dumps="$scratch/dumps" -v url="$STORE_URL" '
        function text(object, key, allowed,    at) {
            if (!(at = index(object, "\"" key "\": \""))) return "\"\""
            object = substr(object, at + length(key) + 4)
            return match(object, "^\"" allowed "\"") ? substr(object, 1, RLENGTH) : "\"\""
        }
        function bare(text) { return substr(text, 2, length(text) - 2) }
        BEGIN {
            while ((getline line < dumps) > 0) {
                at = index(line, ";")
                file = substr(line, at + 1)
                size = substr(line, 1, at - 1)
                if (split(file, parts, "/") > 3) { # of a directory, which has the sum of its files
                    sub("/[^/]*$", "", file)
                    size = sprintf("%.0f", bytes[file] + size)
                }
                bytes[file] = size
            }
            name = "[a-z0-9][a-z0-9.-]*"
            hex = "[0-9a-f]"
            any = "([] !#-[^-~]|\\\\[\"\\\\/bfnrt]|\\\\u" hex hex hex hex ")*"
        }
        {
            at = index($2, "\"source\": {")
            manifest = substr($2, 1, at - 1)
            source = substr($2, at)
            match(manifest, /"sizeBytes": [0-9]+/)
            size = substr(manifest, RSTART + 13, RLENGTH - 13)
            if (bytes[$1 "/" bare(text(manifest, "file", "[a-z0-9.-]*"))] != size "") next
            format = text(manifest, "format", "[a-z]*")
            time = text(manifest, "backupTime", "[0-9TZ:-]*")
            version = text(manifest, "serverVersion", "[0-9A-Za-z.~+-]*")
            backup = text(source, "backup", name)
            namespace = text(source, "namespace", name)
            database = text(source, "database", name)
            part = index(source, "\"source\": {\"partial\": true, ") == 1
            own = text(source, "databaseName", any)
            entry = "[\"" $1 "\"," backup "," namespace "," database "," own "," time "," size "," format "," version "," part "]"
            print bare(time) "\t" namespace database "\t" entry "\t" bare(time) " " url "/" $1 " " size " bytes, " bare(format) (part ? ", a part" : "") \
                ": Backup " backup " of Database " database " (" own "), PostgreSQL " bare(version)
        }' | sort -r
}

# choose LINES: the entries of so many backups; the newest one of each database comes first, then the second of each.
choose() {
    awk -F '\t' '{ print older[$2]++ "\t" $1 "\t" $3 }' "$scratch/backups" |
        sort -t "$tab" -k 1,1n -k 2,2r | sed -n "1,$1p" | cut -f 3
}

# pack LINES: the same, compressed to about a third, as a JSON string.
pack() { choose "$1" | gzip -9 | base64 | tr -d '\n'; }

list_files
choose_files
fetch_manifests
read_manifests >"$scratch/manifests.tsv"
describe <"$scratch/manifests.tsv" >"$scratch/backups"
cut -f 4 "$scratch/backups"
count=$(wc -l <"$scratch/backups")
invalid=$(($(wc -l <"$scratch/places") - count))
log "$STORE_URL: $((count)) backups, and $invalid manifests that are not valid, or whose dump is not there in full"

shown=$((count < 100 ? count : 100))
list=$(pack "$shown")
while [ "${#list}" -gt "$ROOM" ]; do
    shown=$((shown * ROOM / ${#list} - 1))
    list=$(pack "$shown")
done
printf '{"result": {"count": %d, "invalid": %d, "backups": "%s"}}\n' "$count" "$invalid" "$list" >"$TERMINATION_LOG"
