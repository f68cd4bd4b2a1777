# check() and peer_check(): what can be between two nodes, step by step, each provoked, found with message and hint, and repaired.
use strict;
use warnings;
use lib 'test/perl';
use SealCheck;
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes 'time';

my ($east, $west) = two_nodes(tcp => 1, conf => "fsync = on\nseal_sync.connect_timeout = '2s'\nseal_sync.retry_max = '200ms'");
add_tables(q(CREATE TABLE t (id int, cluster_id text, PRIMARY KEY (id, cluster_id))), ['t'], $east, $west);
# Passwords are asked for, as in life
my $hba = "local all all trust\nhost all sync_in 127.0.0.1/32 scram-sha-256\n";
sub set_hba { my ($text) = @_; return sub { PostgreSQL::Test::Utils::slurp_file($west->data_dir . '/pg_hba.conf'); unlink $west->data_dir . '/pg_hba.conf'; $west->append_conf('pg_hba.conf', $text); $west->reload } }
set_hba($hba)->();
all_well($east, 'a fresh pair');

sub server { my ($options) = @_; return "ALTER SERVER west OPTIONS ($options)" }
sub mapping { my ($options) = @_; return "ALTER USER MAPPING FOR seal_sync_worker SERVER west OPTIONS ($options)" }
sub on_west { my ($sql) = @_; return sub { $west->safe_psql('postgres', $sql) } }
my $port = $west->port;
# A route that is connected stays so; a new login is what is looked at. SET and its counterpart for an option of the server
sub leads { my ($code, $message, $hint, $name, $value, $normal) = @_; return finds($east, $code, $message, $hint, server("SET $name '$value'"), server("SET $name '$normal'")) }

leads('peer_dns', qr/step "dns"/, qr/option host/, 'host', 'no.such.host.invalid', '127.0.0.1');
leads('peer_tcp', qr/step "tcp".*refused/i, qr/listen_addresses/, 'port', '1', $port);
{
	my ($socket, $silent) = silent_listener();
	my $began = time;
	leads('peer_timeout', qr/timed out/, qr/Nobody answers/, 'port', $silent, $port);
	cmp_ok(time - $began, '<', 60, 'a silent peer holds check() for no longer than connect_timeout');
}
leads('peer_database', qr/step "auth".*database "nowhere" does not exist/, qr/option dbname/, 'dbname', 'nowhere', 'postgres');
finds($east, 'peer_password', qr/step "auth".*password authentication failed/, qr/ALTER USER MAPPING/, mapping(q(SET password 'wrong')), mapping(q(SET password 'pw')));
finds($east, 'peer_password', qr/no password supplied/, qr/ALTER USER MAPPING/, mapping('DROP password'), mapping(q(ADD password 'pw')));
finds($east, 'peer_hba', qr/no pg_hba.conf entry/, qr/add a line for this login/, set_hba("local all all trust\n"), set_hba($hba));
finds($east, 'peer_login', qr/is not permitted to log in/, qr/Look at user/, on_west('ALTER ROLE sync_in NOLOGIN'), on_west('ALTER ROLE sync_in LOGIN'));
finds($east, 'peer_connections', qr/too many connections for role/, qr/connection limit/, on_west('ALTER ROLE sync_in CONNECTION LIMIT 0'), on_west('ALTER ROLE sync_in CONNECTION LIMIT -1'));
finds($east, 'peer_rights', qr/permission denied/, qr/GRANT seal_sync_peer TO "sync_in"/, on_west('REVOKE seal_sync_peer FROM sync_in'), on_west('GRANT seal_sync_peer TO sync_in'));

# max_connections in full, and before it
{
	my $most = $west->safe_psql('postgres', 'SHOW max_connections') - 3;
	$west->safe_psql('postgres', 'CREATE ROLE app LOGIN');
	my @session;
	finds($east, 'peer_connections_low', qr/connections are in use at peer "west"/, qr/nothing is shipped to it/, sub {
		push @session, $west->background_psql('postgres', extra_params => [ '-U', 'app' ]) for 1 .. $most - 5;
	});
	$_->quit for @session;
	all_well($east, 'peer_connections_low');
	@session = ();
	finds($east, 'connections_low', qr/of \d+ connections are in use/, qr/Raise max_connections/, sub {
		$east->safe_psql('postgres', 'CREATE ROLE app LOGIN');
		push @session, $east->background_psql('postgres', extra_params => [ '-U', 'app' ]) for 1 .. $most - 5;
	});
	$_->quit for @session;
	all_well($east, 'connections_low');
}

# What is at the end of the connection
$west->safe_psql('postgres', 'CREATE DATABASE plain');
finds($east, 'peer_extension', qr/extension seal_sync is not installed there/, qr/in database "plain": CREATE EXTENSION/, server(q(SET dbname 'plain')), undef);
$west->safe_psql('plain', 'CREATE EXTENSION seal_sync');
finds($east, 'peer_no_identity', qr/it has no identity yet/, qr/node_create\('west'\)/, undef, undef);
$west->safe_psql('plain', q(SELECT seal_sync.node_create('north')));
finds($east, 'peer_wrong_node', qr/leads to node "north", not to node "west"/, qr/host, port and dbname/, undef, server(q(SET dbname 'postgres')));
$west->safe_psql('postgres', q(CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'));
$west->safe_psql('bytes', q(CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('west')));
leads('peer_encoding', qr/encoding SQL_ASCII.*nothing can convert/, qr/same encoding/, 'dbname', 'bytes', 'postgres');
finds($east, 'peer_does_not_know_us', qr/this node is not a peer of node "west"/, qr/On node "west": SELECT seal_sync.peer_create\('east'\)/, on_west(q(SELECT seal_sync.peer_drop('east'))), undef);
$west->safe_psql('postgres', q(SELECT seal_sync.peer_create('east')));

# The steps of peer_check say the same
is($east->safe_psql('postgres', q(SELECT string_agg(step || ' ' || ok, ', ') FROM seal_sync.peer_check('west'))),
	'dns true, tcp true, tls true, auth true, extension true, node true, protocol true, encoding true, clock true', 'peer_check: every step');

# One peer that is not there does not keep the others from being looked at
$east->safe_psql('postgres', q(CREATE SERVER north FOREIGN DATA WRAPPER seal_sync OPTIONS (host '127.0.0.1', port '1', dbname 'postgres');
  CREATE USER MAPPING FOR seal_sync_worker SERVER north OPTIONS (user 'sync_in', password 'pw'); SELECT seal_sync.peer_create('north')));
$west->safe_psql('postgres', q(SELECT seal_sync.cluster_create('c', primary_node => 'west')));
is($east->safe_psql('postgres', q(SELECT string_agg(DISTINCT code || ' ' || scope, ', ') FROM seal_sync.check() WHERE code IN ('peer_tcp', 'cluster_undeclared_here'))),
	'cluster_undeclared_here cluster c, peer_tcp peer north', 'one peer is away, the other is compared');
is($east->safe_psql('postgres', q(SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND pid <> pg_backend_pid())), '0', 'and no lock is left');

$west->stop;
my ($rc, $out, $err) = $east->psql('postgres', q(SELECT count(*) FROM seal_sync.check() WHERE code = 'peer_tcp'));
is("$rc $out", '0 2', 'with the peer stopped check() answers');
done_testing();
