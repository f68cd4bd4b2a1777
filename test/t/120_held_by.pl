# Why a key is held: the key that is the cause, what stands on the peer, and what becomes of dependants when the cause heals,
# is tried again or is skipped.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = $SealSync::db;
my ($east, $west) = two_nodes();
add_tables(q(CREATE TABLE parent (id int PRIMARY KEY, cluster_id text, v text, wide text);
  CREATE TABLE child (id int PRIMARY KEY, cluster_id text, p bigint REFERENCES parent);
  CREATE TABLE grandchild (id int PRIMARY KEY, cluster_id text, c int REFERENCES child);
  CREATE TABLE uni (id int PRIMARY KEY, cluster_id text, u int UNIQUE)), [qw(parent child grandchild uni)], $east, $west);
$west->safe_psql($db, q(ALTER TABLE parent ADD CONSTRAINT not_bad CHECK (v <> 'bad')));
wait_for_state($east, 'west', 'streaming');

my $view = q(SELECT string_agg(concat_ws(' ', q.relation, q.key ->> 'id', q.state, (SELECT o.relation || '/' || (o.key ->> 'id') FROM seal_sync.quarantine o WHERE o.id = q.held_by)), ', '
  ORDER BY q.relation::text, (q.key ->> 'id')::int) FROM seal_sync.quarantine q);
my $far = q(UPDATE seal_sync.held SET next_retry_at = now() + interval '1 hour' WHERE state = 'quarantined');
my $id = sub { my ($table, $key) = @_; return east("SELECT id FROM seal_sync.quarantine WHERE relation = '$table'::regclass AND key ->> 'id' = '$key'") };
my @tables = qw(parent child grandchild uni);

sub east { return $east->safe_psql($db, $_[0]) }
sub west { return $west->safe_psql($db, $_[0]) }

# Attempts that are under way would put the next one where it was; then all waits for an operator.
sub still
{
	east($far);
	wait_for_sync($east);
	east($far);
	return;
}

# ---- a parent that is refused holds its children, and theirs

east(q(BEGIN; INSERT INTO parent VALUES (1, 'a', 'bad'), (2, 'a', 'good'); INSERT INTO child VALUES (11, 'a', 1), (12, 'a', 1), (13, 'a', 2);
  INSERT INTO grandchild VALUES (21, 'a', 11), (22, 'a', 13); COMMIT));
wait_until($east, $view, 'child 11 quarantined parent/1, child 12 quarantined parent/1, grandchild 21 quarantined child/11, parent 1 quarantined', 'each key names its cause');
is(west('SELECT (SELECT string_agg(id::text, \' \') FROM parent) || (SELECT string_agg(id::text, \' \') FROM child) || (SELECT string_agg(id::text, \' \') FROM grandchild)'), '21322', 'the others are there');
is(east(q(SELECT state || '|' || message || '|' || hint FROM seal_sync.clusters WHERE cluster = 'a')), 'PREFIX_SUSPENDED|peer "west" goes without 4 refused keys (child, grandchild, parent)|' .
	'See seal_sync.quarantine; correct the cause, then seal_sync.quarantine_retry() ships at once, or give keys up with seal_sync.quarantine_skip(…).', 'the cluster says for whom, and what to do');

# children that come later have the same cause
east(q(INSERT INTO child VALUES (14, 'a', 1)));
wait_until($east, "SELECT held_by = @{[ $id->('parent', 1) ]} FROM seal_sync.quarantine WHERE relation = 'child'::regclass AND key ->> 'id' = '14'", 't', 'so does one of a later batch');

# ---- a cause that heals takes its dependants along

still();
west('ALTER TABLE parent DROP CONSTRAINT not_bad');
my $batches = west('SELECT count(*) FROM seal_sync.applied_0') + west('SELECT count(*) FROM seal_sync.applied_1');
is(east("SELECT seal_sync.quarantine_retry(ids => ARRAY[@{[ $id->('parent', 1) ]}::bigint])"), '1', 'the cause is tried again');
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'all arrive, though their own time is an hour away');
is(west('SELECT count(*) FROM seal_sync.applied_0') + west('SELECT count(*) FROM seal_sync.applied_1') - $batches, 1, 'in one batch');
dumps_equal('all rows', [ $east, $west ], @tables);

