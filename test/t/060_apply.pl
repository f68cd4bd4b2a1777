# Batches through the wire functions of one node, the sender played by test/perl/SealWire.pm.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

my $west = one_node('west');
sub sql { return $west->safe_psql('postgres', $_[0]) }
sql(q(
CREATE EXTENSION seal_sync;
SELECT seal_sync.node_create('west');
INSERT INTO seal_sync.peer (peer, server) VALUES ('east', 'east');
SELECT seal_sync.cluster_create('a', primary_node => 'east'), seal_sync.cluster_create('b', primary_node => 'west');
CREATE TABLE t (id int PRIMARY KEY, v text, n int);
SELECT seal_sync.table_add('t', cluster => 'a');
));

my $east = SealWire->new($west);
my $hello = $east->hello;
is($hello->{problem}{sqlstate}, '', 'hello is accepted') or diag explain $hello;
is($hello->{node}, 'west', 'the answer names the node');
is($hello->{generation}, 1, 'a generation is issued');
is($hello->{clusters}{a}{verdict}, 0, 'the cluster is accepted');
my @t = ([qw(id int4 F 4 1)], [qw(v text T)], [qw(n int4 F 4)]);
my $fit = $east->describe('public.t', \@t);
is($fit->{problem}{sqlstate}, '', 'the table fits') or diag explain $fit;

my $got = $east->batch($east->whole('public.t', [ [ 1, 'one', 10 ], [ 2, 'two', undef ], [ 3, undef, 30 ] ]));
is($got->{inserted}, 3, 'three rows inserted') or diag explain $got;
is(sql('SELECT string_agg(t::text, \' \' ORDER BY id) FROM t'), '(1,one,10) (2,two,) (3,,30)', 'they are there');

sub rows { return sql("SELECT coalesce(string_agg(t::text, ' ' ORDER BY id), '') FROM $_[0] t") }
sub log_size { return sql('SELECT coalesce(sum(n), 0) FROM (' . join(' UNION ALL ', map { "SELECT count(*) AS n FROM seal_sync.change_log_$_" } 0 .. 7) . ') c') }

# ---- the second time changes nothing, and says so (number and id must match) --------------------
my $section = $east->whole('public.t', [ [ 4, 'four', 4 ] ]);
my %last = (batch => 2, previous => 1, previous_id => $east->{batch_id}, id => SealWire::id('second'));
$got = $east->apply(sections => [$section], %last);
is($got->{inserted}, 1, 'batch 2');
is(log_size(), 0, 'what apply writes is not captured');
$got = $east->apply(sections => [$section], %last);
is($got->{status}, 1, 'the same batch again: applied before') or diag explain $got;
is(sql('SELECT count(*) FROM t'), 4, 'and nothing changed');
$got = $east->apply(sections => [$section], %last, id => SealWire::id('other'));
is($got->{error}, 'SSW04', 'the same number with another id contradicts');
$got = $east->apply(sections => [$section], batch => 3, previous => 1, previous_id => $last{previous_id});
is($got->{error}, 'SSW04', 'another predecessor contradicts');
$got = $east->apply(sections => [$section], batch => 3, previous => 2, previous_id => SealWire::id('x'));
is($got->{error}, 'SSW04', 'the predecessor with another id contradicts');
$got = $east->apply(sections => [$section], batch => 1, previous => 0, previous_id => "\0" x 16);
is($got->{error}, 'SSW04', 'a first batch contradicts when there are others');
$got = $east->apply(sections => [$section], generation => 77);
is($got->{error}, 'SSW04', 'another generation contradicts');
is(sql(q(SELECT count(*) FROM seal_sync.applied_0)), 2, 'one progress row for each batch applied');

# ---- update, partial update, delete ---------------------------------------------------------------
$got = $east->batch($east->removed('public.t', [ [3], [99] ]), $east->whole('public.t', [ [ 1, 'uno', 11 ], [ 2, 'two', undef ] ]),
	$east->partial('public.t', [ 'id', 'n' ], [ [ 4, 44 ] ]));
is_deeply([ @$got{qw(inserted updated deleted unchanged)} ], [ 0, 2, 1, 2 ], 'counts') or diag explain $got;
is(rows('t'), '(1,uno,11) (2,two,) (4,four,44)', 'rows');

