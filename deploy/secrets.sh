#!/bin/sh
# Makes what is missing of the secrets, once, in a folder (a volume) for each who reads them; prints
# none of them. The private sealing keys are for ingestors alone.
set -eu
umask 077
cd "${1:-/secrets}"

random() { python -c 'import secrets; print(secrets.token_urlsafe(32))'; }

keep() { # FILE VALUE: whole or not at all
    printf '%s\n' "$2" >"$1.new"
    mv "$1.new" "$1"
}

if [ ! -f ingestor/internal_key ]; then
    key=$(random)
    keep ingestor/internal_key "$key"
fi
key=$(cat ingestor/internal_key)
keep gateway/internal_key "$key"

if [ ! -f gateway/api_keys ]; then
    key=$(random)
    keep gateway/api_keys "admin:$key"
fi

if [ ! -f ingestor/seal_private_keys ]; then
    pair=$(python -m services.ingestor keys)
    public=$(printf '%s\n' "$pair" | sed -n 's/^SIGHTLOG_SEAL_PUBLIC_KEY=//p')
    private=$(printf '%s\n' "$pair" | sed -n 's/^SIGHTLOG_SEAL_PRIVATE_KEYS=//p')
    keep gateway/seal_public_key "${public:?}"
    keep ingestor/seal_private_keys "${private:?}"
fi

# Postgres reads its password as root before it drops its rights.
if [ ! -f database/database_url ]; then
    password=$(random)
    keep database/database_password "$password"
    keep database/database_url "postgresql://sightlog:$password@postgres:5432/sightlog"
fi
