# A password is changed under load, first on the peer or first in the user mapping, with and without a lost connection in between:
# no batch is lost, and the password appears in no log, view, error or event.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealManual;

my ($east, $west) = two_nodes(tcp => 1, conf => "seal_sync.retry_max = '300ms'\nlog_connections = on\n");
my $db = 'postgres';
sub sql { my ($node, $sql) = @_; return $node->safe_psql($db, $sql) }
add_tables(q(CREATE TABLE seal (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id)); CREATE SEQUENCE seal_id), ['seal'], $east, $west);
for my $node ($east, $west)
{
	unlink $node->data_dir . '/pg_hba.conf';
	$node->append_conf('pg_hba.conf', "local all all trust\nhost postgres sync_in 127.0.0.1/32 scram-sha-256\n");
	$node->reload;
}

# The ledger: each id that a client was told is committed, in a file outside of both databases
my %load;
for ([ $east, 'a' ], [ $west, 'b' ])
{
	my ($node, $cluster) = @$_;
	my $name = $node->name;
	my $file = PostgreSQL::Test::Utils::tempdir . "/ledger.$name";
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDOUT, '>', $file;
		open STDERR, '>', '/dev/null';
		open my $in, '|-', 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($db) or die;
		my $stopped = 0;
		$SIG{TERM} = sub { $stopped = 1 };
		$in->autoflush(1);
		until ($stopped)
		{
			print $in "INSERT INTO seal SELECT nextval('seal_id'), '$cluster', 'x' RETURNING 'committed ' || id;\n";
			select undef, undef, undef, 0.005;
		}
		close $in;
		POSIX::_exit(0);
	}
	$load{$name} = { node => $node, cluster => $cluster, file => $file, pid => $pid };
}
sub ledger { my ($name) = @_; return -e $load{$name}{file} ? [ slurp_file($load{$name}{file}) =~ /^committed (\d+)$/mg ] : [] }
sub wait_for_load
{
	my %before = map { $_ => scalar @{ ledger($_) } } keys %load;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if !grep { @{ ledger($_) } < $before{$_} + 5 } keys %load;
		select undef, undef, undef, 0.1;
	}
	die 'no load';
}
sub hang_up { sql($west, q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'seal_sync/west')); return }
sub peer_password { my ($password) = @_; sql($west, "ALTER ROLE sync_in PASSWORD '$password'"); return }
sub mapping_password { my ($password) = @_; sql($east, "ALTER USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (SET password '$password')"); return }
my $shipping = q(SELECT state = 'streaming' AND last_batch_at > now() - interval '1 s' FROM seal_sync.status WHERE direction = 'out');
my $refused = q(SELECT state = 'retrying' AND last_error_sqlstate = '28P01' FROM seal_sync.status WHERE direction = 'out');

wait_for_load();
wait_until($east, $shipping, 't', 'both sides work');
my $batches = sql($east, q(SELECT connect_failures FROM seal_sync.stat_route));
peer_password('topsecret1');
wait_for_load();
wait_until($east, $shipping, 't', 'the peer first: the connection that is there goes on');
mapping_password('topsecret1');
wait_for_load();
wait_until($east, q(SELECT pending_keys < 1000 AND state = 'streaming' FROM seal_sync.status WHERE direction = 'out'), 't', 'then the mapping');
is(sql($east, q(SELECT connect_failures FROM seal_sync.stat_route)), $batches, 'without a single refused login');

mapping_password('topsecret2');
wait_until($east, $refused, 't', 'the mapping first: refused until the peer knows it');
wait_for_load();
peer_password('topsecret2');
wait_until($east, $shipping, 't', 'then it goes on by itself');

peer_password('topsecret3');
hang_up();
wait_until($east, $refused, 't', 'the peer first, and the connection is lost');
wait_for_load();
mapping_password('topsecret3');
wait_until($east, $shipping, 't', 'goes on with the new password');

kill 'TERM', map { $_->{pid} } values %load;
waitpid $_->{pid}, 0 for values %load;
wait_for_sync($east);
wait_for_sync($west);
dumps_equal('both sides hold the same', [ $east, $west ], 'seal');
for my $name (sort keys %load)
{
	my @acknowledged = @{ ledger($name) };
	my %there = map { $_ => 1 } split /\n/, sql($name eq 'east' ? $west : $east, "SELECT id FROM seal WHERE cluster_id = '$load{$name}{cluster}'");
	my @lost = grep { !$there{$_} } @acknowledged;
	cmp_ok(scalar @acknowledged, '>', 20, "$name: clients were busy");
	is("@lost", '', "$name: each of " . @acknowledged . ' acknowledged rows is on the other side');
}

# ---- nothing tells it -------------------------------------------------------------------------------------
for my $node ($east, $west)
{
	my $name = $node->name;
	like(slurp_file($node->logfile), $name eq 'east' ? qr/password authentication failed/ : qr/connection auth/, "$name: the log tells what happened");
	unlike(slurp_file($node->logfile), qr/topsecret/, "$name: not with which password");
	for my $view (qw(status health stat_route stat_table clusters events metrics pending quarantine))
	{
		unlike(sql($node, "SELECT v FROM seal_sync.$view v"), qr/topsecret/, "$name: nor does $view");
	}
}
my ($rc, $out, $err) = $east->psql($db, q(SET log_min_error_statement = panic; ALTER USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (SET password 'topsecret4', SET nothing 'x')));
like($err, qr/option "nothing" not found|invalid option/, 'a mistyped command');
unlike($err, qr/topsecret/, 'is told without the password');
mapping_password('topsecret5');
wait_until($east, $refused, 't', 'a wrong password');
unlike(sql($east, q(SELECT c FROM seal_sync.peer_check('west') c)) . slurp_file($east->logfile), qr/topsecret/, 'is told nowhere');

# log_statement = ddl writes the command as it was typed, whoever types it: in the session that types it, it can be turned off
sql($east, q(ALTER SYSTEM SET log_statement = 'ddl'; SELECT pg_reload_conf()));
wait_until($east, 'SHOW log_statement', 'ddl');
sql($west, q(ALTER SYSTEM SET log_statement = 'ddl'; SELECT pg_reload_conf()));
wait_until($west, 'SHOW log_statement', 'ddl');
SealManual->new('security', { east => $east, west => $west }, replace => { 'a new one' => 'topsecret3' })->play(
	only => ['Changing the password'],
	after => { 'Changing the password' => sub { is($_[-1], "auth|t|logged in as \"sync_in\"\nnode|t|west", 'the manual: the new password works') } });
unlike(slurp_file($_->logfile), qr/topsecret/, 'what the manual says keeps the password out of the log under log_statement = ddl') for $east, $west;
wait_until($east, $shipping =~ s/AND last_batch_at.*? FROM/FROM/r, 't', 'and all is well at the end');
done_testing();
