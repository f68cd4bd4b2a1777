# ALTER EXTENSION … UPDATE while the node works, and a library that is older or newer than the SQL. The next version is made here,
# in an installation of the test's own.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my ($path, $scripts) = own_installation('next');
my ($now) = slurp_file("$scripts/seal_sync.control") =~ /default_version = '(.*)'/;
append_to_file("$scripts/seal_sync--$now--99.0.sql", <<'SQL');
ALTER TABLE seal_sync.local_node ADD COLUMN something text DEFAULT 'new';
ALTER TABLE seal_sync.event ADD COLUMN something text;
CREATE FUNCTION seal_sync.something() RETURNS text LANGUAGE sql AS $$ SELECT 'next'::text $$;
SQL
append_to_file("$scripts/seal_sync--99.0--99.1.sql", <<'SQL');
ALTER TABLE seal_sync.event DROP COLUMN something;
CREATE FUNCTION seal_sync.of_a_newer_library() RETURNS text LANGUAGE C AS 'MODULE_PATHNAME', 'seal_sync_of_a_newer_library';
SQL

my @node = (one_node('east', install_path => $path), one_node('west'));
for my $node (@node)
{
	$node->safe_psql($db, "CREATE EXTENSION seal_sync; SELECT seal_sync.node_create('" . $node->name . "'); CREATE ROLE sync_in LOGIN PASSWORD 'pw' IN ROLE seal_sync_peer");
}
my ($east, $west) = @node;
add_peer($east, $west);
add_peer($west, $east);
$_->safe_psql($db, q(SELECT seal_sync.cluster_create('a', primary_node => 'east'), seal_sync.cluster_create('b', primary_node => 'west'))) for @node;
add_tables('CREATE TABLE t (id int PRIMARY KEY, cluster_id text, v text)', ['t'], @node);
is($east->safe_psql($db, 'SELECT seal_sync.version()'), $now, "version $now");
is($east->safe_psql($db, q(SELECT count(*) FROM seal_sync.health WHERE code = 'library_version')), 0, 'library and SQL are of one version');

# While it works, with a write in the middle
my $writer = $east->background_psql($db);
$writer->query_safe(q(BEGIN; INSERT INTO t VALUES (1, 'a', 'begun before the update')));
$east->safe_psql($db, q(ALTER EXTENSION seal_sync UPDATE TO '99.0'));
$writer->query_safe(q(INSERT INTO t VALUES (2, 'a', 'within'); COMMIT));
$writer->quit;
$east->safe_psql($db, q(INSERT INTO t VALUES (3, 'a', 'after')));
$west->safe_psql($db, q(INSERT INTO t VALUES (4, 'b', 'from west')));
wait_for_sync($_) for @node;
dumps_equal('an update to the next version disturbs nothing', \@node, 't');
is($east->safe_psql($db, 'SELECT seal_sync.something()'), 'next', 'the new function is there');
is($east->safe_psql($db, q(SELECT severity, message FROM seal_sync.health WHERE code = 'library_version')),
	"warning|the library is of version $now, the extension of 99.0", 'a library that is older than the SQL is told');
is($east->safe_psql($db, q(SELECT message FROM seal_sync.peer_check('west') WHERE step = 'extension')), $now, 'west has its own version');
is($west->safe_psql($db, q(SELECT message FROM seal_sync.peer_check('east') WHERE step = 'extension')), '99.0', 'and sees that of east');

# What a script needs that this library does not have
my ($rc, $out, $err) = $east->psql($db, q(ALTER EXTENSION seal_sync UPDATE TO '99.1'));
like($err, qr/could not find function "seal_sync_of_a_newer_library"/, 'an update that needs a newer library is refused');
is($east->safe_psql($db, q(SELECT extversion FROM pg_extension WHERE extname = 'seal_sync')), '99.0', 'as a whole');
$east->restart;
$east->safe_psql($db, q(INSERT INTO t VALUES (5, 'a', 'after a restart'); SELECT seal_sync.pause('west', 'calls work'); SELECT seal_sync.resume('west')));
wait_for_sync($east);
dumps_equal('the node goes on', \@node, 't');

done_testing();
