# Edges that a review found: rules half read, a peer made inside a transaction, partitions that leave, keys
# whose cluster is not accepted, checks of domains, generated keys.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes();
my $db = 'postgres';
add_tables('CREATE TABLE t (id bigint, cluster_id text, v text, PRIMARY KEY (id, cluster_id))', ['t'], $east, $west);

subtest 'a session whose first reading of the rules failed still captures and guards' => sub {
	my $locker = $east->background_psql($db);
	$locker->query_safe('BEGIN; LOCK TABLE seal_sync.cluster IN ACCESS EXCLUSIVE MODE');
	my $session = $east->background_psql($db, on_error_stop => 0);
	$session->query("SET lock_timeout = '50ms'");
	$session->query(q(BEGIN; SAVEPOINT s; INSERT INTO t VALUES (1, 'a', 'refused'); ROLLBACK TO s;));
	$locker->query_safe('COMMIT');
	$session->query(q(INSERT INTO t VALUES (2, 'a', 'same transaction'); COMMIT;));
	$session->query(q(INSERT INTO t VALUES (3, 'a', 'next transaction');));
	$session->query(q(INSERT INTO t VALUES (4, 'nobody', 'homeless');));
	$_->quit for $session, $locker;
	is($east->safe_psql($db, 'SELECT string_agg(id::text, $$,$$ ORDER BY id) FROM t'), '2,3', 'the homeless row was refused');
	wait_for_sync($east);
	dumps_equal('both rows arrived', [ $east, $west ], 't');
};

subtest 'a peer made in a transaction that also changes rows' => sub {
	$east->safe_psql($db, q(SELECT seal_sync.peer_drop('west')));
	$west->safe_psql($db, q(SELECT seal_sync.peer_drop('east'), seal_sync.peer_create('east')));
	my $other = $east->background_psql($db);
	my $session = $east->background_psql($db);
	$session->query_safe('BEGIN; SELECT pg_current_xact_id()');
	$other->query_safe(q(SELECT pg_current_xact_id()));    # a later transaction that ends earlier
	$session->query_safe(q(SELECT seal_sync.peer_create('west'); INSERT INTO t VALUES (10, 'a', 'with the peer'); COMMIT));
	$_->quit for $session, $other;
	wait_for_sync($east);
	dumps_equal('its rows arrive', [ $east, $west ], 't');
};

subtest 'a partition is detached, altered or dropped with keys pending' => sub {
	$_->safe_psql($db, q(
	  CREATE TABLE p (id int, cluster_id text, k int, v text, PRIMARY KEY (id, cluster_id, k)) PARTITION BY LIST (k);
	  CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
	  CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3); CREATE TABLE p4 PARTITION OF p FOR VALUES IN (4);
	  SELECT seal_sync.table_add('p', cluster_column => 'cluster_id', existing_rows => 'adopt');)) for $east, $west;
	$east->safe_psql($db, q(INSERT INTO p SELECT i, 'a', 1 + i % 4, 'x' FROM generate_series(1, 40) i));
	wait_for_sync($east);
	$east->safe_psql($db, q(SELECT seal_sync.pause('west', 'test');));
	$east->safe_psql($db, q(UPDATE p SET v = 'y';
	  ALTER TABLE p DETACH PARTITION p1; ALTER TABLE p1 DROP CONSTRAINT p1_pkey; ALTER TABLE p1 ADD PRIMARY KEY (k, cluster_id, id);
	  ALTER TABLE p DETACH PARTITION p2; ALTER TABLE p2 DROP CONSTRAINT p2_pkey; ALTER TABLE p2 DROP COLUMN v;
	  DROP TABLE p3;));
	$east->safe_psql($db, q(SELECT seal_sync.resume('west');));
	wait_for_sync($east);
	is($west->safe_psql($db, q(SELECT k, count(*), min(v) FROM p GROUP BY k ORDER BY k)), "1|10|x\n2|10|x\n3|10|x\n4|10|y",
		'DDL is not shipped; the partition that stayed has its changes');
	$east->safe_psql($db, q(INSERT INTO t VALUES (20, 'a', 'goes on')));
	wait_for_sync($east);
	dumps_equal('the route goes on', [ $east, $west ], 't');
};

subtest 'ATTACH brings its rows, also of a table that was registered by itself' => sub {
	for my $node ($east, $west)
	{
		$node->safe_psql($db, q(CREATE TABLE p5 (id int NOT NULL, cluster_id text NOT NULL, k int NOT NULL, v text, PRIMARY KEY (id, cluster_id, k));
		  SELECT seal_sync.table_add('p5', cluster_column => 'cluster_id', existing_rows => 'adopt');));
	}
	$east->safe_psql($db, q(INSERT INTO p5 SELECT i, 'a', 5, 'x' FROM generate_series(1, 5) i));
	wait_for_sync($east);
	$east->safe_psql($db, q(SELECT seal_sync.pause('west', 'test'); DELETE FROM p5 WHERE id = 1; UPDATE p5 SET v = 'y' WHERE id = 2;));
	$_->safe_psql($db, q(ALTER TABLE p ATTACH PARTITION p5 FOR VALUES IN (5))) for $east, $west;
	$east->safe_psql($db, q(CREATE TABLE p6 (LIKE p); INSERT INTO p6 SELECT i, 'a', 6, 'new' FROM generate_series(1, 7) i;));
	$west->safe_psql($db, q(CREATE TABLE p6 PARTITION OF p FOR VALUES IN (6)));
	$east->safe_psql($db, q(ALTER TABLE p ATTACH PARTITION p6 FOR VALUES IN (6); SELECT seal_sync.resume('west');));
	wait_for_sync($east);
	is($west->safe_psql($db, q(SELECT k, count(*), max(v) FROM p WHERE k > 4 GROUP BY k ORDER BY k)), "5|4|y\n6|7|new",
		'pending changes of the attached table and the rows it brought');
};

