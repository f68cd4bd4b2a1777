# Apply beside local transactions: it gives way, holds nothing across the network, and keeps its place.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use IO::Socket::UNIX;
use Time::HiRes qw(time);
use SealSync;
use SealWire;

my $west = one_node('west', conf => "deadlock_timeout = '5s'\nseal_sync.apply_lock_timeout = '4s'");
sub sql { return $west->safe_psql('postgres', $_[0]) }
sql(q(
CREATE EXTENSION seal_sync;
SELECT seal_sync.node_create('west');
INSERT INTO seal_sync.peer (peer, server) VALUES ('east', 'east');
SELECT seal_sync.cluster_create('a', primary_node => 'east'), seal_sync.cluster_create('b', primary_node => 'west');
CREATE TABLE t (id int PRIMARY KEY, cl text, v text);
SELECT seal_sync.table_add('t', cluster_column => 'cl');
CREATE TABLE child (id int PRIMARY KEY, t int REFERENCES t);
));
my $east = SealWire->new($west);
$east->hello;
my @t = ([qw(id int4 F 4 1)], [qw(cl text T)], [qw(v text T)]);
is($east->describe('public.t', \@t, column => 'cl')->{problem}{sqlstate}, '', 't fits');
my $got = $east->batch($east->whole('public.t', [ map { [ $_, 'a', 'first' ] } 1 .. 9 ]));
is($got->{inserted}, 9, 'rows');

# the other end of the conversation for a statement that is still running
sub start { my ($session, $sql) = @_; $session->{stdin} .= "$sql;\n"; $session->{psql}->pump_nb while length $session->{stdin}; return }
sub waits
{
	my ($session) = @_;
	my $waits = '';
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$session->{psql}->pump_nb; # what is to be sent goes out piece by piece
		last if ($waits = sql("SELECT count(*) > 0 FROM pg_locks WHERE pid = $session->{pid} AND NOT granted")) eq 't';
		select undef, undef, undef, 0.05;
	}
	return is($waits, 't', 'the batch waits');
}

# ---- the apply session is the loser of a deadlock, whoever closes the circle ------------------------------------------------
{
	my $local = SealWire->new($west);
	$local->sql(q(BEGIN; SELECT FROM t WHERE id = 2 FOR UPDATE));
	# the batch has written row 1 and waits for row 2
	my $request = SealWire::u64($east->{batch} + 1) . SealWire::id('deadlock') . SealWire::u64($east->{batch}) . $east->{batch_id} . SealWire::u64($east->{generation}) . SealWire::u64(0)
		. "\0\0\2\1" . SealWire::sized('a') . SealWire::u64(1) . $east->whole('public.t', [ [ 1, 'a', 'second' ], [ 2, 'a', 'second' ] ])->{bytes};
	start($east, "BEGIN\\; SELECT seal_sync.wire_apply('\\x" . unpack('H*', $request) . "')\\; COMMIT");
	waits($east);
	my $begun = time;
	# This closes the circle. It would be found by the local transaction after 5 s; the batch gives up before.
	is($local->sql('SELECT 1 FROM t WHERE id = 1 FOR UPDATE')->{value}, '1', 'the local transaction goes on');
	cmp_ok(time() - $begun, '<', 4.9, 'without having waited for its own deadlock check');
	$local->sql('COMMIT');
	$east->sql('SELECT 1');
	like(slurp_file($west->logfile), qr/\[$east->{pid}\].*ERROR: .*(?:deadlock detected|lock timeout)/, 'the batch gave up');
	$east->sql('ROLLBACK');
	is(sql(q(SELECT count(*) FROM t WHERE v = 'second')), 0, 'and left nothing');
}

