# Who may speak, and what happens to messages that are wrong or damaged.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

my $west = one_node('west', conf => "seal_sync.apply_lock_timeout = '60s'\ndeadlock_timeout = '60s'");
sub sql { return $west->safe_psql('postgres', $_[0]) }
sql(q(CREATE EXTENSION seal_sync; CREATE ROLE sync_in LOGIN IN ROLE seal_sync_peer; CREATE ROLE stranger LOGIN;));
my ($got, $fit);

# ---- roles ----------------------------------------------------------------------------------------------
my $stranger = SealWire->new($west, user => 'stranger');
is($stranger->hello->{error}, '42501', 'a stranger may not call the wire functions');
undef $stranger;
my $east = SealWire->new($west, user => 'sync_in');
for my $call ([ 'put', sub { $east->call('wire_put', 'x') } ], [ 'describe', sub { $east->call('wire_describe', 'x') } ], [ 'apply', sub { $east->apply } ],
	[ 'wanted', sub { $east->wanted } ], [ 'heartbeat', sub { $east->heartbeat } ])
{
	is($call->[1]->()->{error}, '55000', "$call->[0] without hello is refused");
}

# ---- hello ------------------------------------------------------------------------------------------------
is($east->hello->{problem}{sqlstate}, 'SSW07', 'a node without identity: later');
sql(q(SELECT seal_sync.node_create('west')));
$got = $east->hello;
is($got->{problem}{sqlstate}, 'SSW07', 'not a peer yet: later');
is($got->{problem}{message}, 'node "east" is not a peer of node "west"', 'message');
sql(q(INSERT INTO seal_sync.peer (peer, server) VALUES ('east', 'east');
SELECT seal_sync.cluster_create('a', primary_node => 'east'), seal_sync.cluster_create('b', primary_node => 'west')));
is($east->hello(expected => 'north')->{problem}{sqlstate}, 'SS103', 'the wrong node');
is($east->hello(node => 'west')->{problem}{sqlstate}, 'SS103', 'itself');
is($east->hello(min => 2, protocol => 9)->{problem}{sqlstate}, '08P01', 'only newer protocols');
is($east->hello(protocol => 0, min => 0)->{problem}{sqlstate}, '08P01', 'only older protocols');
is($east->hello(encoding => 'KLINGON')->{error}, '08P01', 'unknown encoding');
is($east->hello(encoding => 'SJIS')->{error}, '08P01', 'not an encoding of servers');
is($east->hello(extra => 'x')->{error}, '08P01', 'something behind the message');
is($east->hello(node => 'x' x 64)->{error}, '42622', 'a name that is too long');
is($east->hello(node => "a\0b")->{error}, '08P01', 'a zero byte in a name');
is($east->hello(node => "\xff")->{error}, '22021', 'a name in no encoding');
is(sql('SELECT count(*) FROM seal_sync.origin'), 0, 'nobody is known by now');
$got = $east->hello(epochs => { a => 1, b => 1, zzz => 1 }, protocol => 7);
is($got->{problem}{sqlstate}, '', 'welcome') or diag explain $got;
is($got->{protocol}, 1, 'the highest protocol that both speak');
is_deeply([ map { @{$got->{clusters}{$_}}{qw(verdict epoch primary)} } qw(a b zzz) ], [ 0, 1, 'east', 2, 1, 'west', 1, 0, '' ], 'verdicts');
$got = $east->hello(epochs => { a => 2 });
is($got->{clusters}{a}{verdict}, 2, 'another epoch is not accepted');
is(sql(q(SELECT node, generation_issued, generation_confirmed, login FROM seal_sync.origin)), 'east|2|1|sync_in', 'what is known of the origin');

