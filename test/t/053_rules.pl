# Rules of the traps that show nowhere else when they are forgotten: T3, T5, T9, T12, T23, T24, T26 (doc/traps.md).
# The servers have nothing for replication: no slots, no WAL senders, wal_level = minimal. Replication origins cannot
# be used there (T3).
# Judge: pg_dump of both sides, the log's own tables, a proxy that changes what the peer is told.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;

my ($east, $west) = two_nodes(conf => "wal_level = minimal\nmax_wal_senders = 0\nmax_replication_slots = 0");
my $db = 'postgres';

add_tables(<<'SQL', [ 't', 'num' ], $east, $west);
CREATE TABLE t (id int PRIMARY KEY, cluster_id text, v text);
CREATE TABLE num (id numeric PRIMARY KEY, cluster_id text, v text);
SQL

sub step
{
	my ($name, $sql, @table) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$east->safe_psql($db, $sql);
	wait_for_sync($east);
	return dumps_equal($name, [ $east, $west ], @table);
}

# Runs CODE while nothing is shipped: what is logged stays where it can be looked at.
sub while_paused
{
	my ($code) = @_;
	$east->safe_psql($db, q(SELECT seal_sync.pause('west', 'test')));
	wait_for_state($east, 'west', 'paused');
	$code->();
	$east->safe_psql($db, q(SELECT seal_sync.resume('west')));
	wait_for_sync($east);
	return;
}

sub log_rows
{
	return $east->safe_psql($db, 'SELECT sum(n) FROM (' . join(' UNION ALL ', map { "SELECT count(*) AS n FROM seal_sync.change_log_$_" } 0 .. 7) . ') c');
}

# What the peer was asked for before it knew of cluster or table waits until it is asked again
$east->safe_psql($db, q(INSERT INTO t SELECT i, 'a', 'v' FROM generate_series(1, 20) i; INSERT INTO num VALUES (1, 'a', 'v')));
wait_until($east, q(SELECT pending_keys FROM seal_sync.status WHERE peer = 'west' AND direction = 'out'), '0', 'west knows all');
dumps_equal('T3: a pair needs nothing of replication', [ $east, $west ], 't', 'num');

subtest 'T9: what a savepoint captured goes with it' => sub {
	while_paused(sub {
		$east->safe_psql($db, q(BEGIN; INSERT INTO t VALUES (101, 'a', 'stays');
		  SAVEPOINT s; INSERT INTO t SELECT i, 'a', 'goes' FROM generate_series(200, 299) i; UPDATE t SET v = 'goes' WHERE id <= 20; ROLLBACK TO s;
		  INSERT INTO t VALUES (102, 'a', 'stays'); COMMIT;));
		is($east->safe_psql($db, q(SELECT string_agg(key ->> 'id', ' ' ORDER BY (key ->> 'id')::int) FROM seal_sync.pending)), '101 102',
			'only what stays is pending');
	});
	dumps_equal('and arrives', [ $east, $west ], 't');
};

subtest 'T26: one row of the log packs many keys' => sub {
	while_paused(sub {
		my $before = log_rows();
		$east->safe_psql($db, q(INSERT INTO t SELECT i, 'a', 'many' FROM generate_series(10001, 30000) i));
		my $rows = log_rows() - $before;
		cmp_ok($rows, '>', 0, 'they are logged');
		cmp_ok($rows, '<', 100, "20000 keys in $rows rows");
	});
	dumps_equal('and arrive', [ $east, $west ], 't');
};

subtest 'T5: rows move between two clusters of this node, their keys stay' => sub {
	$_->safe_psql($db, q(SELECT seal_sync.cluster_create('a2', primary_node => 'east'))) for $west, $east;
	$east->safe_psql($db, q(INSERT INTO t VALUES (600, 'a2', 'first'), (601, 'a2', 'first')));
	# Keys that met a "no" of west wait until it is asked again
	wait_until($east, q(SELECT pending_keys FROM seal_sync.status WHERE peer = 'west' AND direction = 'out'), '0', 'west knows the other cluster');
	step('by an update', q(UPDATE t SET cluster_id = 'a2' WHERE id BETWEEN 4 AND 10; UPDATE t SET cluster_id = 'a' WHERE id = 600), 't');
	step('by delete and insert', q(WITH gone AS (DELETE FROM t WHERE id BETWEEN 11 AND 15 RETURNING *) INSERT INTO t SELECT id, 'a2', v FROM gone;
	  BEGIN; DELETE FROM t WHERE id = 601; INSERT INTO t VALUES (601, 'a', 'second'); COMMIT;), 't');
	step('there, back and away', q(UPDATE t SET cluster_id = 'a' WHERE id = 4; UPDATE t SET cluster_id = 'a2' WHERE id = 4; DELETE FROM t WHERE id = 5), 't');
};

subtest 'T5: a row that leaves the clusters of this node is a delete for the peer' => sub {
	$east->safe_psql($db, q(SET seal_sync.guard = off; UPDATE t SET cluster_id = 'b' WHERE id = 1; UPDATE t SET cluster_id = NULL WHERE id = 2;
	  UPDATE t SET cluster_id = 'nobody' WHERE id = 3;));
	wait_for_sync($east);
	is($west->safe_psql($db, 'SELECT count(*) FROM t WHERE id <= 3'), '0', 'its row is gone there');
	is($east->safe_psql($db, 'SELECT count(*) FROM seal_sync.held'), '0', 'and nothing was refused');
	$east->safe_psql($db, q(SET seal_sync.guard = off; DELETE FROM t WHERE id <= 3));
	step('neighbours are not disturbed', q(INSERT INTO t VALUES (1, 'a', 'again')), 't');
};

