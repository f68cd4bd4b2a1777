# The pages of a pair's life, typed from the manual one after the other: first pair, adding tables, schema migration, a peer away,
# removal. Judge: pg_dump, plain SQL, and what the pages say that one sees.
use strict;
use warnings;
use SealSync;
use SealManual;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = $SealSync::db = 'bank';
my %node = map { $_ => one_node($_, conf => "max_worker_processes = 16\nseal_sync.debug_rotation_period = '200ms'") } qw(east west);
my ($east, $west) = @node{qw(east west)};
my @both = ($east, $west);
$_->safe_psql('postgres', "CREATE DATABASE $db") for @both;

sub synced { wait_for_sync($_) for @both; return }
sub play { my ($page, %option) = @_; SealManual->new($page, \%node, db => $db)->play(%option); return }

play('first-pair', after => {
	'The way to the other' => sub { like($_[-1], qr/^clock\|t\|/m, 'peer_check gets to the clock'); unlike($_[-1], qr/\|f\|/, 'every step to the peer is fine') },
	'Who owns what' => sub {
		like($_[0], qr/seal_info\|add\|/, 'the dry run tells what would be done');
		like($_[1], qr/^cluster\|a\|.*^table\|/ms, 'config_diff shows what is declared there');
		like($_[1], qr/^table\|public.seal_info\|add/m, 'and config_adopt what was done');
	},
	'See it' => sub {
		my ($seen) = grep { /Bank of the East/ } @_;
		is($seen, '1|a|Bank of the East|active', 'west has the row');
		dumps_equal('both have both rows', [@both], 'seal_info');
	},
	'Is all well?' => sub {
		for my $node (@both)
		{
			wait_until($node, q(SELECT string_agg(DISTINCT code, ',') FROM seal_sync.health WHERE severity <> 'info'), 'ok', 'all is well, says health of ' . $node->name);
			is($node->safe_psql($db, q(SELECT string_agg(severity || ' ' || code, ', ') FROM seal_sync.check() WHERE severity NOT IN ('info', 'ok') AND code NOT IN ('tls_not_verified', 'fsync_off'))),
				'', 'and check(), but for what a test has');
			is($node->safe_psql($db, q(SELECT state FROM seal_sync.status WHERE direction = 'out')), 'streaming', 'and the route is streaming');
		}
	} });

play('adding-tables', after => {
	'One table' => sub {
		$east->safe_psql($db, q(INSERT INTO seal_image VALUES (1, 'a', 1, '\x00ff')));
		synced();
		dumps_equal('the new table is in step', [@both], 'seal_image');
	},
	'A table of one cluster' => sub {
		$east->safe_psql($db, q(INSERT INTO exchange_rate VALUES ('EUR', 1.1)));
		synced();
		dumps_equal('and that of one cluster', [@both], 'exchange_rate');
		my ($rc, $out, $err) = $west->psql($db, 'DELETE FROM exchange_rate');
		like($err, qr/cluster "a" has its primary on node "east"/, 'which only east changes');
	},
	'A whole schema' => sub {
		like($_[0], qr/branch\.audit\|refuse\|.*no primary key/, 'a table without a key is refused, and says so');
		like($_[0], qr/branch\.teller\|add\|/, 'the others are added');
		is($_->safe_psql($db, q(SELECT count(*) FROM seal_sync.table_rule WHERE relation = 'branch.desk'::regclass)), '1', 'a table made later is registered on ' . $_->name) for @both;
		$west->safe_psql($db, q(INSERT INTO branch.desk VALUES (1, 'b'); INSERT INTO branch.teller VALUES (1, 'b', 'x')));
		synced();
		dumps_equal('and in step', [@both], 'branch.desk', 'branch.teller');
	},
	'Rows that are there already' => sub {
		dumps_equal('rows that were there have been copied', [@both], 'seal_info', 'seal_image');
		is($east->safe_psql($db, q(SHOW seal_sync.copy_max_rate)), '20MB', 'and the rate is set');
	},
	'Numbers made on both sides' => sub {
		$east->safe_psql($db, q(INSERT INTO form (cluster_id, text) SELECT 'a', 'east' FROM generate_series(1, 50)));
		$west->safe_psql($db, q(INSERT INTO form (cluster_id, text) SELECT 'b', 'west' FROM generate_series(1, 50)));
		synced();
		dumps_equal('numbers of both sides do not collide', [@both], 'form');
		is($west->safe_psql($db, 'SELECT count(DISTINCT id) FROM form'), '100', 'all of them');
		like($_[-1], qr/form_id_seq/, 'and the view has the sequence');
	},
	'What stands where' => sub {
		wait_until($_, q(SELECT string_agg(DISTINCT state, ',') FROM seal_sync.stat_table), 'synced', 'every table is synced on ' . $_->name) for @both;
	} });

