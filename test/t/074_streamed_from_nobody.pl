# A peer that is dropped while a batch of it streams in: the batch does not commit, and leaves no progress behind that a peer
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

my $node = one_node('wire');
sub sql { return $node->safe_psql('postgres', $_[0]) }
sql(q(
CREATE EXTENSION seal_sync;
CREATE ROLE sync_in LOGIN IN ROLE seal_sync_peer;
SELECT seal_sync.node_create('west');
CREATE SERVER east FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nowhere', port '1', dbname 'postgres');
CREATE USER MAPPING FOR seal_sync_worker SERVER east OPTIONS (user 'sync_in', password 'pw');
SELECT seal_sync.peer_create('east');
SELECT seal_sync.cluster_create('a', primary_node => 'east');
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT seal_sync.table_add('t', cluster => 'a');
));
my $sender = SealWire->new($node, user => 'sync_in');
$sender->hello;
$sender->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T)] ]);
is($sender->batch($sender->whole('public.t', [ [ 1, 'one' ] ]))->{inserted}, 1, 'a batch');
my $it = $sender->begin;
is($sender->put($sender->whole('public.t', [ [ 2, 'two' ] ]))->{error}, undef, 'another streams');
is($node->psql('postgres', q(SET lock_timeout = '300ms'; SELECT seal_sync.peer_drop('east'))), 0, 'the peer is dropped');
my $got = $sender->apply(%$it, streamed => 1, chunks => 1, rows => 1);
is($got->{error}, 'SSW07', 'its batch is not applied') or diag explain $got;
is(sql('SELECT count(*) FROM t'), 1, 'and its rows are not there');
$sender->close;
done_testing();