# ---- a sender that stops in the middle of its last message holds nothing (trap T12) ---------------------------
{
	my $request = SealWire::u64($east->{batch} + 1) . SealWire::id('stalled') . SealWire::u64($east->{batch}) . $east->{batch_id} . SealWire::u64($east->{generation}) . SealWire::u64(0)
		. "\0\0\1\1" . SealWire::sized('a') . SealWire::u64(1) . $east->whole('public.t', [ [ 1, 'a', 'x' x 200_000 ] ])->{bytes};
	my $query = "BEGIN; SELECT seal_sync.wire_apply('\\x" . unpack('H*', $request) . "'); COMMIT\0";
	my $message = 'Q' . pack('N', 4 + length $query) . $query;
	my $socket = IO::Socket::UNIX->new(Peer => $west->host . '/.s.PGSQL.' . $west->port) or die "cannot connect: $!";
	my $user = sql('SELECT current_user');
	my $startup = pack('N', 196608) . "user\0$user\0database\0postgres\0\0";
	$socket->syswrite(pack('N', 4 + length $startup) . $startup);
	my $answer = '';
	$socket->sysread($answer, 65536, length $answer) until $answer =~ /Z\x00\x00\x00\x05I\z/;
	$socket->syswrite(substr $message, 0, length($message) / 2);
	my $begun = time;
	sql(q(SET seal_sync.guard = off; BEGIN; LOCK TABLE t; UPDATE t SET v = 'local' WHERE id = 9; INSERT INTO child VALUES (1, 1); COMMIT));
	cmp_ok(time() - $begun, '<', 2, 'half a batch on the wire stops nobody');
	is(sql(q(SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.relation = 't'::regclass AND a.pid <> pg_backend_pid())), 0, 'no lock is held');
	$socket->close;
}
# nor do chunks that were put
$east->put($east->whole('public.t', [ [ 1, 'a', 'put' ] ]));
is(sql(q(SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass)), 0, 'wire_put takes no lock');
$east->call('wire_put', '');

# ---- a row that a local transaction is changing -------------------------------------------------------------------
{
	my $local = SealWire->new($west);
	$local->sql(q(SET seal_sync.guard = off; BEGIN; UPDATE t SET v = 'local' WHERE id = 3));
	my $begun = time;
	$got = $east->apply(sections => [ $east->whole('public.t', [ [ 3, 'a', 'second' ] ]) ]);
	is($got->{error}, '55P03', 'is waited for');
	cmp_ok(time() - $begun, '<', 8, 'not for long');
	my $request = SealWire::u64($east->{batch} + 1) . (my $id = SealWire::id('waits')) . SealWire::u64($east->{batch}) . $east->{batch_id} . SealWire::u64($east->{generation}) . SealWire::u64(0)
		. "\0\0\1\1" . SealWire::sized('a') . SealWire::u64(1) . $east->whole('public.t', [ [ 3, 'a', 'second' ] ])->{bytes};
	start($east, "BEGIN\\; SELECT seal_sync.wire_apply('\\x" . unpack('H*', $request) . "')\\; COMMIT");
	waits($east);
	$local->sql('COMMIT');
	$east->sql('SELECT 1');
	@$east{qw(batch batch_id)} = ($east->{batch} + 1, $id);
	is(sql('SELECT v FROM t WHERE id = 3'), 'second', 'and then changed as it is now');
	# one that becomes a row of another cluster meanwhile
	$local->sql(q(BEGIN; UPDATE t SET cl = 'b', v = 'ours now' WHERE id = 4));
	$request = SealWire::u64($east->{batch} + 1) . ($id = SealWire::id('moved')) . SealWire::u64($east->{batch}) . $east->{batch_id} . SealWire::u64($east->{generation}) . SealWire::u64(0)
		. "\0\0\1\1" . SealWire::sized('a') . SealWire::u64(1) . $east->whole('public.t', [ [ 4, 'a', 'second' ] ])->{bytes};
	start($east, "BEGIN\\; SELECT seal_sync.wire_apply('\\x" . unpack('H*', $request) . "')\\; COMMIT");
	waits($east);
	$local->sql('COMMIT');
	$east->sql('SELECT 1');
	@$east{qw(batch batch_id)} = ($east->{batch} + 1, $id);
	is(sql('SELECT cl || v FROM t WHERE id = 4'), 'bours now', 'its cluster is looked at again (trap T6)');
}

