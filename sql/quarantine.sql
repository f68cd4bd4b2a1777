-- quarantine_retry and quarantine_skip: choice of keys, errors, rights, what is recorded.
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
SET client_min_messages = error;
SELECT seal_sync.node_create('east');
CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nonexistent', dbname 'bank');
CREATE SERVER north FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nonexistent', dbname 'bank');
CREATE USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (user 'sync_in', password 'secret');
CREATE USER MAPPING FOR seal_sync_worker SERVER north OPTIONS (user 'sync_in', password 'secret');
SELECT seal_sync.peer_create('west'), seal_sync.peer_create('north');
SELECT seal_sync.cluster_create('a', 'east');
RESET client_min_messages;
CREATE TABLE t (id int PRIMARY KEY, cluster_id text);
CREATE TABLE u (id int PRIMARY KEY, cluster_id text);
CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE parts (id int PRIMARY KEY, cluster_id text) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parts DEFAULT;
SELECT seal_sync.table_add(r, 'cluster_id') FROM unnest('{t,u,parts}'::regclass[]) r;
INSERT INTO seal_sync.held (peer, relation, leaf, cluster_id, key, state, sqlstate, message, next_retry_at)
SELECT p, r, 0, 0, decode(lpad(i::text, 2, '0') || '000000', 'hex'), 'quarantined', '23514', 'refused', 'tomorrow'
FROM unnest('{west,north}'::name[]) WITH ORDINALITY AS p(p, n), unnest('{t,u}'::regclass[]) WITH ORDINALITY AS r(r, m), generate_series(1, 2) i
ORDER BY n, m, i;
INSERT INTO seal_sync.held (peer, relation, leaf, cluster_id, key, state, next_retry_at)
VALUES ('west', 't'::regclass, 0, 0, '\x09000000', 'parked', 'tomorrow');
CREATE VIEW decided AS
SELECT id, peer, relation, key, state, next_retry_at < now() + '1 min' AS due, attempts, held_by FROM seal_sync.quarantine ORDER BY id;
SELECT * FROM decided;
SELECT cluster, state, quarantined_keys FROM seal_sync.clusters;

-- Bad input
CALL attempt($$SELECT seal_sync.quarantine_retry(ids => '{77}')$$);
CALL attempt($$SELECT seal_sync.quarantine_retry(ids => '{77, 78, 77}')$$);
CALL attempt($$SELECT seal_sync.quarantine_retry(ids => '{1, NULL}')$$);
CALL attempt($$SELECT seal_sync.quarantine_retry(ids => '{9}')$$);   -- parked
CALL attempt($$SELECT seal_sync.quarantine_retry(ids => '{1}', peer => 'north')$$);
CALL attempt($$SELECT seal_sync.quarantine_retry(peer => 'south')$$);
CALL attempt($$SELECT seal_sync.quarantine_retry(relation => 'other')$$);
CALL attempt($$SELECT seal_sync.quarantine_retry(relation => 'part')$$);
CALL attempt($$SELECT seal_sync.quarantine_skip(ids => '{1}')$$);
CALL attempt($$SELECT seal_sync.quarantine_skip(ids => '{1}', reason => ' ')$$);
CALL attempt($$SELECT seal_sync.quarantine_skip(reason => 'all of them')$$);
CALL attempt($$SELECT seal_sync.quarantine_skip(ids => '{77}', reason => 'x')$$);
CALL attempt($$SELECT seal_sync.quarantine_skip(peer => 'south', reason => 'x')$$);
SELECT count(*) FROM decided WHERE due OR state <> 'quarantined';
SELECT count(*) FROM seal_sync.events WHERE event LIKE 'quarantine%';

-- What is chosen
SELECT seal_sync.quarantine_retry(ids => '{}');
SELECT seal_sync.quarantine_retry(ids => '{2, 77}');
SELECT seal_sync.quarantine_retry(peer => 'north', relation => 't');
SELECT seal_sync.quarantine_skip(ids => '{1, 5}', reason => 'not wanted there');
SELECT seal_sync.quarantine_skip(relation => 'u', reason => 'table goes away');
SELECT * FROM decided;
SELECT id FROM decided WHERE state = 'quarantined' AND NOT due;
SELECT cluster, state, quarantined_keys FROM seal_sync.clusters;
SELECT relation, peer, state, pending_keys, quarantined_keys FROM seal_sync.stat_table WHERE relation <> 'parts'::regclass ORDER BY 1, 2;
SELECT peer, pending_keys, quarantined_keys FROM seal_sync.status WHERE direction = 'out' ORDER BY 1;
SELECT key, state FROM seal_sync.pending ORDER BY 2, 1;
SELECT severity, scope, message, hint FROM seal_sync.health WHERE code IN ('quarantined_keys', 'skipped_keys') ORDER BY 1, 2, 3;

