# TLS between the nodes: the peer proves who it is (verify-full), a client certificate instead of a password, and what status
# says when a certificate is of another authority, expired or revoked. The authority is made here with openssl.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealManual;

plan skip_all => 'no openssl here' if system('command -v openssl >/dev/null 2>&1') != 0;

my $dir = PostgreSQL::Test::Utils::tempdir;
my $db = 'postgres';
sub sql { my ($node, $sql) = @_; return $node->safe_psql($db, $sql) }
sub openssl
{
	my (@arguments) = @_;
	my ($out, $err);
	IPC::Run::run([ 'openssl', @arguments ], '>', \$out, '2>', \$err) or die "openssl @arguments: $err";
	return;
}
sub spit { my ($file, $text) = @_; append_to_file("$dir/$file", $text); return }

# ---- an authority, and another one nobody trusts ----------------------------------------------------------
for my $ca (qw(ca other))
{
	mkdir "$dir/$ca.certs";
	spit("$ca.index", '');
	spit("$ca.serial", "01\n");
	spit("$ca.conf", <<"CONF");
[ ca ]
default_ca = this
[ this ]
database = $dir/$ca.index
serial = $dir/$ca.serial
new_certs_dir = $dir/$ca.certs
certificate = $dir/$ca.crt
private_key = $dir/$ca.key
default_md = sha256
default_crl_days = 30
policy = any
copy_extensions = copy
unique_subject = no
[ any ]
commonName = supplied
CONF
	openssl(qw(req -new -x509 -nodes -newkey rsa:2048 -days 30 -subj), "/CN=$ca of seal_sync tests", '-keyout', "$dir/$ca.key", '-out', "$dir/$ca.crt");
}
# certificate(NAME, CA, SUBJECT, ADDRESS or undef, BEGIN, END)
sub certificate
{
	my ($name, $ca, $subject, $address, @days) = @_;
	openssl(qw(req -new -nodes -newkey rsa:2048 -subj), "/CN=$subject", '-keyout', "$dir/$name.key", '-out', "$dir/$name.csr",
		defined $address ? ('-addext', "subjectAltName = IP:$address") : ());
	openssl('ca', '-batch', '-notext', '-config', "$dir/$ca.conf", '-in', "$dir/$name.csr", '-out', "$dir/$name.crt",
		@days ? ('-startdate', $days[0], '-enddate', $days[1]) : ('-days', '20'));
	chmod 0600, "$dir/$name.key";
	return;
}
my @past = ('20200101000000Z', '20210101000000Z');
certificate('server', 'ca', 'west', '127.0.0.1');
certificate('elsewhere', 'ca', 'west', '10.9.9.9');
certificate('server_old', 'ca', 'west', '127.0.0.1', @past);
certificate('client', 'ca', 'sync_in', undef);
certificate('client_other', 'other', 'sync_in', undef);
certificate('client_old', 'ca', 'sync_in', undef, @past);
certificate('client_revoked', 'ca', 'sync_in', undef);
openssl('ca', '-config', "$dir/ca.conf", '-revoke', "$dir/client_revoked.crt");
openssl('ca', '-config', "$dir/ca.conf", '-gencrl', '-out', "$dir/ca.crl");

