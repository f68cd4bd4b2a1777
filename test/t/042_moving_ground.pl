# T8: what is not MVCC-safe (TRUNCATE, rewriting ALTER) and what rebuilds a table (VACUUM FULL, CLUSTER) under load:
# a pending key never becomes a delete because its row could not be seen. T5: rows move between two clusters of one
# node, both ways, under load: one of each is on the peer, whatever batch it came in.
# Judge: a reader on the standby that counts in every snapshot, and pg_dump at the end.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my ($east, $west) = two_nodes(conf => "seal_sync.scan_period = '20ms'");
my $db = 'postgres';
my $rows = 300;

$_->safe_psql($db, q(SELECT seal_sync.cluster_create('a2', primary_node => 'east');
CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0, v text);
CREATE TABLE moving (id int PRIMARY KEY, cluster_id text, n int DEFAULT 0);
SELECT seal_sync.table_add('t', cluster => 'a'), seal_sync.table_add('moving', cluster_column => 'cluster_id');)) for $east, $west;
$east->safe_psql($db, "INSERT INTO t SELECT i, 0, 'v' FROM generate_series(1, $rows) i;
  INSERT INTO moving SELECT i, CASE i % 2 WHEN 0 THEN 'a' ELSE 'a2' END FROM generate_series(1, $rows) i");
wait_for_sync($east);

# Each transaction leaves as many rows as it found: some are changed, some deleted and inserted, some change their
# key or their cluster.
my $script = $east->basedir . '/load.sql';
append_to_file($script, <<"SQL");
\\set id random(1, $rows)
\\set other random(1, $rows)
BEGIN;
UPDATE t SET n = n + 1 WHERE id = :id;
WITH gone AS (DELETE FROM t WHERE id = :other RETURNING *) INSERT INTO t SELECT id + 100000, n, v FROM gone;
UPDATE t SET id = :other WHERE id = :other + 100000;
COMMIT;
UPDATE moving SET cluster_id = CASE cluster_id WHEN 'a' THEN 'a2' ELSE 'a' END, n = n + 1 WHERE id = :id;
BEGIN;
WITH gone AS (DELETE FROM moving WHERE id = :other RETURNING *)
  INSERT INTO moving SELECT id + 100000, CASE cluster_id WHEN 'a' THEN 'a2' ELSE 'a' END, n FROM gone;
UPDATE moving SET id = :other WHERE id = :other + 100000;
COMMIT;
SQL
# VACUUM FULL and CLUSTER cannot stand in a script with several statements of one transaction: psql, one after another
my @ground = (
	'VACUUM FULL t', 'CLUSTER t USING t_pkey', 'VACUUM FULL moving',
	'BEGIN; CREATE TEMP TABLE keep ON COMMIT DROP AS SELECT * FROM t; TRUNCATE t; INSERT INTO t SELECT * FROM keep; COMMIT',
	'BEGIN; LOCK TABLE t; CREATE TEMP TABLE keep ON COMMIT DROP AS SELECT * FROM t; TRUNCATE t; INSERT INTO t SELECT id, n + 1, v FROM keep; COMMIT',
	'ALTER TABLE t ALTER n TYPE bigint', 'ALTER TABLE t ALTER n TYPE int', 'REINDEX TABLE t');
my $seconds = $ENV{SEAL_LONG} ? 120 : 10;
my @load = map {
	my ($out, $err) = ('', '');
	{ h => IPC::Run::start($_, '>', \$out, '2>', \$err), err => \$err };
} [ 'pgbench', '-n', '-c', '2', '-T', $seconds, '--max-tries=100', '-f', $script, '-h', $east->host, '-p', $east->port, $db ];

my ($reads, %wrong) = (0);
my $reader = $west->background_psql($db);
my $mover = $east->background_psql($db, on_error_stop => 0);
my $step = 0;
my $moved = 0;
while ($load[0]{h}->pumpable)
{
	for (1 .. 4)
	{
		my $counts = $reader->query(q(SELECT (SELECT count(*) FROM t) || ' ' || (SELECT count(*) FROM moving)));
		$reads++;
		$wrong{$counts}++ if $counts ne "$rows $rows";
	}
	# A deadlock with the load ends one of them; both may
	my $error = $mover->query("SET lock_timeout = '2s'; SET deadlock_timeout = '100ms'; " . $ground[ $step++ % @ground ]);
	$moved++;
	$load[0]{h}->pump_nb;
}
eval { $load[0]{h}->finish };
$mover->quit;
$east->safe_psql($db, 'ALTER TABLE t ALTER n TYPE int'); # as it is on west, where a bigint would not fit
unlike(${ $load[0]{err} }, qr/aborted|ERROR/, 'the load ran without an error');
cmp_ok($moved, '>', 3 * @ground, "the ground moved $moved times");
cmp_ok($reads, '>', 50, "the standby was read $reads times");
is_deeply(\%wrong, {}, 'and always had all rows: no key became a delete');
$reader->quit;
wait_for_sync($east);
dumps_equal('both are equal at the end', [ $east, $west ], 't', 'moving');
is($east->safe_psql($db, 'SELECT count(*) FROM seal_sync.held'), '0', 'nothing is held back');

subtest 'T8: the type of a column changes, here first, then there' => sub {
	$east->safe_psql($db, q(ALTER TABLE t ALTER n TYPE bigint; UPDATE t SET n = 5000000000 + id WHERE id % 3 = 0));
	my $reader = $west->background_psql($db);
	is($reader->query('SELECT count(*) FROM t'), $rows, 'the rows are still there');
	$west->safe_psql($db, 'ALTER TABLE t ALTER n TYPE bigint');
	$west->poll_query_until($db, "SELECT count(*) = $rows / 3 FROM t WHERE n > 5000000000") or die 'the new values do not come';
	is($reader->query('SELECT count(*) FROM t'), $rows, 'and still are');
	$reader->quit;
	wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'nothing waits any more');
	dumps_equal('and they are equal', [ $east, $west ], 't');
};

