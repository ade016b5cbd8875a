# Put before the scripts that verify a backup. A backup is called bad only where that is proven: what kept a verification
# from its end says nothing about it.

incomplete() { fail VerificationIncomplete "$1 This says nothing about the backup."; }

no_room() {
    local free
    free=$(df -Ph "$scratch" | awk 'END { print $4 " of " $2 " free" }')
    incomplete "There is no room on the disk of the node ($free)."
}
