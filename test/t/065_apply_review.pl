# Apply under attack and under pressure: code of a table's owner runs as the owner only, DDL waits for the whole batch,
# deferred triggers, tables described over and over, generated unique columns that swap, refusals with long texts.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use List::Util ();
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

my $west = one_node('west');
sub sql { return $west->safe_psql('postgres', $_[0]) }
sub refused { return join ' ', sort map { "$_->{table}/" . unpack('xl<', $_->{key}) . "/$_->{sqlstate}" . ($_->{constraint} ? "/$_->{constraint}" : '') } @{ $_[0]{refused} // [] } }
sql(q(
CREATE EXTENSION seal_sync;
SELECT seal_sync.node_create('west');
INSERT INTO seal_sync.peer (peer, server) VALUES ('east', 'east');
SELECT seal_sync.cluster_create('a', primary_node => 'east');
CREATE ROLE owner LOGIN;
CREATE TABLE trace (n int GENERATED ALWAYS AS IDENTITY, what text);
GRANT ALL ON trace TO owner;
));
my $east = SealWire->new($west);
$east->hello;
sub table { my ($ddl, $name, @columns) = @_; sql("$ddl; SELECT seal_sync.table_add('$name', cluster => 'a')"); my $fit = $east->describe("public.$name", \@columns); is($fit->{problem}{sqlstate}, '', "$name fits") or diag explain $fit; return }
my $got;

# ---- what the owner calls IMMUTABLE runs when the table is opened: as the owner --------------------------------------
sql(q(
CREATE FUNCTION writes(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.trace (what) VALUES (what || ' ' || current_user); END $$;
CREATE FUNCTION looks_immutable(what text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.writes(what); RETURN what; END $$;
));
table('CREATE TABLE im (id int PRIMARY KEY, v text, here text DEFAULT looks_immutable(\'default\')); CREATE INDEX ON im ((looks_immutable(\'index\') || v)); CREATE INDEX ON im (id) WHERE looks_immutable(\'predicate\') <> v; ALTER TABLE im OWNER TO owner',
	'im', [qw(id int4 F 4 1)], [qw(v text T)]);
table('CREATE TABLE imp (id int PRIMARY KEY, v text, here text DEFAULT looks_immutable(\'p default\')) PARTITION BY RANGE (id); CREATE INDEX ON imp ((looks_immutable(\'p index\') || v)); CREATE TABLE imp1 PARTITION OF imp FOR VALUES FROM (0) TO (100); ALTER TABLE imp OWNER TO owner; ALTER TABLE imp1 OWNER TO owner',
	'imp', [qw(id int4 F 4 1)], [qw(v text T)]);
sql('TRUNCATE trace');
$got = $east->batch($east->whole('public.im', [ [ 1, 'one' ], [ 2, 'two' ] ]), $east->whole('public.imp', [ [ 1, 'one' ] ]));
is(refused($got), '', 'rows of a table with such functions') or diag explain $got;
is(sql('SELECT string_agg(DISTINCT what, \', \' ORDER BY what) FROM trace'), 'default owner, index owner, p default owner, p index owner, predicate owner', 'they ran as the owner only');
is(sql('SET ROLE owner; SELECT string_agg(im::text, \' \' ORDER BY id) FROM im'), '(1,one,default) (2,two,default)', 'rows');

# ---- DDL that waits between two segments of an attempt ----------------------------------------------------------------
sql(q(
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF NEW.v = 'slow' THEN PERFORM pg_sleep(1.5); END IF;
	IF NEW.v = 'fail' THEN RAISE EXCEPTION 'no'; END IF;
	RETURN NEW; END $$;
));
table('CREATE TABLE ddl (id int PRIMARY KEY, u int UNIQUE, v text); CREATE TRIGGER slow BEFORE DELETE OR UPDATE OR INSERT ON ddl FOR EACH ROW EXECUTE FUNCTION slow(); ALTER TABLE ddl ENABLE ALWAYS TRIGGER slow',
	'ddl', [qw(id int4 F 4 1)], [qw(u int4 F 4)], [qw(v text T)]);
is(refused($east->batch($east->whole('public.ddl', [ [ 1, 1, 'a' ], [ 2, 2, 'b' ], [ 3, 3, 'c' ] ]))), '', 'rows');
{
	my ($in, $out, $err) = ('', '', '');
	my $alter = IPC::Run::start([ 'psql', '-XAtq', '-d', $west->connstr . ' dbname=postgres', '-c', 'SELECT pg_sleep(0.7)', '-c', 'ALTER TABLE ddl ADD COLUMN more text DEFAULT repeat(\'m\', 9)', '-c', 'SELECT \'altered\'' ], \$in, \$out, \$err);
	# the first row waits with its new values, the second takes its time, the third fails: all is done again without it
	$got = $east->apply(sections => [ $east->whole('public.ddl', [ [ 4, 4, 'd' ], [ 5, 5, 'e' ] ]), $east->partial('public.ddl', [qw(id v)], [ [ 1, 'slow' ], [ 2, 'fail' ], [ 3, 'x' ] ]) ], careful => 1);
	is(($got->{error} // '') . refused($got), 'ddl/2/P0001', 'the batch goes on with the table as it was') or diag explain $got;
	$alter->finish;
	like($out, qr/altered/, 'the change of the table comes after it') or diag $err;
	is(sql('SELECT string_agg(ddl::text, \' \' ORDER BY id) FROM ddl'), '(1,1,slow,mmmmmmmmm) (2,2,b,mmmmmmmmm) (3,3,x,mmmmmmmmm) (4,4,d,mmmmmmmmm) (5,5,e,mmmmmmmmm)', 'rows');
}

# ---- a second hello on the connection forgets what was described ---------------------------------------------------------
is($east->hello->{problem}{sqlstate}, '', 'hello again');
sql('CREATE TABLE noise (id int); DROP TABLE noise; ALTER TABLE im ADD COLUMN later int');
is($east->sql('SELECT count(*) FROM pg_catalog.pg_class WHERE relname = \'im\'')->{value}, '1', 'invalidations find nothing to mark');
is($east->describe('public.im', [ [qw(id int4 F 4 1)], [qw(v text T)] ])->{problem}{sqlstate}, '', 'described again');
is(refused($east->batch($east->whole('public.im', [ [ 3, 'three' ] ]))), '', 'and used');

# ---- deferred constraint triggers ------------------------------------------------------------------------------------------
sql(q(
CREATE FUNCTION traced() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF NEW.v = 'fail' THEN RAISE EXCEPTION 'no'; END IF;
	INSERT INTO public.trace (what) VALUES (TG_NAME || ' ' || TG_OP || ' ' || NEW.id || ' ' || current_user); RETURN NULL; END $$;
TRUNCATE trace;
));
table('CREATE TABLE ct (id int PRIMARY KEY, v text); CREATE CONSTRAINT TRIGGER always AFTER INSERT OR UPDATE ON ct DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION traced();'
	. 'CREATE CONSTRAINT TRIGGER replica AFTER INSERT OR UPDATE ON ct DEFERRABLE FOR EACH ROW EXECUTE FUNCTION traced(); ALTER TABLE ct ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica, OWNER TO owner',
	'ct', [qw(id int4 F 4 1)], [qw(v text T)]);
$got = $east->batch($east->whole('public.ct', [ [ 1, 'a' ], [ 2, 'b' ] ]));
is_deeply([ $got->{attempts}, refused($got) ], [ 1, '' ], 'a deferred trigger that fires ALWAYS refuses nothing') or diag explain $got;
$got = $east->batch($east->whole('public.ct', [ [ 3, 'fail' ], [ 2, 'c' ] ]));
is(refused($got), 'ct/3/P0001', 'its error is that of its row') or diag explain $got;
is(sql('SELECT string_agg(what, \', \' ORDER BY n) FROM trace'), join(', ', map { ("always $_ owner", "replica $_ owner") } 'INSERT 1', 'INSERT 2', 'UPDATE 2'), 'it fires as the owner, once for each row');

# ---- rows that wait for the end of an attempt, more than fit into memory --------------------------------------------------
table('CREATE TABLE lots (id int PRIMARY KEY, u int UNIQUE, v text)', 'lots', [qw(id int4 F 4 1)], [qw(u int4 F 4)], [qw(v text T)]);
sql("ALTER SYSTEM SET work_mem = '64kB'; SELECT pg_reload_conf()");
my $log = -s $west->logfile;
$got = $east->apply(sections => [ $east->whole('public.lots', [ map { [ $_, $_, 'x' x 200 ] } 1 .. 3000 ]) ], careful => 1);
is(($got->{error} // '') . refused($got) . sql('SELECT count(*) FROM lots'), 3000, 'thousands of rows that wait') or diag explain $got->{message};
unlike($east->{log} . substr(slurp_file($west->logfile), $log), qr/leak/, 'nothing is left open');
sql('ALTER SYSTEM RESET work_mem; SELECT pg_reload_conf()');

# ---- the same table described over and over --------------------------------------------------------------------------------
{
	my $described = "SELECT count(*) FROM pg_catalog.pg_backend_memory_contexts WHERE name = 'seal_sync described table'";
	my $count = $east->sql($described)->{value};
	my $number = $east->{tables}{'public.lots'}{number};
	my @lots = ([qw(id int4 F 4 1)], [qw(u int4 F 4)], [qw(v text T)]);
	$east->describe('public.lots', \@lots, number => $number) for 1 .. 5;
	is($east->sql($described)->{value}, $count, 'a description replaces the one before');
	is($east->describe('public.lots', [ @lots, [qw(missing text T)] ], number => $number)->{problem}{sqlstate}, '42703', 'one that does not fit');
	is($east->sql($described)->{value}, $count - 1, 'leaves nothing');
	$east->describe('public.lots', \@lots, number => $number);
	is(refused($east->batch($east->whole('public.lots', [ [ 1, 1, 'again' ] ]))) . sql('SELECT v FROM lots WHERE id = 1'), 'again', 'it goes on');
}

# ---- texts of errors are cut -------------------------------------------------------------------------------------------------
sql(q(CREATE FUNCTION wordy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'x%', repeat(U&'\00e4', 100000) USING DETAIL = repeat('d', 1000000); END $$));
table('CREATE TABLE wordy (id int PRIMARY KEY, v text); CREATE TRIGGER wordy BEFORE INSERT ON wordy FOR EACH ROW EXECUTE FUNCTION wordy(); ALTER TABLE wordy ENABLE ALWAYS TRIGGER wordy', 'wordy', [qw(id int4 F 4 1)], [qw(v text T)]);
$got = $east->batch($east->whole('public.wordy', [ [ 1, 'a' ], [ 2, 'b' ] ]));
is(refused($got), 'wordy/1/P0001 wordy/2/P0001', 'refused');
is_deeply([ map { length } @{$got->{refused}[0]}{qw(message detail)} ], [ 1023, 1024 ], 'with short texts, cut between characters');

$got = $east->apply(sections => [ $east->whole('public.wordy', [ [ 1, 'a' ] ]) ]);
is_deeply([ $got->{error}, length $got->{message}, length $got->{detail} ], [ 'P0001', 1023, 1024 ], 'so is the error of a first attempt') or diag length $got->{message};
is($west->safe_psql('postgres', q(SELECT last_error FROM seal_sync.get_origins() WHERE last_error <> '')), 'a row was refused with SQLSTATE P0001', 'status does not show what a trigger says');
sql(q(CREATE OR REPLACE FUNCTION wordy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'xy%', repeat(U&'\00e4', 100000) USING ERRCODE = '23514'; END $$));
$got = $east->apply(sections => [ $east->whole('public.wordy', [ [ 1, 'a' ] ]) ]);
is($west->safe_psql('postgres', q(SELECT length(last_error) || ' ' || octet_length(last_error) FROM seal_sync.get_origins() WHERE last_error <> '')), '128 254', 'and else whole characters');
# many long texts
sql(q(CREATE OR REPLACE FUNCTION wordy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'x%', repeat('m', 2000) USING DETAIL = repeat('d', 2000); END $$));
$got = $east->batch($east->whole('public.wordy', [ map { [ $_, 'x' ] } 1 .. 12_000 ]));
is(scalar @{$got->{refused}}, 12_000, 'many refusals with long texts');
cmp_ok($_ = List::Util::sum(map { length($_->{message}) + length $_->{detail} } @{$got->{refused}}), '<', 18 * 1024 * 1024, 'take bounded memory') or diag $_;

# ---- refusals of deferrable constraints take no memory ---------------------------------------------------------------------
sql(q(
CREATE SEQUENCE most MINVALUE 0;
CREATE FUNCTION weighed(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF t LIKE '%00' THEN
		PERFORM pg_catalog.setval('public.most', greatest((SELECT last_value FROM public.most), (SELECT sum(total_bytes)::bigint FROM pg_catalog.pg_backend_memory_contexts WHERE name = 'seal_sync apply')));
	END IF;
	RETURN t; END $$;
));
table('CREATE TABLE weighed (id int PRIMARY KEY, v text, EXCLUDE USING btree (weighed(v) WITH =) DEFERRABLE INITIALLY DEFERRED)', 'weighed', [qw(id int4 F 4 1)], [qw(v text T)]);
sql('SET seal_sync.guard = off; INSERT INTO weighed SELECT i, repeat(\'x\', 1500) || i FROM generate_series(10001, 12000) i');
$got = $east->batch($east->whole('public.weighed', [ map { [ $_, 'x' x 1500 . (10000 + $_) ] } 1 .. 2000 ]));
is(scalar @{$got->{refused}}, 2000, 'all violate');
cmp_ok(sql('SELECT last_value FROM most'), '<', 2 * 1024 * 1024, 'what an attempt holds does not grow with them') or diag sql('SELECT last_value FROM most');

# ---- unique generated columns that swap ----------------------------------------------------------------------------------------
table('CREATE TABLE gu (id int PRIMARY KEY, v int, big text, twice int GENERATED ALWAYS AS (v * 2) STORED UNIQUE)', 'gu', [qw(id int4 F 4 1)], [qw(v int4 F 4)], [qw(big text T)], [qw(twice int4 F 4)]);
$east->batch($east->whole('public.gu', [ map { [ $_, $_, 'x' x 5000 . $_, 0 ] } 1 .. 4 ]));
$got = $east->batch($east->partial('public.gu', [qw(id v)], [ [ 1, 2 ], [ 2, 1 ] ]));
is_deeply([ $got->{attempts}, refused($got) ], [ 2, '' ], 'values of a generated column swap') or diag explain $got;
$got = $east->batch($east->whole('public.gu', [ [ 3, 4, 'three', 0 ], [ 4, 3, 'four', 0 ], [ 5, 1, 'five', 0 ] ]));
is(refused($got), 'gu/5/23505/gu_twice_key', 'whole rows too, but not a violation') or diag explain $got;
is(sql('SELECT string_agg(id || \' \' || v || \' \' || length(big) || \' \' || twice, \', \' ORDER BY id) FROM gu'), '1 2 5001 4, 2 1 5001 2, 3 4 5 8, 4 3 4 6', 'rows');

# ---- no more tables than a connection may describe: those it knows can be described again --------------------------------------
{
	my $body = unpack 'H*', SealWire::sized('public') . SealWire::sized('nowhere') . "\1" . join('', map { SealWire::sized($_) } qw(id pg_catalog int4)) . SealWire::u32(-1) . "F\4\1" . SealWire::sized('') . SealWire::sized('a');
	my $varint = "decode(lpad(to_hex(((i & 127 | 128) << 16) | ((i >> 7 & 127 | 128) << 8) | (i >> 14)), 6, '0'), 'hex')";
	my $many = $east->sql("SELECT count(seal_sync.wire_describe($varint || '\\x$body')) FROM generate_series(20000, 120000) i");
	is($many->{error}, '54000', 'tables have an end') or diag explain $many;
	is($east->describe('public.lots', [ [qw(id int4 F 4 1)], [qw(u int4 F 4)], [qw(v text T)] ])->{error}, '54000', 'also this one, by another number');
	my $gu = $east->describe('public.gu', [ [qw(id int4 F 4 1)], [qw(v int4 F 4)], [qw(big text T)], [qw(twice int4 F 4)] ], number => $east->{tables}{'public.gu'}{number});
	is($gu->{problem}{sqlstate}, '', 'a known one is replaced') or diag explain $gu;
	is(refused($east->batch($east->whole('public.gu', [ [ 9, 99, 'nine', 0 ] ]))) . sql('SELECT twice FROM gu WHERE id = 9'), '198', 'and used');
}
done_testing();
