# Schema drift under load: a column is added, dropped, renamed, narrowed or retyped, on either side first, while applications
# write on both sides. The table is parked with what to type, all other tables go on, and it resumes by itself once it
# fits. Each way has a table of its own, so that all of them wait at the same time. Judge: pg_dump, and markers in a table that does not drift.
use strict;
use warnings;
use SealSync;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = $SealSync::db;
my ($east, $west) = two_nodes(conf => "seal_sync.debug_rotation_period = '200ms'");
my %node = (east => $east, west => $west);

# name => [side that is first, its DDL, side whose rows are parked then, message, hint; the other side's DDL (default: the same)]
my %drift = (
	added_here => [ 'east', 'ADD COLUMN "seal Hash" bytea', 'east', 'column "seal Hash" does not exist there', 'On node "west": ALTER TABLE public.added_here ADD COLUMN "seal Hash" bytea. The table resumes by itself.' ],
	added_there => [ 'west', q(ADD COLUMN x text NOT NULL DEFAULT 'of west'), 'west', 'column "x" does not exist there', 'On node "east": ALTER TABLE public.added_there ADD COLUMN x text. The table resumes by itself.',
		q(ADD COLUMN x text NOT NULL DEFAULT 'of east') ],
	dropped_here => [ 'east', 'DROP COLUMN old', 'west', 'column "old" does not exist there', 'On node "east": ALTER TABLE public.dropped_here ADD COLUMN old text. The table resumes by itself.' ],
	dropped_there => [ 'west', 'DROP COLUMN old', 'east', 'column "old" does not exist there', 'On node "west": ALTER TABLE public.dropped_there ADD COLUMN old text. The table resumes by itself.' ],
	renamed_here => [ 'east', 'RENAME COLUMN old TO new', 'east', 'column "new" does not exist there', 'On node "west": ALTER TABLE public.renamed_here ADD COLUMN new text. The table resumes by itself.' ],
	renamed_there => [ 'west', 'RENAME COLUMN old TO new', 'east', 'column "old" does not exist there', 'On node "west": ALTER TABLE public.renamed_there ADD COLUMN old text. The table resumes by itself.' ],
	narrowed_here => [ 'east', 'ALTER COLUMN s TYPE varchar(20)', 'west', 'column "s" is of type character varying(20) there, not character varying(40)',
		'On node "east": ALTER TABLE public.narrowed_here ALTER COLUMN s TYPE character varying(40). The table resumes by itself.' ],
	narrowed_there => [ 'west', 'ALTER COLUMN n TYPE numeric(12,2)', 'east', 'column "n" is of type numeric(12,2) there, not numeric(12,4)',
		'On node "west": ALTER TABLE public.narrowed_there ALTER COLUMN n TYPE numeric(12,4). The table resumes by itself.' ],
	retyped_here => [ 'east', 'ALTER COLUMN i TYPE bigint', 'east', 'column "i" is of type integer there, not bigint',
		'On node "west": ALTER TABLE public.retyped_here ALTER COLUMN i TYPE bigint. The table resumes by itself.' ],
	retyped_there => [ 'west', 'ALTER COLUMN i TYPE text USING (-i)::text', 'west', 'column "i" is of type integer there, not text',
		'On node "east": ALTER TABLE public.retyped_there ALTER COLUMN i TYPE text. The table resumes by itself.' ],
);
my @table = sort keys %drift;
add_tables(join(';', map { "CREATE TABLE $_ (id int, cluster_id text, v int DEFAULT 0, old text DEFAULT 'old', s varchar(40) DEFAULT 's', n numeric(12,4) DEFAULT 1.5000, i int DEFAULT 5, PRIMARY KEY (id, cluster_id))" } @table, 'calm'),
	[ @table, 'calm' ], $east, $west);
my %cluster = (east => 'a', west => 'b');
for my $name (sort keys %node)
{
	$node{$name}->safe_psql($db, join ';', map { "INSERT INTO $_ (id, cluster_id, i) SELECT i, '$cluster{$name}', i FROM generate_series(1, 60) i" } @table);
}
wait_for_sync($_) for $east, $west;
dumps_equal('equal before', [ $east, $west ], @table);

