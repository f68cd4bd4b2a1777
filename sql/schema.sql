-- schema_add: all tables of a schema in one call, and what it says of each.
CREATE EXTENSION seal_sync;
-- An error with its SQLSTATE, detail and hint
CREATE PROCEDURE attempt(statement text) LANGUAGE plpgsql AS $$
DECLARE message text; state text; detail text; hint text;
BEGIN
    EXECUTE statement;
    RAISE INFO 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE INFO '%', concat_ws(E'\n', state || ': ' || message, '  detail: ' || nullif(detail, ''), '  hint: ' || nullif(hint, ''));
END $$;
\set SHOW_CONTEXT never
CREATE SCHEMA app;
CREATE SCHEMA elsewhere;
CREATE TABLE app.seal (id text PRIMARY KEY, cluster_id text NOT NULL, v text);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', 'cluster_id')$$);
SELECT seal_sync.node_create('east');
SELECT seal_sync.cluster_create('a', 'east'), seal_sync.cluster_create('b', 'east');

-- Arguments
CALL attempt($$SELECT * FROM seal_sync.schema_add(NULL, 'cluster_id')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('nowhere', 'cluster_id')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add(4294967290::oid::regnamespace, 'cluster_id')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('pg_catalog', 'cluster_id')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('seal_sync', 'cluster_id')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', 'cluster_id', 'a')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', cluster => 'nowhere')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', cluster => 'nowhere', dry_run => true)$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', 'cluster_id', existing_rows => 'all')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', 'cluster_id', existing_rows => NULL)$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', 'cluster_id', except_tables => '{NULL}')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', 'cluster_id', except_tables => '{pg_class}')$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', 'cluster_id', except_tables => '{4294967290}')$$);
SELECT * FROM seal_sync.schema_add('elsewhere', 'cluster_id');

-- All that a schema can hold
CREATE TABLE app.audit (id int, cluster_id text);
CREATE TABLE app.counted (id bigserial PRIMARY KEY, cluster_id text);
CREATE TABLE app.deferred (id int PRIMARY KEY DEFERRABLE, cluster_id text);
CREATE TABLE app.image (id text PRIMARY KEY REFERENCES app.seal, image bytea);
CREATE UNLOGGED TABLE app.unlogged (id int PRIMARY KEY, cluster_id text);
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nothing FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE app.far_away (id int, cluster_id text) SERVER nothing;
CREATE VIEW app.v AS SELECT * FROM app.audit;
CREATE MATERIALIZED VIEW app.mv AS SELECT * FROM app.audit;
CREATE TEMP TABLE temporary (id int PRIMARY KEY, cluster_id text);
CREATE TABLE app.parent (id int PRIMARY KEY, cluster_id text);
CREATE TABLE app.child (PRIMARY KEY (id)) INHERITS (app.parent);
CREATE TABLE app.part (id int, cluster_id text, PRIMARY KEY (cluster_id, id)) PARTITION BY LIST (cluster_id);
CREATE TABLE app.part_a PARTITION OF app.part FOR VALUES IN ('a');
CREATE TABLE elsewhere.part_b PARTITION OF app.part FOR VALUES IN ('b');
CREATE TABLE app.bad_part (id int, cluster_id text, PRIMARY KEY (cluster_id, id)) PARTITION BY LIST (cluster_id);
CREATE UNLOGGED TABLE app.bad_part_a PARTITION OF app.bad_part FOR VALUES IN ('a');
CREATE TABLE app.known (id int PRIMARY KEY, place text);
SELECT seal_sync.table_add('app.known', cluster => 'b');
CREATE TABLE app.left_out (id int PRIMARY KEY, cluster_id text);
CREATE TABLE app."Größe ""x""" (id int PRIMARY KEY, cluster_id text);
INSERT INTO app.seal VALUES ('1', 'a', 'x'), ('2', 'b', 'y'), ('3', 'c', 'of no cluster');
INSERT INTO app.part VALUES (1, 'a'), (2, 'b');
ANALYZE app.seal, app.part;
CALL attempt($$SELECT * FROM seal_sync.schema_add('app', 'cluster_id', except_tables => '{app.part_a}')$$);
CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nonexistent', port '5432');
CREATE USER MAPPING FOR seal_sync_worker SERVER west;
\set VERBOSITY terse
BEGIN;
SELECT seal_sync.peer_create('west');
UPDATE seal_sync.table_state SET dirty_since = NULL; -- or all rows would be entered again, some seconds from now
COMMIT;
\set VERBOSITY default

