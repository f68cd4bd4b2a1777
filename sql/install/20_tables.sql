-- Configuration: dumped by pg_dump as rules only. Identity, positions and the log are not dumped.

-- Who this node is. At most one row; without it capture and apply do nothing.
CREATE TABLE seal_sync.local_node (
    only_row boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (only_row),
    node name NOT NULL,
    token uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    -- Where it runs (src/pg/place.hpp), and on which timeline: elsewhere this is a copy.
    place text,
    place_timeline bigint,
    -- Between node_detach and node_attach.
    detached_since timestamptz,
    detach_reason text,
    -- Never leaves the node: seals what a peer keeps for it (src/scan/note_seal.hpp).
    secret bytea NOT NULL DEFAULT pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) OPERATOR(pg_catalog.||) pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
);

CREATE TABLE seal_sync.peer (
    peer name NOT NULL PRIMARY KEY,
    server name NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
SELECT pg_catalog.pg_extension_config_dump('seal_sync.peer', '');

-- What is known about a peer at run time. generation: issued by the peer at the last connection,
-- stored before the first batch (design section 4, Apply).
CREATE TABLE seal_sync.peer_state (
    peer name NOT NULL PRIMARY KEY REFERENCES seal_sync.peer ON DELETE CASCADE,
    server_oid oid, -- so that a renamed server is followed
    token uuid,
    generation bigint NOT NULL DEFAULT 0,
    paused_since timestamptz,
    pause_until timestamptz,
    pause_reason text,
    halted_since timestamptz,
    halt_message text,
    -- The log has been emptied up to here: no batch that starts earlier can be made again.
    log_floor pg_snapshot
);

-- cluster_id is local: it stands in the change log, and is never used a second time.
CREATE SEQUENCE seal_sync.cluster_id AS integer;
CREATE TABLE seal_sync.cluster (
    cluster name NOT NULL PRIMARY KEY,
    cluster_id integer NOT NULL UNIQUE,
    match_values text[] NOT NULL,
    home_node name NOT NULL,
    standby_nodes name[]
);
SELECT pg_catalog.pg_extension_config_dump('seal_sync.cluster', '');

-- Role of each cluster. epoch rises each time the primary moves.
CREATE TABLE seal_sync.cluster_state (
    cluster name NOT NULL PRIMARY KEY REFERENCES seal_sync.cluster ON DELETE CASCADE,
    primary_node name NOT NULL,
    epoch bigint NOT NULL DEFAULT 1,
    since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

-- A registered table: its cluster by a column or by a constant.
CREATE TABLE seal_sync.table_rule (
    relation regclass NOT NULL PRIMARY KEY,
    cluster_column name,
    cluster name REFERENCES seal_sync.cluster,
    CHECK ((cluster_column IS NULL) <> (cluster IS NULL))
);
SELECT pg_catalog.pg_extension_config_dump('seal_sync.table_rule', '');

-- A schema whose new tables are registered when they are made, but for those named here. By name, because
-- pg_upgrade does not carry regnamespace; schema_oid is where it was last seen, so that a renamed schema is followed.
CREATE TABLE seal_sync.schema_rule (
    schema name NOT NULL PRIMARY KEY,
    schema_oid oid NOT NULL,
    cluster_column name,
    cluster name REFERENCES seal_sync.cluster,
    except_tables regclass[] NOT NULL,
    CHECK ((cluster_column IS NULL) <> (cluster IS NULL))
);
SELECT pg_catalog.pg_extension_config_dump('seal_sync.schema_rule', '');

-- A restored rule brings the number that the schema had where it was dumped.
CREATE FUNCTION seal_sync.locate_schema() RETURNS trigger
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_locate_schema';
CREATE TRIGGER locate_schema BEFORE INSERT ON seal_sync.schema_rule
    FOR EACH ROW EXECUTE FUNCTION seal_sync.locate_schema();

-- key_columns: numbers, types, collations and operator classes of the primary key when the table was
-- added; DDL that changes them while the table is registered is refused, for the log holds keys of
-- that shape. cluster_attno: the cluster column by number, so that a renamed column is followed.
CREATE TABLE seal_sync.table_state (
    relation oid NOT NULL PRIMARY KEY,
    key_columns text NOT NULL,
    cluster_attno smallint NOT NULL,
    added_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    added_by name NOT NULL DEFAULT session_user,
    dirty_since timestamptz,
    dirty_reason text,
    -- Columns (by number) that a peer has not got of every row: DDL made or changed them, on either side.
    owed_columns smallint[],
    owed_since timestamptz
);

-- Which columns of a table have been shipped to a peer, into which of its columns (places), and what the peer said about
-- these (see reception): what is new since is owed for every row.
CREATE TABLE seal_sync.agreement (
    peer name NOT NULL REFERENCES seal_sync.peer ON DELETE CASCADE,
    relation oid NOT NULL,
    columns smallint[] NOT NULL,
    places smallint[], -- null: the peer is older and does not say
    incarnation uuid,
    newest bigint NOT NULL,
    PRIMARY KEY (peer, relation)
);

-- The other side of it: columns here that a peer ships, each with the number of the last DDL here that made or
-- rewrote it. The peer is told.
CREATE TABLE seal_sync.reception (
    origin name NOT NULL,
    relation oid NOT NULL,
    incarnation uuid NOT NULL,
    newest integer NOT NULL,
    columns smallint[] NOT NULL,
    numbers integer[] NOT NULL,
    PRIMARY KEY (origin, relation)
);

-- The change log: one to the eye (view pending), physically eight segments that are filled in turn
-- and emptied by TRUNCATE. Rows are only inserted. xid is the writer's top-level transaction;
-- entries is what core/change_log_codec.hpp describes.
DO $$
BEGIN
    FOR i IN 0..7 LOOP
        EXECUTE pg_catalog.format('CREATE TABLE seal_sync.change_log_%s (
            xid xid8 NOT NULL, entries bytea NOT NULL)
            WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)', i);
        EXECUTE pg_catalog.format(
            'ALTER TABLE seal_sync.change_log_%s SET (toast_tuple_target = 8160)', i);
        EXECUTE pg_catalog.format(
            'CREATE INDEX change_log_%s_xid ON seal_sync.change_log_%s (xid)', i, i);
    END LOOP;
END
$$;

-- What a route has sent (kind b, written durably before anything leaves the node) and what the peer
-- has acknowledged (kind a). Rows are only inserted; two tables in turn, emptied by TRUNCATE.
-- excluded: roots whose keys were left out (parked, waiting_peer) and went to seal_sync.held. copied: tables that
-- the batch copies, or whose copy it completes; copied_jobs and copied_pins: their rows in seal_sync.copy.
DO $$
BEGIN
    FOR i IN 0..1 LOOP
        EXECUTE pg_catalog.format('CREATE TABLE seal_sync.route_history_%s (
            entry bigint NOT NULL,
            peer name NOT NULL,
            kind "char" NOT NULL,
            batch bigint NOT NULL,
            batch_id uuid NOT NULL,
            snapshot pg_snapshot NOT NULL,
            excluded oid[] NOT NULL,
            excluded_clusters integer[] NOT NULL,
            copied oid[] NOT NULL,
            keys bigint NOT NULL,
            at timestamptz NOT NULL,
            copied_jobs bigint[] NOT NULL,
            copied_pins pg_snapshot[] NOT NULL) WITH (autovacuum_enabled = off)', i);
    END LOOP;
END
$$;

-- What this node has applied of each origin, one row a batch, in the batch's transaction.
DO $$
BEGIN
    FOR i IN 0..1 LOOP
        EXECUTE pg_catalog.format('CREATE TABLE seal_sync.applied_%s (
            origin name NOT NULL,
            batch bigint NOT NULL,
            batch_id uuid NOT NULL,
            complete_until timestamptz NOT NULL,
            rows bigint NOT NULL,
            refusals bytea,
            at timestamptz NOT NULL) WITH (autovacuum_enabled = off)', i);
        EXECUTE pg_catalog.format('CREATE INDEX applied_%s_batch ON seal_sync.applied_%s
            (origin, batch)', i, i);
    END LOOP;
END
$$;

-- Nodes that have spoken to us. A speaker must present generation_issued or generation_confirmed;
-- anything older is a clone (trap T4).
CREATE TABLE seal_sync.origin (
    node name NOT NULL PRIMARY KEY,
    token uuid NOT NULL,
    generation_issued bigint NOT NULL DEFAULT 0,
    generation_confirmed bigint NOT NULL DEFAULT 0,
    login name NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

-- Keys that could not be shipped: refused by the peer (quarantined), or of a table or cluster that
-- does not fit there (parked, waiting_peer). They are shipped whole when due. key is as in the
-- change log. Removed when the peer has taken them. skipped: an operator has decided that the peer goes
-- without this version of the key; never due (next_retry_at is infinity), and the key's next change is shipped whole and takes it out. cluster_id: under which cluster the key was entered.
-- other_relation and other_key: the key that it has to do with, as the peer says: one that is missing there, or, if other_stands,
-- one whose row is there and in the way, of other_cluster if that is known. Where that key is held itself, it is the cause.
-- standing: the row that the peer has under this key, long values cut.
-- awaits_cluster: it is the cluster that the peer does not accept, whatever it says of the table.
CREATE TABLE seal_sync.held (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    peer name NOT NULL REFERENCES seal_sync.peer ON DELETE CASCADE,
    relation oid NOT NULL,
    leaf oid NOT NULL,
    cluster_id integer NOT NULL,
    awaits_cluster boolean NOT NULL DEFAULT false,
    key bytea NOT NULL,
    state text NOT NULL CHECK (state IN ('quarantined', 'parked', 'waiting_peer', 'skipped')),
    kind "char" NOT NULL DEFAULT 'W', -- of what was sent: D delete, P some columns of a row, W a whole row
    sqlstate text,
    message text,
    detail text,
    hint text,
    constraint_name name,
    batch bigint,
    first_failed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    last_failed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    attempts integer NOT NULL DEFAULT 1,
    next_retry_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    other_relation oid,
    other_key bytea,
    other_cluster name,
    other_stands boolean NOT NULL DEFAULT false,
    standing jsonb
);
-- Read below SQL with each scan (scan/held_index.cpp), however many keys are held.
CREATE INDEX held_due ON seal_sync.held (peer, next_retry_at) WHERE state = 'quarantined';
CREATE INDEX held_left_out ON seal_sync.held (peer, relation, awaits_cluster, cluster_id) WHERE state IN ('parked', 'waiting_peer');
CREATE INDEX held_other ON seal_sync.held (peer, other_relation, pg_catalog.sha256(other_key)) WHERE other_relation IS NOT NULL;
CREATE UNIQUE INDEX held_key ON seal_sync.held (peer, relation, pg_catalog.sha256(key));

-- Held keys that arrived with a batch, until the peer can no longer fall back to one before it; id is that of held. While the row in
-- held is still there, somebody had locked it. No foreign key: its check would wait for a peer_drop that is left open.
CREATE TABLE seal_sync.held_arrived (
    id bigint NOT NULL PRIMARY KEY,
    peer name NOT NULL,
    batch bigint NOT NULL,
    relation oid NOT NULL,
    leaf oid NOT NULL,
    cluster_id integer NOT NULL,
    key bytea NOT NULL
);
CREATE INDEX held_arrived_batch ON seal_sync.held_arrived (peer, batch);

-- Tables whose rows are to be copied to a peer. stage and pin: the copy has begun, see src/scan/copies.hpp.
-- rows_read counts rows of all clusters, so that it can be compared with the table's size.
CREATE TABLE seal_sync.copy (
    peer name NOT NULL REFERENCES seal_sync.peer ON DELETE CASCADE,
    relation oid NOT NULL,
    job bigint NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE, -- a table that is taken out and added again is another job
    requested_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    stage uuid,
    pin pg_snapshot,
    staged_only boolean NOT NULL DEFAULT false,
    waits text CHECK (waits IN ('waiting_peer', 'parked', 'refused')), -- what the peer has said of the table, or of its rows
    wait_message text,
    wait_hint text,
    begun_at timestamptz,
    last_at timestamptz,
    all_read_at timestamptz,
    rows_read bigint NOT NULL DEFAULT 0,
    rows_copied bigint NOT NULL DEFAULT 0,
    bytes_copied bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (peer, relation)
);

-- Who did what; kept for seal_sync.event_retention. Scope and detail name tables and numbers, never keys or
-- values: monitors read it. What can happen at any rate (guard_override, ddl, and what workers note) is folded
-- into one row an hour, with the number of times and the last time in its detail.
CREATE TABLE seal_sync.event (
    id bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    event text NOT NULL,
    scope text NOT NULL,
    actor name NOT NULL DEFAULT session_user, -- the login, whatever role it has set
    application text DEFAULT nullif(pg_catalog.current_setting('application_name'), ''),
    client_addr inet DEFAULT pg_catalog.inet_client_addr(),
    reason text,
    detail jsonb
);
CREATE INDEX event_at ON seal_sync.event (at);

-- Nothing here is anybody's but the extension's; views and functions give what a role may see.
REVOKE ALL ON ALL TABLES IN SCHEMA seal_sync FROM PUBLIC;
