-- Least privilege: nothing is anybody's, then each role gets what its line in the manual says.
REVOKE ALL ON ALL TABLES IN SCHEMA seal_sync FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA seal_sync FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA seal_sync FROM PUBLIC;

-- Names may be looked up by everybody: an owner who restores a registered table, or makes a partition
-- of one, names and executes the trigger functions (trap T19). On an unregistered relation, or on a
-- node without identity, they do nothing.
GRANT USAGE ON SCHEMA seal_sync TO PUBLIC;
GRANT EXECUTE ON FUNCTION seal_sync.capture(), seal_sync.truncate_guard() TO PUBLIC;

GRANT USAGE ON FOREIGN DATA WRAPPER seal_sync TO seal_sync_admin;
GRANT EXECUTE ON FUNCTION
    seal_sync.node_create(name),
    seal_sync.node_drop(),
    seal_sync.node_adopt(text, name),
    seal_sync.peer_create(name, name, boolean),
    seal_sync.peer_alter(name, name),
    seal_sync.peer_drop(name),
    seal_sync.cluster_create(name, name, text[], name[]),
    seal_sync.cluster_alter(name, text[], text[], name[], name[]),
    seal_sync.cluster_drop(name),
    seal_sync.table_add(regclass, name, name, text, boolean),
    seal_sync.schema_add(regnamespace, name, name, regclass[], text, boolean, boolean),
    seal_sync.table_remove(regclass),
    seal_sync.sequence_split(regclass, integer, integer),
    seal_sync.sequence_add(regclass, name, bigint),
    seal_sync.sequence_remove(regclass),
    seal_sync.config_diff(name),
    seal_sync.config_adopt(name, boolean, text),
    seal_sync.schema_diff(name)
    TO seal_sync_admin;

GRANT EXECUTE ON FUNCTION seal_sync.check() TO seal_sync_admin;
GRANT EXECUTE ON FUNCTION seal_sync.wire_config(bytea) TO seal_sync_peer;

GRANT EXECUTE ON FUNCTION
    seal_sync.peer_check(name, name)
    TO seal_sync_admin, seal_sync_operator;

GRANT EXECUTE ON FUNCTION
    seal_sync.wait_for_tables(interval)
    TO seal_sync_admin, seal_sync_operator;

GRANT EXECUTE ON FUNCTION
    seal_sync.version()
    TO seal_sync_admin, seal_sync_operator, seal_sync_monitor, seal_sync_application;

GRANT EXECUTE ON FUNCTION
    seal_sync.is_primary(name),
    seal_sync.primary_of(name)
    TO seal_sync_admin, seal_sync_monitor, seal_sync_application;

GRANT EXECUTE ON FUNCTION
    seal_sync.node_detach(text, interval),
    seal_sync.node_attach(),
    seal_sync.pause(name, text, interval),
    seal_sync.resume(name),
    seal_sync.sync_now(name, interval),
    seal_sync.quarantine_retry(bigint[], name, regclass),
    seal_sync.quarantine_skip(bigint[], name, regclass, text),
    seal_sync.stat_reset()
    TO seal_sync_operator;

-- Numbers, states and messages, no keys and no rows.
GRANT EXECUTE ON FUNCTION
    seal_sync.get_routes(),
    seal_sync.get_origins(),
    seal_sync.get_table_counters(),
    seal_sync.get_server(),
    seal_sync.is_copy(),
    seal_sync.pending_counts(),
    seal_sync.sequence_states(),
    seal_sync.get_progress()
    TO seal_sync_monitor;
GRANT SELECT ON seal_sync.status, seal_sync.clusters, seal_sync.stat_table, seal_sync.stat_route, seal_sync.health,
    seal_sync.events, seal_sync.metrics, seal_sync.copy_progress, seal_sync.stages
    TO seal_sync_monitor;
GRANT SELECT ON seal_sync.sequences TO seal_sync_monitor;

-- Keys; and rows as far as the reader may select from their table.
GRANT EXECUTE ON FUNCTION
    seal_sync.pending_entries(),
    seal_sync.key_as_json(oid, bytea),
    seal_sync.row_image(oid, bytea),
    seal_sync.canonical_value("any"),
    seal_sync.table_digest(regclass, name, uuid)
    TO seal_sync_read_data;
GRANT SELECT ON seal_sync.pending, seal_sync.quarantine TO seal_sync_read_data;

-- A table that was never analyzed is taken for one of ten pages; the views would be planned for
-- millions of rows and compiled for seconds. The calls do the same after each change of the rules.
ANALYZE seal_sync.local_node, seal_sync.peer, seal_sync.peer_state, seal_sync.cluster, seal_sync.cluster_state,
    seal_sync.table_rule, seal_sync.table_state, seal_sync.schema_rule, seal_sync.origin, seal_sync.agreement, seal_sync.reception, seal_sync.held, seal_sync.event,
    seal_sync.copy, seal_sync.sequence_rule, seal_sync.sequence_slot, seal_sync.sequence_peer;