# ---- clones (trap T4) -----------------------------------------------------------------------------------------
is($east->hello(token => SealWire::id('other'))->{problem}{sqlstate}, 'SSW04', 'another token is another node');
# the answer to a hello may be lost: the peer speaks with what it had before
$east->heartbeat;
my $confirmed = $east->{generation};
is($east->hello->{problem}{sqlstate}, '', 'a hello whose answer is lost');
is($east->hello(generation => $confirmed)->{problem}{sqlstate}, '', 'is said again with the generation before');
# a copy of the node is made here
my %copy = (generation => $east->{generation});
$east->hello;
$east->heartbeat;
$got = $east->hello(%copy);
is($got->{problem}{sqlstate}, 'SSW04', 'the copy is refused once the original was used again') or diag explain $got;
is($got->{problem}{message}, 'node "east" looks like a clone or a restored copy', 'message');
is($east->heartbeat->{error}, undef, 'and does no harm to the original');
$got = $east->hello(generation => 0);
is($got->{problem}{sqlstate}, 'SSW04', 'so is one that has forgotten everything');
# copy and original alternate: one of them is refused
{
	my $first = $east->{generation};
	my $clone = SealWire->new($west, user => 'sync_in', generation => $first);
	is($clone->hello->{problem}{sqlstate}, '', 'a clone that comes first');
	is($clone->heartbeat->{error}, undef, 'and works');
	my $original = SealWire->new($west, user => 'sync_in', generation => $first);
	is($original->hello->{problem}{sqlstate}, 'SSW04', 'is noticed when the original comes');
	$clone->close; $original->close;
	$east = SealWire->new($west, user => 'sync_in', generation => $clone->{generation});
	$east->hello;
}

# ---- a new connection ends its predecessor ----------------------------------------------------------------------
sql(q(CREATE TABLE t (id int PRIMARY KEY, v text); SELECT seal_sync.table_add('t', cluster => 'a')));
my @t = ([qw(id int4 F 4 1)], [qw(v text T)]);
$east->describe('public.t', \@t);
{
	my $next = SealWire->new($west, user => 'sync_in', generation => $east->{generation});
	is($next->hello->{problem}{sqlstate}, '', 'a second connection');
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $east->{pid}"), 0, 'the first one is gone');
	# also one that waits for a lock in the middle of a batch
	my $holder = SealWire->new($west);
	$next->describe('public.t', \@t);
	$holder->sql('BEGIN; LOCK TABLE t IN SHARE MODE');
	my $request = SealWire::u64(1) . SealWire::id('x') . SealWire::u64(0) . "\0" x 16 . SealWire::u64($next->{generation}) . SealWire::u64(0) . "\0\0\1\1" . SealWire::sized('a') . SealWire::u64(1)
		. $next->whole('public.t', [ [ 1, 'never' ] ])->{bytes};
	$next->{stdin} .= "BEGIN\\; SELECT seal_sync.wire_apply('\\x" . unpack('H*', $request) . "')\\; COMMIT;\n";
	$next->{psql}->pump_nb;
	my $blocked = "SELECT count(*) = 1 FROM pg_locks WHERE pid = $next->{pid} AND NOT granted";
	for (1 .. 100) { $next->{psql}->pump_nb; last if sql($blocked) eq 't'; select undef, undef, undef, 0.05 }
	is(sql($blocked), 't', 'a batch waits');
	$east = SealWire->new($west, user => 'sync_in', generation => $next->{generation});
	is($east->hello->{problem}{sqlstate}, '', 'a third connection');
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE pid = $next->{pid}"), 0, 'the waiting one is gone');
	$holder->sql('COMMIT');
	is(sql('SELECT count(*) FROM t'), 0, 'with what it had');
}
$east->sql('SELECT pg_advisory_unlock_all()');
is($east->heartbeat->{error}, '55000', 'a session without its lock is none');
$east->hello;
is($east->heartbeat->{error}, undef, 'until it says hello again');