# ---- the fence: who has the table's lock reads the role afterwards -------------------------------------------------
{
	my $mover = SealWire->new($west);
	$mover->sql(q(BEGIN; LOCK TABLE t IN SHARE MODE; UPDATE seal_sync.cluster_state SET primary_node = 'west', epoch = 2 WHERE cluster = 'a'));
	my $request = SealWire::u64($east->{batch} + 1) . SealWire::id('fenced') . SealWire::u64($east->{batch}) . $east->{batch_id} . SealWire::u64($east->{generation}) . SealWire::u64(0)
		. "\0\0\1\1" . SealWire::sized('a') . SealWire::u64(1) . $east->whole('public.t', [ [ 5, 'a', 'too late' ] ])->{bytes};
	start($east, "BEGIN\\; SELECT seal_sync.wire_apply('\\x" . unpack('H*', $request) . "')\\; COMMIT");
	waits($east);
	# a call that changes the rules tells all backends when it commits
	$mover->sql(q(SELECT seal_sync.cluster_alter('b', add_values => ARRAY['bb']); COMMIT));
	$east->sql('SELECT 1');
	like(slurp_file($west->logfile), qr/\[$east->{pid}\].*ERROR: .*of which it is not primary here/, 'a batch that waited through a change of the role is refused');
	$east->sql('ROLLBACK');
	is(sql(q(SELECT count(*) FROM t WHERE v = 'too late')), 0, 'nothing of it');
	is($east->apply->{error}, 'SSW06', 'nor is any later one of that epoch taken');
	sql(q(BEGIN; UPDATE seal_sync.cluster_state SET primary_node = 'east', epoch = 1 WHERE cluster = 'a'; SELECT seal_sync.cluster_alter('b', drop_values => ARRAY['bb']); COMMIT));
	$got = $east->apply;
	is($got->{error}, undef, 'back again') or diag explain $got;
}

# ---- row security and rights do not matter ---------------------------------------------------------------------------
sql(q(
CREATE ROLE keeper; CREATE TABLE rls (id int PRIMARY KEY, v text); ALTER TABLE rls OWNER TO keeper; REVOKE ALL ON rls FROM keeper;
ALTER TABLE rls ENABLE ROW LEVEL SECURITY; ALTER TABLE rls FORCE ROW LEVEL SECURITY;
SELECT seal_sync.table_add('rls', cluster => 'a');
));
$east->describe('public.rls', [ [qw(id int4 F 4 1)], [qw(v text T)] ]);
$got = $east->batch($east->whole('public.rls', [ [ 1, 'x' ] ]));
$got = $east->batch($east->whole('public.rls', [ [ 1, 'y' ] ]), $east->removed('public.rls', [ [2] ]));
is($got->{updated}, 1, 'row security of a table does not stop it') or diag explain $got;

# ---- progress is rotated, and the newest row of an origin survives -----------------------------------------------------
my ($last, $id) = split /\|/, sql(q(SELECT batch, batch_id FROM seal_sync.applied_0 ORDER BY batch DESC LIMIT 1));
sql(q(INSERT INTO seal_sync.applied_0 SELECT 'north', n, gen_random_uuid(), now(), 0, NULL, now() FROM generate_series(1, 60000) n));
wait_until($west, 'SELECT count(*) = 0 FROM seal_sync.applied_0', 't', 'the full table is emptied');
is(sql(q(SELECT string_agg(origin || ' ' || batch, ', ' ORDER BY origin) FROM seal_sync.applied_1)), "east $last, north 60000", 'newest rows only');
is($east->heartbeat->{batch}, $last, 'progress is what it was');
$got = $east->batch($east->whole('public.t', [ [ 1, 'a', 'after' ] ]));
is($got->{updated}, 1, 'and goes on');
is(sql(q(SELECT keys_applied > 0 FROM seal_sync.stat_table WHERE relation = 't'::regclass AND peer = 'east')), 't', 'keys are counted');
done_testing();
