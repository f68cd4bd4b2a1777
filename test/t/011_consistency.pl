# The prefix promise: what the standby shows is a state that the primary had, and it never goes back.
# Accounts whose total is constant are moved between by many clients; a reader on the standby sums them up
# in every transaction. Judge: the sum, a counter that only rises, and pg_dump at the end.
use strict;
use warnings;
use lib 'test/perl';
use SealSync;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($east, $west) = two_nodes(conf => "seal_sync.scan_period = '20ms'");
my $db = 'postgres';
my $accounts = 200;

add_tables(<<'SQL', [ 'account', 'branch' ], $east, $west);
CREATE TABLE account (id int, cluster_id text, balance bigint, PRIMARY KEY (id, cluster_id));
CREATE TABLE branch (id int, cluster_id text, moves bigint, PRIMARY KEY (id, cluster_id));
SQL
$east->safe_psql($db, "INSERT INTO account SELECT i, 'a', 1000 FROM generate_series(1, $accounts) i; INSERT INTO branch VALUES (1, 'a', 0)");
wait_for_sync($east);

# Each transaction moves money between accounts, some by delete and insert, and counts itself.
my $script = $east->basedir . '/move.sql';
append_to_file($script, <<"SQL");
\\set from random(1, $accounts)
\\set to random(1, $accounts)
\\set amount random(1, 50)
BEGIN;
UPDATE branch SET moves = moves + 1 WHERE id = 1;
UPDATE account SET balance = balance - :amount WHERE id = :from;
UPDATE account SET balance = balance + :amount WHERE id = :to;
WITH gone AS (DELETE FROM account WHERE id = :from RETURNING *) INSERT INTO account SELECT id + 100000, cluster_id, balance FROM gone;
UPDATE account SET id = :from WHERE id = :from + 100000;
COMMIT;
SQL
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', '3', '-T', '12', '-f', $script, '-h', $east->host, '-p', $east->port, $db ],
	'>', \my $load_out, '2>', \my $load_err);

my ($reads, $wrong, $back, $changes, $last) = (0, 0, 0, 0, -1);
my $reader = $west->background_psql($db);
while ($load->pumpable)
{
	my ($sum, $count, $moves) = split /\|/, $reader->query(q(SELECT sum(balance), count(*), (SELECT moves FROM branch) FROM account));
	$reads++;
	$wrong++ if $sum != $accounts * 1000 || $count != $accounts;
	$back++ if $moves < $last;
	$changes++ if $moves > $last;
	$last = $moves;
	$load->pump_nb;
}
$load->finish;
$reader->quit;
unlike($load_err // '', qr/aborted|error/i, 'the load ran without an error');
cmp_ok($reads, '>', 100, "the standby was read $reads times");
cmp_ok($changes, '>', 20, "and showed $changes different states");
is($wrong, 0, 'the total was constant in every one');
is($back, 0, 'and no state was older than the one before');
wait_for_sync($east);
dumps_equal('both sides are equal at the end', [ $east, $west ], 'account', 'branch');
my $moves = $east->safe_psql($db, 'SELECT moves FROM branch');
is($west->safe_psql($db, 'SELECT moves FROM branch'), $moves, "all $moves moves arrived");

done_testing();
