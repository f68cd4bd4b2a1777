-- Errors and effects of the calls for node, peers and clusters.
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

-- Nothing works without identity
CALL attempt($$SELECT seal_sync.cluster_create('a', 'east')$$);
CALL attempt($$SELECT seal_sync.peer_create('west')$$);
SELECT seal_sync.sync_now();
SELECT severity, code, scope, message FROM seal_sync.health;

CALL attempt($$SELECT seal_sync.node_create('')$$);
CALL attempt($$SELECT seal_sync.node_create(NULL)$$);
CALL attempt($$SELECT seal_sync.node_create('a name that is longer than the forty-eight bytes allowed')$$);
SELECT seal_sync.node_create('east');
CALL attempt($$SELECT seal_sync.node_create('north')$$);
SELECT seal_sync.version() ~ '^\d+\.\d+\.\d+$' AS version;

-- Options of servers and user mappings
CALL attempt($$CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (hots '10.0.0.2')$$);
CALL attempt($$CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (password 'pw')$$);
CALL attempt($$CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (options '-c role=postgres')$$);
CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nonexistent', port '5432', dbname 'bank');
CALL attempt($$CREATE USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (host 'elsewhere')$$);
CALL attempt($$ALTER FOREIGN DATA WRAPPER seal_sync OPTIONS (ADD user 'x')$$);

-- Peers
CALL attempt($$SELECT seal_sync.peer_create('')$$);
CALL attempt($$SELECT seal_sync.peer_create('east')$$);
CALL attempt($$SELECT seal_sync.peer_create('north')$$);
CALL attempt($$SELECT seal_sync.peer_create('west')$$);
CREATE FOREIGN DATA WRAPPER another;
CREATE SERVER foreign_server FOREIGN DATA WRAPPER another;
CALL attempt($$SELECT seal_sync.peer_create('west', 'foreign_server')$$);
DROP FOREIGN DATA WRAPPER another CASCADE;
CREATE USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (user 'sync_in');
CALL attempt($$SELECT seal_sync.peer_create('west', require_connection => true)$$);
CALL attempt($$SELECT seal_sync.peer_create('west')$$);
CALL attempt($$SELECT seal_sync.peer_create('west')$$);
SELECT step, ok FROM seal_sync.peer_check('west');
CALL attempt($$ALTER SERVER west OPTIONS (ADD compression 'lz4')$$);
ALTER SERVER west OPTIONS (ADD compression 'on');
CALL attempt($$ALTER SERVER west OPTIONS (SET compression '')$$);
ALTER SERVER west OPTIONS (SET compression 'auto');
ALTER SERVER west OPTIONS (DROP compression);
CREATE SERVER "Süden" FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nonexistent', port '5432');
CREATE USER MAPPING FOR seal_sync_worker SERVER "Süden";
SELECT seal_sync.peer_create('Süden');
CALL attempt($$SELECT seal_sync.peer_alter('west', 'nowhere')$$);
CALL attempt($$SELECT seal_sync.peer_alter('north', 'west')$$);
SELECT seal_sync.peer_alter('west', 'Süden');
SELECT seal_sync.peer_alter('west', 'west');
SELECT peer, server FROM seal_sync.peer ORDER BY 1;
ALTER SERVER "Süden" RENAME TO south;
SELECT peer, server FROM seal_sync.peer ORDER BY 1;
CALL attempt($$SELECT seal_sync.peer_drop('Süden')$$);
CALL attempt($$SELECT seal_sync.peer_drop('Süden')$$);
SELECT peer, kind, batch FROM seal_sync.route_history_0;

