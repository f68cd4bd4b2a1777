# Memory stays bounded whatever a transaction does: very many rows, very many savepoints. An update storm over few rows
# ships few rows. Judge: /proc/PID/status of the backend, the route worker and the apply session; pg_dump.
# SEAL_LONG: 5 million rows and 10,000 savepoints instead of 500,000 and 2,000.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(conf => "shared_buffers = 32MB\nmax_wal_size = 4GB\nautovacuum = off\nseal_sync.max_snapshot_age = '1h'");
my $db = 'postgres';
my ($rows, $savepoints) = $ENV{SEAL_LONG} ? (5_000_000, 10_000) : (500_000, 2_000);
my $each = $rows / $savepoints;

# What a process has of its own, beside shared memory, at its highest; Linux keeps no peak of that, so it is sampled.
sub private_mb
{
	my ($pid) = @_;
	my $status = eval { slurp_file("/proc/$pid/status") } // return 0;
	return $status =~ /^RssAnon:\s+(\d+) kB/m ? $1 / 1024 : 0;
}

plan skip_all => 'no /proc' unless private_mb($$) > 0;

add_tables(<<'SQL', [ 't', 'few' ], $east, $west);
CREATE TABLE t (id int, cluster_id text, v int DEFAULT 0, PRIMARY KEY (id, cluster_id));
CREATE TABLE few (id int, cluster_id text, v int, PRIMARY KEY (id, cluster_id));
SQL
$east->safe_psql($db, q(INSERT INTO few SELECT i, 'a', 0 FROM generate_series(1, 100) i));
wait_for_sync($east);

my ($route) = workers($east, 'route worker');
my $apply = $west->safe_psql($db, q(SELECT worker_pid FROM seal_sync.status WHERE direction = 'in'));
my %pid = ('route worker' => $route, 'apply session' => $apply);
my %begin = map { $_ => private_mb($pid{$_}) } keys %pid;
my %peak = %begin;
sub sample { for (keys %pid) { my $now = private_mb($pid{$_}); $peak{$_} = $now if $now > ($peak{$_} // 0) } return }

# Some savepoints are rolled back, some nest; half of the statements touch rows of an outer level.
my $fill = <<"SQL";
DO \$\$
BEGIN
  FOR s IN 0 .. $savepoints - 1 LOOP
    BEGIN
      INSERT INTO t SELECT i, 'a' FROM generate_series(s * $each + 1, (s + 1) * $each) i;
      IF s % 100 = 7 THEN RAISE EXCEPTION 'undo' USING ERRCODE = 'P0002'; END IF;
      BEGIN
        UPDATE t SET v = s WHERE cluster_id = 'a' AND id BETWEEN s * $each - 10 AND s * $each + 10;
        IF s % 10 = 3 THEN RAISE EXCEPTION 'undo' USING ERRCODE = 'P0002'; END IF;
      EXCEPTION WHEN no_data_found THEN NULL;
      END;
    EXCEPTION WHEN no_data_found THEN NULL;
    END;
  END LOOP;
END \$\$
SQL
my $other = IPC::Run::start([ 'psql', '-XAtq', '-d', $east->connstr($db), '-c', 'SELECT pg_sleep(0)', '-c', "SELECT 'pid ' || pg_backend_pid()", '-c', $fill ],
	'>', \my $out, '2>', \my $err);
$other->pump until ($out // '') =~ /pid (\d+)/;
$pid{backend} = $1;
while ($other->pumpable) { $other->pump_nb; sample(); select undef, undef, undef, 0.05 }
$other->finish;
is($err // '', '', "$rows rows under $savepoints savepoints");
my $count = $east->safe_psql($db, 'SELECT count(*) FROM t');
for (1 .. 20 * 600)
{
	sample();
	last if $west->safe_psql($db, 'SELECT count(*) FROM t') eq $count;
	select undef, undef, undef, 0.05;
}
wait_for_sync($east);
is(scalar((workers($east, 'route worker'))[0]), $route, 'the route worker is still the same');
is($west->safe_psql($db, q(SELECT worker_pid FROM seal_sync.status WHERE direction = 'in')), $apply, 'the apply session too');
my %limit = (backend => 40, 'route worker' => 80, 'apply session' => 120);
for (sort keys %pid)
{
	my $more = sprintf '%.0f', $peak{$_} - ($begin{$_} // 0);
	cmp_ok($more, '<', $limit{$_}, "the $_ took $more MB");
}
is($west->safe_psql($db, 'SELECT count(*), sum(id::bigint), sum(v::bigint) FROM t'), $east->safe_psql($db, 'SELECT count(*), sum(id::bigint), sum(v::bigint) FROM t'),
	"$count rows are equal");

subtest 'an update storm over 100 rows ships few' => sub {
	my $shipped = sub { $east->safe_psql($db, q(SELECT coalesce(sum(keys_shipped), 0) FROM seal_sync.stat_table WHERE relation = 'few'::regclass)) };
	my $before = $shipped->();
	$east->safe_psql($db, q(DO $$ BEGIN FOR i IN 1 .. 500 LOOP UPDATE few SET v = v + 1; END LOOP; END $$));
	wait_for_sync($east);
	is($shipped->() - $before, 100, '50,000 updates of one transaction: each row once');
	$before = $shipped->();
	$east->safe_psql($db, q(ALTER SYSTEM SET seal_sync.wake_on_commit = off));
	$east->reload;
	my $script = $east->basedir . '/storm.sql';
	append_to_file($script, "\\set id random(1, 100)\nUPDATE few SET v = v + 1 WHERE id = :id;\n");
	$east->command_ok([ 'pgbench', '-n', '-c', '2', '-t', '5000', '-f', $script, '-h', $east->host, '-p', $east->port, $db ], '10,000 transactions');
	wait_for_sync($east);
	my $many = $shipped->() - $before;
	cmp_ok($many, '<', 8000, "many transactions: $many rows for 10,000 updates");
	dumps_equal('and they are equal', [ $east, $west ], 'few');
};
done_testing();
