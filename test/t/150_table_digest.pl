# Digests of tables: equal for equal rows on databases that keep them otherwise (encoding, order of columns, dropped ones, partitions, storage,
# OIDs of types), different as soon as one value is. Judge: pg_dump of one database is what was loaded into the other.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = one_node('east');
$node->safe_psql('postgres', qq(CREATE DATABASE $_->[0] TEMPLATE template0 ENCODING '$_->[1]' LC_COLLATE 'C' LC_CTYPE 'C')) for [ 'one', 'UTF8' ], [ 'two', 'LATIN1' ];
sub sql { my ($database, $sql) = @_; return $node->safe_psql($database, "SET client_encoding = 'UTF8'; $sql") }
my $seed = '6b1f0c50-0000-4000-8000-00000000002a';
sub digest { my ($database, $table, $cluster) = @_; return sql($database, qq(SELECT * FROM seal_sync.table_digest('$table', '$cluster', '$seed'))) }

for my $database ('one', 'two')
{
	sql($database, qq(CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('$database'), seal_sync.cluster_create('a', '$database'), seal_sync.cluster_create('b', '$database')));
	sql($database, 'CREATE TYPE unused AS ENUM (\'x\', \'y\')') if $database eq 'two'; # other OIDs from here on
	sql($database, q(CREATE TYPE mood AS ENUM ('ok', 'sad'); CREATE TYPE pair AS (x int, y text); CREATE DOMAIN short AS text CHECK (length(value) < 50)));
}
sql('one', <<'SQL');
CREATE TABLE t (id bigint, gone int, cluster_id text NOT NULL, name short, mood mood, pairs pair[], amount numeric, doc jsonb, image bytea, at timestamptz, note text, "größe" int, markup xml, made int GENERATED ALWAYS AS (length(name)) STORED, PRIMARY KEY (id, cluster_id));
ALTER TABLE t DROP COLUMN gone, ALTER image SET STORAGE EXTERNAL;
CREATE TABLE named (code text PRIMARY KEY, cluster_id text, v float8);
SQL
sql('two', <<'SQL');
CREATE TABLE t (at timestamptz, doc jsonb, image bytea, cluster_id text NOT NULL, amount numeric(20, 2), mood mood, name text, pairs pair[], id bigint, "größe" int, markup xml, note text, made int GENERATED ALWAYS AS (2) STORED,
  PRIMARY KEY (id, cluster_id)) PARTITION BY HASH (id);
CREATE TABLE t_0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE t_1 (id bigint NOT NULL, cluster_id text NOT NULL, amount numeric(20, 2), mood mood, name text, pairs pair[], at timestamptz, doc jsonb, image bytea, note text, markup xml, "größe" int, made int GENERATED ALWAYS AS (2) STORED, PRIMARY KEY (id, cluster_id));
ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
ALTER TABLE t ALTER image SET STORAGE MAIN;
CREATE TABLE named (v float8, cluster_id text, code varchar(30) PRIMARY KEY);
SQL
sql('one', <<'SQL');
INSERT INTO t SELECT i, CASE WHEN i % 5 = 0 THEN 'b' ELSE 'a' END, 'M' || chr(252) || 'ller ' || i, CASE i % 3 WHEN 0 THEN 'ok' WHEN 1 THEN 'sad' END::mood,
  ARRAY[ROW(i, 'z' || i)::pair, NULL], round(i / 7.0, 2), jsonb_build_object(chr(228), i, 'bb', jsonb_build_array(1.50, NULL, 'x'), 'c', '{}'::jsonb), decode(repeat(md5(i::text), 2 + i % 300 * (i % 7)), 'hex'), '2026-01-01'::timestamptz + i * interval '1 s',
  CASE WHEN i % 500 = 7 THEN (SELECT string_agg(md5(g::text), chr(223)) FROM generate_series(1, 20000) g) END, i, '<?xml version="1.0" encoding="UTF-8"?><a/>'
  FROM generate_series(1, 2000) i;
INSERT INTO named SELECT 'k' || chr(246) || i, 'a', i / 3.0 FROM generate_series(1, 500) i;
SQL
for my $table ('t', 'named')
{
	my $columns = $table eq 't' ? '(id, cluster_id, name, mood, pairs, amount, doc, image, at, note, "größe", markup)' : '(code, cluster_id, v)';
	my $copy = $node->basedir . "/$table.copy";
	sql('one', "COPY $table $columns TO '$copy' WITH (ENCODING 'UTF8')");
	sql('two', "COPY $table $columns FROM '$copy' WITH (ENCODING 'UTF8')");
	sql($_, "SELECT seal_sync.table_add('$table', 'cluster_id', existing_rows => 'adopt')") for 'one', 'two';
}

subtest 'equal' => sub {
	for (['t', 'a', 1600], ['t', 'b', 400], ['named', 'a', 500], ['named', 'b', 0])
	{
		my ($table, $cluster, $rows) = @$_;
		my $one = digest('one', $table, $cluster);
		like($one, qr/^$rows\|\\x[0-9a-f]{32}\|/, "$table, $cluster: its rows");
		is(digest('two', $table, $cluster), $one, 'the same over there');
	}
	isnt(sql('one', q(SELECT digest FROM seal_sync.table_digest('t', 'a', '00000000-0000-0000-0000-000000000000'))), (split /\|/, digest('one', 't', 'a'))[1], 'another seed, another digest');
};

