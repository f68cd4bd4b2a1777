# Misconfigurations and what check() says of them, for TAP tests: each is provoked, its finding looked at, and repaired, after
# which check() is "ok" again.
#
#   use SealCheck;
#   finds($east, 'guard_off', qr/guard is off/, qr/to refuse/, sub { provoke }, sub { repair });
#
# Provoking and repairing are SQL for the node, or code. Every hint is looked at: a finding without a way out is of no use.
package SealCheck;

use strict;
use warnings;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use SealSync;
use Test::More;
use Time::HiRes 'sleep';

our @EXPORT = qw(finds all_well set_and_reload);

my $failing = q(SELECT coalesce(string_agg(code, ' ' ORDER BY code), '') FROM seal_sync.check() WHERE severity IN ('critical', 'warning', 'ok'));

sub act
{
	my ($node, $what) = @_;
	return unless defined $what;
	ref $what ? $what->() : $node->safe_psql('postgres', $what);
	return;
}

# all_well(NODE, NAME): a test that check() gets to the one row ok (and infos).
sub all_well
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found = '';
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $end)
	{
		$found = $node->safe_psql('postgres', $failing);
		return pass("ok again: $name") if $found eq 'ok';
		sleep 0.05;
	}
	diag $node->safe_psql('postgres', 'SELECT * FROM seal_sync.check()');
	return is($found, 'ok', "ok again: $name");
}

# finds(NODE, CODE, MESSAGE, HINT, PROVOKE, REPAIR): a test. MESSAGE and HINT are patterns; REPAIR may be missing, for the caller to do.
sub finds
{
	my ($node, $code, $message, $hint, $provoke, $repair) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	act($node, $provoke);
	my $row = '';
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;
	while ($row eq '' && time < $end)
	{
		$row = $node->safe_psql('postgres', "SELECT severity || '|' || coalesce(scope, '') || '|' || message || '|' || coalesce(hint, '') FROM seal_sync.check() WHERE code = '$code' LIMIT 1");
		sleep 0.05 if $row eq '';
	}
	my ($severity, $scope, $said, $way_out) = split /\|/, $row, 4;
	ok($row ne '' && $said =~ $message && $way_out =~ $hint && $scope ne '', "$code: " . ($said // 'not found'))
	  or diag "$row\nwanted: $message\nand: $hint\n" . $node->safe_psql('postgres', 'SELECT * FROM seal_sync.check()');
	act($node, $repair);
	all_well($node, $code) if defined $repair;
	return;
}

# set_and_reload(NODE, NAME, VALUE or undef): code that sets a parameter of the server, or resets it.
sub set_and_reload
{
	my ($node, $name, $value) = @_;
	return sub {
		$node->safe_psql('postgres', defined $value ? "ALTER SYSTEM SET $name = $value" : "ALTER SYSTEM RESET $name");
		$node->reload;
	};
}

1;
