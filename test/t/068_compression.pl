# Chunks that travel compressed: when they do, that it saves something, and what happens to damaged ones.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

my ($east, $west) = two_nodes();
add_tables('CREATE TABLE t (id int, cluster_id text, v text, b bytea, PRIMARY KEY (id, cluster_id))', ['t'], $east, $west);
sub sql { return $east->safe_psql('postgres', $_[0]) }

# (raw, wire): bytes of what CODE makes the route ship
sub shipped
{
	my ($code) = @_;
	wait_for_sync($east);
	my @before = split /\|/, sql('SELECT bytes_raw, bytes_wire FROM seal_sync.stat_route');
	$code->();
	wait_for_sync($east);
	my @after = split /\|/, sql('SELECT bytes_raw, bytes_wire FROM seal_sync.stat_route');
	return map { $after[$_] - $before[$_] } 0, 1;
}
my $next = 1;
sub rows { my ($count, $b) = @_; my $from = $next; $next += $count; return sub { sql("INSERT INTO t SELECT i, 'a', 'row number ' || i, $b FROM generate_series($from, $next - 1) i") } }
sub compression { my ($what, $is, $name) = @_; sql("ALTER SERVER west OPTIONS ($what)"); return wait_until($east, 'SELECT compression FROM seal_sync.stat_route', $is, $name) }

# ---- the option --------------------------------------------------------------------------------------------
wait_for_sync($east);
is(sql('SELECT compression FROM seal_sync.stat_route'), 'off', 'a peer on this machine: off by itself');
my ($raw, $wire) = shipped(rows(20_000, 'NULL'));
cmp_ok($wire, '>=', $raw, "without it all bytes travel ($raw raw, $wire sent)");

compression(q(ADD compression 'on'), 'zstd', 'on, while the route runs');
($raw, $wire) = shipped(rows(20_000, 'NULL'));
cmp_ok($wire, '<', $raw / 2, "much less travels ($raw raw, $wire sent)");
($raw, $wire) = shipped(rows(200, 'NULL'));
cmp_ok($wire, '<', $raw * 1.2, "a small batch, which travels inside its last message ($raw raw, $wire sent)");
($raw, $wire) = shipped(sub { sql(q(UPDATE t SET v = 'changed ' || v WHERE id % 2 = 0)); sql('DELETE FROM t WHERE id % 5 = 0') });
cmp_ok($wire, '<', $raw, "updates and deletes ($raw raw, $wire sent)");
dumps_equal('all rows are there', [ $east, $west ], 't');

my $noise = q((SELECT decode(string_agg(replace(gen_random_uuid()::text, '-', ''), ''), 'hex') FROM generate_series(1, 1000) WHERE i > 0));
($raw, $wire) = shipped(rows(100, $noise));
cmp_ok($raw, '>', 1_000_000, 'images, which do not shrink');
cmp_ok(abs($wire - $raw), '<', $raw / 10, "travel as they are ($raw raw, $wire sent)");
($raw, $wire) = shipped(rows(3, "decode(repeat('00', 3000000), 'hex')"));
cmp_ok($wire, '<', $raw / 100, "large values that do shrink ($raw raw, $wire sent)");

# off and on while batches are on their way
for my $round (1 .. 3)
{
	rows(5000, $round == 2 ? 'NULL' : "'\\x0102'")->();
	compression(q(SET compression 'off'), 'off', "off again, round $round");
	rows(5000, 'NULL')->();
	compression(q(SET compression 'on'), 'zstd', "on again, round $round");
}
compression(q(DROP compression), 'off', 'and back to what it is by itself');
wait_for_sync($east);
dumps_equal('still all rows are there', [ $east, $west ], 't');

