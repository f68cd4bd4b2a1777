# The roles, each "may" and "may not" of the manual, tried: every function and every table and view of the extension by a login of
# each role; and what each role must never get hold of, however new objects come to be called.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use FindBin;
use lib "$FindBin::Bin/../perl";
use SealSync;

my $node = one_node('east');
my $db = 'postgres';
sub sql { my ($sql) = @_; return $node->safe_psql($db, $sql) }
# As that login: output, or the SQLSTATE of the error
sub as
{
	my ($login, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($db, "\\set VERBOSITY sqlstate\n$sql", connstr => $node->connstr($db) . " user=$login");
	return $rc == 0 && $err !~ /^(psql:.*)?ERROR/m ? $out : $err =~ /ERROR:\s+(\w{5})/ ? "ERROR $1" : "ERROR? $err";
}

my @roles = qw(admin operator monitor read_data peer application worker);
sql('CREATE EXTENSION seal_sync');
sql("CREATE ROLE as_$_ LOGIN IN ROLE seal_sync_$_") for grep { $_ ne 'worker' } @roles;
sql('CREATE ROLE as_nobody LOGIN; CREATE ROLE as_pg_monitor LOGIN IN ROLE pg_monitor; GRANT CREATE ON SCHEMA public TO as_admin, as_nobody');

# ---- who may execute what ---------------------------------------------------------------------------------
# By the names of the manual; of other functions (what views are made of) no role that could do harm with them may execute any.
my %may = (
	admin => [qw(node_create node_drop node_adopt peer_create peer_alter peer_drop peer_check check cluster_create cluster_alter cluster_drop
		is_primary primary_of table_add table_remove schema_add wait_for_tables schema_diff config_diff config_adopt sequence_split sequence_add
		sequence_remove version)],
	operator => [qw(pause resume sync_now wait_for_tables quarantine_retry quarantine_skip stat_reset node_detach node_attach peer_check version is_primary primary_of)],
	monitor => [qw(version is_primary primary_of)],
	read_data => [],
	peer => [],
	application => [qw(is_primary primary_of version)],
	nobody => [],
);
my @callable = split /\n/, sql(q(SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'seal_sync'::regnamespace
  AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND p.proname <> 'fdw_validator' ORDER BY 1));
my %named = map { $_ => 1 } map { @$_ } values %may;
my @helpers = grep { !$named{$_} && !/^wire_/ } @callable;
# Called for real, with nulls, or where that would not be a call (STRICT) with nonsense: what is not allowed fails with 42501 before
# the function sees them
sub tried
{
	my ($login) = @_;
	my $out = as($login, <<'SQL');
BEGIN;
SET LOCAL client_min_messages = warning;
CREATE TEMP TABLE tried (name text, allowed boolean) ON COMMIT DROP;
DO $$
DECLARE f record;
BEGIN
    FOR f IN SELECT p.oid, p.proname, p.pronargs, array_to_string(ARRAY(SELECT CASE WHEN NOT p.proisstrict THEN 'NULL' WHEN t = 'bytea'::regtype THEN $x$'\x'$x$ WHEN t = 'uuid'::regtype THEN quote_literal(gen_random_uuid()) ELSE $x$'0'$x$ END || '::' || format_type(t, NULL)
            FROM unnest(p.proargtypes) WITH ORDINALITY a(t, n) ORDER BY n), ', ') AS arguments
        FROM pg_proc p WHERE p.pronamespace = 'seal_sync'::regnamespace
          AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND p.proname <> 'fdw_validator'
    LOOP
        BEGIN
            -- undone in any case: some take no argument and would do it
            EXECUTE format('SELECT seal_sync.%I(%s)', f.proname, f.arguments);
            RAISE EXCEPTION USING ERRCODE = 'SEALT';
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO tried VALUES (f.proname, SQLSTATE <> '42501' OR SQLERRM NOT LIKE 'permission denied for function %');
        END;
    END LOOP;
END $$;
SELECT name FROM tried WHERE allowed ORDER BY 1;
ROLLBACK;
SQL
	return $out =~ /^ERROR/ ? die "$login: $out" : split /\n/, $out;
}
for my $role (grep { $_ ne 'worker' } (@roles, 'nobody'))
{
	my %got = map { $_ => 1 } tried("as_$role");
	my %wanted = map { $_ => 1 } @{ $may{$role} };
	my $what = join ' ', grep { $got{$_} } sort grep { $named{$_} } @callable;
	is($what, join(' ', grep { $wanted{$_} } sort grep { $named{$_} } @callable), "$role may execute exactly: " . ($what || 'nothing'));
	is(join(' ', grep { !!$got{$_} ne ($role eq 'peer') } grep { /^wire_/ } @callable), '', "$role: the wire functions" . ($role eq 'peer' ? '' : ' are not its'));
	next if $role =~ /^(admin|operator|monitor|read_data)$/;
	is(join(' ', grep { $got{$_} } @helpers), '', "$role: nor what views are made of");
}
is(join(' ', grep { sql("SELECT bool_or(has_function_privilege('seal_sync_monitor', p.oid, 'EXECUTE')) FROM pg_proc p
  WHERE p.pronamespace = 'seal_sync'::regnamespace AND p.proname = '$_'") eq 't' } grep { /key|row|image|entries/ } @helpers), '', 'monitor: no function that makes keys or rows readable');

# ---- who may read what ------------------------------------------------------------------------------------
my $readable = q(SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_class c WHERE c.relnamespace = 'seal_sync'::regnamespace
  AND c.relkind IN ('r', 'v', 'p', 'm', 'S') AND has_any_column_privilege('%s', c.oid, 'SELECT'));
my %views = (
	admin => [qw(status clusters stat_table stat_route health events metrics sequences)],
	read_data => [qw(pending quarantine)],
	map({ $_ => [qw(status clusters stat_table stat_route health events metrics sequences)] } qw(operator monitor)),
	map({ $_ => [] } qw(peer application nobody)));
my %all_views = map { $_ => 1 } map { @$_ } values %views;
for my $role (grep { $_ ne 'worker' } (@roles, 'nobody'))
{
	my %got = map { $_ => 1 } split / /, sql(sprintf $readable, "as_$role");
	my %wanted = map { $_ => 1 } @{ $views{$role} };
	is(join(' ', grep { !!$got{$_} ne !!$wanted{$_} } sort keys %all_views), '', "$role: views it may read, and none of the others");
	for my $view (sort keys %all_views)
	{
		like(as("as_$role", "SELECT count(*) FROM seal_sync.$view"), $wanted{$view} ? qr/^\d+$/ : qr/^ERROR 42501$/, "$role: $view " . ($wanted{$view} ? 'is read' : 'is not'));
	}
}
my @tables = split /\n/, sql(q(SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'seal_sync'::regnamespace AND c.relkind IN ('r', 'p', 'S') ORDER BY 1));
cmp_ok(scalar @tables, '>', 20, 'there are tables to be tried');
for my $role (@roles, 'nobody')
{
	my $name = $role eq 'worker' ? 'seal_sync_worker' : "as_$role";
	is(sql("SELECT string_agg(c.relname, ' ') FROM pg_class c WHERE c.relnamespace = 'seal_sync'::regnamespace AND c.relkind IN ('r', 'p', 'S')
	  AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege('$name', c.oid, 'USAGE, SELECT, UPDATE')
	    ELSE has_table_privilege('$name', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') END"), '', "$role: no table of the extension");
	is(sql("SELECT string_agg(c.relname, ' ') FROM pg_class c WHERE c.relnamespace = 'seal_sync'::regnamespace AND c.relkind IN ('v', 'm')
	  AND has_table_privilege('$name', c.oid, 'INSERT, UPDATE, DELETE')"), '', "$role: changes nothing through a view");
}
# A view that is made later cannot show keys or rows to monitors without being found here
is(sql(q(SELECT string_agg(a.attrelid::regclass || '.' || a.attname, ' ') FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  WHERE c.relnamespace = 'seal_sync'::regnamespace AND c.relkind IN ('v', 'm') AND a.attnum > 0 AND has_column_privilege('as_pg_monitor', c.oid, a.attnum, 'SELECT')
  AND (a.attname ~ '(^|_)(key|row|image)$|password|token' OR a.atttypid IN ('bytea'::regtype, 'jsonb'::regtype) AND (c.relname, a.attname) <> ('events', 'detail')))),
	'', 'monitor: no view shows it a key, a row or a secret');
like(as('as_pg_monitor', 'SELECT count(*) FROM seal_sync.metrics'), qr/^\d+$/, 'pg_monitor includes monitor');

# ---- admin: owns servers, configures, and sees neither passwords nor rows ---------------------------------
my $out = as('as_admin', <<'SQL');
SELECT seal_sync.node_create('east');
CREATE SERVER west FOREIGN DATA WRAPPER seal_sync OPTIONS (host '127.0.0.1', port '1', dbname 'postgres');
CREATE USER MAPPING FOR seal_sync_worker SERVER west OPTIONS (user 'sync_in', password 'topsecret');
SET client_min_messages = error;
SELECT seal_sync.peer_create('west'), seal_sync.cluster_create('a', primary_node => 'east'), seal_sync.cluster_create('b', primary_node => 'west');
CREATE TABLE mine (id int PRIMARY KEY, cluster_id text, v text);
SELECT seal_sync.table_add('mine', 'cluster_id');
INSERT INTO mine VALUES (1, 'a', 'row of admin');
SQL
unlike($out, qr/ERROR/, 'admin makes a node, owns its server and adds its own table') or diag $out;
sql(q(CREATE TABLE theirs (id int PRIMARY KEY, cluster_id text, v text)));
is(as('as_admin', q(SELECT seal_sync.table_add('theirs', 'cluster_id'))), 'ERROR 42501', 'admin: not a table of others');
is(as('as_admin', q(SELECT action, sqlstate FROM seal_sync.schema_add('public', 'cluster_id', dry_run => true) WHERE relation = 'theirs'::regclass)), 'refuse|42501', 'nor by schema_add');
sql(q(SELECT seal_sync.table_add('theirs', 'cluster_id')));
is(as('as_nobody', q(CREATE TABLE own (id int PRIMARY KEY, cluster_id text); SELECT seal_sync.table_add('own', 'cluster_id'))), 'ERROR 42501', 'owning a table is not enough either');
is(as('as_admin', q(SELECT count(umoptions) FROM pg_user_mappings WHERE srvname = 'west')), '0', 'admin: passwords are hidden in pg_user_mappings');
is(as('as_admin', 'SELECT umoptions FROM pg_user_mapping'), 'ERROR 42501', 'and in pg_user_mapping');
is(as('as_operator', q(SELECT count(umoptions) FROM pg_user_mappings WHERE srvname = 'west')), '0', 'operator: neither');
is(as('as_pg_monitor', q(SELECT count(umoptions) FROM pg_user_mappings WHERE srvname = 'west')), '0', 'nor pg_monitor');
is(as('as_operator', q(CREATE SERVER other FOREIGN DATA WRAPPER seal_sync)), 'ERROR 42501', 'operator: makes no servers');

# A server of an admin must not lead with files or sockets of the operating-system user
like(as('as_admin', q(ALTER SERVER west OPTIONS (ADD passfile '/etc/passwd'); SELECT message FROM seal_sync.peer_check('west'))), qr/ERROR 42501/, 'admin: no files of the server\'s user');
unlike(as('as_admin', q(ALTER SERVER west OPTIONS (DROP passfile))), qr/ERROR/, 'taken back');

# ---- worker -----------------------------------------------------------------------------------------------
is(sql(q(SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = 'seal_sync_worker')), 'f|f|f|f|f|f', 'worker: nothing but a name');
is(sql(q(SELECT count(*) FROM pg_auth_members WHERE roleid = 'seal_sync_worker'::regrole OR member = 'seal_sync_worker'::regrole)), '0', 'worker: neither members nor memberships');
like(as('seal_sync_worker', 'SELECT 1'), qr/not permitted to log in/, 'worker: does not log in');
is(sql(q(SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname LIKE 'seal\_sync\_%' AND (rolcanlogin OR rolsuper OR rolcreaterole OR rolbypassrls))), '', 'no role of the extension logs in or has attributes');

# ---- peer: the wire functions and nothing else ------------------------------------------------------------
like(as('as_peer', q(SELECT node FROM seal_sync.wire_identity())), qr/^east$/, 'peer: asks who this is');
is(as('as_peer', 'SELECT * FROM mine'), 'ERROR 42501', 'peer: touches no table');
is(as('as_peer', q(INSERT INTO mine VALUES (2, 'a'))), 'ERROR 42501', 'to write neither');

# ---- application ------------------------------------------------------------------------------------------
is(as('as_application', q(SELECT seal_sync.is_primary('a'), seal_sync.is_primary('b'), seal_sync.primary_of('b'))), 't|f|west', 'application: asks where to write');
is(as('as_nobody', q(SELECT seal_sync.is_primary('a'))), 'ERROR 42501', 'others not even that');

# ---- read_data: keys; rows as far as the table's rights and row security go --------------------------------
sql(<<'SQL');
INSERT INTO theirs VALUES (7, 'a', 'Wang Fang');
INSERT INTO seal_sync.held (peer, relation, leaf, cluster_id, key, state, sqlstate, message, detail)
  VALUES ('west', 'theirs'::regclass, 0, 1, '\x07000000', 'quarantined', '22P02', 'quotes Wang Fang', 'Detail of Wang Fang.');
SQL
my $quarantine = q(SELECT key, row_image ->> 'v', message, detail FROM seal_sync.quarantine);
is(as('as_read_data', $quarantine), '{"id": 7}||refused with SQLSTATE 22P02|', 'read_data: the key, and no row without SELECT on the table');
sql('GRANT SELECT (id, cluster_id) ON theirs TO as_read_data');
unlike(as('as_read_data', $quarantine), qr/Wang/, 'some columns are not enough');
sql('GRANT SELECT ON theirs TO as_read_data');
is(as('as_read_data', $quarantine), '{"id": 7}|Wang Fang|quotes Wang Fang|Detail of Wang Fang.', 'with it the row, and reasons that quote it');
sql('ALTER TABLE theirs ENABLE ROW LEVEL SECURITY');
is(as('as_read_data', $quarantine), '{"id": 7}||refused with SQLSTATE 22P02|', 'not where row security would hide it');
sql(q(CREATE POLICY some_rows ON theirs FOR SELECT TO as_read_data USING (id = 8)));
unlike(as('as_read_data', $quarantine), qr/Wang/, 'nor where a policy shows other rows only');
sql(q(CREATE POLICY more_rows ON theirs FOR SELECT TO as_read_data USING (id = 7)));
is(as('as_read_data', q(SELECT row_image ->> 'v' FROM seal_sync.quarantine)), 'Wang Fang', 'but where a policy shows it');
is(as('as_read_data', q(SELECT key FROM seal_sync.pending WHERE relation = 'theirs'::regclass AND state = 'pending')), '{"id": 7}', 'read_data: keys that wait');
is(as('as_read_data', q(SELECT seal_sync.quarantine_retry())), 'ERROR 42501', 'read_data: changes nothing');

# ---- monitor: no keys, no rows, in no text ----------------------------------------------------------------
for my $login ('as_monitor', 'as_pg_monitor', 'as_operator', 'as_admin')
{
	my $all = join "\n", map { as($login, "SELECT v FROM seal_sync.$_ v") } qw(status clusters stat_table stat_route health events metrics);
	unlike($all, qr/Wang|row of admin|topsecret|ERROR/, "$login: no value of a row and no secret in any view");
	like($all, qr/quarantine/, "$login: though they say what is wrong");
}

# ---- the guard --------------------------------------------------------------------------------------------
is(as('as_admin', 'SET seal_sync.guard = off'), 'ERROR 42501', "guard: not even an admin's");
is(as('as_operator', 'SET seal_sync.guard = off'), 'ERROR 42501', "nor an operator's");
sql('GRANT SET ON PARAMETER seal_sync.guard TO as_nobody; GRANT INSERT ON mine TO as_nobody');
is(as('as_nobody', q(INSERT INTO mine VALUES (10, 'b'))), 'ERROR 25006', 'lent: it refuses until it is set');
is(as('as_nobody', q(SET seal_sync.guard = off; INSERT INTO mine VALUES (10, 'b'), (11, 'b'))), '', 'then it lets pass');
is(as('as_monitor', q(SELECT scope, actor, detail FROM seal_sync.events WHERE event = 'guard_override')),
	'table public.mine|as_nobody|{"rows": 2, "guard": "off", "cluster": "b"}', 'and who it was is known');
sql('REVOKE SET ON PARAMETER seal_sync.guard FROM as_nobody');
is(as('as_nobody', 'SET seal_sync.guard = off'), 'ERROR 42501', 'taken back');
done_testing();
