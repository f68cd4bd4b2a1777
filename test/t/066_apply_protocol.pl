# What the receiver promises a sender beyond single messages: whose connection it is, that an answer never holds locks, that
# refusals end however many hang on each other, and that what a peer says about time is not simply believed.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

my $west = one_node('wire');
sub sql { return $west->safe_psql('postgres', $_[0]) }
sql(q(
CREATE EXTENSION seal_sync;
CREATE ROLE sync_in LOGIN IN ROLE seal_sync_peer;
CREATE ROLE sync_other LOGIN IN ROLE seal_sync_peer;
SELECT seal_sync.node_create('west');
CREATE SERVER east FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nowhere', port '1', dbname 'postgres');
CREATE USER MAPPING FOR seal_sync_worker SERVER east OPTIONS (user 'sync_in', password 'pw');
SELECT seal_sync.peer_create('east');
SELECT seal_sync.cluster_create('a', primary_node => 'east'), seal_sync.cluster_create('b', primary_node => 'west');
));
my $east = SealWire->new($west, user => 'sync_in');
my ($got, $before);

# ---- the login of the first contact ---------------------------------------------------------------------
is($east->hello(generation => 2**63 - 1)->{problem}{sqlstate}, 'SSW04', 'a generation that has no next one');
is($east->hello(generation => '18446744073709551615')->{problem}{sqlstate}, 'SSW04', 'nor this');
is(sql('SELECT count(*) FROM seal_sync.origin'), 0, 'nothing is known from that');
is($east->hello->{problem}{sqlstate}, '', 'the first contact');
$east->heartbeat;
my $other = SealWire->new($west, user => 'sync_other', generation => $east->{generation});
$got = $other->hello;
is($got->{problem}{sqlstate}, 'SSW04', 'another login with the same token') or diag explain $got;
is($got->{problem}{message}, 'node "east" has logged in as role "sync_other", not as role "sync_in"', 'message');
is($got->{problem}{hint}, q(Correct the user mapping on node "east". If the role was changed on purpose, call seal_sync.peer_drop('east') and seal_sync.peer_create('east') on node "west", then the same for 'west' on node "east".), 'hint');
is($other->hello(generation => 1_000_000)->{problem}{sqlstate}, 'SSW04', 'with a generation of the future');
is($east->heartbeat->{error}, undef, 'the first connection is left alone');
is(sql('SELECT generation_issued, login FROM seal_sync.origin'), '1|sync_in', 'nothing has changed');
is($east->hello(generation => 2**63 - 1)->{problem}{sqlstate}, 'SSW04', 'the last generation is not taken later either');
sql(q(SELECT seal_sync.peer_drop('east')));
is($east->heartbeat->{error}, 'SSW07', 'the peer is dropped');
sql(q(SELECT seal_sync.peer_create('east')));
is($other->hello->{problem}{sqlstate}, '', 'now the other login may introduce itself');
is($other->heartbeat->{error}, undef, 'and speak');
is(sql('SELECT login FROM seal_sync.origin'), 'sync_other', 'it is the one from then on');
$east = SealWire->new($west, user => 'sync_in', generation => $other->{generation});
is($east->hello->{problem}{sqlstate}, 'SSW04', 'the first one is not any more');
$east = $other;

# ---- an answer is small while the transaction is open (trap T12) ----------------------------------------
sql(q(CREATE TABLE c (id int PRIMARY KEY, v text CHECK (v <> 'bad')); SELECT seal_sync.table_add('c', cluster => 'a')));
my @c = ([qw(id int4 F 4 1)], [qw(v text T)]);
is($east->describe('public.c', \@c)->{problem}{sqlstate}, '', 'c fits');
$got = $east->apply(careful => 1, sections => [ $east->whole('public.c', [ [ 1, 'bad' ], [ 2, 'fine' ] ]) ]);
is_deeply([ @$got{qw(status complete)}, scalar @{ $got->{refused} } ], [ 0, 1, 1 ], 'one refusal goes with the answer') or diag explain $got;
my @many = $east->whole('public.c', [ map { [ $_, 'bad' ] } 1001 .. 1400 ]), my $good = $east->whole('public.c', [ map { [ $_, 'fine' ] } 2001 .. 2010 ]);
my %same = (batch => $east->{batch} + 1, previous => $east->{batch}, previous_id => $east->{batch_id}, id => SealWire::id('many'), careful => 1, sections => [ @many, $good ]);
$got = $east->apply(%same, leave => 1);
is_deeply([ @$got{qw(status complete inserted)}, scalar @{ $got->{refused} } ], [ 0, 0, 10, 0 ], 'many do not') or diag explain $got;
cmp_ok($got->{size}, '<', 200, 'the answer is small');
$got = $east->apply(%same);
is_deeply([ @$got{qw(status complete)}, scalar @{ $got->{refused} } ], [ 1, 1, 400 ], 'asked again, it tells all of them') or diag explain $got;
is(join(',', sort map { unpack 'xl<', $_->{key} } @{ $got->{refused} }), join(',', 1001 .. 1400), 'each once');
is(sql(q(SELECT last_batch FROM seal_sync.status WHERE direction = 'in' AND peer = 'east')), $same{batch}, 'the last batch');
$got = $east->batch($east->whole('public.c', [ map { [ $_, 'bad' ] } 3001 .. 3400 ]));
is(scalar @{ $got->{refused} }, 400, 'a sender that does as it should gets them too');
is(sql('SELECT count(*) FROM c'), 11, 'and the other rows are there');

