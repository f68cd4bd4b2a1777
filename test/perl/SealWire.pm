# A sender in Perl: speaks the wire format to the wire functions of a node, through psql.
#
#   use SealWire;
#   my $east = SealWire->new($node, node => 'east');
#   $east->hello;
#   $east->describe('public.t', [[qw(id int4 F 4 1)], [qw(v text T)]], cluster => 'a');
#   $east->batch($east->whole('public.t', [[1, 'one'], [2, undef]]));
#
# What a real sender does is done by the methods without arguments; every field can be given to do it wrong. A method
# returns a hash: the fields of the answer, or {error => SQLSTATE, message, detail}. Values are given as Perl strings and
# numbers and packed by class: F by width, everything else as bytes.
package SealWire;

use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Time::HiRes ();

my $counter = 0;

# new(NODE, node => NAME, expected => NAME, dbname => NAME, user => NAME)
sub new
{
	my ($class, $server, %option) = @_;
	my $self = bless {
		server => $server, dbname => $option{dbname} // 'postgres', user => $option{user}, node => $option{node} // 'east',
		expected => $option{expected} // 'west', token => $option{token} // id($option{node} // 'east'),
		generation => $option{generation} // 0, tables => {}, next_table => 1, epochs => $option{epochs} // { a => 1 },
		batch => 0, batch_id => "\0" x 16
	}, $class;
	$self->connect;
	return $self;
}

# 16 bytes that follow from a text
sub id { my ($text) = @_; return substr(sprintf('%-16s', $text), 0, 16) }

# ---- bytes ---------------------------------------------------------------------------------------

sub varint { my ($n) = @_; my $out = ''; while ($n >= 128) { $out .= chr($n & 127 | 128); $n >>= 7 } return $out . chr($n) }
sub sized { my ($bytes) = @_; utf8::encode($bytes) if utf8::is_utf8($bytes); return varint(length $bytes) . $bytes }
sub u8  { return pack 'C', $_[0] }
sub u32 { return pack 'L<', $_[0] & 0xffffffff }
sub u64 { return pack 'Q<', $_[0] }

sub take
{
	my ($self, $count) = @_;
	die "the answer is too short" if length $self->{in} < $count;
	return substr $self->{in}, 0, $count, '';
}
sub take_u8  { return unpack 'C', $_[0]->take(1) }
sub take_u32 { return unpack 'L<', $_[0]->take(4) }
sub take_u64 { return unpack 'Q<', $_[0]->take(8) }
sub take_varint { my ($self) = @_; my ($n, $shift) = (0, 0); while (1) { my $byte = $self->take_u8; $n |= ($byte & 127) << $shift; last if $byte < 128; $shift += 7 } return $n }
sub take_text { my ($self) = @_; return $self->take($self->take_varint) }
sub take_problem { my ($self) = @_; my %p; $p{$_} = $self->take_text for qw(sqlstate message detail hint); return \%p }

# ---- the connection ------------------------------------------------------------------------------

sub connect
{
	my ($self) = @_;
	@$self{qw(stdin stdout stderr)} = ('', '', '');
	my $connstr = $self->{server}->connstr . " dbname=$self->{dbname}" . ($self->{user} ? " user=$self->{user}" : '');
	$self->{psql} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $connstr, '-f', '-' ],
		'<', \$self->{stdin}, '>', \$self->{stdout}, '2>', \$self->{stderr},
		$self->{timer} = IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
	my $pid = $self->sql('SELECT pg_backend_pid()');
	$self->{pid} = $pid->{value};
}

sub close { my ($self) = @_; if ($self->{psql}) { $self->{stdin} .= "\\q\n"; eval { $self->{psql}->finish }; delete $self->{psql} } }
sub DESTROY { my ($self) = @_; local ($?, $@); $self->close }

