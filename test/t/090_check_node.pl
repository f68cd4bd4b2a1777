# check(): misconfigurations of this node itself, each provoked, found with message and hint, and repaired.
use strict;
use warnings;
use lib 'test/perl';
use SealCheck;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(conf => "fsync = on\nseal_sync.connect_timeout = '5s'");
add_tables(q(CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))), ['t'], $east, $west);
$east->safe_psql('postgres', q(INSERT INTO t VALUES (1, 'a', 'x')));
wait_for_sync($east);
all_well($east, 'a fresh pair');
is($east->safe_psql('postgres', q(SELECT count(*) FROM seal_sync.check() WHERE code = 'inline_password' AND severity = 'info')), '1', 'an inline password is told of, and does not alarm');

sub set_case
{
	my ($code, $message, $hint, $name, $value) = @_;
	finds($east, $code, $message, $hint, set_and_reload($east, $name, $value), set_and_reload($east, $name));
}

# Settings
set_case('fsync_off', qr/fsync is off/, qr/Set fsync to on/, 'fsync', 'off');
set_case('full_page_writes_off', qr/full_page_writes is off/, qr/full_page_writes to on/, 'full_page_writes', 'off');
set_case('synchronous_commit_off', qr/loses commits/, qr/synchronous_commit to on/, 'synchronous_commit', 'off');
set_case('autovacuum_off', qr/autovacuum is off/, qr/autovacuum to on/, 'autovacuum', 'off');
set_case('guard_off', qr/guard is off/, qr/to refuse/, 'seal_sync.guard', 'off');
set_case('guard_warn', qr/guard is warn/, qr/to refuse/, 'seal_sync.guard', 'warn');
set_case('disabled', qr/enabled is off: nothing is shipped/, qr/Set seal_sync.enabled to on/, 'seal_sync.enabled', 'off');
set_case('database_not_listed', qr/does not name this database/, qr/seal_sync.databases/, 'seal_sync.databases', "'another'");
finds($east, 'read_only', qr/applications cannot write here/, qr/RESET/, 'ALTER DATABASE postgres SET default_transaction_read_only = on',
	'SET default_transaction_read_only = off; ALTER DATABASE postgres RESET default_transaction_read_only');

# Versions: what a package without ALTER EXTENSION UPDATE, or without a restart, leaves behind
my $version = $east->safe_psql('postgres', 'SELECT seal_sync.version()');
my $set_version = sub { "UPDATE pg_extension SET extversion = '$_[0]' WHERE extname = 'seal_sync'" };
finds($east, 'library_older', qr/library is of version .*, the extension in this database of 99\.10/, qr/restart/, $set_version->('99.10'), $set_version->($version));
finds($east, 'extension_older', qr/of version 0\.0, the library/, qr/ALTER EXTENSION seal_sync UPDATE/, $set_version->('0.0'), $set_version->($version));

# Roles
finds($east, 'no_peer_login', qr/no peer can ship/, qr/IN ROLE seal_sync_peer/, 'REVOKE seal_sync_peer FROM sync_in', 'GRANT seal_sync_peer TO sync_in');
finds($east, 'login_superuser', qr/"sync_in".* superuser/, qr/NOSUPERUSER/, 'ALTER ROLE sync_in SUPERUSER', 'ALTER ROLE sync_in NOSUPERUSER');
finds($east, 'login_too_powerful', qr/CREATEDB, member of seal_sync_admin/, qr/no more than membership/, 'ALTER ROLE sync_in CREATEDB; GRANT seal_sync_admin TO sync_in',
	'ALTER ROLE sync_in NOCREATEDB; REVOKE seal_sync_admin FROM sync_in');
finds($east, 'login_expires', qr/expires within two weeks/, qr/VALID UNTIL/, q(DO $$BEGIN EXECUTE format('ALTER ROLE sync_in VALID UNTIL %L', now() + interval '3 days'); END$$),
	q(ALTER ROLE sync_in VALID UNTIL 'infinity'));
finds($east, 'worker_role', qr/has members: somebody/, qr/REVOKE seal_sync_worker/, 'CREATE ROLE somebody; GRANT seal_sync_worker TO somebody', 'DROP ROLE somebody');
finds($east, 'worker_role', qr/can log in/, qr/NOLOGIN/, 'ALTER ROLE seal_sync_worker LOGIN', 'ALTER ROLE seal_sync_worker NOLOGIN');

