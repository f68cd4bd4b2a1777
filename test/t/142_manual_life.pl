# The manual's pages about upgrades, copies, restores and dumps, typed as they stand there. What pg_upgrade does is left to
# 100_pg_upgrade.pl: here the server stays the same. Judge: pg_dump, and what west has.
use strict;
use warnings;
use SealSync;
use SealManual;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(init => { allows_streaming => 1 });
my %node = (east => $east, west => $west);
my $db = $SealSync::db;
my @table = qw(seal_info seal_image);
add_tables('CREATE TABLE seal_info (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id)); CREATE TABLE seal_image (id int, cluster_id text, PRIMARY KEY (id, cluster_id))',
	[@table], $east, $west);
my $next = 0;
sub write_as
{
	my ($node, $cluster) = @_;
	$next++;
	$node->safe_psql($db, "INSERT INTO seal_info VALUES ($next, '$cluster', 'x'); INSERT INTO seal_image VALUES ($next, '$cluster')");
	return;
}
sub both_write { write_as($node{east}, 'a'); write_as($west, 'b'); return }
sub synced { wait_for_sync($_) for $node{east}, $west; dumps_equal($_[0], [ $node{east}, $west ], @table); return }
# A data directory that has taken the place of the one of east, at its address
sub instead
{
	my ($name, $backup, %option) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, $option{beside} ? () : (port => $east->port));
	$node->init_from_backup($east, $backup);
	$node->start;
	return $node;
}
both_write();
synced('the pair works');

SealManual->new('upgrade', \%node)->play(
	before => { 'Attach' => sub {
		my ($rc, $out, $err) = $node{east}->psql($db, q(INSERT INTO seal_info VALUES (0, 'a', 'x')));
		like($err, qr/node "east" is detached/, 'detached: writes are refused');
		write_as($west, 'b');
		$node{east}->restart;
	}, 'When node_detach was forgotten' => sub {
		synced('attached again: all is there');
		both_write();
		$east->stop('fast');
		$east->backup_fs_cold('moved');
		$node{east} = instead('moved', 'moved');
		wait_until($node{east}, q(SELECT count(*) FROM seal_sync.health WHERE code = 'copy'), '1', 'under another path: health says copy');
	} });
both_write();
synced('forgotten and adopted: nothing is lost');

$east = $node{east};
$east->backup('tests');
$node{copy} = instead('copy', 'tests', beside => 1);
SealManual->new('clone-and-restore', \%node, third => 'south')->play(
	before => {
		q(Taking the node's place) => sub {
			$node{copy}->safe_psql($db, q(INSERT INTO seal_info VALUES (777, 'b', 'of the copy')));
			$east->backup('too_old');
			both_write();
			synced('the copy harms nobody');
			$east->stop('immediate');
			$east->backup_fs_cold('place');
			$node{east} = instead('place', 'place');
			wait_until($node{east}, q(SELECT count(*) FROM seal_sync.health WHERE code = 'copy'), '1', 'it rests until somebody decides');
		},
		'A restore that is too old' => sub {
			both_write();
			synced('a copy in the place of the lost node');
			write_as($node{east}, 'a');
			$node{east}->safe_psql($db, q(DELETE FROM seal_info WHERE cluster_id = 'a' AND id = 1; DELETE FROM seal_image WHERE cluster_id = 'a' AND id = 1));
			synced('newer than the backup');
			$node{east}->stop('immediate');
			$node{south} = instead('south', 'too_old', beside => 1);
		},
		'A dump' => sub {
			wait_until($west, q(SELECT string_agg(DISTINCT state, ',') FROM seal_sync.stat_table WHERE peer = 'south'), 'synced', 'south gets its rows');
			wait_for_sync($west);
			dumps_equal('as they are now', [ $west, $node{south} ], @table);
			is($west->safe_psql($db, q(SELECT count(*) FROM seal_info WHERE v = 'of the copy')), '0', 'and none of the copy for tests');
			my $file = $west->basedir . '/node.dump';
			$west->command_ok([ 'pg_dump', '-Fc', '-f', $file, '-d', $west->connstr($db) ], 'dumped');
			$node{north} = one_node('north');
			$node{north}->safe_psql($db, q(CREATE ROLE sync_in LOGIN PASSWORD 'pw'));
			$node{north}->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node{north}->connstr($db), $file ], 'restored');
			$node{north}->safe_psql($db, 'GRANT seal_sync_peer TO sync_in');
		} });
add_peer($node{north}, $west); # a node is not in its own dump
add_peer($west, $node{north});
$west->safe_psql($db, q(SELECT seal_sync.wait_for_tables('3 min')));
dumps_equal('a dump has become a node', [ $west, $node{north} ], @table);
done_testing();
