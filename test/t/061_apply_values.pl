# Values of all kinds through the wire: fixed, bytes, text, binary, output; and values that are lies.
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
CREATE EXTENSION hstore; CREATE EXTENSION citext;
SELECT seal_sync.node_create('west');
INSERT INTO seal_sync.peer (peer, server) VALUES ('east', 'east');
SELECT seal_sync.cluster_create('a', primary_node => 'east');
));
my $east = SealWire->new($west);
$east->hello;

# [type, class of the wire, width]; the values come from SQL, so that both forms of a value are the server's own
my @types = (
	[ 'bool', 'F', 1, "true" ], [ '"char"', 'F', 1, "'x'" ], [ 'int2', 'F', 2, "-32768" ], [ 'int4', 'F', 4, "-2147483648" ],
	[ 'int8', 'F', 8, "9223372036854775807" ], [ 'oid', 'F', 4, "4294967295" ], [ 'float4', 'F', 4, "'NaN'" ], [ 'float8', 'F', 8, "0.1" ],
	[ 'date', 'F', 4, "'2024-02-29'" ], [ 'date', 'F', 4, "'infinity'" ], [ 'time', 'F', 8, "'24:00:00'" ], [ 'timestamp', 'F', 8, "'4713-01-01 BC'" ],
	[ 'timestamptz', 'F', 8, "'2024-03-31 02:30:00.123456+02'" ], [ 'timestamptz', 'F', 8, "'-infinity'" ], [ 'money', 'F', 8, "12.34" ],
	[ 'uuid', 'F', 16, "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'" ],
	[ 'bytea', 'Y', 0, "decode('00ff0a5c', 'hex')" ], [ 'text', 'T', 0, "E'tab\\t\\u00e4\\U0001f600 ''quote'''" ], [ 'text', 'T', 0, "''" ],
	[ 'varchar', 'T', 0, "'abc '" ], [ 'bpchar', 'T', 0, "'abc  '" ], [ 'json', 'T', 0, "'{\"a\": [1, null]}'" ], [ 'name', 'T', 0, "'pg_class'" ],
	[ 'numeric', 'B', 0, "'1e-20'::numeric + 12345678901234567890" ], [ 'numeric', 'B', 0, "'NaN'" ], [ 'interval', 'B', 0, "'1 mon -2 days 03:04:05.6'" ],
	[ 'timetz', 'B', 0, "'03:04:05+06'" ], [ 'inet', 'B', 0, "'10.1.2.3/8'" ], [ 'macaddr', 'B', 0, "'08:00:2b:01:02:03'" ], [ 'bit', 'B', 0, "B'101'" ], [ 'varbit', 'B', 0, "B'1011'" ],
	[ 'jsonb', 'B', 0, "'{\"k\": \"v\\u00e4\"}'" ], [ 'tsvector', 'B', 0, "'a fat cat'" ], [ 'tsquery', 'B', 0, "'fat & cat'" ], [ 'point', 'B', 0, "'(1,2)'" ], [ 'polygon', 'B', 0, "'((0,0),(1,1),(2,0))'" ],
	[ 'int4range', 'B', 0, "'[1,10)'" ], [ 'int4multirange', 'B', 0, "'{[1,3),[5,7)}'" ], [ '_int4', 'B', 0, "ARRAY[[1,2],[3,null]]" ], [ '_text', 'B', 0, "ARRAY['a', null, '\"\\']" ],
	[ '_numeric', 'B', 0, "ARRAY[1.5, 2]" ], [ 'pg_lsn', 'B', 0, "'16/B374D848'" ], [ 'xid8', 'B', 0, "'42'" ],
	[ 'regclass', 'O', 0, "'pg_catalog.pg_class'" ], [ 'xml', 'O', 0, "'<a>1</a>'" ], [ 'numeric', 'O', 0, "1.50" ], [ 'timestamptz', 'O', 0, "'2024-01-01 00:00:00+00'" ], [ 'interval', 'O', 0, "'-1 day'" ], [ '_text', 'O', 0, "ARRAY['x,y', 'NULL']" ]);