# Tables
finds($east, 'capture_disabled', qr/not enabled always on table public\.t/, qr/ENABLE ALWAYS/, q(DO $$BEGIN EXECUTE (SELECT format('ALTER TABLE t DISABLE TRIGGER %I', tgname) FROM pg_trigger WHERE tgname ~ 'capture'); END$$),
	q(DO $$BEGIN EXECUTE (SELECT format('ALTER TABLE t ENABLE ALWAYS TRIGGER %I', tgname) FROM pg_trigger WHERE tgname ~ 'capture'); END$$));
finds($east, 'event_trigger_disabled', qr/DDL on registered tables is not followed/, qr/ENABLE ALWAYS/,
	q(DO $$BEGIN EXECUTE (SELECT format('ALTER EVENT TRIGGER %I DISABLE', evtname) FROM pg_event_trigger ORDER BY 1 LIMIT 1); END$$),
	q(DO $$BEGIN EXECUTE (SELECT format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', evtname) FROM pg_event_trigger WHERE evtenabled = 'D'); END$$));
# DDL that is refused, by somebody who has put the event triggers out of the way
sub unseen
{
	my ($ddl) = @_;
	my $set = q(DO $$DECLARE t text; BEGIN FOR t IN SELECT evtname FROM pg_event_trigger LOOP EXECUTE format('ALTER EVENT TRIGGER %%I %s', t); END LOOP; END$$;);
	$east->safe_psql('postgres', join '', sprintf($set, 'DISABLE'), "$ddl;", sprintf($set, 'ENABLE ALWAYS'));
	return;
}
finds($east, 'table_unlogged', qr/table public\.t is unlogged/, qr/SET LOGGED/, sub { unseen('ALTER TABLE t SET UNLOGGED') }, sub { unseen('ALTER TABLE t SET LOGGED') });
finds($east, 'trigger_always', qr/"always".*fires for rows that arrive/, qr/ENABLE TRIGGER always/,
	q(CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER always BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing();
	  ALTER TABLE t ENABLE ALWAYS TRIGGER always), 'DROP FUNCTION nothing CASCADE');
finds($east, 'index_invalid', qr/index public\.v_key is not valid/, qr/REINDEX/, sub {
	$east->safe_psql('postgres', q(INSERT INTO t VALUES (2, 'a', 'x')));
	$east->psql('postgres', 'CREATE UNIQUE INDEX CONCURRENTLY v_key ON t (v)'); # fails, and leaves it behind
}, 'DROP INDEX v_key');
finds($east, 'foreign_key_unregistered', qr/"t_v_fkey".*leads to table public\.parent, which is not synchronized/, qr/table_add\('public\.parent'/,
	q(CREATE TABLE parent (v text PRIMARY KEY); INSERT INTO parent VALUES ('x'); ALTER TABLE t ADD FOREIGN KEY (v) REFERENCES parent), 'DROP TABLE parent CASCADE');
finds($east, 'foreign_key_from_unregistered', qr/of table public\.child, which is not synchronized/, qr/table_add\('public\.child'/,
	q(CREATE TABLE child (id int, c text, FOREIGN KEY (id, c) REFERENCES t)), 'DROP TABLE child');
finds($east, 'foreign_key_across_clusters', qr/can refer to rows of another cluster/, qr/cluster columns of both tables/, sub {
	$_->safe_psql('postgres', q(CREATE TABLE u (id int PRIMARY KEY, cluster_id text, t_id int, t_cluster text, FOREIGN KEY (t_id, t_cluster) REFERENCES t);
	  SELECT seal_sync.table_add('u', cluster_column => 'cluster_id', existing_rows => 'adopt'))) for $east, $west;
}, sub { $_->safe_psql('postgres', 'DROP TABLE u') for $east, $west });
finds($east, 'rows_of_no_cluster', qr/about 50 % of the rows of table public\.w belong to no declared cluster/, qr/add_values/, sub {
	$_->safe_psql('postgres', q(CREATE TABLE w (id int PRIMARY KEY, cluster_id text); INSERT INTO w SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'z' END FROM generate_series(1, 100) i;
	  SELECT seal_sync.table_add('w', cluster_column => 'cluster_id', existing_rows => 'adopt'); ANALYZE w)) for $east, $west;
}, sub { $_->safe_psql('postgres', 'DROP TABLE w') for $east, $west });

# Transactions that hold the change log
set_and_reload($east, 'seal_sync.resend_window', "'0'")->();
finds($east, 'prepared_transaction', qr/"forgotten" is open since/, qr/COMMIT PREPARED 'forgotten'/, q(BEGIN; INSERT INTO t VALUES (3, 'a', 'y'); PREPARE TRANSACTION 'forgotten'), q(COMMIT PREPARED 'forgotten'));
my $long = $east->background_psql('postgres');
$long->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
finds($east, 'long_transaction', qr/is open since/, qr/pg_terminate_backend/, undef, sub { $long->query_safe('COMMIT'); $long->quit; });
set_and_reload($east, 'seal_sync.resend_window')->();

# Steering, logins
finds($east, 'peer_paused', qr/to peer "west" is paused/, qr/resume\('west'\)/, q(SELECT seal_sync.pause('west', 'maintenance')), q(SELECT seal_sync.resume('west')));
my $options = sprintf "OPTIONS (host '%s', port '%s', dbname 'postgres')", $west->host, $west->port;
my $mapping = q(CREATE USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (user 'sync_in', password 'pw'));
finds($east, 'user_mapping_missing', qr/has no user mapping/, qr/CREATE USER MAPPING FOR seal_sync_worker SERVER west/, 'DROP USER MAPPING FOR seal_sync_worker SERVER west', $mapping);
finds($east, 'server_missing', qr/server "west" of peer "west" does not exist/, qr/CREATE SERVER/, 'DROP SERVER west CASCADE', "CREATE SERVER west FOREIGN DATA WRAPPER seal_sync $options; $mapping");
finds($east, 'tls_not_verified', qr/with sslmode "prefer": nobody checks/, qr/verify-full/, q(ALTER SERVER west OPTIONS (ADD hostaddr '192.0.2.1'); SELECT seal_sync.pause('west')),
	q(ALTER SERVER west OPTIONS (DROP hostaddr); SELECT seal_sync.resume('west')));

# A database that is no node, one that has nothing but its name, and one in a server without the library
$east->safe_psql('postgres', 'CREATE DATABASE other');
$east->safe_psql('other', 'CREATE EXTENSION seal_sync');
is($east->safe_psql('other', q(SELECT code FROM seal_sync.check())), 'no_identity', 'no_identity: a clone or restore without a name');
$east->safe_psql('other', q(SELECT seal_sync.node_create('lonely')));
is($east->safe_psql('other', q(SELECT string_agg(code, ' ' ORDER BY code) FROM seal_sync.check() WHERE code LIKE 'no\_%')), 'no_clusters no_peers no_tables', 'no_clusters, no_peers, no_tables: each by its code');
$east->safe_psql('postgres', 'DROP DATABASE other');

# Roles of those who ask
is($east->safe_psql('postgres', q(SET ROLE seal_sync_admin; SELECT count(*) > 0 FROM seal_sync.check())), 't', 'an admin may ask');
my ($rc, $out, $err) = $east->psql('postgres', q(SET ROLE seal_sync_operator; SELECT count(*) FROM seal_sync.check()));
like($err, qr/permission denied for function check/, 'an operator has peer_check');

# Last, for they restart the server
finds($east, 'not_preloaded', qr/not in shared_preload_libraries/, qr/restart the server/, sub { $east->adjust_conf('postgresql.conf', 'shared_preload_libraries', q('')); $east->restart },
	sub { $east->adjust_conf('postgresql.conf', 'shared_preload_libraries', q('seal_sync')); $east->restart });
finds($east, 'worker_slots', qr/max_worker_processes is 2: too few for 1 routes/, qr/Set max_worker_processes to 9 or more/, sub { $east->adjust_conf('postgresql.conf', 'max_worker_processes', 2); $east->restart },
	sub { $east->adjust_conf('postgresql.conf', 'max_worker_processes', 32); $east->restart });
done_testing();
