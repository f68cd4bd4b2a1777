-- Roles belong to the whole server: made if absent, kept when the extension is dropped, for other
-- databases may use them. Nobody logs in as one of them; they are granted.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['seal_sync_admin', 'seal_sync_operator', 'seal_sync_monitor',
        'seal_sync_read_data', 'seal_sync_peer', 'seal_sync_application', 'seal_sync_worker']
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role_name);
        BEGIN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- another database's installation was faster
        END;
    END LOOP;

    -- A grant that exists already would be a NOTICE at each installation.
    FOREACH role_name IN ARRAY ARRAY['pg_monitor', 'seal_sync_operator', 'seal_sync_admin'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_auth_members m
            JOIN pg_catalog.pg_roles r ON r.oid = m.roleid JOIN pg_catalog.pg_roles s ON s.oid = m.member
            WHERE r.rolname = 'seal_sync_monitor' AND s.rolname = role_name);
        EXECUTE pg_catalog.format('GRANT seal_sync_monitor TO %I', role_name);
    END LOOP;
END
$$;