-- Clusters
CALL attempt($$SELECT seal_sync.cluster_create('', 'east')$$);
CALL attempt($$SELECT seal_sync.cluster_create('a', '')$$);
CALL attempt($$SELECT seal_sync.cluster_create('a', NULL)$$);
CALL attempt($$SELECT seal_sync.cluster_create('a', 'east', '{}')$$);
CALL attempt($$SELECT seal_sync.cluster_create('a', 'east', ARRAY['a', NULL])$$);
CALL attempt($$SELECT seal_sync.cluster_create('a', 'east', ARRAY['a', 'a'])$$);
SELECT seal_sync.cluster_create('a', 'east');
CALL attempt($$SELECT seal_sync.cluster_create('a', 'east')$$);
CALL attempt($$SELECT seal_sync.cluster_create('b', 'west', ARRAY['b', 'a'])$$);
SELECT seal_sync.cluster_create('b', 'west', ARRAY['b', 'B'], ARRAY['east']);
SELECT seal_sync.cluster_create('n', 'north');
CALL attempt($$SELECT seal_sync.cluster_alter('a', add_values => ARRAY['a2', 'B'])$$);
SELECT seal_sync.cluster_alter('a', add_values => ARRAY['a2', 'a3'], drop_values => ARRAY['a']);
CALL attempt($$SELECT seal_sync.cluster_alter('a', drop_values => ARRAY['nothing'])$$);
CALL attempt($$SELECT seal_sync.cluster_alter('a', drop_values => ARRAY['a2', 'a3'])$$);
CALL attempt($$SELECT seal_sync.cluster_alter('nowhere', drop_values => ARRAY['a'])$$);
SELECT cluster, cluster_id, match_values, home_node, standby_nodes FROM seal_sync.cluster ORDER BY 1;
CALL attempt($$SELECT seal_sync.cluster_drop('n')$$);
CALL attempt($$SELECT seal_sync.cluster_drop('n')$$);
-- a number is never given twice: it may stand in the change log
SELECT seal_sync.cluster_create('o', 'east');
SELECT cluster, cluster_id FROM seal_sync.cluster WHERE cluster = 'o';
SELECT cluster, role, state, accepts_writes, primary_node, epoch, tables, match_values FROM seal_sync.clusters ORDER BY 1;
SELECT seal_sync.is_primary('a'), seal_sync.is_primary('b'), seal_sync.primary_of('b');
CALL attempt($$SELECT seal_sync.is_primary('nowhere')$$);
CALL attempt($$SELECT seal_sync.is_primary(NULL)$$);

-- Steering
CALL attempt($$SELECT seal_sync.pause('nowhere')$$);
CALL attempt($$SELECT seal_sync.pause('west', 'reason', '-1 s')$$);
SELECT seal_sync.pause('west', 'maintenance');
SELECT state, state_reason, lag FROM seal_sync.status WHERE direction = 'out';
CALL attempt($$SELECT seal_sync.sync_now('west')$$);
SELECT seal_sync.resume('west');
CALL attempt($$SELECT seal_sync.sync_now('nowhere')$$);
CALL attempt($$SELECT seal_sync.sync_now(timeout => NULL)$$);
CALL attempt($$SELECT seal_sync.sync_now(timeout => '-1 s')$$);
CREATE TABLE public.t (id int PRIMARY KEY, cluster_id text);
BEGIN;
INSERT INTO public.t VALUES (1, 'a2');
SELECT seal_sync.sync_now();
ROLLBACK;

-- The identity goes, and with it everything
SELECT seal_sync.table_add('public.t', 'cluster_id');
INSERT INTO public.t VALUES (1, 'a2');
SELECT seal_sync.node_drop();
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.t'::regclass;
SELECT (SELECT count(*) FROM seal_sync.local_node) AS node, (SELECT count(*) FROM seal_sync.peer) AS peers,
    (SELECT count(*) FROM seal_sync.cluster) AS clusters, (SELECT count(*) FROM seal_sync.table_rule) AS tables,
    (SELECT count(*) FROM seal_sync.table_state) AS table_states, (SELECT count(*) FROM seal_sync.route_history_0) AS history,
    (SELECT count(*) FROM seal_sync.change_log_0) AS log;
INSERT INTO public.t VALUES (2, 'anything');
SELECT seal_sync.node_create('east');
DROP TABLE public.t;
DROP EXTENSION seal_sync;
DROP PROCEDURE public.attempt(text);
