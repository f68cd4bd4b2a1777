# T19: the owner of a table, without any right on the extension, dumps and restores it and makes partitions.
# T20: a node is dumped and restored as rules without identity, and comes to life by node_create; a FOR ALL TABLES
# publication does not stand in the way of syncing; DROP EXTENSION leaves nothing behind.
# Judge: pg_dump, pg_restore and the catalogs.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes();
my $db = 'postgres';

$_->safe_psql($db, q(CREATE ROLE teller LOGIN; CREATE SCHEMA bank AUTHORIZATION teller;
SET ROLE teller;
CREATE TABLE bank.desk (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id));
CREATE TABLE bank.seal (id int, cluster_id text, k int, PRIMARY KEY (id, cluster_id, k)) PARTITION BY RANGE (k);
CREATE TABLE bank.seal_1 PARTITION OF bank.seal FOR VALUES FROM (0) TO (10);
RESET ROLE;
SELECT seal_sync.table_add('bank.desk', cluster_column => 'cluster_id'), seal_sync.table_add('bank.seal', cluster_column => 'cluster_id');)) for $east, $west;

sub dump_and_restore
{
	my ($user, $target, @option) = @_;
	my $file = $east->basedir . "/$target.dump";
	$east->safe_psql('postgres', "CREATE DATABASE $target");
	$east->command_ok([ 'pg_dump', '-Fc', '-U', $user, '-f', $file, @option, '-d', $east->connstr($db) ], "$user dumps");
	return $file;
}

subtest 'T20: syncing works beside a FOR ALL TABLES publication' => sub {
	$_->safe_psql($db, 'CREATE PUBLICATION everything FOR ALL TABLES') for $east, $west;
	$east->safe_psql($db, q(INSERT INTO bank.desk SELECT i, 'a', 'x' FROM generate_series(1, 100) i; UPDATE bank.desk SET v = 'y' WHERE id < 50;
	  DELETE FROM bank.desk WHERE id > 90; INSERT INTO bank.seal SELECT i, 'a', i FROM generate_series(0, 9) i;));
	wait_for_sync($east);
	dumps_equal('changes arrive', [ $east, $west ], 'bank.*');
	$west->safe_psql($db, q(ALTER TABLE bank.desk ADD CHECK (v <> 'bad')));
	$east->safe_psql($db, q(INSERT INTO bank.desk VALUES (1000, 'a', 'bad')));
	wait_until($east, 'SELECT count(*) FROM seal_sync.quarantine', '1', 'a key is refused');
	$east->safe_psql($db, q(UPDATE bank.desk SET v = 'good' WHERE id = 1000; SELECT seal_sync.pause('west'), seal_sync.resume('west');));
	wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'and accepted');
	dumps_equal('states of peers and keys are kept too', [ $east, $west ], 'bank.*');
	$_->safe_psql($db, 'DROP PUBLICATION everything') for $east, $west;
};

subtest 'T19: the owner makes partitions while its rows are synchronized' => sub {
	for ($west, $east)
	{
		my ($rc, $out, $err) = $_->psql($db, q(SET ROLE teller; CREATE TABLE bank.seal_2 PARTITION OF bank.seal FOR VALUES FROM (10) TO (20);
		  CREATE TABLE bank.seal_3 (id int NOT NULL, cluster_id text NOT NULL, k int NOT NULL); ALTER TABLE bank.seal ATTACH PARTITION bank.seal_3 FOR VALUES FROM (20) TO (30);));
		is($err, '', $_->name . ': CREATE and ATTACH');
	}
	$east->safe_psql($db, q(SET ROLE teller; INSERT INTO bank.seal SELECT i, 'a', i FROM generate_series(10, 29) i; UPDATE bank.seal SET k = 25 WHERE id = 3;));
	wait_for_sync($east);
	dumps_equal('rows of new partitions arrive', [ $east, $west ], 'bank.*');
};

subtest 'T19: tables that the owner makes later are synchronized where the schema says so' => sub {
	$_->safe_psql($db, q(SELECT count(*) FROM seal_sync.schema_add('bank', cluster_column => 'cluster_id', new_tables => true);
	  SET ROLE teller; CREATE TABLE bank.later (id int, cluster_id text, PRIMARY KEY (id, cluster_id));)) for $west, $east;
	$east->safe_psql($db, q(SET ROLE teller; INSERT INTO bank.later VALUES (1, 'a'); CREATE TABLE bank.last AS SELECT i AS id, 'a' AS cluster_id FROM generate_series(1, 10) i;
	  ALTER TABLE bank.last ADD PRIMARY KEY (id);));
	$west->safe_psql($db, q(SET ROLE teller; CREATE TABLE bank.last (id int PRIMARY KEY, cluster_id text);));
	wait_until($east, q(SELECT bool_and(state = 'synced' AND pending_keys = 0) FROM seal_sync.stat_table));
	is($west->safe_psql($db, q(SELECT (SELECT count(*) FROM bank.later), (SELECT count(*) FROM bank.last))), '1|10', 'their rows arrive');
	$_->safe_psql($db, q(SET ROLE teller; DROP TABLE bank.later, bank.last)) for $east, $west;
};

