# Carried sequences: the primary counts, the standby is ahead of every number that its rows can show, at any moment, through
# kills and crashes; so that after a takeover no number is given twice. Never is the standby's set back.
#
# Judge: the sequences and rows themselves, by plain SQL.
use strict;
use warnings;
use SealSync;
use SealWire;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my ($east, $west) = two_nodes();
sub problem { my ($node, $sql) = @_; my ($rc, $out, $err) = $node->psql($db, "\\set VERBOSITY verbose\n$sql"); return $err }
sub last_of { my ($node, $sequence) = @_; return $node->safe_psql($db, "SELECT last_value FROM $sequence") }

for my $node ($east, $west)
{
	$node->safe_psql($db, q(CREATE SEQUENCE s; CREATE SEQUENCE down INCREMENT BY -2 START -1; CREATE SEQUENCE small AS smallint;
	CREATE SEQUENCE of_b; CREATE SEQUENCE unused;
	CREATE TABLE t (id bigint DEFAULT nextval('s'), cluster_id text, v text, PRIMARY KEY (id, cluster_id));
	SELECT seal_sync.table_add('t', cluster_column => 'cluster_id');));
}

subtest 'arguments' => sub {
	like(problem($east, q(SELECT seal_sync.sequence_add('s', 'nowhere'))), qr/42704: cluster "nowhere" does not exist/, 'an unknown cluster');
	like(problem($east, q(SELECT seal_sync.sequence_add('t', 'a'))), qr/42809: "t" is not a sequence/, 'a table');
	like(problem($east, q(CREATE SEQUENCE round CYCLE; SELECT seal_sync.sequence_add('round', 'a'))), qr/55000: cannot add sequence "public.round": it begins again/, 'one that cycles');
	like(problem($east, q(CREATE ROLE clerk IN ROLE seal_sync_admin; SET ROLE clerk; SELECT seal_sync.sequence_add('s', 'a'))), qr/42501: must be owner of sequence s/, 'somebody else\'s');
};

subtest 'a standby is kept ahead' => sub {
	$east->safe_psql($db, q(SELECT nextval('s') FROM generate_series(1, 5)));
	$east->safe_psql($db, q(SELECT seal_sync.sequence_add('s', 'a')));
	wait_until($east, q(SELECT state || ': ' || message FROM seal_sync.sequences), 'waiting_peer: sequence "public.s" is not registered on node "west"', 'west does not know it yet');
	is(last_of($west, 's'), 1, 'and nothing is done there');
	$west->safe_psql($db, q(SELECT seal_sync.sequence_add('s', 'a')));
	wait_until($east, q(SELECT state FROM seal_sync.sequences), 'carried', 'it is carried');
	is(last_of($west, 's'), 1005, 'by the least head-room');
	is($west->safe_psql($db, q(SELECT state, cluster, peer, carried FROM seal_sync.sequences)), 'standby|a|east|1005', 'west says so');
	is($east->safe_psql($db, q(SELECT last_value, carried, increment FROM seal_sync.sequences)), '5|1005|1', 'and so does east');
	# used a little: nothing to tell; used up to the half: told again
	$east->safe_psql($db, q(SELECT nextval('s') FROM generate_series(1, 600)));
	wait_until($west, q(SELECT last_value FROM s), 1605, 'it moves on before the head-room is used up');
	wait_until($east, q(SELECT string_agg(metric || ' ' || value, ', ' ORDER BY metric) FROM seal_sync.metrics WHERE relation = 'public.s' AND peer = 'west' AND cluster = 'a'),
		'sequence_ahead_calls 1000, sequence_settled 1', 'metrics say so');
	# What a takeover would find: numbers that were given while nothing could be told, with rows or without
	$east->safe_psql($db, q(SELECT seal_sync.pause('west'); SELECT nextval('s') FROM generate_series(1, 900)));
	cmp_ok($west->safe_psql($db, q(SELECT nextval('s'))), '>', last_of($east, 's'), 'within the head-room no number is given again');
	$east->safe_psql($db, q(SELECT seal_sync.resume('west')));
	$_->safe_psql($db, q(SELECT seal_sync.sequence_add('down', 'a', head_room => 10), seal_sync.sequence_add('small', 'a'))) for $east, $west;
	$east->safe_psql($db, q(SELECT nextval('down') FROM generate_series(1, 50); SELECT setval('small', 32000)));
	wait_until($west, q(SELECT last_value <= -119 FROM down), 't', 'one that counts down');
	wait_until($west, q(SELECT last_value FROM small), 32076, 'one that is near its end is left numbers');
	wait_until($_, q(SELECT string_agg(code || ' ' || scope, ',') FROM seal_sync.health WHERE severity <> 'info'), 'sequence_near_end sequence small', $_->name . ': all else is well') for $east, $west;
};

