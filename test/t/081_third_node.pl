# A third node joins a pair: it adopts from one of the two and gets everything of both clusters, each from its primary. One
# cluster is declared without standbys (every peer), one with them: then its primary has to be told. Judge: pg_dump.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = $SealSync::db;
my %node = map { $_ => one_node($_, conf => "seal_sync.debug_rotation_period = '200ms'") } qw(east west north);
my ($east, $west, $north) = @node{qw(east west north)};
my @table = qw(seal whole);
for (values %node)
{
	$_->safe_psql($db, "CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('" . $_->name . "');
	  CREATE ROLE sync_in LOGIN PASSWORD 'pw' IN ROLE seal_sync_peer;
	  CREATE TABLE seal (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id)); CREATE TABLE whole (id int PRIMARY KEY, v text)");
}
add_peer($east, $west);
add_peer($west, $east);
$east->safe_psql($db, q(SELECT seal_sync.cluster_create('a', 'east'), seal_sync.cluster_create('b', 'west', standby_nodes => ARRAY['east']), seal_sync.cluster_create('w', 'west');
  UPDATE seal_sync.cluster_state SET epoch = 4 WHERE cluster IN ('a', 'w');
  SELECT count(*) FROM seal_sync.schema_add('public', 'cluster_id', except_tables => '{whole}'); SELECT seal_sync.table_add('whole', cluster => 'w')));
is($west->safe_psql($db, q(SELECT string_agg(name || ' ' || action, ', ' ORDER BY name) FROM seal_sync.config_adopt('east'))),
	'a add, b add, public.seal add, public.whole add, w add', 'the pair: declared on east, adopted on west');
$east->safe_psql($db, q(INSERT INTO seal SELECT i, 'a', md5(i::text) FROM generate_series(1, 500) i));
$west->safe_psql($db, q(INSERT INTO seal SELECT i, 'b', md5(i::text) FROM generate_series(1, 500) i; INSERT INTO whole SELECT i, 'w' FROM generate_series(1, 100) i));
wait_for_sync($_) for $east, $west;
dumps_equal('it works', [ $east, $west ], @table);

# Writers on both while north joins
my $stop = $east->basedir . '/stop';
my @writer = map {
	my ($node, $cluster) = @$_;
	my $script = $node->basedir . '/write.sql';
	append_to_file($script, "\\set id random(1, 700)\nINSERT INTO seal VALUES (:id, '$cluster', 'w') ON CONFLICT (id, cluster_id) DO UPDATE SET v = seal.v || 'u';\n"
		. "\\set gone random(1, 700)\nDELETE FROM seal WHERE id = :gone AND cluster_id = '$cluster' AND :gone % 5 = 0;\n");
	my ($out, $err) = ('', '');
	{ h => IPC::Run::start([ 'pgbench', '-n', '-c', '1', '-T', '120', '-R', '100', '-f', $script, '-h', $node->host, '-p', $node->port, $db ], '>', \$out, '2>', \$err), err => \$err };
} [ $east, 'a' ], [ $west, 'b' ];

add_peer($north, $east);
add_peer($north, $west);
add_peer($_, $north) for $east, $west;
is($north->safe_psql($db, q(SELECT hint FROM seal_sync.config_diff('east') WHERE name = 'b')),
	q(On node "west": SELECT seal_sync.cluster_alter('b', add_standbys => ARRAY['north']).), 'a cluster with standbys has to be told of a new one');
is($north->safe_psql($db, q(SELECT string_agg(name || ' ' || action || coalesce(': ' || message, ''), ', ' ORDER BY name) FROM seal_sync.config_adopt('east'))),
	'a add, b add: this node is none of its standbys: its rows do not come here, public.seal add, public.whole add, w add', 'north adopts from east');
is($north->safe_psql($db, q(SELECT cluster, role, primary_node, epoch FROM seal_sync.clusters ORDER BY 1)), "a|standby|east|4\nb|none|west|1\nw|standby|west|4", 'with the right primaries and epochs');
is($north->safe_psql($db, q(SELECT count(*) FROM seal_sync.config_diff('west'))), '0', 'west has the same');
$west->safe_psql($db, q(SELECT seal_sync.cluster_alter('b', add_standbys => ARRAY['north'])));
is($north->safe_psql($db, q(SELECT name, action, message FROM seal_sync.config_adopt('west'))), 'b|alter|its primary ships to other standbys than is noted here', 'b needs its primary to be told, and north to hear it');
is($north->safe_psql($db, q(SELECT standby_nodes FROM seal_sync.cluster WHERE cluster = 'b')), '{east,north}', 'it has');

wait_until($north, q(SELECT count(DISTINCT cluster_id) = 2 AND (SELECT count(*) FROM whole) = 100 FROM seal), 't', 'rows of all clusters arrive under load');
for (@writer)
{
	$_->{h}->signal('TERM');
	eval { $_->{h}->finish };
	unlike(${ $_->{err} }, qr/ERROR/, 'its writers saw no error');
}
my $gone = q(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'); # their last transactions are over
wait_until($_, $gone, '0', $_->name . ': the writers are gone') for $east, $west;
wait_until($_, q(SELECT count(*) FROM seal_sync.table_state WHERE dirty_since IS NOT NULL), '0', $_->name . ': all has been shipped to the new node') for $east, $west;
wait_for_sync($_) for $east, $west;
dumps_equal('three nodes are equal', [ $east, $west, $north ], @table);
my ($rc, $out, $err) = $north->psql($db, q(UPDATE seal SET v = 'x' WHERE cluster_id = 'a' AND id = (SELECT min(id) FROM seal WHERE cluster_id = 'a')));
like($err, qr/cluster "a" has its primary on node "east"/, 'and north only reads');
is($_->safe_psql($db, q(SELECT count(*) FROM seal_sync.held)), '0', $_->name . ' holds nothing back') for $east, $west;
done_testing();
