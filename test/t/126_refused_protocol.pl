# What a sender is told of refused rows whose tables it describes in another way meanwhile: never a key in a form that it would
# take for another key, never a row of another table. And what it is told only when it asks.
use strict;
use warnings;
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
CREATE TABLE t (id int PRIMARY KEY, v text, p int REFERENCES p, CHECK (v <> 'bad'));
CREATE TABLE u (id int PRIMARY KEY, v text, p int);
SELECT seal_sync.table_add(x, cluster => 'a') FROM unnest('{p,t,u}'::regclass[]) x;
SET seal_sync.guard = off; INSERT INTO p VALUES (7); INSERT INTO t VALUES (1, 'stands', NULL); INSERT INTO u VALUES (1, 'of u', NULL), (2, 'of u', NULL);
));
my $sender = SealWire->new($wire, user => 'sync_in');
my @columns = ([qw(v text T)], [qw(p int4 F 4)]);
sub fixed { my ($table, %o) = @_; return $sender->describe("public.$table", [ [qw(id int4 F 4 1)], @columns ], %o) }
sub as_text { my ($table, %o) = @_; return $sender->describe("public.$table", [ [qw(id int4 O 0 1)], @columns ], %o) }
sub t { return $sender->whole('public.t', [@_]) }
is($sender->hello->{features} & 16, 16, 'the receiver says what it can tell');
fixed($_) for qw(t u);
$sender->describe('public.p', [ [qw(id int4 F 4 1)] ]);

# What stands behind the refusals of the last answer: [flags, other table, columns of the image]
sub standing
{
	my ($count) = @_;
	my @found;
	for (1 .. $count)
	{
		my $flags = $sender->take_u8;
		my ($other, @image) = ('');
		if ($flags & 1) { my ($schema, $table, $key, $cluster) = map { $sender->take_text } 1 .. 4; $other = $table }
		if ($flags & 4) { for (1 .. $sender->take_varint) { my $name = $sender->take_text; push @image, "$name=" . ($sender->take_u8 ? $sender->take_text : '') } }
		push @found, [ $flags, $other, "@image" ];
	}
	return \@found;
}

# ---- asked, or not

my $got = $sender->apply(flags => 1, sections => [ t([ 1, 'bad', undef ]) ]);
is(scalar @{ $got->{refused} }, 1, 'refused');
is(length $sender->{in}, 0, 'who does not ask is told nothing more');
$got = $sender->apply(flags => 5, sections => [ t([ 1, 'bad', undef ]) ]);
is_deeply(standing(1), [ [ 4, '', 'id=1 v=stands p=' ] ], 'who asks, what stands there') or diag explain $got;
is(length $sender->{in}, 0, 'and no more');
my @again = (batch => $sender->{batch}, id => $sender->{batch_id}, previous => $sender->{batch} - 1, previous_id => "\0" x 16);
$got = $sender->apply(@again, flags => 0);
is_deeply([ $got->{status}, scalar @{ $got->{refused} }, length $sender->{in} ], [ 1, 1, 0 ], 'asked again by one that does not ask for it');
$got = $sender->apply(@again, flags => 4);
is_deeply(standing(1), [ [ 4, '', 'id=1 v=stands p=' ] ], 'and by one that does');

# ---- a stage whose keys have another form than on this connection

as_text('t');
$got = $sender->stage('s', [ t([ 2, 'bad', undef ], [ 3, 'good', undef ]) ]);
is($got->{error}, undef, 'staged with keys as text') or diag explain $got;
fixed('t');
is($sender->apply(stages => ['s'], flags => 2)->{error}, '23514', 'a row of it is refused');
$got = $sender->apply(stages => ['s'], flags => 7);
is($got->{error}, 'SSW02', 'its key is not told in a form that the sender would not expect') or diag explain $got;
like($got->{detail}, qr/keys are sent in another form now/, 'but why');
is(sql('SELECT count(*) FROM t'), 1, 'nothing is applied');
as_text('t');
$got = $sender->apply(stages => ['s'], flags => 7);
is_deeply([ $got->{error}, map { $_->{key} } @{ $got->{refused} } ], [ undef, "\0\0012" ], 'described as before, it is') or diag explain $got;
is(sql('SELECT string_agg(id || v, chr(32) ORDER BY id) FROM t'), '1stands 3good', 'and the other row is there');

# ---- a table number that gets another meaning between two attempts

for my $into (qw(u nothing))
{
	$sender->close;
	$sender->connect;
	$sender->hello;
	fixed($_) for qw(t u);
	my $number = $sender->{tables}{'public.t'}{number};
	my $id = SealWire::id("twice $into");
	my $sections = [ t([ 2, 'orphan', 99 ]) ];
	is($sender->apply(flags => 5, id => $id, sections => $sections)->{error}, 'SSW03', 'a row without its parent is refused, the batch to be repeated');
	if ($into eq 'u') { fixed('u', number => $number) }
	else { is($sender->describe('public.missing', [ [qw(id int4 F 4 1)] ], number => $number)->{problem}{sqlstate}, '42P01', 'described as a table that is not there') }
	$got = $sender->apply(flags => 5, id => $id, sections => $sections);
	if ($into eq 'u')
	{
		is($got->{error}, undef, "its number is another table's now") or diag explain $got;
		is_deeply(standing(1), [ [ 0, '', '' ] ], 'no row of which is told for it');
		is(sql('SELECT v FROM u WHERE id = 2'), 'of u', 'nor changed');
	}
	else { is($got->{error}, '08P01', 'a number that nothing has any more') or diag explain $got }
}
is(sql('SELECT count(*) FROM t'), 2, 'nothing else has changed');
unlike(slurp_file($wire->logfile), qr/terminated by signal|PANIC|TRAP:|XX000/, 'no process has crashed');
done_testing();
