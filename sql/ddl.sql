-- DDL of registered tables does what a DBA expects, for an owner without any right on our schema.
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
SELECT seal_sync.node_create('east');
SELECT seal_sync.cluster_create('a', 'east'), seal_sync.cluster_create('b', 'east');
CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nonexistent', port '5432');
CREATE USER MAPPING FOR seal_sync_worker SERVER west;
\set VERBOSITY terse
SELECT seal_sync.peer_create('west');
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE ROLE regress_owner;
CREATE ROLE regress_other;
CREATE SCHEMA app AUTHORIZATION regress_owner;
CREATE VIEW triggers AS
SELECT t.tgrelid::regclass AS relation, regexp_replace(t.tgname, '\d+', '') AS trigger, t.tgenabled AS enabled,
    EXISTS (SELECT FROM seal_sync.table_rule r WHERE t.tgname LIKE '%\_' || r.relation::oid) AS of_registered
FROM pg_trigger t WHERE t.tgname ~ '^seal_sync' ORDER BY t.tgrelid::regclass::text COLLATE "C", 2;
CREATE VIEW rules AS SELECT relation, cluster_column, cluster FROM seal_sync.table_rule ORDER BY relation::text;
CREATE VIEW waiting AS SELECT relation, kind, key, count(*) FROM seal_sync.pending GROUP BY 1, 2, 3 ORDER BY 1, 3, 2;

SET ROLE regress_owner;
SET search_path = app, public;
CREATE TABLE t (id int PRIMARY KEY, cluster_id text, v text);
CREATE TABLE p (id int, cluster_id text, v int, PRIMARY KEY (id, cluster_id)) PARTITION BY LIST (cluster_id);
CREATE TABLE p_a PARTITION OF p FOR VALUES IN ('a');
RESET ROLE;
SELECT seal_sync.table_add('app.t', 'cluster_id'), seal_sync.table_add('app.p', 'cluster_id');
SELECT * FROM public.triggers;

-- Renames are followed
SET ROLE regress_owner;
ALTER TABLE t RENAME TO t2;
ALTER TABLE t2 RENAME COLUMN cluster_id TO cl;
ALTER TABLE t2 RENAME COLUMN id TO nr;
ALTER TABLE t2 ADD COLUMN more int DEFAULT 7;
ALTER TABLE t2 DROP COLUMN more;
ALTER TABLE t2 ALTER COLUMN v SET DEFAULT 'x';
INSERT INTO t2 VALUES (1, 'a');
RESET ROLE;
SELECT * FROM public.rules;
SELECT * FROM public.waiting;
CREATE SCHEMA elsewhere AUTHORIZATION regress_owner;
ALTER TABLE t2 SET SCHEMA elsewhere;
REASSIGN OWNED BY regress_owner TO regress_other;
GRANT ALL ON SCHEMA app TO regress_owner;
SET ROLE regress_other;
UPDATE elsewhere.t2 SET v = 'y';
ALTER TABLE elsewhere.t2 SET SCHEMA app;
RESET ROLE;
REASSIGN OWNED BY regress_other TO regress_owner;
SELECT * FROM public.rules;

-- What the recorded keys rely on must stay
SET ROLE regress_owner;
CALL attempt($$ALTER TABLE t2 DROP CONSTRAINT t_pkey$$);
CALL attempt($$ALTER TABLE t2 DROP COLUMN nr$$);
CALL attempt($$ALTER TABLE t2 ALTER COLUMN nr TYPE bigint$$);
CALL attempt($$ALTER TABLE t2 DROP COLUMN cl$$);
CALL attempt($$ALTER TABLE t2 SET UNLOGGED$$);
CALL attempt($$CREATE TABLE heir () INHERITS (t2)$$);
CALL attempt($$ALTER TABLE p DROP COLUMN cluster_id$$);
ALTER TABLE t2 DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_key PRIMARY KEY (nr);
RESET ROLE;
CREATE DOMAIN public.number AS int;
SET ROLE regress_owner;
CREATE TABLE d (id public.number PRIMARY KEY, cluster_id text);
RESET ROLE;
SELECT seal_sync.table_add('app.d', 'cluster_id');
CALL attempt($$DROP DOMAIN public.number CASCADE$$);
CALL attempt($$DROP SCHEMA app CASCADE; SELECT 1/0$$);
SELECT * FROM public.rules;
DROP TABLE d;
DROP DOMAIN public.number;