# sql(TEXT): {value => first field of what was printed} or {error, message, detail}
sub sql
{
	my ($self, $sql) = @_;
	my $mark = 'mark' . ++$counter;
	$self->{timer}->reset; $self->{timer}->start($PostgreSQL::Test::Utils::timeout_default);
	($self->{stdout}, $self->{stderr}) = ('', '');
	$self->{stdin} .= "$sql;\n\\echo $mark\n\\warn $mark\n";
	eval { $self->{psql}->pump until ($self->{stdout} =~ /^$mark$/m && $self->{stderr} =~ /^$mark$/m) || !$self->{psql}->pumpable };
	die "psql does not answer: $self->{stderr}" if $self->{timer}->is_expired;
	my ($out, $err) = ($self->{stdout}, $self->{stderr});
	s/^$mark\n//m for $out, $err;
	$self->{log} = $err;
	if ($err =~ /(?:ERROR|FATAL):\s+(\w{5}): (.*)/)
	{
		my %failed = (error => $1, message => $2);
		($failed{detail}) = $err =~ /^(?:.*: )?DETAIL:\s+(.*)/m;
		return \%failed;
	}
	return { error => 'gone', message => $err } if !$self->{psql}->pumpable && $out eq '';
	$out =~ s/\n\z//;
	return { value => $out };
}

