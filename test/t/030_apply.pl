# Batches through the wire functions of one node, the sender played by test/perl/SealWire.pm.
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
SELECT seal_sync.node_create('west');
INSERT INTO seal_sync.peer (peer, server) VALUES ('east', 'east');
SELECT seal_sync.cluster_create('a', primary_node => 'east'), seal_sync.cluster_create('b', primary_node => 'west');
CREATE TABLE t (id int PRIMARY KEY, v text, n int);
SELECT seal_sync.table_add('t', cluster => 'a');
));

my $east = SealWire->new($west);
my $hello = $east->hello;
is($hello->{problem}{sqlstate}, '', 'hello is accepted') or diag explain $hello;
is($hello->{node}, 'west', 'the answer names the node');
is($hello->{generation}, 1, 'a generation is issued');
is($hello->{clusters}{a}{verdict}, 0, 'the cluster is accepted');
my @t = ([qw(id int4 F 4 1)], [qw(v text T)], [qw(n int4 F 4)]);
my $fit = $east->describe('public.t', \@t);
is($fit->{problem}{sqlstate}, '', 'the table fits') or diag explain $fit;

my $got = $east->batch($east->whole('public.t', [ [ 1, 'one', 10 ], [ 2, 'two', undef ], [ 3, undef, 30 ] ]));
is($got->{inserted}, 3, 'three rows inserted') or diag explain $got;
is(sql('SELECT string_agg(t::text, \' \' ORDER BY id) FROM t'), '(1,one,10) (2,two,) (3,,30)', 'they are there');
done_testing();
