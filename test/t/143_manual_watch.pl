# The manual's pages for the people who watch: monitoring, roles and guard, troubleshooting, typed as they stand there.
use strict;
use warnings;
use SealSync;
use SealManual;
use Test::More;

my ($east, $west) = two_nodes();
my %node = (east => $east, west => $west);
my $db = $SealSync::db;
add_tables('CREATE TABLE seal_info (id int, cluster_id text, PRIMARY KEY (id, cluster_id))', ['seal_info'], $east, $west);
$east->safe_psql($db, q(INSERT INTO seal_info VALUES (1, 'a')));
wait_for_sync($east);
wait_until($east, q(SELECT max(severity) FROM seal_sync.health WHERE severity <> 'info'), 'ok', 'all is well');

SealManual->new('monitoring', \%node)->play(after => {
	'A login for the monitoring' => sub {
		is($east->safe_psql($db, q(SELECT pg_has_role('seal_monitor', 'seal_sync_monitor', 'USAGE'))), 't', 'pg_monitor is enough');
	},
	'First look' => sub {
		like($_[0], qr/^ok\|/m, 'health has its row');
		like($_[0], qr/^a\|primary\|.*^b\|standby\|/ms, 'clusters both roles');
		is($_[-1], '0|', 'exit code 0 when all is well');
		$east->safe_psql($db, q(SELECT seal_sync.pause('west', 'test'); ALTER TABLE seal_info DISABLE TRIGGER USER));
	},
	'Prometheus' => sub { like($_[0], qr/^lag_seconds\|east\|west\|out\|\|\|/m, 'a number is a row') },
	'Who did this' => sub { like($_[-1], qr/\|pause\|.*\|test\|/, 'who paused, and why') } });
$east->safe_psql($db, q(ALTER TABLE seal_info ENABLE TRIGGER USER; SELECT seal_sync.resume('west')));

SealManual->new('security', \%node)->play(
	skip => { 'TLS' => 'played by 112_tls.pl', 'Without certificates: a password in a file' => 'as well', 'Changing the password' => 'played by 113_password_rotation.pl' },
	before => { 'The guard' => sub {
		is($east->safe_psql($db, q(SET ROLE dba_west; SELECT count(*) > 0 FROM seal_sync.check())), 't', 'an admin may check');
		is($east->safe_psql($db, q(SET ROLE seal_app; SELECT seal_sync.is_primary('a'))), 't', 'an application may ask where it is');
		my ($rc, $out, $err) = $east->psql($db, q(SET ROLE night_shift; SET seal_sync.guard = off));
		like($err, qr/permission denied to set parameter "seal_sync.guard"/, 'the guard is not for an operator');
	} },
	after => { 'The guard' => sub {
		my ($rc, $out, $err) = $east->psql($db, q(SET ROLE night_shift; SET seal_sync.guard = off));
		like($err, qr/permission denied to set parameter "seal_sync.guard"/, 'nor when it has been taken back');
	} });

SealManual->new('troubleshooting', \%node)->play(after => {
	'Troubleshooting: by what `health` and `check()` say' => sub {
		like($_[0], qr/^(ok|warning|critical|info)\|/, 'never empty');
	} });
done_testing();
