#!/bin/sh
# Makes what is missing of the secrets in /secrets, once; prints none of them.
set -eu
umask 077
cd /secrets

random() { python -c 'import secrets; print(secrets.token_urlsafe(32))'; }

[ -f internal_key ] || random >internal_key
[ -f api_keys ] || printf 'admin:%s\n' "$(random)" >api_keys
if [ ! -f seal_private_keys ]; then
    python -m services.ingestor keys >pair
    sed -n 's/^SIGHTLOG_SEAL_PUBLIC_KEY=//p' pair >seal_public_key
    sed -n 's/^SIGHTLOG_SEAL_PRIVATE_KEYS=//p' pair >seal_private_keys
    rm pair
fi
if [ ! -f database_url ]; then
    random >database_password
    printf 'postgresql://sightlog:%s@postgres:5432/sightlog\n' "$(cat database_password)" >database_url
fi
# Postgres reads its password as root before it drops its rights.
