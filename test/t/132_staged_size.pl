# Stages: neither their size nor the number of keys that come again costs memory. Chunks are made by SQL, in the receiver's
# own session, so that psql has nothing to carry. SEAL_LONG: ten times as much.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;
use Time::HiRes qw(time);

my $times = $ENV{SEAL_LONG} ? 10 : 1;
my $wire = receiver();
sub sql { return $wire->safe_psql('postgres', $_[0]) }
sql(q(
CREATE TABLE m (id int PRIMARY KEY, v text);
CREATE TABLE big (id int PRIMARY KEY, v bytea);
ALTER TABLE big ALTER v SET STORAGE EXTERNAL;
SELECT seal_sync.table_add('m', cluster => 'a'), seal_sync.table_add('big', cluster => 'a');
ALTER SYSTEM SET shared_buffers = '16MB';
ALTER ROLE sync_in SET maintenance_work_mem = '1MB';
));
$wire->restart;
my $sender = SealWire->new($wire, user => 'sync_in');
$sender->hello;
# Keys as text of seven digits, so that SQL can make rows of a known size
$sender->describe('public.m', [ [qw(id int4 O 0 1)], [qw(v text T)] ]);
$sender->describe('public.big', [ [qw(id int4 F 4 1)], [qw(v bytea Y)] ]);

sub hex_of { return "'\\x" . unpack('H*', $_[0]) . "'::bytea" }
sub head { my ($table, $kind, $rows, $size) = @_; return $kind . SealWire::varint($sender->{tables}{$table}{number}) . SealWire::varint($rows) . SealWire::u32($size) }
sub put_made { my ($head, $body) = @_; my $got = $sender->sql("SELECT seal_sync.wire_put(" . hex_of($head) . " || ($body))"); die "$got->{error} $got->{message}" if $got->{error}; return }

# rows FROM .. TO in steps of STEP, with one letter for a value; no letter: deletes
sub many
{
	my ($from, $to, $step, $letter) = @_;
	my $rows = int(($to - $from) / $step) + 1;
	my $value = defined $letter ? sprintf '01%02x', ord $letter : '';
	put_made(head('public.m', defined $letter ? 'W' : 'D', $rows, $rows * (defined $letter ? 11 : 9)),
		"SELECT string_agg('\\x0007'::bytea || convert_to((1000000 + i)::text, 'UTF8') || '\\x$value'::bytea, '' ORDER BY i) FROM generate_series($from, $to, $step) i");
	return $rows;
}

# ---- many keys come again: more than are looked for at a time ------------------------------------------------------------
my $n = 100_000 * $times;
my $rows = many(1, $n, 1, 'a');
is($sender->stage('s', [], chunks => 1, rows => $rows)->{rows}, $n, 'the first pass');
my $again = many(2, $n, 2, 'b') + many(3, $n, 30);
is($sender->stage('s', [], pass => 2, chunks => 2, rows => $again)->{rows}, $n + $again, 'the second');
my $put = many(4, $n, 4, 'c') + many(5, $n, 10);
my $began = time;
my $got = $sender->apply(stages => ['s'], chunks => 2, rows => $put);
is($got->{error}, undef, 'applied') or diag explain $got;
note sprintf 'in %.1f s', time - $began;
sql("CREATE TABLE expected AS SELECT 1000000 + i AS id, CASE WHEN i % 4 = 0 THEN 'c' WHEN i % 2 = 0 THEN 'b' ELSE 'a' END AS v FROM generate_series(1, $n) i WHERE i % 30 <> 3 AND i % 10 <> 5");
is(sql('SELECT count(*) FROM (TABLE m EXCEPT TABLE expected) x'), 0, 'nothing is there that should not be');
is(sql('SELECT count(*) FROM (TABLE expected EXCEPT TABLE m) x'), 0, 'nothing is missing');
is($got->{inserted}, sql('SELECT count(*) FROM expected'), 'each row was written once');
is($got->{updated} + $got->{deleted}, 0, 'and none to be changed again');

# ---- much is staged ----------------------------------------------------------------------------------------------------
my ($chunks, $size) = (200 * $times, 1 << 20);
sub processor_time { my @stat = split ' ', slurp_file("/proc/$sender->{pid}/stat"); return ($stat[13] + $stat[14]) / 100 }
$began = time;
my ($used, $staging) = (processor_time(), 0);
for my $i (1 .. $chunks)
{
	my $row = "\0" . pack('l<', $i) . SealWire::varint($size);
	put_made(head('public.big', 'W', 1, length($row) + $size) . $row, "convert_to(repeat('" . chr(97 + $i % 26) . "', $size), 'UTF8')");
	next if $i % 8;
	my $before = processor_time();
	$got = $sender->stage('big', [], chunks => 8, rows => 8);
	die explain $got if $got->{error};
	$staging += processor_time() - $before;
}
note sprintf '%.0f MB/s made, put and staged; %.0f MB per second of processor time, %.0f for staging alone', map { $chunks * $size / 1e6 / ($_ || 0.01) }
  time - $began, processor_time() - $used, $staging;
is(sql('SELECT bytes / 1000000 FROM seal_sync.stages'), int($chunks * ($size + 14) / 1e6), "$chunks MB are staged") or diag sql('TABLE seal_sync.stages');
reconnect();
sub reconnect { $sender->close; $sender->connect; $sender->hello; $sender->describe('public.big', [ [qw(id int4 F 4 1)], [qw(v bytea Y)] ]); return }
$got = $sender->apply(stages => ['big']);
is_deeply([ @$got{qw(error inserted)} ], [ undef, $chunks ], 'applied') or diag explain $got;
is(sql("SELECT count(*) FROM big WHERE v = convert_to(repeat(chr(97 + id % 26), $size), 'UTF8')"), $chunks, 'as they were');
my ($peak) = slurp_file("/proc/$sender->{pid}/status") =~ /^VmHWM:\s+(\d+) kB/m;
cmp_ok($peak, '<', 120 * 1024, 'memory of the session stays small');
note "$peak kB at most";
wait_until($wire, q(SELECT pg_relation_size('seal_sync.stage_chunk')), '0', 'the space is given back');
$sender->close;
done_testing();
