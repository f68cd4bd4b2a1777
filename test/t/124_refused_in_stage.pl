# Refused keys of what travels through stages and copies: they are held as any others, with their cluster and their cause; held keys
# that arrive through a stage are held no more, not even skipped ones; and a copy whose answer was lost is made once more, for
# nobody would know what of it was refused. Judges: pg_dump, and the keys that were made bad.
use strict;
use warnings;
use lib 'test/perl';
use SealProxy;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $db = $SealSync::db;
my ($east, $west) = two_nodes(tcp => 1, conf => "seal_sync.stage_after = '200ms'\nseal_sync.max_snapshot_age = '4s'");
$_->safe_psql($db, q(SELECT seal_sync.cluster_create('a2', primary_node => 'east'))) for $east, $west;
add_tables(q(CREATE TABLE parent (id int PRIMARY KEY, cluster_id text, v text);
  CREATE TABLE child (id int PRIMARY KEY, cluster_id text, p int REFERENCES parent);
  CREATE TABLE t (id numeric PRIMARY KEY, cluster_id text, v text, w text, image text)), [qw(parent child t)], $east, $west);
$west->safe_psql($db, qq(ALTER TABLE $_ ADD CONSTRAINT not_bad CHECK (v <> 'bad'))) for qw(parent t);
sub east { return $east->safe_psql($db, $_[0]) }
sub west { return $west->safe_psql($db, $_[0]) }
my $held = q(SELECT string_agg(concat_ws(' ', relation, key ->> 'id', state, cluster), ', ' ORDER BY relation::text, (key ->> 'id')::int) FROM seal_sync.quarantine);
my $far = q(UPDATE seal_sync.held SET next_retry_at = now() + interval '1 hour' WHERE state = 'quarantined');
wait_for_state($east, 'west', 'streaming');

# ---- a backlog that is staged

east(q(INSERT INTO t SELECT i, 'a', 'v', 'w', (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 100) j) FROM generate_series(1, 5) i));
wait_for_sync($east);
east(q(UPDATE t SET v = 'bad' WHERE id <> 4));
wait_until($east, $held, 't 1 quarantined a, t 2 quarantined a, t 3 quarantined a, t 5 quarantined a', 'four keys are refused');
east(q(SELECT seal_sync.quarantine_skip(ids => ARRAY(SELECT id FROM seal_sync.quarantine WHERE key ->> 'id' = '1'), reason => 'for now')));
east($far);
wait_for_sync($east);
east($far);

my $link = SealProxy->new(to => $west->port, rate => 1_500_000);
east(q(SELECT seal_sync.pause('west')));
east(sprintf q(ALTER SERVER west OPTIONS (SET port '%d')), $link->port);
# w alone: were the row not sent whole, the peer would keep what it has of v
east(q(UPDATE t SET v = 'good' WHERE id <= 2; UPDATE t SET w = 'touched' WHERE id <= 2; DELETE FROM t WHERE id = 3;
  INSERT INTO parent VALUES (1, 'a', 'bad'), (2, 'a2', 'good'); INSERT INTO child VALUES (11, 'a2', 1), (12, 'a', 2);
  INSERT INTO t SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'a2' END, CASE WHEN i IN (151, 9999) THEN 'bad' ELSE 'v' END, 'w',
    (SELECT string_agg(md5(i || 'x' || j), '') FROM generate_series(1, 8) j) FROM generate_series(101, 40000) i));
east(q(UPDATE seal_sync.held SET next_retry_at = now() WHERE id = (SELECT id FROM seal_sync.quarantine WHERE key ->> 'id' = '5')));
east(q(SELECT seal_sync.resume('west')));
my ($staged, $changed, $began) = (0, 0, time);
while (west(q(SELECT count(*) FROM t)) < 1000)
{
	my $chunks = west(q(SELECT coalesce(sum(chunks), 0) FROM seal_sync.stages));
	$staged = $chunks if $chunks > $staged;
	# rows that are staged already: a bad one gets well, a good one bad
	east(q(UPDATE t SET v = 'well' WHERE id = 151; UPDATE t SET v = 'bad' WHERE id = 202;
	  SELECT seal_sync.quarantine_skip(ids => ARRAY(SELECT id FROM seal_sync.quarantine WHERE key ->> 'id' = '5'), reason => 'while its attempt is staged')))
	  if $chunks > 0 && !$changed;
	# what is staged outlives the connection
	west(q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'sync_in')) if $chunks > 0 && !$changed++;
	die 'the backlog does not arrive' if time - $began > $PostgreSQL::Test::Utils::timeout_default;
	usleep 50_000;
}
cmp_ok($staged, '>', 0, 'the backlog was staged');
$link->stop;
east(sprintf q(ALTER SERVER west OPTIONS (SET port '%d')), $west->port);
wait_for_state($east, 'west', 'streaming');
wait_for_sync($east);
wait_until($east, $held, 'child 11 quarantined a2, parent 1 quarantined a, t 5 skipped a, t 202 quarantined a, t 9999 quarantined a2',
	'what is bad is held, with its cluster; what has arrived is not, skipped or not due; what was skipped meanwhile is');