# Writers go on during the migrations
my @writer = map {
	my ($node, $cluster) = @$_;
	my $script = $node->basedir . '/write.sql';
	append_to_file($script, "\\set id random(40000, 40200)\nINSERT INTO seal_info (id, cluster_id, name) VALUES (:id, '$cluster', 'w') ON CONFLICT (id, cluster_id) DO UPDATE SET name = left(seal_info.name || 'u', 100);\n");
	my ($out, $err) = ('', '');
	{ h => IPC::Run::start([ 'pgbench', '-n', '-c', '1', '-T', '180', '-R', '50', '-f', $script, '-h', $node->host, '-p', $node->port, $db ], '>', \$out, '2>', \$err), err => \$err };
} [ $east, 'a' ], [ $west, 'b' ];
play('schema-migration',
	before => {
		'The wrong way round' => sub { synced() },
		'DDL that changes rows' => sub {
			wait_until($east, q(SELECT count(*) FROM seal_sync.held), '0', 'the parked table has resumed by itself');
			is($west->safe_psql($db, q(SELECT count(*) FROM seal_info WHERE checked_at IS NOT NULL)), $east->safe_psql($db, q(SELECT count(*) FROM seal_info WHERE checked_at IS NOT NULL)),
				'and its rows are there');
		} },
	after => {
		'Look before' => sub { is($_[0], '', 'alike before') },
		'A column more' => sub {
			is($west->safe_psql($db, q(SELECT name FROM seal_info WHERE id = 50001)), 'written before the migration of east', 'rows without the new column go on');
		},
		'The wrong way round' => sub {
			wait_until($east, q(SELECT count(*) FROM seal_sync.events WHERE event = 'unparked' AND scope ~ 'seal_info'), '1', 'events tell that it ended');
			ok($east->safe_psql($db, q(SELECT count(*) FROM seal_sync.events WHERE event = 'parked' AND scope ~ 'seal_info')) >= 1, 'and that it began');
		},
		'DDL that changes rows' => sub {
			is($_->safe_psql($db, q(SELECT count(*) FROM seal_info WHERE status = 'active')), '0', 'rewritten on ' . $_->name) for @both;
		},
		'Another primary key' => sub {
			$east->safe_psql($db, q(INSERT INTO exchange_rate (currency, rate) VALUES ('CHF', 1), ('USD', 2)));
			$east->safe_psql($db, q(SELECT seal_sync.wait_for_tables('3 min')));
		} });
for (@writer)
{
	$_->{h}->signal('TERM');
	eval { $_->{h}->finish };
	unlike(${ $_->{err} }, qr/ERROR/, 'writers saw no error');
}
wait_until($_, q(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'), '0') for @both;
$_->safe_psql($db, q(SELECT seal_sync.wait_for_tables('3 min'))) for @both;
synced();
dumps_equal('after all migrations both are equal', [@both], qw(seal_info seal_image exchange_rate form));

play('peer-away',
	before => {
		'While it is away' => sub { $west->stop('fast'); $east->safe_psql($db, q(SELECT seal_sync.resume('west'))) },
		'When it is back' => sub { $west->start },
	},
	skip => { 'Gone for good' => 'would be removal' },
	after => {
		'Known beforehand' => sub {
			is($east->safe_psql($db, q(SELECT state || ' ' || state_reason FROM seal_sync.status WHERE direction = 'out')), 'paused storage of west is exchanged', 'the pause shows its reason');
		},
		'While it is away' => sub {
			like($_[0], qr/^retrying\|/m, 'retrying, and why');
			like($_[0], qr/^\d{4,}\|/m, 'what waits is counted');
			is(scalar(() = $_[0] =~ /^seal_info\|/mg), 10, 'and can be looked at');
		},
		'How long it may last' => sub { is($east->safe_psql($db, 'SHOW seal_sync.max_log_size'), '32GB', 'the log may be larger') },
		'When it is back' => sub { dumps_equal('everything has arrived', [@both], 'seal_info') } });

my $rows = dump_of($west, 'seal_info');
play('removal',
	after => {
		'A table' => sub { is($west->safe_psql($db, q(DELETE FROM exchange_rate; SELECT count(*) FROM exchange_rate)), '0', 'what was removed may be changed') },
		'A node' => sub {
			is($west->safe_psql($db, q(SELECT count(*) FROM pg_trigger WHERE tgname ~ 'seal_sync')), '0', 'no trigger is left');
			is(dump_of($west, 'seal_info'), $rows, 'and no row is gone');
		} });
for my $node (@both)
{
	is($node->safe_psql($db, q(SELECT count(*) FROM pg_roles WHERE rolname ~ '^seal_sync' OR rolname = 'sync_in')), '0', 'nothing is left on ' . $node->name);
	is($node->safe_psql($db, q(SELECT count(*) FROM pg_namespace WHERE nspname ~ 'seal_sync')), '0', 'no schema either');
}
done_testing();