my %load;
for my $name (sort keys %node)
{
	my ($script, $c, $out, $err) = ($node{$name}->basedir . '/load.sql', $cluster{$name}, '', '');
	append_to_file($script, join "\n", '\set id random(1, 80)',
		(map { "INSERT INTO $_ (id, cluster_id) VALUES (:id, '$c') ON CONFLICT (id, cluster_id) DO UPDATE SET v = $_.v + 1;" } @table),
		(map { "DELETE FROM $_ WHERE id = 81 - :id AND cluster_id = '$c' AND :id % 10 = 0;" } @table));
	$load{$name}{err} = \$err;
	$load{$name}{h} = IPC::Run::start([ 'pgbench', '-n', '-c', '1', '-T', '300', '-R', '20', '-f', $script, '-h', $node{$name}->host, '-p', $node{$name}->port, $db ],
		'>', \$out, '2>', \$err);
}

my $marks = 0;
sub calm_goes_on
{
	my ($when) = @_;
	$marks++;
	$node{$_}->safe_psql($db, "INSERT INTO calm (id, cluster_id) VALUES ($marks, '$cluster{$_}')") for sort keys %node;
	wait_until($node{$_}, "SELECT count(*) FROM calm WHERE id = $marks", '2', "$when: other tables go on, on $_") for sort keys %node;
	return;
}

for my $table (@table)
{
	my ($first, $ddl) = @{ $drift{$table} };
	$node{$first}->safe_psql($db, "ALTER TABLE $table $ddl");
}
for my $table (@table)
{
	my (undef, undef, $parked, $message, $hint) = @{ $drift{$table} };
	my $peer = $parked eq 'east' ? 'west' : 'east';
	wait_until($node{$parked}, "SELECT message || E'\\n' || hint FROM seal_sync.stat_table WHERE relation = '$table'::regclass AND state = 'parked'",
		qq(table "public.$table" is parked for peer "$peer": $message\n$hint), "$table: parked on $parked, with what to type");
}
calm_goes_on('while they are parked');
is($east->safe_psql($db, q(SELECT string_agg(DISTINCT sqlstate, ' ' ORDER BY sqlstate) FROM seal_sync.held WHERE state = 'parked')), '42703 42804', 'with their SQLSTATEs');
is($east->safe_psql($db, q(SELECT state FROM seal_sync.stat_table WHERE relation = 'added_there'::regclass)) =~ /^(synced|dirty)$/ ? 'flows' : 'waits', 'flows',
	'an extra column with a default on the peer is fine');
is($east->safe_psql($db, q(SELECT count(*) FROM seal_sync.held WHERE state = 'quarantined')), '0', 'nothing is called refused');
like(slurp_file($east->logfile), qr/LOG:  seal_sync route "west": table "public.added_here" is parked for peer "west": column "seal Hash" does not exist there\n.*DETAIL:  \d+ changes wait; all other tables go on\.\n.*HINT:  On node "west": ALTER TABLE public.added_here ADD COLUMN "seal Hash" bytea/,
	'the log says so, too');
$east->safe_psql($db, q(UPDATE added_here SET "seal Hash" = '\xdead' WHERE id % 2 = 0 AND cluster_id = 'a'));

for my $table (@table)
{
	my ($first, $ddl, undef, undef, undef, $other) = @{ $drift{$table} };
	$node{ $first eq 'east' ? 'west' : 'east' }->safe_psql($db, "ALTER TABLE $table " . ($other // $ddl));
}
wait_until($node{$_}, q(SELECT count(*) FROM seal_sync.held), '0', "$_: all resume by themselves") for sort keys %node;
calm_goes_on('afterwards');
for my $name (sort keys %load)
{
	$load{$name}{h}->signal('TERM');
	eval { $load{$name}{h}->finish };
	unlike(${ $load{$name}{err} }, qr/ERROR/, "no writer on $name saw an error");
}
for my $name (sort keys %node)
{
	wait_until($node{$name}, q(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'), '0', "$name: its writer is gone");
	wait_until($node{$name}, q(SELECT count(*) FROM seal_sync.table_state WHERE owed_since IS NOT NULL OR dirty_since IS NOT NULL), '0', "$name: nothing is owed");
	wait_for_sync($node{$name});
	is($node{$name}->safe_psql($db, q(SELECT count(*) FROM seal_sync.held)), '0', "$name: nothing is held back");
}
dumps_equal('nothing is lost', [ $east, $west ], @table, 'calm');
done_testing();
