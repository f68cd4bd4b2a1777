-- What check() looks at beside the view health: the catalogs of this node, and what a peer tells about itself. Too
-- expensive for a view that monitors ask for every few seconds. Called by check() as the extension's owner; the functions lock no table of users and
-- read no row of theirs, so texts cannot quote any. jit off: large statements over small catalogs would be compiled for longer than they run.

-- What this node says about itself, for comparison: rules, shape of the registered tables, settings. One shape for both sides.
CREATE FUNCTION seal_sync.node_facts() RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
WITH database AS (
    SELECT to_jsonb(d) AS d FROM pg_database d WHERE d.datname = current_database()
), collations AS MATERIALIZED (
    SELECT c.oid, jsonb_build_object('name', format('%I.%I', n.nspname, c.collname),
        'provider', CASE c.collprovider WHEN 'd' THEN d.d ->> 'datlocprovider' ELSE c.collprovider::text END,
        'locale', CASE WHEN c.collprovider = 'd' THEN coalesce(d.d ->> 'datlocale', d.d ->> 'daticulocale', d.d ->> 'datcollate')
            ELSE coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate) END,
        'deterministic', c.collisdeterministic,
        'version', CASE WHEN c.collprovider = 'd' THEN d.d ->> 'datcollversion' ELSE c.collversion END) AS about
    FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace CROSS JOIN database d
), rules AS MATERIALIZED (
    SELECT r.relation::oid AS oid, format('%I.%I', n.nspname, c.relname) AS name, r.cluster_column, r.cluster
    FROM seal_sync.table_rule r JOIN pg_class c ON c.oid = r.relation JOIN pg_namespace n ON n.oid = c.relnamespace
), columns AS (
    SELECT a.attrelid, jsonb_object_agg(a.attname, jsonb_build_object('type', format_type(a.atttypid, a.atttypmod),
        'not_null', a.attnotnull, 'filled', a.atthasdef OR a.attidentity <> '', 'generated', a.attgenerated <> '')) AS columns
    FROM rules r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    GROUP BY a.attrelid
), keys AS (
    SELECT i.indrelid, i.indexrelid, i.indisprimary,
        jsonb_agg(a.attname ORDER BY a.attname) AS columns,
        jsonb_object_agg(a.attname, l.about) FILTER (WHERE l.about IS NOT NULL) AS collations
    FROM rules r JOIN pg_index i ON i.indrelid = r.oid AND i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL
    CROSS JOIN LATERAL generate_series(1, i.indnkeyatts) k(n)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1]
    LEFT JOIN collations l ON l.oid = i.indcollation[k.n - 1]
    GROUP BY i.indrelid, i.indexrelid, i.indisprimary
), keys_of AS (
    SELECT k.indrelid, jsonb_agg(jsonb_build_object('columns', k.columns, 'primary', k.indisprimary, 'collations', k.collations)) AS keys
    FROM keys k GROUP BY k.indrelid
), numbers AS ( -- sequences that feed a column of the primary key, without the cluster column beside it
    SELECT DISTINCT r.oid, a.attname, s.seqrelid, s.seqincrement, coalesce(pg_sequence_last_value(s.seqrelid), s.seqstart) AS value
    FROM rules r
    JOIN pg_index i ON i.indrelid = r.oid AND i.indisprimary
    JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = ANY (i.indkey)
    LEFT JOIN pg_attrdef f ON f.adrelid = r.oid AND f.adnum = a.attnum
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.deptype = 'i' AND d.refclassid = 'pg_class'::regclass
            AND d.refobjid = r.oid AND d.refobjsubid = a.attnum AND a.attidentity <> ''
        OR d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_sequence s ON s.seqrelid = CASE WHEN d.deptype = 'i' THEN d.objid ELSE d.refobjid END
    WHERE NOT EXISTS (SELECT FROM pg_attribute x WHERE x.attrelid = r.oid AND x.attname = r.cluster_column AND x.attnum = ANY (i.indkey))
), numbers_of AS (
    SELECT n.oid, jsonb_object_agg(n.attname, jsonb_build_object('sequence', n.seqrelid::regclass::text, 'increment', abs(n.seqincrement),
        'residue', mod(mod(n.value, abs(n.seqincrement)) + abs(n.seqincrement), abs(n.seqincrement)))) AS numbers
    FROM numbers n GROUP BY n.oid
)
SELECT jsonb_build_object(
    'node', (SELECT l.node FROM seal_sync.local_node l),
    'library', seal_sync.version(),
    'sql', (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'seal_sync'),
    'in_recovery', pg_is_in_recovery(),
    -- Our own sessions set it off, so the settings of the others are asked for.
    'read_only', coalesce((SELECT substr(o, 31) FROM pg_db_role_setting s, unnest(s.setconfig) o
            WHERE s.setrole = 0 AND s.setdatabase = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
              AND o LIKE 'default\_transaction\_read\_only=%'),
        (SELECT f.setting FROM pg_file_settings f WHERE f.name = 'default_transaction_read_only' AND f.applied), 'off') IN ('on', 'true', 'yes', '1'),
    'preloaded', v.preloaded, 'enabled', v.enabled, 'worker', v.worker_pid IS NOT NULL, 'guard', v.guard,
    'connections', (SELECT count(*) FROM pg_stat_activity a WHERE a.backend_type = 'client backend'),
    'max_connections', current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer,
    'peers', (SELECT coalesce(jsonb_agg(p.peer), '[]') FROM seal_sync.peer p),
    'clusters', (SELECT coalesce(jsonb_object_agg(c.cluster, jsonb_build_object('primary', s.primary_node, 'epoch', s.epoch,
            'values', (SELECT jsonb_agg(m ORDER BY m) FROM unnest(c.match_values) m), 'standbys', c.standby_nodes)), '{}')
        FROM seal_sync.cluster c JOIN seal_sync.cluster_state s USING (cluster)),
    'tables', (SELECT coalesce(jsonb_object_agg(r.name, jsonb_build_object('cluster_column', r.cluster_column, 'cluster', r.cluster,
            'columns', c.columns, 'keys', coalesce(k.keys, '[]'), 'numbers', coalesce(n.numbers, '{}'))), '{}')
        FROM rules r
        LEFT JOIN columns c ON c.attrelid = r.oid
        LEFT JOIN keys_of k ON k.indrelid = r.oid
        LEFT JOIN numbers_of n ON n.oid = r.oid))
