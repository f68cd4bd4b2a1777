# Sourced by run: everything that is said to seal_sync, in one place. Each function prints SQL.

# sql_node NODE PEER: who this node is, what its peer logs in as, and where the peer is
sql_node() {
  local node=$1 peer=$2
  cat <<SQL
CREATE EXTENSION seal_sync;
SELECT seal_sync.node_create('$node');
CREATE ROLE sync_in LOGIN PASSWORD '$password' IN ROLE seal_sync_peer;
CREATE SERVER $peer FOREIGN DATA WRAPPER seal_sync
  OPTIONS (host '127.0.0.1', port '${port[$peer]}', dbname 'bank');
CREATE USER MAPPING FOR seal_sync_worker SERVER $peer
  OPTIONS (user 'sync_in', password '$password');
SQL
}

# Once both can be logged in to: peer_create refuses a peer that refuses the password
sql_peer() { echo "SELECT seal_sync.peer_create('$1');"; }

# What is kept in step; the same on both sides
sql_declare() {
  cat <<SQL
SELECT seal_sync.cluster_create('a', primary_node => 'east'),
       seal_sync.cluster_create('b', primary_node => 'west');
SELECT seal_sync.table_add('public.account', cluster_column => 'cluster_id'),
       seal_sync.table_add('public.seal', cluster_column => 'cluster_id'),
       seal_sync.table_add('public.journal', cluster_column => 'cluster_id');
SQL
}

sql_sync_now() { echo "SELECT seal_sync.sync_now(timeout => '2 min');"; }

# state, pending keys and lag in seconds of the way out; "-" where unknown
sql_status() {
  cat <<SQL
SELECT coalesce(state, '-'), coalesce(pending_keys::text, '-'),
       coalesce(round(extract(epoch FROM lag), 1)::text, '-')
FROM seal_sync.status WHERE direction = 'out'
SQL
}

# Seconds until everything pending will be there: the wait for the next attempt, and the shipping. There is
# no eta while the peer is away.
sql_estimate() {
  cat <<SQL
SELECT coalesce(round((greatest(extract(epoch FROM next_retry_at - clock_timestamp()), 0) +
    coalesce(extract(epoch FROM eta), (pending_keys / keys_per_second)::numeric))::numeric, 1)::text, '?')
FROM seal_sync.status WHERE direction = 'out'
SQL
}

sql_health() { echo "SELECT severity, code, scope, message FROM seal_sync.health ORDER BY severity, code;"; }
sql_severity() {
  cat <<SQL
SELECT severity FROM seal_sync.health
ORDER BY array_position(ARRAY['critical', 'warning'], severity) LIMIT 1
SQL
}

# The triggers of a table whose function belongs to the extension, and how to enable them as they are
sql_capture_triggers() {
  cat <<SQL
SELECT quote_ident(t.tgname),
       CASE t.tgenabled WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE' END
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
WHERE t.tgrelid = '$1'::regclass AND p.pronamespace = 'seal_sync'::regnamespace
SQL
}