# ---- a partial update that finds no row ------------------------------------------------------------
my $partial = $east->partial('public.t', [ 'id', 'n' ], [ [ 1, 12 ], [ 7, 70 ], [ 8, 80 ], [ 9, 90 ] ]);
my $id = SealWire::id('wanted');
$got = $east->apply(sections => [$partial], id => $id);
is($got->{error}, 'SSW01', 'rows are wanted');
my $wanted = $east->wanted;
is_deeply([ sort map { unpack 'xl<', $_->[1] } @{$wanted->{wanted}} ], [ 7, 8, 9 ], 'the keys of all of them') or diag explain $wanted;
$east->put($east->whole('public.t', [ [ 7, 'seven', 70 ], [ 8, 'eight', 80 ] ]));
$got = $east->apply(sections => [$partial], id => $id, chunks => 1, rows => 6);
is($got->{error}, 'SSW01', 'still one is wanted');
is(scalar @{$east->wanted->{wanted}}, 1, 'only the one');
$east->put($east->removed('public.t', [ [9] ]));
$got = $east->apply(sections => [$partial], id => $id, chunks => 2, rows => 7);
is_deeply([ @$got{qw(inserted updated deleted unchanged)} ], [ 2, 1, 0, 1 ], 'with their whole rows it goes through') or diag explain $got;
is(rows('t'), '(1,uno,12) (2,two,) (4,four,44) (7,seven,70) (8,eight,80)', 'rows');

# ---- chunks -----------------------------------------------------------------------------------------
$east->put($east->whole('public.t', [ map { [ $_, "row $_", $_ ] } 100 .. 1299 ])) for 1;
$east->put($east->whole('public.t', [ map { [ $_, "row $_", $_ ] } 1300 .. 2999 ]));
$got = $east->apply(sections => [ $east->removed('public.t', [ [7], [8] ]) ], chunks => 3, rows => 2902);
is($got->{error}, 'SSW05', 'a missing chunk is noticed');
$east->put($east->whole('public.t', [ map { [ $_, "row $_", $_ ] } 100 .. 1299 ]));
$east->put($east->whole('public.t', [ map { [ $_, "row $_", $_ ] } 1300 .. 2999 ]));
$got = $east->apply(sections => [ $east->removed('public.t', [ [7], [8] ]) ], chunks => 2, rows => 2902);
is_deeply([ @$got{qw(inserted deleted)} ], [ 2900, 2 ], 'two chunks and the last one') or diag explain $got;
$east->put($east->whole('public.t', [ [ 5, 'abandoned', 5 ] ]));
is($east->call('wire_put', '')->{error}, undef, 'an empty chunk drops what was collected');
$got = $east->batch($east->removed('public.t', [ map { [$_] } 100 .. 2999 ]));
is($got->{deleted}, 2900, 'deleted again');
is(sql('SELECT count(*) FROM t WHERE id = 5'), 0, 'nothing of the abandoned batch');
# more than fits into memory goes to a file, and can be read again
my $filler = 'x' x 100_000;
$east->put($east->whole('public.t', [ map { [ 10_000 + $_, $filler, $_ ] } $_ * 20 .. $_ * 20 + 19 ])) for 0 .. 11;
$got = $east->apply(sections => [ $east->whole('public.t', [ [ 11_000, 'last', undef ] ]) ], chunks => 12, rows => 241, begin => '');
is($got->{error}, '25P01', 'outside a transaction block it is refused');
$got = $east->apply(sections => [ $east->whole('public.t', [ [ 11_000, 'last', undef ] ]) ], chunks => 12, rows => 241, begin => 'BEGIN ISOLATION LEVEL REPEATABLE READ');
is($got->{error}, '25004', 'with a snapshot held it is refused');
$got = $east->apply(sections => [ $east->whole('public.t', [ [ 11_000, 'last', undef ] ]) ], chunks => 12, rows => 241);
is($got->{inserted}, 241, '24 MB through a temporary file') or diag explain $got;
is(sql('SELECT count(*), sum(length(v)) FROM t WHERE id >= 10000'), '241|24000004', 'all there');
sql('SET seal_sync.guard = off; DELETE FROM t WHERE id >= 10000');
sql('TRUNCATE seal_sync.change_log_0');

