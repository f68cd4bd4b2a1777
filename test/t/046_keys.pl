# T24: keys are compared by the primary key's equality. T25: rows that belong to no declared cluster.
# T26: COMMIT PREPARED wakes nobody, and its changes arrive all the same.
# Judge: pg_dump of both sides.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes();
my $db = 'postgres';
my $icu = $east->safe_psql($db, q(SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i')) eq 't';
my $citext = $east->safe_psql($db, q(SELECT count(*) > 0 FROM pg_available_extensions WHERE name = 'citext')) eq 't';

sub table
{
	my ($ddl, $name) = @_;
	$_->safe_psql($db, "$ddl; SELECT seal_sync.table_add('$name', cluster => 'a')") for $east, $west;
	return;
}

sub step
{
	my ($name, $sql, @table) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$east->safe_psql($db, $sql);
	wait_for_sync($east);
	return dumps_equal($name, [ $east, $west ], @table);
}

subtest 'T24: a key that changes into an equal one' => sub {
	table('CREATE TABLE num (id numeric PRIMARY KEY, v text)', 'num');
	step('numeric', q(INSERT INTO num VALUES (1.0, 'one'), (2.00, 'two'), (3, 'three')), 'num');
	step('1.0 becomes 1.00', 'UPDATE num SET id = 1.00 WHERE id = 1', 'num');
	is($west->safe_psql($db, 'SELECT count(*), max(id::text) FROM num WHERE id = 1'), '1|1.00', 'one row, as it is written now');
	step('in one transaction, there and back', q(BEGIN; UPDATE num SET id = 2.0 WHERE id = 2; UPDATE num SET v = 'x' WHERE id = 2;
	  UPDATE num SET id = 2.000 WHERE id = 2; COMMIT;), 'num');
	step('deleted by one form, inserted in another', q(DELETE FROM num WHERE id = 3; INSERT INTO num VALUES (3.000, 'again')), 'num');
	step('deleted', q(DELETE FROM num WHERE id = 1.000), 'num');
	table('CREATE TABLE flt (id float8 PRIMARY KEY, v text)', 'flt');
	step('zero and minus zero', q(INSERT INTO flt VALUES (0, 'zero'), ('NaN', 'nan')), 'flt');
	step('0 becomes -0', q(UPDATE flt SET id = '-0', v = 'minus' WHERE id = 0; INSERT INTO flt VALUES (1, 'x')), 'flt');
	SKIP: {
		skip 'no citext', 3 unless $citext;
		$_->safe_psql($db, 'CREATE EXTENSION citext') for $east, $west;
		table('CREATE TABLE ci (id citext PRIMARY KEY, v text)', 'ci');
		step('citext', q(INSERT INTO ci VALUES ('a', '1'), ('b', '2'), ('c', '3')), 'ci');
		step('a becomes A', q(UPDATE ci SET id = 'A' WHERE id = 'a'; UPDATE ci SET v = '22' WHERE id = 'B'), 'ci');
		step('deleted as C, inserted as C', q(DELETE FROM ci WHERE id = 'C'; INSERT INTO ci VALUES ('C', 'new')), 'ci');
	}
	SKIP: {
		skip 'no ICU', 3 unless $icu;
		$_->safe_psql($db, q(CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false))) for $east, $west;
		table('CREATE TABLE coll (id text COLLATE nocase PRIMARY KEY, v text)', 'coll');
		step('nondeterministic collation', q(INSERT INTO coll VALUES ('a', '1'), ('Straße', '2')), 'coll');
		step('a becomes A', q(UPDATE coll SET id = 'A' WHERE id = 'a'; UPDATE coll SET v = '22' WHERE id = 'STRASSE' OR id = 'straße'), 'coll');
		step('swapped by delete and insert', q(BEGIN; DELETE FROM coll WHERE id = 'a'; INSERT INTO coll VALUES ('a', 'small'); COMMIT), 'coll');
	}
};

subtest 'T24: partitions with other attribute numbers, moved between' => sub {
	table(q(CREATE TABLE p (id numeric, k int, v text, PRIMARY KEY (k, id)) PARTITION BY LIST (k);
	  CREATE TABLE p1 (v text, junk int, junk2 text, id numeric NOT NULL, k int NOT NULL);
	  ALTER TABLE p1 DROP junk; ALTER TABLE p1 DROP junk2; ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1);
	  CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2) PARTITION BY HASH (id);
	  CREATE TABLE p2a (k int NOT NULL, id numeric NOT NULL, v text); ALTER TABLE p2 ATTACH PARTITION p2a FOR VALUES WITH (MODULUS 1, REMAINDER 0)), 'p');
	step('rows', q(INSERT INTO p SELECT i, 1 + i % 2, 'v' || i FROM generate_series(1, 40) i), 'p', 'p1', 'p2a');
	step('partial updates, moves and keys', q(UPDATE p SET v = 'u' WHERE id % 3 = 0; UPDATE p SET k = 3 - k WHERE id % 4 = 0;
	  UPDATE p SET id = id::numeric(10, 2) WHERE id % 5 = 0; DELETE FROM p1 WHERE id % 7 = 0; DELETE FROM p2 WHERE id = 2.000;), 'p', 'p1', 'p2a');
};

