-- Who this node is, for a peer that only looks (peer_create, peer_check).
CREATE FUNCTION seal_sync.wire_identity(OUT node name, OUT protocol_min integer, OUT protocol integer,
        OUT version text) RETURNS record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'seal_sync_wire_identity';
COMMENT ON FUNCTION seal_sync.wire_identity() IS 'called by a peer: who is this node, without opening a conversation';
REVOKE ALL ON FUNCTION seal_sync.wire_identity() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION seal_sync.wire_identity() TO seal_sync_peer;