# ---- describe -------------------------------------------------------------------------------------------------------
sub sqlstate_of { my ($r) = @_; return $r->{error} // $r->{problem}{sqlstate} }
sql(q(
CREATE TABLE unregistered (id int PRIMARY KEY);
CREATE VIEW view AS SELECT * FROM t;
CREATE TABLE strict (id int PRIMARY KEY, must int NOT NULL, def int NOT NULL DEFAULT 1, idn int GENERATED ALWAYS AS IDENTITY, gen int GENERATED ALWAYS AS (id) STORED);
SELECT seal_sync.table_add('strict', cluster => 'a');
CREATE TABLE by_column (id int PRIMARY KEY, cl text);
SELECT seal_sync.table_add('by_column', cluster_column => 'cl');
));
is(sqlstate_of($east->describe('public.nothing', \@t)), '42P01', 'a table that is not there');
is(sqlstate_of($east->describe('nowhere.t', \@t)), '42P01', 'a schema that is not there');
is(sqlstate_of($east->describe('public.unregistered', [ $t[0] ])), '42P01', 'a table that is not registered');
is(sqlstate_of($east->describe('public.view', \@t)), '42P01', 'a view');
is(sqlstate_of($east->describe('public.t', [ $t[0], [qw(nope text T)] ])), '42703', 'a missing column');
is(sqlstate_of($east->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T 0 2)] ])), '55000', 'another key');
is(sqlstate_of($east->describe('public.t', [ [qw(id int4 F 4)], [qw(v text T 0 1)] ])), '55000', 'quite another key');
is(sqlstate_of($east->describe('public.t', \@t, cluster => 'b')), '55000', 'another cluster');
is(sqlstate_of($east->describe('public.t', \@t, column => 'v')), '55000', 'another rule');
is(sqlstate_of($east->describe('public.by_column', [ [qw(id int4 F 4 1)], [qw(cl text T)] ], cluster => 'a')), '55000', 'a rule by column');
$got = $east->describe('public.strict', [ $t[0] ]);
is(sqlstate_of($got), '23502', 'a column that must be filled');
is($got->{problem}{message}, 'table "public.strict" is parked for peer "west": column "must" exists only there, is not null and has no default', 'message');
is(sqlstate_of($east->describe('public.strict', [ $t[0], [qw(must int4 F 4)] ])), '', 'filled');
is(sqlstate_of($east->describe('public.t', [ $t[0], [qw(v point B)] ])), '', 'text takes anything');
is(sqlstate_of($east->describe('public.strict', [ $t[0], [qw(must point B)] ])), '42804', 'an integer does not');
is(sqlstate_of($east->describe('public.strict', [ $t[0], [qw(must int2 F 2)] ])), '', 'it takes what is narrower');
is(sqlstate_of($east->describe('public.strict', [ $t[0], [qw(must int8 F 8)] ])), '42804', 'nothing that is wider');
is(sqlstate_of($east->describe('public.t', [ $t[0], $t[0] ])), '08P01', 'a column twice');
is(sqlstate_of($east->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T 0 1)] ])), '08P01', 'a key position twice');
is(sqlstate_of($east->describe('public.t', [ [qw(id int4 F 4 2)], $t[1] ])), '08P01', 'a gap in the key positions');
is(sqlstate_of($east->describe('public.t', [ [qw(id int4 F 4)], $t[1] ])), '08P01', 'no key');
is(sqlstate_of($east->describe('public.t', [ [qw(id int4 F 4 200)], $t[1] ])), '08P01', 'a key position out of range');
is(sqlstate_of($east->describe('public.t', [ [qw(id int4 ? 4 1)], $t[1] ])), '08P01', 'an unknown class');
is(sqlstate_of($east->describe('public.t', \@t, count => 1_000_000)), '08P01', 'a million columns');
is(sqlstate_of($east->describe('public.t', \@t, count => 0)), '08P01', 'no columns');
is(sqlstate_of($east->describe('public.t', \@t, extra => 'x')), '08P01', 'something behind the message');
for ([ 'int4', 'F', 8 ], [ 'int4', 'F', 0 ], [ 'int4', 'Y', 0 ], [ 'int4', 'T', 0 ], [ 'int4', 'F', 255 ])
{
	$got = $east->describe('public.t', [ [ 'id', @$_, 1 ], $t[1] ]);
	is_deeply([ sqlstate_of($got), $got->{text} ], [ '', ['id'] ], "class $_->[1] width $_->[2] of an integer: rather as text");
}
is(sqlstate_of($east->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v bytea Y)] ])), '', 'bytea into text');
$east->describe('public.t', \@t);