# a change of the cause does the same
west(q(ALTER TABLE parent ADD CONSTRAINT not_bad CHECK (v <> 'bad') NOT VALID));
east(q(INSERT INTO parent VALUES (3, 'a', 'bad'); INSERT INTO child VALUES (15, 'a', 3); INSERT INTO grandchild VALUES (23, 'a', 15)));
wait_until($east, $view, 'child 15 quarantined parent/3, grandchild 23 quarantined child/15, parent 3 quarantined', 'refused');
still();
east(q(UPDATE parent SET v = 'good' WHERE id = 3));
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'a change that the peer takes frees the dependants');
dumps_equal('all rows', [ $east, $west ], @tables);

# ---- what keeps a parent from going

west('CREATE TABLE local (c int REFERENCES child); INSERT INTO local VALUES (12)');
east('DELETE FROM child WHERE id IN (12, 14); DELETE FROM grandchild WHERE c = 11; DELETE FROM child WHERE id = 11; DELETE FROM parent WHERE id = 1');
wait_until($east, $view, 'child 12 quarantined, parent 1 quarantined child/12', 'a parent waits for the child that cannot go');
is(east(q(SELECT kind || ' ' || (standing_image ->> 'v') || ' ' || conflicts_with::text FROM seal_sync.quarantine WHERE relation = 'parent'::regclass)),
	'delete bad {"key": {"id": 12}, "cluster": "a", "relation": "child"}', 'and shows what stands there');
still();
west('DELETE FROM local');
east("SELECT seal_sync.quarantine_retry(relation => 'child')");
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'both go');
dumps_equal('all rows', [ $east, $west ], @tables);

# ---- unique values: what stands there, whose it is, and who waits for whom

west(q(SET seal_sync.guard = off; INSERT INTO uni VALUES (200, 'a', 50)));
east(q(INSERT INTO uni VALUES (1, 'a', 10), (2, 'a', 20), (3, 'a', 30)));
wait_for_sync($east);
east(q(BEGIN; UPDATE uni SET u = 50 WHERE id = 1; UPDATE uni SET u = 10 WHERE id = 2; COMMIT));
wait_until($east, $view, 'uni 1 quarantined, uni 2 quarantined uni/1', 'a value that another refused row keeps');
is(east(q(SELECT string_agg((key ->> 'id') || ' ' || standing_image::text || ' ' || conflicts_with::text, ', ' ORDER BY key ->> 'id') FROM seal_sync.quarantine)),
	'1 {"u": 10, "id": 1, "cluster_id": "a"} {"key": {"id": 200}, "cluster": "a", "relation": "uni"}, 2 {"u": 20, "id": 2, "cluster_id": "a"} {"key": {"id": 1}, "cluster": "a", "relation": "uni"}',
	'the row that stands there, and the one that is in the way');
is(east(q(SELECT row_image ->> 'u' FROM seal_sync.quarantine WHERE key ->> 'id' = '1')), '50', 'beside what is sent');
still();
west(q(SET seal_sync.guard = off; DELETE FROM uni WHERE id = 200));
east("SELECT seal_sync.quarantine_retry(ids => ARRAY[@{[ $id->('uni', 1) ]}::bigint])");
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'when the value is free both arrive');
dumps_equal('all rows', [ $east, $west ], @tables);

# ---- large values are cut; who may see it

