# Held keys and the life of nodes: restarts and crashes of either server, a peer that falls back, a connection that breaks while an
# operator decides, tables, peers and clusters that are taken out, a peer of an earlier version.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = $SealSync::db;
my ($east, $west) = two_nodes();
add_tables(q(CREATE TABLE t (id int PRIMARY KEY, cluster_id text, v text); CREATE TABLE child (id int PRIMARY KEY, cluster_id text, p int REFERENCES t);
  CREATE TABLE other (id int PRIMARY KEY, cluster_id text)), [qw(t child other)], $east, $west);
sub east { return $east->safe_psql($db, $_[0]) }
sub west { return $west->safe_psql($db, $_[0]) }
my $held = q(SELECT coalesce(string_agg(concat_ws(' ', relation, key ->> 'id', state), ', ' ORDER BY relation::text, (key ->> 'id')::int), 'none') FROM seal_sync.quarantine);
my $far = q(UPDATE seal_sync.held SET next_retry_at = now() + interval '1 hour' WHERE state = 'quarantined');
my $next = 0;
sub ship { $next++; east("INSERT INTO other VALUES ($next, 'a')"); wait_for_sync($east); return }
sub refuse { west(q(ALTER TABLE t ADD CONSTRAINT not_bad CHECK (v <> 'bad') NOT VALID)); return }
sub accept_all { west(q(ALTER TABLE t DROP CONSTRAINT not_bad)); return }
sub still { east($far); ship(); east($far); return }
sub nothing_held
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($east, $held, 'none', $name);
}
sub pause_route
{
	east(q(SELECT seal_sync.pause('west', 'test')));
	$east->poll_query_until($db, q(SELECT count(*) = 0 FROM seal_sync.status WHERE connected_since IS NOT NULL AND direction = 'out'));
	$west->poll_query_until($db, q(SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'seal_sync/west'));
	return;
}
sub last_batch { return west('SELECT max(batch) FROM (SELECT batch FROM seal_sync.applied_0 UNION ALL SELECT batch FROM seal_sync.applied_1) x') }
refuse();
wait_for_state($east, 'west', 'streaming');

# ---- a peer that falls back to a state before a held key had arrived

east(q(INSERT INTO t VALUES (1, 'a', 'bad'), (2, 'a', 'good'); INSERT INTO child VALUES (11, 'a', 1)));
wait_until($east, $held, 'child 11 quarantined, t 1 quarantined', 'two keys are refused');
still();
ship() for 1 .. 3;
my $batch = last_batch();
accept_all();
east('SELECT seal_sync.quarantine_retry()');
nothing_held('they arrive later');
ship();
is(east('SELECT count(*) FROM seal_sync.held_arrived'), 2, 'which is remembered');
pause_route();
west("SET seal_sync.guard = off; DELETE FROM child; DELETE FROM t WHERE id = 1; DELETE FROM other WHERE id = $next");
west("DELETE FROM seal_sync.applied_$_ WHERE batch > $batch") for 0, 1;
east(q(SELECT seal_sync.resume('west')));
ship();
nothing_held('and when the peer falls back');
dumps_equal('they are sent again', [ $east, $west ], qw(t child other));

# what it cannot fall back behind any more is forgotten
is(east('SELECT count(*) > 0 FROM seal_sync.held_arrived'), 't', 'remembered again');
east(q(ALTER SYSTEM SET seal_sync.resend_window = 0; ALTER SYSTEM SET seal_sync.debug_rotation_period = '50ms'));
$east->reload;
ship();
wait_until($east, 'SELECT count(*) FROM seal_sync.held_arrived', '0', 'until the resend window has passed');
east(q(ALTER SYSTEM RESET seal_sync.resend_window; ALTER SYSTEM RESET seal_sync.debug_rotation_period));
$east->reload;

# ---- restarts and crashes