subtest 'T8: a table emptied and filled between two scans' => sub {
	$east->safe_psql($db, q(SELECT seal_sync.pause('west')));
	$east->safe_psql($db, q(UPDATE t SET v = 'pending'; TRUNCATE t;));
	$east->safe_psql($db, "INSERT INTO t SELECT i, i, 'new' FROM generate_series(1, 10) i");
	$east->safe_psql($db, q(UPDATE moving SET n = -1 WHERE id < 50; VACUUM FULL moving; CLUSTER moving USING moving_pkey;
	  SELECT seal_sync.resume('west')));
	wait_for_sync($east);
	is($west->safe_psql($db, 'SELECT count(*), min(v) FROM t'), '10|new', 'what was truncated is gone, what came after is there');
	dumps_equal('and nothing differs', [ $east, $west ], 't', 'moving');
};

# The worker is stopped while it reads: between its snapshot and the rest of the rows the table is emptied and filled.
subtest 'T8: a table emptied and filled in the middle of a batch' => sub {
	my $many = 40_000;
	$_->safe_psql($db, q(CREATE TABLE wide (id int PRIMARY KEY, v text); SELECT seal_sync.table_add('wide', cluster => 'a'))) for $east, $west;
	$east->safe_psql($db, "INSERT INTO wide SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, $many) i");
	wait_for_sync($east);
	my $look = $west->basedir . '/look.sql';
	append_to_file($look, "SELECT 1 / (count(*) = $many)::int FROM wide;\n");
	my ($out, $err) = ('', '');
	my $reader = IPC::Run::start([ 'pgbench', '-n', '-c', '1', '-T', '600', '-f', $look, '-h', $west->host, '-p', $west->port, $db ], '>', \$out, '2>', \$err);
	my ($worker) = workers($east, 'route worker');
	my $hits = 0;
	for my $round (1 .. ($ENV{SEAL_LONG} ? 60 : 10))
	{
		$east->safe_psql($db, "UPDATE wide SET v = repeat(md5(id || '$round'), 10)");
		# Stopped between two chunks it holds no lock on the table
		for (1 .. 40)
		{
			usleep(2000 + rand 20_000);
			my $rc = while_stopped($worker, 1, sub {
				my ($rc) = $east->psql($db, "SET lock_timeout = '20ms'; BEGIN; LOCK TABLE wide; CREATE TEMP TABLE keep ON COMMIT DROP AS SELECT * FROM wide;
				  TRUNCATE wide; INSERT INTO wide SELECT * FROM keep; COMMIT", on_error_stop => 1);
				return $rc;
			});
			next if $rc;
			$hits++;
			last;
		}
		wait_for_sync($east);
	}
	$reader->signal('INT');
	eval { $reader->finish };
	cmp_ok($hits, '>', 5, "it was emptied while the worker stood still, $hits times");
	unlike($err, qr/division by zero/, 'the standby never saw it without a row');
	dumps_equal('and holds all', [ $east, $west ], 'wide');
};

done_testing();
