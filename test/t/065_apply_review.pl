# Apply under attack and under pressure: code of a table's owner runs as the owner only, DDL waits for the whole batch,
# deferred triggers, tables described over and over, generated unique columns that swap, refusals with long texts.
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
done_testing();
