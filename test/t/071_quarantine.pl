# What an operator does about refused keys: look, correct the cause and ship at once, or skip.
#
# A skipped key differs on the peer until it changes again. That change is shipped whole, whichever columns it touches:
# the peer's row is not what was last sent.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = $SealSync::db;
my ($east, $west) = two_nodes();
# Rows so wide that an update is shipped without the columns that it has not touched.
add_tables('CREATE TABLE t (id int PRIMARY KEY, cluster_id text, v text, w text, wide text)', ['t'], $east, $west);
$west->safe_psql($db, q(ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad')));
wait_for_state($east, 'west', 'streaming');

my $view = q(SELECT string_agg(concat_ws(' ', key ->> 'id', kind, row_image ->> 'v', sqlstate, constraint_name, state), ', ' ORDER BY key ->> 'id') FROM seal_sync.quarantine);
my $cluster = q(SELECT state || ' ' || quarantined_keys FROM seal_sync.clusters WHERE cluster = 'a');
# So far away that only an operator can be the reason of an attempt.
my $far = q(UPDATE seal_sync.held SET next_retry_at = now() + interval '1 hour' WHERE state = 'quarantined');
my $rows = 'SELECT string_agg(concat_ws(E\' \', id, v, w), E\', \' ORDER BY id) FROM t';

sub east { return $east->safe_psql($db, $_[0]); }

# Attempts are made by themselves, later and later; then puts the next one far away, when none is under way.
sub wait_for_attempts
{
	my ($attempts) = @_;
	wait_until($east, "SELECT min(attempts) >= $attempts FROM seal_sync.held WHERE state = 'quarantined'", 't', 'it is tried again by itself');
	east($far);
	wait_for_sync($east);
	east($far);
	return;
}

# ---- seen, corrected, shipped at once

east(q(INSERT INTO t SELECT i, 'a', 'v', 'w', (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 100) j) FROM generate_series(1, 6) i));
wait_for_sync($east);
east(q(UPDATE t SET v = 'bad' WHERE id IN (1, 2); UPDATE t SET v = 'good' WHERE id = 3));
wait_until($east, $view, '1 update bad 23514 not_bad quarantined, 2 update bad 23514 not_bad quarantined', 'refused keys are in the view');
is(east($cluster), 'PREFIX_SUSPENDED 2', 'and suspend the prefix of their cluster');
wait_for_attempts(2);
is(east(q(SELECT bool_and(next_retry_at > now() + interval '50 min' AND last_failed_at > first_failed_at AND batch > 0
  AND message LIKE '%violates check constraint "not_bad"') FROM seal_sync.quarantine)), 't', 'the view says when, what and why');

$west->safe_psql($db, 'ALTER TABLE t DROP CONSTRAINT not_bad');
east(q(UPDATE t SET w = 'other' WHERE id = 5));
wait_for_sync($east);
is(east(q(SELECT count(*) FROM seal_sync.quarantine)), '2', 'its time has not come');
is(east(q(SELECT seal_sync.quarantine_retry(ids => (SELECT array_agg(id) FROM seal_sync.quarantine)))), '2', 'quarantine_retry');
wait_for_sync($east);
is(east(q(SELECT count(*) FROM seal_sync.held)), '0', 'ships at once');
dumps_equal('all rows', [ $east, $west ], 't');
is(east($cluster), 'PRIMARY 0', 'the cluster is what it was');

# ---- tried again without success

$west->safe_psql($db, q(ALTER TABLE t ADD CONSTRAINT not_worse CHECK (v <> 'worse')));
east(q(UPDATE t SET v = 'worse' WHERE id IN (1, 2, 4, 6)));
wait_until($east, $cluster, 'PREFIX_SUSPENDED 4', 'refused again');
wait_for_attempts(2);
my $attempts = east('SELECT min(attempts) FROM seal_sync.held');
east('SELECT seal_sync.quarantine_retry()');
wait_for_sync($east);
wait_until($east, "SELECT min(attempts) > $attempts FROM seal_sync.held", 't', 'an attempt without success counts');
is(east(q(SELECT min(next_retry_at - last_failed_at) >= interval '2 s' FROM seal_sync.held)), 't', 'and goes on with the pauses where they were');

# ---- skipped

is(east(q(SELECT seal_sync.quarantine_skip(relation => 't', reason => 'agreed with west'))), '4', 'quarantine_skip');
is(east($cluster), 'PRIMARY 0', 'the state of the cluster is normal');
is(east(q(SELECT count(*) FILTER (WHERE state = 'skipped' AND next_retry_at IS NULL) || '/' || count(*) FROM seal_sync.quarantine)), '4/4', 'the view still tells what differs');
is(east(q(SELECT string_agg(severity || ' ' || code, ', ' ORDER BY code) FROM seal_sync.health WHERE code <> 'inline_password')), 'ok ok, info skipped_keys', 'so does health, though all is well');
is(east(q(SELECT concat_ws('|', event, scope, actor = session_user, application, reason, detail ->> 'peer', detail ->> 'keys', at > now() - interval '5 min')
  FROM seal_sync.events ORDER BY at DESC LIMIT 1)),
	'quarantine_skip|table public.t|t|' . east('SHOW application_name') . '|agreed with west|west|4|t', 'events has who, when and why');
$attempts = east('SELECT sum(attempts) FROM seal_sync.held');
east(q(UPDATE t SET w = 'more' WHERE id = 5));
wait_for_sync($east);
is(east('SELECT sum(attempts) FROM seal_sync.held'), $attempts, 'they are not tried again');
is($west->safe_psql($db, $rows), '1 bad w, 2 bad w, 3 good w, 4 v w, 5 v more, 6 v w', 'other keys are shipped');

# Refused again when changed again: the operator has not agreed to that.
east(q(UPDATE t SET w = 'again' WHERE id = 1));
wait_until($east, $cluster, 'PREFIX_SUSPENDED 1', 'a skipped key whose next change is refused is in quarantine again');
east(q(UPDATE t SET v = 'fine' WHERE id = 1));
wait_until($east, $cluster, 'PRIMARY 0', 'and arrives with a change that the peer takes');

# A change of another column carries the whole row.
east(q(DELETE FROM t WHERE id = 4));
$west->safe_psql($db, 'ALTER TABLE t DROP CONSTRAINT not_worse');
east(q(UPDATE t SET w = 'next' WHERE id = 2));
wait_for_sync($east);
is(east($view), '6 update worse 23514 not_worse skipped', 'the next change of a skipped key is shipped');
is($west->safe_psql($db, $rows), '1 fine again, 2 worse next, 3 good w, 5 v more, 6 v w', 'whole, whichever column it touches; a delete as well');

is(east(q(SELECT seal_sync.quarantine_retry(ids => (SELECT array_agg(id) FROM seal_sync.quarantine)))), '1', 'a skipped key can be taken up again');
wait_for_sync($east);
is(east('SELECT count(*) FROM seal_sync.held'), '0', 'and is shipped');
dumps_equal('all rows', [ $east, $west ], 't');

# ---- skipped while an attempt is under way

$west->safe_psql($db, q(ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad')));
east(q(UPDATE t SET v = 'bad' WHERE id = 3));
wait_until($east, $cluster, 'PREFIX_SUSPENDED 1', 'refused');
wait_for_attempts(1);
my $blocker = $west->background_psql($db, on_error_stop => 1);
$blocker->query_safe('BEGIN; LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE');
east('SELECT seal_sync.quarantine_retry()');
$west->poll_query_until($db, q(SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass)) or die 'nobody waits';
east(q(SELECT seal_sync.quarantine_skip(peer => 'west', reason => 'too late for this attempt')));
$blocker->query_safe('COMMIT');
$blocker->quit;
east(q(UPDATE t SET w = 'after' WHERE id = 5));
wait_for_sync($east);
is(east($view), '3 update bad 23514 not_bad skipped', 'the refusal of an attempt that was under way does not undo the skip');
is(east($cluster), 'PRIMARY 0', 'nor suspend the prefix');
$west->safe_psql($db, 'ALTER TABLE t DROP CONSTRAINT not_bad');
east(q(UPDATE t SET v = 'end' WHERE id = 3));
wait_for_sync($east);
dumps_equal('all rows', [ $east, $west ], 't');
done_testing();
