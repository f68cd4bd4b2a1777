# A physical standby has no workers; promoted, it goes on where the primary was.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(init => { allows_streaming => 1 });
add_tables('CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))', ['t'], $east, $west);
$east->safe_psql('postgres', q(INSERT INTO t VALUES (1, 'a', 'before')));
wait_for_sync($east);

$east->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($east, 'base', has_streaming => 1);
$standby->start;
$east->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'seal_sync%')), 0,
	'no workers on a physical standby');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM t'), 1, 'and it can be read');

$east->safe_psql('postgres', q(INSERT INTO t VALUES (2, 'a', 'shipped')));
wait_for_sync($east);
$east->safe_psql('postgres', q(SELECT seal_sync.pause('west', 'so that something is left to do')));
wait_for_state($east, 'west', 'paused');
$east->safe_psql('postgres', q(INSERT INTO t VALUES (3, 'a', 'not shipped yet')));
$east->wait_for_catchup($standby, 'replay');
$east->stop('immediate');

$standby->promote;
wait_for_workers($standby, 1, 'launcher', undef, 'the launcher starts with the promotion');
wait_for_workers($standby, 1, 'route worker', 'postgres', 'and the rest follows');
$standby->safe_psql('postgres', q(SELECT seal_sync.resume('west')));
$standby->safe_psql('postgres', q(INSERT INTO t VALUES (4, 'a', 'after')));
wait_for_sync($standby);
dumps_equal('all rows are on the peer', [ $standby, $west ], 't');
wait_for_state($standby, 'west', 'streaming');

done_testing();