FROM seal_sync.get_server() v
$$;

-- The same for a peer, which may read none of it by itself. SECURITY DEFINER: names, types and settings, no row of anybody.
CREATE FUNCTION seal_sync.wire_facts() RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
    AS 'SELECT seal_sync.node_facts()';
COMMENT ON FUNCTION seal_sync.wire_facts() IS 'called by a peer: rules, shape of tables and settings of this node, for check()';
REVOKE ALL ON FUNCTION seal_sync.wire_facts() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION seal_sync.wire_facts() TO seal_sync_peer;

-- What a search of the catalogs finds on this node.
CREATE FUNCTION seal_sync.local_findings(here jsonb, OUT severity text, OUT code text, OUT scope text, OUT message text, OUT hint text)
    RETURNS SETOF record LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
WITH node AS MATERIALIZED (
    SELECT n.node FROM seal_sync.local_node n
), rules AS MATERIALIZED (
    SELECT r.relation, r.relation::oid AS oid, r.cluster_column, r.cluster FROM seal_sync.table_rule r
), tree AS MATERIALIZED (
    SELECT r.oid AS root, r.oid AS member FROM rules r
    UNION
    SELECT r.oid, t.relid::oid FROM rules r CROSS JOIN LATERAL pg_partition_tree(r.relation) t
), logins AS MATERIALIZED (
    SELECT l.* FROM pg_roles l
    WHERE l.rolcanlogin AND EXISTS (SELECT FROM pg_auth_members m WHERE m.member = l.oid
        AND m.roleid = (SELECT o.oid FROM pg_roles o WHERE o.rolname = 'seal_sync_peer'))
), parts AS (
    SELECT string_to_array(here ->> 'library', '.') AS library, string_to_array(here ->> 'sql', '.') AS sql
), window_ AS (
    SELECT current_setting('seal_sync.resend_window')::interval AS length
), servers AS (
    SELECT p.peer, s.srvname,
        coalesce((SELECT substr(o, 9) FROM unnest(s.srvoptions) o WHERE o LIKE 'sslmode=%'), 'prefer') AS sslmode,
        coalesce((SELECT substr(o, 10) FROM unnest(s.srvoptions) o WHERE o LIKE 'hostaddr=%'),
            (SELECT substr(o, 6) FROM unnest(s.srvoptions) o WHERE o LIKE 'host=%'), '/') AS host
    FROM seal_sync.peer p JOIN pg_foreign_server s ON s.srvname = p.server
)
SELECT 'critical', 'library_older', 'server', format('the library is of version %s, the extension in this database of %s', here ->> 'library', here ->> 'sql'),
    'Install the newer package here and restart the server.'
FROM parts p WHERE p.library::integer[] < p.sql::integer[]
UNION ALL
SELECT 'warning', 'extension_older', 'node', format('the extension in this database is of version %s, the library of %s', here ->> 'sql', here ->> 'library'),
    'ALTER EXTENSION seal_sync UPDATE.'
