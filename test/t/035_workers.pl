# The life of the workers: they come with the extension, follow the configuration, and come back after a kill.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $table = 'CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))';

# ---- CREATE EXTENSION starts a database worker, in the database that has it and in no other

my $east = one_node('east', conf => "log_min_messages = info\n");
wait_for_workers($east, 1, 'launcher');
$east->safe_psql('postgres', 'CREATE DATABASE other');
wait_for_workers($east, 0, 'database worker', undef, 'no worker without the extension');

$east->psql('postgres', 'BEGIN; CREATE EXTENSION seal_sync; ROLLBACK');
$east->safe_psql('postgres', 'CREATE EXTENSION seal_sync');
wait_for_workers($east, 1, 'database worker', 'postgres');
wait_for_workers($east, 0, 'database worker', 'other');
wait_for_workers($east, 0, 'route worker');

# ---- a peer that is not there: the route retries, with one line in the log

$east->safe_psql('postgres', q(SELECT seal_sync.node_create('east')));
add_peer($east, 'west', host => '127.0.0.1', port => 1);
wait_for_workers($east, 1, 'route worker', 'postgres');
wait_for_state($east, 'west', 'retrying');
wait_until($east, q(SELECT retries > 4 FROM seal_sync.status WHERE peer = 'west' AND direction = 'out'), 't',
	'it goes on trying');
my $log = slurp_file($east->logfile);
is(() = $log =~ /route "west": retrying/g, 1, 'one line in the log for a series of failures');
unlike($log, qr/pw/, 'no password in the log');
like($east->safe_psql('postgres', q(SELECT last_error FROM seal_sync.status WHERE peer = 'west' AND direction = 'out')),
	qr/could not connect to peer "west".*step "tcp"/, 'status says where it failed');

# ---- the peer appears under another address: followed without a restart

my $west = one_node('west');
$west->safe_psql('postgres', <<'SQL');
CREATE EXTENSION seal_sync;
SELECT seal_sync.node_create('west');
CREATE ROLE sync_in LOGIN PASSWORD 'pw' IN ROLE seal_sync_peer;
SQL
$east->safe_psql('postgres', "CREATE ROLE sync_in LOGIN PASSWORD 'pw' IN ROLE seal_sync_peer");
$east->safe_psql('postgres', sprintf(q(ALTER SERVER west OPTIONS (SET host '%s', SET port '%s')), $west->host, $west->port));
wait_for_state($east, 'west', 'waiting_peer', 'a peer without our node waits for its configuration');
add_peer($west, $east);
for my $node ($east, $west)
{
	$node->safe_psql('postgres', <<'SQL');
SELECT seal_sync.cluster_create('a', primary_node => 'east');
SELECT seal_sync.cluster_create('b', primary_node => 'west');
SQL
}
add_tables($table, ['t'], $east, $west);
wait_for_state($east, 'west', 'streaming');
wait_for_state($west, 'east', 'streaming');

my $next = 0;
sub both_ways
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$next++;
	$east->safe_psql('postgres', "INSERT INTO t VALUES ($next, 'a', 'from east')");
	$west->safe_psql('postgres', "INSERT INTO t VALUES ($next, 'b', 'from west')");
	wait_for_sync($east);
	wait_for_sync($west);
	dumps_equal($name, [ $east, $west ], 't');
	return;
}
both_ways('rows travel both ways');

# ---- ALTER SYSTEM and reload: a setting, the switch, the list of databases

$east->safe_psql('postgres', q(ALTER SYSTEM SET seal_sync.enabled = off));
$east->reload;
wait_for_state($east, 'west', 'stopped');
$east->safe_psql('postgres', q(INSERT INTO t VALUES (1000, 'a', 'while off')));
is($west->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id = 1000'), 0, 'nothing leaves while the switch is off');
$east->safe_psql('postgres', q(ALTER SYSTEM RESET seal_sync.enabled));
$east->reload;
wait_for_state($east, 'west', 'streaming');
both_ways('and it goes on where it was');

$east->safe_psql('postgres', q(ALTER SYSTEM SET seal_sync.databases = 'other, "Third"'));
$east->reload;
wait_for_workers($east, 0, 'route worker');
wait_for_workers($east, 0, 'database worker', 'postgres', 'a database that is not listed has no workers');
$east->safe_psql('postgres', q(ALTER SYSTEM RESET seal_sync.databases));
$east->reload;
wait_for_workers($east, 1, 'route worker');
both_ways('listed again');

# ---- pause and resume

$east->safe_psql('postgres', q(SELECT seal_sync.pause('west', 'maintenance')));
wait_for_state($east, 'west', 'paused');
$east->safe_psql('postgres', q(INSERT INTO t VALUES (1001, 'a', 'while paused')));
wait_until($east, q(SELECT oldest_pending_at IS NOT NULL FROM seal_sync.status WHERE peer = 'west' AND direction = 'out'),
	't', 'a paused route knows since when something waits');
$east->safe_psql('postgres', q(SELECT seal_sync.resume('west')));
both_ways('resumed');

# ---- each worker killed by pg_terminate_backend comes back, and nothing is lost

for my $type ('route worker', 'database worker', 'launcher')
{
	my ($pid) = workers($east, $type);
	my @routes = workers($east, 'route worker');
	$east->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	wait_until($east, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'seal_sync $type' AND pid <> $pid", 1,
		"$type is started again");
	is_deeply([ workers($east, 'route worker') ], \@routes, "without the $type the route worker goes on")
	  if $type ne 'route worker';
	both_ways("rows travel after the end of the $type");
}

# ---- a route worker in the middle of a batch

$east->safe_psql('postgres', q(INSERT INTO t SELECT i, 'a', repeat('x', 500) FROM generate_series(10000, 40000) i));
$east->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = $$seal_sync route worker$$');
both_ways('a route worker killed while it ships');

# ---- both servers restarted

$east->restart;
$west->stop('immediate');
$west->start;
wait_for_state($east, 'west', 'streaming');
both_ways('after a restart and a crash');

# ---- peer_drop ends the route worker

$east->safe_psql('postgres', q(SELECT seal_sync.peer_drop('west')));
wait_for_workers($east, 0, 'route worker', undef, 'no route worker without a peer');
is($east->safe_psql('postgres', 'SELECT count(*) FROM seal_sync.stat_route'), 0, 'nor its counters');

# ---- without shared_preload_libraries: capture works, workers and shared memory are not there

$west->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$west->restart;
is($west->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'seal_sync%')), 0,
	'not preloaded: no workers');
$west->safe_psql('postgres', q(LOAD 'seal_sync'; INSERT INTO t VALUES (2000, 'b', 'not preloaded')));
is($west->safe_psql('postgres', q(SELECT state FROM seal_sync.status WHERE direction = 'out')), 'stopped',
	'and status says that nothing runs');

# ---- fast shutdown leaves no trace of trouble

$east->stop('fast');
$west->stop('fast');
for my $node ($east, $west)
{
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|was terminated by signal (?!9|3)/, $node->name . ': no process died badly');
}

done_testing();
