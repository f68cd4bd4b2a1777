-- What a peer calls. The arguments and results are described in src/core/wire.hpp. SECURITY DEFINER,
-- because the caller may touch no table: each function checks who speaks by token and generation. No
-- SET clause: it would undo, before COMMIT, what wire_apply sets for its transaction.

CREATE FUNCTION seal_sync.wire_hello(request bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_hello';
COMMENT ON FUNCTION seal_sync.wire_hello(bytea) IS 'called by a peer: opens the conversation';

CREATE FUNCTION seal_sync.wire_describe(description bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_describe';
COMMENT ON FUNCTION seal_sync.wire_describe(bytea) IS 'called by a peer: does a table fit';

CREATE FUNCTION seal_sync.wire_put(chunk bytea) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_put';
COMMENT ON FUNCTION seal_sync.wire_put(bytea) IS 'called by a peer: a part of the next batch';

CREATE FUNCTION seal_sync.wire_begin(request bytea) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_begin';
COMMENT ON FUNCTION seal_sync.wire_begin(bytea) IS 'called by a peer: applies the next batch while it arrives';

CREATE FUNCTION seal_sync.wire_apply(request bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_apply';
COMMENT ON FUNCTION seal_sync.wire_apply(bytea) IS 'called by a peer: applies a batch';

CREATE FUNCTION seal_sync.wire_wanted() RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_wanted';
COMMENT ON FUNCTION seal_sync.wire_wanted() IS 'called by a peer: rows it has to send whole';

CREATE FUNCTION seal_sync.wire_heartbeat(message bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_heartbeat';
COMMENT ON FUNCTION seal_sync.wire_heartbeat(bytea) IS 'called by a peer: nothing more up to now';

REVOKE ALL ON FUNCTION seal_sync.wire_hello(bytea), seal_sync.wire_describe(bytea),
    seal_sync.wire_put(bytea), seal_sync.wire_begin(bytea), seal_sync.wire_apply(bytea), seal_sync.wire_wanted(),
    seal_sync.wire_heartbeat(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION seal_sync.wire_hello(bytea), seal_sync.wire_describe(bytea),
    seal_sync.wire_put(bytea), seal_sync.wire_begin(bytea), seal_sync.wire_apply(bytea), seal_sync.wire_wanted(),
    seal_sync.wire_heartbeat(bytea) TO seal_sync_peer;
