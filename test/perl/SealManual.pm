# Plays pages of the manual: what stands in a page's ```sql blocks is typed as it stands there, block by block.
#
#   my %node = (east => ..., west => ...);
#   my $page = SealManual->new('first-pair', \%node, db => 'bank');
#   $page->play(before => { 'See it' => sub { ... } }, after => { 'See it' => sub { my (@output) = @_; ... } });
#
# The words behind ```sql name the nodes (none: east; both: east and west), and "fails SQLSTATE" what the last command must
# answer. Of the text only hosts are replaced, by the test's host and port: 10.0.0.1 is east, 10.0.0.2 west, 10.0.0.3 the third.
# Option replace (TEXT => TEXT) is for what only the test knows: folders, names.
# before and after are called with the outputs of the blocks under a heading; a heading that the page does not have is an error, so
# that a test cannot go on checking what is no longer written.
package SealManual;

use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

sub new
{
	my ($class, $name, $node, %option) = @_;
	my (@block, $heading, $block);
	my $line = 0;
	for (split /\n/, slurp_file("$FindBin::Bin/../../doc/$name.md"))
	{
		$line++;
		if ($block)
		{
			if (/^```/)
			{
				push @block, $block if defined $block->{nodes}; # else it is no SQL
				undef $block;
			}
			else { $block->{sql} .= "$_\n" }
		}
		elsif (/^```sql *(.*)$/)
		{
			my @word = split ' ', $1;
			my $fails = @word > 1 && $word[-2] eq 'fails' ? (splice @word, -2)[1] : undef;
			die "$name.md:$line: $_" if grep { !/^\w+$/ || $_ eq 'fails' } @word;
			my @where = map { $_ eq 'both' ? qw(east west) : $_ } @word;
			$block = { heading => $heading, line => $line, sql => '', fails => $fails, nodes => @where ? \@where : ['east'] };
		}
		elsif (/^```/) { $block = {} }
		elsif (/^#+ (.*)$/) { $heading = $1 }
	}
	die "$name.md has no SQL" unless @block;
	my %self = (name => $name, blocks => \@block, node => $node, db => $option{db} // 'postgres', third => $option{third} // 'north', replace => $option{replace} // {});
	return bless \%self, $class;
}

sub _typed
{
	my ($self, $sql) = @_;
	my %at = ('10.0.0.1' => 'east', '10.0.0.2' => 'west', '10.0.0.3' => $self->{third});
	$sql =~ s{host '(10\.0\.0\.\d)'}{my $n = $self->{node}{ $at{$1} }; "host '" . $n->host . "', port '" . $n->port . "'"}ge;
	$sql =~ s/dbname .bank./dbname '$self->{db}'/g;
	for my $what (sort { length $b <=> length $a } keys %{ $self->{replace} })
	{
		$sql =~ s/\Q$what\E/$self->{replace}{$what}/g;
	}
	return $sql;
}

# play(before => {HEADING => CODE}, after => {HEADING => CODE}, only => [HEADINGS], skip => {HEADING => REASON})
sub play
{
	my ($self, %option) = @_;
	my %heading = map { $_->{heading} => 1 } @{ $self->{blocks} };
	for my $name (@{ $option{only} // [] }, map { keys %{ $option{$_} // {} } } qw(before after skip))
	{
		die "$self->{name}.md has no SQL under \"$name\"" unless $heading{$name};
	}
	my ($heading, @output) = ('');
	my $end = sub {
		$option{after}{$heading}->(@output) if $option{after}{$heading};
		@output = ();
	};
	for my $block (@{ $self->{blocks} })
	{
		if ($block->{heading} ne $heading)
		{
			$end->();
			$heading = $block->{heading};
			$option{before}{$heading}->() if $option{before}{$heading};
		}
		next if $option{skip}{$heading} || ($option{only} && !grep { $_ eq $heading } @{ $option{only} });
		for my $name (@{ $block->{nodes} })
		{
			my $node = $self->{node}{$name} or die "$self->{name}.md:$block->{line}: what is $name?";
			my ($rc, $out, $err) = $node->psql($self->{db}, $self->_typed($block->{sql}),
				extra_params => [ '-v', 'VERBOSITY=verbose' ], on_error_stop => 1);
			my $where = "$self->{name}.md:$block->{line} \"$heading\" on $name";
			if (defined $block->{fails}) { like($err, qr/ERROR:  $block->{fails}:/, "$where fails as it says") }
			else { is($rc, 0, $where) or diag $err }
			push @output, $out;
		}
	}
	$end->();
	return;
}

1;
