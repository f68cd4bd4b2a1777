# Rows with every kind of type, and keys of these types, arrive as they are: from one real server at the other.
#
# Domains, enums, arrays, composites, ranges and multiranges, hstore, citext, json, bit strings, generated and identity
# columns, names that have to be quoted. The owner changes in between. Judge: pg_dump of both sides.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = $SealSync::db;
my ($east, $west) = two_nodes();
my @tables = ('"Siegel 印"."Größe ""1"" 表"', 'keys', 'owned');
$_->safe_psql($db, <<'SQL') for $east, $west;
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE ROLE owner_one; CREATE ROLE owner_two;
SQL
# Types have other OIDs on west: names count, never numbers
$west->safe_psql($db, q(CREATE TYPE first_here AS (x int); CREATE TABLE first_table (x int)));
add_tables(<<'SQL', \@tables, $east, $west);
CREATE DOMAIN amount AS numeric(12, 2) CHECK (VALUE >= 0);
CREATE DOMAIN short_text AS text CHECK (length(VALUE) < 100);
CREATE TYPE mood AS ENUM ('traurig', 'froh', '开心');
CREATE TYPE place AS (x float8, y float8, label text);
CREATE TYPE spot AS (at place, since timestamptz);
CREATE TYPE span AS RANGE (subtype = numeric);
CREATE SCHEMA "Siegel 印";
CREATE TABLE "Siegel 印"."Größe ""1"" 表" (
  "Nr." bigint, cluster_id citext, "Betrag" amount, "Bemerkung" short_text, m mood, ms mood[], pl place, sp spot, pls place[],
  r int4range, rs span, mr int4multirange, h hstore, hs hstore[], ci citext, j json, jb jsonb, b bit varying(20), ip inet, u uuid,
  iv interval, ts timestamptz, t time with time zone, "Bild" bytea, grid int[][], am amount[], x xml, box box, c "char", n name, ba bool,
  f4 float4, f8 float8, d date, money money, ch char(5), vc varchar(7), seen int GENERATED ALWAYS AS IDENTITY,
  twice numeric GENERATED ALWAYS AS ("Betrag" * 2) STORED,
  PRIMARY KEY ("Nr.", cluster_id));
CREATE TABLE keys (k citext, m mood, d amount, r int4range, ts timestamptz, bi bytea, c char(4), u uuid, cluster_id short_text, v text,
  PRIMARY KEY (k, m, d, r, ts, bi, c, u, cluster_id));
CREATE TABLE owned (id int PRIMARY KEY, cluster_id text, v text);
ALTER TABLE owned OWNER TO owner_one;
SQL

$east->safe_psql($db, <<'SQL');
INSERT INTO "Siegel 印"."Größe ""1"" 表" VALUES
  (1, 'a', 10.50, 'größer', '开心', '{froh,"开心",NULL}', '(1.5,-0,"a ""quoted"" (label)")', ROW(ROW(1e300, 'NaN', NULL), '2024-02-29 12:00+08'), ARRAY[ROW(1,2,'x')::place, NULL],
   '[1,5)', '(0.5,)', '{[1,3),[7,9)}', 'a=>1, b=>NULL, "c d"=>"\"x\""', ARRAY['k=>v'::hstore], 'MiXeD', '{"a":  [1, "ä"]}', '{"a": [1, "印"]}', B'10110', '10.0.0.1/8',
   'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '1 year -3 days 04:05:06.7', 'infinity', '23:59:59.999+14', '\x00ff0a5c', '{{1,2},{NULL,4}}', '{1,2.25}', '<a b="c">d</a>',
   '(1,1),(0,0)', E'\'', 'name', true, 1.1, 1e-320, '4713-01-01 BC', 12.34, 'ab', 'varchar'),
  (2, 'a', NULL, NULL, NULL, '{}', NULL, NULL, NULL, 'empty', NULL, NULL, NULL, NULL, '', 'null', 'null', NULL, NULL, NULL, NULL, NULL, NULL, '', '[0:1]={5,6}', NULL, NULL, NULL, NULL, '', NULL, 'NaN', '-Infinity', NULL, NULL, '', '');
INSERT INTO keys SELECT 'Key' || i, (enum_range(NULL::mood))[1 + i % 3], i, int4range(i, i + 10), '2024-01-01'::timestamptz + i * interval '1 h', decode(md5(i::text), 'hex'), 'c' || i % 10,
  md5(i::text)::uuid, 'a', 'v' FROM generate_series(1, 200) i;
INSERT INTO owned VALUES (1, 'a', 'first');
SQL
wait_for_sync($east);
dumps_equal('inserted', [ $east, $west ], '"Siegel 印".*', 'keys', 'owned');
is($east->safe_psql($db, 'SELECT count(*) FROM seal_sync.held'), '0', 'nothing is refused or parked');

$east->safe_psql($db, <<'SQL');
UPDATE "Siegel 印"."Größe ""1"" 表" SET "Betrag" = 99, m = 'traurig', h = h || 'new=>1', pl.label = 'changed', r = r * '[2,4)' WHERE "Nr." = 1;
UPDATE keys SET v = 'changed', k = upper(k) WHERE d < 50;
UPDATE keys SET m = 'froh', r = r + '[0,1000)' WHERE d BETWEEN 50 AND 60;
DELETE FROM keys WHERE d > 150;
SQL
wait_for_sync($east);
dumps_equal('updated and deleted', [ $east, $west ], '"Siegel 印".*', 'keys');

# ---- the owner changes, on either side

$_->safe_psql($db, 'REASSIGN OWNED BY owner_one TO owner_two') for $east, $west;
$east->safe_psql($db, q(SET ROLE owner_two; UPDATE owned SET v = 'second'; INSERT INTO owned VALUES (2, 'a', 'new owner')));
wait_for_sync($east);
dumps_equal('after REASSIGN OWNED', [ $east, $west ], 'owned');
$_->safe_psql($db, 'DROP ROLE owner_one; DROP OWNED BY owner_two; DROP ROLE owner_two') for $east, $west;
is($_->safe_psql($db, q(SELECT (SELECT count(*) FROM seal_sync.table_rule), (SELECT count(*) FROM seal_sync.table_state))), '2|2',
	$_->name . ': a table that went with its owner is forgotten') for $east, $west;

# ---- DROP EXTENSION needs no CASCADE

for my $node ($east, $west)
{
	$node->safe_psql($db, 'DROP EXTENSION seal_sync');
	is($node->safe_psql($db, q(SELECT (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal), (SELECT count(*) FROM pg_event_trigger),
	  (SELECT count(*) FROM pg_namespace WHERE nspname = 'seal_sync'), (SELECT count(*) FROM pg_foreign_server))), '0|0|0|0', $node->name . ': nothing is left')
}
done_testing();
