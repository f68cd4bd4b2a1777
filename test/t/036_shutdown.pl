# A fast shutdown takes less than five seconds in whatever state a route is.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'time';

my $table = 'CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))';

sub stops_in_time
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	$node->stop('fast');
	my $seconds = time - $start;
	return cmp_ok($seconds, '<', 5, sprintf('%s: stopped in %.2f s', $name, $seconds));
}

# Long limits: nothing ends by a timeout of ours while the test looks.
my $patient = "seal_sync.connect_timeout = '300s'\nseal_sync.reply_timeout = '300s'\n";
my ($silent, $port) = silent_listener();

# ---- a peer that accepts and never says a word: connecting

my $east = one_node('east', conf => $patient);
$east->safe_psql('postgres', q(CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('east')));
$east->safe_psql('postgres', <<"SQL");
CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (user 'sync_in', password 'pw');
ALTER SYSTEM SET seal_sync.connect_timeout = '500ms';
SELECT pg_reload_conf();
SQL
# peer_create looks as well; it must not take longer than the setting allows
my $start = time;
$east->safe_psql('postgres', q(SELECT seal_sync.peer_create('west')));
cmp_ok(time - $start, '<', 60, 'peer_create gives up on a silent peer');
$east->safe_psql('postgres', q(ALTER SYSTEM RESET seal_sync.connect_timeout; SELECT pg_reload_conf()));
wait_until($east, q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'seal_sync route worker'), 1);
stops_in_time($east, 'while connecting to a silent peer');

# ---- nobody listens: between two attempts

close $silent;
$east->start;
wait_for_state($east, 'west', 'retrying');
stops_in_time($east, 'while retrying');

# ---- a peer that hangs (SIGSTOP) after all went well: inside a batch, and idle

my $west = one_node('west');
$west->safe_psql('postgres', q(CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('west');
  CREATE ROLE sync_in LOGIN PASSWORD 'pw' IN ROLE seal_sync_peer));
$east->start;
$east->safe_psql('postgres', sprintf(q(ALTER SERVER west OPTIONS (SET host '%s', SET port '%s')), $west->host, $west->port));
$east->safe_psql('postgres', "CREATE ROLE sync_in LOGIN PASSWORD 'pw' IN ROLE seal_sync_peer");
add_peer($west, $east);
for my $node ($east, $west)
{
	$node->safe_psql('postgres', q(SELECT seal_sync.cluster_create('a', primary_node => 'east')));
}
add_tables($table, ['t'], $east, $west);
wait_for_state($east, 'west', 'streaming');

# the peer's session for this route, stopped by a signal as a dying disk would
my $session = q(SELECT pid FROM pg_stat_activity WHERE application_name = 'seal_sync/west');
my $pid = $west->safe_psql('postgres', $session);
kill 'STOP', $pid;
wait_until($east, q(SELECT clock_timestamp() - last_contact_at > '1 s' FROM seal_sync.status WHERE direction = 'out'),
	't', 'a heartbeat is not answered');
stops_in_time($east, 'waiting for the answer to a heartbeat');
kill 'CONT', $pid;

# the same inside a batch; without heartbeats, so that the batch is the first to meet the silence
$east->start;
wait_for_state($east, 'west', 'streaming');
$east->safe_psql('postgres', q(ALTER SYSTEM SET seal_sync.scan_period = '1h'; SELECT pg_reload_conf()));
wait_until($east, q(SELECT clock_timestamp() - last_contact_at > '1 s' FROM seal_sync.status WHERE direction = 'out'),
	't', 'no more heartbeats');
$pid = $west->safe_psql('postgres', $session);
kill 'STOP', $pid;
$east->safe_psql('postgres', q(INSERT INTO t SELECT i, 'a', repeat('x', 1000) FROM generate_series(1, 20000) i));
wait_until($east, q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'seal_sync route worker' AND backend_xmin IS NOT NULL),
	1, 'a batch is under way to a hanging peer');
stops_in_time($east, 'inside a batch that the peer does not take');
kill 'CONT', $pid;

$east->start;
$east->safe_psql('postgres', q(ALTER SYSTEM RESET seal_sync.scan_period; SELECT pg_reload_conf()));
wait_for_sync($east);
dumps_equal('the batch arrives after the restart', [ $east, $west ], 't');

# ---- a table of the peer is locked by its application: apply waits there

my $holder = $west->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE');
$east->safe_psql('postgres', q(UPDATE t SET v = 'y' WHERE id < 10));
wait_until($west, q(SELECT count(*) > 0 FROM pg_locks WHERE NOT granted), 't', 'apply waits for a lock');
stops_in_time($east, 'while the peer waits for a lock');
$east->start;
$holder->query_safe('COMMIT');
$holder->quit;
wait_for_sync($east);
dumps_equal('and that one too', [ $east, $west ], 't');

stops_in_time($east, 'idle');
stops_in_time($west, 'with a peer that has gone');
done_testing();
