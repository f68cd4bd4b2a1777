# Two servers that keep each other up to date, for TAP tests.
#
#   use SealSync;
#   my ($east, $west) = two_nodes();
#   add_tables('CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id))', ['t'], $east, $west);
#   $east->safe_psql('postgres', q(INSERT INTO t VALUES (1, 'a', 'x')));
#   wait_for_sync($east);
#   dumps_equal('one row arrives', [$east, $west], 't');
#
# east is primary of cluster a, west of cluster b. Nothing here sleeps: everything polls for a condition. What is compared
# is compared by pg_dump, never by functions of the extension.
package SealSync;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;

our @EXPORT = qw(one_node receiver two_nodes add_peer add_tables wait_for_sync wait_until dump_of dumps_equal workers
  wait_for_workers wait_for_state while_stopped silent_listener own_installation);

our $db = 'postgres';

# one_node(NAME, conf => TEXT, started => 1, major => N, port => N, install_path => PATH): a server with the library loaded; the
# extension is not created. Another major than the one tested must have been built for: see MAJORS in ci/test-one.
sub one_node
{
	my ($name, %option) = @_;
	# test/run cross: the same tests between two majors
	my $major = $option{major} // $ENV{ 'SEAL_MAJOR_' . uc $name };
	my $path = $option{install_path} // ($major ? "/usr/lib/postgresql/$major" : undef);
	my $node = PostgreSQL::Test::Cluster->new($name, defined $path ? (install_path => $path) : (), $option{port} ? (port => $option{port}) : ());
	$node->init(%{ $option{init} // {} });
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'seal_sync'
max_worker_processes = 32
max_prepared_transactions = 16
seal_sync.scan_period = '100ms'
seal_sync.retry_min = '100ms'
seal_sync.retry_max = '1s'
log_statement = none
@{[ $option{tcp} ? "listen_addresses = '127.0.0.1'" : '' ]}
@{[ $option{conf} // '' ]}
CONF
	$node->start unless exists $option{started} && !$option{started};
	return $node;
}

# receiver(): the node "west" for a sender in Perl (SealWire.pm) that logs in as sync_in and says to be its peer "east", which
# it cannot reach; east is primary of cluster a.
sub receiver
{
	my $node = one_node('wire');
	$node->safe_psql($db, <<'SQL');
CREATE EXTENSION seal_sync;
CREATE ROLE sync_in LOGIN IN ROLE seal_sync_peer;
SELECT seal_sync.node_create('west');
CREATE SERVER east FOREIGN DATA WRAPPER seal_sync OPTIONS (host '/nowhere', port '1', dbname 'postgres');
CREATE USER MAPPING FOR seal_sync_worker SERVER east OPTIONS (user 'sync_in', password 'pw');
SELECT seal_sync.peer_create('east');
SELECT seal_sync.cluster_create('a', primary_node => 'east');
SQL
	return $node;
}

# two_nodes(conf => TEXT for both, tcp => 1): the pair of the manual's first page, without any table. Returns (east, west).
sub two_nodes
{
	my (%option) = @_;
	my @node = map { one_node($_, %option) } qw(east west);
	for my $node (@node)
	{
		$node->safe_psql($db, <<"SQL");
CREATE EXTENSION seal_sync;
SELECT seal_sync.node_create('@{[ $node->name ]}');
CREATE ROLE sync_in LOGIN PASSWORD 'pw' IN ROLE seal_sync_peer;
SQL
	}
	add_peer($node[0], $node[1], %option);
	add_peer($node[1], $node[0], %option);
	for my $node (@node)
	{
		$node->safe_psql($db, <<'SQL');
SELECT seal_sync.cluster_create('a', primary_node => 'east');
SELECT seal_sync.cluster_create('b', primary_node => 'west');
SQL
	}
	return @node;
}

# add_peer(NODE, PEER, tcp => 1, host => ..., port => ...): server, user mapping and peer on NODE that lead to PEER.
sub add_peer
{
	my ($node, $peer, %option) = @_;
	my $name = ref $peer ? $peer->name : $peer;
	my $host = $option{host} // ($option{tcp} ? '127.0.0.1' : $peer->host);
	my $port = $option{port} // $peer->port;
	$node->safe_psql($db, <<"SQL");
CREATE SERVER $name FOREIGN DATA WRAPPER seal_sync OPTIONS (host '$host', port '$port', dbname '$db');
CREATE USER MAPPING FOR seal_sync_worker SERVER $name OPTIONS (user 'sync_in', password 'pw');
SELECT seal_sync.peer_create('$name');
SQL
	return;
}

# add_tables(DDL, [TABLES], NODES...): runs DDL and registers the tables, by column cluster_id, on every node.
sub add_tables
{
	my ($ddl, $tables, @node) = @_;
	for my $node (@node)
	{
		$node->safe_psql($db, join ";\n", $ddl,
			map { "SELECT seal_sync.table_add('$_', cluster_column => 'cluster_id', existing_rows => 'adopt')" } @$tables);
	}
	return;
}

# wait_for_sync(NODE, PEERS...): what was committed on NODE before the call is on its peers (none named: all) afterwards.
sub wait_for_sync
{
	my ($node, @peer) = @_;
	my $seconds = $PostgreSQL::Test::Utils::timeout_default;
	for my $peer (@peer ? map { ref $_ ? $_->name : $_ } @peer : (undef))
	{
		my $who = defined $peer ? "'$peer'" : 'NULL';
		$node->safe_psql($db, "SELECT seal_sync.sync_now($who, timeout => '$seconds s')");
	}
	return;
}

# wait_until(NODE, SQL, [EXPECTED = 't'], [NAME]): a test that passes when SQL gives EXPECTED within the time allowed.
sub wait_until
{
	my ($node, $sql, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $fine = $node->poll_query_until($db, $sql, $expected // 't');
	diag($node->name, ': ', ($node->psql($db, 'TABLE seal_sync.health'))[1] // 'no answer') unless $fine;
	return ok($fine, $name // $sql);
}

# dump_of(NODE, TABLES...): the rows as pg_dump sees them, one sorted text.
sub dump_of
{
	my ($node, @table) = @_;
	my ($out, $err);
	IPC::Run::run([ 'pg_dump', '--data-only', '--no-sync', (map { ('--table', $_) } @table), '-d', $node->connstr($db) ],
		'>', \$out, '2>', \$err)
	  or die "pg_dump: $err";

	# Only the COPY blocks: everything else says when and by whom, not what
	my (@rows, $table);
	for (split /\n/, $out)
	{
		if (/^COPY (.+) FROM stdin;$/) { $table = $1 } # a quoted name may hold blanks
		elsif ($_ eq '\.') { undef $table }
		elsif (defined $table) { push @rows, "$table: $_" }
	}
	return join '', map { "$_\n" } sort @rows;
}

# dumps_equal(NAME, [NODES], TABLES...): a test that the tables hold the same rows on all nodes.
sub dumps_equal
{
	my ($name, $nodes, @table) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($first, @other) = map { dump_of($_, @table) } @$nodes;
	for my $dump (@other)
	{
		next if $dump eq $first;
		my %here = map { $_ => 1 } split /\n/, $first;
		my %there = map { $_ => 1 } split /\n/, $dump;
		my @missing = grep { !$there{$_} } sort keys %here;
		my @extra = grep { !$here{$_} } sort keys %there;
		diag scalar(@missing) . ' rows only on ' . $nodes->[0]->name . ', ' . scalar(@extra) . ' only elsewhere';
		diag join "\n", map({ "< " . substr $_, 0, 200 } @missing[ 0 .. ($#missing > 9 ? 9 : $#missing) ]),
		  map({ "> " . substr $_, 0, 200 } @extra[ 0 .. ($#extra > 9 ? 9 : $#extra) ]);
		return fail($name);
	}
	return ok($first ne '', "$name (" . ($first =~ tr/\n//) . ' rows)');
}

# workers(NODE, TYPE, [DATABASE]): pids of the worker processes of a type: launcher, database worker or route worker.
sub workers
{
	my ($node, $type, $database) = @_;
	my $of = defined $database ? "AND datname = '$database'" : '';
	return split /\n/, $node->safe_psql($db, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'seal_sync $type' $of ORDER BY pid");
}

# wait_for_workers(NODE, COUNT, TYPE, [DATABASE], [NAME]): a test.
sub wait_for_workers
{
	my ($node, $count, $type, $database, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $of = defined $database ? "AND datname = '$database'" : '';
	return wait_until($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'seal_sync $type' $of",
		$count, $name // "$count $type" . ($count == 1 ? '' : 's'));
}

# wait_for_state(NODE, PEER, STATE, [NAME]): a test that the outgoing route gets into a state.
sub wait_for_state
{
	my ($node, $peer, $state, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_until($node, "SELECT state FROM seal_sync.status WHERE direction = 'out' AND peer = '$peer'",
		$state, $name // "route \"$peer\" is $state");
}

# while_stopped(PID, SECONDS, CODE): runs CODE while a process stands still, and returns what it returns. A process can
# be stopped with a lock in hand that CODE needs (writing WAL, say), so it is continued after SECONDS in any case.
sub while_stopped
{
	my ($pid, $seconds, $code) = @_;
	kill 'STOP', $pid or die "process $pid: $!";
	my $waker = fork // die "fork: $!";
	if ($waker == 0)
	{
		select undef, undef, undef, $seconds;
		kill 'CONT', $pid;
		POSIX::_exit(0);
	}
	my $result = $code->();
	kill 'CONT', $pid;
	kill 'KILL', $waker;
	waitpid $waker, 0;
	return $result;
}

# own_installation(NAME): a copy of the PostgreSQL under test, library and extension included, that the test may change. Returns its
# path, for one_node's install_path, and the folder of its extension scripts. What is not changed are links.
sub own_installation
{
	my ($name) = @_;
	chomp(my ($bin, $lib, $share) = map { `pg_config --$_` } qw(bindir pkglibdir sharedir));
	my $top = "$PostgreSQL::Test::Utils::tmp_check/installation_$name";
	system('mkdir', '-p', "$top$lib", "$top$share/extension", "$top$bin") == 0 or die "mkdir";
	system("cp -a $bin/. $top$bin/ && ln -s $lib/* $top$lib/ && ln -s $share/extension/* $top$share/extension/") == 0 or die "cp";
	for (glob "$share/*") { symlink $_, "$top$_" unless /\/extension$/ }
	(my $path = "$top$bin") =~ s,/bin$,,;
	return ($path, "$top$share/extension");
}

# silent_listener(): a TCP socket on the loopback that takes connections and never says anything. Returns (socket, port).
# Keep the socket: it closes when it goes out of scope.
sub silent_listener
{
	require IO::Socket::INET;
	my $socket = IO::Socket::INET->new(Listen => 64, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "listen: $!";
	return ($socket, $socket->sockport);
}

1;