# ---- durability and waiting ----------------------------------------------------------------------
for ([ 'off', 'on' ], [ 'local', 'on' ], [ 'remote_write', 'remote_write' ], [ 'on', 'on' ], [ 'remote_apply', 'remote_apply' ])
{
	my ($configured, $effective) = @$_;
	$east->sql("SET synchronous_commit = $configured");
	my $request = SealWire::u64($east->{batch} + 1) . SealWire::id("sync $configured") . SealWire::u64($east->{batch}) . $east->{batch_id} . SealWire::u64($east->{generation})
		. SealWire::u64(0) . "\0\0\0\0";
	my $shown = $east->sql("BEGIN\\; SELECT seal_sync.wire_apply('\\x" . unpack('H*', $request) . "')\\; SELECT current_setting('synchronous_commit')\\; ROLLBACK");
	like($shown->{value} // '', qr/$effective$/, "synchronous_commit $configured becomes $effective until COMMIT") or diag explain $shown;
}
$east->sql('RESET synchronous_commit');
is($east->sql('SELECT current_setting(\'lock_timeout\')')->{value}, '0', 'lock_timeout only for the transaction');
{
	my $holder = SealWire->new($west);
	$holder->sql('BEGIN; LOCK TABLE t');
	my $start = Time::HiRes::time();
	$got = $east->apply(sections => [ $east->whole('public.t', [ [ 1, 'waits', 1 ] ]) ]);
	is($got->{error}, '55P03', 'a lock held by others ends the attempt') or diag explain $got;
	cmp_ok(Time::HiRes::time() - $start, '<', 5, 'soon');
	$holder->sql('ROLLBACK');
}

# ---- rows of others ----------------------------------------------------------------------------------
sql(q(
CREATE TABLE mixed (id int PRIMARY KEY, cl text, v text);
SELECT seal_sync.table_add('mixed', cluster_column => 'cl');
INSERT INTO mixed VALUES (1, 'b', 'west''s own'), (2, 'b', 'west''s own');
));
$fit = $east->describe('public.mixed', [ [qw(id int4 F 4 1)], [qw(cl text T)], [qw(v text T)] ], column => 'cl');
is($fit->{problem}{sqlstate}, '', 'mixed fits') or diag explain $fit;
my $before = log_size();
$got = $east->batch($east->removed('public.mixed', [ [2] ]), $east->whole('public.mixed', [ [ 1, 'a', 'stolen' ], [ 3, 'a', 'mine' ], [ 4, 'b', 'forged' ], [ 5, 'zzz', 'nobody' ], [ 6, undef, 'null' ] ]));
is_deeply([ map { [ unpack('xl<', $_->{key}), $_->{kind}, $_->{sqlstate} ] } sort { $a->{key} cmp $b->{key} } @{$got->{refused}} ],
	[ [ 1, 'W', '55000' ], [ 2, 'D', '55000' ], [ 4, 'W', '55000' ], [ 5, 'W', '23514' ], [ 6, 'W', '23514' ] ], 'refused keys') or diag explain $got;
is($got->{attempts}, 1, 'without a second attempt');
is(rows('mixed'), '(1,b,"west\'s own") (2,b,"west\'s own") (3,a,mine)', 'nothing of the other cluster was touched');
is(scalar(grep { "$_->{message} $_->{detail}" =~ /stolen|forged|mine/ } @{$got->{refused}}), 0, 'no values in the texts');
$got = $east->batch($east->whole('public.mixed', [ [ 3, 'b', 'handed over' ] ]), $east->partial('public.mixed', [qw(id v)], [ [ 1, 'stolen' ] ]));
is(scalar @{$got->{refused}}, 2, 'nor can a row be moved into it, or changed in part');
is(rows('mixed'), '(1,b,"west\'s own") (2,b,"west\'s own") (3,a,mine)', 'unchanged');
is(log_size(), $before, 'nothing captured');
# refusals are kept with the progress
my $again = $east->apply(batch => $east->{batch}, id => $east->{batch_id}, previous => $east->{batch} - 1, previous_id => 'y' x 16);
is($again->{status}, 1, 'asked again');
is_deeply($again->{refused}, $got->{refused}, 'the same refusals');

# ---- a batch of a cluster that is not the sender's any more ------------------------------------------
$got = $east->apply(epochs => { a => 2 });
is($got->{error}, 'SSW06', 'another epoch is refused');
$got = $east->apply(epochs => { b => 1 });
is($got->{error}, 'SSW06', 'a cluster of ours is refused');
$got = $east->apply(epochs => { nope => 1 });
is($got->{error}, 'SSW06', 'an unknown cluster is refused');
$got = $east->apply(epochs => {}, sections => [ $east->whole('public.t', [ [ 1, 'unclaimed', 1 ] ]) ]);
is(scalar @{$got->{refused} // []}, 1, 'rows of a cluster that the batch does not name are refused') or diag explain $got;

# ---- data errors: careful mode -------------------------------------------------------------------------
sql(q(
CREATE TABLE c (id int PRIMARY KEY, v text CHECK (v <> 'bad'), n numeric(5,2), w varchar(5));
SELECT seal_sync.table_add('c', cluster => 'a');
));
$east->describe('public.c', [ [qw(id int4 F 4 1)], [qw(v text T)], [qw(n numeric O 0 0 327686)], [qw(w varchar T 0 0 9)] ]);
$got = $east->batch($east->whole('public.c', [ map { [ $_, $_ % 10 == 5 ? 'bad' : "v$_", $_ == 12 ? '1234567.89' : $_ == 13 ? 'NaN' : '1.5', $_ == 17 ? 'toolong' : $_ == 18 ? 'fit ' : 'ok' ] } 1 .. 40 ]));
is($got->{inserted}, 34, 'all but the bad rows') or diag explain $got;
is_deeply([ map { [ unpack('xl<', $_->{key}), $_->{sqlstate}, $_->{constraint} ] } sort { unpack('xl<', $a->{key}) <=> unpack('xl<', $b->{key}) } @{$got->{refused}} ],
	[ [ 5, '23514', 'c_v_check' ], [ 12, '22003', '' ], [ 15, '23514', 'c_v_check' ], [ 17, '22001', '' ], [ 25, '23514', 'c_v_check' ], [ 35, '23514', 'c_v_check' ] ],
	'which are refused with their reasons') or diag explain $got->{refused};
is($got->{attempts}, 2, 'two attempts');
# what stands in columns that the peer does not know stays here
sql(q(ALTER TABLE c ADD COLUMN secret text DEFAULT 'only here'; CREATE ROLE watcher LOGIN; GRANT seal_sync_monitor TO watcher));
$east->describe('public.c', [ [qw(id int4 F 4 1)], [qw(v text T)], [qw(n numeric O 0 0 327686)], [qw(w varchar T 0 0 9)] ]);
my $read = -s $west->logfile;
$got = $east->apply(sections => [ $east->partial('public.c', [qw(id v)], [ [ 1, 'bad' ] ]) ]);
is_deeply([ @$got{qw(error detail)} ], [ '23514', undef ], 'no detail for the peer') or diag explain $got;
like(substr(slurp_file($west->logfile), $read), qr/Failing row contains .*only here/, 'but in the log of this node');
$got = $east->batch($east->partial('public.c', [qw(id v)], [ [ 1, 'bad' ] ]));
is_deeply([ map { @$_{qw(sqlstate detail constraint)} } @{$got->{refused}} ], [ '23514', '', 'c_v_check' ], 'nor with a refused row') or diag explain $got;
$east->describe('public.c', [ [qw(id int4 F 4 1)], [qw(v text T)], [qw(n numeric T 0 0 327686)], [qw(w varchar T 0 0 9)] ]);
$got = $east->apply(sections => [ $east->whole('public.c', [ [ 2, 'v', 'number 4711', undef ] ]) ]);
is($got->{error}, '22P02', 'a value that does not fit its type') or diag explain $got;
is(sql(q(SET ROLE watcher; SELECT last_error_sqlstate || ' ' || last_error FROM seal_sync.status WHERE direction = 'in')), '22P02 a row was refused with SQLSTATE 22P02', 'is not shown to those who watch');
sql('ALTER TABLE c DROP COLUMN secret');
$east->describe('public.c', [ [qw(id int4 F 4 1)], [qw(v text T)], [qw(n numeric O 0 0 327686)], [qw(w varchar T 0 0 9)] ]);
is(sql('SELECT count(*), count(*) FILTER (WHERE w = \'fit \') FROM c'), '34|1', 'rows');
# many refused rows: those that remain are written once more, in one subtransaction
$got = $east->batch($east->whole('public.c', [ map { [ $_, $_ % 2 ? 'bad' : 'good', undef, undef ] } 1001 .. 1200 ]));
is($got->{inserted} . '/' . @{$got->{refused}}, '100/100', '100 of 200 refused');
is_deeply($got->{errors}, ['23514'], 'found out and written in one attempt') or diag explain $got->{errors};
is(sql('SELECT count(*), count(DISTINCT xmin::text) FROM c WHERE id > 1000'), '100|1', 'the rows are of one (sub)transaction');

# ---- what is not the row's fault is never swallowed -------------------------------------------------
$east->sql("SET statement_timeout = '300ms'");
sql('BEGIN; CREATE FUNCTION slow(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(10); RETURN true; END $$; ALTER TABLE c ADD CONSTRAINT slow CHECK (public.slow(v)) NOT VALID; COMMIT');
$got = $east->apply(sections => [ $east->whole('public.c', [ [ 500, 'x', undef, undef ] ]) ], careful => 1);
is($got->{error}, '57014', 'a cancelled attempt fails, also in careful mode') or diag explain $got;
$east->sql('RESET statement_timeout');
sql('ALTER TABLE c DROP CONSTRAINT slow');

# ---- schema changes under an open connection ---------------------------------------------------------
sql('ALTER TABLE c ALTER COLUMN w TYPE int USING 1');
$got = $east->apply(sections => [ $east->whole('public.c', [ [ 600, 'x', undef, '5' ] ]) ]);
is($got->{error}, 'SSW02', 'a changed type asks for a new description') or diag explain $got;
sql('ALTER TABLE c DROP COLUMN w');
$got = $east->apply(sections => [ $east->whole('public.c', [ [ 600, 'x', undef, '5' ] ]) ]);
is($got->{error}, 'SSW02', 'so does a dropped column');
$fit = $east->describe('public.c', [ [qw(id int4 F 4 1)], [qw(v text T)], [qw(n numeric O 0 0 327686)], [qw(w varchar T 0 0 9)] ]);
is($fit->{problem}{sqlstate}, '42703', 'then the table is parked');
is($fit->{problem}{message}, 'table "public.c" is parked for peer "west": column "w" does not exist there', 'message');
is($fit->{problem}{hint}, 'On node "west": ALTER TABLE public.c ADD COLUMN w character varying(5). The table resumes by itself.', 'hint');

# ---- heartbeat, confirmation -------------------------------------------------------------------------
my $beat = $east->heartbeat(until => 123456789);
is($beat->{batch}, $east->{batch}, 'the heartbeat tells the last batch');
is($beat->{batch_id}, $east->{batch_id}, 'and its id');
is(sql(q(SELECT generation_issued, generation_confirmed FROM seal_sync.origin)), '1|1', 'the generation is confirmed');
my $config = $beat->{config};
sql(q(SELECT seal_sync.cluster_create('c', primary_node => 'west')));
isnt($east->heartbeat->{config}, $config, 'a change of the rules is told');

# ---- after a commit that did not happen the chunks are still there -----------------------------------
sql('CREATE TABLE veto (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)');
$east->put($east->whole('public.t', [ [ 20, 'twenty', 20 ] ]));
$id = SealWire::id('veto');
$got = $east->apply(sections => [ $east->whole('public.t', [ [ 21, 'more', 21 ] ]) ], chunks => 1, rows => 2, id => $id, begin => 'BEGIN; INSERT INTO veto VALUES (1), (1)');
is($got->{error}, '23505', 'the commit fails') or diag explain $got;
is(sql('SELECT count(*) FROM t WHERE id IN (20, 21)'), 0, 'nothing is there');
$got = $east->apply(sections => [ $east->whole('public.t', [ [ 21, 'more', 21 ] ]) ], chunks => 1, rows => 2, id => $id);
is($got->{inserted}, 2, 'applied again without putting again') or diag explain $got;
done_testing();
