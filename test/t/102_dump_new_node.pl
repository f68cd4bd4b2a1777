# A node is dumped with pg_dump, restored on another server, and becomes a third node that holds what the others hold, although
# these went on writing and deleting meanwhile. Judge: pg_dump.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes();
my $db = 'postgres';
my @tables = ('bank.seal', 'bank.desk', 'bank.part');
for my $node ($east, $west)
{
	$node->safe_psql($db, q(CREATE SCHEMA bank;
CREATE TABLE bank.seal (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id));
CREATE TABLE bank.desk (id int, cluster_id text, seal int, PRIMARY KEY (id, cluster_id), FOREIGN KEY (seal, cluster_id) REFERENCES bank.seal (id, cluster_id));
CREATE TABLE bank.part (id int, cluster_id text, PRIMARY KEY (id, cluster_id)) PARTITION BY LIST (cluster_id);
CREATE TABLE bank.part_a PARTITION OF bank.part FOR VALUES IN ('a');
CREATE TABLE bank.part_b PARTITION OF bank.part FOR VALUES IN ('b');
SELECT count(*) FROM seal_sync.schema_add('bank', cluster_column => 'cluster_id', new_tables => true)));
}
sub work
{
	my ($round) = @_;
	for ([ $east, 'a' ], [ $west, 'b' ])
	{
		my ($node, $c) = @$_;
		$node->safe_psql($db, "INSERT INTO bank.seal SELECT i, '$c', 'round $round' FROM generate_series($round * 100, $round * 100 + 60) i;
		  INSERT INTO bank.desk SELECT i, '$c', i FROM generate_series($round * 100, $round * 100 + 20) i;
		  INSERT INTO bank.part SELECT i, '$c' FROM generate_series($round * 100, $round * 100 + 10) i;
		  DELETE FROM bank.desk WHERE id % 7 = $round AND cluster_id = '$c'; DELETE FROM bank.part WHERE id % 5 = $round AND cluster_id = '$c';
		  UPDATE bank.seal SET v = v || '+' WHERE id % 3 = $round % 3 AND cluster_id = '$c'");
	}
	return;
}
work(1);
wait_for_sync($_) for $east, $west;

my $file = $east->basedir . '/node.dump';
$east->command_ok([ 'pg_dump', '-Fc', '-f', $file, '-d', $east->connstr($db) ], 'dumped');
my $token = $east->safe_psql($db, q(SELECT replace(token::text, '-', '') FROM seal_sync.local_node));
my $plain = '';
IPC::Run::run([ 'pg_restore', '-f', '-', $file ], '>', \$plain) or die 'pg_restore';
unlike($plain =~ s/-//gr, qr/$token/, 'the dump does not carry the identity');
work(2);

my $north = one_node('north');
$north->safe_psql($db, q(CREATE ROLE sync_in LOGIN PASSWORD 'pw'));
$north->command_ok([ 'pg_restore', '--exit-on-error', '-d', $north->connstr($db), $file ], 'restored on another server');
$north->safe_psql($db, 'GRANT seal_sync_peer TO sync_in');
is($north->safe_psql($db, q(SELECT code FROM seal_sync.health WHERE code = 'no_identity')), 'no_identity', 'it is nobody');
my ($rc, $out, $err) = $north->psql($db, q(SELECT seal_sync.node_adopt('same')));
like($err, qr/A dump carries rules, but no identity and no positions/, 'and cannot be the same');
work(3);
($rc, $out, $err) = $north->psql($db, q(SELECT seal_sync.node_adopt('new', node => 'west')));
like($err, qr/a peer is called "west"/, 'nor take the name of a peer');
$north->safe_psql($db, q(SELECT seal_sync.node_adopt('new', node => 'north')));
($rc, $out, $err) = $north->psql($db, q(DELETE FROM bank.part));
like($err, qr/has its primary on node "(east|west)"/, 'the guard lives');
wait_for_state($north, 'west', 'waiting_peer', 'west does not know it yet');

$north->safe_psql($db, q(SET seal_sync.guard = off; TRUNCATE bank.seal, bank.desk, bank.part));
add_peer($north, $east);
add_peer($_, $north) for $east, $west;
work(4);
for my $node ($east, $west)
{
	wait_until($node, q(SELECT bool_and(pending_keys = 0 AND state = 'streaming') FROM seal_sync.status WHERE direction = 'out'), 't', $node->name . ' has shipped all');
	wait_until($node, q(SELECT count(*) FROM seal_sync.table_state WHERE dirty_since IS NOT NULL), 0);
}
work(5);
wait_for_sync($_) for $east, $west;
dumps_equal('three nodes hold the same rows', [ $east, $west, $north ], @tables);
$_->safe_psql($db, q(CREATE TABLE bank.later (id int, cluster_id text, PRIMARY KEY (id, cluster_id)))) for $north, $west, $east;
$east->safe_psql($db, q(INSERT INTO bank.later VALUES (1, 'a')));
wait_until($north, 'SELECT count(*) FROM bank.later', 1, 'a table made later is registered there, too: rules of schemas were in the dump');
$north->restart;
work(6);
wait_for_sync($_) for $east, $west;
dumps_equal('and after a restart', [ $east, $west, $north ], @tables, 'bank.later');
done_testing();
