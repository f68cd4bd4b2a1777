# Keys that could not be shipped say why, and to which cluster they belong.
#
# Refused keys (a row, and a delete of which no row tells the cluster), a table that the peer has not got, one that does not
# fit, a cluster that it does not know; the same when the answer to their batch is lost.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = $SealSync::db;
my ($east, $west) = two_nodes();
$_->safe_psql($db, q(SELECT seal_sync.cluster_create('a2', primary_node => 'east'))) for $east, $west;
add_tables('CREATE TABLE t (id int PRIMARY KEY, cluster_id text, v text)', ['t'], $east, $west);
$west->safe_psql($db, q(ALTER TABLE t ADD CHECK (v <> 'bad'); CREATE TABLE local (t int REFERENCES t)));
wait_for_state($east, 'west', 'streaming');

my $held = q(SELECT relation::regclass::text COLLATE "C" AS relation, c.cluster, state, awaits_cluster, count(*) FROM seal_sync.held h
  LEFT JOIN seal_sync.cluster c USING (cluster_id) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2);
my $quarantined = q(SELECT string_agg(cluster || ' ' || quarantined_keys, ', ' ORDER BY cluster) FROM seal_sync.clusters WHERE role = 'primary');

# ---- a refused key counts for its own cluster

$east->safe_psql($db, q(INSERT INTO t SELECT i, CASE WHEN i % 2 = 0 THEN 'a2' ELSE 'a' END, 'v' FROM generate_series(1, 10) i));
wait_for_sync($east);
$west->safe_psql($db, 'INSERT INTO local VALUES (2)');
$east->safe_psql($db, q(UPDATE t SET v = 'bad' WHERE id = 1; UPDATE t SET v = 'good' WHERE id > 2));
wait_until($east, $held, 't|a|quarantined|f|1', 'a refused row is held with its cluster');
is($east->safe_psql($db, $quarantined), 'a 1, a2 0', 'and counts for that one alone');

$east->safe_psql($db, 'DELETE FROM t WHERE id = 2');
wait_until($east, $held, "t|a|quarantined|f|1\nt|a2|quarantined|f|1", 'a refused delete, of which no row is left, with its cluster');
is($east->safe_psql($db, $quarantined), 'a 1, a2 1', 'and each cluster has one');
wait_until($east, q(SELECT min(attempts) > 1 FROM seal_sync.held), 't', 'tried again');
is($east->safe_psql($db, $held), "t|a|quarantined|f|1\nt|a2|quarantined|f|1", 'they keep their clusters');

$west->safe_psql($db, 'DELETE FROM local; ALTER TABLE t DROP CONSTRAINT t_v_check');
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'and arrive when they may');
dumps_equal('all rows', [ $east, $west ], 't');

# ---- what is left out of a batch, and whose answer is lost

sub pause_route
{
	$east->safe_psql($db, q(SELECT seal_sync.pause('west', 'test')));
	$east->poll_query_until($db, q(SELECT count(*) = 0 FROM seal_sync.status WHERE connected_since IS NOT NULL AND direction = 'out'));
	return;
}

$east->safe_psql($db, q(SELECT seal_sync.cluster_create('a3', primary_node => 'east');
  CREATE TABLE alone (id int PRIMARY KEY, cluster_id text); CREATE TABLE narrow (id int PRIMARY KEY, cluster_id text, extra text);
  SELECT seal_sync.table_add('alone', cluster_column => 'cluster_id'); SELECT seal_sync.table_add('narrow', cluster_column => 'cluster_id')));
$west->safe_psql($db, q(CREATE TABLE narrow (id int PRIMARY KEY, cluster_id text); SELECT seal_sync.table_add('narrow', cluster_column => 'cluster_id')));
my $waiting = "alone|a|waiting_peer|f|1\nalone|a2|waiting_peer|f|1\nnarrow|a|parked|f|1\nnarrow|a2|parked|f|1\nt|a3|waiting_peer|t|1";
pause_route();
$east->safe_psql($db, q(INSERT INTO alone VALUES (1, 'a'), (2, 'a2'); INSERT INTO narrow VALUES (1, 'a', 'x'), (2, 'a2', 'y'); INSERT INTO t VALUES (20, 'a3', 'z')));
$east->safe_psql($db, q(SELECT seal_sync.resume('west')));
wait_until($east, $held, $waiting, 'each waits for its own reason, with its cluster');
is($east->safe_psql($db, q(SELECT string_agg(code || ' ' || scope, ', ' ORDER BY code, scope) FROM seal_sync.health WHERE severity <> 'info')),
	'cluster_waiting_peer cluster a3, table_parked table narrow, table_waiting_peer table alone', 'health has one line for each');

pause_route();
my $batch = $east->safe_psql($db, q(SELECT max(batch) FROM (SELECT batch FROM seal_sync.route_history_0 WHERE kind = 'a' UNION ALL
  SELECT batch FROM seal_sync.route_history_1 WHERE kind = 'a') x));
$east->safe_psql($db, "DELETE FROM seal_sync.route_history_$_ WHERE kind = 'a' AND batch = $batch") for 0, 1;
$east->safe_psql($db, 'DELETE FROM seal_sync.held');
$east->safe_psql($db, q(SELECT seal_sync.resume('west')));
wait_until($east, $held, $waiting, 'the same when the answer to their batch was lost');
wait_until($east, q(SELECT count(DISTINCT message) FROM seal_sync.held WHERE message LIKE '%"extra" does not exist%'), '1', 'and the peer says again what is missing');
is($east->safe_psql($db, 'SELECT count(*) FROM seal_sync.quarantine'), '0', 'nothing is called refused');

# ---- the reason changes

$west->safe_psql($db, q(CREATE TABLE alone (id int PRIMARY KEY, other text); SELECT seal_sync.table_add('alone', cluster => 'a')));
wait_until($east, q(SELECT DISTINCT state FROM seal_sync.held WHERE relation = 'alone'::regclass), 'parked', 'a table that came, but does not fit, is parked');
$west->safe_psql($db, q(SELECT seal_sync.table_remove('alone'); DROP TABLE alone; CREATE TABLE alone (id int PRIMARY KEY, cluster_id text);
  SELECT seal_sync.table_add('alone', cluster_column => 'cluster_id'); ALTER TABLE narrow ADD extra text; SELECT seal_sync.cluster_create('a3', primary_node => 'east')));
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'all arrive once they fit');
dumps_equal('all tables', [ $east, $west ], qw(t alone narrow));
is($west->safe_psql($db, q(SELECT sum(keys_applied) FROM seal_sync.stat_table WHERE peer = 'east')) > 0, 1, 'keys applied are counted where they are applied');
done_testing();
