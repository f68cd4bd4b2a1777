# 50 kills with -9, spread over route workers, apply backends and postmasters of both servers, under load on
# both sides. Afterwards both dumps are equal and every acknowledged commit of the clients' ledgers is present.
#
# The clients keep their ledgers outside both databases: one line per attempt, "ok" only when the server had
# answered COMMIT. An attempt whose answer was lost may be there or not; nothing else may.
# SEAL_SEED repeats a run's order of kills (the moments differ), SEAL_KILLS changes their number.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use IPC::Run;
use Time::HiRes qw(usleep time);
use POSIX ();

my $seed = $ENV{SEAL_SEED} || (time * 1000) % 1000000;
my $kills = $ENV{SEAL_KILLS} || 50;
srand($seed);
note "SEAL_SEED=$seed";
my $db = 'postgres';

# restart_after_crash: a killed backend makes the server restart by itself, as in production
my ($east, $west) = two_nodes(conf => "restart_after_crash = on\nseal_sync.scan_period = '50ms'");
my %node = (a => $east, b => $west);
add_tables(<<'SQL', [ 'ledger', 'counter' ], $east, $west);
CREATE TABLE ledger (id bigint, cluster_id text, version int, pad text, PRIMARY KEY (id, cluster_id));
CREATE TABLE counter (client int, cluster_id text, n int, PRIMARY KEY (client, cluster_id));
SQL

my $stop_file = $east->basedir . '/stop';