-- All the rest; a skipped key only where its id is given
SELECT seal_sync.quarantine_retry();
SELECT seal_sync.quarantine_retry(ids => '{1}');
SELECT id, state FROM decided WHERE due;
SELECT seal_sync.quarantine_skip(peer => 'west', reason => 'gone'), seal_sync.quarantine_skip(peer => 'north', reason => 'gone');
DELETE FROM seal_sync.held WHERE state = 'parked';
SELECT cluster, state, quarantined_keys FROM seal_sync.clusters;

-- What is undone is not recorded
BEGIN;
SELECT seal_sync.quarantine_retry(ids => '{1}');
ROLLBACK;
SELECT event, scope, actor = session_user AS actor, application, client_addr, reason, detail FROM seal_sync.events WHERE event LIKE 'quarantine%' ORDER BY at;

-- Rights
CREATE ROLE regress_operator IN ROLE seal_sync_operator;
CREATE ROLE regress_admin IN ROLE seal_sync_admin;
CREATE ROLE regress_monitor IN ROLE seal_sync_monitor;
CREATE ROLE regress_reader IN ROLE seal_sync_read_data;
CREATE ROLE regress_peer IN ROLE seal_sync_peer;
CREATE ROLE regress_app IN ROLE seal_sync_application;
SET ROLE regress_operator;
SELECT seal_sync.quarantine_retry(ids => '{1}'), seal_sync.quarantine_skip(ids => '{1}', reason => 'may');
SELECT event, reason FROM seal_sync.events ORDER BY at DESC LIMIT 2;
CALL attempt('SELECT FROM seal_sync.quarantine');
CALL attempt('DELETE FROM seal_sync.events');
SET ROLE regress_monitor;
SELECT count(*) > 0 AS may FROM seal_sync.events;
CALL attempt('SELECT seal_sync.quarantine_retry()');
CALL attempt($$SELECT seal_sync.quarantine_skip(peer => 'west', reason => 'may not')$$);
SET ROLE regress_reader;
SELECT count(*) > 0 AS may FROM seal_sync.quarantine;
CALL attempt('SELECT FROM seal_sync.events');
CALL attempt('SELECT seal_sync.quarantine_retry()');
CALL attempt($$SELECT seal_sync.quarantine_skip(peer => 'west', reason => 'may not')$$);
SET ROLE regress_admin;
CALL attempt('SELECT seal_sync.quarantine_retry()');
CALL attempt($$SELECT seal_sync.quarantine_skip(peer => 'west', reason => 'may not')$$);
SET ROLE regress_peer;
CALL attempt('SELECT seal_sync.quarantine_retry()');
CALL attempt($$SELECT seal_sync.quarantine_skip(peer => 'west', reason => 'may not')$$);
SET ROLE regress_app;
CALL attempt('SELECT seal_sync.quarantine_retry()');
CALL attempt($$SELECT seal_sync.quarantine_skip(peer => 'west', reason => 'may not')$$);
RESET ROLE;

-- Events are forgotten in time
UPDATE seal_sync.event SET at = at - interval '399 days';
SELECT seal_sync.quarantine_retry(ids => '{1}');
SELECT count(*) > 10 AS kept FROM seal_sync.events;
UPDATE seal_sync.event SET at = at - interval '2 days' WHERE at < now() - interval '1 day';
SELECT seal_sync.quarantine_skip(ids => '{1}', reason => 'last');
SELECT event, reason FROM seal_sync.events ORDER BY at;

-- A great many ids, as after a mistake on the peer; the limit is for a busy machine with everything instrumented
INSERT INTO seal_sync.held (peer, relation, leaf, cluster_id, key, state, sqlstate, message, next_retry_at)
SELECT 'west', 'u'::regclass, 0, 0, decode(lpad(i::text, 8, '0'), 'hex'), 'quarantined', '23514', 'refused', 'tomorrow'
FROM generate_series(10000, 39999) i;
SET statement_timeout = '15 s';
SELECT seal_sync.quarantine_retry(ids => ARRAY(SELECT id FROM seal_sync.held WHERE state = 'quarantined' AND sqlstate = '23514' AND relation = 'u'::regclass) || 0::bigint);
RESET statement_timeout;

DROP VIEW decided;
DROP EXTENSION seal_sync;
DROP TABLE t, u, other, parts;
DROP PROCEDURE attempt;
DROP ROLE regress_operator, regress_admin, regress_monitor, regress_reader, regress_peer, regress_app;