# ---- damaged chunks ---------------------------------------------------------------------------------------------------
my $number = $east->{tables}{'public.t'}{number};
my $row = $east->row('public.t', [ 0, 1 ], [ 1, 'x' ]);
my %damaged = (
	'an unknown kind' => $east->section('X', $number, 1, $row),
	'a section that is cut' => substr($east->section('W', $number, 1, $row), 0, -1),
	'more rows than bytes' => $east->section('W', $number, 1000, $row),
	'a row too many' => $east->section('W', $number, 2, $row),
	'a row too few' => $east->section('W', $number, 1, $row . $row),
	'an unknown table' => $east->section('W', 999, 1, $row),
	'a value that is too long' => $east->section('W', $number, 1, "\0" . pack('l<', 1) . "\xff\xff\xff\xff\x0f"),
	'a number without end' => $east->section('W', $number, 1, "\0" . pack('l<', 1) . "\xff" x 11),
	'a null key' => $east->section('W', $number, 1, "\1\1x"),
	'a null key to delete' => $east->section('D', $number, 1, "\1"),
	'a mask without the key' => $east->section('P', $number, 1, "\1\2" . "\0\1x"),
	'a mask of other columns' => $east->section('P', $number, 1, "\1\x7f" . $row),
	'a mask that is too long' => $east->section('P', $number, 1, "\5\3\0\0\0\0" . $row),
	'no mask' => $east->section('P', $number, 1, ''),
	'a half section' => 'W',
);
for my $what (sort keys %damaged)
{
	for my $careful (0, 1)
	{
		$got = $east->apply(sections => [ { rows => ($what eq 'more rows than bytes' ? 1000 : $what eq 'a row too many' ? 2 : $what eq 'a half section' ? 0 : 1), bytes => $damaged{$what} } ], careful => $careful);
		is($got->{error} // 'applied', '08P01', "$what (careful $careful)") or diag explain $got;
	}
}
is($east->call('wire_put', $damaged{'a half section'})->{error}, '08P01', 'wire_put looks too');
$got = $east->apply(sections => [ $east->whole('public.t', [ [ 3, 'a' ], [ 3, 'b' ] ]) ]);
is($got->{error} // 'applied', '23505', 'a key twice in a section');
$got = $east->apply(sections => [ $east->whole('public.t', [ [ 3, 'a' ] ]), $east->whole('public.t', [ [ 3, 'b' ] ]) ]);
is($got->{error}, undef, 'in two sections the later one counts');
is($east->apply(batch => 0)->{error}, '08P01', 'batch 0');
is($east->apply(batch => 2**63)->{error}, '08P01', 'a number out of range');
is($east->heartbeat(extra => 'x')->{error}, '08P01', 'something behind a heartbeat');
is($east->heartbeat(generation => 1)->{error}, 'SSW04', 'a heartbeat of another generation');

# ---- chance: whatever is sent, the server stays up and rows of others stay what they are --------------------------------
sql(q(INSERT INTO by_column VALUES (1, 'b'), (2, 'b')));
$east->describe('public.by_column', [ [qw(id int4 F 4 1)], [qw(cl text T)] ], column => 'cl');
srand(my $seed = $ENV{SEAL_SEED} // time);
note "SEAL_SEED=$seed";
my %seen;
for my $round (1 .. 400)
{
	my @sections = ($east->whole('public.by_column', [ [ 1, 'a' ], [ 3, 'a' ], [ 4, 'b' ] ]), $east->removed('public.by_column', [ [2] ]), $east->partial('public.t', [qw(id v)], [ [ 3, 'z' ] ]));
	my $bytes = join '', map { $_->{bytes} } @sections;
	for (1 .. 1 + rand 4)
	{
		my $at = int rand length $bytes;
		my $kind = int rand 4;
		$kind == 0 ? (substr($bytes, $at, 1) = chr rand 256) : $kind == 1 ? substr($bytes, $at, int(rand 5), '') : $kind == 2 ? substr($bytes, $at, 0, join '', map { chr rand 256 } 1 .. rand 6) : (substr($bytes, $at, 1) = chr(ord(substr $bytes, $at, 1) ^ 1 << int rand 8));
	}
	my $rows = 0;
	$got = $east->apply(sections => [ { rows => 5, bytes => $bytes } ], careful => $round & 1);
	my $outcome = $got->{error} // 'applied';
	$seen{$outcome}++;
	if ($outcome eq 'gone') { fail("round $round ended the connection"); diag unpack 'H*', $bytes; last }
	$east->call('wire_describe', join '', map { chr rand 256 } 1 .. rand 60) if $round % 10 == 0;
	$east->call('wire_put', join '', map { chr rand 256 } 1 .. rand 60) if $round % 10 == 5;
	$east->call('wire_heartbeat', join '', map { chr rand 256 } 1 .. rand 20) if $round % 10 == 7;
}
note explain \%seen;
cmp_ok($seen{applied} // 0, '>', 0, 'some were harmless');
is(sql(q(SELECT string_agg(b::text, ' ' ORDER BY id) FROM by_column b WHERE cl = 'b')), '(1,b) (2,b)', 'rows of another cluster are what they were');
is(sql(q(SELECT count(*) FROM by_column WHERE cl NOT IN ('a', 'b'))), '0', 'and no row belongs nowhere');
done_testing();
