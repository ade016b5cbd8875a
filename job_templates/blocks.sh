# The dump is read twice, checked and then loaded, and what holds it may change it between the two. So the first reading
# notes the checksum of each block, and in the second none is passed on before it is known to be the same.

# next_block: the next one is in $scratch/block. Returns 2 at the end of the input, 3 when there is no room for it.
next_block() {
    dd bs=1M count=8 iflag=fullblock of="$scratch/block" 2>/dev/null || return 3
    [[ -s $scratch/block ]] || return 2
}
block_sum() { sha256 <"$scratch/block"; }

# note_blocks FILE: passes its input on, and writes the blocks' checksums there. Returns 3 when there is no room.
note_blocks() {
    local end=0
    while next_block || ! end=$?; do
        block_sum >&3 || return 3
        cat "$scratch/block" || return 1
    done 3>"$1"
    ((end == 2)) || return 3
}

# same_blocks FILE: passes its input on as long as it has these checksums. Returns 2 when it is another or ends too soon,
# 3 when there is no room, 1 when nobody reads on, and what is above 128 when something was killed.
same_blocks() {
    local sum actual end=0
    while IFS= read -r sum <&3; do
        next_block || return
        actual=$(block_sum) || return
        [[ $actual == "$sum" ]] || return 2
        cat "$scratch/block" || return 1
    done 3<"$1"
    next_block || end=$?
    ((end != 0)) || return 2
    ((end == 2)) || return 3
}

# pinned: the dump for its second reader, as far as it is what the first one has noted; returns what same_blocks does.
pinned() {
    local status codes
    read_artifact load | same_blocks "$WORK_DIR/blocks" && return
    status=$? codes=("${PIPESTATUS[@]}")
    # Then it has ended too soon for that. 141: nobody has read on.
    ((codes[0] <= 128 || codes[0] == 141)) || return "${codes[0]}"
    return "$status"
}

# heed_pinned STATUS [MORE]: fails where what pinned has returned is not the matter of who reads on.
heed_pinned() {
    case $1 in
    2) changed ;;
    3 | '') no_room "${2:-}" ;; # '': not even for the number
    *) (($1 <= 128)) || stopped "$1" "${2:-}" ;;
    esac
}

# begin_filter: begins the rules of filtered, by which sed makes the dump's SQL fit: data is never looked at, and the end is
# noted. Sets restrict and unrestrict to what goes to psql around it, which then runs no command of psql's own, such as \!:
# who has made the dump could run programs here. A psql from before August 2025 has no such mode, and both are empty.
begin_filter() {
    local key
    cat >"$scratch/filter" <<FILTER
/^-- Data for Name: .*; Type: TABLE DATA; Schema: /,/^\\\\\\.\$/b
/^-- PostgreSQL database dump complete\$/w $scratch/complete
FILTER
    restrict='' unrestrict=''
    [[ $(psql --help=commands) == *'\restrict '* ]] || return 0
    key=$(head -c 32 /dev/urandom | sha256)
    restrict="\\restrict $key" unrestrict="\\unrestrict $key"
    # It is not entered twice, nor left with the dump's own key.
    cat >>"$scratch/filter" <<'FILTER'
1,/^SET /{/^\\restrict /d;}
/^-- PostgreSQL database dump complete$/,${/^\\unrestrict /d;}
FILTER
}

# filtered: the SQL of the dump, as the rules in $scratch/filter have it. None of it goes further than the check that it is
# what the first reader has noted, whose status is in $scratch/source otherwise; a directory has to be compared afterwards.
filtered() {
    if [[ $format == directory ]]; then
        pg_restore --no-owner -f - "$STORE_DIR/$ARTIFACT_PATH/$file" | sed -E -f "$scratch/filter"
        return
    fi
    { pinned || echo $? >"$scratch/source"; } 2>/dev/null |
        case $format in
        custom) pg_restore --no-owner -f - && cat >/dev/null ;;
        plain) cat ;;
        esac | sed -E -f "$scratch/filter"
}

# no_room: the backup is not to blame.
no_room() {
    fail RestoreFailed "The check of the backup needs room for one block of 8 MiB on the disk of the node, and could not write it ($(room "$scratch")). That says nothing about the backup: make room and restore it again. ${1:-}"
}

# stopped STATUS [MORE]: neither is it when what reads it was killed.
stopped() {
    fail RestoreFailed "The check of the backup was stopped by signal $(kill -l "$1"). That says nothing about the backup: if it was for its memory, raise spec.resources.limits.memory, and restore it again. ${2:-}"
}
