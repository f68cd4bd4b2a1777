# Keys of a batch that lie close together are found by walking along the index, others by descents. Whatever the
# pattern, the types of the key, dead versions and partitions in between, both sides end equal.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use Test::More;

my ($east, $west) = two_nodes();
my $rows = $ENV{SEAL_LONG} ? 200000 : 8000;

# Name of the table => type of its key columns and how number i becomes a key.
my %table = (
	one_int => [ 'k bigint', 'PRIMARY KEY (k)', 'i' ],
	two_columns => [ 'c text, k int', 'PRIMARY KEY (c, k)', q(md5((i / 50)::text), i) ],
	texts => [ 'k text COLLATE "C"', 'PRIMARY KEY (k)', q(md5(i::text)) ],
	numbers => [ 'k numeric', 'PRIMARY KEY (k)', q(i / 8.0) ],
	names => [ 'k name', 'PRIMARY KEY (k)', q(('n' || i)::name) ],
	uuids => [ 'k uuid', 'PRIMARY KEY (k)', q(md5(i::text)::uuid) ],
	parts => [ 'k int', 'PRIMARY KEY (k)', 'i' ],);

my $ddl = join ";\n", map {
	my ($columns, $key) = @{ $table{$_} };
	my $partitions = $_ eq 'parts' ? ' PARTITION BY HASH (k)' : '';
	"CREATE TABLE $_ ($columns, cluster_id text DEFAULT 'a', n int, v text, $key)$partitions"
} sort keys %table;
$ddl .= join '', map { ";\nCREATE TABLE parts_$_ PARTITION OF parts FOR VALUES WITH (MODULUS 3, REMAINDER $_)" } 0 .. 2;
add_tables_by_constant($ddl);

my @dumped = (sort(keys %table), map { "parts_$_" } 0 .. 2); # pg_dump wants partitions by name

sub add_tables_by_constant
{
	my ($sql) = @_;
	for my $node ($east, $west)
	{
		$node->safe_psql('postgres', $sql);
		$node->safe_psql('postgres', "SELECT seal_sync.table_add('$_', cluster => 'a', existing_rows => 'adopt')")
		  for sort keys %table;
	}
	return;
}

# Runs SQL with TABLE and N (numbers of the rows) put in, on all tables in one transaction.
sub on_all
{
	my ($what, $sql) = @_;
	my @statements;
	for my $name (sort keys %table)
	{
		(my $statement = $sql) =~ s/TABLE/$name/g;
		push @statements, $statement;
	}
	$east->safe_psql('postgres', join ";\n", 'BEGIN', @statements, 'COMMIT');
	wait_for_sync($east);
	dumps_equal($what, [ $east, $west ], @dumped);
	return;
}

$east->safe_psql('postgres', join ";\n", 'BEGIN', (map {
	my ($columns, undef, $expression) = @{ $table{$_} };
	my $names = join ', ', map { (split ' ')[0] } split /, /, $columns;
	"INSERT INTO $_ ($names, n, v) SELECT $expression, i, 'row ' || i FROM generate_series(1, $rows) i"
} sort keys %table), 'COMMIT');
wait_for_sync($east);
dumps_equal('inserted', [ $east, $west ], @dumped);

on_all('all updated', q(UPDATE TABLE SET v = v || '!'));
on_all('all again: every key has dead versions', q(UPDATE TABLE SET v = v || '?'));
on_all('every seventh', q(UPDATE TABLE SET v = 'seven' WHERE n % 7 = 0));
on_all('few and far apart', q(UPDATE TABLE SET v = 'far' WHERE n % 501 = 0));
on_all('dense and sparse stretches by turns', q(UPDATE TABLE SET v = v || '.' WHERE n / 300 % 3 = 0 OR n % 97 = 0));
on_all('stretches deleted', q(DELETE FROM TABLE WHERE n / 100 % 4 = 0));
on_all('every third deleted, the others updated', q(DELETE FROM TABLE WHERE n % 3 = 0; UPDATE TABLE SET v = 'third'));
on_all('deleted and updated by turns', q(DELETE FROM TABLE WHERE n % 10 < 5; UPDATE TABLE SET n = n + 1));
$east->safe_psql('postgres', join ';', 'BEGIN', (map { "DELETE FROM $_" } sort keys %table), 'COMMIT');
wait_for_sync($east);
is($west->safe_psql('postgres', join ' UNION ALL ', map { "SELECT count(*) FROM $_" } sort keys %table) =~ tr/1-9//, 0, 'nothing is left');
is($east->safe_psql('postgres', 'SELECT count(*) FROM seal_sync.quarantine'), '0', 'nothing was refused');

done_testing();
