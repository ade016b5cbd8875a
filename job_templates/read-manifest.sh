# Reports the manifest of a backup whose own report was lost.

read_manifest
log "$ARTIFACT_PATH: $size bytes, sha256 $sha256"
report "$manifest"
