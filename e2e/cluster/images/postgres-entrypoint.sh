#!/usr/bin/env bash
# The documented contract of the official PostgreSQL image: POSTGRES_PASSWORD,
# POSTGRES_USER, POSTGRES_DB and POSTGRES_INITDB_ARGS (each also as NAME_FILE),
# POSTGRES_INITDB_WALDIR, POSTGRES_HOST_AUTH_METHOD, PGDATA, and
# /docker-entrypoint-initdb.d, run once on an empty PGDATA.
# It writes to PGDATA and /var/run/postgresql only.
set -euo pipefail

die() { echo "docker-entrypoint: $*" >&2; exit 1; }

file_env() { # NAME DEFAULT: sets NAME, from NAME_FILE where that is given
    local name=$1 file=${1}_FILE
    [ -z "${!name:-}" ] || [ -z "${!file:-}" ] || die "both $name and $file are set"
    if [ -n "${!file:-}" ]; then
        export "$name=$(<"${!file}")"
    else
        export "$name=${!name:-$2}"
    fi
    unset "$file"
}

sql() { psql -v ON_ERROR_STOP=1 --no-psqlrc --no-password --username "$POSTGRES_USER" "$@"; }

run_init_files() {
    local file
    for file in /docker-entrypoint-initdb.d/*; do
        # shellcheck disable=SC1090 # sourced by contract, unless executable
        case $file in
            *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
            *.sql) sql --dbname "$POSTGRES_DB" --file "$file" ;;
            *.sql.gz) gunzip -c "$file" | sql --dbname "$POSTGRES_DB" ;;
            *.sql.xz) xz -dc "$file" | sql --dbname "$POSTGRES_DB" ;;
            *.sql.zst) zstd -dc "$file" | sql --dbname "$POSTGRES_DB" ;;
        esac
    done
}

initialise() {
    file_env POSTGRES_PASSWORD ""
    file_env POSTGRES_USER postgres
    file_env POSTGRES_DB "$POSTGRES_USER"
    file_env POSTGRES_INITDB_ARGS ""
    local method=${POSTGRES_HOST_AUTH_METHOD:-} args=()
    [ -n "$POSTGRES_PASSWORD" ] || [ "$method" = trust ] ||
        die "POSTGRES_PASSWORD must be set to initialise $PGDATA"
    [ -z "${POSTGRES_INITDB_WALDIR:-}" ] || args+=(--waldir "$POSTGRES_INITDB_WALDIR")
    # the arguments may be quoted: eval is what the official image does, too
    eval 'initdb --username="$POSTGRES_USER" --pwfile=<(printf "%s\n" "$POSTGRES_PASSWORD")' \
        "$POSTGRES_INITDB_ARGS" '"${args[@]}"'
    method=${method:-$(postgres -C password_encryption -D "$PGDATA")}
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"

    export PGPASSWORD=$POSTGRES_PASSWORD
    pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -p 5432" -w start
    [ "$POSTGRES_DB" = postgres ] || sql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
    run_init_files
    pg_ctl -D "$PGDATA" -m fast -w stop
    unset PGPASSWORD
    echo "PostgreSQL init process complete; ready for start up."
}

[[ "${1:-}" != -* ]] || set -- postgres "$@"
[ "${1:-}" = postgres ] || exec "$@"
mkdir -p "$PGDATA" /var/run/postgresql
if [ "$(id -u)" = 0 ]; then
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --clear-groups "$0" "$@"
fi
chmod 0700 "$PGDATA"
[ -s "$PGDATA/PG_VERSION" ] || initialise
exec "$@"