# ---- a pair over TCP --------------------------------------------------------------------------------------
my ($east, $west) = two_nodes(tcp => 1);
add_tables(q(CREATE TABLE seal (id int PRIMARY KEY, cluster_id text, v text)), ['seal'], $east, $west);
$west->append_conf('postgresql.conf', <<"CONF");
ssl = on
ssl_cert_file = '$dir/server.crt'
ssl_key_file = '$dir/server.key'
ssl_ca_file = '$dir/ca.crt'
ssl_crl_file = '$dir/ca.crl'
CONF
sub hba
{
	my ($method) = @_;
	unlink $west->data_dir . '/pg_hba.conf';
	$west->append_conf('pg_hba.conf', "local all all trust\nhostssl postgres sync_in 127.0.0.1/32 $method\n");
	$west->reload;
	return;
}
sub server_certificate { my ($name) = @_; sql($west, "ALTER SYSTEM SET ssl_cert_file = '$dir/$name.crt'"); sql($west, "ALTER SYSTEM SET ssl_key_file = '$dir/$name.key'"); $west->reload; return }
sub hang_up { sql($west, q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'seal_sync/west')); return }
hba('scram-sha-256');
$west->restart;
my $row = 0;
sub ships
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$row++;
	sql($east, "INSERT INTO seal VALUES ($row, 'a', 'x')");
	wait_until($east, q(SELECT state = 'streaming' AND pending_keys = 0 FROM seal_sync.status WHERE direction = 'out'), 't', "$name: ships");
	return dumps_equal("$name: all there", [ $east, $west ], 'seal');
}
# What status says once a new connection has failed; and nothing is lost by it
sub fails
{
	my ($name, $step, $pattern) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_until($east, qq(SELECT state = 'retrying' AND connected_since IS NULL AND last_error LIKE '%step "$step"%' FROM seal_sync.status WHERE direction = 'out'), 't', "$name: step $step in status");
	sql($east, 'INSERT INTO seal VALUES (' . ++$row . ", 'a', 'meanwhile')");
	my $why = '';
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default) # the error before may have been of the same step
	{
		$why = sql($east, q(SELECT last_error FROM seal_sync.status WHERE direction = 'out'));
		last if $why =~ $pattern;
		select undef, undef, undef, 0.1;
	}
	like($why, $pattern, "$name: why");
	is(sql($east, q(SELECT tls IS NULL FROM seal_sync.status WHERE direction = 'out')), 't', "$name: no TLS is claimed");
	like(sql($east, q(SELECT step || ': ' || message FROM seal_sync.peer_check('west') WHERE NOT ok)), qr/^$step: .*$pattern/, "$name: peer_check says the same");
	is(sql($east, q(SELECT count(*) > 0 FROM seal_sync.pending)), "t", "$name: the row waits");
	return;
}

wait_until($east, q(SELECT state FROM seal_sync.status WHERE direction = 'out'), 'streaming', 'sslmode prefer, the default of libpq');
my $truth = q(SELECT s.version || ' ' || s.cipher FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'seal_sync/west');
is(sql($east, q(SELECT tls FROM seal_sync.status WHERE direction = 'out')), sql($west, $truth), 'status.tls is what the peer\'s server says');
sql($east, qq(ALTER SERVER west OPTIONS (ADD sslmode 'verify-full', ADD sslrootcert '$dir/ca.crt')));
ships('verify-full');
is(sql($east, q(SELECT tls FROM seal_sync.status WHERE direction = 'out')), sql($west, $truth), 'status.tls with verify-full');

# ---- the peer is not who it should be ---------------------------------------------------------------------
sql($east, qq(ALTER SERVER west OPTIONS (SET sslrootcert '$dir/other.crt')));
fails('server of another authority', 'tls', qr/certificate verify failed/);
sql($east, qq(ALTER SERVER west OPTIONS (SET sslrootcert '$dir/nothing.crt')));
fails('no such file', 'tls', qr/root certificate file .* does not exist/);
sql($east, qq(ALTER SERVER west OPTIONS (SET sslrootcert '$dir/ca.crt')));
ships('corrected');
server_certificate('elsewhere');
hang_up();
fails('certificate of another address', 'tls', qr/does not match host name "127.0.0.1"/);
server_certificate('server_old');
wait_until($east, q(SELECT last_error LIKE '%certificate verify failed%' FROM seal_sync.status WHERE direction = 'out'), 't', 'expired certificate of the peer');
sql($east, q(DELETE FROM seal WHERE v = 'meanwhile'));
server_certificate('server');
ships('a good one again');