FROM parts p WHERE p.library::integer[] > p.sql::integer[]
UNION ALL
SELECT s.severity, s.code, 'server', s.message, s.hint
FROM (VALUES
    ('fsync', 'critical', 'fsync_off', 'fsync is off: a crash can lose or corrupt what peers were told is safe', 'Set fsync to on.'),
    ('full_page_writes', 'critical', 'full_page_writes_off', 'full_page_writes is off: a crash can corrupt tables', 'Set full_page_writes to on.'),
    ('synchronous_commit', 'warning', 'synchronous_commit_off', 'synchronous_commit is off: a crash loses commits that applications were told of', 'Set synchronous_commit to on.'),
    ('autovacuum', 'warning', 'autovacuum_off', 'autovacuum is off: tables grow, and plans go by old statistics', 'Set autovacuum to on.')
    ) s(name, severity, code, message, hint)
JOIN pg_settings g ON g.name = s.name AND g.reset_val = 'off'
UNION ALL
SELECT 'critical', 'read_only', 'node', 'default_transaction_read_only is on: applications cannot write here',
    'Reset it: ALTER SYSTEM, or ALTER DATABASE … RESET default_transaction_read_only.'
WHERE (here ->> 'read_only')::boolean
UNION ALL
SELECT 'warning', 'connections_low', 'server', format('%s of %s connections are in use', here ->> 'connections', here ->> 'max_connections'),
    'A peer that finds no free connection cannot ship. Raise max_connections, or find who holds so many.'
WHERE (here ->> 'connections')::integer >= (here ->> 'max_connections')::integer * 0.9
UNION ALL
SELECT 'critical', 'database_not_listed', 'node', 'seal_sync.databases does not name this database: nothing is shipped from it',
    'Add it to seal_sync.databases, or empty the list.'
FROM node WHERE current_setting('seal_sync.databases') <> ''
  AND NOT current_database() = ANY (SELECT btrim(btrim(d), '"') FROM regexp_split_to_table(current_setting('seal_sync.databases'), ',') d)
UNION ALL
SELECT 'critical', 'event_trigger_disabled', 'node', format('event trigger "%s" of the extension is not ENABLE ALWAYS: DDL on registered tables is not followed', t.evtname),
    format('ALTER EVENT TRIGGER %I ENABLE ALWAYS.', t.evtname)
FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid
WHERE p.pronamespace = 'seal_sync'::regnamespace AND t.evtenabled <> 'A'
UNION ALL
SELECT 'warning', 'no_peers', 'node', 'this node has no peer: its changes go nowhere', 'CREATE SERVER and its user mapping, then SELECT seal_sync.peer_create(''…'').'
FROM node WHERE NOT EXISTS (SELECT FROM seal_sync.peer)
UNION ALL
SELECT 'warning', 'no_clusters', 'node', 'no cluster is declared: no row belongs to anybody', 'SELECT seal_sync.cluster_create(''…'', primary_node => ''…'').'
FROM node WHERE NOT EXISTS (SELECT FROM seal_sync.cluster)
UNION ALL
SELECT 'info', 'no_tables', 'node', 'no table is registered', 'SELECT * FROM seal_sync.schema_add(''public'', cluster_column => ''…'', dry_run => true) shows which could be.'
FROM node WHERE NOT EXISTS (SELECT FROM rules)
UNION ALL
SELECT 'warning', 'no_peer_login', 'node', 'no role that can log in is a member of seal_sync_peer: no peer can ship to this node',
    'CREATE ROLE … LOGIN PASSWORD ''…'' IN ROLE seal_sync_peer.'
FROM node WHERE NOT EXISTS (SELECT FROM logins)
UNION ALL
SELECT 'warning', 'login_superuser', 'role ' || l.rolname, format('role "%s", with which peers log in, is a superuser', l.rolname),
    format('ALTER ROLE %I NOSUPERUSER. It needs no more than membership in seal_sync_peer.', l.rolname)
FROM logins l WHERE l.rolsuper
UNION ALL
SELECT 'warning', 'login_too_powerful', 'role ' || l.rolname, format('role "%s", with which peers log in, may do more than a peer needs: %s', l.rolname,
        concat_ws(', ', CASE WHEN l.rolcreaterole THEN 'CREATEROLE' END, CASE WHEN l.rolcreatedb THEN 'CREATEDB' END,
            CASE WHEN l.rolreplication THEN 'REPLICATION' END, CASE WHEN l.rolbypassrls THEN 'BYPASSRLS' END, m.roles)),
    'Take it away: it needs no more than membership in seal_sync_peer.'
FROM logins l
LEFT JOIN LATERAL (SELECT string_agg('member of ' || r.rolname, ', ' ORDER BY r.rolname) AS roles FROM pg_roles r
    WHERE r.rolname <> l.rolname AND r.rolname <> 'seal_sync_peer' AND pg_has_role(l.oid, r.oid, 'MEMBER')) m ON true
