# What can come between a copy of a table and its end (T14): parents that are copied later, rows that the peer refuses, answers that are
# lost, a table that is taken out and added again meanwhile, a cluster that is not accepted any more, a peer that stands still.
# Parts are tiny here, so that there are many, and their notes are shortened again and again. Judge: pg_dump, and what waits for a lock.
use strict;
use warnings;
use lib 'test/perl';
use SealProxy;
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(tcp => 1, conf => "seal_sync.debug_stage_copies = on\nseal_sync.debug_part_size = 16384\nseal_sync.debug_rotation_period = '100ms'");
my $db = 'postgres';
my @both = ($east, $west);
my $key = 'PRIMARY KEY (id, cluster_id)';
sub sql { my ($node, $sql) = @_; return $node->safe_psql($db, $sql) }
sub add { my ($table, @node) = @_; sql($_, "SELECT seal_sync.table_add('$table', cluster_column => 'cluster_id')") for @node ? @node : reverse @both; return }
sub copied { sql($east, q(SELECT seal_sync.wait_for_tables('3 min'))); return }
# CODE while a session on NODE has done SQL and not committed
sub holding
{
	my ($node, $sql, $code) = @_;
	my $session = $node->background_psql($db);
	$session->query_safe("BEGIN; $sql");
	$code->();
	$session->query_safe('COMMIT');
	$session->quit;
	return;
}
sub rate { my ($rate) = @_; sql($east, "ALTER SYSTEM SET seal_sync.copy_max_rate = '$rate'; SELECT pg_reload_conf()"); wait_until($east, 'SHOW seal_sync.copy_max_rate', $rate); return }

# The copy of a table, slowly, until more than so many rows of it are staged
sub begun
{
	my ($table, $rows, $name) = @_;
	rate('64kB');
	add($table);
	wait_until($east, "SELECT rows_done > $rows FROM seal_sync.copy_progress WHERE relation = '$table'::regclass", 't', $name);
	return;
}

subtest 'children before their parents, by name and by date' => sub {
	sql($_, qq(CREATE TABLE z_parent (id int, cluster_id text, v text, $key);
	  CREATE TABLE m_child (id int, cluster_id text, parent int, $key, FOREIGN KEY (parent, cluster_id) REFERENCES z_parent (id, cluster_id));
	  CREATE TABLE a_grandchild (id int, cluster_id text, parent int, $key, FOREIGN KEY (parent, cluster_id) REFERENCES m_child (id, cluster_id));
	  CREATE TABLE chicken (id int, cluster_id text, egg int, $key); CREATE TABLE egg (id int, cluster_id text, chicken int, $key);
	  ALTER TABLE chicken ADD FOREIGN KEY (egg, cluster_id) REFERENCES egg (id, cluster_id) DEFERRABLE; ALTER TABLE egg ADD FOREIGN KEY (chicken, cluster_id) REFERENCES chicken (id, cluster_id) DEFERRABLE)) for @both;
	sql($east, q(INSERT INTO z_parent SELECT i, 'a', repeat('x', 50) FROM generate_series(1, 3000) i; INSERT INTO m_child SELECT i, 'a', i FROM generate_series(1, 3000) i;
	  INSERT INTO a_grandchild SELECT i, 'a', i FROM generate_series(1, 3000) i;
	  SET session_replication_role = replica; INSERT INTO egg SELECT i, 'a', i FROM generate_series(1, 1000) i; INSERT INTO chicken SELECT i, 'a', i FROM generate_series(1, 1000) i));
	sql($_, q(SELECT count(*) FROM seal_sync.schema_add('public', cluster_column => 'cluster_id'))) for reverse @both;
	copied();
	dumps_equal('all is there', [@both], qw(a_grandchild m_child z_parent chicken egg));
	is(sql($east, q(SELECT count(*) FROM seal_sync.events WHERE event = 'quarantine_begin')), '0', 'and no row was ever refused');
	is(sql($west, 'SELECT count(*) FROM seal_sync.stages'), '0', 'no stage is left');
};

sql($_, qq(CREATE TABLE other (id int, cluster_id text, $key))) for @both;
add('other');
copied();
subtest 'a copy that the peer refuses as a whole' => sub {
	plan skip_all => 'takes half a minute: SEAL_LONG' unless $ENV{SEAL_LONG};
	sql($_, qq(CREATE TABLE refused (id int, cluster_id text, v int, $key))) for @both;
	sql($west, 'ALTER TABLE refused ADD CHECK (v > 1)');
	sql($east, q(INSERT INTO refused SELECT i, 'a', 1 FROM generate_series(1, 100100) i)); # more than a batch may have of refused rows
	sql($east, q(ALTER SYSTEM RESET seal_sync.debug_part_size; SELECT pg_reload_conf()));
	add('refused');
	wait_until($east, q(SELECT state FROM seal_sync.copy_progress WHERE relation = 'refused'::regclass), 'refused', 'copy_progress says so');
	sql($east, q(INSERT INTO other VALUES (1, 'a')));
	wait_until($west, 'SELECT count(*) FROM other', '1', 'other tables go on');
	sql($west, 'ALTER TABLE refused DROP CONSTRAINT refused_v_check');
	copied();
	dumps_equal('when the peer takes the rows, the copy is made', [@both], 'refused', 'other');
	sql($east, q(ALTER SYSTEM SET seal_sync.debug_part_size = 16384; SELECT pg_reload_conf()));
};