-- The dry run says what the call does, and does nothing: not even in a transaction that may not write
BEGIN READ ONLY;
SELECT * FROM seal_sync.schema_add('app', 'cluster_id', except_tables => '{app.left_out}', dry_run => true) \gx
COMMIT;
SELECT count(*) FROM seal_sync.table_rule;
SELECT count(*) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock';
CREATE TABLE public.foretold AS SELECT * FROM seal_sync.schema_add('app', 'cluster_id', except_tables => '{app.left_out}', dry_run => true);
CREATE TABLE public.done AS SELECT * FROM seal_sync.schema_add('app', 'cluster_id', except_tables => '{app.left_out}');
SELECT * FROM (TABLE foretold EXCEPT TABLE done) x;
SELECT count(*) FROM done;
SELECT relation, clusters, cluster_column FROM seal_sync.stat_table ORDER BY relation::text COLLATE "C";
SELECT relation, kind, key, cluster FROM seal_sync.pending ORDER BY relation::text, key::text;
SELECT t.tgrelid::regclass, count(*) FROM pg_trigger t WHERE t.tgname ~ '^seal_sync' GROUP BY 1 ORDER BY t.tgrelid::regclass::text COLLATE "C";
SELECT relation, action, message, hint FROM seal_sync.schema_add('elsewhere', 'cluster_id');

-- Again: what was added stays, what has become fit is added; the rest can go to a cluster as a whole
ALTER TABLE app.audit ADD PRIMARY KEY (id);
ALTER TABLE app.unlogged SET LOGGED;
SELECT relation, action, cluster_by FROM seal_sync.schema_add('app', 'cluster_id', except_tables => '{app.left_out}', existing_rows => 'adopt')
WHERE action IN ('add', 'keep');
SELECT relation, action, cluster_by, sqlstate FROM seal_sync.schema_add('app', cluster => 'a', dry_run => true) WHERE action <> 'keep';

-- A failing caller leaves nothing
BEGIN;
SELECT relation, action FROM seal_sync.schema_add('app', cluster => 'a') WHERE action = 'add';
ROLLBACK;
SELECT count(*) FROM seal_sync.table_rule WHERE cluster = 'a';

-- Who may: the role, and of the tables only its own
CREATE ROLE regress_admin IN ROLE seal_sync_admin;
CREATE ROLE regress_nobody;
CREATE SCHEMA mixed;
GRANT USAGE ON SCHEMA mixed TO regress_admin;
CREATE TABLE mixed.mine (id int PRIMARY KEY, cluster_id text);
CREATE TABLE mixed.theirs (id int PRIMARY KEY, cluster_id text);
ALTER TABLE mixed.mine OWNER TO regress_admin;
SET ROLE regress_nobody;
CALL attempt($$SELECT * FROM seal_sync.schema_add('mixed', 'cluster_id', dry_run => true)$$);
SET ROLE regress_admin;
SELECT * FROM seal_sync.schema_add('mixed', 'cluster_id') \gx
CALL attempt($$SELECT seal_sync.table_remove('mixed.theirs')$$);
CALL attempt($$SELECT seal_sync.table_remove('mixed.mine')$$);
RESET ROLE;