# ---- the login is a certificate, as the manual says -------------------------------------------------------
hba('cert');
sql($east, q(ALTER SERVER west OPTIONS (DROP sslmode, DROP sslrootcert)));
SealManual->new('security', { east => $east, west => $west }, replace => { '/etc/seal_sync/sync_in.' => "$dir/client.", '/etc/seal_sync' => $dir })->play(
	only => ['TLS'],
	after => { 'TLS' => sub {
		ships('certificate instead of a password');
		is(sql($east, q(SELECT string_agg(step, ' ') FROM seal_sync.peer_check('west') WHERE NOT ok)), '', 'every step is fine');
		is(sql($east, q(SELECT tls FROM seal_sync.status WHERE direction = 'out')), sql($west, $truth), 'and encrypted');
	} });
is(sql($west, q(SELECT client_dn FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'seal_sync/west')), '/CN=sync_in', 'the peer knows it by its certificate');
is(sql($east, q(SELECT count(*) FROM seal_sync.health WHERE code = 'inline_password')), '0', 'health has nothing to say about passwords');
for ([ 'client_other', 'another authority', qr/unknown ca/ ], [ 'client_old', 'expired', qr/certificate expired/ ], [ 'client_revoked', 'revoked', qr/certificate revoked/ ])
{
	my ($certificate, $name, $pattern) = @$_;
	sql($east, qq(ALTER SERVER west OPTIONS (SET sslcert '$dir/$certificate.crt', SET sslkey '$dir/$certificate.key')));
	fails("client certificate: $name", 'tls', $pattern);
	sql($east, qq(ALTER SERVER west OPTIONS (SET sslcert '$dir/client.crt', SET sslkey '$dir/client.key')));
	ships("client certificate: valid again after $name");
}
# Renewed in place: nothing is to be typed, the next connection reads the file
unlink "$dir/client.crt", "$dir/client.key";
certificate('client', 'ca', 'sync_in', undef);
hang_up();
ships('renewed in place');

# ---- files are for servers of superusers ------------------------------------------------------------------
sql($east, q(CREATE ROLE alice LOGIN IN ROLE seal_sync_admin; ALTER SERVER west OWNER TO alice));
wait_until($east, q(SELECT last_error_sqlstate || ' ' || last_error FROM seal_sync.status WHERE direction = 'out'),
	q(42501 option "sslrootcert" of server "west" is for superusers: It names a file of the operating-system user that runs the server, and the owner of the foreign server is no superuser.),
	'not of an admin');
sql($east, 'ALTER SERVER west OWNER TO CURRENT_USER');
ships('of a superuser again');

# ---- a password in a file ---------------------------------------------------------------------------------
hba('scram-sha-256');
spit('pass', '127.0.0.1:' . $west->port . ":postgres:sync_in:pw\n");
chmod 0600, "$dir/pass";
sql($east, q(ALTER SERVER west OPTIONS (DROP sslcert, DROP sslkey)));
SealManual->new('security', { east => $east, west => $west }, replace => { '/etc/seal_sync' => $dir })->play(only => ['Without certificates: a password in a file']);
hang_up();
ships('passfile');
$west->append_conf('postgresql.conf', 'ssl = off');
unlink $west->data_dir . '/pg_hba.conf';
$west->append_conf('pg_hba.conf', "local all all trust\nhost postgres sync_in 127.0.0.1/32 scram-sha-256\n");
$west->restart;
fails('verify-full and a server without TLS', 'tls', qr/does not support SSL/);
sql($east, q(ALTER SERVER west OPTIONS (SET sslmode 'disable')));
ships('without TLS');
is(sql($east, q(SELECT tls IS NULL FROM seal_sync.status WHERE direction = 'out')), 't', 'status.tls is null without TLS');
like(sql($east, q(SELECT message FROM seal_sync.peer_check('west') WHERE step = 'tls')), qr/^not encrypted$/, 'and peer_check says it');
done_testing();
