-- What CREATE EXTENSION gives to whom.
CREATE EXTENSION seal_sync;

SELECT rolname, rolcanlogin, rolsuper FROM pg_roles WHERE rolname LIKE 'seal\_sync\_%' ORDER BY 1;
SELECT r.rolname AS granted, s.rolname AS to_role FROM pg_auth_members m
JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles s ON s.oid = m.member
WHERE r.rolname LIKE 'seal\_sync\_%' AND (s.rolname LIKE 'seal\_sync\_%' OR s.rolname LIKE 'pg\_%') ORDER BY 1, 2;

-- PUBLIC may execute the trigger functions and nothing else, and may do nothing with a table or view
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'seal_sync'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE') ORDER BY 1::text;
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace = 'seal_sync'::regnamespace AND c.relkind IN ('r', 'v', 'p')
  AND has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER');
SELECT has_schema_privilege('public', 'seal_sync', 'USAGE') AS usage, has_schema_privilege('public', 'seal_sync', 'CREATE') AS may_create;

-- What each role may execute and read by itself
SELECT r.rolname, p.proname FROM pg_proc p, pg_roles r
WHERE p.pronamespace = 'seal_sync'::regnamespace AND r.rolname LIKE 'seal\_sync\_%' AND p.proname NOT LIKE 'wire\_%'
  AND EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = r.oid) ORDER BY 1, 2;
SELECT r.rolname, c.relname, string_agg(a.privilege_type, ', ') FROM pg_class c, aclexplode(c.relacl) a, pg_roles r
WHERE c.relnamespace = 'seal_sync'::regnamespace AND r.oid = a.grantee AND r.rolname LIKE 'seal\_sync\_%'
GROUP BY 1, 2 ORDER BY 1, 2;
SELECT has_foreign_data_wrapper_privilege('seal_sync_admin', 'seal_sync', 'USAGE') AS admin,
    has_foreign_data_wrapper_privilege('public', 'seal_sync', 'USAGE') AS public;

-- No function is SECURITY DEFINER but those that a peer calls, none has a search path to be got round
SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'seal_sync'::regnamespace AND p.prosecdef AND p.proname NOT LIKE 'wire\_%';
SELECT p.proname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'seal_sync'::regnamespace AND l.lanname <> 'c'
  AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(p.proconfig, '{}'));

-- Event triggers also fire in the replica role; configuration is dumped, the rest is not
SELECT evtname, evtevent, evtenabled FROM pg_event_trigger WHERE evtname LIKE 'seal\_sync\_%' ORDER BY 1;
SELECT c::regclass FROM pg_extension e, unnest(e.extconfig) c WHERE e.extname = 'seal_sync' ORDER BY c::regclass::text;

-- Roles in action
CREATE ROLE regress_admin IN ROLE seal_sync_admin;
CREATE ROLE regress_operator IN ROLE seal_sync_operator;
CREATE ROLE regress_monitor IN ROLE seal_sync_monitor;
CREATE ROLE regress_reader IN ROLE seal_sync_read_data;
CREATE ROLE regress_app IN ROLE seal_sync_application;
CREATE ROLE regress_nobody;

SET ROLE regress_nobody;
SELECT seal_sync.node_create('east');
SELECT * FROM seal_sync.health;
SELECT * FROM seal_sync.peer;
RESET ROLE;

SET ROLE regress_operator;
SELECT seal_sync.node_create('east');
RESET ROLE;

SET ROLE regress_admin;
SELECT seal_sync.node_create('east');
CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nonexistent', dbname 'bank');
CREATE USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (user 'sync_in', password 'secret');
\set VERBOSITY terse
SELECT seal_sync.peer_create('west');
\set VERBOSITY default
SELECT seal_sync.cluster_create('a', 'east'), seal_sync.cluster_create('b', 'west');
SELECT umoptions IS NULL AS password_hidden FROM pg_user_mappings WHERE srvname = 'west' AND usename = 'seal_sync_worker';
SELECT severity FROM seal_sync.health WHERE false;
SELECT seal_sync.pause('west');
SELECT count(*) FROM seal_sync.pending;
RESET ROLE;

CREATE TABLE public.secret (id int PRIMARY KEY, cluster_id text, v text);
INSERT INTO public.secret VALUES (1, 'a', 'x');
SET ROLE regress_admin;
SELECT seal_sync.table_add('public.secret', 'cluster_id');   -- not the owner
RESET ROLE;
SELECT seal_sync.table_add('public.secret', 'cluster_id');

SET ROLE regress_operator;
SELECT seal_sync.pause('west', 'maintenance', '1 hour');
SELECT peer, direction, state, state_reason, pending_keys FROM seal_sync.status WHERE direction = 'out';
SELECT seal_sync.resume('west');
SELECT seal_sync.stat_reset();
SELECT cluster, role, accepts_writes FROM seal_sync.clusters ORDER BY 1;
SELECT count(*) FROM seal_sync.pending;
SELECT count(*) FROM seal_sync.quarantine;
RESET ROLE;

SET ROLE regress_monitor;
SELECT relation, peer, clusters, state, pending_keys FROM seal_sync.stat_table;
SELECT count(*) >= 0 AS readable FROM seal_sync.stat_route;
SELECT count(*) FROM seal_sync.pending;
SELECT seal_sync.key_as_json('public.secret'::regclass, '\x00');
SELECT seal_sync.sync_now();
RESET ROLE;

-- Keys for readers, rows only for those who may select from the table and as row security shows them
INSERT INTO seal_sync.held (peer, relation, leaf, cluster_id, key, state, sqlstate, message, detail)
VALUES ('west', 'public.secret'::regclass, 0, 0, '\x01000000', 'quarantined', '22P02', 'quotes a value', 'quotes a row');
SET ROLE regress_monitor;
SELECT message FROM seal_sync.health WHERE code = 'quarantined_keys';
RESET ROLE;
SET ROLE regress_reader;
SELECT relation, kind, key, cluster, waiting_for, state, reason FROM seal_sync.pending ORDER BY state;
SELECT relation, key, row_image, message, detail FROM seal_sync.quarantine;
SELECT seal_sync.pause('west');
SELECT * FROM seal_sync.status;
RESET ROLE;
GRANT SELECT ON public.secret TO regress_reader;
SET ROLE regress_reader;
SELECT relation, key, cluster, row_image, message, detail FROM seal_sync.quarantine;
RESET ROLE;
ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY;
SET ROLE regress_reader;
SELECT relation, key, row_image, message, detail FROM seal_sync.quarantine;
RESET ROLE;

SET ROLE regress_app;
SELECT seal_sync.is_primary('a'), seal_sync.is_primary('b'), seal_sync.primary_of('b');
SELECT seal_sync.is_primary('nowhere');
SELECT count(*) FROM seal_sync.clusters;
RESET ROLE;

-- The search path of the caller decides nothing
CREATE SCHEMA evil;
CREATE FUNCTION evil.is_equal(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'caught'; END $$;
CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.is_equal);
SET search_path = evil, pg_catalog;
SELECT seal_sync.cluster_create('c', 'east');
SELECT seal_sync.cluster_drop('c');
RESET search_path;
DROP SCHEMA evil CASCADE;

DROP TABLE public.secret;
DROP EXTENSION seal_sync;
DROP ROLE regress_admin, regress_operator, regress_monitor, regress_reader, regress_app, regress_nobody;
