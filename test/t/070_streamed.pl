# A large batch is applied while it arrives: as one transaction all the same, which cannot commit half done, does not
# wait for a sender that has stopped, and after any failure goes the way of a batch that is collected first.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

# ---- the receiver, with a sender in Perl ------------------------------------------------------------------
my $wire = receiver();
sub sql { return $wire->safe_psql('postgres', $_[0]) }
sql(q(
CREATE TABLE p (id int PRIMARY KEY);
CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE DEFERRABLE INITIALLY DEFERRED, p int REFERENCES p);
SELECT seal_sync.table_add('p', cluster => 'a'), seal_sync.table_add('t', cluster => 'a');
));
my $sender = SealWire->new($wire, user => 'sync_in');
$sender->hello;
is($sender->describe('public.p', [ [qw(id int4 F 4 1)] ])->{problem}{sqlstate}, '', 'p fits');
is($sender->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T)], [qw(u int4 F 4)], [qw(p int4 F 4)] ])->{problem}{sqlstate}, '', 't fits');
sub t { return $sender->whole('public.t', [@_]) }
sub count { return sql('SELECT count(*) FROM t') }

my ($it, $got);
is($sender->put(t([ 1, 'collected', 1, undef ]))->{error}, undef, 'a chunk is collected');
$it = $sender->begin;
is($it->{error}, undef, 'the batch begins') or diag explain $it;
is($sender->put(t([ 2, 'streamed', 2, 7 ], [ 3, 'streamed', 4, undef ]))->{error}, undef, 'a chunk is applied');
is(sql(q(SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'RowExclusiveLock')), 1, 'at once');
is(count(), 0, 'nobody else sees it');
is($sender->put($sender->whole('public.p', [ [7] ]), t([ 4, 'streamed', 3, undef ]))->{error}, undef, 'another');
$got = $sender->apply(%$it, streamed => 1, chunks => 3, rows => 6, sections => [ t([ 5, 'last', 5, undef ]) ]);
is_deeply([ @$got{qw(error inserted complete)} ], [ undef, 6, 1 ], 'the batch ends') or diag explain $got;
is(sql('SELECT string_agg(id || v || u, q ORDER BY id) FROM t, (SELECT chr(32) q) q'), '1collected1 2streamed2 3streamed4 4streamed3 5last5', 'all is there');
is(sql(q(SELECT last_batch FROM seal_sync.status WHERE direction = 'in' AND peer = 'east')), $it->{batch}, 'it is the last batch');
is($sender->apply(%$it, chunks => 3, rows => 6)->{status}, 1, 'asked again: applied before');

# Deferred uniqueness and foreign keys are judged at the end, over all chunks
$it = $sender->begin;
$sender->put(t([ 1, 'swapped', 2, undef ]));
$sender->put(t([ 2, 'swapped', 1, 7 ]));
$got = $sender->apply(%$it, streamed => 1, chunks => 2, rows => 2);
is_deeply([ @$got{qw(error updated)} ], [ undef, 2 ], 'unique values change places') or diag explain $got;
for ([ '23505', [ 3, 'double', 5, undef ] ], [ '23503', [ 3, 'orphan', 30, 99 ] ])
{
	my ($sqlstate, $row) = @$_;
	$it = $sender->begin;
	is($sender->put(t($row))->{error}, undef, "$row->[1] while it arrives");
	is($sender->apply(%$it, streamed => 1, chunks => 1, rows => 1)->{error}, $sqlstate, 'refused at the end');
	$sender->put({ rows => 0, bytes => '' });
}
is(sql('SELECT v FROM t WHERE id = 3'), 'streamed', 'nothing of that has stayed');

# Half a batch cannot commit
my $before = sql('SELECT md5(string_agg(t::text, chr(32) ORDER BY id)) FROM t');
for my $end ('COMMIT', q(PREPARE TRANSACTION 'half'), q(SELECT seal_sync.wire_hello('\x00')))
{
	$it = $sender->begin;
	$sender->put(t([ 1, 'half', 1, undef ]));
	is($sender->sql($end)->{error}, '08P01', "$end in the middle");
	$sender->sql('ROLLBACK');
}
for ([ chunks => 2, rows => 1 ], [ chunks => 1, rows => 2 ], [ id => SealWire::id('other'), chunks => 1, rows => 1 ], [ batch => 1000, chunks => 1, rows => 1 ])
{
	$it = $sender->begin;
	$sender->put(t([ 1, 'half', 1, undef ]));
	is($sender->apply(%$it, @$_, streamed => 1)->{error}, '08P01', "false: @{[ map { /[^ -~]/ ? 'id' : $_ } @$_ ]}");
}
$it = $sender->begin;
is($sender->call('wire_begin', 'x')->{error}, '08P01', 'begun twice');
$sender->sql('ROLLBACK');
is($sender->begin(careful => 1)->{error}, '08P01', 'begun careful');
is($sender->begin(sections => [ t([ 1, 'half', 1, undef ]) ])->{error}, '08P01', 'begun with a last chunk');
is($sender->begin(%$it, batch => $sender->{batch}, id => $sender->{batch_id})->{error}, '08P01', 'begun again when it was applied');
is($sender->begin(previous => 999)->{error}, 'SSW04', 'begun out of order');
is($sender->begin(epochs => { a => 99 })->{error}, 'SSW06', 'begun for an epoch that is not ours');
is($sender->call('wire_begin', 'x')->{error}, '25P01', 'begun outside of a transaction');
is(sql('SELECT md5(string_agg(t::text, chr(32) ORDER BY id)) FROM t'), $before, 'nothing of all that has stayed');

