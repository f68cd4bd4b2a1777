# Ten thousand keys are refused, half of them for the other half: each names its cause, the route goes on beside them, and all
# arrive, parents before or with their children, once the cause is gone. SEAL_LONG: two hundred thousand.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $db = $SealSync::db;
my $count = $ENV{SEAL_LONG} ? 100_000 : 5000;
my ($east, $west) = two_nodes(conf => "seal_sync.reply_timeout = '600s'");
add_tables(q(CREATE TABLE p (id int PRIMARY KEY, cluster_id text, v text); CREATE TABLE c (id int PRIMARY KEY, cluster_id text, p int REFERENCES p)), [ 'p', 'c' ], $east, $west);
$west->safe_psql($db, q(ALTER TABLE p ADD CONSTRAINT not_bad CHECK (v <> 'bad')));
wait_for_state($east, 'west', 'streaming');
sub east { return $east->safe_psql($db, $_[0]) }

my $start = time;
east(qq(BEGIN; INSERT INTO p SELECT i, 'a', CASE WHEN i > $count THEN 'good' ELSE 'bad' END FROM generate_series(1, $count + 10) i; INSERT INTO c SELECT i, 'a', i FROM generate_series(1, $count + 10) i; COMMIT));
wait_until($east, q(SELECT count(*) FROM seal_sync.held WHERE state = 'quarantined'), 2 * $count, 'all of them are in quarantine');
note(sprintf '%d keys refused: %.1f s', 2 * $count, time - $start);
is($west->safe_psql($db, 'SELECT (SELECT count(*) FROM p) || \' \' || (SELECT count(*) FROM c)'), '10 10', 'the good ones are there');
is(east(q(SELECT count(held_by) || ' ' || count(*) FILTER (WHERE held_by IS NULL AND relation = 'p'::regclass) FROM seal_sync.quarantine)), "$count $count", 'each child names its parent');
is(east(q(SELECT count(*) FROM seal_sync.held h JOIN seal_sync.held o ON o.id = (SELECT q.held_by FROM seal_sync.quarantine q WHERE q.id = h.id) WHERE h.key = o.key AND h.relation <> o.relation
  AND h.id % 500 = 0)) > 0, 1, 'its own');

# the route goes on beside them, tried again or not
$start = time;
for my $i (1 .. 3) { east("INSERT INTO p VALUES ($i + 10000000, 'a', 'more')"); wait_for_sync($east) }
note(sprintf 'three changes beside them: %.1f s', time - $start);
is($west->safe_psql($db, q(SELECT count(*) FROM p WHERE v = 'more')), 3, 'other changes arrive');

# an update of some columns of a held key is shipped whole, however many are held
east("UPDATE p SET v = 'good' WHERE id = 7");
wait_for_sync($east);
is($west->safe_psql($db, 'SELECT v FROM p WHERE id = 7'), 'good', 'so does a change of one of them');
wait_until($east, "SELECT count(*) FROM seal_sync.held WHERE key IN (SELECT key FROM seal_sync.held WHERE seal_sync.key_as_json(relation, key) ->> 'id' = '7')", '0', 'and its child with it');

east(q(UPDATE seal_sync.held SET next_retry_at = now() + interval '1 hour' WHERE state = 'quarantined'));
wait_for_sync($east);
east(q(UPDATE seal_sync.held SET next_retry_at = now() + interval '1 hour' WHERE state = 'quarantined'));
$west->safe_psql($db, 'ALTER TABLE p DROP CONSTRAINT not_bad');
$start = time;
east("SELECT seal_sync.quarantine_retry(relation => 'p')");
wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'the parents are tried again, and all arrive');
note(sprintf 'arrived: %.1f s', time - $start);
dumps_equal('all rows', [ $east, $west ], 'p', 'c');
done_testing();