subtest 'rows that were refused, and the answer is lost' => sub {
	sql($_, qq(CREATE TABLE doubt (id int, cluster_id text, v text, $key))) for @both;
	sql($west, q(ALTER TABLE doubt ADD CHECK (v <> 'bad')));
	sql($east, q(INSERT INTO doubt SELECT i, 'a', CASE i WHEN 7 THEN 'bad' ELSE 'good' END FROM generate_series(1, 20) i));
	holding($east, 'LOCK TABLE seal_sync.held IN EXCLUSIVE MODE', sub {
		add('doubt');
		wait_until($west, 'SELECT count(*) FROM doubt', '19', 'the peer has committed');
		my ($worker) = workers($east, 'route worker');
		wait_until($east, "SELECT wait_event_type FROM pg_stat_activity WHERE pid = $worker", 'Lock', 'and the sender cannot note it');
		sql($east, "SELECT pg_terminate_backend($worker)");
		wait_until($east, "SELECT count(*) FROM pg_stat_activity WHERE pid = $worker", '0', 'it dies');
	});
	wait_until($east, q(SELECT string_agg(key->>'id', ',') FROM seal_sync.quarantine WHERE relation = 'doubt'::regclass), '7', 'the refused row is not forgotten');
	sql($west, 'ALTER TABLE doubt DROP CONSTRAINT doubt_v_check');
	sql($east, 'SELECT seal_sync.quarantine_retry()');
	wait_until($east, 'SELECT count(*) FROM seal_sync.quarantine', '0');
	copied();
	wait_for_sync($east);
	dumps_equal('all is there', [@both], 'doubt');
};

# Told by the batch's answer, or, where the worker has died meanwhile, when the next one says hello
for my $told ('the answer', 'the next hello')
{
	subtest "taken out and added again while its copy is being applied, as $told tells" => sub {
		my $again = 'again_' . ($told =~ s/.* //r);
		sql($_, qq(CREATE TABLE $again (id int, cluster_id text, v text, $key))) for @both;
		sql($_, q(ALTER SYSTEM SET seal_sync.debug_stage_copies = off; ALTER SYSTEM SET seal_sync.apply_lock_timeout = '60s'; SELECT pg_reload_conf())) for @both;
		sql($west, q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'sync_in'));
		sql($east, qq(INSERT INTO $again VALUES (1, 'a', 'captured')));
		sql($west, qq(SELECT seal_sync.table_add('$again', cluster_column => 'cluster_id')));
		holding($west, "LOCK TABLE $again IN SHARE ROW EXCLUSIVE MODE", sub {
			sql($east, qq(SELECT seal_sync.table_add('$again', cluster_column => 'cluster_id')));
			wait_until($west, qq(SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = '$again'::regclass), 't', 'the batch with the copy waits');
			if ($told eq 'the next hello')
			{
				my ($worker) = workers($east, 'route worker');
				sql($east, "SELECT pg_terminate_backend($worker)");
				wait_until($east, "SELECT count(*) FROM pg_stat_activity WHERE pid = $worker", '0', 'the worker dies');
			}
			sql($east, qq(BEGIN; SELECT seal_sync.table_remove('$again'); UPDATE $again SET v = 'not captured'; SELECT seal_sync.table_add('$again', cluster_column => 'cluster_id'); COMMIT));
		});
		copied();
		wait_for_sync($east);
		is(sql($west, "SELECT v FROM $again"), 'not captured', 'the second copy is made');
		sql($_, q(ALTER SYSTEM RESET seal_sync.debug_stage_copies; ALTER SYSTEM RESET seal_sync.apply_lock_timeout; SELECT pg_reload_conf())) for @both;
	};
}

