# seal_sync.metrics: what the other views say, one number a row, in seconds and bytes, whoever asks and with whatever search
# path; and nothing where nothing is known.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;

my ($east, $west) = two_nodes();
my $db = 'postgres';
sub sql { my ($node, $sql) = @_; return $node->safe_psql($db, $sql) }
sub metric { my ($node, $metric, $where) = @_; return sql($node, "SELECT value FROM seal_sync.metrics WHERE metric = '$metric'" . ($where ? " AND $where" : '')) }
add_tables(q(CREATE TABLE seal (id int PRIMARY KEY, cluster_id text, v text)), ['seal'], $east, $west);
add_tables(q(CREATE SCHEMA "Other"; CREATE TABLE "Other"."Seal" (id int PRIMARY KEY, cluster_id text)), ['"Other"."Seal"'], $east, $west);
sql($east, q(INSERT INTO seal SELECT i, 'a', repeat('x', 100) FROM generate_series(1, 500) i; DELETE FROM seal WHERE id > 400));
sql($west, q(INSERT INTO seal VALUES (1000, 'b')));
wait_for_sync($_) for $east, $west;

# ---- a pair that is well ----------------------------------------------------------------------------------
is(sql($east, 'SELECT count(*) - count(value) FROM seal_sync.metrics'), '0', 'what is unknown has no row');
is(sql($east, 'SELECT string_agg(DISTINCT node, $$ $$) FROM seal_sync.metrics'), 'east', 'each says which node says it');
is(sql($east, q(SELECT count(*) FROM (SELECT metric, peer, direction, cluster, relation FROM seal_sync.metrics GROUP BY 1, 2, 3, 4, 5 HAVING count(*) > 1) d)), '0', 'no series is there twice');
is(sql($east, q(SELECT string_agg(DISTINCT metric, ' ') FROM seal_sync.metrics WHERE metric !~ '^[a-z][a-z_]*[a-z]$' OR metric ~ 'milliseconds|_ms$|_kb$|minutes')), '', 'names are names, units are base units');
is(metric($east, 'tables'), '2', 'tables');
is(metric($east, 'table_shipped_keys_total', q(relation = 'public.seal')), sql($east, q(SELECT keys_shipped FROM seal_sync.stat_table WHERE relation = 'seal'::regclass)), 'as stat_table');
is(metric($east, 'table_captured_deletes_total', q(relation = 'public.seal')), '100', 'counters of changes');
is(metric($east, 'table_synced', q(relation = 'Other.Seal' AND peer = 'west')), '1', 'a table of another schema');
is(sql($east, q(SELECT value = (SELECT bytes_wire FROM seal_sync.stat_route) FROM seal_sync.metrics WHERE metric = 'wire_bytes_total' AND peer = 'west' AND direction = 'out')), 't', 'as stat_route');
is(sql($east, q(SELECT abs(value - (SELECT apply_time FROM seal_sync.stat_route) / 1000) < 0.5 FROM seal_sync.metrics WHERE metric = 'apply_seconds_total')), 't', 'milliseconds there are seconds here');
is(metric($east, 'route_state_streaming', q(direction = 'out')), '1', 'the state a route is in');
is(metric($east, 'route_state_paused', q(direction = 'out')), '0', 'and is not in');
is(sql($east, q(SELECT string_agg(concat_ws(' ', cluster, metric, value), ', ' ORDER BY cluster, metric) FROM seal_sync.metrics WHERE metric IN ('cluster_primary', 'cluster_accepts_writes', 'cluster_prefix_suspended'))),
	'a cluster_accepts_writes 1, a cluster_prefix_suspended 0, a cluster_primary 1, b cluster_accepts_writes 0, b cluster_prefix_suspended 0, b cluster_primary 0', 'clusters');
is(sql($east, q(SELECT count(*) FILTER (WHERE cluster = 'b' AND value BETWEEN 0 AND 60) || '/' || count(*) FROM seal_sync.metrics WHERE metric = 'cluster_staleness_seconds')), '1/1', 'only a standby has an age');
is(metric($east, 'route_encrypted', q(direction = 'out')), '0', 'a socket is not encrypted');
is(metric($east, 'guard_refuses'), '1', 'the guard');
is(metric($east, 'health_critical'), '0', 'health: nothing critical');
is(metric($east, 'quarantined_keys', q(peer = 'west')), '0', 'a zero is a zero');
is(metric($east, 'quarantine_age_seconds'), '', 'but no age of nothing');

# Labels do not depend on who asks
sql($east, 'CREATE ROLE mona LOGIN IN ROLE pg_monitor');
my ($rc, $out, $err) = $east->psql($db, q(SET search_path = "Other"; SELECT count(*) FROM seal_sync.metrics WHERE relation IN ('public.seal', 'Other.Seal') AND metric = 'table_synced'),
	connstr => $east->connstr($db) . ' user=mona');
is($out, '2', 'relations are called by schema and name') or diag $err;

# ---- something is wrong -----------------------------------------------------------------------------------
sql($west, q(ALTER TABLE seal ADD CONSTRAINT never CHECK (v <> 'never')));
sql($east, q(UPDATE seal SET v = 'never' WHERE id <= 7));
wait_until($east, q(SELECT value FROM seal_sync.metrics WHERE metric = 'quarantined_keys'), '7', 'refused keys');
is(sql($east, q(SELECT value BETWEEN 0 AND 600 FROM seal_sync.metrics WHERE metric = 'quarantine_age_seconds')), 't', 'since when');
is(metric($east, 'table_quarantined_keys', q(relation = 'public.seal')), '7', 'of which table');
is(metric($east, 'cluster_prefix_suspended', q(cluster = 'a')), '1', 'of which cluster');
is(sql($east, q(SELECT value >= 1 FROM seal_sync.metrics WHERE metric = 'health_critical')), 't', 'health counts it');
$west->stop;
wait_for_state($east, 'west', 'retrying');
sql($east, q(UPDATE seal SET v = 'later' WHERE id BETWEEN 391 AND 400));
is(metric($east, 'route_connected', q(direction = 'out')), '0', 'a peer that is away');
is(metric($east, 'route_encrypted'), '', 'of a connection that is not there nobody knows whether it is encrypted');
is(metric($east, 'pending_keys', q(direction = 'out')), sql($east, q(SELECT pending_keys FROM seal_sync.status WHERE direction = 'out')), 'what waits');
wait_until($east, q(SELECT value > 0.2 FROM seal_sync.metrics WHERE metric = 'lag_seconds' AND direction = 'out'), 't', 'and for how long');
is(metric($east, 'eta_seconds', q(direction = 'out')), '', 'until when nobody knows');

# ---- nothing is known -------------------------------------------------------------------------------------
sql($east, q(CREATE DATABASE empty));
is($east->safe_psql('empty', q(CREATE EXTENSION seal_sync; SELECT value FROM seal_sync.metrics WHERE metric = 'identity')), '0', 'a database that is no node says so');
is($east->safe_psql('empty', q(SELECT count(node) FROM seal_sync.metrics)), '0', 'and has no name');
done_testing();
