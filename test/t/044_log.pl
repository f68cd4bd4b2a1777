# What pins the change log and what does not (T17), and emptying it under load (T21): segments are emptied with a
# resend window of nothing, while writers hold them, also by prepared transactions. COMMIT PREPARED wakes nobody (T26).
# The log is full: both actions. Judge: pg_dump of both sides, sizes of files.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my ($east, $west) = two_nodes(conf => "seal_sync.resend_window = 0\nseal_sync.debug_rotation_period = '50ms'");
my $db = 'postgres';

add_tables(<<'SQL', ['t'], $east, $west);
CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id));
SQL
$_->safe_psql($db, q(CREATE TABLE narrow (id int PRIMARY KEY, v text); CREATE TABLE alone (id int PRIMARY KEY);)) for $east, $west;
$_->safe_psql($db, q(SELECT seal_sync.table_add('narrow', cluster => 'a'))) for $east, $west;
$east->safe_psql($db, q(SELECT seal_sync.table_add('alone', cluster => 'a'); ALTER TABLE narrow ADD extra text;));

my $log_bytes = q(SELECT coalesce(sum(pg_relation_size(oid)), 0) FROM pg_class WHERE relname ~ '^change_log_[0-9]$');

sub empties
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($east, $log_bytes, '0', $name);
}

subtest 'T17: tables that do not fit, or that the peer does not have registered, pin nothing' => sub {
	$east->safe_psql($db, q(INSERT INTO narrow SELECT i, 'v', 'x' FROM generate_series(1, 3000) i;
	  INSERT INTO alone SELECT generate_series(1, 2000); INSERT INTO t SELECT i, 'a', 'x' FROM generate_series(1, 1000) i;));
	wait_until($east, q(SELECT string_agg(relation::regclass || ' ' || state || ' ' || n, ', ' ORDER BY relation::regclass::text) FROM
	  (SELECT relation, state, count(*) AS n FROM seal_sync.held GROUP BY 1, 2) s), 'alone waiting_peer 2000, narrow parked 3000',
		'their keys move to seal_sync.held');
	$east->safe_psql($db, q(UPDATE narrow SET v = 'again' WHERE id <= 1000; DELETE FROM alone WHERE id > 1500;));
	wait_for_sync($east);
	is($east->safe_psql($db, 'SELECT count(*) FROM seal_sync.held'), '5000', 'once each, however often they change');
	dumps_equal('other tables go on', [ $east, $west ], 't');
	empties('the log is emptied');
	like($east->safe_psql($db, q(SELECT message FROM seal_sync.held WHERE state = 'parked' LIMIT 1)), qr/extra/, 'the missing column is named');
	$west->safe_psql($db, q(ALTER TABLE narrow ADD extra text; SELECT seal_sync.table_add('alone', cluster => 'a')));
	wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'all arrive once they fit');
	dumps_equal('as they are now', [ $east, $west ], 'narrow', 'alone');
};

subtest 'T17, T21: a transaction that is prepared holds its segment only' => sub {
	$east->safe_psql($db, q(BEGIN; INSERT INTO t VALUES (5001, 'a', 'prepared'); PREPARE TRANSACTION 'p1'));
	my $segment = $east->safe_psql($db, q(SELECT string_agg(relation::regclass::text, ',') FROM pg_locks
	  WHERE relation::regclass::text ~ 'change_log_[0-9]$' AND mode = 'RowExclusiveLock'));
	like($segment, qr/^seal_sync.change_log_[0-9]$/, "which is $segment");
	$east->safe_psql($db, "INSERT INTO t SELECT i, 'a', 'after' FROM generate_series(6000, 9000) i");
	wait_for_sync($east);
	is($west->safe_psql($db, 'SELECT count(*) FROM t WHERE id = 5001'), '0', 'what is only prepared is not shipped');
	$east->safe_psql($db, q(INSERT INTO t VALUES (9001, 'a', 'elsewhere')));
	wait_until($east, q(SELECT count(*) FROM pg_class WHERE relname ~ '^change_log_[0-9]$' AND pg_relation_size(oid) > 0), '1', 'the others are emptied');
	usleep(300_000); # several rotations
	cmp_ok($east->safe_psql($db, "SELECT pg_relation_size('$segment')"), '>', 0, 'it is not');
	$east->restart;
	usleep(300_000);
	cmp_ok($east->safe_psql($db, "SELECT pg_relation_size('$segment')"), '>', 0, 'nor after a restart');
	my $began = time;
	$east->safe_psql($db, q(COMMIT PREPARED 'p1'));
	$west->poll_query_until($db, 'SELECT count(*) = 1 FROM t WHERE id = 5001') or die;
	cmp_ok(time - $began, '<', 5, 'T26: it arrives after COMMIT PREPARED, which wakes nobody');
	empties('then it is emptied too');
	dumps_equal('nothing is lost', [ $east, $west ], 't');
};

