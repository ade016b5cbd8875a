#!/bin/sh
# busybox as Alpine has it, out of Debian's source: on musl, and without what Debian adds. $1: the program to be written.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sources" "$work/lists/partial" "$work/include"

# Where the packages come from, their sources do, too.
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ ! -f "$list" ] || sed -e 's/^Types: deb$/Types: deb-src/' -e 's/^deb /deb-src /' "$list" >"$work/sources/${list##*/}"
done
get() {
    apt-get -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" -o Dir::State::Lists="$work/lists" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=5 "$@"
}
cd "$work"
get update
get source --download-only busybox
tar -xf busybox_*.orig.tar.*
cd busybox-*/

# musl-gcc knows musl's own headers only.
for headers in linux asm-generic mtd; do ln -s "/usr/include/$headers" "$work/include/"; done
ln -s "/usr/include/$(gcc -print-multiarch)/asm" "$work/include/"
make -s defconfig >/dev/null
# tc does not compile with new headers.
sed -i -e 's/^# \(CONFIG_STATIC\) is not set/\1=y/' -e 's/^\(CONFIG_EXTRA_COMPAT\|CONFIG_TC\)=y/# \1 is not set/' .config
yes '' | make -s oldconfig >/dev/null
make -s -j"$(nproc)" CC="musl-gcc -isystem $work/include" >/dev/null 2>"$work/errors" || { cat "$work/errors" >&2; exit 1; }
cp busybox "$1"