is(east(q(SELECT string_agg(q.key ->> 'id' || '<' || (o.key ->> 'id'), ',') FROM seal_sync.quarantine q JOIN seal_sync.quarantine o ON o.id = q.held_by)), '11<1', 'the child names its parent');
is(east(q(SELECT string_agg(cluster || ' ' || state || quarantined_keys, ', ' ORDER BY cluster) FROM seal_sync.clusters WHERE role = 'primary')), 'a PREFIX_SUSPENDED2, a2 PREFIX_SUSPENDED2', 'each cluster has its own');
is(west(q(SELECT string_agg(concat_ws(' ', id, v, w), ', ' ORDER BY id) FROM t WHERE id <= 3 OR id = 151)), '1 good touched, 2 good touched, 151 well w', 'rows that were held came whole, a delete as well');
west(qq(ALTER TABLE $_ DROP CONSTRAINT not_bad)) for qw(parent t);
east(q(SELECT seal_sync.quarantine_retry(ids => ARRAY(SELECT id FROM seal_sync.quarantine))));
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'all arrive');
dumps_equal('all rows', [ $east, $west ], qw(parent child t));

# ---- copies, within a batch and in parts

# From here on only an operator is the reason of a second attempt
east(q(CREATE FUNCTION far() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.next_retry_at = now() + interval '1 hour'; RETURN NEW; END $$;
  CREATE TRIGGER far BEFORE INSERT ON seal_sync.held FOR EACH ROW WHEN (NEW.state = 'quarantined') EXECUTE FUNCTION far()));
for my $how (qw(off on))
{
	my $name = "copied_$how";
	east("ALTER SYSTEM SET seal_sync.debug_stage_copies = $how");
	$east->reload;
	wait_until($east, 'SHOW seal_sync.debug_stage_copies', $how);
	$_->safe_psql($db, "CREATE TABLE $name (id int PRIMARY KEY, cluster_id text, v text); CREATE TABLE of_$name (id int PRIMARY KEY, cluster_id text, p int REFERENCES $name)") for $east, $west;
	east("INSERT INTO $name SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'a2' END, CASE WHEN i = 7 THEN 'bad' ELSE 'v' END FROM generate_series(1, 500) i; INSERT INTO of_$name VALUES (1, 'a', 7), (2, 'a', 8)");
	west("ALTER TABLE $name ADD CONSTRAINT not_bad CHECK (v <> 'bad')");
	$_->safe_psql($db, "SELECT seal_sync.table_add(x, cluster_column => 'cluster_id', existing_rows => 'copy') FROM unnest('{$name,of_$name}'::regclass[]) x") for $west, $east;
	east(q(SELECT seal_sync.wait_for_tables('3 min')));
	my $bad = "$name 7 quarantined a2, of_$name 1 quarantined a";
	wait_until($east, $held, $bad, "staged copies $how: refused rows of a copy are held, each for its own cluster");
	is(west("SELECT count(*) FROM $name"), 499, 'the others are there');

	# The answer is lost: what a crash of east leaves that comes before its own commit.
	east(q(SELECT seal_sync.pause('west')));
	$east->poll_query_until($db, q(SELECT count(*) = 0 FROM seal_sync.status WHERE connected_since IS NOT NULL AND direction = 'out'));
	my $batch = west("SELECT max(batch) FROM (SELECT batch FROM seal_sync.applied_0 UNION ALL SELECT batch FROM seal_sync.applied_1) x");
	east("DELETE FROM seal_sync.route_history_$_ WHERE kind = 'a' AND batch >= $batch") for 0, 1;
	east(qq(DELETE FROM seal_sync.held; INSERT INTO seal_sync.copy (peer, relation) VALUES ('west', '$name'::regclass), ('west', 'of_$name'::regclass)));
	east(q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'seal_sync route worker'));
	east(q(SELECT seal_sync.resume('west')));
	wait_until($east, $held, $bad, 'also when the answer to it was lost');
	east(q(SELECT seal_sync.wait_for_tables('3 min')));
	west("ALTER TABLE $name DROP CONSTRAINT not_bad");
	east(q(SELECT seal_sync.quarantine_retry()));
	wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'all arrive');
	dumps_equal('all rows', [ $east, $west ], $name, "of_$name");
}
done_testing();
