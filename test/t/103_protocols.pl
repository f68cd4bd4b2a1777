# Two versions of the protocol in a pair, as in a rolling upgrade: the lower common one is spoken; where there is none, the
# route waits, says which side to upgrade, loses nothing, and goes on by itself after the upgrade.
#
# There is one version so far. The others are made on west, around the real functions: east seems to be a node of a later
# or an earlier version to it, and it to east.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes();
my $db = 'postgres';
my $next = 0;
add_tables('CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))', ['t'], $east, $west);

sub write_both
{
	$next++;
	$east->safe_psql($db, "INSERT INTO t VALUES ($next, 'a', 'x')");
	$west->safe_psql($db, "INSERT INTO t VALUES ($next, 'b', 'x')");
	return;
}
sub word { return unpack 'H*', pack 'L<', $_[0] }
my $wrapped = 0;

# On west: what east says it speaks, and what west answers that is to be spoken; nothing given: upgraded, all is as it is.
sub pretend
{
	my (%as) = @_;
	my $undo = $wrapped ? 'DROP FUNCTION seal_sync.wire_hello(bytea); ALTER FUNCTION seal_sync.wire_hello_now(bytea) RENAME TO wire_hello;' : '';
	$wrapped = %as ? 1 : 0;
	my $request = $as{speaks} ? "overlay(\$1 placing '\\x" . word($as{speaks}[0]) . word($as{speaks}[1]) . "' from 1 for 8)" : '$1';
	my $answer = "seal_sync.wire_hello_now($request)";
	$answer = "overlay($answer placing '\\x" . word($as{answers}) . "' from 5 for 4)" if defined $as{answers};
	$west->safe_psql($db, "BEGIN; $undo" . (%as ? "ALTER FUNCTION seal_sync.wire_hello(bytea) RENAME TO wire_hello_now;
	  CREATE FUNCTION seal_sync.wire_hello(bytea) RETURNS bytea LANGUAGE sql VOLATILE SECURITY DEFINER AS \$f\$ SELECT $answer \$f\$;
	  GRANT EXECUTE ON FUNCTION seal_sync.wire_hello(bytea) TO seal_sync_peer;" : '') . 'COMMIT');
	# a new connection, as after the restart that comes with an upgrade
	$west->safe_psql($db, q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'sync_in'));
	return;
}
sub error { return $east->safe_psql($db, q(SELECT state, last_error_sqlstate, last_error, last_error_hint FROM seal_sync.status WHERE direction = 'out')) }

write_both();
pretend(speaks => [ 1, 3 ]);
wait_until($east, q(SELECT connected_since IS NOT NULL AND state = 'streaming' FROM seal_sync.status WHERE direction = 'out'));
write_both();
wait_for_sync($_) for $east, $west;
dumps_equal('a sender that speaks 1 to 3 and a receiver that speaks 1', [ $east, $west ], 't');
is($east->safe_psql($db, q(SELECT protocol FROM seal_sync.status WHERE direction = 'out')), 1, 'agree on 1');

for ([ 'a sender that is too new', [ 2, 3 ], 'west' ], [ 'a sender that is too old', [ 0, 0 ], 'east' ])
{
	my ($name, $speaks, $behind) = @$_;
	pretend(speaks => $speaks);
	write_both();
	wait_until($east, q(SELECT last_error ~ 'speaks protocol' AND state = 'retrying' FROM seal_sync.status WHERE direction = 'out'), 't', "$name: retrying, not halted");
	my ($state, $code, $message, $hint) = split /\|/, error();
	is($code, '08P01', "$name: SQLSTATE");
	like($message, qr/node "east" speaks protocol $speaks->[0] to $speaks->[1], node "west" speaks 1 to 1/, "$name: who speaks what");
	like($hint, qr/Install a newer version of the extension on node "$behind"/, "$name: and which of the two is to be upgraded");
	is($east->safe_psql($db, q(SELECT count(*) > 0 FROM seal_sync.pending)), 't', "$name: changes wait");
	wait_for_sync($west);
	is($east->safe_psql($db, q(SELECT severity ~ 'critical|warning', message ~ 'speaks protocol' FROM seal_sync.health WHERE code = 'peer_retrying')), 't|t', "$name: health says so, the other direction works");
	pretend();
	wait_for_sync($east);
	dumps_equal("$name: goes on by itself after the upgrade", [ $east, $west ], 't');
}

pretend(answers => 7);
write_both();
wait_until($east, q(SELECT last_error ~ 'wants to speak protocol 7, this node speaks 1 to 1' FROM seal_sync.status WHERE direction = 'out'), 't', 'a receiver that wants what was not offered is refused');
pretend();
wait_for_sync($east);
dumps_equal('and nothing is lost', [ $east, $west ], 't');

# Who configures or asks is told, too
$west->safe_psql($db, q(ALTER FUNCTION seal_sync.wire_identity() RENAME TO wire_identity_now;
  CREATE FUNCTION seal_sync.wire_identity(OUT node name, OUT protocol_min integer, OUT protocol integer, OUT version text) LANGUAGE sql AS $f$ SELECT 'west'::name, 2, 3, '0.2.0' $f$;
  GRANT EXECUTE ON FUNCTION seal_sync.wire_identity() TO seal_sync_peer));
is($east->safe_psql($db, q(SELECT step, ok, message, hint FROM seal_sync.peer_check('west') WHERE NOT ok)),
	'protocol|f|it speaks versions 2 to 3, this node 1 to 1|Install a newer version of the extension on this node.', 'peer_check');
$west->safe_psql($db, q(DROP FUNCTION seal_sync.wire_identity(); ALTER FUNCTION seal_sync.wire_identity_now() RENAME TO wire_identity));

# A version that cannot be asked where a copy stands
$west->safe_psql($db, 'ALTER FUNCTION seal_sync.wire_standing(name, uuid, bigint, uuid) RENAME TO not_there_yet');
$east->safe_psql($db, q(SELECT seal_sync.node_detach('minor upgrade')));
my ($rc, $out, $err) = $east->psql($db, 'SELECT seal_sync.node_attach()');
like($err, qr/could not be asked.*its version of the extension is too old to be asked/s, 'node_attach says that an older peer cannot be asked');
$west->safe_psql($db, 'ALTER FUNCTION seal_sync.not_there_yet(name, uuid, bigint, uuid) RENAME TO wire_standing');
write_both();
wait_for_sync($_) for $east, $west;
dumps_equal('and goes on', [ $east, $west ], 't');
done_testing();
