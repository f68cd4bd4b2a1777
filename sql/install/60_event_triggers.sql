-- What DDL means for registered tables. ALWAYS: also what a session in the replica role does.
CREATE FUNCTION seal_sync.on_ddl_command_end() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_ddl_command_end';
CREATE FUNCTION seal_sync.on_sql_drop() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_sql_drop';
CREATE FUNCTION seal_sync.on_table_rewrite() RETURNS event_trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_table_rewrite';

CREATE EVENT TRIGGER seal_sync_ddl_command_end ON ddl_command_end
    EXECUTE FUNCTION seal_sync.on_ddl_command_end();
ALTER EVENT TRIGGER seal_sync_ddl_command_end ENABLE ALWAYS;
CREATE EVENT TRIGGER seal_sync_sql_drop ON sql_drop
    EXECUTE FUNCTION seal_sync.on_sql_drop();
ALTER EVENT TRIGGER seal_sync_sql_drop ENABLE ALWAYS;
CREATE EVENT TRIGGER seal_sync_table_rewrite ON table_rewrite
    EXECUTE FUNCTION seal_sync.on_table_rewrite();
ALTER EVENT TRIGGER seal_sync_table_rewrite ENABLE ALWAYS;
