-- A peer's configuration, pulled and compared; only config_adopt changes something, and only here.

-- Called by a peer beside its route. SECURITY DEFINER, because the caller may read no table; it proves who it is by login and token.
CREATE FUNCTION seal_sync.wire_config(request bytea) RETURNS bytea
    LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE SECURITY DEFINER AS 'MODULE_PATHNAME', 'seal_sync_wire_config';
COMMENT ON FUNCTION seal_sync.wire_config(bytea) IS 'called by a peer: what is declared here';

-- action: what config_adopt would do: add, alter, keep (nothing), refuse (nothing, and message says why).
CREATE FUNCTION seal_sync.config_diff(peer name, OUT kind text, OUT name text, OUT here text, OUT there text, OUT action text,
        OUT sqlstate text, OUT message text, OUT hint text)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'seal_sync_config_diff';
COMMENT ON FUNCTION seal_sync.config_diff(name) IS
    'each cluster, table and schema that is declared otherwise here than on a peer, and what adopting would do about it';

CREATE FUNCTION seal_sync.config_adopt(peer name, dry_run boolean DEFAULT false, existing_rows text DEFAULT 'copy',
        OUT kind text, OUT name text, OUT action text, OUT sqlstate text, OUT message text, OUT hint text)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'seal_sync_config_adopt';
COMMENT ON FUNCTION seal_sync.config_adopt(name, boolean, text) IS
    'declares here what a peer has declared: the peer may write these tables then; nothing here is overwritten or removed';

CREATE FUNCTION seal_sync.schema_diff(peer name, OUT relation text, OUT "column" text, OUT here text, OUT there text, OUT effect text,
        OUT suggested_ddl text)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'seal_sync_schema_diff';
COMMENT ON FUNCTION seal_sync.schema_diff(name) IS
    'where registered tables have other columns and keys on a peer, what that does to synchronization, and the DDL that ends it';