WHERE NOT l.rolsuper AND (l.rolcreaterole OR l.rolcreatedb OR l.rolreplication OR l.rolbypassrls OR m.roles IS NOT NULL)
UNION ALL
SELECT CASE WHEN l.rolvaliduntil < now() THEN 'critical' ELSE 'warning' END, 'login_expires', 'role ' || l.rolname,
    format('the password of role "%s", with which peers log in, %s', l.rolname,
        CASE WHEN l.rolvaliduntil < now() THEN 'has expired' ELSE 'expires within two weeks' END),
    format('ALTER ROLE %I PASSWORD ''…'' VALID UNTIL ''…'', and the user mapping on the peer.', l.rolname)
FROM logins l WHERE l.rolvaliduntil < now() + interval '14 days'
UNION ALL
SELECT 'warning', 'worker_role', 'role seal_sync_worker', CASE WHEN r.rolcanlogin THEN 'role "seal_sync_worker" can log in'
        ELSE format('role "seal_sync_worker" has members: %s', m.names) END,
    'It owns the user mappings: who acts as it can use their passwords. REVOKE seal_sync_worker FROM …, and ALTER ROLE seal_sync_worker NOLOGIN.'
FROM pg_roles r
LEFT JOIN LATERAL (SELECT string_agg(DISTINCT x.member::regrole::text, ', ') AS names FROM pg_auth_members x
    JOIN pg_roles g ON g.oid = x.member AND NOT g.rolsuper WHERE x.roleid = r.oid) m ON true
WHERE r.rolname = 'seal_sync_worker' AND (r.rolcanlogin OR m.names IS NOT NULL)
UNION ALL
SELECT 'warning', 'tls_not_verified', 'peer ' || s.peer, format('server "%s" leads to another machine with sslmode "%s": nobody checks who answers there', s.srvname, s.sslmode),
    format('ALTER SERVER %I OPTIONS (ADD sslmode ''verify-full'', ADD sslrootcert ''…''); SET where the option is there already.', s.srvname)
FROM servers s WHERE s.sslmode <> 'verify-full' AND s.host !~ '^(/.*|@.*|localhost|127\..*|::1)$'
UNION ALL
SELECT 'warning', 'prepared_transaction', 'transaction ' || x.gid, format('prepared transaction "%s" is open since %s: the change log cannot be emptied', x.gid, date_trunc('second', x.prepared)),
    format('COMMIT PREPARED %L or ROLLBACK PREPARED %L, whichever its application wants.', x.gid, x.gid)
FROM pg_prepared_xacts x, window_ w WHERE x.database = current_database() AND x.prepared < now() - w.length
UNION ALL
SELECT 'warning', 'long_transaction', 'process ' || a.pid, format('a transaction of role "%s" is open since %s: the change log cannot be emptied, nor dead rows be removed', a.usename, date_trunc('second', a.xact_start)),
    format('Find out what it does; SELECT pg_terminate_backend(%s) ends it.', a.pid)
FROM pg_stat_activity a, window_ w WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
  AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.xact_start < now() - w.length
UNION ALL
SELECT 'critical', 'table_unlogged', 'table ' || t.root::regclass::text, format('table %s is unlogged: after a crash it is empty here', c.oid::regclass),
    format('ALTER TABLE %s SET LOGGED, or SELECT seal_sync.table_remove(%L).', c.oid::regclass, t.root::regclass)
FROM tree t JOIN pg_class c ON c.oid = t.member AND c.relpersistence = 'u'
UNION ALL
SELECT 'warning', 'index_invalid', 'table ' || t.root::regclass::text, format('index %s is not valid', i.indexrelid::regclass),
    format('DROP INDEX %s, or REINDEX INDEX CONCURRENTLY %s.', i.indexrelid::regclass, i.indexrelid::regclass)
FROM tree t JOIN pg_index i ON i.indrelid = t.member AND NOT i.indisvalid JOIN pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'
UNION ALL
SELECT 'info', 'trigger_always', 'table ' || t.root::regclass::text, format('trigger "%s" of table %s fires for rows that arrive from peers, too', g.tgname, g.tgrelid::regclass),
    format('Unless that is meant: ALTER TABLE %s ENABLE TRIGGER %I.', g.tgrelid::regclass, g.tgname)
FROM tree t JOIN pg_trigger g ON g.tgrelid = t.member AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal AND g.tgparentid = 0
JOIN pg_proc p ON p.oid = g.tgfoid AND p.pronamespace <> 'seal_sync'::regnamespace
UNION ALL
SELECT 'warning', 'foreign_key_unregistered', 'table ' || t.root::regclass::text,
    format('foreign key "%s" of table %s leads to table %s, which is not synchronized: rows are refused by a peer where their parent is missing', k.conname, k.conrelid::regclass, k.confrelid::regclass),
    format('SELECT seal_sync.table_add(%L, …), too, or drop the foreign key.', k.confrelid::regclass)