-- Tables made later, when the owner of the schema wants it
CREATE SCHEMA later;
GRANT ALL ON SCHEMA later TO regress_admin, regress_nobody;
CREATE TABLE later.old (id int PRIMARY KEY, cluster_id text);
CREATE TABLE later.excepted (id int PRIMARY KEY, cluster_id text);
SET ROLE regress_admin;
CALL attempt($$SELECT * FROM seal_sync.schema_add('later', 'cluster_id', new_tables => true)$$);
CALL attempt($$SELECT * FROM seal_sync.schema_add('later', 'cluster_id', new_tables => false)$$);
RESET ROLE;
BEGIN READ ONLY;
SELECT relation, action FROM seal_sync.schema_add('later', 'cluster_id', NULL, '{later.excepted}', new_tables => true, dry_run => true);
COMMIT;
SELECT count(*) FROM seal_sync.schema_rule;
SELECT relation, action FROM seal_sync.schema_add('later', 'cluster_id', except_tables => '{later.excepted}', new_tables => true);
SET ROLE regress_nobody; -- whoever makes it
CREATE TABLE later.plain (id int PRIMARY KEY, cluster_id text);
INSERT INTO later.plain VALUES (1, 'a');
CREATE TABLE later.parts (id int, cluster_id text, PRIMARY KEY (id, cluster_id)) PARTITION BY LIST (cluster_id);
CREATE TABLE later.parts_a PARTITION OF later.parts FOR VALUES IN ('a');
INSERT INTO later.parts VALUES (1, 'a');
CREATE TABLE later.filled AS SELECT i AS id, 'a' AS cluster_id FROM generate_series(1, 2) i;
ALTER TABLE later.filled ADD PRIMARY KEY (id);
CREATE TABLE later.counted (id serial PRIMARY KEY, cluster_id text);
CREATE TABLE later.without (id int PRIMARY KEY);
CREATE TABLE later.as_json (id int PRIMARY KEY, cluster_id json);
CREATE DOMAIN later.doc AS jsonb;
CREATE TABLE later.as_domain (id int PRIMARY KEY, cluster_id later.doc);
CREATE UNLOGGED TABLE later.scratch (id int PRIMARY KEY, cluster_id text);
CREATE TEMP TABLE scratch (id int PRIMARY KEY, cluster_id text);
DROP TABLE pg_temp.scratch;
RESET ROLE;
ALTER TABLE later.excepted ADD v text;
ALTER TABLE later.excepted RENAME TO renamed;
SELECT seal_sync.table_remove('later.old');
ALTER TABLE later.old ADD v text;
-- What does not make a table fit neither adds it nor locks it more than it must
ALTER EVENT TRIGGER seal_sync_ddl_command_end DISABLE;
CREATE TABLE later.unseen (id int PRIMARY KEY, cluster_id text);
ALTER EVENT TRIGGER seal_sync_ddl_command_end ENABLE ALWAYS;
BEGIN;
CREATE INDEX ON later.unseen (cluster_id);
COMMENT ON TABLE later.unseen IS 'not seen when it was made';
GRANT SELECT ON later.unseen TO regress_nobody;
ALTER TABLE later.unseen ALTER cluster_id SET STATISTICS 10;
SELECT DISTINCT mode FROM pg_locks WHERE relation = 'later.unseen'::regclass AND mode IN ('ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock');
SELECT count(*) FROM seal_sync.table_rule WHERE relation = 'later.unseen'::regclass;
COMMIT;
ALTER TABLE later.unseen ADD v text;
SELECT count(*) FROM seal_sync.table_rule WHERE relation = 'later.unseen'::regclass;
SELECT seal_sync.table_remove('later.unseen');
DROP TABLE later.unseen;
ALTER SCHEMA later RENAME TO sooner;
CREATE TABLE sooner.after_rename (id int PRIMARY KEY, cluster_id text);
ALTER TABLE app.left_out SET SCHEMA sooner;
BEGIN;
CREATE TABLE sooner.rolled_back (id int PRIMARY KEY, cluster_id text);
ROLLBACK;
SELECT relation, clusters FROM seal_sync.stat_table WHERE relation::text ~ '^sooner' ORDER BY relation::text COLLATE "C";
SELECT relation, kind, key FROM seal_sync.pending WHERE relation::text ~ '^sooner' ORDER BY relation::text, key::text;
SELECT schema, cluster_column, except_tables FROM seal_sync.schema_rule;
DROP TABLE sooner.renamed;
SELECT except_tables FROM seal_sync.schema_rule;
-- As it is, another rule, no rule
SELECT count(*) FROM seal_sync.schema_add('sooner', 'cluster_id', except_tables => '{sooner.old}');
SELECT schema, cluster_column FROM seal_sync.schema_rule;
SELECT count(*) FROM seal_sync.schema_add('sooner', cluster => 'b', except_tables => '{sooner.old,sooner.counted}', new_tables => true);
SELECT schema, cluster_column, cluster FROM seal_sync.schema_rule;
CREATE TABLE sooner.constant (id int PRIMARY KEY);
SELECT relation, clusters FROM seal_sync.stat_table WHERE relation::text ~ '^sooner.(constant|without)' ORDER BY relation::text;
SELECT seal_sync.cluster_create('whole', 'east');
SELECT count(*) FROM seal_sync.schema_add('elsewhere', cluster => 'whole', new_tables => true);
CALL attempt($$SELECT seal_sync.cluster_drop('whole')$$);
SELECT count(*) FROM seal_sync.schema_add('elsewhere', cluster => 'whole', new_tables => false);
CALL attempt($$SELECT seal_sync.cluster_drop('whole')$$);
\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA sooner CASCADE;
RESET client_min_messages;
\set VERBOSITY default
SELECT count(*) FROM seal_sync.schema_rule;

-- 500 tables in one call
CREATE SCHEMA many;
DO $$ BEGIN FOR i IN 1 .. 500 LOOP
    EXECUTE format('CREATE TABLE many.t%s (id uuid PRIMARY KEY, cluster_id text NOT NULL)', i);
    EXECUTE format('INSERT INTO many.t%s VALUES (gen_random_uuid(), ''a'')', i);
END LOOP; END $$;
-- Seconds are meant; the limit is for a busy machine with everything instrumented.
SET statement_timeout = '60 s';
SELECT action, count(*) FROM seal_sync.schema_add('many', 'cluster_id') GROUP BY 1;
RESET statement_timeout;
SELECT count(DISTINCT relation), count(*) FROM seal_sync.pending WHERE relation::text ~ '^many';

DROP EXTENSION seal_sync;
SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal;
\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA app, elsewhere, mixed CASCADE;
DO $$ BEGIN FOR i IN 1 .. 500 LOOP EXECUTE format('DROP TABLE many.t%s', i); END LOOP; END $$;
DROP SCHEMA many;
DROP TABLE foretold, done;
DROP PROCEDURE attempt(text);
DROP FOREIGN DATA WRAPPER nothing CASCADE;
DROP ROLE regress_admin, regress_nobody;