refuse();
east(q(INSERT INTO t VALUES (3, 'a', 'bad'); INSERT INTO child VALUES (13, 'a', 3); INSERT INTO t VALUES (4, 'a', 'bad')));
wait_until($east, $held, 'child 13 quarantined, t 3 quarantined, t 4 quarantined', 'three keys are refused');
east(q(SELECT seal_sync.quarantine_skip(ids => ARRAY(SELECT id FROM seal_sync.quarantine WHERE key ->> 'id' = '4'), reason => 'test')));
still();
my $seen = q(SELECT string_agg(concat_ws(' ', id, peer, cluster, relation, key, state, held_by, attempts, next_retry_at, sqlstate), ', ' ORDER BY id) FROM seal_sync.quarantine);
my $before = east($seen);
$east->restart;
ship();
is(east($seen), $before, 'a restart of this server changes nothing of them');
$west->restart;
ship();
is(east($seen), $before, 'nor does one of the peer');
east(q(UPDATE seal_sync.held SET next_retry_at = now() WHERE state = 'quarantined'));
wait_until($east, q(SELECT min(attempts) >= 3 FROM seal_sync.quarantine WHERE state = 'quarantined'), 't', 'they are tried again by themselves afterwards');
for my $node ($east, $west)
{
	$node->kill9;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default) { last if $node->start(fail_ok => 1); select undef, undef, undef, 0.1 }
}
ship();
is(east($held), 'child 13 quarantined, t 3 quarantined, t 4 skipped', 'crashes of both lose none of them');
accept_all();
east('SELECT seal_sync.quarantine_retry()');
wait_until($east, $held, 't 4 skipped', 'what is not skipped arrives');
east(q(UPDATE t SET v = 'well' WHERE id = 4));
nothing_held('with its next change the skipped one as well');
dumps_equal('all rows', [ $east, $west ], qw(t child other));

# ---- the connection breaks while an operator decides about a key that has arrived

refuse();
east(q(INSERT INTO t VALUES (5, 'a', 'bad')));
wait_until($east, $held, 't 5 quarantined', 'refused');
my $operator = $east->background_psql($db, on_error_stop => 1);
$operator->query_safe('BEGIN');
$operator->query_safe("SELECT seal_sync.quarantine_skip(relation => 't', reason => 'not sure')");
east(q(UPDATE t SET v = 'arrives' WHERE id = 5));
ship();
is(west('SELECT v FROM t WHERE id = 5'), 'arrives', 'it arrives with its next change, while he thinks');
west(q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'sync_in'));
ship();
$operator->query_safe('COMMIT');
ship();
nothing_held('what has arrived is not skipped, though the connection is another one');
$operator->quit;

# ---- a table is taken out

east(q(INSERT INTO t VALUES (6, 'a', 'bad'); INSERT INTO child VALUES (16, 'a', 6)));
wait_until($east, q(SELECT count(held_by) || ' ' || count(*) FROM seal_sync.quarantine), '1 2', 'refused, with a dependant');
east(q(SELECT seal_sync.table_remove('t')));
is(east($held), 'child 16 quarantined', 'its keys go with it');
is(east('SELECT held_by FROM seal_sync.quarantine'), '', 'no key is held by one that is gone');
ship();
is(east(q(SELECT state || quarantined_keys FROM seal_sync.clusters WHERE cluster = 'a')), 'PREFIX_SUSPENDED1', 'what depended on them is still missing there');
east(q(SELECT seal_sync.table_add('t', cluster_column => 'cluster_id')));
wait_until($east, q(SELECT string_agg(relation || ' ' || (key ->> 'id'), ', ' ORDER BY relation::text) FROM seal_sync.quarantine), 'child 16, t 6', 'added again, it is copied, and the same key refused');

