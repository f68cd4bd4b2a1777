# Stages: what was put outlives the connection and crashes, and is applied as if all of it had been put now. What a later
# row of the same key supersedes is not looked at.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

my $wire = receiver();
sub sql { return $wire->safe_psql('postgres', $_[0]) }
sql(q(
CREATE TABLE p (id int PRIMARY KEY);
CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE, p int REFERENCES p);
CREATE TABLE n (k numeric PRIMARY KEY, v text, u int UNIQUE);
CREATE TABLE other (id int PRIMARY KEY, v text);
SELECT seal_sync.table_add(x, cluster => 'a') FROM unnest('{p,t,n,other}'::regclass[]) x;
));
my $sender = SealWire->new($wire, user => 'sync_in');
sub greet
{
	my ($s) = @_;
	is($s->hello->{problem}{sqlstate}, '', 'welcome');
	$s->describe('public.p', [ [qw(id int4 F 4 1)] ]);
	$s->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T)], [qw(u int4 F 4)], [qw(p int4 F 4)] ]);
	$s->describe('public.n', [ [qw(k numeric O 0 1)], [qw(v text T)], [qw(u int4 F 4)] ]);
	$s->describe('public.other', [ [qw(id int4 F 4 1)], [qw(v text T)] ]);
	return;
}
sub reconnect { $sender->close; $sender->connect; greet($sender); return }
sub t { return $sender->whole('public.t', [@_]) }
sub gone { return $sender->removed('public.t', [ map { [$_] } @_ ]) }
sub changed { my ($columns, @rows) = @_; return $sender->partial('public.t', [ 'id', @$columns ], \@rows) }
sub rows { return sql(q(SELECT string_agg(concat_ws(':', id, v, u, p), ' ' ORDER BY id) FROM t)) // '' }
sub clear { is($sender->batch(gone(split /,/, sql('SELECT string_agg(id::text, chr(44)) FROM t') || 0))->{error}, undef, 'cleared'); return }
sub stages_are { is(sql('SELECT count(*) FROM seal_sync.stages'), $_[0], $_[1] // "$_[0] stages"); return }
greet($sender);

# ---- it outlives the connection ------------------------------------------------------------------------------
my $got = $sender->stage('s', [ t([ 1, 'one', 1, undef ]), [ t([ 2, 'two', 2, undef ]), $sender->whole('public.other', [ [ 1, 'x' ] ]) ] ], note => 'how far');
is_deeply([ @$got{qw(error chunks rows)} ], [ undef, 2, 3 ], 'two chunks are staged') or diag explain $got;
is(sql('SELECT origin || chunks || rows || (bytes > 40) || (last_at >= created_at) FROM seal_sync.stages'), 'east23truetrue', 'the view shows them');
is(rows(), '', 'nothing is applied');
my $bytes = $got->{bytes};
reconnect();
$got = $sender->stages->{stages};
is_deeply($got, [ { id => SealWire::id('s'), previous => 0, previous_id => "\0" x 16, chunks => 2, rows => 3, bytes => $bytes, note => 'how far' } ],
	'known on the next connection') or diag explain $got;
is($sender->stage('s', [ $sender->packed(t(map { [ $_, "packed $_", $_, undef ] } 3 .. 5)) ], note => 'farther')->{rows}, 6, 'more is staged, packed');
is($sender->stages->{stages}[0]{note}, 'farther', 'the note is the new one');
$got = $sender->apply(stages => ['s'], sections => [ t([ 6, 'six', 6, undef ]) ]);
is_deeply([ @$got{qw(error inserted)} ], [ undef, 7 ], 'one batch applies all of it') or diag explain $got;
is(rows(), '1:one:1 2:two:2 3:packed 3:3 4:packed 4:4 5:packed 5:5 6:six:6', 'once');
is(sql('SELECT rows FROM seal_sync.applied_progress'), 7, 'it counts as one batch');
stages_are(0, 'the stage is gone');
is($sender->apply(stages => ['s'], batch => $sender->{batch}, id => $sender->{batch_id}, previous => 0, previous_id => "\0" x 16)->{status}, 1, 'asked again: applied before, whatever has become of the stage');
is(sql('SELECT v FROM other'), 'x', 'the other table as well');

# ---- a later row supersedes earlier ones --------------------------------------------------------------------------
clear();
$sender->stage('s', [ t([ 1, 'first', 1, undef ], [ 2, 'first', 2, undef ], [ 3, 'first', 3, undef ], [ 4, 'first', 4, undef ], [ 5, 'first', 5, undef ], [ 6, 'first', 6, undef ], [ 7, 'first', 7, undef ]), gone(8, 9) ]);
reconnect();
$sender->stage('s', [ t([ 1, 'second', 11, undef ]), gone(2), changed([ 'v' ], [ 3, 'changed' ], [ 4, 'changed' ]), t([ 5, 'second', 15, undef ]), t([ 8, 'again', 8, undef ]) ], pass => 2);
$sender->stage('s', [ t([ 4, 'third', 4, undef ]), gone(5) ], pass => 3);
$sender->put(t([ 9, 'put', 9, undef ]));
$got = $sender->apply(stages => ['s'], chunks => 1, rows => 4, sections => [ gone(6), changed([ 'u' ], [ 3, 33 ], [ 7, 77 ]) ]);
is_deeply([ @$got{qw(error inserted updated deleted)} ], [ undef, 6, 3, 0 ], 'only what counts is written') or diag explain $got;
is(rows(), '1:second:11 3:changed:33 4:third:4 7:first:77 8:again:8 9:put:9', 'W over W, D over W, W over D, P over W, P over P');

# Values that are unique have moved between keys meanwhile
clear();
$sender->stage('s', [ t([ 1, 'a', 100, undef ], [ 2, 'b', 200, undef ], [ 3, 'c', 300, undef ]) ]);
is($sender->apply(stages => ['s'])->{error}, undef, 'three rows');
$sender->stage('s', [ t([ 4, 'a', 400, undef ], [ 5, 'b', 500, undef ], [ 6, 'bad', 600, 999 ]) ]);
$sender->stage('s', [ t([ 4, 'a', 500, undef ], [ 5, 'b', 300, undef ], [ 3, 'c', 400, undef ]), gone(6) ], pass => 2);
$got = $sender->batch({ stages => ['s'] });
is_deeply([ @$got{qw(error refused)} ], [ undef, [] ], 'a value that moved on is in nobody\'s way, nor a row that was refused for itself') or diag explain $got;
is(rows(), '1:a:100 2:b:200 3:c:400 4:a:500 5:b:300', 'the newest state');

# Two stages in their order, and the other way round
clear();
for my $order ([qw(x y)], [qw(y x)])
{
	$sender->stage('x', [ t([ 1, 'x', 1, undef ], [ 2, 'x', 2, undef ]) ]);
	$sender->stage('y', [ t([ 2, 'y', 3, undef ]), $sender->whole('public.p', [ [8] ]) ]);
	is($sender->apply(stages => $order)->{error}, undef, "@$order");
	is(sql('SELECT v FROM t WHERE id = 2'), $order->[1], 'the later stage counts');
}

# What an older row has referred to does not count
clear();
$sender->stage('s', [ $sender->whole('public.p', [ [1], [2] ]), t([ 1, 'a', 1, undef ], [ 2, 'b', 2, undef ]) ]);
is($sender->apply(stages => ['s'])->{error}, undef, 'two parents');
$sender->stage('s', [ $sender->whole('public.p', [ [3] ]), changed([ 'p' ], [ 1, 3 ], [ 2, 3 ]) ]);
$sender->stage('s', [ $sender->removed('public.p', [ [3] ]), changed([ 'p' ], [ 1, 2 ], [ 2, 1 ]) ], pass => 2);
$got = $sender->batch({ stages => ['s'] });
is_deeply([ @$got{qw(error refused)} ], [ undef, [] ], 'a parent that came and went between two passes') or diag explain $got;
is(rows(), '1:a:1:2 2:b:2:1', 'the newest state');
$sender->stage('s', [ changed([ 'p' ], [ 1, 77 ]) ]);
$got = $sender->batch({ stages => ['s'] });
is_deeply([ $got->{error}, map { $_->{sqlstate} } @{ $got->{refused} } ], [ undef, '23503' ], 'one that is missing does') or diag explain $got;

# ---- rows that are refused or wanted, in stages --------------------------------------------------------------------
clear();
sql(q(ALTER TABLE t ADD CONSTRAINT no_bad CHECK (v <> 'bad')));
$sender->stage('s', [ t([ 1, 'fine', 1, undef ], [ 2, 'bad', 2, undef ], [ 3, 'fine', 3, undef ]) ]);
reconnect();
$sender->stage('s', [ t([ 4, 'bad', 4, undef ], [ 5, 'bad', 5, undef ]) ], pass => 2);
$got = $sender->batch({ stages => ['s'] }, t([ 5, 'good', 5, undef ], [ 6, 'bad', 6, undef ]));
is($got->{error}, undef, 'the batch goes through') or diag explain $got;
is_deeply([ sort map { join ' ', @$_{qw(schema table kind sqlstate constraint)}, unpack 'xl<', $_->{key} } @{ $got->{refused} } ],
	[ map { "public t W 23514 no_bad $_" } 2, 4, 6 ], 'what is refused comes back with its key, once') or diag explain $got;
is(rows(), '1:fine:1 3:fine:3 5:good:5', 'the others are written');
sql('ALTER TABLE t DROP CONSTRAINT no_bad');

sub wanted_are
{
	my (@ids) = @_;
	my $wanted = $sender->wanted->{wanted};
	is_deeply([ sort map { $_->[0] . ' ' . unpack 'xl<', $_->[1] } @$wanted ], [ sort map { "$sender->{tables}{'public.t'}{number} $_" } @ids ],
		'the table has its number of this connection') or diag explain $wanted;
	return;
}
$sender->stage('s', [ changed([ 'v' ], [ 50, 'part' ], [ 1, 'part' ]), t([ 52, 'x', 52, undef ]) ]);
$sender->stage('s', [ changed([ 'u' ], [ 50, 1050 ], [ 51, 1051 ], [ 52, 1052 ]) ], pass => 2);
$sender->{next_table} = 40; # other numbers than before
reconnect();
my $id = SealWire::id('wanted');
is($sender->apply(stages => ['s'], id => $id, sections => [ changed([ 'v' ], [ 51, 'put' ]) ])->{error}, 'SSW01', 'rows are wanted');
wanted_are(50, 51);
is($sender->apply(stages => ['s'], id => $id, sections => [ changed([ 'v' ], [ 51, 'put' ]) ])->{error}, 'SSW01', 'as long as they do not come');
$sender->put(t([ 50, 'whole', 1050, undef ]), gone(51));
$got = $sender->apply(stages => ['s'], id => $id, chunks => 1, rows => 3, sections => [ changed([ 'v' ], [ 51, 'put' ]) ]);
is($got->{error}, undef, 'they come') or diag explain $got;
is(rows(), '1:part:1 3:fine:3 5:good:5 50:whole:1050 52:x:1052', 'and count');

# ---- in careful mode an older row never wins ------------------------------------------------------------------------
# The keys are equal and have other bytes, so nothing is superseded beforehand (trap T24)
sub n { return $sender->whole('public.n', [@_]) }
my $fails = t([ 1000, 'fails', 7, 999 ]);
sub careful_rows
{
	my ($name, $expected, @passes) = @_;
	my $pass = 1;
	$sender->stage('s', [$_], pass => $pass++) for @passes;
	my $result = $sender->batch({ stages => ['s'] }, $fails);
	is_deeply([ $result->{error}, map { $_->{table} } @{ $result->{refused} } ], [ undef, 't' ], "$name: careful") or diag explain $result;
	is(sql(q(SELECT string_agg(concat_ws(':', k, v, u), ' ' ORDER BY k) FROM n)), $expected, $name);
	return;
}
careful_rows('both are new', '1.00:new:11', n([ '1.0', 'old', 10 ]), n([ '1.00', 'new', 11 ]));
careful_rows('both are changes', '1.0000:new:21', n([ '1.000', 'old', 20 ]), n([ '1.0000', 'new', 21 ]));
careful_rows('a delete of one that waits', '', n([ '1.0', 'old', 30 ]), $sender->removed('public.n', [ ['1.00'] ]));
careful_rows('a delete, and new again', '2.000:new:42', n([ '2.0', 'old', 40 ]), $sender->removed('public.n', [ ['2.00'] ]), n([ '2.000', 'new', 42 ]));
careful_rows('values that swap', '2:x:50 3:y:42', n([ '2.0', 'x', 60 ], [ '3.0', 'y', 61 ]), n([ '2', 'x', 50 ], [ '3', 'y', 42 ]));
is($sender->stage('s', [ t([ 60, 'new', 60, undef ]) ])->{error}, undef, 'a new row waits');
$sender->stage('s', [ changed([ 'v' ], [ 60, 'newer' ]) ], pass => 2);
$id = SealWire::id('careful');
is($sender->apply(stages => ['s'], id => $id, careful => 1)->{error}, 'SSW01', 'a part of it is changed: it is wanted whole');
wanted_are(60);
$sender->put(t([ 60, 'newest', 60, undef ]));
$got = $sender->apply(stages => ['s'], id => $id, careful => 1, chunks => 1, rows => 1);
is_deeply([ @$got{qw(error inserted refused)} ], [ undef, 1, [] ], 'and comes') or diag explain $got;
is(sql('SELECT v FROM t WHERE id = 60'), 'newest', 'as it is now');

# ---- clean-up --------------------------------------------------------------------------------------------------------
stages_are(0);
sub chunk_rows { return sql('SELECT count(*) FROM seal_sync.stage_chunk') }
wait_until($wire, 'SELECT (SELECT count(*) FROM seal_sync.stage_chunk) + (SELECT count(*) FROM seal_sync.stage_table)', '0', 'nothing is left of them');
is(sql(q(SELECT pg_relation_size('seal_sync.stage_chunk'))), '0', 'not even an empty page');
sql('CREATE PUBLICATION everything FOR ALL TABLES'); # it would refuse deletes from tables without a primary key (trap T20)
$sender->stage('stays', [ t([ 70, 'stays', 70, undef ]) ]);
$sender->stage('goes', [ map { $sender->whole('public.other', [ [ $_, 'x' x 20000 ] ]) } 1 .. 5 ]);
is(chunk_rows(), 16, 'pieces of two stages') or diag sql('SELECT stage, seq, piece, length(data) FROM seal_sync.stage_chunk');
is($sender->drop_stage('goes')->{error}, undef, 'one is dropped');
wait_until($wire, 'SELECT count(*) || (SELECT count(DISTINCT stage) FROM seal_sync.stage_table)::text FROM seal_sync.stage_chunk', '11', 'its pieces go, those of the other stay');
is($sender->apply(stages => ['stays'])->{inserted}, 1, 'which is applied');
is(sql(q(SELECT reltoastrelid FROM pg_class WHERE oid = 'seal_sync.stage_chunk'::regclass)), '0', 'nothing goes through TOAST');
$sender->close;
done_testing();