subtest 'no row shows a number that the standby could give' => sub {
	# A thousand times the head-room in each transaction, and kills of the route worker. West looks at each moment: rows as
	# of the beginning of the statement, the sequence as it is then.
	my $watch = q(coalesce((SELECT max(id) FROM t WHERE cluster_id = 'a'), 0) <= (SELECT last_value FROM s));
	my $watcher = $west->background_psql($db);
	$watcher->query_safe(q(CREATE TABLE looks (good bigint, bad bigint)));
	$watcher->{stdin} .= "DO \$\$ DECLARE good bigint := 0; bad bigint := 0; fine boolean; BEGIN LOOP SELECT $watch INTO fine; IF fine THEN good := good + 1; ELSE bad := bad + 1; END IF;
	  EXIT WHEN (SELECT count(*) FROM t) >= 1200; END LOOP; INSERT INTO looks VALUES (good, bad); END \$\$;\n";
	$watcher->{run}->pump_nb;
	for my $round (1 .. 12)
	{
		$east->safe_psql($db, q(SELECT setval('s', nextval('s') + 1000000); INSERT INTO t (cluster_id) SELECT 'a' FROM generate_series(1, 100);));
		$east->safe_psql($db, q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'seal_sync route worker')) if $round == 6;
	}
	wait_until($west, q(SELECT bad FROM looks), '0', 'never: ' . ($west->safe_psql($db, 'SELECT good FROM looks') || 'many') . ' looks');
	$watcher->quit;
	wait_for_sync($east);
	dumps_equal('all rows are there', [ $east, $west ], 't');
	is($west->safe_psql($db, "SELECT $watch"), 't', 'and still');
};

subtest 'never set back, nor for anybody but the primary' => sub {
	my $was = last_of($west, 's');
	$west->safe_psql($db, "SELECT setval('s', $was + 500000)"); # as a test of its own, or by a former primary
	$east->safe_psql($db, q(SELECT nextval('s') FROM generate_series(1, 3000); INSERT INTO t (cluster_id) VALUES ('a');));
	wait_for_sync($east);
	is(last_of($west, 's'), $was + 500000, 'a standby that is further stays there');
	$east->safe_psql($db, q(SELECT setval('s', 7)));
	$east->safe_psql($db, q(SELECT seal_sync.pause('west'), seal_sync.resume('west'); INSERT INTO t (cluster_id, v) VALUES ('a', 'low');));
	wait_for_sync($east);
	is(last_of($west, 's'), $was + 500000, 'also when the primary has gone back');
	# of cluster b west is the primary
	$_->safe_psql($db, q(SELECT seal_sync.sequence_add('of_b', 'b'))) for $east, $west;
	wait_until($east, q(SELECT last_value FROM of_b), 1001, 'the other direction');
	$east->safe_psql($db, q(SELECT setval('of_b', 500000)));
	wait_until($west, q(SELECT state FROM seal_sync.sequences WHERE sequence = 'of_b'::regclass), 'carried');
	is(last_of($west, 'of_b'), 1, 'a standby moves nobody');
	# Somebody sets a standby back: then it is not ahead, whatever the primary believes
	my ($message, $hint) = ('', '');
	for (1 .. 50) # east tells it once more after each hello, and the rules have just changed
	{
		(undef, $message, $hint) = split /\n|\|/, $west->safe_psql($db, q(SELECT setval('s', 5);
		  SELECT severity || ' ' || message, hint FROM seal_sync.health WHERE code = 'sequence_broken'));
		last if defined $message;
	}
	like($message, qr/^critical sequence s stands at 5: it was set back, node "east" had taken it to \d+$/, 'which is told');
	like($hint, qr/^(SELECT pg_catalog\.setval\('s', \d+\)) takes it there again\.$/, 'with the way out');
	$west->safe_psql($db, $hint =~ /^(.*) takes/);
	is($west->safe_psql($db, q(SELECT count(*) FROM seal_sync.health WHERE code = 'sequence_broken')), '0', 'which it is');
};