-- A rewrite makes new contents: all rows are shipped again; where they keep, nothing is
INSERT INTO app.p VALUES (1, 'a', 1), (2, 'a', 2);
TRUNCATE seal_sync.change_log_0, seal_sync.change_log_1, seal_sync.change_log_2, seal_sync.change_log_3;
SET ROLE regress_owner;
ALTER TABLE t2 ALTER COLUMN v DROP DEFAULT, ALTER COLUMN v TYPE bytea USING v::bytea;
ALTER TABLE p ALTER COLUMN v TYPE bigint USING v + 1;
RESET ROLE;
SELECT * FROM public.waiting;
TRUNCATE seal_sync.change_log_0, seal_sync.change_log_1, seal_sync.change_log_2, seal_sync.change_log_3;
VACUUM FULL app.t2;
ALTER TABLE app.t2 SET (fillfactor = 70), ALTER COLUMN cl TYPE varchar;
CLUSTER app.t2 USING t_key;
BEGIN;
SAVEPOINT s;
ALTER TABLE app.t2 ADD COLUMN r double precision DEFAULT random();
ROLLBACK TO s;
COMMIT;
SELECT * FROM public.waiting;

-- Commands with transactions of their own
CREATE INDEX CONCURRENTLY t2_v ON app.t2 (v);
REINDEX TABLE CONCURRENTLY app.t2;
DROP INDEX CONCURRENTLY app.t2_v;
VACUUM ANALYZE app.t2;

-- Partitions come and go
SET ROLE regress_owner;
CREATE TABLE p_b PARTITION OF p FOR VALUES IN ('b') PARTITION BY RANGE (id);
CREATE TABLE p_b1 PARTITION OF p_b FOR VALUES FROM (0) TO (100);
CREATE TABLE p_c (LIKE p INCLUDING ALL);
CREATE TABLE p_copy AS SELECT * FROM p;
INSERT INTO p_c VALUES (7, 'c', 1), (8, 'c', 2);
RESET ROLE;
SELECT seal_sync.cluster_alter('a', add_values => ARRAY['c']);
SELECT seal_sync.table_add('app.p_c', 'cluster_id', existing_rows => 'adopt');
SELECT * FROM public.triggers;
SET ROLE regress_owner;
ALTER TABLE p ATTACH PARTITION p_c FOR VALUES IN ('c');
INSERT INTO p VALUES (50, 'b', 1);
RESET ROLE;
SELECT * FROM public.rules;
SELECT * FROM public.triggers;
SELECT * FROM public.waiting;
SET ROLE regress_owner;
ALTER TABLE p DETACH PARTITION p_c;
ALTER TABLE p DETACH PARTITION p_b CONCURRENTLY;
INSERT INTO p_c VALUES (9, 'c', 3);
TRUNCATE p_c;
ALTER TABLE p ATTACH PARTITION p_b FOR VALUES IN ('b');
ALTER TABLE p DETACH PARTITION p_b;
DROP TABLE p_a;
RESET ROLE;
SELECT * FROM public.triggers;
SELECT * FROM public.rules;

-- A trigger that does not fire is seen
SET ROLE regress_owner;
ALTER TABLE t2 DISABLE TRIGGER USER;
RESET ROLE;
SELECT severity, code, scope, message FROM seal_sync.health WHERE code = 'capture_disabled';
SELECT relation, state, message FROM seal_sync.stat_table WHERE state <> 'synced';
SET ROLE regress_owner;
ALTER TABLE t2 ENABLE TRIGGER USER;
RESET ROLE;
SELECT severity, code, scope, message FROM seal_sync.health WHERE code = 'capture_disabled';
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'app.t2'::regclass AND tgname ~ '^seal_sync' LOOP
    EXECUTE format('ALTER TABLE app.t2 ENABLE ALWAYS TRIGGER %I', name);
  END LOOP;
END $$;
SELECT severity, code, scope, message FROM seal_sync.health WHERE code = 'capture_disabled';

-- Dropped is forgotten, with what waits for a retry; also in the replica role and in one transaction
INSERT INTO seal_sync.held (peer, relation, leaf, cluster_id, key, state)
VALUES ('west', 'app.t2'::regclass, 0, 0, '\x01000000', 'parked');
BEGIN;
DROP TABLE app.t2;
SELECT * FROM public.rules;
ROLLBACK;
SELECT * FROM public.rules;
SET session_replication_role = replica;
DROP TABLE app.t2;
RESET session_replication_role;
SELECT * FROM public.rules;
SELECT count(*) FROM seal_sync.held;
DROP SCHEMA app CASCADE;
SELECT * FROM public.rules;
SELECT count(*) FROM seal_sync.table_state;

-- In a REPEATABLE READ transaction that began before
CREATE TABLE public.late (id int PRIMARY KEY, cluster_id text);
SELECT seal_sync.table_add('public.late', 'cluster_id');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM seal_sync.table_rule;
DROP TABLE public.late;
COMMIT;
SELECT * FROM public.rules;

DROP VIEW public.triggers, public.rules, public.waiting;
DROP EXTENSION seal_sync;
DROP PROCEDURE public.attempt(text);
DROP SCHEMA elsewhere;
DROP ROLE regress_owner, regress_other;
