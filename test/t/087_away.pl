# A peer is away for six hours of load, compressed: as many keys as that makes, written as fast as it goes. When it is back,
# status says how long it takes yet, and is right. Three times: with a log that has room for all of it; over a slow link, so that it is
# staged in several passes; and with a log that has no room, so that tables are marked and their rows shipped again.
#
# Every day the load is small and the peer slow, so that there is something to be estimated; SEAL_LONG has the size of six
# hours at 60 keys a second, and a peer as fast as it is. The estimates of each run are printed. Judge: the clock, and pg_dump.
use strict;
use warnings;
use lib 'test/perl';
use SealProxy;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $db = 'postgres';
my $long = $ENV{SEAL_LONG};
my $rows = $long ? 1_300_000 : 5_000;
my ($east, $west) = two_nodes(tcp => 1, conf => "seal_sync.resend_window = 0\nseal_sync.debug_rotation_period = '50ms'\nseal_sync.max_snapshot_age = '30min'\nautovacuum = off");
add_tables('CREATE TABLE t (id int, cluster_id text, v text, n int, PRIMARY KEY (id, cluster_id))', ['t'], $east, $west);
# as much work for the peer as with wide indexes
$west->safe_psql($db, <<'SQL') unless $long;
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.0004); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION slow();
ALTER TABLE t ENABLE ALWAYS TRIGGER slow;
SQL
# usual days: small batches, whose speed says nothing of a large one's
$east->safe_psql($db, "INSERT INTO t SELECT $_ * 10 + i, 'a', 'x', 0 FROM generate_series(1, 10) i") for 1 .. 20;
wait_for_sync($east);

my $status = q(SELECT pending_keys, coalesce(round(extract(epoch FROM eta), 2)::text, '?'), round(keys_per_second), state, (SELECT count(*) FROM seal_sync.table_state WHERE dirty_since IS NOT NULL)
  FROM seal_sync.status WHERE direction = 'out');