subtest 'DDL in the way, and a standby that crashes' => sub {
	my $session = $west->background_psql($db);
	$session->query_safe(q(BEGIN; ALTER SEQUENCE s CACHE 1));
	$east->safe_psql($db, q(SELECT setval('s', 90000000); INSERT INTO t (cluster_id, v) VALUES ('a', 'meanwhile')));
	wait_for_sync($east);
	is($west->safe_psql($db, q(SELECT count(*) FROM t WHERE v = 'meanwhile')), '1', 'rows do not wait for a lock on a sequence');
	wait_until($east, q(SELECT message FROM seal_sync.sequences WHERE sequence = 's'::regclass), 'sequence "public.s" is locked on node "west"', 'which is shown');
	$session->query_safe('COMMIT');
	$session->quit;
	wait_until($west, q(SELECT last_value > 90000000 FROM s), 't', 'and made up for');
	my $carried = last_of($west, 's');
	$west->stop('immediate');
	$west->start;
	cmp_ok(last_of($west, 's'), '>=', $carried, 'what was promised survives a crash');
	cmp_ok($west->safe_psql($db, q(SELECT nextval('s'))), '>', 90000000, 'and no number is given twice');
};

subtest 'a peer that does not know of sequences' => sub {
	my $older = $west->safe_psql($db, q(SELECT pg_get_functiondef('seal_sync.wire_sequences(bytea)'::regprocedure)));
	$west->safe_psql($db, q(ALTER FUNCTION seal_sync.wire_sequences(bytea) RENAME TO wire_of_later)); # it says it knows, and does not
	$east->safe_psql($db, q(SELECT seal_sync.sequence_add('unused', 'a')));
	wait_until($east, q(SELECT state FROM seal_sync.sequences WHERE sequence = 'unused'::regclass), 'retrying', 'it is told');
	$east->safe_psql($db, q(INSERT INTO t (cluster_id, v) VALUES ('a', 'all the same')));
	wait_for_sync($east);
	is($west->safe_psql($db, q(SELECT count(*) FROM t WHERE v = 'all the same')), '1', 'and rows go on');
	wait_for_state($east, 'west', 'streaming');
	$west->safe_psql($db, q(ALTER FUNCTION seal_sync.wire_of_later(bytea) RENAME TO wire_sequences));
	$west->safe_psql($db, q(SELECT seal_sync.sequence_add('unused', 'a')));
	wait_until($east, q(SELECT bool_and(state IN ('carried', 'standby')) FROM seal_sync.sequences), 't', 'until it does');
};

