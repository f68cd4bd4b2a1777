-- The calls. Who may execute what stands in 90_privileges.sql.

-- Where a peer is, and how to log in there: CREATE SERVER and CREATE USER MAPPING.
CREATE FUNCTION seal_sync.fdw_validator(options text[], catalog oid) RETURNS void
    LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_fdw_validator';

CREATE FOREIGN DATA WRAPPER seal_sync NO HANDLER VALIDATOR seal_sync.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER seal_sync IS 'servers of this wrapper are peers of seal_sync';

-- Triggers of registered tables.
CREATE FUNCTION seal_sync.capture() RETURNS trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_capture';
COMMENT ON FUNCTION seal_sync.capture() IS 'records which rows change, refuses changes to rows of other nodes';

CREATE FUNCTION seal_sync.truncate_guard() RETURNS trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_capture_truncate';
COMMENT ON FUNCTION seal_sync.truncate_guard() IS 'records or refuses TRUNCATE';

-- Node.
CREATE FUNCTION seal_sync.node_create(node name) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_node_create';
COMMENT ON FUNCTION seal_sync.node_create(name) IS 'gives this database its name; without one nothing is captured or applied';

CREATE FUNCTION seal_sync.node_drop() RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_node_drop';
COMMENT ON FUNCTION seal_sync.node_drop() IS 'takes identity, configuration, triggers, positions and pending changes away';

CREATE FUNCTION seal_sync.version() RETURNS text
    LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'seal_sync_version';
COMMENT ON FUNCTION seal_sync.version() IS 'version of the loaded library';

-- Peers.
CREATE FUNCTION seal_sync.peer_create(peer name, server name DEFAULT NULL, require_connection boolean DEFAULT false)
    RETURNS void LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_peer_create';
COMMENT ON FUNCTION seal_sync.peer_create(name, name, boolean) IS 'makes another node known; server defaults to the name of the peer';

CREATE FUNCTION seal_sync.peer_alter(peer name, server name) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_peer_alter';
COMMENT ON FUNCTION seal_sync.peer_alter(name, name) IS 'reaches a peer through another server';

CREATE FUNCTION seal_sync.peer_drop(peer name) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_peer_drop';
COMMENT ON FUNCTION seal_sync.peer_drop(name) IS 'forgets a peer and what is pending for it';

CREATE FUNCTION seal_sync.peer_check(peer name, server name DEFAULT NULL, OUT step text, OUT ok boolean, OUT message text,
        OUT hint text)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_peer_check';
COMMENT ON FUNCTION seal_sync.peer_check(name, name) IS 'connects to a peer and shows how far it comes';

-- Clusters.
CREATE FUNCTION seal_sync.cluster_create(cluster name, primary_node name, match_values text[] DEFAULT NULL,
        standby_nodes name[] DEFAULT NULL)
    RETURNS void LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_cluster_create';
COMMENT ON FUNCTION seal_sync.cluster_create(name, name, text[], name[]) IS
    'declares a cluster; match_values, by default its name, are what the cluster column of its rows holds, letter by letter: a citext column that holds A does not match a';

CREATE FUNCTION seal_sync.cluster_alter(cluster name, add_values text[] DEFAULT NULL, drop_values text[] DEFAULT NULL,
        add_standbys name[] DEFAULT NULL, drop_standbys name[] DEFAULT NULL)
    RETURNS void LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_cluster_alter';
COMMENT ON FUNCTION seal_sync.cluster_alter(name, text[], text[], name[], name[]) IS 'adds or drops match values and standbys';

CREATE FUNCTION seal_sync.cluster_drop(cluster name) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_cluster_drop';
COMMENT ON FUNCTION seal_sync.cluster_drop(name) IS 'takes a declaration back';

-- The role of a cluster can change while a transaction runs; both answer as of now.
CREATE FUNCTION seal_sync.is_primary(cluster name) RETURNS boolean
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_is_primary';
COMMENT ON FUNCTION seal_sync.is_primary(name) IS 'whether applications may change rows of the cluster on this node';

