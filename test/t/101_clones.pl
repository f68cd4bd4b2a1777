# Copies of a running node and restores of it (trap T4, node_adopt): what nobody has decided about does nothing; "same" is
# believed only where the peers' numbers prove it; "new" keeps nothing of the old identity.
# Judge: pg_dump, and what the original can still do.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(init => { allows_streaming => 1 });
my $db = 'postgres';
my $next = 0;
add_tables('CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))', ['t'], $east, $west);

sub change_and_sync
{
	my ($node, $cluster) = @_;
	$next++;
	$node->safe_psql($db, "INSERT INTO t VALUES ($next, '$cluster', 'v'); UPDATE t SET v = v || 'x' WHERE id = $next - 2 AND cluster_id = '$cluster'; DELETE FROM t WHERE id = $next - 4 AND cluster_id = '$cluster'");
	wait_for_sync($node);
	return;
}
sub both { change_and_sync($east, 'a'); change_and_sync($west, 'b'); return }
sub out { my ($node) = @_; return $node->safe_psql($db, q(SELECT state || ': ' || coalesce(state_reason, '') FROM seal_sync.status WHERE direction = 'out')) }
sub clone_of
{
	my ($name, $backup, %option) = @_;
	my $clone = PostgreSQL::Test::Cluster->new($name);
	$clone->init_from_backup($east, $backup, %option);
	return $clone;
}

both() for 1 .. 3;
subtest 'a hot copy beside the original, which goes on' => sub {
	$east->backup('hot');
	my $clone = clone_of('clone', 'hot');
	$clone->start;
	wait_for_state($clone, 'west', 'stopped', 'the copy rests');
	like(out($clone), qr/this is a copy of the node/, 'and says why');
	is($clone->safe_psql($db, q(SELECT severity || ' ' || code FROM seal_sync.health WHERE severity = 'critical')), 'critical copy', 'so does its health, in one line');
	$clone->safe_psql($db, q(INSERT INTO t VALUES (90001, 'a', 'of the copy')));
	my ($pid) = workers($east, 'route worker');
	both() for 1 .. 2;
	dumps_equal('the original goes on', [ $east, $west ], 't');
	is((workers($east, 'route worker'))[0], $pid, 'undisturbed');
	is($west->safe_psql($db, 'SELECT count(*) FROM t WHERE id = 90001'), 0, 'nothing of the copy has arrived');

	# A peer that is led to it does not ship to it either
	$west->safe_psql($db, "ALTER SERVER east OPTIONS (SET port '" . $clone->port . "')");
	wait_until($west, q(SELECT last_error ~ 'leads to a copy of node "east"' FROM seal_sync.status WHERE direction = 'out' AND peer = 'east'), 't', 'west is told that it leads to a copy');
	$west->safe_psql($db, "ALTER SERVER east OPTIONS (SET port '" . $east->port . "')");
	wait_for_state($west, 'east', 'streaming', 'and goes on with the original');

	my ($rc, $out, $err) = $clone->psql($db, q(SELECT seal_sync.node_adopt('same')));
	like($err, qr/node "east" cannot be adopted as the same: peer "west" has a connection of it/, '"same" is refused while the original speaks');
	like($err, qr/has applied batch \d+ of this node, which knows of \d+ sent/, 'with the numbers');
	both();
	dumps_equal('asking has disturbed nobody', [ $east, $west ], 't');

	# It becomes a third node
	$clone->safe_psql($db, q(SELECT seal_sync.node_adopt('new', node => 'north')));
	is($clone->safe_psql($db, q(SELECT node FROM seal_sync.local_node)), 'north', 'node_adopt("new") gives it a name of its own');
	is($clone->safe_psql($db, q(SELECT (SELECT count(*) FROM seal_sync.pending) + (SELECT count(*) FROM seal_sync.origin) + (SELECT count(*) FROM seal_sync.applied_progress) + (SELECT count(*) FROM seal_sync.held))), 0,
		'and nothing is left of what it had received or owed');
	wait_for_state($clone, 'west', 'waiting_peer', 'west does not know it');
	($rc, $out, $err) = $clone->psql($db, q(INSERT INTO t VALUES (90002, 'a', 'x')));
	like($err, qr/cluster "a" has its primary on node "east"/, 'it is primary of nothing');
	both();
	# Rows come from those who own them
	$clone->safe_psql($db, q(SET seal_sync.guard = off; TRUNCATE t));
	add_peer($clone, $east);
	add_peer($_, 'north', host => $clone->host, port => $clone->port) for $east, $west;
	both();
	wait_until($_, q(SELECT count(*) FROM seal_sync.table_state WHERE dirty_since IS NOT NULL), 0, $_->name . ' has entered all its rows for it') for $east, $west;
	wait_until($_, q(SELECT bool_and(pending_keys = 0 AND state = 'streaming') FROM seal_sync.status WHERE direction = 'out'), 't', $_->name . ' ships to all') for $east, $west;
	dumps_equal('three nodes hold the same', [ $east, $west, $clone ], 't');
	$_->safe_psql($db, q(SELECT seal_sync.peer_drop('north'))) for $east, $west;
	$clone->stop;
};

