-- What this node knows of a peer, for a copy of it that has to decide whether it may take its place.
CREATE FUNCTION seal_sync.wire_standing(node name, token uuid, applied_batch bigint, applied_batch_id uuid, OUT state text,
        OUT issued bigint, OUT confirmed bigint, OUT connected boolean, OUT last_contact timestamptz,
        OUT batch bigint, OUT batch_id uuid, OUT resends boolean)
    RETURNS record LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_standing';
COMMENT ON FUNCTION seal_sync.wire_standing(name, uuid, bigint, uuid) IS
    'called by a peer: its generation and batches as this node knows them, without opening a conversation';
REVOKE ALL ON FUNCTION seal_sync.wire_standing(name, uuid, bigint, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION seal_sync.wire_standing(name, uuid, bigint, uuid) TO seal_sync_peer;