subtest 'a pause in an open transaction stops nobody' => sub {
	my $session = $east->background_psql($db);
	$session->query_safe(q(BEGIN; UPDATE seal_sync.peer_state SET pause_reason = NULL));
	for my $id (20001 .. 20005)
	{
		$east->safe_psql($db, "INSERT INTO t VALUES ($id, 'a', 'x')");
		wait_until($west, "SELECT count(*) = 1 FROM t WHERE id = $id", 't', "row $id arrives") or last;
	}
	is($east->safe_psql($db, q(SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype IN ('relation', 'transactionid')
	  AND pid IN (SELECT pid FROM pg_stat_activity WHERE backend_type ~ 'seal_sync'))), '0', 'no worker waits for it');
	$session->query_safe('ROLLBACK');
	$session->quit;
	wait_for_sync($east);
	dumps_equal('and nothing is missing', [ $east, $west ], 't');
	empties('the log is emptied afterwards');
};

subtest 'T21: rotation under load' => sub {
	my $script = $east->basedir . '/load.sql';
	append_to_file($script, <<'SQL');
\set id random(1, 4000)
\set gid random(1, 1000000000)
INSERT INTO t VALUES (:id, 'a', :gid) ON CONFLICT (id, cluster_id) DO UPDATE SET v = excluded.v;
DELETE FROM t WHERE id = :id + 7;
BEGIN;
INSERT INTO t VALUES (:client_id + 100000, 'a', 'own') ON CONFLICT (id, cluster_id) DO UPDATE SET v = :gid;
SAVEPOINT a;
UPDATE t SET v = 'longer' WHERE id = :id + 1;
RELEASE a;
PREPARE TRANSACTION 'g:client_id.:gid';
SELECT pg_sleep(random() * 0.05);
COMMIT PREPARED 'g:client_id.:gid';
SQL
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '3', '-T', $ENV{SEAL_LONG} ? 120 : 8, '-f', $script, '-h', $east->host, '-p', $east->port, $db ],
		'>', \my $out, '2>', \my $err);
	my ($turns, %used) = (0);
	while ($load->pumpable)
	{
		$turns++;
		$used{$_} = 1 for split /\n/, $east->safe_psql($db, q(SELECT relname FROM pg_class WHERE relname ~ '^change_log_[0-9]$' AND pg_relation_size(oid) > 0));
		$load->pump_nb;
	}
	eval { $load->finish };
	unlike($err // '', qr/ERROR|aborted/, 'the load ran without an error');
	cmp_ok($turns, '>', 5, "the log was looked at $turns times");
	cmp_ok(scalar(keys %used), '>', 2, 'through ' . scalar(keys %used) . ' segments');
	wait_for_sync($east);
	dumps_equal('nothing is lost', [ $east, $west ], 't');
	empties('the log is empty in the end');
};

# ---- the log is full ---------------------------------------------------------------------------------------------

sub set
{
	$east->safe_psql($db, "ALTER SYSTEM SET $_") for @_;
	$east->reload;
	return;
}

# With the peer away the log grows beyond its limit.
sub fill
{
	$west->stop;
	my ($from) = @_;
	$east->safe_psql($db, "INSERT INTO t SELECT i, 'a', 'fill' FROM generate_series($from, $from + 250000) i");
	cmp_ok($east->safe_psql($db, $log_bytes), '>', 1024 * 1024, 'an absent peer pins the log');
	return;
}

