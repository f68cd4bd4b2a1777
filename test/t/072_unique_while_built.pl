# A unique index that is being built concurrently takes entries before anybody has looked whether the rows that stand there
# are unique in it. What apply writes must be checked against it even where an update leaves the value as it was: the
# build believes entries that it finds.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

my $node = receiver();
sub sql { return $node->safe_psql('postgres', $_[0]) }
sql(q(
CREATE TABLE t (id int PRIMARY KEY, u int, x int);
CREATE INDEX ON t (x); -- so that its updates make index entries
SELECT seal_sync.table_add('t', cluster => 'a');
));
my $sender = SealWire->new($node, user => 'sync_in');
$sender->hello;
$sender->describe('public.t', [ [qw(id int4 F 4 1)], [qw(u int4 F 4)], [qw(x int4 F 4)] ]);
sub t { return $sender->whole('public.t', [@_]) }
is($sender->batch(t([ 1, 10, 1 ], [ 2, 10, 1 ], [ 3, 30, 1 ]))->{inserted}, 3, 'rows, two of them with one value');

# The state between the two passes of CREATE UNIQUE INDEX CONCURRENTLY, when row 2 was written meanwhile by a transaction
# that did not know of the index: ready for inserts, not valid yet.
sql(q(
CREATE INDEX built ON t (u);
UPDATE pg_index SET indisunique = true, indisvalid = false WHERE indexrelid = 'built'::regclass;
));
is(sql(q(SELECT indisready AND NOT indisvalid FROM pg_index WHERE indexrelid = 'built'::regclass)), 't', 'an index is being built');
my $got = $sender->batch(t([ 2, 10, 2 ], [ 3, 30, 2 ]));
is_deeply([ map { @$_{qw(sqlstate constraint)} } @{ $got->{refused} } ], [ '23505', 'built' ], 'the row that stands twice is refused, as core would')
  or diag explain $got;
is(sql('SELECT string_agg(id || $$:$$ || x, $$ $$ ORDER BY id) FROM t'), '1:1 2:1 3:2', 'the other is written');

# Once it is valid, the check is left out again, and changes are checked as ever
sql(q(UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'built'::regclass));
is($sender->batch(t([ 3, 30, 3 ]))->{updated}, 1, 'an update that leaves the value as it was');
is($sender->batch(t([ 3, 10, 4 ]))->{refused}[0]{sqlstate}, '23505', 'one that does not');
$sender->close;
done_testing();