subtest 'a row moves between clusters that the peer does not know yet' => sub {
	$_->safe_psql($db, q(CREATE TABLE m (id int PRIMARY KEY, cluster_id text, v text);
	  SELECT seal_sync.table_add('m', cluster_column => 'cluster_id', existing_rows => 'adopt');)) for $east, $west;
	$east->safe_psql($db, q(SELECT seal_sync.cluster_create('n1', primary_node => 'east'), seal_sync.cluster_create('n2', primary_node => 'east')));
	$east->safe_psql($db, q(INSERT INTO m SELECT i, 'n1', 'x' FROM generate_series(1, 3) i));
	wait_for_sync($east);
	$east->safe_psql($db, q(UPDATE m SET cluster_id = 'n2' WHERE id <= 2));
	wait_for_sync($east);
	$west->safe_psql($db, q(SELECT seal_sync.cluster_create('n1', primary_node => 'east')));
	wait_until($west, 'SELECT count(*) FROM m', '1', 'the row of the cluster that is known now arrives');
	$west->safe_psql($db, q(SELECT seal_sync.cluster_create('n2', primary_node => 'east')));
	wait_until($west, 'SELECT count(*) FROM m', '3', 'and the others when theirs is');
	dumps_equal('equal', [ $east, $west ], 'm');
	is($east->safe_psql($db, 'SELECT count(*) FROM seal_sync.held'), '0', 'nothing is held any more');
};

subtest 'checks of a domain never run as the worker' => sub {
	for my $node ($east, $west)
	{
		$node->safe_psql($db, q(CREATE ROLE dev LOGIN; CREATE SCHEMA app AUTHORIZATION dev; SET ROLE dev;
		  CREATE TABLE app.seen (who text);
		  CREATE FUNCTION app.f(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.seen VALUES (current_user); RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END $$;
		  CREATE DOMAIN app.d AS int CHECK (app.f(VALUE));
		  CREATE TABLE app.k (id app.d PRIMARY KEY, cluster_id text, v text);
		  RESET ROLE; SELECT seal_sync.table_add('app.k', cluster_column => 'cluster_id', existing_rows => 'adopt');));
	}
	$west->safe_psql($db, q(ALTER TABLE app.k ADD CHECK (v <> 'refused')));
	$east->safe_psql($db, q(INSERT INTO app.k VALUES (1, 'a', 'fine'), (2, 'a', 'refused')));
	wait_until($east, q(SELECT sqlstate, key FROM seal_sync.quarantine), '23514|{"id": 2}', 'the refused key is in quarantine');
	is($west->safe_psql($db, 'SELECT id FROM app.k'), '1', 'the rest flows (T16)');
	is($_->safe_psql($db, q(SELECT count(*) FROM app.seen WHERE who <> 'dev' AND who <> current_user)), '0', 'nobody else ran it on ' . $_->name) for $east, $west;
	my $super = $east->safe_psql($db, 'SELECT current_user');
	$east->safe_psql($db, 'TRUNCATE app.seen');
	$west->safe_psql($db, 'TRUNCATE app.seen');
	$east->safe_psql($db, q(SET ROLE dev; UPDATE app.k SET v = 'refused' WHERE id = 1;));
	wait_until($east, q(SELECT count(*) FROM seal_sync.quarantine), '2', 'another one');
	is($_->safe_psql($db, q(SELECT coalesce(string_agg(DISTINCT who, ','), 'dev') FROM app.seen)), 'dev', 'only the owner on ' . $_->name) for $east, $west;
	$west->safe_psql($db, q(ALTER TABLE app.k DROP CONSTRAINT k_v_check));
	wait_until($east, q(SELECT count(*) FROM seal_sync.quarantine), '0', 'they go through by themselves once the cause is gone');
	dumps_equal('equal', [ $east, $west ], 'app.k');
};

subtest 'a generated primary key is refused' => sub {
	my ($rc, $out, $err) = $east->psql($db, q(CREATE TABLE g (a int, id int GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
	  SELECT seal_sync.table_add('g', cluster => 'a');));
	like($err, qr/generated column id/, 'with a clear message');
};

subtest 'without shared_preload_libraries capture works and health says what is missing' => sub {
	my $config = slurp_file($east->data_dir . '/postgresql.conf');
	my $plain = join "\n", grep { !/^seal_sync\.|^shared_preload/ } split /\n/, slurp_file($east->data_dir . '/postgresql.conf');
	open my $fh, '>', $east->data_dir . '/postgresql.conf'; print $fh $plain, "\n"; close $fh;
	$east->restart;
	$east->safe_psql($db, q(INSERT INTO t VALUES (30, 'a', 'captured without workers')));
	like($east->safe_psql($db, q(SELECT message, hint FROM seal_sync.health WHERE severity = 'critical')), qr/shared_preload_libraries/, 'health names it');
	my ($rc, $out, $err) = $east->psql($db, q(INSERT INTO t VALUES (31, 'b', 'x')));
	like($err, qr/cluster "b" has its primary on node "west"/, 'the guard works');
	open $fh, '>', $east->data_dir . '/postgresql.conf'; print $fh $config; close $fh;
	$east->restart;
	wait_for_sync($east);
	dumps_equal('with it again, the change arrives', [ $east, $west ], 't');
};

done_testing();
