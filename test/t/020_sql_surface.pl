# The SQL surface where one server is not enough: dump and restore of a node, views and health of a working pair.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes();
my $db = 'postgres';
my $dir = PostgreSQL::Test::Utils::tempdir;

sub value { my ($node, $sql, $database) = @_; return $node->safe_psql($database // $db, $sql) }
sub fails
{
	my ($name, $node, $sql, $pattern, $database) = @_;
	my ($rc, $out, $err) = $node->psql($database // $db, $sql);
	like($err, $pattern, $name) && isnt($rc, 0, "$name: refused");
}

# Each side knows which "east" and which "west" it deals with, before others of that name appear: the first one counts
wait_until($_, q(SELECT bool_and(connected_since IS NOT NULL) FROM seal_sync.status)) for $east, $west;

# A node is dumped as rules. The restored database is inert until it gets an identity of its own.
$east->safe_psql($db, <<'SQL');
CREATE ROLE app_owner LOGIN;
CREATE SCHEMA app AUTHORIZATION app_owner;
CREATE TABLE app.seal (id text PRIMARY KEY, cluster_id text NOT NULL, img bytea);
CREATE TABLE app.part (id int, cluster_id text, PRIMARY KEY (id, cluster_id)) PARTITION BY LIST (cluster_id);
CREATE TABLE app.part_a PARTITION OF app.part FOR VALUES IN ('a');
CREATE TABLE app.part_b PARTITION OF app.part FOR VALUES IN ('b');
ALTER TABLE app.seal OWNER TO app_owner;
ALTER TABLE app.part OWNER TO app_owner;
ALTER TABLE app.part_a OWNER TO app_owner;
ALTER TABLE app.part_b OWNER TO app_owner;
SELECT seal_sync.table_add('app.seal', 'cluster_id'), seal_sync.table_add('app.part', 'cluster_id');
INSERT INTO app.seal VALUES ('1', 'a', 'x');
INSERT INTO app.part VALUES (1, 'a');
SQL
$east->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/node.dump", '-d', $east->connstr($db) ], 'dump of a node');
for my $copy ('restored', 'dropped')
{
	$east->safe_psql($db, "CREATE DATABASE $copy TEMPLATE template0");
	$east->command_ok([ 'pg_restore', '--exit-on-error', '-d', $east->connstr($copy), "$dir/node.dump" ], "restore into $copy");
}
is(value($east, 'SELECT count(*) FROM seal_sync.local_node', 'restored'), '0', 'no identity is restored');
is(value($east, 'SELECT relation, cluster_column FROM seal_sync.table_rule ORDER BY relation::text', 'restored'),
	"app.part|cluster_id\napp.seal|cluster_id", 'rules are');
is(value($east, 'SELECT peer, server FROM seal_sync.peer', 'restored'), 'west|west', 'peers are');
is(value($east, q(SELECT count(*) FROM seal_sync.health WHERE code = 'no_identity'), 'restored'), '1', 'health says what is missing');
$east->safe_psql('restored', q(INSERT INTO app.seal VALUES ('2', 'b', 'y'), ('3', 'nowhere', 'z')));
is(value($east, 'SELECT count(*) FROM seal_sync.change_log_0', 'restored'), '0', 'inert: nothing is recorded or refused');
$east->safe_psql('restored', q(DELETE FROM app.seal WHERE id = '3'));
$east->safe_psql('restored', q(SELECT seal_sync.node_create('east')));
is(value($east, q(SELECT count(*), bool_and(tgenabled = 'A'), bool_and(tgname LIKE '%\_' || r.relation::oid)
   FROM pg_trigger t JOIN seal_sync.table_rule r ON r.relation::oid = t.tgrelid WHERE t.tgname ~ '^seal_sync'), 'restored'),
	'4|t|t', 'with an identity the triggers bear the new numbers');
is(value($east, q(SELECT count(*) FROM seal_sync.health WHERE code = 'capture_disabled'), 'restored'), '0', 'and none is missing');
fails('the guard works again', $east, q(INSERT INTO app.seal VALUES ('4', 'b', 'y')), qr/cluster "b" has its primary on node "west"/, 'restored');
# What is said to the real west must be refused there: this east is another one.
$east->safe_psql('restored', q(INSERT INTO app.seal VALUES ('5', 'a', 'y')));
is(value($east, q(SELECT relation, kind, key FROM seal_sync.pending), 'restored'), 'app.seal|insert|{"id": "5"}', 'changes are recorded');
$east->safe_psql('restored', 'SELECT seal_sync.node_drop()');
$east->safe_psql('dropped', 'DROP EXTENSION seal_sync');
is(value($east, 'SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal', 'dropped'), '0', 'DROP EXTENSION leaves nothing of a restored node');
is(value($east, 'SELECT count(*) FROM pg_foreign_server', 'dropped'), '0', 'nor servers');

# A table goes to a database of the extension by its owner's hand
$east->command_ok([ 'pg_dump', '-n', 'app', '-f', "$dir/app.sql", '-d', $east->connstr($db) ], 'dump of a schema');
$east->safe_psql($db, 'CREATE DATABASE other OWNER app_owner');
$east->safe_psql('other', 'CREATE EXTENSION seal_sync');
$east->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/app.sql", '-U', 'app_owner', '-d', $east->connstr('other') ],
	'restore by the owner of the tables');
$east->safe_psql('other', 'DROP EXTENSION seal_sync');
is(value($east, 'SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal', 'other'), '0', 'and DROP EXTENSION leaves nothing there');
$east->safe_psql($db, "DROP DATABASE $_") for qw(restored dropped other);

# What does not fit the peer is named, and nothing else is
wait_until($east, q(SELECT string_agg(code, ' ') = 'table_waiting_peer table_waiting_peer' FROM seal_sync.health WHERE severity <> 'info'));
is(value($east, q(SELECT code, scope FROM seal_sync.health WHERE code = 'table_waiting_peer' ORDER BY scope)),
	"table_waiting_peer|table app.part\ntable_waiting_peer|table app.seal", 'tables that the peer does not know are named');
is(value($east, q(SELECT relation, state, pending_keys FROM seal_sync.stat_table ORDER BY 1)),
	"app.seal|waiting_peer|1\napp.part|waiting_peer|1", 'and wait');
is(value($east, q(SELECT relation, key, state, waiting_for FROM seal_sync.pending ORDER BY 1)),
	qq(app.seal|{"id": "1"}|waiting_peer|{west}\napp.part|{"id": 1, "cluster_id": "a"}|waiting_peer|{west}), 'pending shows their keys');
$west->safe_psql($db, <<'SQL');
CREATE SCHEMA app;
CREATE TABLE app.seal (id text PRIMARY KEY, cluster_id text NOT NULL, img bytea);
CREATE TABLE app.part (id int, cluster_id text, PRIMARY KEY (id, cluster_id));
SELECT seal_sync.table_add('app.seal', 'cluster_id'), seal_sync.table_add('app.part', 'cluster_id');
SQL
wait_until($east, q(SELECT bool_and(state = 'synced' AND pending_keys = 0) FROM seal_sync.stat_table));
is(value($west, q(SELECT (SELECT count(*) FROM app.seal), (SELECT count(*) FROM app.part))), '1|1', 'known, they arrive');

is(value($_, q(SELECT severity, code, scope, message FROM seal_sync.health WHERE severity <> 'info')), 'ok|ok|node|all is well', $_->name . ' is well')
	for $east, $west;

# sync_now returns when the change is there
$east->safe_psql($db, q(INSERT INTO app.seal VALUES ('10', 'a', 'x')));
$east->safe_psql($db, 'SELECT seal_sync.sync_now()');
is(value($west, q(SELECT count(*) FROM app.seal WHERE id = '10')), '1', 'sync_now waits for the change');

# Refused keys
$west->safe_psql($db, 'ALTER TABLE app.seal ADD CONSTRAINT small CHECK (length(img) < 10)');
$east->safe_psql($db, q(INSERT INTO app.seal VALUES ('11', 'a', 'a seal that is too large'), ('12', 'a', 'small')));
$east->safe_psql($db, 'SELECT seal_sync.sync_now()');
is(value($east, q(SELECT cluster, relation, key, row_image ->> 'cluster_id', sqlstate, constraint_name, state FROM seal_sync.quarantine)),
	'a|app.seal|{"id": "11"}|a|23514|small|quarantined', 'a refused key is in quarantine, with its row');
is(value($east, q(SELECT state, quarantined_keys, message FROM seal_sync.clusters WHERE cluster = 'a')),
	'PREFIX_SUSPENDED|1|peer "west" goes without 1 refused keys (app.seal)', 'the cluster says so');
is(value($east, q(SELECT severity, scope FROM seal_sync.health WHERE code = 'quarantined_keys')), 'critical|table app.seal', 'and health');
is(value($west, q(SELECT count(*) FROM app.seal WHERE id = '12')), '1', 'its neighbour went through');
$west->safe_psql($db, 'ALTER TABLE app.seal DROP CONSTRAINT small');
wait_until($east, q(SELECT count(*) = 0 FROM seal_sync.quarantine));
is(value($west, q(SELECT count(*) FROM app.seal WHERE id = '11')), '1', 'tried again it goes through');

# Speed is a moving figure: a small batch does not hide what a large one has shown
$east->safe_psql($db, q(INSERT INTO app.seal SELECT 'speed' || i, 'a', '' FROM generate_series(1, 20000) i));
wait_for_sync($east);
my $speed = value($east, q(SELECT keys_per_second FROM seal_sync.status WHERE direction = 'out'));
cmp_ok($speed, '>', 1000, 'keys per second');
for (1 .. 3) { $east->safe_psql($db, q(UPDATE app.seal SET img = img || '.' WHERE id = '10')); wait_for_sync($east) }
cmp_ok(value($east, q(SELECT keys_per_second FROM seal_sync.status WHERE direction = 'out')), '>', $speed / 2, 'three single rows later');
cmp_ok(value($west, q(SELECT keys_applied FROM seal_sync.stat_table WHERE relation = 'app.seal'::regclass AND peer = 'east')), '>=', 20003,
	'the receiver counts what it has applied');
$east->safe_psql($db, q(DELETE FROM app.seal WHERE id LIKE 'speed%'));
wait_for_sync($east);

# Pause, and a peer that is away: pending and lag tell the truth
$east->safe_psql($db, q(SELECT seal_sync.pause('west', 'maintenance')));
wait_until($east, q(SELECT state = 'paused' FROM seal_sync.status WHERE direction = 'out'));
$east->safe_psql($db, q(UPDATE app.seal SET img = 'y' WHERE cluster_id = 'a'));
is(value($east, q(SELECT state, state_reason, pending_keys FROM seal_sync.status WHERE direction = 'out')), 'paused|maintenance|4', 'paused, changes wait');
fails('sync_now does not wait for a paused peer', $east, 'SELECT seal_sync.sync_now()', qr/paused/);
$east->safe_psql($db, q(SELECT seal_sync.resume('west')));
wait_until($east, q(SELECT state = 'streaming' AND pending_keys = 0 FROM seal_sync.status WHERE direction = 'out'));
$west->stop('immediate');
$east->safe_psql($db, q(UPDATE app.seal SET img = 'z' WHERE cluster_id = 'a'));
wait_until($east, q(SELECT state = 'retrying' AND pending_keys = 4 AND lag > '0' FROM seal_sync.status WHERE direction = 'out'));
fails('sync_now gives up in time', $east, q(SELECT seal_sync.sync_now(timeout => '200 ms')),
	qr/timed out after 0.2 s while waiting for peer "west"\nDETAIL:  4 of 4 keys are not there yet; state "retrying"/);
is(value($east, q(SELECT severity FROM seal_sync.health WHERE code = 'peer_retrying')), 'warning', 'health knows');
$west->start;
wait_for_sync($east);
is(value($east, q(SELECT state, pending_keys, lag FROM seal_sync.status WHERE direction = 'out')), 'streaming|0|00:00:00', 'and it is over');
wait_until($west, q(SELECT accepts_writes = false AND staleness < '10 s' AND batch_applied > 0 FROM seal_sync.clusters WHERE cluster = 'a'));

# A server that leads elsewhere
$east->safe_psql($db, 'CREATE DATABASE north');
$east->safe_psql('north', q(CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('north')));
$west->safe_psql($db, sprintf(q(CREATE SERVER wrong FOREIGN DATA WRAPPER seal_sync OPTIONS (host '%s', port '%s', dbname 'north');
  CREATE USER MAPPING FOR seal_sync_worker SERVER wrong OPTIONS (user 'sync_in', password 'pw')), $east->host, $east->port));
fails('the wrong node is an error', $west, q(SELECT seal_sync.peer_create('south', 'wrong')), qr/server "wrong" leads to node "north", not to node "south"/);
is(value($west, q(SELECT step, ok FROM seal_sync.peer_check('south', 'wrong') WHERE NOT ok)), 'node|f', 'peer_check shows the step');

# The pair goes without a trace
for my $node ($east, $west)
{
	$node->safe_psql($db, 'DROP EXTENSION seal_sync');
	is(value($node, q(SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal), (SELECT count(*) FROM pg_foreign_server),
	   (SELECT count(*) FROM pg_event_trigger), (SELECT count(*) FROM pg_replication_origin))), '0|0|0|0', $node->name . ' keeps nothing');
}
$east->safe_psql($db, 'DROP DATABASE north');
done_testing();