FROM tree t JOIN pg_constraint k ON k.conrelid = t.member AND k.contype = 'f' AND k.conparentid = 0
WHERE NOT EXISTS (SELECT FROM tree x WHERE x.member = k.confrelid)
UNION ALL
SELECT 'warning', 'foreign_key_from_unregistered', 'table ' || t.root::regclass::text,
    format('foreign key "%s" of table %s, which is not synchronized, leads to table %s: a delete that arrives from a peer is refused while its rows refer to it', k.conname, k.conrelid::regclass, k.confrelid::regclass),
    format('SELECT seal_sync.table_add(%L, …), too, or drop the foreign key.', k.conrelid::regclass)
FROM tree t JOIN pg_constraint k ON k.confrelid = t.member AND k.contype = 'f' AND k.conparentid = 0
WHERE NOT EXISTS (SELECT FROM tree x WHERE x.member = k.conrelid)
UNION ALL
SELECT 'warning', 'foreign_key_across_clusters', 'table ' || a.root::regclass::text,
    format('foreign key "%s" of table %s can refer to rows of another cluster: those arrive by another route, later or never', k.conname, k.conrelid::regclass),
    'Put the cluster columns of both tables into the foreign key, or both tables into the same constant cluster.'
FROM tree a JOIN pg_constraint k ON k.conrelid = a.member AND k.contype = 'f' AND k.conparentid = 0
JOIN tree b ON b.member = k.confrelid
JOIN rules ra ON ra.oid = a.root JOIN rules rb ON rb.oid = b.root
WHERE (ra.cluster IS NOT NULL AND rb.cluster IS NOT NULL AND ra.cluster <> rb.cluster
    OR (ra.cluster IS NULL) <> (rb.cluster IS NULL)
    OR ra.cluster IS NULL AND rb.cluster IS NULL AND NOT EXISTS (
        SELECT FROM generate_subscripts(k.conkey, 1) i
        JOIN pg_attribute x ON x.attrelid = k.conrelid AND x.attnum = k.conkey[i] AND x.attname = ra.cluster_column
        JOIN pg_attribute y ON y.attrelid = k.confrelid AND y.attnum = k.confkey[i] AND y.attname = rb.cluster_column))
  AND (SELECT count(*) FROM seal_sync.cluster) > 1
UNION ALL
SELECT 'warning', 'rows_of_no_cluster', 'table ' || r.relation::text,
    format('about %s %% of the rows of table %s belong to no declared cluster: they are shipped to nobody', greatest(1, round(100 * s.share)), r.relation),
    format('Correct column %I, or declare its values with seal_sync.cluster_alter(…, add_values => …). The estimate is that of the last ANALYZE.', r.cluster_column)
FROM rules r JOIN pg_class c ON c.oid = r.oid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN LATERAL (
    SELECT q.null_frac + coalesce((SELECT sum(f.freq) FROM unnest(q.most_common_vals::text::text[], q.most_common_freqs) f(val, freq)
        WHERE NOT EXISTS (SELECT FROM seal_sync.cluster x WHERE f.val = ANY (x.match_values))), 0) AS share
    FROM pg_stats q WHERE q.schemaname = n.nspname AND q.tablename = c.relname AND q.attname = r.cluster_column
      AND q.inherited = (c.relkind = 'p')) s ON s.share > 0
UNION ALL
SELECT 'warning', 'collation_version', 'node', 'the collation of this database has changed its version: indexes on text may be in a wrong order',
    format('REINDEX DATABASE %I, then ALTER DATABASE %I REFRESH COLLATION VERSION.', d.datname, d.datname)
FROM pg_database d WHERE d.datname = current_database() AND d.datcollversion <> pg_database_collation_actual_version(d.oid)
$$;

-- What differs between this node and a peer, or keeps the peer from taking what is shipped. Each node compares for what it ships itself.
CREATE FUNCTION seal_sync.peer_findings(peer name, here jsonb, there jsonb,
        OUT severity text, OUT code text, OUT scope text, OUT message text, OUT hint text)
    RETURNS SETOF record LANGUAGE sql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