# ---- refused rows that hang on each other: as many attempts as it takes -----------------------------------
sql(q(CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree); SELECT seal_sync.table_add('tree', cluster => 'a')));
is($east->describe('public.tree', [ [qw(id int4 F 4 1)], [qw(parent int4 F 4)] ])->{problem}{sqlstate}, '', 'tree fits');
$got = $east->batch($east->whole('public.tree', [ [ 1, 999 ], map { [ $_, $_ - 1 ] } 2 .. 150 ]), $east->whole('public.tree', [ [ 200, undef ], [ 201, 200 ] ]));
is($got->{error}, undef, 'a chain of 150 rows without its root ends') or diag "$got->{error} $got->{message}";
is(scalar @{ $got->{refused} }, 150, 'all of it is refused');
cmp_ok($got->{attempts}, '>', 100, 'one row after the other');
is(sql('SELECT count(*) FROM tree'), 2, 'what does not hang on it is there');

# ---- a time is not simply believed ----------------------------------------------------------------------
for (qw(9223372036854775807 9223372036854775808 9223371331200000000))
{
	is($east->heartbeat(until => $_)->{error}, '08P01', "time $_ in a heartbeat");
	is($east->apply(until => $_, sections => [ $east->whole('public.c', [ [ 5000, 'never' ] ]) ])->{error}, '08P01', 'and in a batch');
}
my $century = sql(q(SELECT (extract(epoch FROM now() + interval '100 years' - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint));
is($east->heartbeat(until => $century)->{error}, undef, 'a clock that is ahead');
is(sql(q(SELECT lag BETWEEN interval '0' AND interval '1 hour' FROM seal_sync.status WHERE direction = 'in' AND peer = 'east')), 't', 'is cut to ours');
is($east->apply(until => $century, sections => [ $east->whole('public.c', [ [ 5001, 'fine' ] ]) ])->{error}, undef, 'in a batch too');
is(sql('SELECT max(complete_until) <= now() FROM (SELECT complete_until FROM seal_sync.applied_0 UNION ALL SELECT complete_until FROM seal_sync.applied_1) a'), 't', 'nor is it stored');
my $hour = $century - 36_525 * 86_400_000_000;
is($east->apply(until => $hour, sections => [ $east->whole('public.c', [ [ 5002, 'fine' ] ]) ])->{error}, undef, 'a time of the past');
is(sql(q(SELECT complete_until < now() FROM seal_sync.applied_0 ORDER BY batch DESC LIMIT 1)), 't', 'stays as it is');

# ---- what a peer may send is limited --------------------------------------------------------------------
sub largest_batch
{
	my ($size) = @_;
	sql("ALTER SYSTEM SET seal_sync.max_batch_size = '$size'; SELECT pg_reload_conf()");
	Time::HiRes::sleep(0.01) until $east->sql('SHOW seal_sync.max_batch_size')->{value} eq $size;
	return;
}
sql('GRANT pg_read_all_stats TO ' . $east->sql('SELECT session_user')->{value});
largest_batch('1MB');
ok($east->sql(q(SELECT count(*) FROM pg_backend_memory_contexts))->{value} > 0, 'memory can be seen');
my $half = $east->whole('public.c', [ [ 6000, 'x' x 600_000 ] ]);
is($east->put($half)->{error}, undef, 'a chunk');
$got = $east->put($half);
is($got->{error}, '53400', 'one more than a batch may have') or diag explain $got;
is($got->{message}, 'a batch of a peer is larger than seal_sync.max_batch_size', 'message');
$got = $east->sql(q(SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'seal_sync received batch'));
is($got->{value}, 0, 'nothing is kept of it') or diag explain $got;
is($east->put($half)->{error}, undef, 'a smaller batch');
$got = $east->apply(sections => [ $east->whole('public.c', [ [ 6001, 'y' ] ]) ], chunks => 1, rows => 2);
is($got->{inserted}, 2, 'goes through') or diag explain $got;
largest_batch('64GB');
my $tiny = unpack 'H*', $east->removed('public.c', [ [6000] ])->{bytes};
my $put = "SELECT count(seal_sync.wire_put('\\x$tiny'))::int FROM generate_series";
is($east->sql("$put(1, 1048576)")->{value}, 1_048_576, 'a million tiny chunks');
cmp_ok($_ = $east->sql(q(SELECT total_bytes FROM pg_backend_memory_contexts WHERE name = 'seal_sync received batch'))->{value}, '<', 64 * 1024 * 1024, 'take bounded memory') or diag $_;
is($east->sql("$put(1, 1)")->{error}, '54000', 'more do not');

# ---- peer_drop that commits while a message of the peer is looked at -------------------------------------
# The drop holds a table that the message comes to later than to its checks; it commits once somebody waits.
$west->append_conf('postgresql.conf', "deadlock_timeout = 60s\nseal_sync.apply_lock_timeout = 60s");
$west->reload;
sub while_dropped
{
	my ($table, $act) = @_;
	my ($in, $out) = ("BEGIN; SELECT seal_sync.peer_drop('east'); LOCK TABLE seal_sync.$table; SELECT 'held';
		DO \$\$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_locks WHERE NOT granted) LOOP PERFORM pg_sleep(0.01); END LOOP; END \$\$;
		COMMIT;\n", '');
	my $drop = IPC::Run::start([ 'psql', '-XAtq', '-d', $west->connstr('postgres') ], '<', \$in, '>', \$out);
	$drop->pump until $out =~ /held/;
	my $got = $act->();
	$drop->finish;
	return $got;
}
sub left { return sql(q(SELECT (SELECT count(*) FROM seal_sync.origin) + (SELECT count(*) FROM seal_sync.applied_0) + (SELECT count(*) FROM seal_sync.applied_1))) }
my $again = sub {
	sql(q(SELECT seal_sync.peer_create('east')));
	$east = SealWire->new($west, user => 'sync_in');
	is($east->hello->{problem}{sqlstate}, '', 'introduced') or return;
	is($east->describe('public.c', \@c)->{problem}{sqlstate}, '', 'c fits');
};
sql(q(SELECT seal_sync.peer_drop('east')));
$again->();
$got = $east->batch($east->whole('public.c', [ [ 7001, 'fine' ] ]));
is($got->{error}, undef, 'a first batch');
$got = while_dropped('applied_0', sub { $east->batch($east->whole('public.c', [ [ 7002, 'fine' ] ])) });
is($got->{error}, 'SSW07', 'a batch under way finds itself without a peer, and contradicts nothing') or diag explain $got;
is(left(), 0, 'nothing is left of the peer');
$again->();
$got = while_dropped('applied_0', sub { $east->batch($east->whole('public.c', [ [ 7003, 'fine' ] ])) });
is($got->{error}, 'SSW07', 'nor does a first batch go through') or diag explain $got;
is(left(), 0, 'nothing is left');
$again->();
$got = while_dropped('origin', sub { $east->heartbeat });
is($got->{error}, 'SSW07', 'a heartbeat') or diag explain $got;
is(left(), 0, 'nothing is left');
$again->();
$got = while_dropped('origin', sub { $east->hello });
is($got->{problem}{sqlstate}, 'SSW07', 'a hello') or diag explain $got;
is(left(), 0, 'leaves nothing behind');
$again->();

# ---- the same with a real sender ------------------------------------------------------------------------
{
	my ($from, $to) = two_nodes();
	add_tables('CREATE TABLE tree (id int, cluster_id text, parent int, PRIMARY KEY (id))', ['tree'], $from, $to);
	$to->safe_psql('postgres', 'ALTER TABLE tree ADD FOREIGN KEY (parent) REFERENCES tree');
	$from->safe_psql('postgres', q(INSERT INTO tree SELECT i, 'a', CASE WHEN i = 1 THEN 999 ELSE i - 1 END FROM generate_series(1, 150) i; INSERT INTO tree VALUES (200, 'a', NULL)));
	wait_until($to, 'SELECT count(*) FROM tree', 1, 'what can arrive does');
	wait_until($from, q(SELECT count(*) FROM seal_sync.held WHERE peer = 'west'), 150, 'the sender has the names of all others');
}

done_testing();
