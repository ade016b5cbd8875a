#!/usr/bin/env bash
# mmdebstrap hook: what maintainer scripts would have done, as far as it is needed.
#   finish-root.sh ROOT
set -euo pipefail
cd "$1"
for dir in bin sbin lib lib64; do # merge /usr, as every Debian since bookworm
    [ ! -L "$dir" ] || continue
    mkdir -p "$dir" "usr/$dir"
    cp -a "$dir/." "usr/$dir/"
    rm -r "$dir"
    ln -s "usr/$dir" "$dir"
done
mkdir -p dev proc sys tmp run usr/local/bin etc/ssl/certs
chmod 1777 tmp
rm -rf var/run etc/resolv.conf
ln -s /run var/run
if [ -d usr/share/ca-certificates/mozilla ]; then
    cat usr/share/ca-certificates/mozilla/*.crt >etc/ssl/certs/ca-certificates.crt
fi
[ ! -e usr/bin/mawk ] || ln -sf mawk usr/bin/awk # an alternative, set up by no one here
cat >etc/passwd <<'EOF'
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/usr/sbin/nologin
EOF
printf 'root:x:0:\nnogroup:x:65534:\nnonroot:x:65532:\n' >etc/group
install -d -o 65532 -g 65532 home/nonroot
ldconfig -r .