# Silence: the connection ends, and the locks with it
$it = $sender->begin;
$sender->put(t([ 1, 'silent', 1, undef ]));
wait_until($wire, q(SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass)), 't', 'the locks of a silent sender go');
like(slurp_file($wire->logfile), qr/idle-in-transaction timeout/, 'by ending its connection');
is(sql('SELECT md5(string_agg(t::text, chr(32) ORDER BY id)) FROM t'), $before, 'and its rows');
$sender->close;
$wire->stop;

# ---- two servers --------------------------------------------------------------------------------------------
my ($east, $west) = two_nodes();
my $rows = 60000;
add_tables(<<'SQL', ['s'], $east, $west);
CREATE TABLE s (id int PRIMARY KEY, cluster_id text, v text);
SQL
sub applied_streamed
{
	my ($name, $change, $how) = @_;
	my $log = -s $west->logfile;
	$east->safe_psql('postgres', $change);
	wait_for_sync($east);
	my $text = slurp_file($west->logfile, $log);
	# A link counts as fast by what it has just done: where others use the machine, it may take some batches to show it
	for (1 .. 20)
	{
		last if $how eq 'collected' || $text =~ /wire_begin/;
		$east->safe_psql('postgres', q(UPDATE s SET v = v || '.'));
		wait_for_sync($east);
		$text = slurp_file($west->logfile, $log);
	}
	is($text =~ /wire_begin/ ? 'streamed' : 'collected', $how, "$name: $how");
	return;
}
$west->safe_psql('postgres', q(ALTER SYSTEM SET log_statement = 'all'; SELECT pg_reload_conf()));
$west->poll_query_until('postgres', q(SELECT setting = 'all' FROM pg_settings WHERE name = 'log_statement'));
applied_streamed('a large batch', "INSERT INTO s SELECT i, 'a', repeat(i::text, 10) FROM generate_series(1, $rows) i", 'streamed');
applied_streamed('a small one', q(UPDATE s SET v = 'small' WHERE id = 1), 'collected');
applied_streamed('updates', q(UPDATE s SET v = v || 'x'), 'streamed');
dumps_equal('rows are equal', [ $east, $west ], 's');

# A row that the standby refuses: nothing of the streamed batch stays, the key goes to quarantine, the rest flows
$west->safe_psql('postgres', q(ALTER TABLE s ADD CONSTRAINT no_bad CHECK (v NOT LIKE 'bad%')));
$east->safe_psql('postgres', q(UPDATE s SET v = CASE WHEN id = 50000 THEN 'bad' ELSE v || 'y' END));
wait_until($east, q(SELECT count(*) FROM seal_sync.quarantine), '1', 'one key is in quarantine');
is($west->safe_psql('postgres', q(SELECT count(*) FILTER (WHERE v LIKE '%y'), count(*) FROM s)), ($rows - 1) . "|$rows", 'the others have arrived');
applied_streamed('the next large batch', q(UPDATE s SET v = v || 'z' WHERE id <> 50000), 'collected');
$west->safe_psql('postgres', q(ALTER TABLE s DROP CONSTRAINT no_bad));
$east->safe_psql('postgres', q(UPDATE s SET v = 'good' WHERE id = 50000));
wait_until($east, q(SELECT count(*) FROM seal_sync.quarantine), '0', 'quarantine is empty');
dumps_equal('rows are equal again', [ $east, $west ], 's');

# Killed in the middle: the batch comes again
$east->restart; # streams again
wait_for_state($east, 'west', 'streaming');
for my $round (1 .. 3)
{
	$east->safe_psql('postgres', "UPDATE s SET v = 'round $round ' || id");
	my $pid;
	for (1 .. 500)
	{
		$pid = $west->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE usename = 'sync_in' AND state IN ('active', 'idle in transaction') AND query LIKE '%wire_put%' AND xact_start IS NOT NULL));
		last if $pid || $east->safe_psql('postgres', q(SELECT pending_keys = 0 FROM seal_sync.status WHERE direction = 'out')) eq 't';
	}
	kill 'TERM', split /\n/, $pid if $pid;
	note $pid ? "killed $pid" : 'too late to kill';
	wait_for_sync($east);
	dumps_equal("equal after round $round", [ $east, $west ], 's');
}
done_testing();
