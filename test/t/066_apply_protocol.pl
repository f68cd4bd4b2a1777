# What the receiver promises a sender beyond single messages: whose connection it is, that an answer never holds locks, that
# refusals end however many hang on each other, and that what a peer says about time is not simply believed.
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
sql(q(
CREATE EXTENSION seal_sync;
CREATE ROLE sync_in LOGIN IN ROLE seal_sync_peer;
CREATE ROLE sync_other LOGIN IN ROLE seal_sync_peer;
SELECT seal_sync.node_create('west');
CREATE SERVER east FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nowhere', port '1', dbname 'postgres');
CREATE USER MAPPING FOR seal_sync_worker SERVER east OPTIONS (user 'sync_in', password 'pw');
SELECT seal_sync.peer_create('east');
SELECT seal_sync.cluster_create('a', primary_node => 'east'), seal_sync.cluster_create('b', primary_node => 'west');
));
my $east = SealWire->new($west, user => 'sync_in');
my ($got, $before);

# ---- the login of the first contact ---------------------------------------------------------------------
is($east->hello(generation => 2**63 - 1)->{problem}{sqlstate}, 'SSW04', 'a generation that has no next one');
is($east->hello(generation => '18446744073709551615')->{problem}{sqlstate}, 'SSW04', 'nor this');
is(sql('SELECT count(*) FROM seal_sync.origin'), 0, 'nothing is known from that');
is($east->hello->{problem}{sqlstate}, '', 'the first contact');
$east->heartbeat;
my $other = SealWire->new($west, user => 'sync_other', generation => $east->{generation});
$got = $other->hello;
is($got->{problem}{sqlstate}, 'SSW04', 'another login with the same token') or diag explain $got;
is($got->{problem}{message}, 'node "east" has logged in as role "sync_other", not as role "sync_in"', 'message');
is($got->{problem}{hint}, q(Correct the user mapping on node "east". If the role was changed on purpose, call seal_sync.peer_drop('east') and seal_sync.peer_create('east') on node "west", then the same for 'west' on node "east".), 'hint');
is($other->hello(generation => 1_000_000)->{problem}{sqlstate}, 'SSW04', 'with a generation of the future');
is($east->heartbeat->{error}, undef, 'the first connection is left alone');
is(sql('SELECT generation_issued, login FROM seal_sync.origin'), '1|sync_in', 'nothing has changed');
is($east->hello(generation => 2**63 - 1)->{problem}{sqlstate}, 'SSW04', 'the last generation is not taken later either');
sql(q(SELECT seal_sync.peer_drop('east')));
is($east->heartbeat->{error}, 'SSW07', 'the peer is dropped');
sql(q(SELECT seal_sync.peer_create('east')));
is($other->hello->{problem}{sqlstate}, '', 'now the other login may introduce itself');
is($other->heartbeat->{error}, undef, 'and speak');
is(sql('SELECT login FROM seal_sync.origin'), 'sync_other', 'it is the one from then on');
$east = SealWire->new($west, user => 'sync_in', generation => $other->{generation});
is($east->hello->{problem}{sqlstate}, 'SSW04', 'the first one is not any more');
$east = $other;

done_testing();