@types = grep { $_->[0] ne 'xml' } @types if sql("SELECT count(*) FROM pg_catalog.pg_config WHERE name = 'CONFIGURE' AND setting LIKE '%libxml%'") eq '0';

my %send = (bool => 'boolsend', '"char"' => 'charsend', _int4 => 'array_send', _text => 'array_send', _numeric => 'array_send', int4range => 'range_send', int4multirange => 'multirange_send', time => 'time_send',
	timetz => 'timetz_send', date => 'date_send', timestamp => 'timestamp_send', timestamptz => 'timestamptz_send', interval => 'interval_send', numeric => 'numeric_send', inet => 'inet_send', money => 'cash_send',
	macaddr => 'macaddr_send', bit => 'bit_send', varbit => 'varbit_send', jsonb => 'jsonb_send', point => 'point_send', 'uuid' => 'uuid_send', polygon => 'poly_send', pg_lsn => 'pg_lsn_send');
my $number = 0;
my (@columns, @bytes, @ddl);
for my $t (@types)
{
	my ($type, $class, $width, $value) = @$t;
	my $column = 'c' . ++$number;
	(my $bare = $type) =~ tr/"//d;
	push @ddl, "$column pg_catalog." . ($type eq '"char"' ? '"char"' : $type);
	push @columns, [ $column, $bare, $class, $width ];
	my $bytes;
	if ($class eq 'F')
	{
		# the datum's bytes are what the send function says, the other way round
		$bytes = pack 'H*', sql("SELECT encode(pg_catalog." . ($send{$type} // "${bare}send") . "(($value)::$type), 'hex')");
		$bytes = reverse $bytes unless $type eq 'uuid';
	}
	elsif ($class eq 'B') { $bytes = pack 'H*', sql("SELECT encode(pg_catalog." . ($send{$type} // "${bare}send") . "(($value)::pg_catalog.$type), 'hex')") }
	elsif ($class eq 'Y') { $bytes = pack 'H*', sql("SELECT encode($value, 'hex')") }
	else { $bytes = pack 'H*', sql("SELECT encode(convert_to((($value)::pg_catalog.$type)::text, 'UTF8'), 'hex')") }
	$bytes = pack 'H*', sql("SELECT encode(convert_to(rpad('abc', 5), 'UTF8'), 'hex')") if $type eq 'bpchar';
	push @bytes, $bytes;
}
sql("CREATE TABLE v (id int PRIMARY KEY, " . join(', ', @ddl) . "); SELECT seal_sync.table_add('v', cluster => 'a');"
	. "CREATE TABLE reference AS SELECT 1 AS id, " . join(', ', map { "($types[$_][3])::pg_catalog.$types[$_][0] AS c" . ($_ + 1) } 0 .. $#types));
# packed already: class F of unknown type names is taken as it is
{
	no warnings 'redefine';
	my $row = \&SealWire::row;
	*SealWire::row = sub {
		my ($self, $table, $which, $values) = @_;
		my $t = ref $table ? $table : $self->{tables}{$table};
		my $nulls = "\0" x int((@$which + 7) / 8);
		my $body = '';
		for my $i (0 .. $#$which)
		{
			my $c = $t->{columns}[ $which->[$i] ];
			if (!defined $values->[$i]) { vec($nulls, $i, 1) = 1; next }
			$body .= $c->[2] ne 'F' ? SealWire::sized($values->[$i]) : $c->[0] eq 'id' ? pack('l<', $values->[$i]) : $values->[$i];
		}
		return $nulls . $body;
	};
}
my $fit = $east->describe('public.v', [ [qw(id int4 F 4 1)], @columns ]);
is($fit->{problem}{sqlstate}, '', 'all types fit') or diag explain $fit;
is_deeply($fit->{text}, [], 'none has to come as text instead') or diag explain [ map { my $c = $_; map { $_->[1] } grep { $_->[0] eq $c } @columns } @{$fit->{text}} ];
my $got = $east->batch($east->whole('public.v', [ [ 1, @bytes ] ]));
is($got->{inserted}, 1, 'a row with a value of every type') or diag explain $got;
is(sql('SELECT count(*) FROM v, reference r WHERE v::text = r::text'), '1', 'is what it should be')
	or diag sql(join ' UNION ALL ', map { "SELECT '$types[$_][0] $types[$_][1]: ' || v.c@{[$_+1]}::text || ' not ' || r.c@{[$_+1]}::text FROM v, reference r WHERE v.c@{[$_+1]}::text IS DISTINCT FROM r.c@{[$_+1]}::text" } 0 .. $#types);
$got = $east->batch($east->whole('public.v', [ [ 1, map { undef } @bytes ] ]));
is($got->{updated}, 1, 'a row of nulls');
is(sql('SELECT count(*) FROM v WHERE num_nonnulls(' . join(', ', map { "c$_" } 1 .. @types) . ') = 0'), 1, 'is a row of nulls');

# ---- lies: each is refused, by its own kind of error, and the other row of the batch arrives ---------
my %lie = (
	bool => [ [ "\2", '22P03' ] ], date => [ [ pack('l<', 2**31 - 5), '22008' ] ], time => [ [ pack('q<', -1), '22008' ], [ pack('q<', 86_400_000_001), '22008' ] ],
	timestamp => [ [ pack('q<', 9_223_371_331_200_000_000), '22008' ] ], timestamptz => [ [ pack('q<', -211_813_488_000_000_001), '22008' ] ],
	text => [ [ "a\0b", '22021' ], [ "\xff\xfe", '22021' ], [ "\xe4", '22021' ] ], json => [ [ '{', '22P02' ] ],
	numeric => [ [ "\0", '08P01' ], [ "\0\1\0\0\0\0\0\0\xff\xff", '22P03' ], [ "\0\0\0\0\0\0\0\0junk", '22P03' ] ],
	jsonb => [ [ "\7{}", 'XX000' ], [ "\1{", '22P02' ] ], _int4 => [ [ pack('NNN', 1, 0, 25) . pack('NN', 0, 1), '42804' ], [ "\xff" x 20, '22P03' ] ], inet => [ [ "\1\2\3", '22P03' ] ],
	varbit => [ [ "\xff\xff\xff\xff", '22P03' ] ], polygon => [ [ "\x7f\xff\xff\xff", '22P03' ] ], tsvector => [ [ "\0\1\0\0", '08P01|XX000' ] ]);
for my $i (0 .. $#types)
{
	my ($type, $class) = @{$types[$i]};
	next unless $lie{$type} && $class ne 'O';
	for my $lie (@{$lie{$type}})
	{
		my ($bytes, $state) = @$lie;
		my @values = map { undef } @bytes;
		$values[$i] = $bytes;
		sql('SET seal_sync.guard = off; DELETE FROM v');
		$got = $east->apply(sections => [ $east->whole('public.v', [ [ 5, @values ], [ 6, map { undef } @bytes ] ]) ], careful => 1);
		if ($got->{error}) { like($got->{error}, qr/^($state|08P01|XX000)$/, "a lie about $type ends the attempt") or diag explain $got }
		else
		{
			is_deeply([ $got->{inserted}, map { $_->{sqlstate} } @{$got->{refused}} ], [ 1, $state ], "a lie about $type is refused with $state") or diag explain $got;
		}
	}
}

# ---- types of the user, and types that differ ---------------------------------------------------------
sql(q(
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN positive AS int NOT NULL CHECK (VALUE > 0);
CREATE DOMAIN maybe AS text CHECK (VALUE <> 'no');
CREATE TABLE u (id bigint PRIMARY KEY, m mood, p pair, d positive, e maybe, h hstore, ci citext, r int8range, ms mood[], wide bigint, narrow smallint, txt text, vc varchar(3), ts timestamp(0));
SELECT seal_sync.table_add('u', cluster => 'a');
));
my @u = ([qw(id int4 F 4 1)], [ 'm', 'mood', 'O', 0, 0, -1, 'public' ], [ 'p', 'pair', 'O', 0, 0, -1, 'public' ], [ 'd', 'positive', 'O', 0, 0, -1, 'public' ], [ 'e', 'maybe', 'O', 0, 0, -1, 'public' ],
	[ 'h', 'hstore', 'O', 0, 0, -1, 'public' ], [ 'ci', 'citext', 'O', 0, 0, -1, 'public' ], [ 'r', 'int8range', 'B' ], [ 'ms', '_mood', 'O', 0, 0, -1, 'public' ], [qw(wide int4 F 4)], [qw(narrow int2 O)],
	[qw(txt varchar T)], [qw(vc varchar O 0 0 7)], [qw(ts timestamp F 8 0 0)]);
$fit = $east->describe('public.u', \@u);
is($fit->{problem}{sqlstate}, '', 'types of the user fit') or diag explain $fit;
is_deeply([ sort @{$fit->{text}} ], [ sort qw(id wide txt) ], 'what differs comes as text') or diag explain $fit;
my $range = pack 'H*', sql("SELECT encode(pg_catalog.range_send('[5,8)'::int8range), 'hex')");
my @good = ('1', 'glad', '(7,"a,b")', '5', 'yes', '"k"=>"v"', 'CiTeXt', $range, '{sad,glad}', '123', '-7', 'longer than three', 'abc', pack('q<', 1_500_000));
$got = $east->batch($east->whole('public.u', [ \@good ]));
is($got->{inserted}, 1, 'a row of them') or diag explain $got;
is(sql('SELECT u FROM u'), '(1,glad,"(7,""a,b"")",5,yes,"""k""=>""v""",CiTeXt,"[5,8)","{sad,glad}",123,-7,"longer than three",abc,"2000-01-01 00:00:02")', 'as it should be');
for ([ 1, 'angry', '22P02', 'enum' ], [ 2, '(1)', '22P02', 'composite' ], [ 3, '-5', '23514', 'domain' ], [ 3, undef, '23502', 'null of a domain' ], [ 4, 'no', '23514', 'domain over text' ], [ 10, '40000', '22003', 'narrow' ], [ 12, 'abcd', '22001', 'too long' ])
{
	my ($i, $value, $state, $what) = @$_;
	my @bad = @good;
	@bad[ 0, $i ] = ('2', $value);
	$got = $east->batch($east->whole('public.u', [ \@bad ]));
	is($got->{refused}[0]{sqlstate} // '', $state, "$what is refused") or diag explain $got;
}
is(sql('SELECT count(*) FROM u'), '1', 'none of them arrived');

# ---- another encoding ---------------------------------------------------------------------------------
my $latin = SealWire->new($west, node => 'east', generation => $east->{generation});
$got = $latin->hello(encoding => 'LATIN1');
is($got->{problem}{sqlstate}, '', 'a sender in another encoding') or diag explain $got;
sql('CREATE TABLE l (id int PRIMARY KEY, t text, j jsonb, o varchar(4)); SELECT seal_sync.table_add(\'l\', cluster => \'a\')');
$latin->describe('public.l', [ [qw(id int4 F 4 1)], [qw(t text T)], [qw(j jsonb B)], [qw(o varchar O 0 0 8)] ]);
$got = $latin->batch($latin->whole('public.l', [ [ 1, "gr\xfc\xdfe", "\1" . "{\"k\": \"\xe4\"}", "\xf6\xf6\xf6\xf6" ] ]));
is($got->{inserted}, 1, 'its text is converted') or diag explain $got;
is(sql("SELECT t = U&'gr\\00fc\\00dfe' AND j->>'k' = U&'\\00e4' AND o = U&'\\00f6\\00f6\\00f6\\00f6' FROM l"), 't', 'also inside binary values');
done_testing();
