# A slow link that breaks: a TCP proxy on the loopback, for tests of what must survive one.
#
#   use SealProxy;
#   my $link = SealProxy->new(to => $west->port, rate => 500_000, break_every => 2);
#   ... host => '127.0.0.1', port => $link->port ...
#   $link->stop;
#
# rate: bytes a second towards the server, in all; break_every: seconds after which all connections are cut. Both can be left out.
# It runs in a process of its own and ends with the test.
package SealProxy;

use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(time);

sub new
{
	my ($class, %option) = @_;
	my $listener = IO::Socket::INET->new(Listen => 16, LocalAddr => '127.0.0.1', Proto => 'tcp') or die "listen: $!";
	my $parent = $$;
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		$SIG{TERM} = sub { POSIX::_exit(0) };
		serve($listener, $parent, %option);
		POSIX::_exit(0);
	}
	my $self = bless { pid => $pid, port => $listener->sockport }, $class;
	close $listener;
	return $self;
}

sub port { return $_[0]{port} }

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	kill 'TERM', $pid;
	waitpid $pid, 0;
	return;
}

sub DESTROY
{
	local ($?, $!);
	$_[0]->stop;
	return;
}

# Forwards until the test is gone.
sub serve
{
	my ($listener, $parent, %option) = @_;
	my $select = IO::Select->new($listener);
	my (%other, %to_server);
	my ($allowed, $filled, $cut) = (0, time, time);
	my $drop = sub {
		for my $socket (@_)
		{
			next unless $other{$socket};
			my $twin = delete $other{$socket};
			delete $other{$twin};
			delete $to_server{$_} for $socket, $twin;
			$select->remove($socket, $twin);
			close $_ for $socket, $twin;
		}
	};
	while (kill 0, $parent)
	{
		my $now = time;
		if ($option{break_every} && $now - $cut >= $option{break_every})
		{
			$drop->(grep { $_ != $listener } $select->handles);
			$cut = $now;
		}
		if ($option{rate})
		{
			$allowed += ($now - $filled) * $option{rate};
			$allowed = $option{rate} / 5 if $allowed > $option{rate} / 5;
			$filled = $now;
		}
		for my $socket ($select->can_read(0.02))
		{
			if ($socket == $listener)
			{
				my $client = $listener->accept or next;
				my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $option{to}, Proto => 'tcp');
				close $client, next unless $server;
				@other{ $client, $server } = ($server, $client);
				$to_server{$client} = 1;
				$select->add($client, $server);
				next;
			}
			next unless $other{$socket};
			my $limited = $option{rate} && $to_server{$socket};
			if ($limited && $allowed < 1) { select undef, undef, undef, 0.005; next }
			my $got = sysread $socket, my $bytes, $limited ? int($allowed) : 65536;
			if (!$got) { $drop->($socket); next }
			$allowed -= $got if $limited;
			my $at = 0;
			while ($at < $got)
			{
				my $put = syswrite $other{$socket}, $bytes, $got - $at, $at;
				if (!$put) { $drop->($socket); last }
				$at += $put;
			}
		}
	}
	return;
}

1;
