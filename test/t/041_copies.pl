# Copies of a node: a clone that speaks under the original's name (T4), and a peer put back to an old copy of itself
# (the resend window). Nothing may be lost silently, and nothing deleted on the strength of an old state.
# Judge: pg_dump of both sides.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PostgreSQL::Test::RecursiveCopy;
use Test::More;
use File::Path qw(rmtree);

my ($east, $west) = two_nodes();
my $db = 'postgres';
my $next = 0;

add_tables(<<'SQL', ['t'], $east, $west);
CREATE TABLE t (id int, cluster_id text, v text, PRIMARY KEY (id, cluster_id));
SQL

sub insert_rows
{
	my ($node, $cluster, $count) = @_;
	my $from = $next + 1;
	$next += $count;
	$node->safe_psql($db, "INSERT INTO t SELECT i, '$cluster', 'v' FROM generate_series($from, $next) i");
	return;
}

sub change_and_sync
{
	my ($count) = @_;
	for (1 .. $count) { insert_rows($east, 'a', 2); wait_for_sync($east) }
	return;
}

sub copy_data
{
	my ($from, $to) = @_;
	rmtree($to) if -e $to;
	PostgreSQL::Test::RecursiveCopy::copypath($from, $to, filterfn => sub { $_[0] ne 'postmaster.pid' });
	chmod 0700, $to or die;
	return;
}

sub halt_message
{
	my ($node) = @_;
	return $node->safe_psql($db, q(SELECT state || ': ' || state_reason FROM seal_sync.status WHERE direction = 'out'));
}

# A machine that was cloned as a whole: nothing about its data directory tells, only the generation does.
sub look_like_the_original
{
	my ($clone) = @_;
	$clone->safe_psql($db, q(UPDATE seal_sync.local_node SET place = NULL, place_timeline = NULL));
	$clone->restart;
	return;
}

subtest 'T4: a cold copy of the source starts beside it' => sub {
	change_and_sync(3);
	$east->stop;
	my $clone = PostgreSQL::Test::Cluster->new('clone');
	copy_data($east->data_dir, $clone->data_dir);
	$clone->append_conf('postgresql.conf', 'port = ' . $clone->port . "\nunix_socket_directories = '" . $clone->host . "'");
	$east->start;
	change_and_sync(2);
	$clone->start;
	$clone->safe_psql($db, q(INSERT INTO t VALUES (90001, 'a', 'of the clone'); DELETE FROM t WHERE id = 1;));
	wait_for_state($clone, 'west', 'stopped', 'a copy does not speak');
	look_like_the_original($clone);
	wait_for_state($clone, 'west', 'halted', 'a copy that looks like the original is halted');
	like(halt_message($clone), qr/looks like a clone or a restored copy/, 'and its status says why');
	change_and_sync(2);
	dumps_equal('the original goes on', [ $east, $west ], 't');
	is($west->safe_psql($db, 'SELECT count(*) FROM t WHERE id = 90001'), '0', 'nothing of the clone has arrived');

	# Its operator insists
	$clone->safe_psql($db, q(SELECT seal_sync.resume('west')));
	wait_for_state($clone, 'west', 'halted', 'resume does not make it the original');
	change_and_sync(1);
	dumps_equal('the original still goes on', [ $east, $west ], 't');
	wait_for_state($east, 'west', 'streaming');
	$clone->stop;
	$clone->clean_node;
};

subtest 'T4: the copy is first' => sub {
	$east->stop;
	my $clone = PostgreSQL::Test::Cluster->new('clone');
	copy_data($east->data_dir, $clone->data_dir);
	$clone->append_conf('postgresql.conf', 'port = ' . $clone->port . "\nunix_socket_directories = '" . $clone->host . "'");
	$clone->start;
	look_like_the_original($clone);
	wait_for_state($clone, 'west', 'streaming', 'the copy speaks before the original, which is down');
	$clone->safe_psql($db, q(INSERT INTO t VALUES (90002, 'a', 'of the clone')));
	wait_for_sync($clone);
	my $before = dump_of($west, 't');
	$east->start;
	$east->safe_psql($db, q(INSERT INTO t VALUES (90003, 'a', 'of the original'); DELETE FROM t WHERE id = 2;));
	wait_for_state($east, 'west', 'halted', 'then the original is halted');
	like(halt_message($east), qr/looks like a clone or a restored copy/, 'and its status says why');
	is(dump_of($west, 't'), $before, 'and changes nothing: only one of the two speaks');
	dumps_equal('the copy is the original now', [ $clone, $west ], 't');

	# Whoever wants the original back starts the pair anew
	$clone->stop;
	my %other = (east => 'west', west => 'east');
	$_->safe_psql($db, "SELECT seal_sync.peer_drop('" . $other{ $_->name } . "')") for $east, $west;
	$_->safe_psql($db, "SELECT seal_sync.peer_create('" . $other{ $_->name } . "')") for $east, $west;
	$_->safe_psql($db, q(SELECT seal_sync.table_remove('t'); SET seal_sync.guard = off; TRUNCATE t;
	  SELECT seal_sync.table_add('t', cluster_column => 'cluster_id', existing_rows => 'adopt'))) for $east, $west;
	wait_for_state($east, 'west', 'streaming');
	wait_for_state($west, 'east', 'streaming');
	$clone->clean_node;
};

