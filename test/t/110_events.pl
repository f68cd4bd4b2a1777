# Who did this: seal_sync.events names the login behind each call, each DDL, each override of the guard and what workers decide by
# themselves; once, however many rows or keys are meant, and never with a secret or a value of a row.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;

my ($east, $west) = two_nodes(conf => "seal_sync.debug_rotation_period = '100ms'\nseal_sync.resend_window = 0\n");
my $db = 'postgres';
sub sql { my ($node, $sql) = @_; return $node->safe_psql($db, $sql) }
# As a login of its own, under a name of its own
sub as
{
	my ($node, $login, $application, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($db, $sql, connstr => $node->connstr($db) . " user=$login application_name=$application");
	is($rc, 0, "$login: " . substr $sql =~ s/\s+/ /gr, 0, 60) or diag $err;
	return $out;
}
sub events { my ($node, $where) = @_; return sql($node, "SELECT event, scope, actor, application, reason, detail FROM seal_sync.events WHERE $where ORDER BY at, event, scope") }
sub count_of { my ($node, $where) = @_; return sql($node, "SELECT count(*) FROM seal_sync.events WHERE $where") }

add_tables(q(CREATE TABLE seal (id int PRIMARY KEY, cluster_id text, v text)), ['seal'], $east, $west);
add_tables(q(CREATE TABLE wide (id text PRIMARY KEY, cluster_id text)), ['wide'], $east, $west);
sql($east, <<'SQL');
CREATE ROLE alice LOGIN IN ROLE seal_sync_admin;
CREATE ROLE olga LOGIN IN ROLE seal_sync_operator;
CREATE ROLE mona LOGIN IN ROLE seal_sync_monitor;
CREATE ROLE app LOGIN;
GRANT CREATE ON SCHEMA public TO alice;
SQL

# ---- calls ------------------------------------------------------------------------------------------------
is(sql($east, q(SELECT string_agg(event, ' ' ORDER BY at) FROM seal_sync.events)),
	'node_create ddl ddl peer_create cluster_create cluster_create table_add table_add', 'the first pair leaves its traces');
my $start = sql($east, 'SELECT clock_timestamp()');
as($east, 'olga', 'console', q(SELECT seal_sync.pause('west', 'disk change', '1 h'); SELECT seal_sync.resume('west')));
sql($east, q(GRANT CREATE ON DATABASE postgres TO alice));
as($east, 'alice', 'console', <<'SQL');
CREATE TABLE public.extra (id int PRIMARY KEY, cluster_id text);
CREATE SCHEMA crowd;
CREATE TABLE crowd.one (id int PRIMARY KEY, cluster_id text);
CREATE TABLE crowd.two (id int PRIMARY KEY, cluster_id text);
SELECT seal_sync.table_add('public.extra', 'cluster_id', existing_rows => 'adopt');
SELECT seal_sync.table_remove('public.extra');
SELECT * FROM seal_sync.schema_add('crowd', 'cluster_id', dry_run => true);
SELECT * FROM seal_sync.schema_add('crowd', 'cluster_id', new_tables => true);
CREATE TABLE crowd.three (id int PRIMARY KEY, cluster_id text);
SELECT seal_sync.cluster_create('c', primary_node => 'east', match_values => ARRAY['c', 'C']);
SELECT seal_sync.cluster_alter('c', add_values => ARRAY['cc'], drop_values => ARRAY['C']);
SELECT seal_sync.cluster_drop('c');
SELECT seal_sync.table_remove('crowd.one'), seal_sync.table_remove('crowd.two'), seal_sync.table_remove('crowd.three');
SQL
is(events($east, "at > '$start' AND event NOT IN ('ddl', 'quarantine_begin', 'parked')"), <<'END' =~ s/\n\z//r, 'each call, its login and what it said');
pause|peer west|olga|console|disk change|
resume|peer west|olga|console||
table_add|table public.extra|alice|console||{"existing_rows": "adopt", "cluster_column": "cluster_id"}
table_remove|table public.extra|alice|console||
schema_add|schema crowd|alice|console||{"tables": ["crowd.one", "crowd.two"], "new_tables": "yes", "existing_rows": "copy", "cluster_column": "cluster_id"}
table_add|table crowd.three|alice|console|new table of a schema added with new_tables|{"cluster_column": "cluster_id"}
cluster_create|cluster c|alice|console||{"match_values": ["c", "C"], "primary_node": "east"}
cluster_alter|cluster c|alice|console||{"add_values": ["cc"], "drop_values": ["C"]}
cluster_drop|cluster c|alice|console||
table_remove|table crowd.one|alice|console||
table_remove|table crowd.two|alice|console||
table_remove|table crowd.three|alice|console||
END
my $before = count_of($east, 'true');
$east->psql($db, q(SELECT seal_sync.pause('nowhere')));
sql($east, q(BEGIN; SELECT seal_sync.pause('west', 'changed my mind'); ROLLBACK));
is(count_of($east, 'true'), $before, 'what failed or was rolled back did not happen');
like(as($east, 'mona', 'grafana', q(SELECT count(*) FROM seal_sync.events)), qr/^[1-9]/, 'monitors read it');

# ---- the guard --------------------------------------------------------------------------------------------
sql($east, q(GRANT INSERT, UPDATE, DELETE, SELECT ON seal TO app));
my ($rc, $out, $err) = $east->psql($db, 'SET seal_sync.guard = off', connstr => $east->connstr($db) . ' user=app');
like($err, qr/permission denied to set parameter "seal_sync.guard"/, 'the guard is not everybody\'s');
sql($east, q(GRANT SET ON PARAMETER seal_sync.guard TO app));
as($east, 'app', 'fixer', <<'SQL');
SET seal_sync.guard = off;
BEGIN;
INSERT INTO seal SELECT i, 'b', 'x' FROM generate_series(1, 1000) i;
SAVEPOINT s; UPDATE seal SET v = 'y'; RELEASE s;
SAVEPOINT s; DELETE FROM seal; ROLLBACK TO s;
COMMIT;
BEGIN; DELETE FROM seal WHERE id > 100; ROLLBACK;
SELECT count(*) FROM seal;
SQL
is(events($east, q(event = 'guard_override')), q(guard_override|table public.seal|app|fixer||{"rows": 2000, "guard": "off", "cluster": "b"}),
	'who overrode the guard, on which table, how many rows: once, and without what was rolled back');
is(sql($east, q(SELECT guard_overridden FROM seal_sync.stat_table WHERE relation = 'seal'::regclass)), '2000', 'counters say the same');
as($east, 'app', 'fixer', q(SET seal_sync.guard = off; SET client_min_messages = error; DELETE FROM seal; SET seal_sync.guard = warn; INSERT INTO seal VALUES (1, 'b'); DELETE FROM seal));
is(count_of($east, q(event = 'guard_override')), '4', 'one for each transaction');
# An application that always overrides does not fill the disk
sql($east, q(UPDATE seal_sync.event SET at = date_trunc('hour', at) WHERE event = 'guard_override'));
wait_until($east, q(SELECT count(*) FROM seal_sync.events WHERE event = 'guard_override'), '2', 'soon folded: one row an hour for each way');
is(sql($east, q(SELECT detail - 'until' FROM seal_sync.events WHERE event = 'guard_override' ORDER BY detail ->> 'guard')),
	qq({"rows": 3000, "guard": "off", "times": 2, "cluster": "b"}\n{"rows": 2, "guard": "warn", "times": 2, "cluster": "b"}), 'with how many times and rows');

# ---- DDL and logins ---------------------------------------------------------------------------------------
sql($east, q(ALTER TABLE seal OWNER TO alice; ALTER SERVER west OWNER TO alice));
$start = sql($east, 'SELECT clock_timestamp()');
as($east, 'alice', 'migration', <<'SQL');
ALTER TABLE seal ADD COLUMN w text DEFAULT 'Wang Fang';
CREATE INDEX seal_v ON seal (v);
CREATE TABLE unrelated (id int);
ALTER TABLE unrelated ADD v text;
ALTER SERVER west OPTIONS (ADD sslmode 'prefer');
ALTER USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (SET password 'pw');
ALTER USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (SET password 'verysecret');
ALTER USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (SET password 'pw');
SQL
is(events($east, "at > '$start' AND event = 'ddl'"), <<'END' =~ s/\n\z//r, 'DDL of registered tables and of what leads to peers');
ddl|table public.seal|alice|migration||{"command": "ALTER TABLE"}
ddl|table public.seal|alice|migration||{"command": "CREATE INDEX"}
ddl|server west|alice|migration||{"command": "ALTER SERVER"}
ddl|server west|alice|migration||{"command": "ALTER USER MAPPING"}
ddl|server west|alice|migration||{"command": "ALTER USER MAPPING"}
ddl|server west|alice|migration||{"command": "ALTER USER MAPPING"}
END
sql($east, 'ALTER SERVER west OWNER TO CURRENT_USER');

# ---- what workers decide ----------------------------------------------------------------------------------
my $workers = q('seal_sync_worker', 'seal_sync route worker "west"');
is(events($east, q(event = 'parked')), '', 'nothing waits yet');
as($east, 'alice', 'psql', q(INSERT INTO seal (id, cluster_id, w) SELECT i, 'a', 'Wang Fang' FROM generate_series(1, 100) i));
wait_until($east, q(SELECT string_agg(concat_ws('|', event, scope, actor, application, reason, detail), ' ') FROM seal_sync.events WHERE event = 'parked'),
	q(parked|table public.seal|seal_sync_worker|seal_sync route worker "west"|table "public.seal" is parked for peer "west": column "w" does not exist there|{"peer": "west", "sqlstate": "42703"}),
	'a table that is parked, once for a hundred keys');
sql($west, q(ALTER TABLE seal ADD COLUMN w text; ALTER TABLE seal ADD CONSTRAINT nobody CHECK (w <> 'Li Wei')));
wait_until($east, q(SELECT concat_ws('|', event, scope, detail) FROM seal_sync.events WHERE event = 'unparked'), 'unparked|table public.seal|{"peer": "west"}', 'and when it goes on');
wait_for_sync($east);

sql($east, q(UPDATE seal SET w = 'Li Wei' WHERE id <= 10));
wait_until($east, q(SELECT string_agg(concat_ws('|', event, scope, actor, detail), ' ') FROM seal_sync.events WHERE event LIKE 'quarantine\_%'),
	'quarantine_begin|table public.seal|seal_sync_worker|{"peer": "west", "sqlstate": "23514"}', 'the first of ten refused keys');
wait_until($east, q(SELECT count(*) FROM seal_sync.quarantine WHERE attempts > 1), '10', 'though they are refused again');
sql($east, q(UPDATE seal SET w = 'fine' WHERE id <= 9));
wait_until($east, q(SELECT count(*) FROM seal_sync.quarantine), '1', 'nine of them arrive');
is(count_of($east, q(event LIKE 'quarantine\_%')), '1', 'which is not the end');
sql($east, q(UPDATE seal SET w = 'fine' WHERE id = 10));
wait_until($east, q(SELECT string_agg(event, ' ' ORDER BY at) FROM seal_sync.events WHERE event LIKE 'quarantine\_%'), 'quarantine_begin quarantine_end', 'the last is');

# A worker that begins anew does not tell again what goes on
sql($east, q(UPDATE seal SET w = 'Li Wei' WHERE id = 1));
wait_until($east, q(SELECT count(*) FROM seal_sync.events WHERE event = 'quarantine_begin'), '2', 'refused once more');
$east->restart;
sql($east, q(UPDATE seal SET w = 'Li Wei' WHERE id = 2));
wait_until($east, q(SELECT count(*) FROM seal_sync.quarantine), '2', 'and another one after a restart');
is(count_of($east, q(event = 'quarantine_begin')), '2', 'is no news');
sql($east, q(UPDATE seal SET w = 'fine' WHERE id <= 2));
wait_until($east, q(SELECT count(*) FROM seal_sync.events WHERE event = 'quarantine_end'), '2', 'nor is its end forgotten');

# ---- the log is full --------------------------------------------------------------------------------------
sql($east, q(SELECT seal_sync.pause('west')));
sql($east, q(ALTER SYSTEM SET seal_sync.max_log_size = '1MB'; SELECT pg_reload_conf()));
sql($east, q(INSERT INTO wide SELECT repeat('k', 150) || i, 'a' FROM generate_series(1, 12000) i));
wait_until($east, q(SELECT actor, reason, detail - 'log_bytes' FROM seal_sync.events WHERE event = 'log_full'),
	'seal_sync_worker||{"action": "mark_dirty", "log_limit_bytes": 1048576}', 'the log is full');
sql($east, q(UPDATE seal SET v = 'not logged' WHERE id <= 200));
sql($east, q(SELECT seal_sync.resume('west')));
wait_until($east, q(SELECT count(*) >= 3 FROM (SELECT DISTINCT event, scope FROM seal_sync.events WHERE event IN ('log_has_room', 'table_dirty', 'table_shipped_again')) e),
	't', 'a table that was marked, room again, and the table shipped again');
sql($east, q(ALTER SYSTEM RESET seal_sync.max_log_size; SELECT pg_reload_conf()));

# ---- halted -----------------------------------------------------------------------------------------------
sql($east, q(UPDATE seal_sync.peer_state SET token = gen_random_uuid()));
sql($west, q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'seal_sync/west'));
wait_until($east, q(SELECT concat_ws('|', scope, actor, reason) FROM seal_sync.events WHERE event = 'halted'),
	'peer west|seal_sync_worker|peer "west" is another node than before: It carries the same name, but another identity: it was made anew, or the connection leads to another server.',
	'why a route was halted');

# ---- nobody's rows, nobody's secrets ----------------------------------------------------------------------
unlike(sql($east, 'SELECT e FROM seal_sync.event e'), qr/Wang|Li Wei|verysecret|not logged/, 'no values and no secrets');
sql($east, q(ALTER SYSTEM SET seal_sync.event_retention = '0'; SELECT pg_reload_conf()));
wait_until($east, 'SELECT count(*) FROM seal_sync.event', '0', 'all is forgotten after seal_sync.event_retention');
done_testing();
