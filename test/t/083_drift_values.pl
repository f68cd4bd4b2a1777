# What DDL does to the rows of a table: no row trigger fires, and yet the peer has the same values afterwards, though no
# row changes any more. Rewrites with new values on either side, columns that come with a default, that are made on
# both sides with different ones, that are dropped and made again, a table that is made anew; also while the route is down.
# Judge: pg_dump.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $db = $SealSync::db;
my ($east, $west) = two_nodes(conf => "seal_sync.debug_rotation_period = '100ms'\nseal_sync.debug_stage_copies = on");
my @column = ('id int', 'cluster_id text', 'v text', 'n int', 'img text', 'PRIMARY KEY (id, cluster_id)');

# name => [DDL on east, DDL on west], in this order
my %change = (
	fast_default => [ q(ALTER TABLE %s ADD COLUMN c text DEFAULT 'new'), 'ALTER TABLE %s ADD COLUMN c text' ],
	volatile_default => [ 'ALTER TABLE %s ADD COLUMN c float8 DEFAULT random()', 'ALTER TABLE %s ADD COLUMN c float8 DEFAULT random()' ],
	other_default => [ q(ALTER TABLE %s ADD COLUMN c text DEFAULT 'of east', ADD COLUMN d text), q(ALTER TABLE %s ADD COLUMN c text DEFAULT 'of west', ADD COLUMN d text DEFAULT 'of west') ],
	rewritten_here => [ 'ALTER TABLE %s ALTER COLUMN v TYPE text USING upper(v) || n, ALTER COLUMN n TYPE int USING n + 1', 'SELECT 1' ],
	rewritten_there => [ 'SELECT 1', q(ALTER TABLE %s ALTER COLUMN v TYPE text USING 'spoilt') ],
	retyped => [ 'ALTER TABLE %s ALTER COLUMN n TYPE bigint USING n + 5000000000', 'ALTER TABLE %s ALTER COLUMN n TYPE bigint USING n - 1' ],
	narrowed_and_back => [ 'SELECT 1', 'ALTER TABLE %1$s ALTER COLUMN v TYPE varchar(1) USING left(v, 1); ALTER TABLE %1$s ALTER COLUMN v TYPE text' ],
	remade_there => [ 'SELECT 1', 'BEGIN; ALTER TABLE %1$s DROP COLUMN v; ALTER TABLE %1$s ADD COLUMN v text; COMMIT' ],
	remade_here => [ q(BEGIN; ALTER TABLE %1$s DROP COLUMN v; ALTER TABLE %1$s ADD COLUMN v text DEFAULT 'again'; COMMIT), 'SELECT 1' ],
	swapped_names => [ 'SELECT 1', 'BEGIN; ALTER TABLE %1$s RENAME COLUMN v TO x; ALTER TABLE %1$s RENAME COLUMN img TO v; ALTER TABLE %1$s RENAME COLUMN x TO img; COMMIT' ],
	new_table => [ 'SELECT 1', q{CREATE TABLE keep AS SELECT * FROM %1$s WHERE cluster_id = 'b'; DROP TABLE %1$s; CREATE TABLE %1$s (} . join(', ', @column)
		. q{); SELECT seal_sync.table_add('%1$s', 'cluster_id'); INSERT INTO %1$s SELECT * FROM keep} ],
);
my @table = sort keys %change;
add_tables(join(';', map { "CREATE TABLE $_ (" . join(', ', @column) . ')' } @table), \@table, $east, $west);
for ([ $east, 'a' ], [ $west, 'b' ])
{
	my ($node, $c) = @$_;
	$node->safe_psql($db, join ';', map { "INSERT INTO $_ SELECT i, '$c', 'value' || i, i, repeat('x', 900) || i FROM generate_series(1, 40) i" } @table);
}
wait_for_sync($_) for $east, $west;
dumps_equal('equal before', [ $east, $west ], @table);

