# Reads from a store that is a mounted volume. stream.sh does the same for one behind a sidecar.

# fetch_manifest: sets manifest to the text of manifest.json. ARTIFACT_PATH may be anybody's.
fetch_manifest() {
    local directory="$STORE_DIR/$ARTIFACT_PATH"
    # Neither .. nor symbolic links lead out of the store.
    if [[ $(cd -P "$directory" 2>/dev/null && pwd) != "$(cd -P "$STORE_DIR" && pwd)/$ARTIFACT_PATH" ]]; then
        fail ArtifactMissing "There is no backup at $ARTIFACT_PATH of this store."
    fi
    [[ -f $directory/manifest.json ]] || fail ArtifactMissing "$ARTIFACT_PATH has no manifest.json: it is no finished backup."
    manifest=$(head -c 4000 "$directory/manifest.json" | tr -d '\0')
}

# stored_size: bytes of the dump's file; nothing where there is none.
stored_size() {
    local artifact="$STORE_DIR/$ARTIFACT_PATH/$file"
    if [[ $format == directory ]]; then
        [[ ! -d $artifact || -L $artifact ]] || directory_size "$artifact" 2>"$scratch/errors" ||
            fail ChecksumMismatch "$ARTIFACT_PATH/$file is not as pg_dump left it: $(head -c 300 "$scratch/errors")"
    else
        [[ ! -f $artifact || -L $artifact ]] || stat -c %s "$artifact"
    fi
}

# read_artifact READER: prints the dump's file; for a directory, the checksums of its files, which say all of it.
read_artifact() {
    local artifact="$STORE_DIR/$ARTIFACT_PATH/$file"
    if [[ $format == directory ]]; then directory_sums "$artifact"; else cat "$artifact"; fi
}

heed_store() { :; } # fails when the store has

# list_directory DIRECTORY: the names of the files of a dump, each ended by a zero byte, in the order of their bytes. Fails
# where anything else is there, such as a link, behind which there may be another file tomorrow.
list_directory() (
    shopt -s nullglob dotglob
    cd "$1" || exit
    [[ -e toc.dat ]] || { echo "toc.dat is missing" >&2 && exit 1; }
    for name in *; do
        [[ -f $name && ! -L $name && $name =~ ^[a-z0-9_]+(\.[a-z0-9]+)+$ ]] ||
            { echo "$name is no file that pg_dump writes" >&2 && exit 1; }
    done
    printf '%s\0' *
)

# directory_sums DIRECTORY: a line for each of them: its checksum, two spaces and its name.
directory_sums() {
    local tool=(sha256sum)
    ! command -v openssl >/dev/null || tool=(openssl dgst -sha256 -r)
    # 125: a signal has ended the tool
    list_directory "$1" | (cd "$1" && xargs -0 "${tool[@]}" || exit $(($? == 125 ? 137 : 1))) | sed 's/ [ *]/  /'
}

# directory_size DIRECTORY: bytes of all of them.
directory_size() {
    list_directory "$1" | (cd "$1" && xargs -0 stat -c %s) | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}
