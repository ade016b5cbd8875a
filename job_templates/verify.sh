# Proves that the application role can log in and query its database. Where CREATE_MISSING is true, both are made first
# if they are not there, by the superuser; what is there is never changed.
readonly PATIENCE=${PATIENCE:-60}

# As the superuser. The new role's password is part of a statement, so no setting of the server may log statements.
create_missing() {
    local -x PGUSER=$SUPERUSER PGPASSWORD=$SUPERUSER_PASSWORD PGDATABASE=postgres PGOPTIONS
    connect "$PATIENCE"
    PGOPTIONS='-c log_statement=none -c log_min_error_statement=panic -c log_min_duration_statement=-1'
    PGOPTIONS+=' -c log_min_duration_sample=-1 -c log_transaction_sample_rate=0 -c lc_messages=C'
    run psql -XAtqw -v ON_ERROR_STOP=1 -v role="$role" -v database="$database" 2>"$scratch/create" <<'SQL' ||
\set VERBOSITY terse
\set SHOW_CONTEXT never
\set password `printf %s "$password"`
-- Another pod may be doing the same. The lock lasts as long as the session.
SELECT pg_advisory_lock(hashtext('postgres_operator')) \g /dev/null
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') AS no_role,
       NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') AS no_database \gset
\if :no_role
    CREATE ROLE :"role" LOGIN PASSWORD :'password';
    \echo Created role :"role"
\endif
\if :no_database
    CREATE DATABASE :"database" OWNER :"role" TEMPLATE template0; -- nobody can be connected to that
    \echo Created database :"database"
\endif
SQL
        fail InternalError "Cannot create role $role and database $database: $(masked "$scratch/create")"
}

if [[ $CREATE_MISSING == true ]]; then
    role=$PGUSER database=$PGDATABASE
    export password=$PGPASSWORD # psql reads it from its environment: arguments can be seen by others
    create_missing
fi
connect $((SECONDS < PATIENCE ? PATIENCE - SECONDS : 0))
log "Role $PGUSER can use database $PGDATABASE of PostgreSQL $server_version at $PGHOST:$PGPORT"
tool=$(tool_version pg_dump)
report "{\"serverVersion\": \"$server_version\", \"toolVersion\": \"$tool\"}"
