# Batches of which much is refused: thousands of bad rows between good ones, with few subtransactions and in bounded time.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

my $west = one_node('west');
sub sql { return $west->safe_psql('postgres', $_[0]) }
sub refused { return join ' ', sort map { "$_->{table}/" . unpack('xl<', $_->{key}) . "/$_->{sqlstate}" . ($_->{constraint} ? "/$_->{constraint}" : '') } @{ $_[0]{refused} // [] } }
sub keys_of { return join ' ', sort { $a <=> $b } map { unpack 'xl<', $_->{key} } @{ $_[0]{refused} // [] } }
sql(q(
CREATE EXTENSION seal_sync;
SELECT seal_sync.node_create('west');
INSERT INTO seal_sync.peer (peer, server) VALUES ('east', 'east');
SELECT seal_sync.cluster_create('a', primary_node => 'east');
));
my $east = SealWire->new($west);
$east->hello;
sub table { my ($ddl, $name, @columns) = @_; sql("$ddl; SELECT seal_sync.table_add('$name', cluster => 'a')"); my $fit = $east->describe("public.$name", \@columns); is($fit->{problem}{sqlstate}, '', "$name fits") or diag explain $fit; return }
my $got;

# A trigger that looks how many subtransaction ids its transaction has: what other backends copy with each snapshot.
my $can_look = $west->pg_version->major >= 16;
sql(q(
CREATE SEQUENCE most MINVALUE 0;
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n int; BEGIN
	PERFORM pg_catalog.pg_stat_clear_snapshot();
	SELECT CASE WHEN s.subxact_overflowed THEN 1000 ELSE s.subxact_count END INTO n
	FROM pg_catalog.pg_stat_get_backend_idset() b, pg_catalog.pg_stat_get_backend_subxact(b) s WHERE pg_catalog.pg_stat_get_backend_pid(b) = pg_catalog.pg_backend_pid();
	PERFORM pg_catalog.setval('public.most', greatest(n, (SELECT last_value FROM public.most)));
	RETURN NEW; END $$;
));
sub look_at { my ($table) = @_; sql("CREATE TRIGGER look BEFORE INSERT ON $table FOR EACH ROW WHEN (NEW.id % 40 = 20) EXECUTE FUNCTION look(); ALTER TABLE $table ENABLE ALWAYS TRIGGER look") if $can_look }
sub most_is_bounded
{
	my ($what) = @_;
	SKIP: {
		skip 'subtransactions of a backend are shown from PostgreSQL 16 on', 1 if !$can_look;
		my $most = sql('SELECT last_value FROM most');
		ok($most > 0 && $most <= 64, "$what: a snapshot has room for the subtransactions") or diag $most;
		sql("SELECT setval('most', 0, false)");
	}
}

# ---- every other row is bad ------------------------------------------------------------------------------------------
table('CREATE TABLE c (id int PRIMARY KEY, v text CHECK (v <> \'bad\'))', 'c', [qw(id int4 F 4 1)], [qw(v text T)]);
look_at('c');
sub other { my ($from, $count) = @_; return $east->whole('public.c', [ map { [ $_, $_ % 2 ? 'bad' : "good $_" ] } $from .. $from + $count - 1 ]) }
my $start = time;
$got = $east->batch(other(10_000, 1000));
my $thousand = time - $start;
is_deeply([ @$got{qw(inserted attempts)}, scalar @{$got->{refused}} ], [ 500, 2, 500 ], 'hundreds of refusals in one careful attempt') or diag explain $got->{errors};
most_is_bounded('500 refusals');
$start = time;
$got = $east->batch(other(100_000, 8000));
my $many = time - $start;
is_deeply([ @$got{qw(inserted attempts)}, scalar @{$got->{refused}} ], [ 4000, 2, 4000 ], 'thousands') or diag explain $got->{errors};
is(keys_of($got), join(' ', map { 100_001 + 2 * $_ } 0 .. 3999), 'the bad ones and no other');
is(sql('SELECT count(*), bool_and(v = \'good \' || id), bool_and(id % 2 = 0) FROM c'), '4500|t|t', 'all good rows are there');
most_is_bounded('4000 refusals');
note("1000 rows: $thousand s, 8000 rows: $many s");
cmp_ok($many, '<', 25 * $thousand + 2, 'work grows with the rows, not with their square');

# ---- the same where rows wait for the end of the attempt (unique constraints) -----------------------------------------------
table('CREATE TABLE u (id int PRIMARY KEY, u int UNIQUE)', 'u', [qw(id int4 F 4 1)], [qw(u int4 F 4)]);
look_at('u');
sql('SET seal_sync.guard = off; INSERT INTO u SELECT i, i FROM generate_series(1, 3000) i');
$start = time;
$got = $east->batch($east->whole('public.u', [ map { [ 10_000 + $_, $_ % 2 ? $_ : 10_000 + $_ ] } 1 .. 3000 ]));
note('3000 rows that wait: ' . (time - $start) . ' s');
is(keys_of($got), join(' ', map { 9999 + 2 * $_ } 1 .. 1500), 'values that are taken');
is(sql('SELECT count(*), count(*) FILTER (WHERE id > 10000 AND u = id) FROM u'), '4500|1500', 'rows');
most_is_bounded('1500 refusals among rows that wait');
# swaps between rows that are refused
$got = $east->batch($east->whole('public.c', [ map { [ 200_000 + $_, $_ % 3 ? 'good' : 'bad' ] } 1 .. 300 ]),
	$east->whole('public.u', [ map { ([ $_, $_ + 1 ], [ $_ + 1, $_ ], [ 20_000 + $_, $_ % 20 == 1 ? 2999 : 20_000 + $_ ]) } map { 2 * $_ - 1 } 1 .. 200 ]));
is(scalar(grep { $_->{table} eq 'c' } @{$got->{refused}}) . ' ' . join(' ', sort { $a <=> $b } map { unpack 'xl<', $_->{key} } grep { $_->{table} eq 'u' } @{$got->{refused}}), '100 ' . join(' ', map { 20_001 + 20 * $_ } 0 .. 19), 'bad rows of two tables') or diag explain $got->{errors};
is(sql('SELECT count(*) FROM u WHERE id <= 400 AND u = id - 1 + id % 2 * 2'), 400, 'values swap all the same');

# ---- more tables with unique constraints than an attempt keeps subtransactions ----------------------------------------------
sql(join '; ', map {; "CREATE TABLE t$_ (id int PRIMARY KEY, u int UNIQUE)", "SELECT seal_sync.table_add('t$_', cluster => 'a')" } 1 .. 50);
$east->describe("public.t$_", [ [qw(id int4 F 4 1)], [qw(u int4 F 4)] ]) for 1 .. 50;
$got = $east->batch(map { $east->whole("public.t$_", [ [ 1, 1 ], [ 2, $_ == 50 ? 1 : 2 ], [ 3, 3 ] ]) } 1 .. 50);
is(refused($got), 't50/2/23505/t50_u_key', 'fifty tables, one bad row') or diag explain { error => $got->{error}, errors => $got->{errors} };
is(sql('SELECT ' . join ' + ', map { "(SELECT count(*) FROM t$_)" } 1 .. 50), 149, 'rows');

# ---- a foreign key that cannot be checked is the fault of the rows that have it ------------------------------------------------
sql('CREATE ROLE holder; CREATE SCHEMA other; GRANT USAGE, CREATE ON SCHEMA other TO holder');
table('CREATE TABLE other_p (id int PRIMARY KEY); ALTER TABLE other_p OWNER TO holder', 'other_p', [qw(id int4 F 4 1)]);
table('CREATE TABLE k (id int PRIMARY KEY, p int REFERENCES other_p)', 'k', [qw(id int4 F 4 1)], [qw(p int4 F 4)]);
$got = $east->batch($east->whole('public.other_p', [ map { [$_] } 1 .. 3000 ]), $east->whole('public.k', [ [ 1, 1 ], [ 2, undef ] ]));
is(refused($got), '', 'rows with a foreign key');
sql('REVOKE ALL ON other_p FROM holder');
$got = $east->batch($east->whole('public.c', [ [ 300_000, 'good' ] ]), $east->whole('public.k', [ [ 3, 1 ], [ 4, undef ], [ 5, 99_999 ] ]));
is(refused($got), 'k/3/42501 k/5/42501', 'the owner of the referenced table may not read it: those that refer to it are refused') or diag explain $got->{errors};
is(sql('SELECT string_agg(id::text, \' \' ORDER BY id) FROM k') . sql('SELECT count(*) FROM c WHERE id = 300000'), '1 2 41', 'the others arrive');
$got = $east->batch($east->whole('public.k', [ map { [ $_, $_ ] } 11 .. 2999 ]));
is_deeply([ scalar @{$got->{refused} // []}, $got->{error} ], [ 2989, undef ], 'thousands of them');
sql('GRANT ALL ON other_p TO holder; REVOKE ALL ON SCHEMA other FROM holder; ALTER TABLE other_p SET SCHEMA other');
$got = $east->batch($east->whole('public.k', [ [ 6, 1 ], [ 7, undef ] ]));
is(refused($got), 'k/6/42501', 'nor look into its schema') or diag explain $got;
sql('GRANT ALL ON SCHEMA other TO holder; ALTER TABLE other.other_p SET SCHEMA public');
$east->describe('public.other_p', [ [qw(id int4 F 4 1)] ]);
sql('ALTER TABLE k OWNER TO holder; REVOKE ALL ON k FROM holder');
$got = $east->batch($east->removed('public.other_p', [ [1], [2] ]), $east->whole('public.c', [ [ 300_002, 'good' ] ]));
is(refused($got), 'other_p/1/42501 other_p/2/42501', 'the same with a table that refers') or diag explain $got;
is(sql('SELECT count(*) FROM c WHERE id = 300002'), 1, 'the others arrive');
sql('GRANT ALL ON k TO holder');
is(refused($east->batch($east->removed('public.other_p', [ [1], [2] ]), $east->whole('public.k', [ [ 3, 3 ] ]))), 'other_p/1/23503/k_p_fkey', 'with the right all is as usual');
# a query that fails for a single key: the comparison of the referenced index does
sql(q(
CREATE FUNCTION picky(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE STRICT AS $$ BEGIN
	IF 1313 IN ($1, $2) THEN RAISE EXCEPTION 'not this one'; END IF;
	RETURN sign($1 - $2); END $$;
CREATE OPERATOR CLASS picky FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 picky(int, int);
));
table('CREATE TABLE pp (id int PRIMARY KEY, code int); CREATE UNIQUE INDEX ON pp (code picky)', 'pp', [qw(id int4 F 4 1)], [qw(code int4 F 4)]);
table('CREATE TABLE pc (id int PRIMARY KEY, code int REFERENCES pp (code))', 'pc', [qw(id int4 F 4 1)], [qw(code int4 F 4)]);
$east->sql('SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off; SET enable_sort = off');
$got = $east->batch($east->whole('public.pp', [ map { [ $_, $_ ] } 1 .. 1200 ]), $east->whole('public.pc', [ map { [ $_, $_ == 77 ? 5000 : $_ == 700 ? 1313 : $_ ] } 1 .. 1200 ]));
is(refused($got), 'pc/700/P0001 pc/77/23503/pc_code_fkey', 'a single key that fails, and a violation beside it') or diag explain { error => $got->{error}, errors => $got->{errors} };
is(sql('SELECT count(*) FROM pc'), 1198, 'rows');
done_testing();