subtest 'what a peer may say' => sub {
	my $node = receiver();
	$node->safe_psql($db, q(SELECT seal_sync.cluster_create('b', primary_node => 'west'); CREATE SEQUENCE of_a; CREATE SEQUENCE of_b; CREATE SEQUENCE other; CREATE SEQUENCE split;
	  SELECT seal_sync.sequence_add('of_a', 'a'), seal_sync.sequence_add('of_b', 'b'), seal_sync.sequence_split('split', slot => 2)));
	my $wire = SealWire->new($node, node => 'east', user => 'sync_in');
	my $message = sub {
		my (%o) = @_;
		return SealWire::u64($o{generation} // $wire->{generation}) . SealWire::varint(scalar @{ $o{slots} // [] }) . SealWire::varint(0) . SealWire::varint(scalar @{ $o{carried} // [] })
		  . join('', map { SealWire::sized($_->[0]) . SealWire::u32($_->[1]) . SealWire::u8(1) } @{ $o{slots} // [] })
		  . join('', map { SealWire::sized('public') . SealWire::sized($_->[0]) . SealWire::sized($_->[1]) . SealWire::u64($_->[2]) . SealWire::u8(1) . SealWire::u64($_->[3]) } @{ $o{carried} // [] });
	};
	# the verdicts, by number
	my $say = sub {
		my $got = $wire->call('wire_sequences', $message->(@_));
		return $got->{error} if $got->{error};
		my %o = @_;
		$wire->take_u32;
		for (1 .. $wire->take_varint) { $wire->take_text; $wire->take_u32; $wire->take_u8 }
		return join ' ', map { my $verdict = $wire->take_u8; $wire->take(9); $verdict } @{ $o{carried} // [] };
	};
	is($say->(), '55000', 'nothing before hello');
	$wire->hello;
	is($say->(generation => 12345), 'SSW04', 'another generation');
	is($say->(carried => [ [ 'of_a', 'a', 1, 5000 ] ]), '0', 'its own');
	is($say->(carried => [ [ 'of_a', 'a', 1, 10 ] ]), '0', 'back');
	is($say->(carried => [ [ 'of_a', 'a', 2, 9000 ], [ 'of_a', 'b', 1, 9000 ], [ 'of_b', 'b', 1, 9000 ], [ 'of_b', 'a', 1, 9000 ], [ 'other', 'a', 1, 9000 ], [ 'split', 'a', 1, 9000 ],
	  [ 'nowhere', 'a', 1, 1 ], [ 'of_a', 'a', 1, -5 ], [ 'of_a', 'a', 1, -9223372036854775808 ] ]), '4 3 4 3 1 2 1 7 7', 'what is not its own');
	is($node->safe_psql($db, q(SELECT string_agg(last_value::text, ' ') FROM (SELECT last_value FROM of_a UNION ALL SELECT last_value FROM of_b UNION ALL SELECT last_value FROM other
	  UNION ALL SELECT last_value FROM split) s)), '5000 1 1 2', 'moves nothing');
	is($say->(slots => [ [ 'east', 0 ] ]), '08P01', 'a slot that cannot be');
	is($say->(slots => [ [ 'east', 2 ] ]), '', 'a slot that is taken');
	is($node->safe_psql($db, q(SELECT string_agg(code, ' ') FROM seal_sync.health WHERE code LIKE 'sequence_s%')), 'sequence_slot_taken', 'is told');
	is($node->safe_psql($db, q(SELECT nextval('split'))), '2', 'and takes nothing away from this node');
	my $whole = $message->(slots => [ [ 'east', 3 ] ], carried => [ [ 'of_a', 'a', 1, 6000 ] ]);
	my %seen;
	$seen{ $wire->call('wire_sequences', substr $whole, 0, $_)->{error} // 'none' }++ for 0 .. length($whole) - 1;
	is(join(' ', sort keys %seen), '08P01', 'cut off anywhere it is refused');
	is($wire->call('wire_sequences', $whole . 'x')->{error}, '08P01', 'or with more behind it');
	$wire->close;
	$node->stop;
};

subtest 'nothing is left behind' => sub {
	like(problem($east, q(SELECT seal_sync.cluster_drop('b'))), qr/2BP01: cannot drop cluster "b": sequence "public.of_b" is carried for it/, 'a cluster is not dropped under a sequence');
	my $was = last_of($west, 's');
	$_->safe_psql($db, q(SELECT seal_sync.sequence_remove('s'); DROP SEQUENCE unused;)) for $east, $west;
	is($west->safe_psql($db, q(SELECT count(*) FROM seal_sync.sequence_rule)), '3', 'taken out and dropped');
	is(last_of($west, 's'), $was, 'a sequence stays where it is');
	$east->safe_psql($db, q(SELECT setval('s', 950000000); INSERT INTO t (cluster_id, v) VALUES ('a', 'last');));
	wait_for_sync($east);
	is(last_of($west, 's'), $was, 'and is left alone');
	$west->safe_psql($db, q(SELECT seal_sync.peer_drop('east')));
	is($west->safe_psql($db, q(SELECT count(*) FROM seal_sync.sequence_peer)), '0', 'peer_drop forgets what it has said');
};
done_testing();
