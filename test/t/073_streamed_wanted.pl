# A batch that is applied while it arrives ends with the first chunk that wants whole rows: nobody can send them before its
# end, and until then its rows would be locked and every wanted key be noted in memory, for nothing.
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
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT seal_sync.table_add('t', cluster => 'a');
));
my $sender = SealWire->new($node, user => 'sync_in');
$sender->hello;
$sender->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T)] ]);
is($sender->batch($sender->whole('public.t', [ [ 1, 'one' ] ]))->{inserted}, 1, 'a row');

my $it = $sender->begin;
is($sender->put($sender->partial('public.t', [qw(id v)], [ [ 1, 'changed' ] ]))->{error}, undef, 'a chunk whose row is there');
is($sender->put($sender->partial('public.t', [qw(id v)], [ [ 2, 'absent' ] ]))->{error}, 'SSW01', 'one whose row is not');
is(sql(q(SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass)), 0, 'nothing is locked any more');
$sender->sql('ROLLBACK');
$sender->put({ rows => 0, bytes => '' });
is($sender->batch($sender->whole('public.t', [ [ 2, 'two' ] ]))->{inserted}, 1, 'the next batch is a fresh one');
is(sql('SELECT string_agg(v, $$ $$ ORDER BY id) FROM t'), 'one two', 'and nothing of the other has stayed');
$sender->close;
done_testing();
