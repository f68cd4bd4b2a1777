# A cluster or a table that is declared on the peer while the route is talking: noticed, and what waited arrives.
#
# Many rounds, because what matters is a moment: the route says hello while the peer commits the declaration.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes();
wait_for_state($east, 'west', 'streaming');
for my $round (1 .. 15)
{
	my $ddl = "CREATE TABLE t$round (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))";
	$_->safe_psql('postgres', "$ddl; SELECT seal_sync.table_add('t$round', cluster_column => 'cluster_id', existing_rows => 'adopt')")
	  for $east, $west;
	# both at once: the route says hello because of the one while the other commits
	my @session = map { $_->background_psql('postgres') } $east, $west;
	$session[0]->query_safe("SELECT seal_sync.cluster_create('c$round', primary_node => 'east')");
	$east->safe_psql('postgres', "INSERT INTO t$round VALUES (1, 'c$round', 'early')") if $round % 3 == 0;
	$session[1]->query_safe("SELECT seal_sync.cluster_create('c$round', primary_node => 'east')");
	$_->quit for @session;
	$east->safe_psql('postgres', "INSERT INTO t$round VALUES (2, 'c$round', 'late')");
	$west->poll_query_until('postgres', "SELECT count(*) = " . ($round % 3 == 0 ? 2 : 1) . " FROM t$round")
	  or last;
	pass("round $round");
}
wait_for_state($east, 'west', 'streaming');

$_->safe_psql('postgres', q(CREATE TABLE late (id int, cluster_id text, PRIMARY KEY (id, cluster_id));
  SELECT seal_sync.table_add('late', cluster_column => 'cluster_id', existing_rows => 'adopt'))) for $east, $west;

# What is declared here while the peer answers a hello has not been claimed by it: the next hello does.
$west->safe_psql('postgres', q(SELECT seal_sync.cluster_create('d', primary_node => 'east'), seal_sync.cluster_create('e', primary_node => 'east')));
my $busy = $west->background_psql('postgres');
$busy->query_safe(q(BEGIN; SELECT seal_sync.peer_drop('east'))); # no hello of east is answered meanwhile
$east->safe_psql('postgres', q(SELECT seal_sync.cluster_create('d', primary_node => 'east')));
wait_until($west, q(SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.query ~ 'wire_hello'), 't', 'a hello waits');
$east->safe_psql('postgres', q(SELECT seal_sync.cluster_create('e', primary_node => 'east')));
$busy->query_safe('ROLLBACK');
$busy->quit;
$east->safe_psql('postgres', q(INSERT INTO late VALUES (1, 'd'), (2, 'e')));
wait_for_sync($east);
dumps_equal('a cluster declared during a hello', [ $east, $west ], 'late');
done_testing();