# ... while a batch of it is on its way
my $blocker = $west->background_psql($db, on_error_stop => 1);
east($far);
$blocker->query_safe('BEGIN; LOCK TABLE t IN SHARE ROW EXCLUSIVE MODE');
east(q(INSERT INTO t SELECT i, 'a', 'bad' FROM generate_series(100, 109) i));
$west->poll_query_until($db, q(SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass)) or die 'nobody waits';
east(q(SELECT seal_sync.table_remove('t')));
$blocker->query_safe('COMMIT');
$blocker->quit;
ship();
wait_until($east, q(SELECT count(*) FROM seal_sync.held h WHERE NOT EXISTS (SELECT FROM seal_sync.table_rule r WHERE r.relation = h.relation)), '0', 'no key of a table that is not registered is held');
accept_all();
east(q(SELECT seal_sync.table_add('t', cluster_column => 'cluster_id')));
east(q(SELECT seal_sync.wait_for_tables('3 min')));
east('SELECT seal_sync.quarantine_retry()');
nothing_held('all arrive');
dumps_equal('all rows', [ $east, $west ], qw(t child other));

# ---- a peer of an earlier version, which tells nothing of what stands there

$west->safe_psql($db, q(ALTER FUNCTION seal_sync.wire_hello(bytea) RENAME TO wire_hello_now;
  CREATE FUNCTION seal_sync.wire_hello(bytea) RETURNS bytea LANGUAGE sql VOLATILE SECURITY DEFINER
    AS 'SELECT pg_catalog.substring(a, 1, pg_catalog.length(a) - 1) FROM seal_sync.wire_hello_now($1) a';
  GRANT EXECUTE ON FUNCTION seal_sync.wire_hello(bytea) TO seal_sync_peer;
  ALTER FUNCTION seal_sync.wire_apply(bytea) RENAME TO wire_apply_now;
  CREATE FUNCTION seal_sync.wire_apply(bytea) RETURNS bytea LANGUAGE plpgsql VOLATILE SECURITY DEFINER AS $$ BEGIN
    IF pg_catalog.get_byte($1, 64) & 252 <> 0 THEN RAISE EXCEPTION 'damaged' USING ERRCODE = '08P01'; END IF;
    RETURN seal_sync.wire_apply_now($1); END $$;
  GRANT EXECUTE ON FUNCTION seal_sync.wire_apply(bytea) TO seal_sync_peer));
west(q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'sync_in'));
refuse();
east(q(INSERT INTO t VALUES (7, 'a', 'bad'); INSERT INTO child VALUES (17, 'a', 7)));
wait_until($east, $held, 'child 17 quarantined, t 7 quarantined', 'a peer of an earlier version refuses');
is(east(q(SELECT count(sqlstate) || ' ' || count(message) || ' ' || count(held_by) || ' ' || count(standing_image) || ' ' || count(conflicts_with) FROM seal_sync.quarantine)), '2 2 0 0 0', 'and says why, but not what stands there');
west(q(DROP FUNCTION seal_sync.wire_hello(bytea), seal_sync.wire_apply(bytea); ALTER FUNCTION seal_sync.wire_hello_now(bytea) RENAME TO wire_hello; ALTER FUNCTION seal_sync.wire_apply_now(bytea) RENAME TO wire_apply));
west(q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'sync_in'));
east('SELECT seal_sync.quarantine_retry()');
wait_until($east, q(SELECT count(held_by) FROM seal_sync.quarantine), '1', 'once it is upgraded it does');

# ---- the peer is taken out

east(q(SELECT seal_sync.peer_drop('west')));
is(east('SELECT (SELECT count(*) FROM seal_sync.held) + (SELECT count(*) FROM seal_sync.held_arrived)'), 0, 'its keys go with it');
is(east(q(SELECT state || quarantined_keys FROM seal_sync.clusters WHERE cluster = 'a')), 'PRIMARY0', 'nobody goes without any');
accept_all();
west(q(SELECT seal_sync.peer_drop('east'); SELECT seal_sync.peer_create('east')));
east(q(SELECT seal_sync.peer_create('west')));
east(q(SELECT seal_sync.wait_for_tables('3 min')));
wait_for_sync($east);
dumps_equal('made anew, it gets all', [ $east, $west ], qw(t child other));
done_testing();