WITH clusters AS MATERIALIZED (
    SELECT h.key AS cluster, h.value AS h, there -> 'clusters' -> h.key AS t FROM jsonb_each(here -> 'clusters') h
    WHERE jsonb_typeof(h.value -> 'standbys') = 'null' OR h.value -> 'standbys' ? peer::text OR h.value ->> 'primary' = peer
), tables AS MATERIALIZED (
    SELECT h.key AS name, h.value AS h, there -> 'tables' -> h.key AS t FROM jsonb_each(here -> 'tables') h
), fits AS MATERIALIZED (
    SELECT t.name, t.h, t.t FROM tables t WHERE t.t IS NOT NULL
), columns AS MATERIALIZED (
    SELECT f.name, c.key AS col, c.value AS h, f.t -> 'columns' -> c.key AS t FROM fits f CROSS JOIN LATERAL jsonb_each(f.h -> 'columns') c
), keys AS MATERIALIZED (
    SELECT f.name, k.value AS t, f.h FROM fits f CROSS JOIN LATERAL jsonb_array_elements(f.t -> 'keys') k
)
SELECT 'critical', 'peer_standby', 'peer ' || peer, format('peer "%s" is a physical standby: nothing can be written there', peer),
    'Let the server lead to the primary; several hosts and target_session_attrs = ''read-write'' find it by themselves.'
WHERE (there ->> 'in_recovery')::boolean
UNION ALL
SELECT 'warning', 'peer_read_only', 'peer ' || peer, format('default_transaction_read_only is on at peer "%s": applications cannot write there', peer),
    'Reset it there: ALTER SYSTEM, or ALTER DATABASE … RESET default_transaction_read_only.'
WHERE (there ->> 'read_only')::boolean
UNION ALL
SELECT 'warning', 'peer_connections_low', 'peer ' || peer, format('%s of %s connections are in use at peer "%s"', there ->> 'connections', there ->> 'max_connections', peer),
    'Once none is left, nothing is shipped to it. Raise max_connections there, or find who holds so many.'
WHERE (there ->> 'connections')::integer >= (there ->> 'max_connections')::integer * 0.9
UNION ALL
SELECT 'critical', 'peer_does_not_know_us', 'peer ' || peer, format('this node is not a peer of node "%s": it accepts nothing from here', peer),
    format('On node "%s": SELECT seal_sync.peer_create(%L).', peer, here ->> 'node')
WHERE NOT coalesce(there -> 'peers' ? (here ->> 'node'), false)
UNION ALL
SELECT 'critical', 'peer_ships_nothing', 'peer ' || peer, format('node "%s" ships nothing: %s', peer,
        CASE WHEN NOT (there ->> 'preloaded')::boolean THEN 'the library is not in shared_preload_libraries there'
             WHEN NOT (there ->> 'enabled')::boolean THEN 'seal_sync.enabled is off there' ELSE 'its worker does not run' END),
    format('SELECT * FROM seal_sync.health on node "%s".', peer)
WHERE NOT (there ->> 'in_recovery')::boolean
  AND (NOT (there ->> 'preloaded')::boolean OR NOT (there ->> 'enabled')::boolean OR NOT (there ->> 'worker')::boolean)
UNION ALL
SELECT 'warning', 'peer_guard', 'peer ' || peer, format('seal_sync.guard is %s at peer "%s": rows of this node''s clusters can be changed there', there ->> 'guard', peer),
    'Set seal_sync.guard to refuse there.'
WHERE there ->> 'guard' <> 'refuse'
UNION ALL
SELECT 'info', 'peer_version', 'peer ' || peer, format('peer "%s" has version %s, this node %s', peer, there ->> 'library', here ->> 'library'),
    'Both can work together; update the older one when it suits.'
WHERE there ->> 'library' <> here ->> 'library'
UNION ALL
SELECT 'warning', 'peer_library', 'peer ' || peer, format('at peer "%s" the library is of version %s, the extension of %s', peer, there ->> 'library', there ->> 'sql'),
    'Update there: the package and a restart for the library, ALTER EXTENSION seal_sync UPDATE for the extension.'
WHERE there ->> 'library' <> there ->> 'sql'
UNION ALL
SELECT 'warning', 'cluster_undeclared', 'cluster ' || c.cluster, format('cluster "%s" is not declared at peer "%s"', c.cluster, peer),
    format('On node "%s": SELECT seal_sync.cluster_create(%L, primary_node => %L).', peer, c.cluster, c.h ->> 'primary')
FROM clusters c WHERE c.t IS NULL
UNION ALL
SELECT 'warning', 'cluster_undeclared_here', 'cluster ' || c.key, format('cluster "%s" of peer "%s" is not declared here', c.key, peer),
    format('SELECT seal_sync.cluster_create(%L, primary_node => %L).', c.key, c.value ->> 'primary')
