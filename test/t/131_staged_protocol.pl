# Stages: what a sender can do wrong, who may see them, and what happens to them while the receiver's tables change or its
# server dies.
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
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE u (id int PRIMARY KEY, n int);
SELECT seal_sync.table_add('t', cluster => 'a'), seal_sync.table_add('u', cluster => 'a');
));
my $sender = SealWire->new($wire, user => 'sync_in');
sub describe_all
{
	my ($s) = @_;
	my $told = $s->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T)] ]);
	$s->describe('public.u', [ [qw(id int4 F 4 1)], [qw(n int4 F 4)] ]);
	return $told;
}
sub greet { my ($s) = @_; is($s->hello->{problem}{sqlstate}, '', 'welcome'); describe_all($s); return }
sub reconnect { $sender->close; $sender->connect; greet($sender); return }
sub t { return $sender->whole('public.t', [@_]) }
sub u { return $sender->whole('public.u', [@_]) }
sub rows { return sql(q(SELECT string_agg(concat_ws(':', id, v), ' ' ORDER BY id) FROM t)) // '' }
sub stages_are { is(sql('SELECT count(*) FROM seal_sync.stage'), $_[0], $_[1] // "$_[0] stages"); return }
sub drop_put { $sender->put({ rows => 0, bytes => '' }); return }
is($sender->hello->{features} & 32, 32, 'the receiver says what it can');
describe_all($sender);

# ---- numbers that do not agree ----------------------------------------------------------------------------------
for ([ chunks => 2 ], [ rows => 2 ], [ chunks => 0 ])
{
	is($sender->stage('s', [ t([ 1, 'x' ]) ], @$_)->{error}, 'SSW05', "staged with @$_");
	is($sender->stage('s', [], chunks => 1, rows => 1)->{error}, 'SSW05', 'what was put is forgotten');
}
for ([ previous => 7, previous_id => SealWire::id('seven') ], [ previous_id => SealWire::id('x') ])
{
	is($sender->stage('s', [ t([ 1, 'x' ]) ], @$_)->{error}, 'SSW04', 'another predecessor than what is held');
	drop_put();
}
is($sender->stage('s', [ t([ 1, 'x' ]) ], pass => 2)->{chunks}, 1, 'begun, in pass 2');
is($sender->stage('s', [], previous => 7)->{error}, 'SSW04', 'another predecessor than it was begun with');
is($sender->stage('s', [], pass => 1)->{error}, '08P01', 'back to pass 1');
is($sender->stage('s', [], pass => 0)->{error}, '08P01', 'pass 0');
is($sender->stage('s', [], extra => 'x')->{error}, '08P01', 'more than a message');
is($sender->stage('s', [], note => 'n' x (1024 * 1024 + 1))->{error}, '08P01', 'a note that is too long');
is($sender->stage('s', [], pass => 2, note => 'n' x (1024 * 1024))->{error}, undef, 'one that is just short enough');
is(length $sender->stages->{stages}[0]{note}, 1024 * 1024, 'comes back');
is($sender->stage('s', [], generation => $sender->{generation} - 1)->{error}, 'SSW04', 'an older generation');
is($sender->drop_stage('s', generation => $sender->{generation} - 1)->{error}, 'SSW04', 'nor may it drop');
is($sender->drop_stage('s', extra => 'x')->{error}, '08P01', 'a drop that is too long');
for my $before ('BEGIN\; ', 'BEGIN\; SAVEPOINT x\; ')
{
	$sender->put(t([ 2, 'x' ]));
	is($sender->stage('s', [], chunks => 1, rows => 1, before => $before)->{error}, '25001', "after $before");
	$sender->sql('ROLLBACK');
	is($sender->stage('s', [], chunks => 1, rows => 1, pass => 2)->{error}, undef, 'alone, with what was put');
}
my $call = sub { my ($id, $chunks) = @_; return q('\x) . unpack('H*', SealWire::u64($sender->{generation}) . SealWire::id($id) . SealWire::u64(0) . "\0" x 16 . SealWire::u32(9) . SealWire::varint($chunks) . SealWire::varint($chunks) . "\0") . q('::bytea) };
$sender->put(t([ 3, 'x' ]));
is($sender->sql('SELECT seal_sync.wire_stage(' . $call->('s', 1) . '), seal_sync.wire_stage(' . $call->('s2', 1) . ')')->{error}, '25001', 'two in one statement');
is($sender->stage('s', [], chunks => 1, rows => 1, pass => 9)->{rows}, 4, 'nothing of that has stayed, and what was put has');
drop_put();

my @right = @{ $sender->{stages}{s} }{qw(id chunks rows)};
sub use_of { my %u; @u{qw(id chunks rows)} = @right; return { %u, @_ } }
for ([ 'more chunks', use_of(chunks => 5) ], [ 'fewer rows', use_of(rows => 3) ], [ 'unknown', use_of(id => SealWire::id('unknown')) ])
{
	my ($name, $use) = @$_;
	my $got = $sender->apply(stages => [$use]);
	is($got->{error}, 'SSW05', "applied with $name") or diag explain $got;
	like($got->{detail}, $name eq 'unknown' ? qr/There is no stage/ : qr/has 4 chunks and 4 rows/, 'and is told');
}
is($sender->apply(stages => [ 's', 's' ])->{error}, '08P01', 'the same one twice');
is($sender->apply(flags => 8)->{error}, '08P01', 'a flag that is not known');
is($sender->apply(flags => 2)->{error}, '08P01', 'no stages where they are announced');
is($sender->apply(flags => 2, extra => "\xff\xff\xff\xff\x0f")->{error}, '08P01', 'more stages than there are bytes');
is($sender->begin(stages => ['s'])->{error}, '08P01', 'a batch with stages is not streamed');
my $it = $sender->begin;
is($sender->stage('s', [], pass => 9)->{error}, '08P01', 'nor is anything staged while one is');
$sender->sql('ROLLBACK');
stages_are(1, 'the stage is still there');
is(rows(), '', 'and nothing was applied');
is($sender->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T)] ], number => 1 << 32)->{error}, '08P01', 'a table number that is none');

