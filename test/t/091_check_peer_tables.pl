# check(): clusters and tables that do not fit those of the peer, each provoked, found with message and hint, and repaired.
use strict;
use warnings;
use lib 'test/perl';
use SealCheck;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(conf => "fsync = on\nseal_sync.max_log_size = '1MB'\nseal_sync.debug_rotation_period = '100ms'");
add_tables(q(CREATE TABLE t (id int, cluster_id text, v text, n int, PRIMARY KEY (id, cluster_id), UNIQUE (n, cluster_id));
  CREATE TABLE wide (id text PRIMARY KEY, cluster_id text)), [ 't', 'wide' ], $east, $west);
$east->safe_psql('postgres', q(INSERT INTO t VALUES (1, 'a', 'x', 1)));
wait_for_sync($east);
all_well($east, 'a fresh pair');
sub on_west { my ($sql) = @_; return sub { $west->safe_psql('postgres', $sql) } }
sub on_both { my ($sql) = @_; return sub { $_->safe_psql('postgres', $sql) for $east, $west } }

# Clusters
finds($east, 'cluster_undeclared', qr/cluster "c" is not declared at peer "west"/, qr/On node "west": SELECT seal_sync.cluster_create\('c', primary_node => 'east'\)/,
	q(SELECT seal_sync.cluster_create('c', primary_node => 'east')), on_west(q(SELECT seal_sync.cluster_create('c', primary_node => 'east'))));
finds($east, 'cluster_undeclared_here', qr/cluster "d" of peer "west" is not declared here/, qr/cluster_create\('d', primary_node => 'west'\)/,
	on_west(q(SELECT seal_sync.cluster_create('d', primary_node => 'west'))), q(SELECT seal_sync.cluster_create('d', primary_node => 'west')));
finds($east, 'cluster_primary_differs', qr/"e" has its primary on node "east" here, on node "west" at peer "west"/, qr/Only one node/, sub {
	$east->safe_psql('postgres', q(SELECT seal_sync.cluster_create('e', primary_node => 'east')));
	$west->safe_psql('postgres', q(SELECT seal_sync.cluster_create('e', primary_node => 'west')));
}, on_both(q(SELECT seal_sync.cluster_drop('e'))));
finds($east, 'cluster_values_differ', qr/"c" has other match values at peer "west"/, qr/cluster_alter/, on_west(q(SELECT seal_sync.cluster_alter('c', add_values => '{C}'))),
	q(SELECT seal_sync.cluster_alter('c', add_values => '{C}')));

