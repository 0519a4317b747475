#!/bin/bash
# One PostgreSQL server of a set. `node.sh primary` makes an empty one, `node.sh standby HOST` copies HOST's; either only
# where there is no data yet: afterwards the server starts as it was, and what it is then is Ostrakon's to decide.
# Other words are run as they are.
set -euo pipefail
data=${PGDATA:-/var/lib/postgresql/data}
name=${NODE_NAME:-$(hostname)}
asked=${1:-primary}

case $asked in
  primary | standby) ;;
  *) exec "$@" ;;
esac

as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

settings() {
  cat <<END

# Written once by node.sh.
listen_addresses = '*'
unix_socket_directories = '/var/run/postgresql'
wal_level = logical
wal_log_hints = on
hot_standby = on
max_connections = 200
max_wal_senders = 20
max_replication_slots = 20
max_prepared_transactions = 200
wal_keep_size = '256MB'
wal_sender_timeout = '5s'
wal_receiver_timeout = '5s'
wal_receiver_status_interval = '1s'
wal_retrieve_retry_interval = '20ms'
recovery_target_timeline = 'latest'
synchronous_commit = on
lc_messages = 'C'
END
}

if [ ! -s "$data/PG_VERSION" ]; then
  rm -rf "${data:?}" "$data.making"
  install -d -o postgres -g postgres -m 700 "$data.making"
  if [ "$asked" = primary ]; then
    as_postgres initdb -D "$data.making" -U postgres -E UTF8 --locale=C.UTF-8 --data-checksums -A trust >/dev/null
    # Whoever is on the set's networks is trusted: for development and tests. docs/operate/docker.md says what else to do.
    printf 'host all all all %s\nhost replication all all %s\n' "${AUTH_METHOD:-trust}" "${AUTH_METHOD:-trust}" \
      >> "$data.making/pg_hba.conf"
    settings >> "$data.making/postgresql.conf"
    printf 'CREATE ROLE %s LOGIN\nCREATE DATABASE %s OWNER %s\n' "${APP_USER:-app}" "${APP_DATABASE:-app}" "${APP_USER:-app}" |
      as_postgres postgres --single -D "$data.making" postgres >/dev/null
  else
    from=${2:?node.sh standby HOST}
    for _ in $(seq 1 120); do
      as_postgres pg_isready -q -h "$from" -U postgres && break
      sleep 1
    done
    as_postgres pg_basebackup -d "host=$from user=postgres application_name=$name" -D "$data.making" -R -X stream -c fast
  fi
  mv "$data.making" "$data"
fi

rm -f "$data/postmaster.pid"
exec setpriv --reuid=postgres --regid=postgres --init-groups postgres -D "$data" -c "cluster_name=$name"