# ---- who may see and drop it ----------------------------------------------------------------------------------------
sql(q(
CREATE ROLE sync_two LOGIN IN ROLE seal_sync_peer;
CREATE ROLE watcher LOGIN IN ROLE seal_sync_monitor;
CREATE ROLE nobody LOGIN;
CREATE SERVER north FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nowhere', port '1', dbname 'postgres');
CREATE USER MAPPING FOR seal_sync_worker SERVER north OPTIONS (user 'sync_in', password 'pw');
SELECT seal_sync.peer_create('north');
));
my $north = SealWire->new($wire, user => 'sync_two', node => 'north', epochs => {});
$north->hello;
is_deeply($north->stages->{stages}, [], 'another origin sees none');
is($north->drop_stage('s')->{error}, undef, 'may name it');
stages_are(1, 'but not drop it');
my $used = $north->apply(stages => [ use_of() ]);
is($used->{error}, 'SSW05', 'nor apply it');
is($north->stage('s', [], note => 'mine')->{error}, undef, 'and may have one of the same name');
is_deeply([ map { $_->{note} } @{ $north->stages->{stages} } ], ['mine'], 'of its own');
for my $role (qw(nobody watcher))
{
	my $other = SealWire->new($wire, user => $role);
	is($other->sql('SELECT seal_sync.wire_stages()')->{error}, '42501', "$role is no peer");
	$other->close;
}
my $stranger = SealWire->new($wire, user => 'sync_two');
is($stranger->stages->{error}, '55000', 'a connection that has not said hello sees nothing');
$stranger->close;
is($wire->safe_psql('postgres', 'SELECT count(*) FROM seal_sync.stages', extra_params => [ -U => 'watcher' ]), 2, 'monitors see all');
isnt($wire->psql('postgres', 'SELECT note FROM seal_sync.stage', extra_params => [ -U => 'watcher' ]), 0, 'but not the notes');
sql(q(SELECT seal_sync.peer_drop('north')));
stages_are(1, 'they go with their peer');
$north->close;
is($wire->safe_psql('postgres', 'SELECT origin FROM seal_sync.stages'), 'east', 'the others stay');

# ---- tables change between the passes ---------------------------------------------------------------------------------
$sender->drop_stage('s');
stages_are(0);
sub staged_t { return $sender->stage('s', [ t([ 10, 'ten' ]) ]) }
staged_t();
sql('ALTER TABLE t RENAME COLUMN v TO w');
my $got = $sender->apply(stages => ['s']);
is($got->{error}, 'SSW02', 'a column is gone') or diag explain $got;
like($got->{detail}, qr/column "v" does not exist there/, 'and named');
stages_are(1, 'the stage stays');
sql('ALTER TABLE t RENAME COLUMN w TO v');
is($sender->apply(stages => ['s'])->{error}, undef, 'it comes back, and all is fine');
is(rows(), '10:ten', 'nothing was lost');

staged_t();
sql('ALTER TABLE t ALTER COLUMN v TYPE varchar, ADD COLUMN extra int DEFAULT 5');
is($sender->apply(stages => ['s'])->{error}, 'SSW02', 'another type');
describe_all($sender);
$got = $sender->apply(stages => ['s'], sections => [ t([ 11, 'eleven' ]) ]);
is($got->{error}, undef, 'it takes the values, and a column that exists only here its default') or diag explain $got;
is(sql('SELECT string_agg(id || v || extra, chr(32)) FROM t WHERE id >= 10'), '10ten5 11eleven5', 'both rows');
reconnect();
staged_t();
sql('DROP TABLE t');
is($sender->apply(stages => ['s'])->{error}, 'SSW02', 'the table is gone');
sql(q(CREATE TABLE t (v text, id int PRIMARY KEY); SELECT seal_sync.table_add('t', cluster => 'a')));
describe_all($sender);
is($sender->apply(stages => ['s'])->{error}, undef, 'another one of its name, in another shape');
is(rows(), '10:ten', 'takes the rows');