FROM jsonb_each(there -> 'clusters') c WHERE NOT here -> 'clusters' ? c.key AND c.value ->> 'primary' = peer
UNION ALL
SELECT 'critical', 'cluster_primary_differs', 'cluster ' || c.cluster, format('cluster "%s" has its primary on node "%s" here, on node "%s" at peer "%s"', c.cluster,
        c.h ->> 'primary', c.t ->> 'primary', peer),
    'Only one node may accept writes to a cluster. Declare it again on the node that is wrong: seal_sync.cluster_drop, then seal_sync.cluster_create.'
FROM clusters c WHERE c.h ->> 'primary' <> c.t ->> 'primary'
UNION ALL
SELECT 'critical', 'cluster_epoch_differs', 'cluster ' || c.cluster, format('cluster "%s" is in epoch %s here, in epoch %s at peer "%s"', c.cluster, c.h ->> 'epoch', c.t ->> 'epoch', peer),
    'Its primary has moved without one of the two. See seal_sync.clusters on both.'
FROM clusters c WHERE c.h ->> 'primary' = c.t ->> 'primary' AND c.h -> 'epoch' <> c.t -> 'epoch'
UNION ALL
SELECT 'warning', 'cluster_values_differ', 'cluster ' || c.cluster, format('cluster "%s" has other match values at peer "%s": rows with those are refused on one side', c.cluster, peer),
    'Make them equal with seal_sync.cluster_alter.'
FROM clusters c WHERE c.t IS NOT NULL AND c.h -> 'values' <> c.t -> 'values'
UNION ALL
SELECT 'warning', 'table_unregistered', 'table ' || t.name, format('table %s is not registered at peer "%s": its changes wait', t.name, peer),
    format('On node "%s": create it, and SELECT seal_sync.table_add(%L, …). It goes on by itself.', peer, t.name)
FROM tables t WHERE t.t IS NULL
UNION ALL
SELECT 'warning', 'table_unregistered_here', 'table ' || t.key, format('table %s of peer "%s" is not registered here: its changes wait there', t.key, peer),
    format('Create it, and SELECT seal_sync.table_add(%L, …). It goes on by itself.', t.key)
FROM jsonb_each(there -> 'tables') t WHERE NOT here -> 'tables' ? t.key
UNION ALL
SELECT 'critical', 'table_rule_differs', 'table ' || f.name, format('table %s takes its cluster from %s here, from %s at peer "%s"', f.name,
        coalesce('column "' || (f.h ->> 'cluster_column') || '"', format('the constant "%s"', f.h ->> 'cluster')),
        coalesce('column "' || (f.t ->> 'cluster_column') || '"', format('the constant "%s"', f.t ->> 'cluster')), peer),
    'Remove the table on the node that is wrong and add it again.'
FROM fits f WHERE (f.h -> 'cluster_column', f.h -> 'cluster') IS DISTINCT FROM (f.t -> 'cluster_column', f.t -> 'cluster')
UNION ALL
SELECT 'warning', 'column_missing', 'table ' || c.name, format('column "%s" of table %s does not exist at peer "%s": the table is parked once it changes', c.col, c.name, peer),
    format('On node "%s": ALTER TABLE %s ADD COLUMN %I %s. The table resumes by itself.', peer, c.name, c.col, c.h ->> 'type')
FROM columns c WHERE c.t IS NULL
UNION ALL
SELECT 'warning', 'column_required', 'table ' || f.name, format('column "%s" of table %s exists only at peer "%s", is not null and has no default', c.key, f.name, peer),
    format('On node "%s": ALTER TABLE %s ALTER COLUMN %I SET DEFAULT …, or add the column here.', peer, f.name, c.key)
FROM fits f CROSS JOIN LATERAL jsonb_each(f.t -> 'columns') c
WHERE NOT f.h -> 'columns' ? c.key AND (c.value ->> 'not_null')::boolean AND NOT (c.value ->> 'filled')::boolean
UNION ALL
SELECT 'warning', 'column_type_differs', 'table ' || c.name, format('column "%s" of table %s is of type %s here, of type %s at peer "%s": the table is parked, once it changes, where that does not take every value', c.col, c.name,
        c.h ->> 'type', c.t ->> 'type', peer),
    format('On node "%s": ALTER TABLE %s ALTER COLUMN %I TYPE %s. What the difference does: SELECT * FROM seal_sync.schema_diff(%L).', peer, c.name, c.col, c.h ->> 'type', peer)
FROM columns c WHERE c.h ->> 'type' <> c.t ->> 'type'
UNION ALL
SELECT 'warning', 'column_not_null', 'table ' || c.name, format('column "%s" of table %s may be null here, but not at peer "%s": such rows are refused', c.col, c.name, peer),
    format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL here, or DROP NOT NULL on node "%s".', c.name, c.col, peer)
