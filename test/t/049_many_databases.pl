# A server has more databases with the extension than it looks after: the rest is told, once, and served when there is room.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $east = one_node('east', conf => "max_worker_processes = 64\nmax_connections = 100\nfsync = off\n");
$east->safe_psql('postgres', q(CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('east')));
$east->safe_psql('template1', q(CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('east')));
$east->safe_psql('postgres', "CREATE DATABASE bank$_") for 1 .. 31;
wait_for_workers($east, 32, 'database worker');
my $before = -s $east->logfile;
$east->safe_psql('postgres', 'CREATE DATABASE one_too_many');
ok($east->wait_for_log(qr/seal_sync has no room for database "one_too_many"/, $before), 'the log names the database that gets no worker');
is($east->safe_psql('one_too_many', q(SELECT severity, code, message FROM seal_sync.health WHERE severity <> 'info')),
	'critical|too_many_databases|nothing is shipped from this database: seal_sync looks after at most 32 databases of a server', 'and health there says so');
is($east->safe_psql('bank1', q(SELECT code FROM seal_sync.health WHERE severity <> 'info')), 'ok', 'not in the others');
$east->safe_psql('postgres', 'DROP DATABASE bank31');
wait_for_workers($east, 1, 'database worker', 'one_too_many', 'it is served when a place is free');
is(() = slurp_file($east->logfile, $before) =~ /WARNING:  seal_sync has no room/g, 1, 'told once');
unlike(slurp_file($east->logfile), qr/PANIC|TRAP|was terminated by signal/, 'no process died badly');
done_testing();