subtest 'T19: the owner dumps and restores its tables' => sub {
	my $file = dump_and_restore('teller', 'owners_copy', '--schema', 'bank');
	$east->safe_psql('owners_copy', 'CREATE EXTENSION seal_sync; GRANT CREATE ON DATABASE owners_copy TO teller');
	$east->command_ok([ 'pg_restore', '--exit-on-error', '-U', 'teller', '-d', $east->connstr('owners_copy'), $file ], 'restored by the owner');
	$east->safe_psql('owners_copy', q(SET ROLE teller; INSERT INTO bank.desk VALUES (5000, 'nobody', 'x'); UPDATE bank.seal SET id = id + 1000;
	  CREATE TABLE bank.seal_9 PARTITION OF bank.seal FOR VALUES FROM (90) TO (99); TRUNCATE bank.desk;));
	is($east->safe_psql('owners_copy', q(SELECT count(*) FROM bank.seal)), '30', 'its triggers do nothing without a node');
	$east->safe_psql('owners_copy', 'DROP EXTENSION seal_sync');
	is($east->safe_psql('owners_copy', q(SELECT count(*) FROM pg_trigger WHERE tgname ~ 'seal_sync')), '0', 'DROP EXTENSION takes the triggers along');
};

subtest 'T20: a node is dumped and restored' => sub {
	my $user = $east->safe_psql($db, 'SELECT current_user');
	my $file = dump_and_restore($user, 'copy');
	$east->command_ok([ 'pg_restore', '--exit-on-error', '-d', $east->connstr('copy'), $file ], 'restored');
	is($east->safe_psql('copy', q(SELECT count(*) FROM seal_sync.local_node)), '0', 'without identity');
	is($east->safe_psql('copy', q(SELECT schema_oid = 'bank'::regnamespace::oid FROM seal_sync.schema_rule)), 't', 'a rule finds its schema, whose number is another one');
	$east->safe_psql('copy', 'ALTER SCHEMA bank RENAME TO elsewhere');
	is($east->safe_psql('copy', q(SELECT schema FROM seal_sync.schema_rule)), 'elsewhere', 'and follows it before it is a node');
	$east->safe_psql('copy', 'ALTER SCHEMA elsewhere RENAME TO bank; CREATE SCHEMA gone; DROP SCHEMA gone');
	is($east->safe_psql('copy', q(SELECT string_agg(relation::text, ' ' ORDER BY relation::text) FROM seal_sync.table_rule)), 'bank.desk bank.seal', 'with the rules');
	is($east->safe_psql('copy', q(SELECT count(*) FROM seal_sync.pending)), '0', 'nothing pending, no positions');
	$east->safe_psql('copy', q(INSERT INTO bank.desk VALUES (6000, 'b', 'not guarded'); SELECT pg_sleep(0)));
	is($east->safe_psql($db, q(SELECT count(*) FROM bank.desk WHERE id = 6000)) . $west->safe_psql($db, q(SELECT count(*) FROM bank.desk WHERE id = 6000)), '00',
		'it speaks to nobody');
	# Alive again under its old name: a clone, and west says so
	$east->safe_psql('copy', q(SELECT seal_sync.node_create('east')));
	my ($rc, $out, $err) = $east->psql('copy', q(INSERT INTO bank.desk VALUES (6001, 'b', 'guarded')));
	like($err, qr/has its primary on node "west"/, 'the guard works after node_create');
	$east->safe_psql('copy', q(INSERT INTO bank.desk VALUES (6002, 'a', 'of the copy')));
	$east->poll_query_until('copy', q(SELECT state FROM seal_sync.status WHERE direction = 'out'), 'halted') or die 'the copy is not halted';
	like($east->safe_psql('copy', q(SELECT halt_message FROM seal_sync.peer_state)), qr/another node has spoken as "east" before|clone/, 'its route is halted, for another is "east"');
	$east->safe_psql($db, q(INSERT INTO bank.desk VALUES (6003, 'a', 'of the original')));
	wait_for_sync($east);
	dumps_equal('the original goes on', [ $east, $west ], 'bank.*');
	is($west->safe_psql($db, q(SELECT count(*) FROM bank.desk WHERE id = 6002)), '0', 'and nothing of the copy has arrived');
	$east->safe_psql('copy', q(ALTER SCHEMA bank RENAME TO banque; CREATE TABLE banque.later (id int PRIMARY KEY, cluster_id text)));
	is($east->safe_psql('copy', q(SELECT cluster_column FROM seal_sync.table_rule WHERE relation = 'banque.later'::regclass)), 'cluster_id',
		'the rule of a schema lives on, and follows its name');
	$east->safe_psql('copy', 'SELECT seal_sync.node_drop(); DROP EXTENSION seal_sync CASCADE');
	is($east->safe_psql('copy', q(SELECT (SELECT count(*) FROM pg_trigger WHERE tgname ~ 'seal_sync') + (SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE nspname = 'seal_sync')
	  + (SELECT count(*) FROM pg_event_trigger) + (SELECT count(*) FROM pg_namespace WHERE nspname = 'seal_sync'))), '0', 'DROP EXTENSION leaves nothing');
	$east->safe_psql('postgres', 'DROP DATABASE copy; ');
	pass('nor keeps the database from being dropped');
};
done_testing();