# Puts west back to what CODE makes of it in between: stop, copy, start, CODE, stop, old copy, start.
sub west_falls_back
{
	my ($code) = @_;
	my $copy = $west->basedir . '/copy';
	$west->stop;
	copy_data($west->data_dir, $copy);
	$west->start;
	$code->();
	$west->stop;
	copy_data($copy, $west->data_dir);
	$west->start;
	return;
}

# The rows of cluster a; those of b are another matter once west has lost some of its own.
sub same_rows_of_a
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($here, $there) = map { $_->safe_psql($db, q(SELECT * FROM t WHERE cluster_id = 'a' ORDER BY id)) } $east, $west;
	return is($there, $here, $name . ' (' . ($here =~ tr/\n//) . ' rows)');
}

subtest 'resend window: a peer that fell back is healed' => sub {
	change_and_sync(2);
	west_falls_back(sub {
		change_and_sync(3);
		$east->safe_psql($db, q(UPDATE t SET v = 'changed' WHERE id % 2 = 0; DELETE FROM t WHERE id = (SELECT max(id) FROM t)));
		wait_for_sync($east);
		$east->safe_psql($db, q(UPDATE t SET id = id + 50000 WHERE id = (SELECT min(id) FROM t)));
		wait_for_sync($east);
	});
	change_and_sync(1);
	dumps_equal('once', [ $east, $west ], 't');
	west_falls_back(sub { change_and_sync(2) });
	change_and_sync(1);
	dumps_equal('twice', [ $east, $west ], 't');
	wait_for_state($east, 'west', 'streaming', 'and the route works');

	# As a source west is a restored copy: had it sent anything in between, it would not know
	wait_for_state($west, 'east', 'halted', 'its own route is halted');
	like(halt_message($west), qr/looks like a clone or a restored copy/, 'and its status says why');
	$west->safe_psql($db, q(INSERT INTO t VALUES (70001, 'b', 'of the restored copy')));
	change_and_sync(1);
	same_rows_of_a('the other direction does not mind');
	is($east->safe_psql($db, q(SELECT count(*) FROM t WHERE cluster_id = 'b')), '0', 'nothing was sent from the restored copy');
};

subtest 'resend window: a peer that fell back by more halts, nothing is deleted' => sub {
	$east->safe_psql($db, q(ALTER SYSTEM SET seal_sync.resend_window = '1s'));
	$east->reload;
	change_and_sync(2);
	# The history outlives the log, here for certain: nobody can empty it
	my $keeper = $east->background_psql($db);
	$keeper->query_safe('BEGIN; LOCK TABLE seal_sync.route_history_0, seal_sync.route_history_1 IN ACCESS SHARE MODE');
	my $before;
	west_falls_back(sub {
		$before = dump_of($west, 't');
		change_and_sync(3);
		wait_until($east, q(SELECT sum(pg_relation_size(c.oid)) = 0 FROM pg_class c WHERE relname ~ '^change_log_[0-9]$'), 't',
			'the log is empty: what west will miss is not there any more');
	});
	wait_for_state($east, 'west', 'halted', 'the route is halted');
	like(halt_message($east), qr/no longer knows/, 'its status says why');
	is(dump_of($west, 't'), $before, 'nothing was deleted or added on the peer');
	insert_rows($east, 'a', 1);
	$east->safe_psql($db, q(SELECT seal_sync.resume('west')));
	wait_for_state($east, 'west', 'halted', 'resume alone does not change that');
	is(dump_of($west, 't'), $before, 'still nothing');
	$keeper->quit;
};

done_testing();
