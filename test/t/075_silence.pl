# A sender that stops in the middle of a call, while its batch is applied as it arrives, loses its connection as fast as one
# that stops between two calls. The server's own timeout for idle transactions runs only between calls, and a link that
# breaks under load breaks inside of one: the description of a call is there, its chunk is not.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;
use SealWire;

# The sender of SealWire, on a socket of its own: it can send half of what a client library would.
package SocketWire;
our @ISA = ('SealWire');
sub connect
{
	my ($self) = @_;
	$self->{socket} = $self->{server}->raw_connect;
	$self->{socket}->autoflush(1);
	my $startup = pack('N', 196608) . join("\0", user => $self->{user}, database => $self->{dbname}) . "\0\0";
	print { $self->{socket} } pack('N', 4 + length $startup) . $startup;
	return $self->answer;
}
sub close { my ($self) = @_; delete $self->{socket}; return }
sub post { my ($self, $kind, $body) = @_; print { $self->{socket} } $kind . pack('N', 4 + length $body) . $body; return }
sub get { my ($self, $size) = @_; my $got = ''; while (length $got < $size) { sysread $self->{socket}, $got, $size - length $got, length $got or die "the connection is gone" } return $got }
sub answer
{
	my ($self) = @_;
	my %result = (value => '');
	for (;;)
	{
		my ($kind, $size) = unpack 'aN', $self->get(5);
		my $body = $self->get($size - 4);
		return \%result if $kind eq 'Z';
		$result{value} = substr $body, 6 if $kind eq 'D' && unpack('xxN', $body) != 0xffffffff;
		@result{qw(error message)} = ($body =~ /\0C([^\0]*)/, $body) if $kind eq 'E';
	}
}
sub sql { my ($self, $sql) = @_; $sql =~ s/\\;/;/g; $self->post('Q', "$sql\0"); return $self->answer }

package main;

my $node = receiver();
sub sql { return $node->safe_psql('postgres', $_[0]) }
sql(q(
CREATE TABLE t (id int PRIMARY KEY, v text);
SELECT seal_sync.table_add('t', cluster => 'a');
));

my $parse = "\0SELECT seal_sync.wire_put(\$1)\0" . pack('nN', 1, 17);
for ([ 'after the description of a call', 'P', $parse ],
	[ 'before the rest of a chunk', 'P', $parse, 'half' ],
	[ 'when it has switched the timeout of the session off', undef ])
{
	my ($name, $kind, $body, $half) = @$_;
	my $sender = SocketWire->new($node, user => 'sync_in');
	$sender->hello;
	is($sender->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T)] ])->{problem}{sqlstate}, '', 't fits');
	my $it = $sender->begin;
	is($sender->put($sender->whole('public.t', [ [ 1, 'silent' ] ]))->{error}, undef, 'a chunk is applied');
	is(sql(q(SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND mode = 'RowExclusiveLock')), 1, 'its table is locked');
	if ($kind)
	{
		$sender->post($kind, $body);
		print { $sender->{socket} } 'B' . pack('N', 1000) . "\0\0" if $half;
	}
	else
	{
		$sender->sql('SET idle_in_transaction_session_timeout = 0');
	}
	wait_until($node, q(SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass)), 't', "the locks of a sender go that is silent $name");
	is(sql('SELECT count(*) FROM t'), 0, 'and its rows');
	$sender->close;
}

# One that is not silent goes on, and once the batch has ended nothing is left of the bound
my $sender = SocketWire->new($node, user => 'sync_in');
$sender->hello;
$sender->describe('public.t', [ [qw(id int4 F 4 1)], [qw(v text T)] ]);
my $it = $sender->begin;
$sender->put($sender->whole('public.t', [ [ 1, 'there' ] ]));
is($sender->apply(%$it, streamed => 1, chunks => 1, rows => 1)->{error}, undef, 'a batch ends');
is($sender->sql('SELECT pg_sleep(1.5)')->{error}, undef, 'its sender may be silent now');
$it = $sender->begin;
$sender->sql('ROLLBACK');
is($sender->sql('SELECT pg_sleep(1.5)')->{error}, undef, 'and after one that was rolled back');
is(sql('SELECT v FROM t'), 'there', 'the row is there');
done_testing();
