# What apply writes obeys the constraints of the table: unique values that swap, deferrable and exclusion constraints,
# foreign keys in both directions, generated and identity columns, partitions, triggers that fire ALWAYS.
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
sub rows { return sql("SELECT coalesce(string_agg(t::text, ' ' ORDER BY id), '') FROM $_[0] t") }
sub log_size { return sql('SELECT coalesce(sum(n), 0) FROM (' . join(' UNION ALL ', map { "SELECT count(*) AS n FROM seal_sync.change_log_$_" } 0 .. 7) . ') c') }
sub refused { return join ' ', sort map { "$_->{table}/" . unpack('xl<', $_->{key}) . "/$_->{sqlstate}" . ($_->{constraint} ? "/$_->{constraint}" : '') } @{ $_[0]{refused} // [] } }
sql(q(
CREATE EXTENSION seal_sync;
SELECT seal_sync.node_create('west');
INSERT INTO seal_sync.peer (peer, server) VALUES ('east', 'east');
SELECT seal_sync.cluster_create('a', primary_node => 'east'), seal_sync.cluster_create('b', primary_node => 'west');
));
my $east = SealWire->new($west);
$east->hello;
sub table { my ($ddl, $name, @columns) = @_; sql("$ddl; SELECT seal_sync.table_add('$name', cluster => 'a')"); my $fit = $east->describe("public.$name", \@columns); is($fit->{problem}{sqlstate}, '', "$name fits") or diag explain $fit; return }
my ($got, $before);

# ---- unique values that swap (trap T11) ---------------------------------------------------------------
table('CREATE TABLE s (id int PRIMARY KEY, u int UNIQUE, big text, extra text DEFAULT \'kept\')', 's', [qw(id int4 F 4 1)], [qw(u int4 F 4)], [qw(big text T)]);
$east->batch($east->whole('public.s', [ map { [ $_, $_ * 10, "big $_" ] } 1 .. 6 ]));
sql("SET seal_sync.guard = off; UPDATE s SET extra = 'local ' || id, big = repeat('x', 10000) || id");
$got = $east->batch($east->partial('public.s', [qw(id u)], [ [ 1, 20 ], [ 2, 10 ] ]));
is_deeply([ $got->{attempts}, refused($got) ], [ 2, '' ], 'a swap goes through at the second attempt') or diag explain $got;
is(sql('SELECT string_agg(u || \' \' || length(big) || \' \' || extra, \', \' ORDER BY id) FROM s WHERE id <= 2'), '20 10001 local 1, 10 10001 local 2', 'with the columns that were not sent');
$got = $east->batch($east->partial('public.s', [qw(id u)], [ [ 1, 30 ], [ 2, 20 ], [ 3, 10 ] ]), $east->whole('public.s', [ [ 4, 50, 'four' ], [ 5, 40, 'five' ] ]));
is_deeply([ $got->{attempts}, refused($got) ], [ 2, '' ], 'a cycle of three and another swap') or diag explain $got;
is(sql('SELECT string_agg(u::text, \',\' ORDER BY id) FROM s'), '30,20,10,50,40,60', 'values');
$got = $east->batch($east->whole('public.s', [ [ 6, 70, 'six' ], [ 7, 60, 'takes the value of six' ] ]), $east->whole('public.s', [ [ 8, 80, '' ] ]));
is(refused($got), '', 'a new row takes a value that is given up');
$got = $east->batch($east->whole('public.s', [ [ 9, 71, 'waits for seven' ], ]), $east->whole('public.s', [ [ 10, 60, 'takes it from seven' ] ]), $east->whole('public.s', [ [ 7, 72, 'seven' ] ]));
is(refused($got), '', 'also before it is given up');
# a real violation, and what hangs on it
$got = $east->batch($east->partial('public.s', [qw(id u)], [ [ 1, 20 ], [ 2, 10 ], [ 3, 80 ] ]), $east->whole('public.s', [ [ 11, 110, 'fine' ] ]));
like(refused($got), qr{^s/2/23505/s_u_key s/3/23505/s_u_key$|^s/1/23505/s_u_key s/2/23505/s_u_key s/3/23505/s_u_key$}, 'the violator and those that wanted its value are refused') or diag explain $got;
is(sql('SELECT u FROM s WHERE id = 3') . ' ' . sql('SELECT u FROM s WHERE id = 8') . ' ' . sql('SELECT count(*) FROM s WHERE id = 11'), '10 80 1', 'they stay as they were, the others arrive');
is(sql('SELECT count(*) FROM s'), 11, 'no row is lost');

# ---- deferrable unique and exclusion constraints (trap T10) --------------------------------------------
table('CREATE TABLE d (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED, x int4range, EXCLUDE USING gist (x WITH &&) DEFERRABLE)', 'd',
	[qw(id int4 F 4 1)], [qw(u int4 F 4)], [qw(x int4range O)]);
$got = $east->batch($east->whole('public.d', [ [ 1, 1, '[1,5)' ], [ 2, 2, '[5,9)' ], [ 3, 3, undef ] ]));
is(refused($got), '', 'rows');
$got = $east->batch($east->whole('public.d', [ [ 1, 2, '[5,9)' ], [ 2, 1, '[1,5)' ] ]));
is_deeply([ $got->{attempts}, refused($got) ], [ 1, '' ], 'a swap in deferrable constraints needs no second attempt') or diag explain $got;
$got = $east->batch($east->whole('public.d', [ [ 4, 1, undef ], [ 5, 5, '[8,10)' ], [ 6, 6, '[20,21)' ] ]));
is(refused($got), 'd/4/23505/d_u_key d/5/23P01/d_x_excl', 'duplicates are found at the end of the batch') or diag explain $got;
is(rows('d'), '(1,2,"[5,9)") (2,1,"[1,5)") (3,3,) (6,6,"[20,21)")', 'rows');
sql('ALTER TABLE d DROP CONSTRAINT d_x_excl; ALTER TABLE d ADD CONSTRAINT x EXCLUDE USING gist (x WITH &&)');
$east->describe('public.d', [ [qw(id int4 F 4 1)], [qw(u int4 F 4)], [qw(x int4range O)] ]);
$got = $east->batch($east->whole('public.d', [ [ 1, 2, '[1,5)' ], [ 2, 1, '[5,9)' ], [ 7, 7, '[2,3)' ] ]));
is(refused($got), 'd/7/23P01/x', 'an immediate exclusion constraint: the swap goes through, the violation does not') or diag explain $got;
is(rows('d'), '(1,2,"[1,5)") (2,1,"[5,9)") (3,3,) (6,6,"[20,21)")', 'rows');

# ---- foreign keys (trap T10) -----------------------------------------------------------------------------
table('CREATE TABLE parent (id int PRIMARY KEY, code text COLLATE "C" UNIQUE)', 'parent', [qw(id int4 F 4 1)], [qw(code text T)]);
table('CREATE TABLE child (id int PRIMARY KEY, p bigint REFERENCES parent (id) ON DELETE CASCADE, c text REFERENCES parent (code), up int REFERENCES child DEFERRABLE)', 'child',
	[qw(id int4 F 4 1)], [qw(p int8 F 8)], [qw(c text T)], [qw(up int4 F 4)]);
sql('CREATE TABLE local_child (id int PRIMARY KEY, p int REFERENCES parent)');
# children before their parents
$got = $east->batch($east->whole('public.child', [ [ 1, 1, 'one', 2 ], [ 2, 2, undef, 1 ], [ 3, undef, undef, undef ] ]), $east->whole('public.parent', [ [ 1, 'one' ], [ 2, 'two' ], [ 3, 'three' ], [ 4, 'four' ] ]));
is_deeply([ $got->{attempts}, refused($got) ], [ 1, '' ], 'order inside a batch does not matter') or diag explain $got;
$got = $east->batch($east->whole('public.child', [ [ 4, 99, undef, undef ], [ 5, undef, 'nine', undef ], [ 6, 3, 'three', 3 ], [ 7, 3, undef, 4 ] ]));
is(refused($got), 'child/4/23503/child_p_fkey child/5/23503/child_c_fkey child/7/23503/child_up_fkey', 'orphans are refused, and those that refer to the refused') or diag explain $got;
is_deeply($got->{errors}, [qw(23503 SSW03 SSW03)], 'in three attempts');
is(scalar(grep { "$_->{message} $_->{detail}" =~ /99|nine/ } @{$got->{refused}}), 0, 'no values in the texts');
is(sql('SELECT string_agg(id::text, \',\' ORDER BY id) FROM child'), '1,2,3,6', 'rows');
$got = $east->batch($east->removed('public.parent', [ [3], [4] ]), $east->partial('public.child', [qw(id up)], [ [ 3, 77 ] ]));
like(refused($got), qr{^child/3/23503/child_up_fkey parent/3/23503/child_(p|c)_fkey$}, 'a parent that still has children stays') or diag explain $got;
is(sql('SELECT string_agg(id::text, \',\' ORDER BY id) FROM parent'), '1,2,3', 'rows');
$got = $east->batch($east->removed('public.parent', [ [3] ]), $east->removed('public.child', [ [6] ]));
is(refused($got), '', 'with its children it may go');
sql('INSERT INTO local_child VALUES (1, 2)');
$got = $east->batch($east->removed('public.parent', [ [2] ]), $east->removed('public.child', [ [1], [2] ]));
is(refused($got), 'parent/2/23503/local_child_p_fkey', 'a table that is not registered refers to it') or diag explain $got;
$got = $east->batch($east->whole('public.parent', [ [ 1, 'renamed' ] ]));
is(refused($got), '', 'a referenced value without children changes');
$got = $east->batch($east->whole('public.child', [ [ 8, 1, 'renamed', undef ] ]));
$got = $east->batch($east->whole('public.parent', [ [ 1, 'again' ] ]));
is(refused($got), 'parent/1/23503/child_c_fkey', 'with children it does not');
$got = $east->batch($east->whole('public.parent', [ [ 1, 'again' ], [ 5, 'renamed' ] ]));
is(refused($got), '', 'unless another row has it now') or diag explain $got;
# many
$got = $east->batch($east->whole('public.parent', [ map { [ $_, "code $_" ] } 1000 .. 4499 ]), $east->whole('public.child', [ map { [ $_, $_, "code $_", undef ] } 1000 .. 4500 ]));
like(refused($got), qr{^child/4500/23503/child_(p|c)_fkey$}, 'thousands of keys') or diag explain $got;
# keys that stay the same are not checked, as in PostgreSQL itself, also where unique values swap beside them
table('CREATE TABLE sw (id int PRIMARY KEY, u int UNIQUE, p int REFERENCES parent, code text UNIQUE)', 'sw', [qw(id int4 F 4 1)], [qw(u int4 F 4)], [qw(p int4 F 4)], [qw(code text T)]);
table('CREATE TABLE sw_child (id int PRIMARY KEY, code text REFERENCES sw (code))', 'sw_child', [qw(id int4 F 4 1)], [qw(code text T)]);
sql(q(SET seal_sync.guard = off; SET session_replication_role = replica; INSERT INTO sw SELECT i, i, 777, 'c' || i FROM generate_series(1, 6) i; INSERT INTO sw_child VALUES (1, 'c1'), (2, 'c2'), (3, 'c3')));
$got = $east->batch($east->partial('public.sw', [qw(id u)], [ [ 1, 2 ], [ 2, 1 ] ]), $east->whole('public.sw', [ [ 3, 4, 777, 'c3' ], [ 4, 3, 777, 'c4' ] ]));
is_deeply([ $got->{attempts}, refused($got) ], [ 2, '' ], 'orphans whose foreign key stays the same') or diag explain $got;
$got = $east->batch($east->partial('public.sw', [qw(id u p)], [ [ 5, 6, 778 ], [ 6, 5, 1 ] ]));
is(refused($got), 'sw/5/23503/sw_p_fkey sw/6/23505/sw_u_key', 'one that changes is checked') or diag explain $got;
$got = $east->batch($east->partial('public.sw', [qw(id code)], [ [ 1, 'c2' ], [ 2, 'c1' ] ]));
is_deeply([ $got->{attempts}, refused($got) ], [ 2, '' ], 'referenced values swap') or diag explain $got;
$got = $east->batch($east->partial('public.sw', [qw(id code)], [ [ 1, 'c9' ], [ 4, 'c5' ], [ 5, 'c4' ] ]));
is(refused($got), 'sw/1/23503/sw_child_code_fkey', 'one that is given up for good is checked') or diag explain $got;
# a trigger changes the key of the row that comes back, or lets it not come back
sql(q(
CREATE FUNCTION of_sw() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF NEW.u = 21 THEN NEW.p := 779; END IF;
	IF NEW.u = 23 THEN RETURN NULL; END IF;
	RETURN NEW; END $$;
CREATE TRIGGER of_sw BEFORE INSERT ON sw FOR EACH ROW EXECUTE FUNCTION of_sw();
ALTER TABLE sw ENABLE ALWAYS TRIGGER of_sw;
));
$got = $east->apply(sections => [ $east->partial('public.sw', [qw(id u)], [ [ 1, 20 ], [ 2, 21 ], [ 3, 23 ], [ 5, 24 ] ]) ], id => SealWire::id('sw'), careful => 1);
is($got->{error}, 'SSW03', 'keys that a trigger changes') or diag explain $got;
$got = $east->apply(sections => [ $east->partial('public.sw', [qw(id u)], [ [ 1, 20 ], [ 2, 21 ], [ 3, 23 ], [ 5, 24 ] ]) ], id => SealWire::id('sw'), careful => 1);
is(refused($got), 'sw/2/23503/sw_p_fkey sw/3/23503/sw_child_code_fkey', 'are checked') or diag explain $got;
# a local transaction that deletes the parent at the same time
{
	my $other = SealWire->new($west);
	sql('DELETE FROM local_child');
	$other->sql("SET seal_sync.guard = off; BEGIN; DELETE FROM parent WHERE id = 2");
	$got = $east->apply(sections => [ $east->whole('public.child', [ [ 20, 2, undef, undef ] ]) ]);
	is($got->{error}, '55P03', 'a parent on its way out is waited for, not long') or diag explain $got;
	$other->sql('COMMIT');
	$got = $east->batch($east->whole('public.child', [ [ 20, 2, undef, undef ] ]));
	is(refused($got), 'child/20/23503/child_p_fkey', 'then it is gone');
}

# ---- generated, identity, defaults ------------------------------------------------------------------------
table('CREATE TABLE g (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, w int DEFAULT 7 NOT NULL, twice int GENERATED ALWAYS AS (v * 2) STORED, here text GENERATED ALWAYS AS (\'v\' || v || \'w\' || w) STORED, serial int GENERATED BY DEFAULT AS IDENTITY)', 'g',
	[qw(id int4 F 4 1)], [qw(v int4 F 4)], [qw(twice int4 F 4)]);
$got = $east->batch($east->whole('public.g', [ [ 5, 50, 999 ], [ 6, 60, 999 ] ]));
is(rows('g'), '(5,50,7,100,v50w7,1) (6,60,7,120,v60w7,2)', 'generated columns are computed, others have their defaults') or diag explain $got;
$got = $east->batch($east->partial('public.g', [qw(id v)], [ [ 5, 51 ] ]), $east->partial('public.g', [qw(id twice)], [ [ 6, 1 ] ]));
is(rows('g'), '(5,51,7,102,v51w7,1) (6,60,7,120,v60w7,2)', 'also with a partial update');

# ---- partitions ----------------------------------------------------------------------------------------------
sql(q(
CREATE TABLE p (id int, k text, v text, PRIMARY KEY (k, id)) PARTITION BY LIST (k);
CREATE TABLE p_x (v text, junk int, id int NOT NULL, k text NOT NULL);
ALTER TABLE p_x DROP COLUMN junk;
ALTER TABLE p ATTACH PARTITION p_x FOR VALUES IN ('x');
CREATE TABLE p_y PARTITION OF p FOR VALUES IN ('y') PARTITION BY RANGE (id);
CREATE TABLE p_y1 PARTITION OF p_y FOR VALUES FROM (0) TO (100);
CREATE TABLE p_y2 PARTITION OF p_y FOR VALUES FROM (100) TO (200);
ALTER TABLE p_y2 ADD CHECK (v <> 'bad');
SELECT seal_sync.table_add('p', cluster => 'a');
));
my $fit = $east->describe('public.p', [ [qw(id int4 F 4 2)], [qw(k text T 0 1)], [qw(v text T)] ]);
is($fit->{problem}{sqlstate}, '', 'p fits') or diag explain $fit;
$got = $east->batch($east->whole('public.p', [ [ 1, 'x', 'a' ], [ 2, 'x', 'b' ], [ 3, 'y', 'c' ], [ 150, 'y', 'd' ] ]));
is(sql('SELECT string_agg(tableoid::regclass || p::text, \' \' ORDER BY id) FROM p'), 'p_x(1,x,a) p_x(2,x,b) p_y1(3,y,c) p_y2(150,y,d)', 'rows are routed') or diag explain $got;
$before = log_size();
$got = $east->batch($east->removed('public.p', [ [ 'x', 2 ], [ 'nowhere', 1 ], [ 'y', 999 ] ]), $east->whole('public.p', [ [ 1, 'x', 'changed' ], [ 160, 'y', 'bad' ], [ 4, 'nowhere', 'x' ], [ 151, 'y', 'e' ] ]));
is_deeply([ map { $_->{sqlstate} } @{$got->{refused}} ], [ '23514', '23514' ], 'no partition, or one that refuses') or diag explain $got;
is(sql('SELECT string_agg(tableoid::regclass || p::text, \' \' ORDER BY id) FROM p'), 'p_x(1,x,changed) p_y1(3,y,c) p_y2(150,y,d) p_y2(151,y,e)', 'updated, deleted; a delete without a partition is no error');
my $id = SealWire::id('no partition');
my $partial = $east->partial('public.p', [qw(id k v)], [ [ 5, 'nowhere', 'x' ], [ 3, 'y', 'cc' ] ]);
$got = $east->apply(sections => [$partial], id => $id);
is($got->{error}, 'SSW01', 'a partial update without a partition is wanted whole') or diag explain $got;
# nothing to delete is no reason for a second attempt, however many there are
$got = $east->batch($east->removed('public.p', [ map { ($_ % 2 ? [ 'y', 1000 + $_ ] : [ 'nowhere', $_ ]) } 1 .. 100 ]), $east->whole('public.p', [ map { [ $_, 'x', 'v' ] } 11 .. 20 ]));
is_deeply([ @$got{qw(attempts unchanged inserted)} ], [ 1, 100, 10 ], 'a hundred deletes without a partition') or diag explain $got;
$got = $east->apply(sections => [ map { ($east->removed('public.p', [ [ 'nowhere', $_ ] ]), $east->removed('public.p', [ [ 'x', $_ ] ])) } 11 .. 60 ], careful => 1);
is_deeply([ @$got{qw(error unchanged deleted)} ], [ undef, 90, 10 ], 'and among others in a careful attempt') or diag explain $got;
sql(q(
CREATE TABLE ph (id int, k text, v text, PRIMARY KEY (k, id)) PARTITION BY HASH (id);
CREATE TABLE ph0 PARTITION OF ph FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY LIST (k);
CREATE TABLE ph0x PARTITION OF ph0 FOR VALUES IN ('x');
CREATE TABLE ph0_rest PARTITION OF ph0 DEFAULT;
SELECT seal_sync.table_add('ph', cluster => 'a');
));
$east->describe('public.ph', [ [qw(id int4 F 4 2)], [qw(k text T 0 1)], [qw(v text T)] ]);
$got = $east->batch($east->whole('public.ph', [ map { ([ $_, 'x', '' ], [ $_, 'z', '' ]) } 1 .. 20 ]));
my $there = sql('SELECT count(*) FROM ph');
is(@{$got->{refused}} + $there, 40, 'rows of a hash without all its partitions') or diag explain $got;
$got = $east->batch($east->removed('public.ph', [ map { ([ 'x', $_ ], [ 'z', $_ ]) } 1 .. 20 ]));
is_deeply([ @$got{qw(attempts deleted unchanged)} ], [ 1, $there, 40 - $there ], 'deletes find those that are there') or diag explain $got;
is(log_size(), $before, 'nothing is captured in partitions either');
# a partition as the registered table
sql(q(CREATE TABLE q (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10); SELECT seal_sync.table_add('q1', cluster => 'a')));
$east->describe('public.q1', [ [qw(id int4 F 4 1)], [qw(v text T)] ]);
$got = $east->batch($east->whole('public.q1', [ [ 1, 'x' ], [ 11, 'y' ] ]));
is(refused($got), 'q1/11/23514', 'the constraint of a partition holds');
# foreign keys of and to partitions
table('CREATE TABLE fp (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE fp1 PARTITION OF fp FOR VALUES FROM (0) TO (10); CREATE TABLE fp2 PARTITION OF fp FOR VALUES FROM (10) TO (20)', 'fp', [qw(id int4 F 4 1)], [qw(v text T)]);
table('CREATE TABLE fc (id int PRIMARY KEY, p int REFERENCES fp) PARTITION BY HASH (id); CREATE TABLE fc0 PARTITION OF fc FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE fc1 PARTITION OF fc FOR VALUES WITH (MODULUS 2, REMAINDER 1)', 'fc', [qw(id int4 F 4 1)], [qw(p int4 F 4)]);
$got = $east->batch($east->whole('public.fp', [ [ 1, 'a' ], [ 11, 'b' ], [ 12, 'c' ] ]), $east->whole('public.fc', [ [ 1, 1 ], [ 2, 11 ], [ 3, 13 ], [ 4, 12 ] ]));
is(refused($got), 'fc/3/23503/fc_p_fkey', 'foreign keys between partitioned tables') or diag explain $got;
$got = $east->batch($east->removed('public.fp', [ [1], [12] ]), $east->removed('public.fc', [ [4] ]));
is(refused($got), 'fp/1/23503/fc_p_fkey', 'in both directions') or diag explain $got;

# ---- triggers of the user (trap T23) ------------------------------------------------------------------------------
sql(q(
CREATE ROLE owner LOGIN;
CREATE TABLE trace (n int GENERATED ALWAYS AS IDENTITY, what text);
GRANT ALL ON trace TO owner;
CREATE TABLE mine (id int PRIMARY KEY, cl text, v text);
SELECT seal_sync.table_add('mine', cluster_column => 'cl');
GRANT ALL ON mine TO owner;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO public.trace (what) VALUES (TG_NAME || ' ' || TG_OP || ' ' || coalesce(OLD.id::text || OLD.v, '-') || ' ' || coalesce(NEW.id::text || NEW.v, '-') || ' ' || current_user || ' ' || current_setting('session_replication_role'));
	RETURN NULL; END $$;
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF NEW.v = 'skip' THEN RETURN NULL; END IF;
	IF NEW.v = 'fail' THEN RAISE EXCEPTION 'no'; END IF;
	IF NEW.v = 'guarded' THEN UPDATE public.mine SET v = 'x' WHERE cl = 'a'; END IF;
	IF NEW.v = 'captured' THEN UPDATE public.mine SET v = 'captured' WHERE cl = 'b'; END IF;
	IF NEW.v = 'settled' THEN PERFORM set_config('role', 'postgres', true); END IF;
	NEW.v := upper(NEW.v); RETURN NEW; END $$;
CREATE TABLE tr (id int PRIMARY KEY, v text, w int);
CREATE TRIGGER ordinary AFTER INSERT OR UPDATE OR DELETE ON tr FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER always AFTER INSERT OR UPDATE OR DELETE ON tr FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER replica BEFORE INSERT OR UPDATE ON tr FOR EACH ROW EXECUTE FUNCTION change();
CREATE TRIGGER of_w AFTER UPDATE OF w ON tr FOR EACH ROW WHEN (NEW.w > 5) EXECUTE FUNCTION note();
ALTER TABLE tr ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replica, ENABLE ALWAYS TRIGGER of_w;
ALTER TABLE tr OWNER TO owner;
INSERT INTO mine VALUES (2, 'b', 'mine');
));
table('SELECT 1', 'tr', [qw(id int4 F 4 1)], [qw(v text T)], [qw(w int4 F 4)]);
$east->describe('public.mine', [ [qw(id int4 F 4 1)], [qw(cl text T)], [qw(v text T)] ], column => 'cl');
$east->batch($east->whole('public.mine', [ [ 1, 'a', 'theirs' ] ]));
$before = log_size();
$got = $east->batch($east->whole('public.tr', [ [ 1, 'one', 1 ], [ 2, 'two', 2 ], [ 3, 'skip', 3 ] ]));
$got = $east->batch($east->removed('public.tr', [ [2] ]), $east->partial('public.tr', [qw(id v)], [ [ 1, 'uno' ] ]));
$got = $east->batch($east->partial('public.tr', [qw(id w)], [ [ 1, 9 ] ]));
is(rows('tr'), '(1,UNO,9)', 'a BEFORE trigger changes and skips') or diag explain $got;
is(sql('SELECT string_agg(what, E\'\n\' ORDER BY n) FROM trace'), join("\n", 'always INSERT - 1ONE owner replica', 'always INSERT - 2TWO owner replica', 'always DELETE 2TWO - owner replica',
	'always UPDATE 1ONE 1UNO owner replica', 'always UPDATE 1UNO 1UNO owner replica', 'of_w UPDATE 1UNO 1UNO owner replica'), 'triggers that are ALWAYS or REPLICA fire, as the owner; ordinary ones do not');
is(log_size(), $before, 'apply itself is not captured');
$got = $east->batch($east->whole('public.tr', [ [ 4, 'captured', 1 ] ]));
is(refused($got) . log_size(), $before + 1, 'what a trigger changes elsewhere is captured') or diag explain $got;
$got = $east->batch($east->whole('public.tr', [ [ 5, 'guarded', 1 ], [ 6, 'fail', 1 ], [ 7, 'settled', 1 ], [ 8, 'good', 1 ] ]));
is(refused($got), 'tr/5/25006 tr/6/P0001 tr/7/42501', 'and guarded; errors of triggers refuse the row') or diag explain $got;
is(sql('SELECT string_agg(v, \' \' ORDER BY id) FROM mine'), 'theirs captured', 'rows of the other table');
is($east->sql('SELECT current_setting(\'session_replication_role\') || current_user')->{value}, 'originpostgres', 'roles are put back') or diag explain $east->sql('SELECT current_user');
# swaps with triggers: a delete and an insert
sql('SET seal_sync.guard = off; DELETE FROM tr WHERE id NOT IN (1, 4); ALTER TABLE tr ADD UNIQUE (w); TRUNCATE trace');
$east->describe('public.tr', [ [qw(id int4 F 4 1)], [qw(v text T)], [qw(w int4 F 4)] ]);
$got = $east->batch($east->whole('public.tr', [ [ 1, 'X', 1 ], [ 4, 'Y', 9 ] ]));
is(refused($got) . ' ' . rows('tr'), ' (1,X,1) (4,Y,9)', 'a swap in a table with triggers') or diag explain $got;
is(sql('SELECT string_agg(what, E\'\n\' ORDER BY n) FROM trace'), join("\n", 'always DELETE 1UNO - owner replica', 'always DELETE 4CAPTURED - owner replica', 'always INSERT - 1X owner replica', 'always INSERT - 4Y owner replica'),
	'which see a delete and an insert');
done_testing();
