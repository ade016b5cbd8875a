# What discover.sh needs of a store that is a mounted volume; put before it. discover-bucket.sh does the same for the
# others.

manifests=$STORE_DIR

# list_files: "<bytes>;<path>" of all files, a line each, goes to $scratch/files. Symbolic links are none, and a name of
# several lines would look like several files.
list_files() {
    [ -r "$STORE_DIR" ] && [ -x "$STORE_DIR" ] ||
        fail DownloadFailed "The directory of $STORE_URL cannot be read by user $(id -u): give it to the group of the Jobs."
    (cd "$STORE_DIR" && run find . -mindepth 3 -maxdepth 4 -type f ! -path '*
*' -exec stat -c '%s;%n' {} +) >"$scratch/found" 2>"$errors" || # what cannot be read may be anybody's
        log "Not everything in $STORE_URL can be listed: $(head -c 300 "$errors")"
    sed 's|;\./|;|' "$scratch/found" >"$scratch/files"
}

fetch_manifests() { :; } # they are below $manifests
