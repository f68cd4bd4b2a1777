# A peer that sends what no sender of ours would: real messages, mutated, thousands of times against a live server.
#
# Whatever comes: the server stays up, rows of other clusters and of tables that are nobody's business stay as they are, the
# session keeps no lock and no growing memory, and an honest batch goes through afterwards. SEAL_LONG: 20000 messages more.
# SEAL_SEED repeats a run.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

my $messages = $ENV{SEAL_LONG} ? 40_000 : 20_000;
my $seed = $ENV{SEAL_SEED} || time;
srand $seed;
note("SEAL_SEED=$seed");

my $west = receiver();
sub sql { return $west->safe_psql('postgres', $_[0]) }
sql(q(
SELECT seal_sync.cluster_create('b', primary_node => 'west');
CREATE TABLE t (id int PRIMARY KEY, cluster_id text, v text, u int UNIQUE, n numeric, d timestamptz, arr int[]);
CREATE TABLE c (id int PRIMARY KEY, cluster_id text, t int REFERENCES t, CHECK (id <> 13));
CREATE TABLE pt (id int, cluster_id text, k text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE pt_x PARTITION OF pt FOR VALUES IN ('x'); CREATE TABLE pt_rest PARTITION OF pt DEFAULT;
SELECT seal_sync.table_add(x, cluster_column => 'cluster_id') FROM unnest('{t,c,pt}'::regclass[]) x;
CREATE TABLE secret AS SELECT i AS id, md5(i::text) AS v FROM generate_series(1, 100) i;
INSERT INTO t SELECT i, 'b', 'west ' || i, -i FROM generate_series(1, 200, 2) i;
INSERT INTO c SELECT i, 'b', i FROM generate_series(1, 50, 2) i WHERE i <> 13;
INSERT INTO pt SELECT i, 'b', CASE WHEN i % 4 = 1 THEN 'x' ELSE 'z' END FROM generate_series(1, 50, 2) i;
));
# Its own rows, some of them wide.
sql(q(SET seal_sync.guard = off; INSERT INTO t SELECT i, 'a', repeat('east ', i * 10), 1000 + i FROM generate_series(2, 200, 2) i));
my $others = q(SELECT md5(string_agg(x::text, '' ORDER BY x::text)) FROM (SELECT t::text FROM t WHERE cluster_id = 'b' UNION ALL SELECT c::text FROM c WHERE cluster_id = 'b'
  UNION ALL SELECT pt::text FROM pt WHERE cluster_id = 'b' UNION ALL SELECT s::text FROM secret s) x);
my $before = sql($others);

my %column = (t => [ [qw(id int4 F 4 1)], [qw(cluster_id text T)], [qw(v text T)], [qw(u int4 F 4)], [qw(n numeric B)], [qw(d timestamptz F 8)], [qw(arr _int4 O)] ],
	c => [ [qw(id int4 F 4 1)], [qw(cluster_id text T)], [qw(t int4 F 4)] ], pt => [ [qw(id int4 F 4 1)], [qw(cluster_id text T)], [qw(k text T 0 2)] ]);
my $east = SealWire->new($west, user => 'sync_in');

sub agree
{
	my $hello = $east->hello;
	die "hello: " . ($hello->{error} // $hello->{problem}{sqlstate}) if $hello->{error} || $hello->{problem}{sqlstate};
	for my $table (sort keys %column)
	{
		my $fit = $east->describe("public.$table", $column{$table}, column => 'cluster_id');
		die "$table: " . ($fit->{error} // $fit->{problem}{message}) if $fit->{error} || $fit->{problem}{sqlstate};
	}
	return;
}

sub any { return $_[ int rand @_ ] }
sub some_id { return int(rand 220) + 1 }
sub some_cluster { return any('a', 'a', 'a', 'a', 'b', 'nobody', undef) }

# Sections that an honest sender could send, but for whose rows they are.
sub some_section
{
	my $table = any(qw(t t c pt));
	my $rows = 1 + int rand 4;
	my %key = map { $_ => 1 } map { some_id() } 1 .. $rows;
	my @ids = sort { $a <=> $b } keys %key;
	my $kind = any(qw(W W P D));
	return $east->removed("public.$table", [ map { $table eq 'pt' ? [ $_, any('x', 'y') ] : [$_] } @ids ]) if $kind eq 'D';
	return $east->partial('public.t', [qw(id v)], [ map { [ $_, 'new ' . rand ] } @ids ]) if $kind eq 'P' && $table eq 't';
	return $east->whole('public.t', [ map { [ $_, some_cluster(), any(undef, '', 'x' x 3000), any(undef, some_id(), -some_id()), any(undef, "\0\1\0\0\0\0\0\0\0\7"), 7e14, any(undef, '{1,2}') ] } @ids ]) if $table eq 't';
	return $east->whole('public.c', [ map { [ $_, some_cluster(), some_id() ] } @ids ]) if $table eq 'c';
	return $east->whole('public.pt', [ map { [ $_, some_cluster(), any('x', 'y') ] } @ids ]);
}

my @evil = ("\0", "\xff", "\x7f", "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", pack('L<', 0xffffffff), pack('L<', 0x7fffffff), pack('Q<', ~0), "\0\0\0\0\0\0\0\x80");

sub mutate
{
	my ($bytes) = @_;
	for (1 .. 1 + int rand 4)
	{
		my $length = length $bytes;
		my $at = $length ? int rand $length : 0;
		my $how = int rand 8;
		if ($how == 0 && $length) { substr($bytes, $at, 1) = chr int rand 256 }
		elsif ($how == 1 && $length) { substr($bytes, $at, 1) = chr(ord(substr $bytes, $at, 1) ^ 1 << int rand 8) }
		elsif ($how == 2) { substr($bytes, $at, 0) = any(@evil) }
		elsif ($how == 3 && $length) { my $e = any(@evil); substr($bytes, $at, length $e) = $e }
		elsif ($how == 4) { $bytes = substr $bytes, 0, $at }
		elsif ($how == 5 && $length) { substr($bytes, $at, int rand 20) = '' }
		elsif ($how == 6 && $length) { my $from = int rand $length; substr($bytes, $at, 0) = substr $bytes, $from, int rand 40 }
		elsif ($length) { substr($bytes, -1 - int(rand 8) % $length) = any(@evil) }
	}
	return $bytes;
}

sub literal { return "'\\x" . unpack('H*', $_[0]) . "'::bytea" }

# One message as a statement for psql. Batches are rolled back mostly, so that the next one still follows what is there.
sub some_message
{
	my $what = int rand 20;
	return 'SELECT seal_sync.wire_put(' . literal(mutate(join '', map { $_->{bytes} } map { some_section() } 1 .. 1 + int rand 3)) . ')' if $what < 3;
	return 'SELECT seal_sync.wire_put(' . literal(mutate($east->packed(some_section())->{bytes})) . ')' if $what == 3;
	return q(SELECT seal_sync.wire_put('')) if $what == 4;
	return 'SELECT length(seal_sync.wire_wanted())' if $what == 5;
	return 'SELECT length(seal_sync.wire_heartbeat(' . literal(mutate(SealWire::u64($east->{generation}) . SealWire::u64(0))) . '))' if $what == 6;
	if ($what == 7)
	{
		my $table = any(sort keys %column);
		my $number = any(50, 51, $east->{tables}{"public.$table"}{number});
		my $body = SealWire::varint($number) . SealWire::sized('public') . SealWire::sized($table) . SealWire::varint(scalar @{ $column{$table} });
		$body .= SealWire::sized($_->[0]) . SealWire::sized('pg_catalog') . SealWire::sized($_->[1]) . SealWire::u32(-1) . $_->[2] . SealWire::u8($_->[3] // 0) . SealWire::u8($_->[4] // 0) for @{ $column{$table} };
		return 'SELECT length(seal_sync.wire_describe(' . literal(mutate($body . SealWire::sized('cluster_id') . SealWire::sized(''))) . '))';
	}
	my @sections = map { some_section() } 1 .. 1 + int rand 3;
	# rows that belong to others come honestly packed as well
	my $request = $east->apply(only_request => 1, sections => \@sections, careful => any(0, 1, 4, 5, int rand 256),
		$what == 8 ? (chunks => int rand 3, rows => int rand 20) : ())->{request};
	if ($what > 14) # only bits of its rows, so that it is read to the end
	{
		my $size = length join '', map { $_->{bytes} } @sections;
		substr($request, -1 - int rand $size, 1) ^= chr 1 << int rand 8 for 1 .. 1 + int rand 3;
	}
	elsif ($what > 9) { $request = mutate($request) }
	return 'BEGIN ISOLATION LEVEL READ COMMITTED\; SELECT length(seal_sync.wire_begin(' . literal($request) . ")::text)\\; SELECT seal_sync.wire_put(" . literal(mutate($sections[0]{bytes})) . ')\; ROLLBACK' if $what == 19;
	return 'BEGIN ISOLATION LEVEL READ COMMITTED\; SELECT length(seal_sync.wire_apply(' . literal($request) . '))\; ' . (rand() < 0.03 ? 'COMMIT' : 'ROLLBACK');
}

sub memory
{
	open my $status, '<', "/proc/$east->{pid}/status" or return 0;
	my ($kb) = map { /^RssAnon:\s+(\d+)/ ? $1 : () } <$status>;
	return $kb // 0;
}

my ($sent, $errors, $first, $alive) = (0, 0, 0, 1);
my %seen;
while ($sent < $messages && $alive)
{
	agree();
	$first ||= memory();
	for (1 .. 4)
	{
		my @block = map { some_message() } 1 .. 125;
		$east->sql(join ";\nROLLBACK;\n", @block, 'SELECT 1');
		$sent += @block;
		$seen{$_}++ for $east->{log} =~ /(?:ERROR|FATAL):\s+(\w{5}):/g;
		$alive = $east->{psql}->pumpable && $east->{log} !~ /server closed the connection|FATAL/;
		last if !$alive;
	}
}
ok($alive, "the session has lived through $sent messages") or diag $east->{log};
note(join ', ', map { "$_ $seen{$_}" } sort keys %seen);
cmp_ok(scalar(keys %seen), '>', 8, 'which were refused for many reasons');
unlike(slurp_file($west->logfile), qr/terminated by signal|PANIC|TRAP:|XX000/, 'no process has crashed, nothing was taken for a bug of ours');
ok(!$seen{XX000}, 'no internal error') or diag((grep { /XX000/ } split /\n/, $east->{log})[0]);
is(sql($others), $before, 'rows of other clusters and other tables are what they were');
is(sql("SELECT count(*) FROM pg_locks WHERE pid = $east->{pid} AND locktype <> 'advisory'"), '0', 'no lock is left');
is(sql('SELECT count(*) FROM pg_prepared_xacts') . sql(q(SELECT count(*) FROM pg_stat_activity WHERE usename = 'sync_in' AND state LIKE 'idle in%')), '00', 'nor a transaction');
my $grown = memory() - $first;
cmp_ok($grown, '<', 64 * 1024, 'memory of the session is bounded') or diag "$grown kB more";
agree();
my $got = $east->batch($east->whole('public.t', [ [ 100_000, 'a', 'honest', 100_000, undef, 0, undef ] ]));
is($got->{error}, undef, 'an honest batch goes through') or diag explain $got;
is(sql('SELECT v FROM t WHERE id = 100000'), 'honest', 'and is there');
done_testing();