# load(PART): keys of six hours, each changed more than once
sub load
{
	my ($part) = @_;
	my $salt = rand;
	my $text = $long ? qq(repeat('y', 180) || '$salt') : qq((SELECT string_agg(md5(i::text || g || '$salt'), '') FROM generate_series(1, 40) g));
	my $half = int($rows * $part / 2);
	$east->safe_psql($db, "INSERT INTO t SELECT i, 'a', $text, 0 FROM generate_series(1000, 1000 + $half - 1) i ON CONFLICT (id, cluster_id) DO UPDATE SET v = excluded.v, n = t.n + 1;
	  INSERT INTO t SELECT i, 'a', $text, 0 FROM generate_series(1000 + $half, 1000 + 2 * $half - 1) i ON CONFLICT (id, cluster_id) DO UPDATE SET v = excluded.v, n = t.n + 1;
	  UPDATE t SET n = n + 1 WHERE id BETWEEN 1000 AND 1000 + $half - 1;");
	return;
}

# The peer is back. Returns what was estimated and what was right, [seconds since, estimate, real, pending, state, marked tables]
sub watch
{
	my ($name, $back, $look) = @_;
	my $session = $east->background_psql($db);
	$back->();
	my (@seen, $end);
	my $begin = time;
	my $deadline = $begin + $PostgreSQL::Test::Utils::timeout_default * ($long ? 10 : 1);
	while (time < $deadline)
	{
		my ($pending, $eta, $rate, $state, $marked) = split /\|/, $session->query_safe($status);
		my $now = time;
		push @seen, [ $now, $eta, undef, $pending, $state, $marked, $rate ];
		$look->() if $look;
		if ($pending == 0 && $marked == 0 && $state =~ /streaming|catchup/) { $end = $now; last }
		usleep($long ? 500_000 : 50_000);
	}
	$session->quit;
	ok(defined $end, "$name: it catches up") or return ();
	$_->[2] = $end - $_->[0] for @seen;
	$_->[0] -= $begin for @seen;
	my $step = @seen > 24 ? int(@seen / 24) : 1;
	diag "$name: seconds since the return, estimate, real, error, keys pending, keys/s, state, marked tables";
	for my $i (grep { $_ % $step == 0 } 0 .. $#seen)
	{
		my ($at, $eta, $real, $pending, $state, $marked, $rate) = @{ $seen[$i] };
		my $error = $eta eq '?' || $real < 0.05 ? '' : sprintf '%+.0f %%', ($eta / $real - 1) * 100;
		diag sprintf '%7.2f %8s %8.2f %8s %9d %9s %s %d', $at, $eta, $real, $error, $pending, $rate, $state, $marked;
	}
	return @seen;
}

# Wide enough for a busy machine; what is printed tells how well it does
sub right_estimates
{
	my ($name, @seen) = @_;
	my $least = $long ? 5 : 0.5;
	my @judged = grep { $_->[1] ne '?' && $_->[2] > $least } @seen;
	cmp_ok(scalar @judged, '>', 2, "$name: there are estimates while it goes on");
	my @ratio = sort { $a <=> $b } map { $_->[1] / $_->[2] } @judged;
	my $median = @ratio ? $ratio[ @ratio / 2 ] : 0;
	my $within = grep { abs($_ - 1) <= 0.3 } @ratio;
	diag sprintf '%s: %d of %d estimates within 30 %%, the middle one %+.0f %%', $name, $within, scalar @ratio, ($median - 1) * 100;
	cmp_ok($median, '>', 0.5, "$name: not far too short");
	cmp_ok($median, '<', 2, "$name: not far too long");
	# and it moves: an hour into a batch it must not say what it said at its beginning
	my ($first, $last) = @judged[ 0, -1 ];
	cmp_ok($last->[1], '<', $first->[1], "$name: it gets less") if @judged > 1 && $last->[2] < $first->[2] / 2;
	return;
}

subtest 'the log has room for all of it' => sub {
	$west->stop;
	wait_for_state($east, 'west', 'retrying');
	load(1);
	is($east->safe_psql($db, q(SELECT eta IS NULL FROM seal_sync.status WHERE direction = 'out')), 't', 'nothing is said while nothing goes');
	my @seen = watch('room', sub { $west->start });
	right_estimates('room', @seen);
	cmp_ok((grep { $_->[3] > 0 } @seen)[-1][6] // 0, '>', 0, 'and a speed');
	dumps_equal('all is there', [ $east, $west ], 't');
};

subtest 'a slow link' => sub {
	my $link = SealProxy->new(to => $west->port, rate => $long ? 2_500_000 : 1_500_000);
	$east->append_conf('postgresql.conf', "seal_sync.stage_after = '300ms'\nseal_sync.max_snapshot_age = '" . ($long ? '30s' : '8s') . "'");
	$east->reload;
	$east->safe_psql($db, sprintf q(SELECT seal_sync.pause('west'); ALTER SERVER west OPTIONS (SET port '%d')), $link->port);
	load(1);
	my $chunks = 0;
	my @seen = watch('staged', sub { $east->safe_psql($db, q(SELECT seal_sync.resume('west'))) },
		sub { my $now = $west->safe_psql($db, q(SELECT coalesce(sum(chunks), 0) FROM seal_sync.stages)); $chunks = $now if $now > $chunks });
	cmp_ok($chunks, '>', 0, 'it was staged');
	right_estimates('staged', @seen);
	$link->stop;
	$east->safe_psql($db, sprintf q(ALTER SERVER west OPTIONS (SET port '%d')), $west->port);
	$east->append_conf('postgresql.conf', "seal_sync.stage_after = '2s'\nseal_sync.max_snapshot_age = '30min'");
	$east->reload;
	wait_for_state($east, 'west', 'streaming');
	wait_for_sync($east);
	dumps_equal('all is there', [ $east, $west ], 't');
};

subtest 'the log is full' => sub {
	$west->stop;
	$east->append_conf('postgresql.conf', "seal_sync.max_log_size = '1MB'");
	$east->reload;
	wait_for_state($east, 'west', 'retrying');
	for (1 .. 40)
	{
		# one transaction each: a key is logged once in a transaction
		$east->safe_psql($db, "UPDATE t SET n = n + 1;\n" x 5);
		last if $east->safe_psql($db, q(SELECT log_bytes >= log_limit_bytes FROM seal_sync.status WHERE direction = 'out')) eq 't';
	}
	load(1); # of which nothing is in the log
	my @seen = watch('full', sub { $west->start });
	my @marked = grep { $_->[3] == 0 && $_->[5] > 0 } @seen;
	cmp_ok(scalar @marked, '>', 0, 'the table was marked');
	is(join(' ', grep { $_ ne '?' } map { $_->[1] } @marked), '', 'nothing is said while only that is left');
	cmp_ok(scalar(grep { $_->[1] ne '?' && $_->[3] > 0 } @seen), '>', 0, 'but while keys are pending');
	dumps_equal('all is there', [ $east, $west ], 't');
};
done_testing();
