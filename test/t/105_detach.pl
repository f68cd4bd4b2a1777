# node_detach and node_attach without an upgrade in between: nothing is committed after the last shipment, writes are refused,
# a peer's batches wait, failures change nothing, of two copies one is attached. With pg_upgrade: 100_pg_upgrade.pl.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(init => { allows_streaming => 1 });
my $db = 'postgres';
add_tables('CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id)); CREATE TABLE free (id int)', ['t'], $east, $west);
$east->safe_psql($db, q(CREATE ROLE op LOGIN IN ROLE seal_sync_operator; CREATE ROLE nobody_special LOGIN));
sub fails { my ($node, $sql) = @_; my ($rc, $out, $err) = $node->psql($db, $sql); return $err }

like(fails($east, q(SET ROLE nobody_special; SELECT seal_sync.node_detach('x'))), qr/permission denied/, 'not for everybody');
like(fails($east, q(BEGIN; SELECT seal_sync.node_detach('x'); COMMIT)), qr/node_detach cannot run inside a transaction block/, 'not in a transaction block');
like(fails($east, q(SELECT seal_sync.node_detach(NULL))), qr/argument "reason" must not be null/, 'not without a reason');
like(fails($east, q(SELECT seal_sync.node_attach())), qr/node "east" is not detached/, 'nothing to attach');

# What stands in the way
$east->safe_psql($db, q(BEGIN; INSERT INTO t VALUES (1, 'a', 'prepared'); PREPARE TRANSACTION 'open one'));
like(fails($east, q(SELECT seal_sync.node_detach('upgrade', '1 s'))),
	qr/timed out after 1 s while waiting for transactions that write to table "public.t".*Prepared transactions are open: 'open one'\. Nothing was changed/s, 'a prepared transaction is named');
$east->safe_psql($db, q(COMMIT PREPARED 'open one'; INSERT INTO t VALUES (2, 'a', 'goes on')));
$east->safe_psql($db, q(SELECT seal_sync.pause('west', 'for a while')));
like(fails($east, q(SELECT seal_sync.node_detach('upgrade', '5 s'))), qr/shipping to peer "west" is paused/, 'a paused peer would not get what is pending');
$east->safe_psql($db, q(SELECT seal_sync.resume('west')));

# An application writes as fast as it can; what was acknowledged before is on west when the call returns
my $script = $east->basedir . '/write.sql';
append_to_file($script, q(\set id random(1000, 2000000000)
INSERT INTO t VALUES (:id, 'a', 'x') ON CONFLICT DO NOTHING;
));
my ($out, $err) = ('', '');
my $load = IPC::Run::start([ 'pgbench', '-n', '-T', '60', '-c', '2', '-f', $script, '-d', $east->connstr($db) ], '>', \$out, '2>', \$err);
wait_until($east, q(SELECT count(*) > 200 FROM t), 't', 'an application writes');
$east->safe_psql($db, q(SET ROLE op; SELECT seal_sync.node_detach('moving house', '60 s')));
dumps_equal('an operator detaches under load; all is on west then', [ $east, $west ], 't');
$load->finish;
like($err, qr/cannot insert into table "public.t": node "east" is detached/, 'the application is refused');
like($err, qr/Detached since \S+ .*reason: moving house/, 'and told why');
is($east->safe_psql($db, q(SELECT seal_sync.is_primary('a')::text)), 'false', 'is_primary says so');
like(fails($east, q(SET seal_sync.guard = off; DELETE FROM t)), qr/node "east" is detached/, 'the guard cannot be turned off for that');
like(fails($east, q(TRUNCATE t)), qr/cannot truncate table "public.t": node "east" is detached/, 'nor TRUNCATE');
is(fails($east, q(INSERT INTO free VALUES (1); SELECT count(*) FROM t)), '', 'other tables and reading go on');
wait_for_state($east, 'west', 'stopped');
is($east->safe_psql($db, q(SELECT code FROM seal_sync.health WHERE severity <> 'info')), 'detached', 'health says just that');
is($east->safe_psql($db, q(SELECT state, accepts_writes, message FROM seal_sync.clusters WHERE cluster = 'a')), 'DETACHED|f|the node is detached: moving house', 'clusters too');

$west->safe_psql($db, q(INSERT INTO t SELECT i, 'b', 'waits' FROM generate_series(1, 50) i));
wait_for_state($west, 'east', 'waiting_peer', 'west waits');
is($east->safe_psql($db, q(SELECT count(*) FROM t WHERE cluster_id = 'b')), 0, 'nothing is applied');
like($west->safe_psql($db, q(SELECT last_error FROM seal_sync.status WHERE direction = 'out')), qr/node "east" is detached/, 'and west knows why');

# Two copies of it; the first that is attached is the node
$east->backup('detached');
$east->restart;
wait_for_state($east, 'west', 'stopped', 'still detached after a restart');
$east->safe_psql($db, q(SET ROLE op; SELECT seal_sync.node_attach()));
$east->safe_psql($db, q(INSERT INTO t VALUES (3, 'a', 'back')));
wait_for_sync($_) for $east, $west;
dumps_equal('after node_attach everything flows', [ $east, $west ], 't');
my $clone = PostgreSQL::Test::Cluster->new('clone');
$clone->init_from_backup($east, 'detached');
$clone->start;
like(fails($clone, q(INSERT INTO t VALUES (4, 'a', 'x'))), qr/is detached/, 'a copy made meanwhile refuses writes');
like(fails($clone, q(SELECT seal_sync.node_attach())), qr/node "east" cannot be attached: another copy of it has been attached since.*presents \d+.*Nothing was changed/s,
	'and cannot be attached any more');
like(fails($clone, q(SELECT seal_sync.node_adopt('same'))), qr/is detached/, 'nor adopted as the same');
$clone->stop;
is($east->safe_psql($db, q(SELECT string_agg(event || ' ' || scope || ' by ' || actor || coalesce(': ' || reason, ''), ', ' ORDER BY at) FROM seal_sync.events WHERE event ~ 'tach')),
	join(', ', map { "$_ by " . $east->safe_psql($db, 'SELECT session_user') . ($_ =~ /detach / ? ': moving house' : '') } 'node_detach node', 'node_attach node'), 'events');

# Without shipping
$west->stop;
$east->safe_psql($db, q(INSERT INTO t VALUES (5, 'a', 'not shipped'); ));
like(fails($east, q(SELECT seal_sync.node_detach('in a hurry', '0'))), qr/NOTICE:  what is pending was not shipped/, 'a timeout of 0 ships nothing');
$east->restart;
like(fails($east, q(SELECT seal_sync.node_attach())), qr/NOTICE:  peer "west" could not be asked whether another copy/, 'attached without a peer');
$west->start;
wait_for_sync($east);
dumps_equal('and nothing is lost', [ $east, $west ], 't');
done_testing();
