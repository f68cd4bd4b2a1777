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
done_testing();
