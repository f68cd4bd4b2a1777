# DROP DATABASE, DROP EXTENSION and their like, with workers at work: see the matrix in src/worker/README.md.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'time';

my ($silent, $port) = silent_listener();
my $east = one_node('east', conf => "seal_sync.connect_timeout = '300s'\nseal_sync.reply_timeout = '300s'\n");

sub quickly
{
	my ($database, $sql, $name, $limit) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	my ($code, $out, $err) = $east->psql($database, $sql, timeout => 60);
	my $seconds = time - $start;
	is($code, 0, "$name: no error") or diag $err;
	return cmp_ok($seconds, '<', $limit // 5, sprintf('%s: %.2f s', $name, $seconds));
}

# A database with a route that waits for a peer that never answers.
sub make_bank
{
	my ($bank) = @_;
	local $SealSync::db = $bank;
	$east->safe_psql('postgres', "CREATE DATABASE $bank");
	$east->safe_psql($bank, q(CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('east')));
	# A look at the peer would wait for it; the workers' own attempts are what this is about
	$east->safe_psql($bank, <<"SQL");
SET seal_sync.guard = 'refuse';
CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (host '127.0.0.1', port '$port', dbname 'postgres');
CREATE USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (user 'sync_in', password 'pw');
INSERT INTO seal_sync.peer (peer, server) VALUES ('west', 'west');
INSERT INTO seal_sync.peer_state (peer) VALUES ('west');
SQL
	wait_for_workers($east, 1, 'route worker', $bank, "a route of $bank waits for a silent peer");
	return;
}

make_bank('bank');

# ---- an unrelated database

$east->safe_psql('postgres', 'CREATE DATABASE unrelated');
quickly('postgres', 'DROP DATABASE unrelated', 'DROP DATABASE of an unrelated database');
wait_for_workers($east, 1, 'route worker', 'bank', 'which did not disturb the route');

# ---- RENAME, TEMPLATE, TABLESPACE need the database empty as well; afterwards work goes on

quickly('postgres', 'CREATE DATABASE copy TEMPLATE bank', 'CREATE DATABASE from a database with workers');
wait_for_workers($east, 1, 'route worker', 'bank', 'the template has its workers back');
quickly('postgres', 'DROP DATABASE copy', 'DROP DATABASE of the copy, which has workers too');
quickly('postgres', 'ALTER DATABASE bank RENAME TO vault', 'ALTER DATABASE RENAME');
wait_for_workers($east, 1, 'route worker', 'vault', 'workers are back under the new name');
my $place = PostgreSQL::Test::Utils::tempdir();
quickly('postgres', "CREATE TABLESPACE elsewhere LOCATION '$place'", 'a tablespace');
quickly('postgres', 'ALTER DATABASE vault SET TABLESPACE elsewhere', 'ALTER DATABASE SET TABLESPACE', 10);
wait_for_workers($east, 1, 'route worker', 'vault', 'workers are back in the new place');

# ---- not the owner: an error, and no worker is disturbed

$east->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');
my @before = workers($east, 'route worker', 'vault');
my ($code, $out, $err) = $east->psql('postgres', 'DROP DATABASE vault', extra_params => [ '-U', 'nobody' ]);
like($err, qr/must be owner/, 'a stranger may not drop the database');
is_deeply([ workers($east, 'route worker', 'vault') ], \@before, 'nor stop its workers by trying');

# ---- a command that fails restores service

my $session = $east->background_psql('vault');
$session->query_safe('SELECT 1');
(undef, undef, $err) = $east->psql('postgres', 'DROP DATABASE vault', timeout => 60);
like($err, qr/being accessed by other users/, 'somebody else is connected');
$session->quit;
wait_for_workers($east, 1, 'route worker', 'vault', 'after the failure the workers are back');

# ---- DROP EXTENSION, rolled back and committed

my $dropper = $east->background_psql('vault');
$dropper->query_safe('BEGIN');
$dropper->query_safe('DROP EXTENSION seal_sync CASCADE');
wait_for_workers($east, 0, 'route worker', 'vault', 'the workers have left for DROP EXTENSION');
wait_for_workers($east, 0, 'database worker', 'vault', 'all of them');
$dropper->query_safe('ROLLBACK');
wait_for_workers($east, 1, 'route worker', 'vault', 'a rollback restores service');

$dropper->query_safe('BEGIN; SAVEPOINT s');
$dropper->query_safe('DROP EXTENSION seal_sync CASCADE');
$dropper->query_safe('ROLLBACK TO s; COMMIT');
wait_for_workers($east, 1, 'route worker', 'vault', 'so does a rollback to a savepoint');

# the session that drops goes away in the middle
my $pid = $dropper->query_safe('SELECT pg_backend_pid()');
$dropper->query_safe('BEGIN');
$dropper->query_safe('DROP EXTENSION seal_sync CASCADE');
$east->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_for_workers($east, 1, 'route worker', 'vault', 'and the end of the session');
eval { $dropper->quit };

quickly('vault', 'DROP EXTENSION seal_sync CASCADE', 'DROP EXTENSION');
wait_for_workers($east, 0, 'database worker', 'vault', 'no worker without the extension');
wait_for_workers($east, 0, 'route worker', 'vault', 'none at all');

# ---- and again

$east->safe_psql('vault', q(CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('east')));
wait_for_workers($east, 1, 'database worker', 'vault', 'installed again');

# ---- DROP OWNED by the owner of the extension

$east->safe_psql('postgres', 'CREATE ROLE installer SUPERUSER LOGIN; CREATE DATABASE owned');
$east->psql('owned', 'CREATE EXTENSION seal_sync', extra_params => [ '-U', 'installer' ]);
wait_for_workers($east, 1, 'database worker', 'owned');
quickly('owned', 'DROP OWNED BY installer CASCADE', 'DROP OWNED');
wait_for_workers($east, 0, 'database worker', 'owned');

# ---- DROP DATABASE with workers, also WITH (FORCE)

make_bank('bank');
quickly('postgres', 'DROP DATABASE bank', 'DROP DATABASE with a route that waits for a silent peer');
make_bank('bank');
quickly('postgres', 'DROP DATABASE bank WITH (FORCE)', 'DROP DATABASE WITH (FORCE)');
wait_for_workers($east, 0, 'route worker');

my $log = slurp_file($east->logfile);
unlike($log, qr/still waiting for backend/, 'nobody made the server wait for a signal barrier');
unlike($log, qr/PANIC|TRAP|was terminated by signal/, 'no process died badly');
$east->stop('fast');
done_testing();
