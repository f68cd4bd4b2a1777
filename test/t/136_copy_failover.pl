# A copy of a table is under way when one of the two nodes fails over to a physical standby that lags. The peer's standby does not know what it
# had been told since: deletes from before the copy began are owed again. The sender's standby does not know transactions whose rows are
# staged already, and gives their xids to others: nothing of the stage can be believed (trap T1). Judge: pg_dump.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(init => { allows_streaming => 1 },
	conf => "seal_sync.debug_stage_copies = on\nseal_sync.debug_part_size = 16384\nseal_sync.debug_rotation_period = '100ms'\nsynchronous_commit = local");
my $db = 'postgres';
sub sql { my ($node, $sql) = @_; return $node->safe_psql($db, $sql) }
sub rate { my ($node, $rate) = @_; sql($node, "ALTER SYSTEM SET seal_sync.copy_max_rate = '$rate'; SELECT pg_reload_conf()"); wait_until($node, 'SHOW seal_sync.copy_max_rate', $rate); return }
# A standby that has everything up to now, and nothing of what follows
sub lagging
{
	my ($node, $name) = @_;
	$node->backup($name);
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($node, $name, has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($standby, 'replay');
	$standby->stop;
	return $standby;
}
sub fail_over
{
	my ($node, $standby, $peer) = @_;
	$node->stop('immediate');
	$standby->start;
	$standby->promote;
	sql($peer, sprintf q(ALTER SERVER %s OPTIONS (SET port '%d')), $node->name, $standby->port);
	return $standby;
}
sub half_way { my ($node, $rows) = @_; wait_until($node, "SELECT rows_done > $rows FROM seal_sync.copy_progress", 't', "more than $rows rows are staged"); return }

add_tables('CREATE TABLE seal (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))', ['seal'], $east, $west);
sql($east, q(INSERT INTO seal SELECT i, 'a', repeat('x', 50) FROM generate_series(1, 9000) i));
wait_for_sync($east);

subtest 'of the peer' => sub {
	my $standby = lagging($west, 'west_standby');
	sql($east, q(DELETE FROM seal WHERE id = 1));
	wait_for_sync($east);
	rate($east, '64kB');
	sql($east, q(SELECT seal_sync.table_remove('seal')));
	sql($east, q(SELECT seal_sync.table_add('seal', cluster_column => 'cluster_id', existing_rows => 'copy')));
	half_way($east, 500);
	sql($east, q(DELETE FROM seal WHERE id = 2; UPDATE seal SET v = 'changed' WHERE id = 3));
	$west = fail_over($west, $standby, $east);
	rate($east, '0');
	is(sql($west, 'SELECT count(*) FROM seal WHERE id IN (1, 2)'), '2', 'the standby has the deleted rows');
	wait_until($east, q(SELECT state IN ('streaming', 'catchup') FROM seal_sync.status WHERE direction = 'out'), 't', 'it goes on');
	sql($east, q(SELECT seal_sync.wait_for_tables('3 min')));
	wait_for_sync($east);
	dumps_equal('they are gone', [ $east, $west ], 'seal');
};

subtest 'of the sender' => sub {
	rate($east, '64kB');
	sql($east, q(SELECT seal_sync.table_remove('seal')));
	sql($east, q(SELECT seal_sync.table_add('seal', cluster_column => 'cluster_id', existing_rows => 'copy')));
	half_way($east, 300);
	my $standby = lagging($east, 'east_standby');
	my $first = sql($east, q(SELECT pg_current_xact_id()));
	sql($east, "UPDATE seal SET v = 'lost' WHERE id = $_") for map { 3000 + $_ } 1 .. 60;
	half_way($east, 3100);
	is(sql($west, q(SELECT count(*) FROM seal WHERE v = 'lost')), '0', 'none of them is applied');
	$east = fail_over($east, $standby, $west);
	my $again = sql($east, q(SELECT pg_current_xact_id()));
	cmp_ok($again, '<', $first + 60, 'xids are given once more');
	sql($east, "UPDATE seal SET v = 'kept' WHERE id = $_") for map { 3000 + $_ } 1 .. 60;
	wait_until($east, q(SELECT state IN ('streaming', 'catchup') FROM seal_sync.status WHERE direction = 'out'), 't', 'it goes on');
	rate($east, '0');
	sql($east, q(SELECT seal_sync.wait_for_tables('3 min')));
	wait_for_sync($east);
	dumps_equal('with what is true there', [ $east, $west ], 'seal');
};
done_testing();