subtest 'T24: a row travels once, in whatever forms its key was written, and what it leaves alone does not travel' => sub {
	$east->safe_psql($db, q(INSERT INTO num VALUES (5, 'a', repeat('x', 50000)), (6, 'a', '6')));
	wait_for_sync($east);
	my $shipped = sub { split /\|/, $east->safe_psql($db, q(SELECT keys_shipped, bytes_shipped FROM seal_sync.stat_table WHERE relation = 'num'::regclass)) };
	my ($rows, $bytes) = $shipped->();
	while_paused(sub {
		$east->safe_psql($db, "UPDATE num SET id = $_ WHERE id = 5") for '5.0', '5.00', '5.000';
		$east->safe_psql($db, q(UPDATE num SET v = '66' WHERE id = 6; UPDATE num SET id = 6.0 WHERE id = 6; DELETE FROM num WHERE id = 6;));
	});
	my ($rows_after, $bytes_after) = $shipped->();
	is($rows_after - $rows, 2, 'one row and one delete');
	cmp_ok($bytes_after - $bytes, '<', 1000, 'without the large value');
	dumps_equal('as the key is written now', [ $east, $west ], 'num');
};

# A TCP proxy before west. Once, when the file $abort is there, it makes the COMMIT behind a batch an ABORT: what the
# sender gets is the answer of a batch that was applied, and then the tag of a transaction that was not. When the file
# $hold is there, it makes the file $held instead of passing a COMMIT on, as a line would that breaks there, and waits
# until $hold is gone.
my $proxy;
END { kill 'KILL', $proxy if $proxy }

sub start_proxy
{
	my ($abort, $hold, $held) = @_;
	my $listener = IO::Socket::INET->new(Listen => 8, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "listen: $!";
	my $port = $listener->sockport;
	my $socket = $west->host . '/.s.PGSQL.' . $west->port;
	$proxy = fork // die "fork: $!";
	return $port if $proxy;
	my %other;
	my $select = IO::Select->new($listener);
	$SIG{PIPE} = 'IGNORE';
	for (;;)
	{
		for my $ready ($select->can_read)
		{
			if ($ready == $listener)
			{
				my $client = $listener->accept or next;
				my $server = IO::Socket::UNIX->new(Peer => $socket) or next;
				@other{ $client, $server } = ($server, $client);
				$select->add($client, $server);
				next;
			}
			my $end = $other{$ready} or next;
			if (sysread $ready, my $bytes, 65536)
			{
				if (-e $hold && $bytes =~ /COMMIT\0/)
				{
					syswrite $end, substr $bytes, 0, $-[0], '';
					append_to_file($held, '');
					while (-e $hold) { select undef, undef, undef, 0.01 }
				}
				unlink $abort if -e $abort && $bytes =~ s/'::pg_catalog\.bytea\); COMMIT\0\z/'::pg_catalog.bytea); ABORT \0/;
				syswrite $end, $bytes;
				next;
			}
			$select->remove($ready, $end);
			delete @other{ $ready, $end };
			close $_ for $ready, $end;
		}
	}
}

my ($abort, $hold, $held) = map { $east->basedir . "/$_" } qw(abort hold held);
my $port = start_proxy($abort, $hold, $held);
while_paused(sub { $east->safe_psql($db, "ALTER SERVER west OPTIONS (SET host '127.0.0.1', SET port '$port')") });
step('through a proxy', q(INSERT INTO t VALUES (501, 'a', 'x')), 't');

subtest 'T23: only the command tag COMMIT counts' => sub {
	my $before = -s $east->logfile;
	append_to_file($abort, '');
	step('a batch that was not committed is sent again', q(INSERT INTO t VALUES (502, 'a', 'x')), 't');
	ok(!-e $abort, 'its transaction was rolled back once');
	my $log = slurp_file($east->logfile, $before);
	like($log, qr/did not commit the batch/, 'the sender has noticed');
	unlike($log, qr/fell back/, 'before it took the batch for applied');
};

subtest 'T12: a line that breaks before the end of a batch leaves no lock behind' => sub {
	append_to_file($hold, '');
	$east->safe_psql($db, q(INSERT INTO t VALUES (503, 'a', 'x')));
	for (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default) { last if -e $held; select undef, undef, undef, 0.01 }
	ok(-e $held, 'the line is broken');
	is($west->safe_psql($db, q(SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'seal_sync/west' AND l.relation = 't'::regclass)),
		'0', 'the session of the peer has no lock');
	my ($rc, $out, $err) = $west->psql($db, q(BEGIN; LOCK TABLE t NOWAIT; COMMIT), on_error_stop => 1);
	is($err, '', 'an application can lock the table');
	unlink $hold;
	step('then the batch is applied', q(INSERT INTO t VALUES (504, 'a', 'x')), 't');
};

done_testing();