CREATE FUNCTION seal_sync.primary_of(cluster name) RETURNS name
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_primary_of';
COMMENT ON FUNCTION seal_sync.primary_of(name) IS 'the node where applications may change rows of the cluster';

-- Tables.
CREATE FUNCTION seal_sync.table_add(relation regclass, cluster_column name DEFAULT NULL, cluster name DEFAULT NULL,
        existing_rows text DEFAULT 'copy', if_not_exists boolean DEFAULT false)
    RETURNS void LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_table_add';
COMMENT ON FUNCTION seal_sync.table_add(regclass, name, name, text, boolean) IS
    'synchronizes a table, its rows being of the clusters that a column names or all of one cluster';

-- new_tables: true, tables made later are registered, too; false, no longer; null, as it is. action: add, keep (registered before), except (named in except_tables), skip (a partition of a table elsewhere), refuse.
CREATE FUNCTION seal_sync.schema_add(schema regnamespace, cluster_column name DEFAULT NULL, cluster name DEFAULT NULL,
        except_tables regclass[] DEFAULT '{}', existing_rows text DEFAULT 'copy', new_tables boolean DEFAULT NULL,
        dry_run boolean DEFAULT false,
        OUT relation regclass, OUT action text, OUT cluster_by text, OUT rows_estimate bigint, OUT sqlstate text,
        OUT message text, OUT hint text)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'seal_sync_schema_add';
COMMENT ON FUNCTION seal_sync.schema_add(regnamespace, name, name, regclass[], text, boolean, boolean) IS
    'synchronizes the tables of a schema, on demand later ones too, and tells of each what was done or why not; a dry run only tells';

CREATE FUNCTION seal_sync.table_remove(relation regclass) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_table_remove';
COMMENT ON FUNCTION seal_sync.table_remove(regclass) IS 'ends synchronization of a table; its rows stay everywhere';

-- Steering.
CREATE FUNCTION seal_sync.pause(peer name, reason text DEFAULT NULL, duration interval DEFAULT NULL) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_pause';
COMMENT ON FUNCTION seal_sync.pause(name, text, interval) IS 'stops shipping to a peer, for a time or until resume; changes go on being recorded';

CREATE FUNCTION seal_sync.resume(peer name) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_resume';
COMMENT ON FUNCTION seal_sync.resume(name) IS 'goes on shipping to a paused or halted peer';

CREATE FUNCTION seal_sync.sync_now(peer name DEFAULT NULL, timeout interval DEFAULT '30 s') RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_sync_now';
COMMENT ON FUNCTION seal_sync.sync_now(name, interval) IS 'returns when everything committed before the call is on the peer, or on all peers';

CREATE FUNCTION seal_sync.quarantine_retry(ids bigint[] DEFAULT NULL, peer name DEFAULT NULL, relation regclass DEFAULT NULL) RETURNS bigint
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_quarantine_retry';
COMMENT ON FUNCTION seal_sync.quarantine_retry(bigint[], name, regclass) IS 'ships refused keys again at once, skipped ones where their ids are given; returns their number';

CREATE FUNCTION seal_sync.quarantine_skip(ids bigint[] DEFAULT NULL, peer name DEFAULT NULL, relation regclass DEFAULT NULL, reason text DEFAULT NULL) RETURNS bigint
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_quarantine_skip';
COMMENT ON FUNCTION seal_sync.quarantine_skip(bigint[], name, regclass, text) IS 'gives refused keys up until they change again; returns their number';

CREATE FUNCTION seal_sync.stat_reset() RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_stat_reset';
COMMENT ON FUNCTION seal_sync.stat_reset() IS 'sets the counters of this database to zero';