# One client: inserts, updates and deletes rows of its own, a few in each transaction; writes its ledger.
sub client
{
	my ($cluster, $number, $file) = @_;
	my $node = $node{$cluster};
	open my $ledger, '>', $file or die;
	$ledger->autoflush(1);
	my ($n, %alive) = (0);
	srand($seed + $number);
	while (!-e $stop_file)
	{
		$n++;
		my %change; # id => version, 0: deleted
		my $sql = 'BEGIN;';
		for (1 .. 1 + int rand 4)
		{
			my @have = keys %alive;
			my $id = @have && rand() < 0.5 ? $have[ rand @have ] : $number * 1_000_000 + $n * 10 + $_;
			next if exists $change{$id};
			if (exists $alive{$id} && rand() < 0.3)
			{
				$change{$id} = 0;
				$sql .= "DELETE FROM ledger WHERE id = $id AND cluster_id = '$cluster';";
			}
			else
			{
				$change{$id} = $n;
				$sql .= "INSERT INTO ledger VALUES ($id, '$cluster', $n, repeat('x', 200)) ON CONFLICT (id, cluster_id) DO UPDATE SET version = $n;";
			}
		}
		$sql .= "INSERT INTO counter VALUES ($number, '$cluster', $n) ON CONFLICT (client, cluster_id) DO UPDATE SET n = $n; COMMIT;";
		my $changes = join ',', map { "$_=$change{$_}" } sort keys %change;
		print $ledger "$n try $changes\n";
		my $out = '';
		my $ok = eval {
			IPC::Run::run([ 'psql', '-XAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($db), '-f', '-' ],
				'<', \$sql, '>', \$out, '2>', \my $err, IPC::Run::timeout(60));
		} && $out =~ /^COMMIT$/m;
		print $ledger "$n ", ($ok ? 'ok' : 'unknown'), "\n";
		# After a lost answer the client does not know; it goes on with fresh rows only
		for (keys %change)
		{
			if (!$ok) { delete $alive{$_} }
			elsif ($change{$_}) { $alive{$_} = $change{$_} }
			else { delete $alive{$_} }
		}
		usleep(50_000) unless $ok;
	}
	close $ledger;
	POSIX::_exit(0);
}

my (@client, @ledger);
for my $cluster ('a', 'b')
{
	for (1, 2)
	{
		my $number = @client + 1;
		push @ledger, [ $cluster, $number, $east->basedir . "/ledger.$number" ];
		my $pid = fork // die;
		client($cluster, $number, $ledger[-1][2]) if $pid == 0;
		push @client, $pid;
	}
}

sub query
{
	my ($node, $sql) = @_;
	my ($rc, $out) = $node->psql($db, $sql, timeout => 30);
	return defined $rc && $rc == 0 ? $out : '';
}

sub start_again
{
	my ($node) = @_;
	for (1 .. 600) { return 1 if $node->start(fail_ok => 1); usleep(100_000) }
	die $node->name . ' does not start again';
}

my %done;
for my $i (1 .. $kills)
{
	my $node = rand() < 0.5 ? $east : $west;
	my $what = ('route worker', 'apply backend', 'apply backend', 'route worker', 'postmaster')[ $i % 5 ];
	usleep(100_000 + rand 400_000);
	if ($what eq 'postmaster')
	{
		$node->kill9;
		start_again($node);
	}
	else
	{
		my $where = $what eq 'route worker' ? "backend_type = 'seal_sync route worker'" : "application_name LIKE 'seal_sync/%' AND backend_type = 'client backend'";
		my $pid = '';
		for (1 .. 300)
		{
			$pid = query($node, "SELECT pid FROM pg_stat_activity WHERE $where LIMIT 1");
			last if $pid =~ /^\d+$/;
			usleep(50_000);
		}
		if ($pid !~ /^\d+$/) { $done{"no $what"}++; next }
		kill 'KILL', $pid;
	}
	$done{$what}++;
}
note join ', ', map { "$_: $done{$_}" } sort keys %done;
is($done{'route worker'} + $done{'apply backend'} + $done{postmaster}, $kills, "$kills processes were killed");

append_to_file($stop_file, 'now');
waitpid $_, 0 for @client;
for my $node ($east, $west)
{
	$node->poll_query_until($db, 'SELECT true') or die;
}
wait_for_sync($_) for $east, $west, $east, $west;
dumps_equal('dumps are equal', [ $east, $west ], 'ledger', 'counter');

my ($acknowledged, $lost, $ghosts, $unknown) = (0, 0, 0, 0);
for my $entry (@ledger)
{
	my ($cluster, $number, $file) = @$entry;
	my %possible; # id => { version => 1 }: what may stand there at the end
	my %try;
	for (split /\n/, slurp_file($file))
	{
		my ($n, $word, $changes) = split / /;
		if ($word eq 'try') { $try{$n} = { map { split /=/ } split /,/, $changes // '' }; next }
		for my $id (keys %{ $try{$n} })
		{
			my $version = $try{$n}{$id};
			if ($word eq 'ok') { $possible{$id} = { $version => 1 } }
			else { $possible{$id} //= { 0 => 1 }; $possible{$id}{$version} = 1 }
		}
		if ($word eq 'ok') { $acknowledged++ } else { $unknown++ }
		delete $try{$n};
	}
	# an attempt that was cut off before its verdict is unknown, too
	for my $n (keys %try) { for my $id (keys %{ $try{$n} }) { $possible{$id} //= { 0 => 1 }; $possible{$id}{ $try{$n}{$id} } = 1 } }
	for my $side ($east, $west)
	{
		my %there = map { split /\|/ } split /\n/, $side->safe_psql($db,
			"SELECT id, version FROM ledger WHERE cluster_id = '$cluster' AND id / 1000000 = $number");
		for my $id (keys %possible)
		{
			next if $possible{$id}{ $there{$id} // 0 };
			$lost++;
			diag $side->name . ": row $id has version " . ($there{$id} // 'none') . ', possible: ' . join ' ', keys %{ $possible{$id} };
		}
		for my $id (keys %there) { $ghosts++ unless $possible{$id} }
	}
}
cmp_ok($acknowledged, '>', 100, "$acknowledged commits were acknowledged, $unknown answers lost");
is($lost, 0, 'every acknowledged commit is present on both sides');
is($ghosts, 0, 'and nothing else');
is($_->safe_psql($db, 'SELECT count(*) FROM seal_sync.quarantine'), '0', 'nothing is in quarantine on ' . $_->name) for $east, $west;

done_testing();