west(q(ALTER TABLE parent DROP CONSTRAINT not_bad));
east(q(INSERT INTO parent VALUES (5, 'a', 'here', repeat('€', 30000)), (6, 'a', 'x', repeat('x', 200))));
wait_for_sync($east);
west(q(ALTER TABLE parent ADD CONSTRAINT not_bad CHECK (v <> 'bad') NOT VALID));
east(q(UPDATE parent SET v = 'bad' WHERE id IN (5, 6); UPDATE parent SET v = 'bad', wide = repeat('y', 300) WHERE id = 2));
wait_until($east, q(SELECT count(*) FROM seal_sync.quarantine), '3', 'refused');
is(east(q(SELECT (standing_image ->> 'wide') || '|' || (standing_image ->> 'v') FROM seal_sync.quarantine WHERE key ->> 'id' = '5')), '... (90000 bytes)|here', 'a large value is not told');
is(east(q(SELECT length(standing_image ->> 'wide') || (standing_image ->> 'v') FROM seal_sync.quarantine WHERE key ->> 'id' = '6')), '200x', 'a short one is');
is(east(q(SELECT standing_image::text FROM seal_sync.quarantine WHERE key ->> 'id' = '2')), '{"v": "good", "id": 2, "wide": null, "cluster_id": "a"}', 'nulls');
east(q(CREATE ROLE reader LOGIN IN ROLE seal_sync_read_data; CREATE ROLE blind LOGIN IN ROLE seal_sync_read_data; CREATE ROLE watcher LOGIN IN ROLE seal_sync_monitor; GRANT SELECT ON parent TO reader));
my $seen = q(SELECT count(*) || ' ' || count(standing_image) || ' ' || count(conflicts_with) || ' ' || count(row_image) FROM seal_sync.quarantine);
is($east->safe_psql($db, $seen, extra_params => [ '-U', 'reader' ]), '3 3 0 3', 'images are for those who may select');
is($east->safe_psql($db, $seen, extra_params => [ '-U', 'blind' ]), '3 0 0 0', 'not for others');
east('ALTER TABLE parent ENABLE ROW LEVEL SECURITY; CREATE POLICY all_rows ON parent TO reader USING (true)');
is($east->safe_psql($db, $seen, extra_params => [ '-U', 'reader' ]), '3 0 0 3', 'not where row security could hide a row');
east('ALTER TABLE parent DISABLE ROW LEVEL SECURITY');
isnt($east->psql($db, 'SELECT standing FROM seal_sync.held', extra_params => [ '-U', 'watcher' ]), 0, 'monitors read neither the table');
isnt($east->psql($db, $seen, extra_params => [ '-U', 'watcher' ]), 0, 'nor the view');

# ---- a cause that is skipped

west(q(ALTER TABLE parent DROP CONSTRAINT not_bad));
east('SELECT seal_sync.quarantine_retry()');
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'all arrive');
west(q(ALTER TABLE parent ADD CONSTRAINT not_bad CHECK (v <> 'bad') NOT VALID));
east(q(INSERT INTO parent VALUES (7, 'a', 'bad'); INSERT INTO child VALUES (17, 'a', 7)));
wait_until($east, $view, 'child 17 quarantined parent/7, parent 7 quarantined', 'refused');
still();
my ($out, $err);
my $of_child = $id->('child', 17);
my $of_parent = $id->('parent', 7);
$east->psql($db, "SELECT seal_sync.quarantine_skip(ids => ARRAY[$of_parent\::bigint], reason => 'test')", stdout => \$out, stderr => \$err);
like($err, qr/NOTICE:  1 keys that depend on skipped ones stay in quarantine, the lowest id is $of_child\n.*\nHINT:  Skip them as well, or see held_by/, 'skipping a cause asks what becomes of its dependants');
like(east(q(SELECT message FROM seal_sync.quarantine WHERE relation = 'child'::regclass)), qr/; key $of_parent, on which it depends, was skipped: it waits for that key to change$/, 'and say so');
is(east(q(SELECT state FROM seal_sync.clusters WHERE cluster = 'a')), 'PREFIX_SUSPENDED', 'the prefix stays suspended');
east(q(UPDATE parent SET v = 'fine' WHERE id = 7));
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'when the skipped key changes, they follow');
dumps_equal('all rows', [ $east, $west ], @tables);

# nothing of a row in logs
for my $node ($east, $west)
{
	unlike(slurp_file($node->logfile), qr/€|90000 bytes/, 'no image in the log of ' . $node->name);
}
done_testing();