-- What the views are made of.
CREATE FUNCTION seal_sync.get_routes(OUT peer name, OUT pid integer, OUT state text, OUT state_reason text,
        OUT state_since timestamptz, OUT connected_since timestamptz, OUT last_contact_at timestamptz,
        OUT oldest_pending_at timestamptz, OUT last_batch bigint, OUT last_batch_keys bigint,
        OUT last_batch_at timestamptz, OUT keys_per_second float8, OUT complete_until timestamptz, OUT parked_tables integer, OUT retries integer,
        OUT next_retry_at timestamptz, OUT last_error_at timestamptz, OUT last_error_sqlstate text, OUT last_error text,
        OUT last_error_hint text, OUT peer_version text, OUT protocol integer, OUT tls text, OUT compression text, OUT clock_offset interval,
        OUT batches bigint, OUT empty_scans bigint, OUT keys bigint, OUT upserts bigint, OUT deletes bigint,
        OUT bytes_raw bigint, OUT bytes_wire bigint, OUT scan_time float8, OUT read_time float8, OUT encode_time float8, OUT send_time float8,
        OUT apply_time float8, OUT commit_time float8, OUT idle_time float8, OUT last_scan_time float8,
        OUT last_read_time float8, OUT last_encode_time float8, OUT last_send_time float8, OUT last_apply_time float8,
        OUT last_commit_time float8, OUT last_idle_time float8,
        OUT max_batch_time float8, OUT connects bigint, OUT connect_failures bigint, OUT stats_reset timestamptz)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 2 AS 'MODULE_PATHNAME', 'seal_sync_get_routes';

CREATE FUNCTION seal_sync.get_origins(OUT node name, OUT pid integer, OUT connected_since timestamptz,
        OUT last_contact_at timestamptz, OUT complete_until timestamptz, OUT last_batch bigint, OUT last_batch_rows bigint,
        OUT last_batch_at timestamptz, OUT last_error_at timestamptz, OUT last_error_sqlstate text, OUT last_error text,
        OUT version text)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 2 AS 'MODULE_PATHNAME', 'seal_sync_get_origins';

CREATE FUNCTION seal_sync.get_table_counters(OUT relation oid, OUT peer name, OUT captured_inserts bigint,
        OUT captured_updates bigint, OUT captured_deletes bigint, OUT captured_truncates bigint, OUT keys_shipped bigint,
        OUT bytes_shipped bigint, OUT keys_applied bigint, OUT guard_refused bigint, OUT guard_overridden bigint,
        OUT stats_reset timestamptz)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 50 AS 'MODULE_PATHNAME', 'seal_sync_get_table_counters';

CREATE FUNCTION seal_sync.get_server(OUT preloaded boolean, OUT worker_pid integer, OUT enabled boolean, OUT guard text,
        OUT log_bytes bigint, OUT log_limit_bytes bigint, OUT max_worker_processes integer, OUT max_databases integer,
        OUT no_room boolean)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'seal_sync_get_server';

CREATE FUNCTION seal_sync.pending_counts(OUT peer name, OUT relation oid, OUT cluster_id integer, OUT keys bigint,
        OUT oldest_at timestamptz)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'seal_sync_pending_counts';

CREATE FUNCTION seal_sync.pending_entries(OUT relation oid, OUT kind text, OUT key jsonb, OUT cluster name,
        OUT changed_columns name[], OUT since timestamptz, OUT xid xid8, OUT waiting_for name[])
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_pending_entries';

CREATE FUNCTION seal_sync.key_as_json(relation oid, key bytea) RETURNS jsonb
    LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_key_as_json';

CREATE FUNCTION seal_sync.row_image(relation oid, key bytea) RETURNS jsonb
    LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_row_image';
COMMENT ON FUNCTION seal_sync.row_image(oid, bytea) IS 'the row of a recorded key as it is now, as far as the caller may read the table';

CREATE FUNCTION seal_sync.canonical_value("any") RETURNS bytea
    LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'seal_sync_canonical_value';
COMMENT ON FUNCTION seal_sync.canonical_value("any") IS 'the bytes that a comparison hashes of a value: the same on every server for the same value';

CREATE FUNCTION seal_sync.table_digest(relation regclass, cluster name, seed uuid, OUT rows bigint, OUT digest bytea, OUT shape bytea)
    LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_table_digest';
COMMENT ON FUNCTION seal_sync.table_digest(regclass, name, uuid) IS 'digest of a cluster''s rows: two servers that have the same rows give the same, for the same seed, where the shapes are equal';
