#!/usr/bin/env bash
# mmdebstrap hook: user, directories and defaults of the official PostgreSQL image.
#   finish-postgres.sh ROOT VOLUME
set -euo pipefail
cd "$1"
echo "postgres:x:999:999::/var/lib/postgresql:/bin/bash" >>etc/passwd
echo "postgres:x:999:" >>etc/group
install -d -o 999 -g 999 -m 3777 run/postgresql
install -d -o 999 -g 999 -m 1777 var/lib/postgresql "./$2"
install -d docker-entrypoint-initdb.d
# Debian's /usr/bin/psql and the like are Perl wrappers, and there is no Perl here
find usr/bin -lname '*pg_wrapper' -delete
# a server that only listens on a socket would be of no use in a container
for sample in usr/share/postgresql/*/postgresql.conf.sample; do
    sed -i "s/^#listen_addresses = 'localhost'/listen_addresses = '*'/" "$sample"
    grep -q "^listen_addresses = '\*'" "$sample"
done
chroot . /bin/bash -c '/usr/lib/postgresql/*/bin/postgres --version' >version