subtest 'T17: the log is full: tables are marked and shipped again' => sub {
	set(q(seal_sync.max_log_size = '1MB'), q(seal_sync.log_full_action = mark_dirty));
	fill(1_000_000);
	my $before;
	$east->poll_query_until($db, q(SELECT count(*) > 0 FROM seal_sync.health WHERE severity <> 'info')) or die;
	for (1 .. 100)
	{
		$before = $east->safe_psql($db, $log_bytes);
		# Another value each time: what does not change is not captured anyway
		$east->safe_psql($db, "UPDATE t SET v = 'while full $_' WHERE id BETWEEN 1000000 AND 1010000");
		last if $east->safe_psql($db, $log_bytes) - $before < 10000 * 4;
		usleep(100_000);
	}
	cmp_ok($east->safe_psql($db, $log_bytes) - $before, '<', 10000 * 4, 'changes are not logged any more, one by one');
	$east->safe_psql($db, q(INSERT INTO t VALUES (9, 'a', 'new') ON CONFLICT DO NOTHING; DELETE FROM t WHERE id BETWEEN 1000000 AND 1000100;
	  UPDATE t SET id = id + 5000000 WHERE id BETWEEN 1000200 AND 1000300; DELETE FROM t WHERE id = 9;
	  BEGIN; UPDATE t SET v = 'ghost' WHERE id > 1100000; ROLLBACK;));
	my $rest = $east->safe_psql($db, q(SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t));
	$west->start;
	wait_until($west, q(SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t), $rest, 'in the end the peer has every row as it is');
	wait_for_sync($east);
	dumps_equal('both sides', [ $east, $west ], 't');
	wait_until($east, 'SELECT count(*) FROM seal_sync.table_state WHERE dirty_since IS NOT NULL', '0', 'no table is marked any more');
	empties('and the log is emptied');
};

subtest 'a dirty table whose keys alone fill the log is copied once' => sub {
	set(q(seal_sync.resend_window = '1h')); # so that nothing is emptied
	my $shipped = q(SELECT keys_shipped FROM seal_sync.stat_table WHERE relation = 't'::regclass);
	$east->safe_psql($db, q(SELECT seal_sync.stat_reset(); UPDATE seal_sync.table_state SET dirty_since = now(), dirty_reason = 'test' WHERE relation = 't'::regclass));
	wait_until($east, q(SELECT dirty_since IS NULL FROM seal_sync.table_state WHERE relation = 't'::regclass), 't', 'the mark is removed');
	cmp_ok($east->safe_psql($db, $log_bytes), '>', 1024 * 1024, 'and the log is larger than its limit');
	wait_for_sync($east);
	my $rows = $east->safe_psql($db, 'SELECT count(*) FROM t');
	my $log = $east->safe_psql($db, $log_bytes);
	for my $round (1 .. 30) # longer than some rotations take
	{
		$east->safe_psql($db, "UPDATE t SET v = 'round $round' WHERE id = 1000301");
		wait_for_sync($east);
	}
	is($east->safe_psql($db, q(SELECT count(*) FROM seal_sync.table_state WHERE dirty_since IS NOT NULL)), '0', 'a writer is not held to that');
	cmp_ok($east->safe_psql($db, $shipped), '<', $rows + 100, 'no second copy');
	dumps_equal('both sides', [ $east, $west ], 't');
	set('seal_sync.resend_window = 0');
	empties('emptied in the end');
};

subtest 'T17: the log is full: writes are refused' => sub {
	set('seal_sync.log_full_action = refuse_writes');
	$east->poll_query_until($db, q(SELECT count(*) FROM seal_sync.health WHERE severity = 'critical'), '0');
	$west->stop;
	my $error = '';
	for (my $from = 2_000_000; $from < 4_000_000 && $error eq ''; $from += 20_000)
	{
		my ($rc, $out, $err) = $east->psql($db, "INSERT INTO t SELECT i, 'a', 'fill' FROM generate_series($from, $from + 19999) i");
		$error = $err;
	}
	like($error, qr/the change log is full/, 'a change is refused') or diag $east->safe_psql($db, "$log_bytes UNION ALL SELECT setting::bigint FROM pg_settings WHERE name ~ 'max_log_size'");
	my ($rc, $out, $err) = $east->psql($db, 'DELETE FROM t WHERE id = 2000000');
	like($err, qr/the change log is full/, 'a delete too');
	$west->start;
	$east->poll_query_until($db, q(WITH x AS (UPDATE t SET v = 'accepted' WHERE id = 2000001 RETURNING 1) SELECT count(*) FROM x), '1') or die;
	wait_for_sync($east);
	dumps_equal('writes are accepted again once the peer has caught up', [ $east, $west ], 't');
};

done_testing();
