# check() on TLS: refused, expired, of a stranger, of another name, without a client's certificate. With a CA made for the test.
use strict;
use warnings;
use lib 'test/perl';
use SealCheck;
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'no openssl' if system('openssl version >/dev/null 2>&1') != 0;

my ($east, $west) = two_nodes(tcp => 1, conf => "fsync = on\nseal_sync.retry_max = '200ms'");
my $dir = PostgreSQL::Test::Utils::tempdir();
sub openssl { my @arg = @_; my ($out, $err); IPC::Run::run([ 'openssl', @arg ], '>', \$out, '2>', \$err) or die "openssl @arg: $err"; return }

# ca(NAME): a certificate authority; certificate(CA, FILE, SUBJECT, FROM, TO): one of its certificates, with its dates.
sub ca
{
	my ($name) = @_;
	openssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '10', '-subj', "/CN=$name", '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt");
	append_to_file("$dir/$name.txt", '');
	append_to_file("$dir/$name.serial", "01\n");
	append_to_file("$dir/$name.conf", "[ca]\ndefault_ca=d\n[d]\ndatabase=$dir/$name.txt\nserial=$dir/$name.serial\nnew_certs_dir=$dir\ndefault_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n");
	return;
}

sub certificate
{
	my ($ca, $file, $subject, $from, $to) = @_;
	openssl('req', '-newkey', 'rsa:2048', '-nodes', '-subj', "/CN=$subject", '-keyout', "$dir/$file.key", '-out', "$dir/$file.csr");
	openssl('ca', '-batch', '-notext', '-config', "$dir/$ca.conf", '-cert', "$dir/$ca.crt", '-keyfile', "$dir/$ca.key", '-in', "$dir/$file.csr", '-out', "$dir/$file.crt",
		'-startdate', $from, '-enddate', $to);
	chmod 0600, "$dir/$file.key";
	return;
}

my @valid = ('200101000000Z', '491231235959Z');
ca($_) for qw(ca stranger);
certificate('ca', 'west', '127.0.0.1', @valid);
certificate('ca', 'expired', '127.0.0.1', '200101000000Z', '210101000000Z');
certificate('ca', 'elsewhere', 'west.example', @valid);
certificate('ca', 'client', 'sync_in', @valid);
certificate('ca', 'client_expired', 'sync_in', '200101000000Z', '210101000000Z');

sub serves
{
	my ($file, $ssl) = @_;
	return sub {
		$west->safe_psql('postgres', "ALTER SYSTEM SET ssl_cert_file = '$dir/$file.crt'; ALTER SYSTEM SET ssl_key_file = '$dir/$file.key'; ALTER SYSTEM SET ssl_ca_file = '$dir/ca.crt'; ALTER SYSTEM SET ssl = " . ($ssl // 'on'));
		$west->reload;
	};
}
sub set_hba { my ($how) = @_; return sub { unlink $west->data_dir . '/pg_hba.conf'; $west->append_conf('pg_hba.conf', "local all all trust\nhostssl all sync_in 127.0.0.1/32 $how\n"); $west->reload } }
sub server { my ($options) = @_; return "ALTER SERVER west OPTIONS ($options)" }

serves('west')->();
set_hba('scram-sha-256')->();
$east->safe_psql('postgres', server("ADD sslmode 'verify-full', ADD sslrootcert '$dir/ca.crt'"));
all_well($east, 'verify-full');
wait_until($east, q(SELECT message LIKE 'TLSv1%' FROM seal_sync.peer_check('west') WHERE step = 'tls'), 't', 'and peer_check shows the protocol');

finds($east, 'peer_tls_refused', qr/step "tls".*does not support SSL/, qr/set ssl = on/, serves('west', 'off'), serves('west'));
finds($east, 'peer_certificate', qr/step "tls".*certificate verify failed/, qr/has expired.*openssl s_client/, serves('expired'), serves('west'));
finds($east, 'peer_certificate', qr/step "tls".*certificate verify failed/, qr/a CA that the other side does not know/, server("SET sslrootcert '$dir/stranger.crt'"), server("SET sslrootcert '$dir/ca.crt'"));
finds($east, 'peer_certificate_name', qr/"west.example".* does not match host name "127.0.0.1"/, qr/Option host of the server/, serves('elsewhere'), serves('west'));
finds($east, 'peer_tls', qr/root certificate file .* does not exist/, qr/sslrootcert/, server("SET sslrootcert '$dir/nothing.crt'"), server("SET sslrootcert '$dir/ca.crt'"));
set_hba('cert')->();
finds($east, 'peer_certificate', qr/valid client certificate/, qr/sslcert/, undef, server("ADD sslcert '$dir/client.crt', ADD sslkey '$dir/client.key'"));
finds($east, 'peer_certificate', qr/certificate/, qr/sslcert/, server("SET sslcert '$dir/client_expired.crt', SET sslkey '$dir/client_expired.key'"),
	server("SET sslcert '$dir/client.crt', SET sslkey '$dir/client.key'"));
done_testing();