# A test that both have the same rows within the time allowed, by the names of their columns: the order of these may differ.
sub become_equal
{
	my ($name, @tables) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for my $table (@tables)
	{
		my $columns = $east->safe_psql($db, "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname) FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped");
		my $rows = "SELECT $columns FROM $table ORDER BY cluster_id, id";
		my ($here, $there);
		for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
		{
			($here, $there) = map { my (undef, $out) = $_->psql($db, $rows); $out } $east, $west;
			last if $here eq $there && $here ne '';
			usleep(100_000);
		}
		my $same = $here eq $there && $here ne '';
		ok($same, "$name: $table");
		next if $same;
		my @here = split /\n/, $here;
		my @there = split /\n/, $there;
		my $at = 0;
		$at++ while $at < @here && $at < @there && $here[$at] eq $there[$at];
		diag "east: " . substr($here[$at] // '', 0, 150) . "\nwest: " . substr($there[$at] // '', 0, 150);
	}
	return;
}

my $apply = sub {
	my ($table) = @_;
	my ($on_east, $on_west) = @{ $change{$table} };
	$east->safe_psql($db, $on_east =~ s{%(1\$)?s}{$table}gr);
	$west->safe_psql($db, $on_west =~ s{%(1\$)?s}{$table}gr);
	return;
};
my $shipped = $east->safe_psql($db, q(SELECT bytes_raw FROM seal_sync.stat_route));
$apply->('fast_default');
become_equal('a column with a default', 'fast_default');
my $bytes = $east->safe_psql($db, q(SELECT bytes_raw FROM seal_sync.stat_route)) - $shipped;
cmp_ok($bytes, '<', 8000, "without the rest of the rows: $bytes bytes");
$apply->($_) for grep { $_ ne 'fast_default' } @table;
become_equal('after DDL', @table);
is($east->safe_psql($db, q(SELECT count(*) FILTER (WHERE n > 5000000000 AND cluster_id = 'a'), count(*) FILTER (WHERE n = id - 1 AND cluster_id = 'b') FROM retyped)), '40|40', 'the values are those of each primary');
is($west->safe_psql($db, q(SELECT DISTINCT v FROM rewritten_there WHERE cluster_id = 'b')) . $west->safe_psql($db, q(SELECT DISTINCT v FROM remade_here WHERE cluster_id = 'a')), 'spoiltagain', 'in whichever direction');

# The same once more while nothing can be shipped, on tables that have been agreed on
$east->safe_psql($db, q(SELECT seal_sync.pause('west', 'test')));
$west->safe_psql($db, q(SELECT seal_sync.pause('east', 'test')));
wait_for_state($east, 'west', 'paused');
wait_for_state($west, 'east', 'paused');
$east->safe_psql($db, q(ALTER TABLE fast_default ADD COLUMN e text DEFAULT 'paused'; ALTER TABLE remade_there ADD COLUMN e text));
$west->safe_psql($db, q(ALTER TABLE fast_default ADD COLUMN e text DEFAULT 'elsewhere'; ALTER TABLE remade_there ADD COLUMN e text;
  BEGIN; ALTER TABLE remade_there DROP COLUMN img; ALTER TABLE remade_there ADD COLUMN img text; COMMIT));
$east->safe_psql($db, q(SELECT seal_sync.resume('west')));
$west->safe_psql($db, q(SELECT seal_sync.resume('east')));
become_equal('DDL while the route was paused', 'fast_default', 'remade_there');
# A table that was locked when the connection began is looked at once it is free, and no route waits for it
my $open = $east->background_psql($db, on_error_die => 1);
$open->query_safe(q(BEGIN; SELECT seal_sync.table_remove('volatile_default')));
$west->safe_psql($db, q(ALTER TABLE volatile_default ALTER COLUMN v TYPE text USING 'spoilt'));
my $scans = q(SELECT empty_scans FROM seal_sync.stat_route);
my $scanned = $east->safe_psql($db, $scans);
wait_until($east, "SELECT ($scans) > $scanned + 10", 't', 'the route goes on while a table is being removed');
$open->query_safe('ROLLBACK');
$open->quit;
become_equal('and ships what the table owes once that is undone', 'volatile_default');

# A copy whose rows are all over there, and which cannot be applied, keeps no other table from being looked at again
$_->safe_psql($db, 'CREATE TABLE copied (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))') for $east, $west;
$east->safe_psql($db, q(INSERT INTO copied SELECT i, 'a', 'v' || i FROM generate_series(1, 40) i));
$west->safe_psql($db, q(SELECT seal_sync.table_add('copied', cluster_column => 'cluster_id', existing_rows => 'adopt')));
$open = $west->background_psql($db, on_error_die => 1);
$open->query_safe('BEGIN; LOCK TABLE copied IN SHARE MODE'); # against rows, not against a look at it
$east->safe_psql($db, q(SELECT seal_sync.table_add('copied', cluster_column => 'cluster_id', existing_rows => 'copy')));
wait_until($east, q(SELECT count(*) FROM seal_sync.copy WHERE all_read_at IS NOT NULL), '1', 'all rows of a table are staged');
$open->query_safe('ALTER TABLE copied DROP COLUMN v; COMMIT');
$open->quit;
wait_until($east, q(SELECT message FROM seal_sync.copy_progress), 'table "public.copied" is parked for peer "west": column "v" does not exist there', 'and it does not fit any more');
$east->safe_psql($db, q(ALTER TABLE swapped_names ADD COLUMN f text DEFAULT 'beside a copy'));
$west->safe_psql($db, q(ALTER TABLE swapped_names ADD COLUMN f text));
become_equal('beside a copy that waits', 'swapped_names');
$west->safe_psql($db, 'ALTER TABLE copied ADD COLUMN v text');
become_equal('which goes on by itself', 'copied');

wait_until($_, q(SELECT count(*) FROM seal_sync.table_state WHERE owed_since IS NOT NULL OR dirty_since IS NOT NULL), '0', $_->name . ' owes nothing') for $east, $west;
is($_->safe_psql($db, q(SELECT count(*) FROM seal_sync.held)), '0', $_->name . ' holds nothing back') for $east, $west;

done_testing();
