# A peer that is to be dropped while a batch of it streams in: one waits for the other, and nothing is left behind that a peer
# of the same name would be compared with later.
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
is($sender->batch($sender->whole('public.t', [ [ 1, 'one' ] ]))->{inserted}, 1, 'a batch');
my $it = $sender->begin;
is($sender->put($sender->whole('public.t', [ [ 2, 'two' ] ]))->{error}, undef, 'another streams');
isnt($node->psql('postgres', q(SET lock_timeout = '300ms'; SELECT seal_sync.peer_drop('east'))), 0, 'the peer cannot be dropped now');
my $got = $sender->apply(%$it, streamed => 1, chunks => 1, rows => 1);
is($got->{inserted}, 1, 'the batch ends') or diag explain $got;
is($node->psql('postgres', q(SELECT seal_sync.peer_drop('east'))), 0, 'then the peer can');
is($sender->begin->{error}, 'SSW07', 'and begins no other');
is(sql(q(SELECT count(*) FROM seal_sync.origin)), 0, 'nothing is left of it');
is(sql('SELECT count(*) FROM t'), 2, 'but its rows');
$sender->close;
done_testing();