subtest 'a cluster that is not accepted any more' => sub {
	sql($_, qq(CREATE TABLE shared (id int, cluster_id text, v text, $key); SELECT seal_sync.cluster_create('c', 'east'))) for @both;
	sql($east, q(INSERT INTO shared SELECT i, c, repeat('x', 100) FROM generate_series(1, 3000) i, unnest(ARRAY['a', 'c']) c));
	begun('shared', 500, 'half way');
	sql($west, q(SELECT seal_sync.cluster_drop('c')));
	wait_until($east, q(SELECT count(*) FROM seal_sync.status WHERE direction = 'out' AND state_reason ~ '"c"'), '1', 'the peer does not take c now');
	my $progress = q(SELECT rows_done FROM seal_sync.copy_progress WHERE relation = 'shared'::regclass);
	my $rows = sql($east, $progress);
	rate('0');
	for (1 .. 5) # a part follows each batch
	{
		sql($east, "INSERT INTO other VALUES (100 + $_, 'a')");
		wait_for_sync($east);
	}
	is(sql($east, $progress), $rows, 'the copy waits');
	sql($east, q(INSERT INTO shared VALUES (9000, 'a', 'later')));
	sql($west, q(SELECT seal_sync.cluster_create('c', 'east')));
	copied();
	wait_for_sync($east);
	dumps_equal('rows of c are not forgotten', [@both], 'shared');
};

subtest 'nobody waits for a peer that stands still' => sub {
	sql($_, qq(CREATE TABLE still (id int, cluster_id text, v text, $key))) for @both;
	sql($east, q(INSERT INTO still SELECT i, 'a', repeat('x', 100) FROM generate_series(1, 5000) i));
	begun('still', 100, 'it is under way');
	sql($west, q(ALTER SYSTEM SET seal_sync.apply_lock_timeout = '60s'; SELECT pg_reload_conf()));
	holding($west, 'LOCK TABLE seal_sync.stage IN SHARE MODE', sub {
		rate('0');
		wait_until($west, q(SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND l.relation = 'seal_sync.stage'::regclass AND a.usename = 'sync_in'), 't', 'the sender waits until a part is kept');
		my ($rc, $out, $err) = $east->psql($db, q(SET lock_timeout = '5s'; SELECT seal_sync.table_remove('still')));
		is($err, '', 'table_remove does not');
	});
	sql($west, q(ALTER SYSTEM RESET seal_sync.apply_lock_timeout; SELECT pg_reload_conf()));
	sql($east, q(SELECT seal_sync.table_add('still', cluster_column => 'cluster_id')));
	copied();
	dumps_equal('and added again it is copied', [@both], 'still');
};

subtest 'a peer that does not take the table for long' => sub {
	sql($_, qq(CREATE TABLE parked (id int, cluster_id text, v text, w text, $key); ALTER SYSTEM SET seal_sync.resend_window = '1s'; SELECT pg_reload_conf())) for @both;
	sql($east, q(INSERT INTO parked SELECT i, 'a', repeat('x', 100), 'w' FROM generate_series(1, 3000) i));
	begun('parked', 100, 'it is under way');
	sql($west, 'ALTER TABLE parked DROP COLUMN w');
	sql($east, q(UPDATE parked SET v = 'changed' WHERE id = 1; DELETE FROM parked WHERE id = 2));
	wait_until($east, q(SELECT state FROM seal_sync.copy_progress WHERE relation = 'parked'::regclass), 'parked', 'the peer does not take it');
	wait_until($east, q(SELECT count(*) FROM seal_sync.copy WHERE pin IS NOT NULL), '0', 'the log is not kept for it for ever');
	wait_until($east, q(SELECT count(*) >= 2 FROM seal_sync.held WHERE relation = 'parked'::regclass), 't', 'what has changed is held instead');
	rate('0');
	sql($west, 'ALTER TABLE parked ADD COLUMN w text');
	sql($east, q(SELECT seal_sync.sync_now('west', '3 min')));
	copied();
	wait_for_sync($east);
	dumps_equal('and all is there in the end', [@both], 'parked');
};

subtest 'a limit to what is staged' => sub {
	sql($_, qq(CREATE TABLE large (id int, cluster_id text, v text, $key))) for @both;
	sql($east, q(INSERT INTO large SELECT i, 'a', md5(i::text) || md5((-i)::text) || repeat(md5((i * 7)::text), 8) FROM generate_series(1, 8000) i));
	sql($west, q(ALTER SYSTEM SET seal_sync.max_stage_size = '1MB'; SELECT pg_reload_conf()));
	add('large');
	wait_until($east, q(SELECT state || ': ' || message FROM seal_sync.copy_progress), 'refused: node "east" wants to stage more than seal_sync.max_stage_size', 'the sender is told');
	sql($east, q(INSERT INTO other VALUES (2, 'a')));
	wait_for_sync($east);
	is(sql($west, 'SELECT count(*) FROM other WHERE id = 2'), '1', 'other tables go on');
	sql($west, q(ALTER SYSTEM RESET seal_sync.max_stage_size; SELECT pg_reload_conf()));
	copied();
	dumps_equal('raised, it goes on', [@both], 'large');
};
done_testing();
