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

-- Clusters.
CREATE FUNCTION seal_sync.cluster_create(cluster name, primary_node name, match_values text[] DEFAULT NULL,
        standby_nodes name[] DEFAULT NULL)
    RETURNS void LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_cluster_create';
COMMENT ON FUNCTION seal_sync.cluster_create(name, name, text[], name[]) IS
    'declares a cluster; match_values, by default its name, are what the cluster column of its rows holds';

CREATE FUNCTION seal_sync.cluster_alter(cluster name, add_values text[] DEFAULT NULL, drop_values text[] DEFAULT NULL)
    RETURNS void LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_cluster_alter';
COMMENT ON FUNCTION seal_sync.cluster_alter(name, text[], text[]) IS 'adds or drops match values';

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

CREATE FUNCTION seal_sync.table_remove(relation regclass) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_table_remove';
COMMENT ON FUNCTION seal_sync.table_remove(regclass) IS 'ends synchronization of a table; its rows stay everywhere';
