# What discover.sh needs of an object store; put before it. It makes as few requests as there can be: two lists, and one
# for each manifest.

manifests="$scratch/manifests"

# list_files: "<bytes>;<path>" of all files, a line each, goes to $scratch/files.
list_files() {
    store lsf --recursive --files-only --format sp "$REMOTE" >"$scratch/files" || blame DownloadFailed "list what lies in"
}

# fetch_manifests: they are below $manifests, but for those that are too large to be one.
fetch_manifests() {
    store copyto --fast-list --use-server-modtime --ignore-checksum --transfers 16 \
        --max-size 4k --include '/*/*/manifest.json' "$REMOTE" "$manifests" ||
        blame DownloadFailed "read the manifests in"
}
