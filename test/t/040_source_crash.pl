# Traps T1 and T2: the source crashes, and what it had shipped was right all the same.
#
# T1: an xid that a shipped snapshot calls finished must not be used again after the crash, and what was on the peer
# before the crash must be there on the source afterwards.
# T2: the crash falls between the peer's commit and the noted acknowledgement; also with refusals in the lost answer.
# Judge: pg_dump of both sides, and a trigger on the peer that counts what is applied.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

# Nothing but our own flush brings WAL to disk: no WAL writer, no synchronous commit.
my ($east, $west) = two_nodes(conf => "seal_sync.scan_period = '20ms'\nwal_writer_delay = '10s'\nautovacuum = off");
my $db = 'postgres';
$east->safe_psql($db, 'ALTER SYSTEM SET synchronous_commit = off');
$east->reload;

add_tables(<<'SQL', ['t'], $east, $west);
CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id));
SQL

sub no_halt
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($east->safe_psql($db, q(SELECT count(*) || coalesce(min(halt_message), '') FROM seal_sync.peer_state WHERE halted_since IS NOT NULL)),
		'0', "$name: nothing is halted");
}

sub crash_and_start
{
	$east->stop('immediate');
	$east->start;
}

subtest 'T1: xids of rolled back transactions, used again after a crash' => sub {
	for my $round (1 .. 5)
	{
		# The aborts are in the log's memory only; the marker, a commit that may be lost, comes after them.
		my $aborts = join '', map { "BEGIN; INSERT INTO t VALUES ($round * 1000 + $_, 'a', 'ghost'); ROLLBACK;\n" } 1 .. 30;
		$east->safe_psql($db, $aborts . "INSERT INTO t VALUES ($round * 1000, 'a', 'marker $round');");
		$west->poll_query_until($db, "SELECT count(*) = 1 FROM t WHERE id = $round * 1000") or die 'the marker does not arrive';
		crash_and_start();
		is($east->safe_psql($db, "SELECT v FROM t WHERE id = $round * 1000"), "marker $round", "round $round: what the peer has is here");
		# As many transactions again: each of the numbers would be used a second time
		$east->safe_psql($db, join '', map { "INSERT INTO t VALUES ($round * 1000 + 100 + $_, 'a', 'again');\n" } 1 .. 40);
		wait_for_sync($east);
		dumps_equal("round $round", [ $east, $west ], 't');
		no_halt("round $round");
	}
};

subtest 'T1: commits that a crash loses, under load' => sub {
	my $script = $east->basedir . '/load.sql';
	append_to_file($script, <<'SQL');
\set id random(100000, 100400)
BEGIN;
INSERT INTO t VALUES (:id, 'a', 'rolled back') ON CONFLICT (id, cluster_id) DO UPDATE SET v = 'rolled back';
ROLLBACK;
INSERT INTO t VALUES (:id, 'a', txid_current()) ON CONFLICT (id, cluster_id) DO UPDATE SET v = excluded.v;
DELETE FROM t WHERE id = :id + 200;
SQL
	for my $round (1 .. 4)
	{
		my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '2', '-T', '30', '-f', $script, '-h', $east->host, '-p', $east->port, $db ],
			'>', \my $out, '2>', \my $err);
		usleep(300_000 + rand 500_000);
		crash_and_start();
		eval { $load->finish };
		wait_for_sync($east);
		dumps_equal("round $round", [ $east, $west ], 't');
		no_halt("round $round");
	}
};

# On west a trigger counts what is applied, and holds the apply session as long as the test holds a lock.
$west->safe_psql($db, <<'SQL');
CREATE TABLE counted (id int, op text);
CREATE FUNCTION count_and_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(4711);
  INSERT INTO public.counted VALUES (coalesce(NEW.id, OLD.id), TG_OP);
  RETURN NULL;
END $$;
CREATE TRIGGER count_and_wait AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION count_and_wait();
ALTER TABLE t ENABLE ALWAYS TRIGGER count_and_wait;
ALTER TABLE t ADD CHECK (v <> 'refused');
SQL

# The answer to the batch with SQL's changes never arrives: east dies while it is on the way.
sub lose_the_answer
{
	my ($sql, $arrived) = @_;
	my $lock = $west->background_psql($db);
	$lock->query_safe('SELECT pg_advisory_lock(4711)');
	$east->safe_psql($db, $sql);
	$west->poll_query_until($db, q(SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)) or die 'apply does not wait';
	my ($worker) = workers($east, 'route worker');
	kill 'STOP', $worker;
	$lock->query_safe('SELECT pg_advisory_unlock(4711)');
	$lock->quit;
	$west->poll_query_until($db, $arrived) or die 'the batch is not applied';
	kill 'KILL', $worker; # a server whose process is killed stops: restart_after_crash is off
	my $pid_file = $east->data_dir . '/postmaster.pid';
	for (1 .. 600) { last unless -e $pid_file; usleep(50_000) }
	$east->_update_pid(0);
	$east->start;
}

subtest 'T2: the acknowledgement is lost with the source' => sub {
	for my $round (1 .. 3)
	{
		my $id = 200_000 + $round;
		lose_the_answer("INSERT INTO t VALUES ($id, 'a', 'in doubt')", "SELECT count(*) = 1 FROM t WHERE id = $id");
		$east->safe_psql($db, "INSERT INTO t VALUES ($id + 100, 'a', 'after')");
		wait_for_sync($east);
		dumps_equal("round $round", [ $east, $west ], 't');
		no_halt("round $round");
		is($west->safe_psql($db, "SELECT string_agg(op, ',') FROM counted WHERE id = $id"), 'INSERT', "round $round: applied once");
	}
};

subtest 'T2: with refusals in the lost answer' => sub {
	lose_the_answer(q(INSERT INTO t VALUES (300001, 'a', 'in doubt'), (300002, 'a', 'refused'), (300003, 'a', 'too')),
		q(SELECT count(*) = 2 FROM t WHERE id BETWEEN 300001 AND 300003));
	wait_until($east, q(SELECT count(*) FROM seal_sync.quarantine WHERE key->>'id' = '300002'), '1', 'the refused key is not forgotten');
	no_halt('refusals');
	$west->safe_psql($db, 'ALTER TABLE t DROP CONSTRAINT t_v_check');
	wait_until($west, q(SELECT count(*) = 3 FROM t WHERE id BETWEEN 300001 AND 300003), 't', 'and arrives when it may');
	wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'nothing is left over');
	dumps_equal('in the end', [ $east, $west ], 't');
};

done_testing();