# one call in a statement of its own; the answer's bytes are left in {in}
sub call
{
	my ($self, $function, $bytes, $before, $after) = @_;
	my $argument = defined $bytes ? "'\\x" . unpack('H*', $bytes) . "'::bytea" : '';
	my $got = $self->sql(($before // '') . "SELECT seal_sync.$function($argument)" . ($after // ''));
	return $got if $got->{error};
	my ($hex) = $got->{value} =~ /\\x([0-9a-f]*)/;
	$self->{in} = pack 'H*', $hex // '';
	return {};
}

# ---- the functions -------------------------------------------------------------------------------

sub hello
{
	my ($self, %o) = @_;
	my %h = (min => 1, protocol => 1, node => $self->{node}, token => $self->{token}, expected => $self->{expected},
		generation => $self->{generation}, encoding => 'UTF8', version => 'perl', clock => 0, epochs => $self->{epochs}, %o);
	my $got = $self->call('wire_hello', u32($h{min}) . u32($h{protocol}) . sized($h{node}) . $h{token} . sized($h{expected})
		. u64($h{generation}) . sized($h{encoding}) . sized($h{version}) . u64($h{clock}) . varint(scalar keys %{$h{epochs}})
		. join('', map { sized($_) . u64($h{epochs}{$_}) } sort keys %{$h{epochs}}) . ($h{extra} // ''));
	return $got if $got->{error};
	my %r = (problem => $self->take_problem);
	$r{protocol} = $self->take_u32;
	$r{node} = $self->take_text;
	$r{token} = $self->take(16);
	$r{generation} = $self->take_u64;
	$r{has_batch} = $self->take_u8;
	$r{batch} = $self->take_u64;
	$r{batch_id} = $self->take(16);
	$r{encoding} = $self->take_text;
	$r{version} = $self->take_text;
	$r{clock} = $self->take_u64;
	$r{config} = $self->take_u64;
	my $clusters = $self->take_varint;
	for (1 .. $clusters)
	{
		my $name = $self->take_text;
		$r{clusters}{$name} = { verdict => $self->take_u8, epoch => $self->take_u64, primary => $self->take_text };
	}
	return \%r if $r{problem}{sqlstate} ne '';
	$r{features} = $self->take_varint;
	$self->{generation} = $r{generation};
	@$self{qw(batch batch_id)} = $r{has_batch} ? @r{qw(batch batch_id)} : (0, "\0" x 16);
	$self->{tables} = {};
	return \%r;
}

# describe(TABLE, [[NAME, TYPE, CLASS, WIDTH, KEY POSITION, TYPMOD, TYPE SCHEMA], ...], cluster => NAME | column => NAME)
sub describe
{
	my ($self, $table, $columns, %o) = @_;
	my ($schema, $name) = split /\./, $table;
	my $number = $o{number} // $self->{next_table}++;
	my $body = varint($number) . sized($schema) . sized($name) . varint($o{count} // scalar @$columns);
	for my $c (@$columns)
	{
		my ($column, $type, $class, $width, $key, $typmod, $type_schema) = @$c;
		$body .= sized($column) . sized($type_schema // 'pg_catalog') . sized($type) . u32($typmod // -1) . $class . u8($width // 0) . u8($key // 0);
	}
	$body .= sized($o{column} // '') . sized($o{cluster} // ($o{column} ? '' : 'a'));
	my $got = $self->call('wire_describe', $body . ($o{extra} // ''));
	return $got if $got->{error};
	my %r = (problem => $self->take_problem);
	return \%r if $r{problem}{sqlstate} ne '';
	my @columns = map { [@$_] } @$columns;
	for my $c (@columns) { my $text = $self->take_u8; push @{$r{text}}, $c->[0] if $text; @$c[2, 3] = ('O', 0) if $text }
	$self->{tables}{$table} = { number => $number, columns => \@columns,
		key => [ map { $_->[1] } sort { $a->[0] <=> $b->[0] } map { $columns[$_][4] ? [ $columns[$_][4], $_ ] : () } 0 .. $#columns ] };
	$r{text} //= [];
	return \%r;
}

my %pack = (bool => 'C', char => 'a', int2 => 's<', int4 => 'l<', oid => 'L<', date => 'l<', float4 => 'f<', float8 => 'd<', int8 => 'q<',
	time => 'q<', timestamp => 'q<', timestamptz => 'q<', money => 'q<', uuid => 'a16');

# the bytes of a row over some columns
sub row
{
	my ($self, $table, $which, $values) = @_;
	my $t = ref $table ? $table : $self->{tables}{$table};
	my $nulls = "\0" x int((@$which + 7) / 8);
	my $body = '';
	for my $i (0 .. $#$which)
	{
		my $c = $t->{columns}[ $which->[$i] ];
		if (!defined $values->[$i]) { vec($nulls, $i, 1) = 1; next }
		$body .= $c->[2] eq 'F' ? pack($pack{$c->[1]}, $values->[$i]) : sized($values->[$i]);
	}
	return $nulls . $body;
}

sub section
{
	my ($self, $kind, $number, $rows, $body) = @_;
	return $kind . varint($number) . varint($rows) . u32(length $body) . $body;
}

# sections of rows: whole(TABLE, [[VALUES], ...]), removed(TABLE, [[KEY], ...]), partial(TABLE, [COLUMNS], [[VALUES], ...])
sub whole
{
	my ($self, $table, $rows) = @_;
	my $t = $self->{tables}{$table} // die "$table was not described";
	return { rows => scalar @$rows, bytes => $self->section('W', $t->{number}, scalar @$rows, join '', map { $self->row($t, [ 0 .. $#{$t->{columns}} ], $_) } @$rows) };
}
sub removed
{
	my ($self, $table, $rows) = @_;
	my $t = $self->{tables}{$table} // die "$table was not described";
	return { rows => scalar @$rows, bytes => $self->section('D', $t->{number}, scalar @$rows, join '', map { $self->row($t, $t->{key}, $_) } @$rows) };
}
sub partial
{
	my ($self, $table, $names, $rows) = @_;
	my $t = $self->{tables}{$table} // die "$table was not described";
	my %wanted = map { $_ => 1 } @$names;
	my @which = grep { $wanted{ $t->{columns}[$_][0] } } 0 .. $#{$t->{columns}};
	my $mask = "\0" x int((@{$t->{columns}} + 7) / 8);
	vec($mask, $_, 1) = 1 for @which;
	return { rows => scalar @$rows, bytes => $self->section('P', $t->{number}, scalar @$rows, sized($mask) . join '', map { $self->row($t, \@which, $_) } @$rows) };
}

# the bytes of sections as a packed chunk: a zstd frame of one raw block, which needs no library
sub packed
{
	my ($self, @sections) = @_;
	my ($rows, $bytes) = (0, join '', map { $_->{bytes} } @sections);
	$rows += $_->{rows} for @sections;
	return { rows => $rows, bytes => frame(length $bytes, 0, $bytes) };
}
# frame(ANNOUNCED SIZE, TYPE of the block: 0 raw, 1 one byte many times, CONTENT, SIZE of the block)
sub frame
{
	my ($announced, $type, $content, $size) = @_;
	return "Z\x28\xb5\x2f\xfd\xe0" . u64($announced) . substr(u32(($size // length $content) << 3 | $type << 1 | 1), 0, 3) . $content;
}

sub put { my ($self, @sections) = @_; return $self->call('wire_put', join '', map { $_->{bytes} } @sections) }

# apply(sections => [...] of the last chunk, chunks, rows, batch, id, previous, previous_id, generation, careful, epochs,
# stages => [names or {id, chunks, rows}]): one attempt, and the same once more for refusals that are too large for the
# first answer (leave => 1: not)
sub apply
{
	my ($self, %o) = @_;
	my %a = (batch => $self->{batch} + 1, previous => $self->{batch}, previous_id => $self->{batch_id}, generation => $self->{generation},
		until => 0, careful => 0, chunks => 0, sections => [], epochs => $self->{epochs}, begin => 'BEGIN ISOLATION LEVEL READ COMMITTED', %o);
	$a{id} //= id("$self->{node} $a{batch} " . ++$counter);
	my $rows = 0;
	$rows += $_->{rows} for @{$a{sections}};
	$a{rows} //= $rows;
	my $last = join '', map { $_->{bytes} } @{$a{sections}};
	$a{request} = u64($a{batch}) . $a{id} . u64($a{previous}) . $a{previous_id} . u64($a{generation}) . u64($a{until}) . u8($a{flags} // ($a{careful} | ($a{stages} ? 2 : 0)))
		. varint($a{chunks}) . varint($a{rows}) . varint(scalar keys %{$a{epochs}})
		. join('', map { sized($_) . u64($a{epochs}{$_}) } sort keys %{$a{epochs}}) . $self->stage_uses($a{stages}) . $last . ($a{extra} // '');
	# one simple query, as the real sender sends it
	return \%a if $a{only_request};
	my $got = $self->call('wire_apply', $a{request}, $a{streamed} ? '' : "$a{begin}\\; ", $a{begin} ? '\\; COMMIT' : '');
	if ($got->{error}) { $self->sql('ROLLBACK'); return { %$got, id => $a{id} } }
	my %r = (id => $a{id}, size => length $self->{in}, status => $self->take_u8);
	$r{$_} = $self->take_varint for qw(inserted updated deleted unchanged us);
	$r{complete} = $self->take_u8;
	my $refusals = $self->take_varint;
	$r{refused} = [];
	for (1 .. $refusals)
	{
		my %refusal;
		$refusal{$_} = $self->take_text for qw(schema table);
		$refusal{kind} = chr $self->take_u8;
		$refusal{$_} = $self->take_text for qw(key sqlstate message detail constraint);
		push @{$r{refused}}, \%refusal;
	}
	if (!$r{complete} && !$a{leave})
	{
		my $again = $self->apply(%a, rows => $a{rows});
		die "the refusals do not come" if $again->{error} || $again->{status} != 1 || !$again->{complete};
		$r{refused} = $again->{refused};
	}
	@$self{qw(batch batch_id)} = @a{qw(batch id)};
	delete @{ $self->{stages} }{ grep { !ref } @{ $a{stages} // [] } };
	return \%r;
}

# begin(...as apply): opens a batch that is applied while it is put; finish it by apply(%$it, streamed => 1, ...)
sub begin
{
	my ($self, %o) = @_;
	my $a = $self->apply(%o, only_request => 1);
	my $got = $self->call('wire_begin', $a->{request}, "$a->{begin}\\; ");
	if ($got->{error}) { $self->sql('ROLLBACK'); return $got }
	return { map { $_ => $a->{$_} } qw(batch previous previous_id id) };
}

# batch(SECTIONS): what a real sender does: a plain attempt, careful ones after an error of the data, wanted rows never.
# The first argument may be a hash with more for apply().
sub batch
{
	my ($self, @sections) = @_;
	my %more = @sections && !exists $sections[0]{bytes} ? %{ shift @sections } : ();
	my $id = id("$self->{node} " . ++$counter);
	my $got = $self->apply(%more, sections => \@sections, id => $id);
	my @errors;
	while ($got->{error} && (@errors < 50 || $got->{error} eq 'SSW03') && $got->{error} !~ /^(SSW01|SSW02|SSW04|SSW05|SSW06|gone|08|40|53|57|58|XX|55P03)/)
	{
		push @errors, $got->{error};
		$got = $self->apply(%more, sections => \@sections, id => $id, careful => 1);
	}
	$got->{attempts} = 1 + @errors;
	$got->{errors} = \@errors;
	return $got;
}

# stage(NAME, [CHUNKS], pass, note, previous, previous_id, chunks, rows, generation): puts chunks, each a section or an array of
# sections, and stages them. What the sender believes of the stage is kept in {stages}{NAME}.
sub stage
{
	my ($self, $name, $chunks, %o) = @_;
	my $rows = 0;
	for my $chunk (@$chunks)
	{
		my @sections = ref $chunk eq 'ARRAY' ? @$chunk : ($chunk);
		my $put = $self->put(@sections);
		return $put if $put->{error};
		$rows += $_->{rows} for @sections;
	}
	my $known = $self->{stages}{$name} //= { id => id($name), previous => $self->{batch}, previous_id => $self->{batch_id}, chunks => 0, rows => 0 };
	my %s = (generation => $self->{generation}, pass => 1, note => '', chunks => scalar @$chunks, rows => $rows, %$known{qw(id previous previous_id)}, %o);
	my $got = $self->call('wire_stage', u64($s{generation}) . $s{id} . u64($s{previous}) . $s{previous_id} . u32($s{pass})
		. varint($s{chunks}) . varint($s{rows}) . sized($s{note}) . ($s{extra} // ''), $s{before});
	return $got if $got->{error};
	my %r = map { $_ => $self->take_u64 } qw(chunks rows bytes);
	@$known{qw(chunks rows)} = @r{qw(chunks rows)};
	return \%r;
}

sub stage_uses
{
	my ($self, $stages) = @_;
	return '' if !$stages;
	my @uses = map { ref $_ ? $_ : $self->{stages}{$_} // { id => id($_), chunks => 0, rows => 0 } } @$stages;
	return varint(scalar @uses) . join '', map { $_->{id} . u64($_->{chunks}) . u64($_->{rows}) } @uses;
}

# what the receiver has kept
sub stages
{
	my ($self) = @_;
	my $got = $self->call('wire_stages');
	return $got if $got->{error};
	my @stages;
	for (1 .. $self->take_varint)
	{
		my %s = (id => $self->take(16), previous => $self->take_u64, previous_id => $self->take(16));
		$s{$_} = $self->take_u64 for qw(chunks rows bytes);
		$s{note} = $self->take_text;
		push @stages, \%s;
	}
	return { stages => \@stages };
}

sub drop_stage
{
	my ($self, $name, %o) = @_;
	my $got = $self->call('wire_stage_drop', u64($o{generation} // $self->{generation}) . id($name) . ($o{extra} // ''));
	delete $self->{stages}{$name} if !$got->{error};
	return $got;
}

# the wanted rows as [table number, key bytes]
sub wanted
{
	my ($self) = @_;
	my $got = $self->call('wire_wanted');
	return $got if $got->{error};
	return { wanted => [ map { [ $self->take_varint, $self->take_text ] } 1 .. $self->take_varint ] };
}

sub heartbeat
{
	my ($self, %o) = @_;
	my $got = $self->call('wire_heartbeat', u64($o{generation} // $self->{generation}) . u64($o{until} // 0) . ($o{extra} // ''));
	return $got if $got->{error};
	return { problem => $self->take_problem, batch => $self->take_u64, batch_id => $self->take(16), clock => $self->take_u64, config => $self->take_u64 };
}

1;
