# An operator decides about refused keys in a transaction that he leaves open. The route waits for none of its rows: other
# changes go on, the same key may arrive or be refused again meanwhile, and what he decided holds once he commits.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = $SealSync::db;
my ($east, $west) = two_nodes();
add_tables('CREATE TABLE t (id int PRIMARY KEY, cluster_id text, v text)', ['t'], $east, $west);
$west->safe_psql($db, q(ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad')));
wait_for_state($east, 'west', 'streaming');

sub east { return $east->safe_psql($db, $_[0]) }
my $held = q(SELECT string_agg(concat_ws(' ', key ->> 'id', state), ', ' ORDER BY key ->> 'id') FROM seal_sync.quarantine);
my $rows = q(SELECT string_agg(id || ' ' || v, ', ' ORDER BY id) FROM t);
my $waits = q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'seal_sync route worker' AND wait_event_type = 'Lock');
sub id_of { return east("SELECT id FROM seal_sync.quarantine WHERE key ->> 'id' = '$_[0]'") }

east(q(INSERT INTO t VALUES (1, 'a', 'bad'), (2, 'a', 'bad'), (3, 'a', 'bad'), (4, 'a', 'good')));
wait_until($east, $held, '1 quarantined, 2 quarantined, 3 quarantined', 'three keys are refused');

my $operator = $east->background_psql($db, on_error_stop => 1);
$operator->query_safe('BEGIN');
$operator->query_safe("SELECT seal_sync.quarantine_skip(ids => '{@{[ id_of(1) ]},@{[ id_of(2) ]}}', reason => 'not sure yet')");

# key 1 arrives, key 2 is refused again, key 3 is tried by itself, other keys flow
my $attempts = east('SELECT max(attempts) FROM seal_sync.held');
east(q(UPDATE t SET v = 'fine' WHERE id = 1; UPDATE t SET cluster_id = 'a', v = 'bad' WHERE id = 2; INSERT INTO t VALUES (5, 'a', 'other')));
wait_for_sync($east);
is($west->safe_psql($db, $rows), '1 fine, 4 good, 5 other', 'what can arrive does, while the operator thinks');
wait_until($east, "SELECT max(attempts) > $attempts FROM seal_sync.held", 't', 'other keys are tried again');
is(east($waits), '0', 'the worker waits for no lock');
my $before = east('SELECT attempts FROM seal_sync.held WHERE id = ' . id_of(2));
east(q(INSERT INTO t VALUES (6, 'a', 'another')));
wait_for_sync($east);
is(east('SELECT attempts FROM seal_sync.held WHERE id = ' . id_of(2)), $before, 'a key about which somebody decides is not tried meanwhile');

$operator->query_safe('COMMIT');
east(q(INSERT INTO t VALUES (7, 'a', 'next')));
wait_until($east, $held, '2 skipped, 3 quarantined', 'then the key that has arrived is not held, the other one is skipped');
is(east(q(SELECT state || quarantined_keys FROM seal_sync.clusters WHERE cluster = 'a')), 'PREFIX_SUSPENDED1', 'and counts no more');

# a decision that is taken back
$operator->query_safe('BEGIN');
$operator->query_safe("SELECT seal_sync.quarantine_skip(peer => 'west', reason => 'a mistake')");
east(q(UPDATE t SET v = 'well' WHERE id = 3; INSERT INTO t VALUES (8, 'a', 'eight')));
wait_for_sync($east);
is($west->safe_psql($db, $rows), '1 fine, 3 well, 4 good, 5 other, 6 another, 7 next, 8 eight', 'a locked key arrives with its change');
$operator->query_safe('ROLLBACK');
wait_until($east, $held, '2 skipped', 'and is gone when the operator has gone back');

# the same with quarantine_retry, and a lock that nobody of us takes
$west->safe_psql($db, 'ALTER TABLE t DROP CONSTRAINT not_bad');
$operator->query_safe('BEGIN');
$operator->query_safe("SELECT seal_sync.quarantine_retry(ids => '{@{[ id_of(2) ]}}')");
east(q(INSERT INTO t VALUES (9, 'a', 'nine')));
wait_for_sync($east);
is(east($held), '2 skipped', 'nothing before the commit');
$operator->query_safe('COMMIT');
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'at once after it');
$operator->quit;
dumps_equal('all rows', [ $east, $west ], 't');
done_testing();