subtest 'a backup recovered beside the original, on a timeline of its own' => sub {
	$east->backup('for_a_look');
	my $look = clone_of('look', 'for_a_look');
	$look->append_conf('postgresql.conf', "restore_command = 'false'\nrecovery_target = 'immediate'\nrecovery_target_action = 'promote'");
	$look->append_conf('recovery.signal', '');
	my ($pid) = workers($east, 'route worker');
	$look->start;
	wait_until($look, q(SELECT pg_is_in_recovery()), 'f');
	isnt($look->safe_psql($db, q(SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))), $east->safe_psql($db, q(SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))), 'another timeline, as after a promotion');
	wait_until($look, q(SELECT code FROM seal_sync.health WHERE code = 'copy'), 'copy', 'it sees that the original is alive');
	wait_for_state($look, 'west', 'stopped', 'and rests');
	$look->restart;
	wait_for_state($look, 'west', 'stopped', 'also after a restart');
	both();
	is((workers($east, 'route worker'))[0], $pid, 'the original was not disturbed');
	dumps_equal('and goes on', [ $east, $west ], 't');
	$look->stop;
};

subtest 'a copy of a node that is gone for good takes its place' => sub {
	both();
	$east->backup('last');
	my $clone = clone_of('heir', 'last');
	$east->stop('immediate');
	wait_until($west, q(SELECT count(*) FROM pg_stat_activity WHERE usename = 'sync_in'), 0, 'west has noticed');
	$clone->start;
	wait_for_state($clone, 'west', 'stopped');
	$clone->safe_psql($db, q(SELECT seal_sync.node_adopt('same')));
	is($clone->safe_psql($db, q(SELECT event || ' ' || scope || ' ' || (detail ->> 'mode') FROM seal_sync.events WHERE event = 'node_adopt')), 'node_adopt node same', 'the numbers prove it, and events tell who decided');
	$west->safe_psql($db, "ALTER SERVER east OPTIONS (SET port '" . $clone->port . "')");
	$clone->safe_psql($db, q(INSERT INTO t VALUES (70001, 'a', 'of the heir')));
	change_and_sync($west, 'b');
	wait_for_sync($clone);
	dumps_equal('both directions go on', [ $clone, $west ], 't');

	# and the one that was gone for good comes back
	$east->start;
	$east->safe_psql($db, q(INSERT INTO t VALUES (70002, 'a', 'of the ghost'); DELETE FROM t WHERE id < 3;));
	wait_for_state($east, 'west', 'halted', 'the original is the copy now');
	wait_for_sync($clone);
	dumps_equal('it harms nothing', [ $clone, $west ], 't');
	$east->stop;
	$clone->stop;
	$east = $clone;
};

subtest 'a restore that is older than what was shipped' => sub {
	$east->start;
	wait_for_state($east, 'west', 'streaming');
	$east->backup('older');
	change_and_sync($east, 'a') for 1 .. 2;
	change_and_sync($west, 'b');
	my $before = dump_of($west, 't');
	my $restored = clone_of('restored', 'older');
	$east->stop;
	wait_until($west, q(SELECT count(*) FROM pg_stat_activity WHERE usename = 'sync_in'), 0, 'west has noticed');
	$restored->start;
	wait_for_state($restored, 'west', 'stopped');
	my ($rc, $out, $err) = $restored->psql($db, "\\set VERBOSITY verbose\nSELECT seal_sync.node_adopt('same')");
	like($err, qr/SS203: node "east" cannot be adopted as the same: peer "west" has applied what this data directory has not sent/, '"same" is refused');
	like($err, qr/has applied batch \d+ of this node, which knows of \d+ sent.*node_adopt\('new'/s, 'with the numbers, and the way on');
	is(dump_of($west, 't'), $before, 'nothing has changed on west');

	# West takes cluster a over, the restored one becomes a standby of both
	$restored->safe_psql($db, q(SELECT seal_sync.node_adopt('new', node => 'south')));
	$west->safe_psql($db, q(SELECT seal_sync.peer_drop('east'), seal_sync.cluster_drop('a'); SELECT seal_sync.cluster_create('a', primary_node => 'west')));
	$restored->safe_psql($db, q(SELECT seal_sync.cluster_drop('a'); SELECT seal_sync.cluster_create('a', primary_node => 'west'); SET seal_sync.guard = off; TRUNCATE t;));
	$west->safe_psql($db, "CREATE SERVER south FOREIGN DATA WRAPPER seal_sync OPTIONS (host '" . $restored->host . "', port '" . $restored->port . "', dbname '$db');
	  CREATE USER MAPPING FOR seal_sync_worker SERVER south OPTIONS (user 'sync_in', password 'pw'); SELECT seal_sync.peer_create('south')");
	$west->safe_psql($db, q(INSERT INTO t VALUES (80001, 'a', 'on west now'); DELETE FROM t WHERE id = (SELECT min(id) FROM t WHERE cluster_id = 'a')));
	wait_for_sync($west);
	wait_until($west, q(SELECT NOT EXISTS (SELECT FROM seal_sync.table_state WHERE dirty_since IS NOT NULL)), 't', 'all rows of west have been entered for it');
	wait_for_sync($west);
	dumps_equal('"new" works, with rows from west', [ $west, $restored ], 't');
	is($restored->safe_psql($db, q(SELECT count(*) FROM seal_sync.health WHERE severity = 'critical')), 0, 'and nothing is wrong there');
	$restored->stop;
};

done_testing();