# ---- a peer of before --------------------------------------------------------------------------------------
# Its answer to a hello ends where the features stand now.
$west->safe_psql('postgres', q(
ALTER FUNCTION seal_sync.wire_hello(bytea) RENAME TO wire_hello_now;
CREATE FUNCTION seal_sync.wire_hello(bytea) RETURNS bytea LANGUAGE sql
AS 'SELECT pg_catalog.substring(a, 1, pg_catalog.length(a) - 1) FROM seal_sync.wire_hello_now($1) a';
GRANT EXECUTE ON FUNCTION seal_sync.wire_hello(bytea) TO seal_sync_peer));
compression(q(ADD compression 'on'), 'unavailable', 'an older peer does not have it');
($raw, $wire) = shipped(rows(1000, 'NULL'));
cmp_ok($wire, '>=', $raw, 'so it gets what it understands');
dumps_equal('and all of it', [ $east, $west ], 't');
$east->stop;

# ---- damage ------------------------------------------------------------------------------------------------
my $receiver = one_node('receiver');
$receiver->safe_psql('postgres', q(
CREATE EXTENSION seal_sync; CREATE ROLE sync_in LOGIN IN ROLE seal_sync_peer; SELECT seal_sync.node_create('west');
INSERT INTO seal_sync.peer (peer, server) VALUES ('east', 'east');
SELECT seal_sync.cluster_create('a', primary_node => 'east');
CREATE TABLE t (id int PRIMARY KEY, v text); SELECT seal_sync.table_add('t', cluster => 'a')));
my $sender = SealWire->new($receiver, user => 'sync_in');
is($sender->hello->{features} & 1, 1, 'a receiver says that it can unpack');
$sender->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T)] ]);
my @section = map { $sender->whole('public.t', [ [ $_, "row $_" ] ]) } 1 .. 3;

is($sender->put($sender->packed(@section[ 0, 1 ]))->{error}, undef, 'a packed chunk is taken');
my $got = $sender->apply(chunks => 1, rows => 3, sections => [ $sender->packed($section[2]) ]);
is($got->{inserted}, 3, 'and so is the last one') or diag explain $got;
is($receiver->safe_psql('postgres', 'SELECT id, v FROM t ORDER BY 1'), "1|row 1\n2|row 2\n3|row 3", 'the rows');

my $fine = $sender->packed($sender->whole('public.t', [ [ 4, 'row 4' ] ]))->{bytes};
my %damaged = (
	'cut short' => substr($fine, 0, -1), 'only its first byte' => 'Z', 'with something behind it' => $fine . 'x', 'two frames' => $fine . substr($fine, 1),
	'no frame' => 'Z' . 'x' x 40, 'wrong magic' => "Z\x27" . substr($fine, 2), 'packed twice' => SealWire::frame(length $fine, 0, $fine),
	'less than announced' => SealWire::frame(1000, 0, 'D'), 'more than announced' => SealWire::frame(10, 1, 'D', 100_000),
	'nothing' => SealWire::frame(0, 0, ''), 'beyond the bound' => SealWire::frame((64 << 20) + 1, 1, 'D', 100),
	'a bomb' => SealWire::frame(1 << 50, 1, 'D', 100), 'damaged sections' => SealWire::frame(100, 1, 'D', 100),
	'a skippable frame' => "Z\x50\x2a\x4d\x18\x04\0\0\0xxxx");
for my $what (sort keys %damaged)
{
	$got = $sender->call('wire_put', $damaged{$what});
	is($got->{error}, '08P01', "$what is refused") or diag explain $got;
	like($got->{message}, qr/^damaged (compressed chunk|data message) from a peer$/, "$what: message");
	is($sender->apply(sections => [ { rows => 1, bytes => $damaged{$what} } ])->{error}, '08P01', "$what as a last chunk");
}
# what was refused is not part of the batch, and the session goes on
$got = $sender->apply(sections => [ { rows => 1, bytes => $fine } ]);
is($got->{inserted}, 1, 'then the right one') or diag explain $got;
is($receiver->safe_psql('postgres', 'SELECT count(*) FROM t'), 4, 'nothing else came in');

done_testing();
