# The first pair of README.md, typed as it stands there: only host and port are this test's.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use FindBin;
use Test::More;

my $db = 'bank';
my %node = map { $_ => one_node($_) } qw(east west);
my ($sql) = slurp_file("$FindBin::Bin/../../README.md") =~ /## The first pair\s+```sql\n(.*?)```/s or die 'no SQL in the README';
my @part = split /^-- (?=\d\.).*\n/m, $sql;
is(scalar @part, 6, 'five parts, and what the servers need');
like($part[0], qr/^-- both servers: shared_preload_libraries = 'seal_sync', restart/, 'which is a comment');

# NODE's text: names swapped for west
sub typed
{
	my ($name, $text) = @_;
	my $other = $name eq 'east' ? 'west' : 'east';
	my ($host, $port) = ($node{$other}->host, $node{$other}->port);
	$text =~ s/\b(east|west)\b/$1 eq 'east' ? 'west' : 'east'/ge if $name eq 'west';
	$text =~ s/host '10\.0\.0\.2'/host '$host', port '$port'/;
	return $text;
}
for my $name (qw(east west))
{
	$node{$name}->safe_psql('postgres', "CREATE DATABASE $db");
	$node{$name}->safe_psql($db, 'CREATE TABLE seal_info (id int, cluster_id text, img text, PRIMARY KEY (id, cluster_id))');
}
for my $step (1, 2)
{
	$node{$_}->safe_psql($db, typed($_, $part[$step])) for qw(east west);
}
$node{east}->safe_psql($db, $part[3]);
$node{west}->safe_psql($db, $part[4]);
$node{east}->safe_psql($db, q(INSERT INTO seal_info VALUES (1, 'a', 'of east')));
$node{west}->safe_psql($db, q(INSERT INTO seal_info VALUES (1, 'b', 'of west')));
for my $name (qw(east west))
{
	like($node{$name}->safe_psql($db, $part[5]), qr/^(ok|warning)\|/m, "$name: health answers");
	# West may have said a moment ago that it does not know the cluster
	local $SealSync::db = $db;
	wait_until($node{$name}, q(SELECT string_agg(code, ',') FROM seal_sync.health WHERE severity <> 'info'), 'ok', "$name: all is well");
}
{
	local $SealSync::db = $db;
	dumps_equal('both have both rows', [ @node{qw(east west)} ], 'seal_info');
}
my ($rc, $out, $err) = $node{west}->psql($db, q(UPDATE seal_info SET img = 'x' WHERE cluster_id = 'a'));
like($err, qr/cannot update table "public.seal_info": cluster "a" has its primary on node "east"/, 'and each its own');
done_testing();