subtest 'T24: inheritance children' => sub {
	# A row of a child would answer for one of the parent, so a registered table has none
	for ($east, $west)
	{
		$_->safe_psql($db, q(CREATE TABLE top (id int PRIMARY KEY, v text); SELECT seal_sync.table_add('top', cluster => 'a')));
		my ($rc, $out, $err) = $_->psql($db, 'CREATE TABLE below (PRIMARY KEY (id)) INHERITS (top)');
		isnt($rc, 0, 'a child is refused: ' . $err =~ s/.*ERROR: *//r =~ s/\n.*//sr);
	}
	step('the table works', q(INSERT INTO top VALUES (1, 'parent')), 'top');
};

subtest 'T25: rows that belong nowhere' => sub {
	$_->safe_psql($db, q(CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id)); INSERT INTO t VALUES (1, NULL, 'before'), (2, 'zzz', 'before');
	  SELECT seal_sync.table_add('t', cluster_column => 'cluster_id', existing_rows => 'adopt');)) for $east, $west;
	for my $case ([ q(INSERT INTO t VALUES (3, NULL, 'x')), 'null' ], [ q(INSERT INTO t VALUES (3, 'zzz', 'x')), 'undeclared' ],
		[ q(UPDATE t SET v = 'y' WHERE id = 1), 'an old row without cluster' ], [ q(DELETE FROM t WHERE id = 2), 'an old row of an undeclared one' ],
		[ q(INSERT INTO t VALUES (4, 'a', 'x'); UPDATE t SET cluster_id = NULL WHERE id = 4), 'into null' ])
	{
		my ($rc, $out, $err) = $east->psql($db, $case->[0], on_error_stop => 1);
		like($err, qr/belongs to no cluster/, $case->[1] . ' is refused');
	}
	step('what is fine arrives', q(INSERT INTO t VALUES (5, 'a', 'x')), 't');
	# With the guard off it can be mended here; what stands there is nobody's to overwrite
	$east->safe_psql($db, q(SET seal_sync.guard = off; UPDATE t SET cluster_id = 'a' WHERE id = 1; DELETE FROM t WHERE id = 2));
	wait_until($east, q(SELECT key->>'id' FROM seal_sync.quarantine WHERE relation = 't'::regclass), '1', 'a mended row is refused where the old one stands');
	$west->safe_psql($db, q(SET seal_sync.guard = off; DELETE FROM t WHERE cluster_id IS NULL OR cluster_id = 'zzz'));
	wait_until($east, 'SELECT count(*) FROM seal_sync.held', '0', 'and arrives once that is gone');
	dumps_equal('both sides are mended', [ $east, $west ], 't');
};

subtest 'T26: COMMIT PREPARED' => sub {
	$east->safe_psql($db, q(BEGIN; INSERT INTO num VALUES (77, 'prepared'); PREPARE TRANSACTION 'g'));
	wait_for_sync($east);
	$east->safe_psql($db, q(COMMIT PREPARED 'g'));
	wait_until($west, 'SELECT count(*) FROM num WHERE id = 77', '1', 'it arrives by the scan period alone');
	$east->safe_psql($db, q(BEGIN; INSERT INTO num VALUES (78, 'prepared'); PREPARE TRANSACTION 'g'; ROLLBACK PREPARED 'g'));
	step('and what is rolled back does not', q(INSERT INTO num VALUES (79, 'x')), 'num');
};

done_testing();