# A type that could not be sent as it is, and can be later; and the other way round
sql('ALTER TABLE u ALTER COLUMN n TYPE bigint');
reconnect();
is_deeply($sender->{tables}{'public.u'}{columns}[1][2], 'O', 'n is sent as text');
$sender->stage('s', [ u([ 1, 12345 ]) ]);
sql('ALTER TABLE u ALTER COLUMN n TYPE int');
describe_all($sender);
$sender->stage('s', [ u([ 2, 23456 ]) ], pass => 2);
$got = $sender->apply(stages => ['s'], sections => [ u([ 3, 34567 ]) ]);
is($got->{error}, undef, 'text is read by the type it is now') or diag explain $got;
is(sql(q(SELECT string_agg(id || ' ' || n, ', ' ORDER BY id) FROM u)), '1 12345, 2 23456, 3 34567', 'all three');
$sender->stage('s', [ u([ 4, 1 ]) ]);
sql('ALTER TABLE u ALTER COLUMN n TYPE bigint');
reconnect();
is($sender->apply(stages => ['s'])->{error}, 'SSW02', 'the bytes of another type are not read');
stages_are(1, 'nor lost');
sql('ALTER TABLE u ALTER COLUMN n TYPE int');
is($sender->apply(stages => ['s'])->{error}, undef, 'and fit again');

# A table number that gets another meaning on the same connection
reconnect();
my $number = $sender->{tables}{'public.u'}{number};
$sender->stage('s', [ u([ 5, 5 ]) ]);
$sender->put(u([ 6, 6 ]));
$sender->describe('public.u', [ [qw(n int4 F 4)], [qw(id int4 F 4 1)] ], number => $number);
is($sender->stage('s', [], chunks => 1, rows => 1, pass => 2)->{error}, 'SSW05', 'what was put before has the old meaning');
$sender->stage('s', [ $sender->whole('public.u', [ [ 70, 7 ] ]) ], pass => 2);
is($sender->apply(stages => ['s'])->{error}, undef, 'each chunk is read as it was described');
is(sql(q(SELECT string_agg(id || ' ' || n, ', ' ORDER BY id) FROM u WHERE id > 4)), '5 5, 7 70', 'in both ways');

# ---- the server dies --------------------------------------------------------------------------------------------------
reconnect();
$sender->stage('s', [ map { t([ $_, 'x' x 9000 ]) } 20 .. 24 ]);
$sender->close;
$wire->restart;
$sender->connect;
greet($sender);
$sender->stage('s', [ t([ 25, 'after the restart' ]) ], pass => 2);
$wire->kill9;
eval { $sender->close };
for (1 .. 600) { last if $wire->start(fail_ok => 1); select undef, undef, undef, 0.1 } # processes of the dead server go first
$sender->connect;
greet($sender);
is_deeply([ map { [ @$_{qw(chunks rows)} ] } @{ $sender->stages->{stages} } ], [ [ 6, 6 ] ], 'what was answered is there');
$got = $sender->apply(stages => ['s'], sections => [ t([ 20, 'newest' ]) ]);
is($got->{error}, undef, 'and is applied') or diag explain $got;
is(sql(q(SELECT count(*) || string_agg(left(v, 6), ' ' ORDER BY id) FROM t WHERE id >= 20)), '6newest xxxxxx xxxxxx xxxxxx xxxxxx after ', 'once');

# ---- nothing stays --------------------------------------------------------------------------------------------------
$sender->stage('s', [ t([ 30, 'x' ]) ]);
my ($dump) = run_command([ 'pg_dump', '--data-only', '-d', $wire->connstr('postgres') ]);
like($dump, qr/COPY seal_sync\.peer /, 'pg_dump takes rules along');
unlike($dump, qr/COPY seal_sync\.stage/, 'and leaves stages out');
$sender->close;
sql('SELECT seal_sync.node_drop()');
is(sql('SELECT (SELECT count(*) FROM seal_sync.stage) + (SELECT count(*) FROM seal_sync.stage_chunk)'), 0, 'node_drop forgets them');
sql('DROP EXTENSION seal_sync');
is(sql(q(SELECT count(*) FROM pg_class WHERE relname LIKE 'stage%')), 0, 'DROP EXTENSION leaves nothing');
done_testing();
