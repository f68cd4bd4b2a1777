# The manual's page about a third node, typed as it stands there while applications write. Judge: pg_dump.
use strict;
use warnings;
use SealSync;
use SealManual;
use Test::More;

my ($east, $west) = two_nodes();
my %node = (east => $east, west => $west, north => one_node('north'));
my $db = $SealSync::db;
add_tables('CREATE TABLE seal_info (id bigint, cluster_id text NOT NULL, name text, status text, PRIMARY KEY (id, cluster_id))', ['seal_info'], $east, $west);
for ([ $east, 'a' ], [ $west, 'b' ])
{
	my ($node, $cluster) = @$_;
	$node->safe_psql($db, "INSERT INTO seal_info SELECT i, '$cluster', 'Seal ' || i, 'active' FROM generate_series(1, 3000) i");
}
wait_for_sync($_) for $east, $west;

SealManual->new('third-node', \%node)->play(after => {
	'The ways, in both directions' => sub { like($_[-1], qr/^seal_info\|north\|(waiting_peer|copying)\|/, "the rows wait until north accepts") },
	'Accept' => sub {
		# Writers have not stopped
		$_->[0]->safe_psql($db, "UPDATE seal_info SET status = 'changed' WHERE cluster_id = '$_->[1]' AND id % 7 = 0; DELETE FROM seal_info WHERE cluster_id = '$_->[1]' AND id % 11 = 0") for [ $east, 'a' ], [ $west, 'b' ];
		like($_[-1], qr/seal_info\|add/, 'north has adopted the table');
	},
	'Wait for the rows' => sub {
		wait_for_sync($_) for $east, $west;
		dumps_equal('three nodes are equal', [ $east, $west, $node{north} ], 'seal_info');
		is($node{north}->safe_psql($db, q(SELECT string_agg(DISTINCT role, ',') FROM seal_sync.clusters)), 'standby', 'north is a standby of all');
	},
	'A cluster of its own' => sub {
		dumps_equal('and a row of north is everywhere', [ @node{qw(east west north)} ], 'seal_info');
		is($east->safe_psql($db, q(SELECT name FROM seal_info WHERE cluster_id = 'c')), 'Bank of the North', 'this one');
	} });
done_testing();
