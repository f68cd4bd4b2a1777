# What status and stat_route say: whole sentences, no values of rows, and where the time went.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;

my ($east, $west) = two_nodes();
add_tables(q(CREATE TABLE seal (id int PRIMARY KEY, cluster_id text, owner text)), ['seal'], $east, $west);
sub sql { my ($node, $sql) = @_; return $node->safe_psql('postgres', $sql) }

# ---- an error that nobody but the owner of the rows should read -----------------------------------------
# A peer refuses single rows and names them in its answer; this one fails as a whole, and quotes.
sub peer_fails
{
	my ($sqlstate) = @_;
	sql($west, qq(CREATE OR REPLACE FUNCTION seal_sync.wire_apply(request bytea) RETURNS bytea LANGUAGE plpgsql AS
		\$\$ BEGIN RAISE EXCEPTION USING ERRCODE = '$sqlstate', MESSAGE = 'message of wang', DETAIL = 'Detail of wang.', HINT = 'Hint of wang.'; END \$\$));
}
sql($west, q(ALTER FUNCTION seal_sync.wire_apply(bytea) RENAME TO wire_apply_away));
peer_fails('P0001');
sql($east, q(INSERT INTO seal VALUES (1, 'a', 'wang')));
for my $sqlstate (qw(P0001 22P02 44000 UE001))
{
	peer_fails($sqlstate);
	wait_until($east, q(SELECT last_error_sqlstate FROM seal_sync.status WHERE direction = 'out'), $sqlstate, "$sqlstate arrives");
	unlike(sql($east, q(SELECT s FROM seal_sync.status s)), qr/wang/, "$sqlstate: no value in status");
	unlike(sql($east, q(SELECT h FROM seal_sync.health h)), qr/wang/, 'nor in health');
	is(sql($east, q(SELECT last_error FROM seal_sync.status WHERE direction = 'out')), "a row was refused with SQLSTATE $sqlstate", 'what is told instead');
}
peer_fails('23505');
wait_until($east, q(SELECT last_error FROM seal_sync.status WHERE direction = 'out' AND last_error_sqlstate = '23505'), 'message of wang', 'of a constraint it is the detail that quotes');
peer_fails('53100');
wait_until($east, q(SELECT last_error FROM seal_sync.status WHERE direction = 'out' AND last_error_sqlstate = '53100'), 'message of wang: Detail of wang.', 'what is no row is told in full');
sql($west, q(DROP FUNCTION seal_sync.wire_apply(bytea); ALTER FUNCTION seal_sync.wire_apply_away(bytea) RENAME TO wire_apply));
wait_until($east, q(SELECT pending_keys = 0 AND state = 'streaming' FROM seal_sync.status WHERE direction = 'out'), 't', 'it goes on');

# ---- where the time went --------------------------------------------------------------------------------
sql($east, q(SELECT seal_sync.stat_reset(); INSERT INTO seal SELECT i, 'a', repeat(md5(i::text), 60) FROM generate_series(2, 20001) i));
wait_for_sync($east);
is(sql($west, q(SELECT count(*) FROM seal)), 20001, 'rows travel');
is(sql($east, q(SELECT encode_time > 0 AND last_encode_time IS NOT NULL FROM seal_sync.stat_route)), 't', 'encoding takes time');
is(sql($east, q(SELECT read_time >= 0 AND read_time + encode_time < 1000 * extract(epoch FROM clock_timestamp() - stats_reset) FROM seal_sync.stat_route)), 't', 'beside reading');
wait_until($east, q(SELECT idle_time > 0 AND last_idle_time >= 0 AND last_idle_time <= idle_time FROM seal_sync.stat_route), 't', 'as does waiting');

# ---- sentences ------------------------------------------------------------------------------------------
$west->stop;
wait_for_state($east, 'west', 'retrying');
my $log = '';
for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if ($log = slurp_file($east->logfile)) =~ /accepting connections on that socket\?/;
	select undef, undef, undef, 0.1;
}
like($log, qr/accepting connections on that socket\?$/m, 'a question ends with its mark');

done_testing();