FROM columns c WHERE NOT (c.h ->> 'not_null')::boolean AND (c.t ->> 'not_null')::boolean AND NOT (c.t ->> 'generated')::boolean
UNION ALL
SELECT 'warning', 'column_generated', 'table ' || c.name, format('column "%s" of table %s is generated %s peer "%s"', c.col, c.name,
        CASE WHEN (c.t ->> 'generated')::boolean THEN 'only at' ELSE 'here, but not at' END, peer),
    'Its values differ between the nodes. Make it generated on both, or on none.'
FROM columns c WHERE (c.h ->> 'generated')::boolean <> (c.t ->> 'generated')::boolean
UNION ALL
SELECT 'critical', 'primary_key_differs', 'table ' || f.name, format('the primary key of table %s has other columns at peer "%s": the table is parked once it changes', f.name, peer),
    'Give it the same primary key on both nodes.'
FROM fits f
WHERE (SELECT k.value -> 'columns' FROM jsonb_array_elements(f.h -> 'keys') k WHERE (k.value ->> 'primary')::boolean)
    IS DISTINCT FROM (SELECT k.value -> 'columns' FROM jsonb_array_elements(f.t -> 'keys') k WHERE (k.value ->> 'primary')::boolean)
UNION ALL
SELECT 'warning', 'unique_only_there', 'table ' || k.name, format('columns %s of table %s are unique at peer "%s", but not here: rows are refused there', k.t ->> 'columns', k.name, peer),
    'Make the same columns unique on both nodes, or on none.'
FROM keys k WHERE NOT (k.t ->> 'primary')::boolean
  AND NOT EXISTS (SELECT FROM jsonb_array_elements(k.h -> 'keys') x WHERE x.value -> 'columns' = k.t -> 'columns')
UNION ALL
SELECT CASE WHEN (c.value ->> 'deterministic')::boolean AND (x.value ->> 'deterministic')::boolean THEN 'info' ELSE 'warning' END,
    'collation_differs', 'table ' || k.name,
    format('column "%s" of a unique key of table %s is compared by %s here, by %s at peer "%s"', c.key, k.name,
        concat_ws(' ', x.value ->> 'name', x.value ->> 'provider', x.value ->> 'locale', x.value ->> 'version', CASE WHEN NOT (x.value ->> 'deterministic')::boolean THEN 'not deterministic' END),
        concat_ws(' ', c.value ->> 'name', c.value ->> 'provider', c.value ->> 'locale', c.value ->> 'version', CASE WHEN NOT (c.value ->> 'deterministic')::boolean THEN 'not deterministic' END), peer),
    CASE WHEN (c.value ->> 'deterministic')::boolean AND (x.value ->> 'deterministic')::boolean
        THEN 'Both find the same values equal, so rows are safe; they are only sorted differently.'
        ELSE 'What is equal on one node need not be on the other. Use the same collation, of the same version, on both.' END
FROM keys k CROSS JOIN LATERAL jsonb_each(CASE WHEN jsonb_typeof(k.t -> 'collations') = 'object' THEN k.t -> 'collations' ELSE '{}' END) c
CROSS JOIN LATERAL (SELECT y.value -> 'collations' -> c.key AS value FROM jsonb_array_elements(k.h -> 'keys') y WHERE y.value -> 'columns' = k.t -> 'columns' LIMIT 1) x
WHERE jsonb_typeof(x.value) = 'object' AND (x.value - 'name') <> (c.value - 'name')
UNION ALL
SELECT 'critical', 'key_collision', 'table ' || f.name, format('the primary key of table %s collides: column "%s" takes numbers from sequence %s here and from %s at peer "%s", and both make the same ones', f.name, n.key,
        n.value ->> 'sequence', s.t ->> 'sequence', peer),
    format('Put the cluster column into the primary key, or let each node take numbers of its own: SELECT seal_sync.sequence_split(%L), at peer "%s" SELECT seal_sync.sequence_split(%L).',
        n.value ->> 'sequence', peer, s.t ->> 'sequence')
FROM fits f CROSS JOIN LATERAL jsonb_each(f.h -> 'numbers') n
CROSS JOIN LATERAL (SELECT f.t -> 'numbers' -> n.key AS t) s
CROSS JOIN LATERAL (SELECT gcd((n.value ->> 'increment')::bigint, (s.t ->> 'increment')::bigint) AS step) g
WHERE s.t IS NOT NULL AND mod((n.value ->> 'residue')::bigint, g.step) = mod((s.t ->> 'residue')::bigint, g.step)
$$;

CREATE FUNCTION seal_sync.check(OUT severity text, OUT code text, OUT scope text, OUT since timestamptz, OUT message text, OUT hint text)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10 SET jit = off
    AS 'MODULE_PATHNAME', 'seal_sync_check';
COMMENT ON FUNCTION seal_sync.check() IS 'health, and more: searches the catalogs and asks each peer; never empty: all well is one row ok';