# Tables and columns
finds($east, 'table_unregistered', qr/table public.u is not registered at peer "west"/, qr/On node "west": create it.*table_add\('public.u'/,
	q(CREATE TABLE u (id int, cluster_id text, PRIMARY KEY (id, cluster_id)); SELECT seal_sync.table_add('u', cluster_column => 'cluster_id')),
	on_west(q(CREATE TABLE u (id int, cluster_id text, PRIMARY KEY (id, cluster_id)); SELECT seal_sync.table_add('u', cluster_column => 'cluster_id'))));
finds($east, 'table_unregistered_here', qr/table public.w of peer "west" is not registered here/, qr/table_add\('public.w'/,
	on_west(q(CREATE TABLE w (id int, cluster_id text, PRIMARY KEY (id, cluster_id)); SELECT seal_sync.table_add('w', cluster_column => 'cluster_id'))), on_west('DROP TABLE w'));
finds($east, 'table_rule_differs', qr/takes its cluster from column "cluster_id" here, from the constant "a" at peer "west"/, qr/add it again/,
	on_west(q(SELECT seal_sync.table_remove('u'), seal_sync.table_add('u', cluster => 'a'))), on_west(q(SELECT seal_sync.table_remove('u'), seal_sync.table_add('u', cluster_column => 'cluster_id'))));
finds($east, 'column_missing', qr/column "more" of table public.t does not exist at peer "west"/, qr/On node "west": ALTER TABLE public.t ADD COLUMN more numeric\(5,2\)/,
	'ALTER TABLE t ADD COLUMN more numeric(5,2)', on_west('ALTER TABLE t ADD COLUMN more numeric(5,2)'));
finds($east, 'column_required', qr/column "must" of table public.u exists only at peer "west"/, qr/SET DEFAULT/, on_west('ALTER TABLE u ADD COLUMN must int NOT NULL'), on_west('ALTER TABLE u DROP COLUMN must'));
finds($east, 'column_type_differs', qr/column "v" of table public.t is of type text here, of type character varying\(3\)/, qr/ALTER COLUMN v TYPE text/,
	on_west('ALTER TABLE t ALTER COLUMN v TYPE varchar(3)'), on_west('ALTER TABLE t ALTER COLUMN v TYPE text'));
finds($east, 'column_not_null', qr/may be null here, but not at peer "west"/, qr/SET NOT NULL here, or DROP NOT NULL on node "west"/,
	on_west('ALTER TABLE t ALTER COLUMN v SET NOT NULL'), on_west('ALTER TABLE t ALTER COLUMN v DROP NOT NULL'));
finds($east, 'column_generated', qr/is generated only at peer "west"/, qr/on both, or on none/, sub {
	$east->safe_psql('postgres', 'ALTER TABLE t ADD COLUMN g int');
	$west->safe_psql('postgres', 'ALTER TABLE t ADD COLUMN g int GENERATED ALWAYS AS (n * 2) STORED');
}, on_both('ALTER TABLE t DROP COLUMN g'));
finds($east, 'unique_only_there', qr/columns \["v"\] of table public.t are unique at peer "west", but not here/, qr/on both nodes/,
	on_west('CREATE UNIQUE INDEX v_key ON t (v)'), on_west('DROP INDEX v_key'));
my $make = q(CREATE TABLE k (id int NOT NULL, cluster_id text NOT NULL, PRIMARY KEY (%s)); SELECT seal_sync.table_add('k', cluster_column => 'cluster_id'));
finds($east, 'primary_key_differs', qr/primary key of table public.k has other columns at peer "west"/, qr/same primary key/, sub {
	$east->safe_psql('postgres', sprintf $make, 'id');
	$west->safe_psql('postgres', sprintf $make, 'id, cluster_id');
}, on_both('DROP TABLE k'));

# The default of a key came after the table was registered: table_add does not see it
finds($east, 'key_collision', qr/primary key of table public.s collides: column "id" takes numbers from sequence public\.s_seq here and from public\.s_seq at peer "west"/,
	qr/SELECT seal_sync\.sequence_split\('public\.s_seq'\)/, on_both(q(CREATE TABLE s (id bigint PRIMARY KEY, cluster_id text); SELECT seal_sync.table_add('s', cluster_column => 'cluster_id');
	  CREATE SEQUENCE s_seq; ALTER TABLE s ALTER COLUMN id SET DEFAULT nextval('s_seq'))), on_both(q(SELECT seal_sync.sequence_split('s_seq'))));

# Collations: the same name for two things. Only with ICU
SKIP: {
	skip 'no ICU', 2 unless $east->safe_psql('postgres', q(SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i')) eq 't';
	my $collation = q(CREATE COLLATION same (provider = icu, locale = 'und-u-ks-level2', deterministic = %s); CREATE TABLE c (id text COLLATE same PRIMARY KEY, cluster_id text);
	  SELECT seal_sync.table_add('c', cluster_column => 'cluster_id'));
	finds($east, 'collation_differs', qr/column "id" of a unique key of table public.c is compared by .*public.same.*here, by .*not deterministic at peer "west"/, qr/Use the same collation/, sub {
		$east->safe_psql('postgres', sprintf $collation, 'true');
		$west->safe_psql('postgres', sprintf $collation, 'false');
	}, on_both('DROP TABLE c; DROP COLLATION same'));
}

# What is refused, parked or waits, once rows are on their way
finds($east, 'quarantined_keys', qr/1 keys are refused by peer "west"/, qr/quarantine_retry/, sub {
	$west->safe_psql('postgres', q(ALTER TABLE t ADD CONSTRAINT small CHECK (n < 100)));
	$east->safe_psql('postgres', q(INSERT INTO t VALUES (2, 'a', 'y', 1000)));
}, sub { $west->safe_psql('postgres', 'ALTER TABLE t DROP CONSTRAINT small'); $east->safe_psql('postgres', 'SELECT seal_sync.quarantine_retry()') });
finds($east, 'table_parked', qr/1 keys wait for peer "west".*column "late" does not exist there/, qr/ADD COLUMN late/, q(ALTER TABLE t ADD COLUMN late int; UPDATE t SET late = 1 WHERE id = 1),
	on_west('ALTER TABLE t ADD COLUMN late int'));
finds($east, 'table_waiting_peer', qr/keys wait for peer "west"/, qr/add it there with seal_sync.table_add/, q(CREATE TABLE x (id int PRIMARY KEY, cluster_id text); SELECT seal_sync.table_add('x', cluster_column => 'cluster_id');
	INSERT INTO x VALUES (1, 'a')), on_west(q(CREATE TABLE x (id int PRIMARY KEY, cluster_id text); SELECT seal_sync.table_add('x', cluster_column => 'cluster_id'))));
finds($east, 'cluster_waiting_peer', qr/keys wait until peer "west" declares the cluster/, qr/cluster_create\('z', primary_node => 'east'\)/,
	q(SELECT seal_sync.cluster_create('z', primary_node => 'east'); INSERT INTO x VALUES (2, 'z')), on_west(q(SELECT seal_sync.cluster_create('z', primary_node => 'east'))));

# The log near its limit, and tables that are not recorded any more
finds($east, 'change_log_size', qr/the change log has .* of at most 1024 kB/, qr/does not take its changes/, q(SELECT seal_sync.pause('west', 'to fill the log');
	INSERT INTO wide SELECT repeat('k', 150) || i, 'a' FROM generate_series(1, 12000) i));
wait_until($east, q(SELECT count(*) FROM seal_sync.events WHERE event = 'log_full'), '1', 'the log is full');
# The mark goes with the log, and is told once the peer has come to it. The log has no room before it is emptied
finds($east, 'table_dirty', qr/changes of the table were not recorded: the change log was full/, qr/shipped again by themselves/,
	q(INSERT INTO wide VALUES ('not logged', 'a'); SELECT seal_sync.resume('west')), set_and_reload($east, 'seal_sync.resend_window', "'0'"));
wait_for_sync($east);
dumps_equal('nothing of it is lost', [ $east, $west ], 'wide');
set_and_reload($east, 'seal_sync.resend_window')->();

# Rules there
finds($east, 'peer_guard', qr/guard is off at peer "west"/, qr/to refuse there/, set_and_reload($west, 'seal_sync.guard', 'off'), set_and_reload($west, 'seal_sync.guard'));
finds($east, 'peer_ships_nothing', qr/node "west" ships nothing: seal_sync.enabled is off there/, qr/health on node "west"/, set_and_reload($west, 'seal_sync.enabled', 'off'), set_and_reload($west, 'seal_sync.enabled'));
finds($east, 'peer_read_only', qr/applications cannot write there/, qr/RESET/, on_west('ALTER DATABASE postgres SET default_transaction_read_only = on'),
	on_west('SET default_transaction_read_only = off; ALTER DATABASE postgres RESET default_transaction_read_only'));
finds($east, 'peer_library', qr/at peer "west" the library is of version/, qr/ALTER EXTENSION seal_sync UPDATE/, on_west(q(UPDATE pg_extension SET extversion = '99.1' WHERE extname = 'seal_sync')),
	on_west(q(UPDATE pg_extension SET extversion = seal_sync.version() WHERE extname = 'seal_sync')));
finds($east, 'peer_older', qr/of an older version, which does not tell/, qr/Update the extension there/, on_west('ALTER FUNCTION seal_sync.wire_facts() RENAME TO wire_facts_later'),
	on_west('ALTER FUNCTION seal_sync.wire_facts_later() RENAME TO wire_facts'));

# A peer that answers nonsense is a finding, whatever it says
for my $nonsense ('[]', '{"tables": 7, "clusters": [1]}', '"', '{"preloaded": "perhaps"}')
{
	$west->safe_psql('postgres', qq(CREATE OR REPLACE FUNCTION public.nonsense() RETURNS text LANGUAGE sql AS \$\$SELECT '$nonsense'\$\$;
	  ALTER FUNCTION seal_sync.wire_facts() RENAME TO wire_facts_true; ALTER FUNCTION public.nonsense() RENAME TO wire_facts; ALTER FUNCTION public.wire_facts() SET SCHEMA seal_sync;));
	ok($east->safe_psql('postgres', 'SELECT count(*) > 0 FROM seal_sync.check()') eq 't', "survives $nonsense");
	$west->safe_psql('postgres', 'ALTER FUNCTION seal_sync.wire_facts() RENAME TO nonsense; ALTER FUNCTION seal_sync.nonsense() SET SCHEMA public; ALTER FUNCTION seal_sync.wire_facts_true() RENAME TO wire_facts');
}
all_well($east, 'at the end');
done_testing();
