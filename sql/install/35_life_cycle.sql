-- A node's life: leaving for an upgrade and coming back, copies and restores. Who may execute what stands in 90_privileges.sql.

CREATE FUNCTION seal_sync.node_detach(reason text, timeout interval DEFAULT '60 s') RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_node_detach';
COMMENT ON FUNCTION seal_sync.node_detach(text, interval) IS
    'before pg_upgrade: ships what is pending and refuses writes to registered tables until node_attach; a timeout of 0 ships nothing';

CREATE FUNCTION seal_sync.node_attach() RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_node_attach';
COMMENT ON FUNCTION seal_sync.node_attach() IS 'after pg_upgrade: goes on where node_detach has stopped; of several copies only one can';

CREATE FUNCTION seal_sync.node_adopt(mode text, node name DEFAULT NULL) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_node_adopt';
COMMENT ON FUNCTION seal_sync.node_adopt(text, name) IS
    'decides what a copy or a restore is to be: the same node, where the numbers of its peers prove that it can, or a new one';

-- Whether this is a copy of the node that nobody has decided about.
CREATE FUNCTION seal_sync.is_copy() RETURNS boolean
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_is_copy';
COMMENT ON FUNCTION seal_sync.is_copy() IS 'whether this server runs on a copy of the node''s data directory; see node_adopt';