subtest 'different' => sub {
	my ($a, $b) = (digest('one', 't', 'a'), digest('one', 't', 'b'));
	for my $change ("amount = amount + 0.01", "name = upper(name)", "mood = 'ok'", "mood = NULL", "pairs = pairs[1:1]", "pairs[1].y = 'other'", "doc = doc || '{\"bb\": [1.5, null, \"x\"]}'",
		"image = set_byte(image, 3, get_byte(image, 3) \# 1)", "at = at + interval '1 microsecond'", "note = overlay(note placing '!' from 600001)", "markup = '<b/>'", "id = -id")
	{
		my $row = $change =~ /mood = NULL/ ? 3 : $change =~ /mood/ ? 1 : 7;
		my $digest = sql('two', "BEGIN; UPDATE t SET $change WHERE id = $row; SELECT rows || '|' || digest || '|' || shape FROM seal_sync.table_digest('t', 'a', '$seed'); ROLLBACK");
		isnt($digest, $a, $change);
		is((split /\|/, $digest)[2], (split /\|/, $a)[2], 'of the same shape');
	}
	is(sql('two', "BEGIN; DELETE FROM t WHERE id = 7; SELECT rows FROM seal_sync.table_digest('t', 'a', '$seed'); ROLLBACK"), 1599, 'a row less');
	is(sql('two', "BEGIN; UPDATE t SET amount = 0 WHERE id = 7; SELECT rows || '|' || digest || '|' || shape FROM seal_sync.table_digest('t', 'b', '$seed'); ROLLBACK"), $b, 'the other cluster does not care');
	is(digest('two', 't', 'a'), $a, 'and back');
	my $shape = sql('two', "BEGIN; ALTER TABLE t ALTER at TYPE timestamp; SELECT shape FROM seal_sync.table_digest('t', 'a', '$seed'); ROLLBACK");
	isnt($shape, (split /\|/, $a)[2], 'another type is another shape, not so many different rows');
};

subtest 'refused' => sub {
	my $fails = sub {
		my ($name, $database, $sql, $pattern) = @_;
		my ($rc, $out, $err) = $node->psql($database, $sql);
		like($err, $pattern, $name);
	};
	$fails->('unknown cluster', 'one', "SELECT seal_sync.table_digest('t', 'nothing', '$seed')", qr/cluster "nothing" does not exist/);
	$fails->('not registered', 'one', "CREATE TABLE loose (id int); SELECT seal_sync.table_digest('loose', 'a', '$seed')", qr/table loose is not registered/);
	$fails->('no right to call it', 'one', "CREATE ROLE nobody; SET ROLE nobody; SELECT seal_sync.table_digest('t', 'a', '$seed')", qr/permission denied/);
	$fails->('no right to the table', 'one', "CREATE ROLE reader IN ROLE seal_sync_read_data; GRANT USAGE ON SCHEMA public TO reader; SET ROLE reader; SELECT seal_sync.table_digest('t', 'a', '$seed')", qr/permission denied for table t/);
	$fails->('rows that are hidden', 'one', "GRANT SELECT ON t TO reader; ALTER TABLE t ENABLE ROW LEVEL SECURITY; SET ROLE reader; SELECT seal_sync.table_digest('t', 'a', '$seed')", qr/row security hides rows of table t from role "reader"/);
	# What a snapshot does not see any more is not an empty table, and nothing is waited for
	my $racing = sub {
		my ($name, $ddl, $table, $pattern) = @_;
		my $session = $node->background_psql('two', on_error_stop => 0);
		$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
		my $other = $node->background_psql('two');
		$other->query_safe($ddl);
		$session->query("SET statement_timeout = '60s'; SELECT seal_sync.table_digest('$table', 'a', '$seed')");
		like($session->{stderr}, $pattern, $name);
		$_->quit for $session, $other;
	};
	my $changed = qr/table \w+ or its rules were changed/;
	$racing->('held by DDL', 'BEGIN; ALTER TABLE t ADD COLUMN more int', 't', qr/table t is locked by DDL/);
	$racing->('a partition is held', 'BEGIN; LOCK TABLE t_1 IN ACCESS EXCLUSIVE MODE', 't', $changed);
	$racing->('detached since the snapshot', 'ALTER TABLE t DETACH PARTITION t_1', 't', $changed);
	sql('two', 'ALTER TABLE t ATTACH PARTITION t_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)');
	sql('two', 'CREATE TABLE t_2 (LIKE t_1 INCLUDING ALL); ALTER TABLE t DETACH PARTITION t_1');
	$racing->('attached since', 'ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES WITH (MODULUS 2, REMAINDER 1)', 't', $changed);
	$racing->('truncated', 'TRUNCATE named', 'named', $changed);
};

# An invalidation of a composite type's row is not a change of it
subtest 'the same while others work' => sub {
	my $before = digest('one', 't', 'a');
	my $session = $node->background_psql('one');
	$session->query_safe('CREATE TYPE other AS (i int); CREATE TABLE busy (p other); INSERT INTO busy VALUES (ROW(1))');
	is($session->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT rows || '|' || digest || '|' || shape FROM seal_sync.table_digest('t', 'a', '$seed')"), $before, 'once');
	sql('one', 'ANALYZE t');
	sql('one', "DO \$\$ BEGIN FOR i IN 1 .. 300 LOOP EXECUTE 'CREATE TEMP TABLE many_' || i || ' (p pair)'; END LOOP; END \$\$");
	is($session->query_safe("SELECT rows || '|' || digest || '|' || shape FROM seal_sync.table_digest('t', 'a', '$seed')"), $before, 'and again under the same snapshot');
	$session->quit;
};
done_testing();
