-- What an operator sees. NULL means unknown, never 0. Tables are read with the rights of the
-- extension's owner, functions are executed with the rights of whoever asks. Columns that are NULL
-- throughout belong to the contract and wait for what fills them.

-- What a node has applied of each origin, from the progress rows that survive a restart.
CREATE VIEW seal_sync.applied_progress AS
SELECT DISTINCT ON (a.origin) a.origin, a.batch, a.complete_until, a.rows, a.at
FROM (SELECT x.origin, x.batch, x.complete_until, x.rows, x.at FROM seal_sync.applied_0 x
      UNION ALL
      SELECT y.origin, y.batch, y.complete_until, y.rows, y.at FROM seal_sync.applied_1 y) a
ORDER BY a.origin, a.batch DESC, a.at DESC;

-- The newest batch sent to each peer and the newest acknowledged one; a peer that fell back makes an
-- older batch the newest acknowledged again, so by entry, not by number.
CREATE VIEW seal_sync.sent_progress AS
SELECT h.peer,
    (pg_catalog.array_agg(h.batch ORDER BY h.entry DESC) FILTER (WHERE h.kind = 'b'))[1] AS batch_sent,
    (pg_catalog.array_agg(h.batch ORDER BY h.entry DESC) FILTER (WHERE h.kind = 'a'))[1] AS batch_acknowledged,
    (pg_catalog.array_agg(h.at ORDER BY h.entry DESC) FILTER (WHERE h.kind = 'a' AND h.batch > 0))[1] AS acknowledged_at
FROM (SELECT x.peer, x.entry, x.kind, x.batch, x.at FROM seal_sync.route_history_0 x
      UNION ALL
      SELECT y.peer, y.entry, y.kind, y.batch, y.at FROM seal_sync.route_history_1 y) h
GROUP BY h.peer;

-- Triggers that a registered table should have and does not, or that are not ENABLE ALWAYS.
CREATE VIEW seal_sync.capture_problems AS
WITH RECURSIVE tree(root, member) AS (
    SELECT r.relation::oid, r.relation::oid FROM seal_sync.table_rule r
    UNION ALL
    SELECT t.root, i.inhrelid FROM tree t
    JOIN pg_catalog.pg_inherits i ON i.inhparent = t.member AND NOT i.inhdetachpending
)
SELECT t.root::regclass AS relation, t.member::regclass AS member, g.tgname IS NULL AS missing
FROM tree t
JOIN pg_catalog.pg_class c ON c.oid = t.member
CROSS JOIN (VALUES ('capture'), ('truncate')) w(what)
LEFT JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.member AND g.tgname = 'seal_sync_' || w.what || '_' || t.root::text
WHERE (w.what = 'capture' OR c.relkind = 'r') AND g.tgenabled IS DISTINCT FROM 'A'
  AND EXISTS (SELECT FROM seal_sync.local_node);

CREATE VIEW seal_sync.status AS
WITH marked AS MATERIALIZED (
    SELECT pg_catalog.count(*) AS tables FROM seal_sync.table_state s WHERE s.dirty_since IS NOT NULL
), counts AS MATERIALIZED (
    SELECT c.peer, pg_catalog.sum(c.keys)::bigint AS keys, pg_catalog.min(c.oldest_at) AS oldest_at
    FROM seal_sync.pending_counts() c GROUP BY c.peer
), held AS MATERIALIZED (
    SELECT h.peer, pg_catalog.count(*) FILTER (WHERE h.state <> 'skipped') AS keys,
        pg_catalog.count(*) FILTER (WHERE h.state = 'quarantined') AS quarantined,
        pg_catalog.count(DISTINCT h.relation) FILTER (WHERE h.state = 'parked')::integer AS parked
    FROM seal_sync.held h GROUP BY h.peer
), outgoing AS (
    SELECT p.peer, r.*,
        s.halted_since, s.halt_message, s.paused_since, s.pause_reason,
        -- not before the worker has seen it: until then it may be shipping
        s.paused_since IS NOT NULL AND (s.pause_until IS NULL OR s.pause_until > pg_catalog.clock_timestamp())
            AND coalesce(r.state, '') NOT IN ('streaming', 'catchup') AS paused,
        coalesce(c.keys, 0) AS log_keys,
        coalesce(c.keys, 0) + coalesce(h.keys, 0) AS pending_keys,
        least(c.oldest_at, r.oldest_pending_at) AS oldest_at,
        coalesce(h.parked, 0) AS parked, coalesce(h.quarantined, 0) AS quarantined,
        v.preloaded, v.enabled, v.log_bytes, v.log_limit_bytes, g.batch_acknowledged, g.acknowledged_at,
        m.tables AS marked_tables, x.batch_keys,
        greatest(coalesce(c.keys, 0) - coalesce(x.batch_keys, 0), 0) AS other_keys, -- came later, or no batch is under way
        CASE WHEN x.batch_keys IS NULL THEN 0
             WHEN x.remaining_seconds IS NOT NULL -- greatest() would make 0 of what is unknown
             THEN greatest(x.remaining_seconds - extract(epoch FROM pg_catalog.clock_timestamp() - x.measured_at), 0) END AS batch_seconds,
        extract(epoch FROM pg_catalog.clock_timestamp() - x.batch_since)::float8 AS batch_age,
        -- small batches say little of how long a large one takes
        coalesce(c.keys, 0) <= greatest(x.typical_batch * 20, 1000) AS usual
    FROM seal_sync.peer p
    CROSS JOIN seal_sync.get_server() v
    LEFT JOIN seal_sync.peer_state s ON s.peer = p.peer
    LEFT JOIN seal_sync.get_routes() r(slot_peer, pid, state, state_reason, state_since, connected_since, last_contact_at,
        oldest_pending_at, last_batch, last_batch_keys, last_batch_at, keys_per_second, complete_until, parked_tables, retries, next_retry_at,
        last_error_at, last_error_sqlstate, last_error, last_error_hint, peer_version, protocol, tls, compression, clock_offset,
        batches, empty_scans, keys, upserts, deletes, bytes_raw, bytes_wire, scan_time, read_time, encode_time, send_time, apply_time,
        commit_time, idle_time, last_scan_time, last_read_time, last_encode_time, last_send_time, last_apply_time,
        last_commit_time, last_idle_time,
        max_batch_time, connects, connect_failures, stats_reset) ON r.slot_peer = p.peer
    LEFT JOIN counts c ON c.peer = p.peer
    LEFT JOIN held h ON h.peer = p.peer
    LEFT JOIN seal_sync.sent_progress g ON g.peer = p.peer
    LEFT JOIN seal_sync.get_progress() x ON x.peer = p.peer
    CROSS JOIN marked m
)
SELECT o.peer, 'out' AS direction,
    CASE WHEN o.halted_since IS NOT NULL THEN 'halted' WHEN o.paused THEN 'paused' ELSE coalesce(o.state, 'stopped') END AS state,
    CASE WHEN o.halted_since IS NOT NULL THEN o.halt_message
         WHEN o.paused THEN o.pause_reason
         WHEN o.state IS NOT NULL THEN o.state_reason
         WHEN NOT o.preloaded THEN 'the library is not in shared_preload_libraries'
         WHEN NOT o.enabled THEN 'seal_sync.enabled is off'
         ELSE 'no worker runs' END AS state_reason,
    CASE WHEN o.halted_since IS NOT NULL THEN o.halted_since WHEN o.paused THEN o.paused_since ELSE o.state_since END AS state_since,
    o.pid AS worker_pid, o.connected_since, o.last_contact_at, o.pending_keys,
    CASE WHEN o.log_keys > 0 THEN o.oldest_at END AS oldest_pending_at,
    CASE WHEN o.log_keys = 0 THEN interval '0' ELSE pg_catalog.clock_timestamp() - o.oldest_at END AS lag,
    o.keys_per_second, -- pending keys worked off while busy; large and recent batches count most
    CASE WHEN o.log_keys = 0 THEN CASE WHEN o.marked_tables = 0 THEN interval '0' END -- else their rows will be pending, nobody knows when
         WHEN o.state IN ('streaming', 'catchup') AND o.usual OR o.batch_keys IS NOT NULL
         -- the batch under way, what has come since, and what will come until that is done
         THEN CASE WHEN o.batch_keys IS NULL THEN o.other_keys / o.keys_per_second
                   ELSE (coalesce(o.batch_seconds, CASE WHEN o.usual THEN o.batch_keys / o.keys_per_second END) + o.other_keys / o.keys_per_second)
                      / (1 - least(0.9, o.other_keys / greatest(o.batch_age, 1) / o.keys_per_second)) END
            * interval '1 s' END AS eta,
    o.log_bytes, o.log_limit_bytes, coalesce(nullif(o.last_batch, 0), nullif(o.batch_acknowledged, 0)) AS last_batch,
    CASE WHEN o.last_batch > 0 THEN o.last_batch_keys END AS last_batch_keys, coalesce(o.last_batch_at, o.acknowledged_at) AS last_batch_at,
    o.parked AS parked_tables, o.quarantined AS quarantined_keys, o.retries, o.next_retry_at,
    o.last_error_at, o.last_error_sqlstate, o.last_error, o.last_error_hint, o.peer_version, o.protocol, o.tls, o.clock_offset
FROM outgoing o
UNION ALL
SELECT n.node, 'in',
    CASE WHEN i.pid IS NOT NULL THEN 'streaming' ELSE 'waiting_peer' END,
    CASE WHEN i.pid IS NOT NULL THEN NULL WHEN g.node IS NULL THEN 'the peer has not connected yet' ELSE 'the peer is not connected' END,
    CASE WHEN i.pid IS NOT NULL THEN i.connected_since ELSE i.last_contact_at END,
    i.pid, CASE WHEN i.pid IS NOT NULL THEN i.connected_since END, i.last_contact_at, NULL, NULL,
    pg_catalog.clock_timestamp() - greatest(i.complete_until, a.complete_until), NULL, NULL, NULL, NULL,
    coalesce(nullif(i.last_batch, 0), a.batch), coalesce(nullif(i.last_batch_rows, 0), a.rows), coalesce(i.last_batch_at, a.at),
    NULL, NULL, NULL, NULL,
    i.last_error_at, i.last_error_sqlstate, i.last_error, NULL, i.version, NULL, NULL, NULL
FROM (SELECT p.peer AS node FROM seal_sync.peer p UNION SELECT o.node FROM seal_sync.origin o) n
LEFT JOIN seal_sync.origin g ON g.node = n.node
LEFT JOIN seal_sync.get_origins() i ON i.node = n.node
LEFT JOIN seal_sync.applied_progress a ON a.origin = n.node;
COMMENT ON VIEW seal_sync.status IS 'each peer, out and in: state, what is pending, lag, last error';

CREATE VIEW seal_sync.pending AS
SELECT (l.e).relation::regclass AS relation, (l.e).kind, (l.e).key, (l.e).cluster, (l.e).changed_columns,
    (l.e).since, (l.e).xid, (l.e).waiting_for, 'pending' AS state, NULL::text AS reason
FROM (SELECT seal_sync.pending_entries() AS e) l -- in the select list, so that LIMIT stops it
UNION ALL
SELECT h.relation::regclass,
    CASE h.kind WHEN 'P' THEN 'update' WHEN 'D' THEN 'delete' ELSE 'copy' END,
    seal_sync.key_as_json(h.relation, h.key), c.cluster, NULL, h.first_failed_at, NULL, ARRAY[h.peer], h.state,
    CASE WHEN h.state <> 'quarantined' OR pg_catalog.has_table_privilege(h.relation, 'SELECT')
            AND NOT pg_catalog.row_security_active(h.relation)
        THEN h.message ELSE pg_catalog.format('refused with SQLSTATE %s', h.sqlstate) END -- as in quarantine
FROM seal_sync.held h
LEFT JOIN seal_sync.table_rule r ON r.relation = h.relation
LEFT JOIN seal_sync.cluster c ON c.cluster_id = h.cluster_id OR h.cluster_id = 0 AND c.cluster = r.cluster
WHERE h.state <> 'skipped';
COMMENT ON VIEW seal_sync.pending IS 'each recorded key that a peer does not have yet; LIMIT is cheap';

CREATE VIEW seal_sync.quarantine AS
SELECT h.id, h.peer,
    coalesce(c.cluster, (SELECT m.cluster FROM seal_sync.cluster m
        WHERE i.row_image ->> r.cluster_column::text = ANY (m.match_values))) AS cluster,
    h.relation::regclass AS relation, seal_sync.key_as_json(h.relation, h.key) AS key,
    CASE h.kind WHEN 'P' THEN 'update' WHEN 'D' THEN 'delete' ELSE 'copy' END AS kind,
    i.row_image, h.sqlstate,
    CASE WHEN t.readable THEN h.message ELSE pg_catalog.format('refused with SQLSTATE %s', h.sqlstate) END ||
        CASE WHEN o.state = 'skipped' AND h.state = 'quarantined'
            THEN pg_catalog.format('; key %s, on which it depends, was skipped: it waits for that key to change', o.id) ELSE '' END AS message,
    CASE WHEN t.readable THEN h.detail END AS detail, h.constraint_name, h.batch,
    h.first_failed_at, h.last_failed_at, h.attempts, nullif(h.next_retry_at, 'infinity') AS next_retry_at, o.id AS held_by, h.state,
    CASE WHEN t.readable THEN h.standing END AS standing_image,
    CASE WHEN t.readable AND h.other_stands AND (h.other_relation = h.relation OR pg_catalog.has_table_privilege(h.other_relation, 'SELECT')
            AND NOT pg_catalog.row_security_active(h.other_relation))
        THEN pg_catalog.jsonb_build_object('relation', h.other_relation::regclass, 'key', seal_sync.key_as_json(h.other_relation, h.other_key),
            'cluster', h.other_cluster) END AS conflicts_with
FROM seal_sync.held h
LEFT JOIN seal_sync.held o ON o.peer = h.peer AND o.relation = h.other_relation
    AND pg_catalog.sha256(o.key) = pg_catalog.sha256(h.other_key) AND o.state IN ('quarantined', 'skipped')
LEFT JOIN seal_sync.table_rule r ON r.relation = h.relation
LEFT JOIN seal_sync.cluster c ON c.cluster_id = h.cluster_id OR h.cluster_id = 0 AND c.cluster = r.cluster
CROSS JOIN LATERAL (SELECT seal_sync.row_image(h.relation, h.key) AS row_image OFFSET 0) i
-- Reasons quote values of rows: for those who may see all rows.
CROSS JOIN LATERAL (SELECT pg_catalog.has_table_privilege(h.relation, 'SELECT')
    AND NOT pg_catalog.row_security_active(h.relation) AS readable) t
WHERE h.state IN ('quarantined', 'skipped');
COMMENT ON VIEW seal_sync.quarantine IS 'keys that a peer has refused, with its reason; they are tried again, unless skipped';
COMMENT ON COLUMN seal_sync.quarantine.row_image IS 'the row as it is on this node, and is sent with the next attempt';
COMMENT ON COLUMN seal_sync.quarantine.standing_image IS 'the row that the peer had under this key at the last attempt, long values cut; null: none, or not told';
COMMENT ON COLUMN seal_sync.quarantine.conflicts_with IS 'the row of the peer that is in the way: it has the unique value, or refers to this key';
COMMENT ON COLUMN seal_sync.quarantine.held_by IS 'id of the key that is the cause: once that one has arrived, this one is tried at once';

CREATE VIEW seal_sync.events AS
SELECT e.at, e.event, e.scope, e.actor, e.application, e.client_addr, e.reason, e.detail FROM seal_sync.event e;
COMMENT ON VIEW seal_sync.events IS 'who did what, when and why';

CREATE VIEW seal_sync.clusters AS
WITH node AS MATERIALIZED (
    SELECT n.node, n.detached_since, n.detach_reason FROM seal_sync.local_node n
), held AS MATERIALIZED ( -- a key whose cluster is not noted counts for each that it may belong to
    SELECT c.cluster, pg_catalog.count(*) FILTER (WHERE h.state = 'quarantined') AS quarantined,
        pg_catalog.count(DISTINCT h.relation) FILTER (WHERE h.state = 'parked') AS parked,
        pg_catalog.min(h.first_failed_at) AS since, h.peer,
        pg_catalog.string_agg(DISTINCT h.relation::regclass::text, ', ' ORDER BY h.relation::regclass::text) AS tables
    FROM seal_sync.held h
    JOIN seal_sync.table_rule r ON r.relation = h.relation
    JOIN seal_sync.cluster_state s ON s.primary_node = (SELECT n.node FROM node n)
    JOIN seal_sync.cluster c ON c.cluster = s.cluster
        AND (h.cluster_id = c.cluster_id OR h.cluster_id = 0 AND coalesce(r.cluster = c.cluster, true))
    WHERE h.state IN ('quarantined', 'parked')
    GROUP BY c.cluster, h.peer
), suspended AS MATERIALIZED (
    SELECT h.cluster, pg_catalog.sum(h.quarantined)::bigint AS quarantined, pg_catalog.min(h.since) AS since,
        pg_catalog.string_agg(pg_catalog.format('peer "%s" goes without %s (%s)', h.peer, pg_catalog.concat_ws(' and ',
            CASE WHEN h.quarantined > 0 THEN pg_catalog.format('%s refused keys', h.quarantined) END,
            CASE WHEN h.parked > 0 THEN pg_catalog.format('%s parked tables', h.parked) END), h.tables), '; ' ORDER BY h.peer) AS message,
        pg_catalog.concat_ws(' ', CASE WHEN pg_catalog.sum(h.quarantined) > 0
                THEN 'See seal_sync.quarantine; correct the cause, then seal_sync.quarantine_retry() ships at once, or give keys up with seal_sync.quarantine_skip(…).' END,
            CASE WHEN pg_catalog.sum(h.parked) > 0 THEN 'See seal_sync.stat_table for what to change in parked tables.' END) AS hint
    FROM held h GROUP BY h.cluster
), described AS (
    SELECT c.cluster, c.cluster_id, c.match_values, c.home_node, c.standby_nodes, s.primary_node, s.epoch, s.since,
        CASE WHEN s.primary_node = n.node THEN 'primary'
             WHEN c.standby_nodes IS NULL OR n.node = ANY (c.standby_nodes) THEN 'standby'
             ELSE 'none' END AS role,
        n.detached_since, n.detach_reason, h.quarantined, h.since AS suspended_since, h.message, h.hint,
        o.batch_sent, o.batch_acknowledged, o.complete_until AS complete_there,
        greatest(i.complete_until, a.complete_until) AS complete_here,
        coalesce(nullif(i.last_batch, 0), a.batch) AS batch_applied
    FROM seal_sync.cluster c
    JOIN seal_sync.cluster_state s ON s.cluster = c.cluster
    LEFT JOIN node n ON true
    LEFT JOIN suspended h ON h.cluster = c.cluster
    LEFT JOIN LATERAL (
        SELECT pg_catalog.max(h.batch_sent) AS batch_sent, pg_catalog.min(h.batch_acknowledged) AS batch_acknowledged,
            CASE WHEN pg_catalog.count(r.complete_until) = pg_catalog.count(*) THEN pg_catalog.min(r.complete_until) END AS complete_until
        FROM seal_sync.peer p
        LEFT JOIN seal_sync.sent_progress h ON h.peer = p.peer
        LEFT JOIN seal_sync.get_routes() r ON r.peer = p.peer
        WHERE s.primary_node = n.node AND (c.standby_nodes IS NULL OR p.peer = ANY (c.standby_nodes))) o ON true
    LEFT JOIN seal_sync.get_origins() i ON i.node = s.primary_node
    LEFT JOIN seal_sync.applied_progress a ON a.origin = s.primary_node
)
SELECT d.cluster, d.role,
    CASE WHEN d.detached_since IS NOT NULL THEN 'DETACHED'
         WHEN d.message IS NOT NULL THEN 'PREFIX_SUSPENDED'
         WHEN d.role = 'primary' THEN 'PRIMARY' WHEN d.role = 'standby' THEN 'STANDBY' ELSE 'NONE' END AS state,
    CASE WHEN d.detached_since IS NOT NULL THEN d.detached_since
         WHEN d.message IS NOT NULL THEN d.suspended_since ELSE d.since END AS state_since,
    coalesce(d.role = 'primary' AND d.detached_since IS NULL, false) AS accepts_writes,
    d.primary_node, d.home_node, d.standby_nodes, d.epoch,
    CASE d.role WHEN 'standby' THEN d.complete_here WHEN 'primary' THEN d.complete_there END AS complete_until,
    CASE WHEN d.role = 'standby' THEN pg_catalog.clock_timestamp() - d.complete_here END AS staleness,
    d.batch_sent, d.batch_acknowledged, CASE WHEN d.role = 'standby' THEN d.batch_applied END AS batch_applied,
    (SELECT pg_catalog.count(*)::integer FROM seal_sync.table_rule r WHERE coalesce(r.cluster = d.cluster, true)) AS tables,
    CASE WHEN d.role = 'primary' THEN coalesce(d.quarantined, 0) END AS quarantined_keys,
    NULL::bigint AS lost_tail_open, NULL::timestamptz AS last_reconciled_at, NULL::text AS last_reconcile_status,
    NULL::timestamptz AS next_reconcile_at, NULL::timestamptz AS lease_until,
    d.match_values,
    CASE WHEN d.detached_since IS NOT NULL THEN pg_catalog.format('the node is detached: %s', d.detach_reason) ELSE d.message END AS message,
    CASE WHEN d.detached_since IS NOT NULL THEN 'SELECT seal_sync.node_attach() brings it back.' ELSE d.hint END AS hint
FROM described d;
COMMENT ON VIEW seal_sync.clusters IS 'each cluster: who is primary, whether it accepts writes here, how old a standby is';

CREATE VIEW seal_sync.stat_table AS
WITH counts AS MATERIALIZED (
    SELECT c.relation, c.peer, pg_catalog.sum(c.keys)::bigint AS keys, pg_catalog.min(c.oldest_at) AS oldest_at
    FROM seal_sync.pending_counts() c GROUP BY c.relation, c.peer
), held AS MATERIALIZED (
    SELECT h.relation, h.peer, pg_catalog.count(*) FILTER (WHERE h.state <> 'skipped') AS keys,
        pg_catalog.count(*) FILTER (WHERE h.state = 'quarantined') AS quarantined,
        pg_catalog.bool_or(h.state = 'parked') AS parked,
        pg_catalog.bool_or(h.state = 'waiting_peer' AND NOT h.awaits_cluster) AS waiting,
        pg_catalog.min(h.first_failed_at) FILTER (WHERE h.state IN ('parked', 'waiting_peer')) AS since,
        (pg_catalog.array_agg(h.message ORDER BY h.last_failed_at DESC)
            FILTER (WHERE h.state IN ('parked', 'waiting_peer') AND NOT h.awaits_cluster))[1] AS message,
        (pg_catalog.array_agg(h.hint ORDER BY h.last_failed_at DESC) FILTER (WHERE h.state = 'parked'))[1] AS hint
    FROM seal_sync.held h GROUP BY h.relation, h.peer
), copies AS MATERIALIZED (
    SELECT c.* FROM seal_sync.copy_progress c
), problems AS MATERIALIZED (
    SELECT p.relation, pg_catalog.string_agg(DISTINCT p.member::text, ', ' ORDER BY p.member::text) AS members
    FROM seal_sync.capture_problems p GROUP BY p.relation
), counters AS MATERIALIZED (
    SELECT t.* FROM seal_sync.get_table_counters() t
)
SELECT r.relation, p.peer,
    CASE WHEN r.cluster IS NOT NULL THEN ARRAY[r.cluster]
         ELSE ARRAY(SELECT c.cluster FROM seal_sync.cluster c ORDER BY c.cluster) END AS clusters,
    r.cluster_column,
    CASE WHEN b.relation IS NOT NULL THEN 'capture_disabled'
         WHEN s.dirty_since IS NOT NULL OR s.owed_since IS NOT NULL THEN 'dirty'
         WHEN h.parked OR y.state = 'parked' THEN 'parked'
         WHEN h.waiting OR y.state = 'waiting_peer' THEN 'waiting_peer'
         WHEN y.relation IS NOT NULL THEN 'copying'
         WHEN s.relation IS NOT NULL THEN 'synced' END AS state,
    CASE WHEN b.relation IS NOT NULL THEN NULL
         WHEN s.dirty_since IS NOT NULL OR s.owed_since IS NOT NULL THEN least(s.dirty_since, s.owed_since)
         WHEN h.parked OR h.waiting THEN h.since
         WHEN y.relation IS NOT NULL THEN coalesce(y.begun_at, y.requested_at) ELSE s.added_at END AS state_since,
    CASE WHEN b.relation IS NOT NULL THEN 'triggers are disabled or missing on ' || b.members
         WHEN s.dirty_since IS NOT NULL THEN s.dirty_reason
         WHEN s.owed_since IS NOT NULL THEN 'DDL has made or changed columns: their values are shipped of every row'
         WHEN h.parked OR h.waiting THEN h.message
         WHEN y.relation IS NOT NULL THEN y.message END AS message,
    CASE WHEN b.relation IS NOT NULL THEN 'Changes made meanwhile are not recorded; ENABLE ALWAYS the triggers, or remove the table and add it again.'
         WHEN h.parked OR y.state = 'parked'
         THEN coalesce(h.hint, y.hint, pg_catalog.format('Correct the table on node "%s"; it goes on by itself.', p.peer))
         WHEN h.waiting OR y.state = 'waiting_peer' THEN pg_catalog.format('Create the table on node "%s" and add it there with seal_sync.table_add; it goes on by itself.', p.peer)
         END AS hint,
    coalesce(c.keys, 0) + coalesce(h.keys, 0) AS pending_keys, c.oldest_at AS oldest_pending_at,
    v.captured_inserts, v.captured_updates, v.captured_deletes, v.captured_truncates,
    v.keys_shipped, v.bytes_shipped, v.keys_applied, v.guard_refused, v.guard_overridden,
    coalesce(h.quarantined, 0) AS quarantined_keys,
    NULL::timestamptz AS last_reconciled_at, NULL::bigint AS last_differences, v.stats_reset
FROM seal_sync.table_rule r
LEFT JOIN seal_sync.peer p ON true
LEFT JOIN seal_sync.table_state s ON s.relation = r.relation
LEFT JOIN problems b ON b.relation = r.relation
LEFT JOIN counts c ON c.relation = r.relation AND c.peer = p.peer
LEFT JOIN held h ON h.relation = r.relation AND h.peer = p.peer
LEFT JOIN copies y ON y.relation = r.relation AND y.peer = p.peer
LEFT JOIN LATERAL ( -- counters of the table as such stand under the empty peer
    SELECT coalesce(pg_catalog.sum(t.captured_inserts), 0)::bigint AS captured_inserts,
        coalesce(pg_catalog.sum(t.captured_updates), 0)::bigint AS captured_updates,
        coalesce(pg_catalog.sum(t.captured_deletes), 0)::bigint AS captured_deletes,
        coalesce(pg_catalog.sum(t.captured_truncates), 0)::bigint AS captured_truncates,
        coalesce(pg_catalog.sum(t.keys_shipped), 0)::bigint AS keys_shipped,
        coalesce(pg_catalog.sum(t.bytes_shipped), 0)::bigint AS bytes_shipped,
        coalesce(pg_catalog.sum(t.keys_applied), 0)::bigint AS keys_applied,
        coalesce(pg_catalog.sum(t.guard_refused), 0)::bigint AS guard_refused,
        coalesce(pg_catalog.sum(t.guard_overridden), 0)::bigint AS guard_overridden,
        pg_catalog.max(t.stats_reset) AS stats_reset
    FROM counters t WHERE t.relation = r.relation AND (t.peer = p.peer OR t.peer = '')
    HAVING (SELECT x.preloaded FROM seal_sync.get_server() x)) v ON true;
COMMENT ON VIEW seal_sync.stat_table IS 'each registered table and peer: state, what is pending, counters';
COMMENT ON COLUMN seal_sync.stat_table.captured_inserts IS 'inserts recorded here and seen by a scan for the peer; updates and deletes likewise';
COMMENT ON COLUMN seal_sync.stat_table.keys_shipped IS 'rows sent to the peer, a key that changed often between two scans once';
COMMENT ON COLUMN seal_sync.stat_table.bytes_shipped IS 'bytes of these rows on the wire';
COMMENT ON COLUMN seal_sync.stat_table.keys_applied IS 'rows of the peer''s batches written or deleted here, unchanged ones included; counted once a batch';

CREATE VIEW seal_sync.stat_route AS
SELECT r.peer, r.batches, r.empty_scans, r.keys, r.upserts, r.deletes, r.bytes_raw, r.bytes_wire, r.compression,
    r.scan_time, r.read_time, r.encode_time, r.send_time, r.apply_time, r.commit_time, r.idle_time,
    r.last_scan_time, r.last_read_time, r.last_encode_time, r.last_send_time, r.last_apply_time,
    r.last_commit_time, r.last_idle_time, r.max_batch_time,
    CASE WHEN r.batches > 0 THEN (SELECT t.what FROM (VALUES ('scan', r.scan_time), ('read', r.read_time), ('encode', r.encode_time), ('send', r.send_time),
        ('apply', r.apply_time), ('commit', r.commit_time), ('idle', r.idle_time)) t(what, ms) ORDER BY t.ms DESC LIMIT 1) END AS bottleneck,
    r.connects, r.connect_failures, r.stats_reset
FROM seal_sync.get_routes() r;
COMMENT ON VIEW seal_sync.stat_route IS 'each outgoing route: batches, keys, bytes and where the time goes, in milliseconds';
COMMENT ON COLUMN seal_sync.stat_route.encode_time IS 'writing rows in the format of the wire, estimated from every fourth row; read_time is without it';

CREATE VIEW seal_sync.health AS
WITH server AS MATERIALIZED (
    SELECT v.* FROM seal_sync.get_server() v
), node AS MATERIALIZED (
    SELECT n.node, n.created_at, n.detached_since, n.detach_reason, seal_sync.is_copy() AS copied, seal_sync.version() AS library,
        (SELECT e.extversion FROM pg_catalog.pg_extension e WHERE e.extname = 'seal_sync') AS extension
    FROM seal_sync.local_node n
), routes AS MATERIALIZED (
    SELECT s.* FROM seal_sync.status s WHERE s.direction = 'out'
), logins AS MATERIALIZED (
    SELECT p.peer, p.server, s.oid AS server_oid, m.options IS NOT NULL AS mapped, m.options
    FROM seal_sync.peer p
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.srvname = p.server
    LEFT JOIN LATERAL (
        SELECT coalesce(u.umoptions, '{}') AS options FROM pg_catalog.pg_user_mapping u
        WHERE u.umserver = s.oid AND (u.umuser = 0 OR u.umuser =
            (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = 'seal_sync_worker'))
        ORDER BY u.umuser DESC LIMIT 1) m ON true
), held AS MATERIALIZED (
    SELECT h.peer, h.relation, h.state, CASE WHEN h.awaits_cluster THEN h.cluster_id END AS awaited,
        pg_catalog.count(*) AS keys, pg_catalog.min(h.first_failed_at) AS since,
        -- No rows for monitors: messages of these classes name tables and constraints, others quote values.
        (pg_catalog.array_agg(CASE WHEN h.state NOT IN ('quarantined', 'skipped') OR "left"(h.sqlstate, 2) IN ('23', '42', '55')
            THEN h.message ELSE 'SQLSTATE ' || h.sqlstate END ORDER BY h.last_failed_at DESC))[1] AS message,
        (pg_catalog.array_agg(h.hint ORDER BY h.last_failed_at DESC))[1] AS hint
    FROM seal_sync.held h GROUP BY 1, 2, 3, 4
), copies AS MATERIALIZED (
    SELECT c.* FROM seal_sync.copy_progress c
), findings(severity, code, scope, since, message, hint) AS (
    SELECT 'warning', 'no_identity', 'node', NULL::timestamptz, 'this database is not a node yet: nothing is captured or applied',
        'SELECT seal_sync.node_create(''…'') gives it a name.'
    WHERE NOT EXISTS (SELECT FROM node)
    UNION ALL
    SELECT 'warning', 'detached', 'node', n.detached_since,
        pg_catalog.format('node "%s" is detached: %s. Nothing is shipped or applied, writes to registered tables are refused', n.node, n.detach_reason),
        'SELECT seal_sync.node_attach() brings it back.'
    FROM node n WHERE n.detached_since IS NOT NULL
    UNION ALL
    SELECT 'critical', 'copy', 'node', NULL,
        pg_catalog.format('this is a copy of node "%s", and nobody has decided what it is to be: nothing is shipped or applied', n.node),
        'SELECT seal_sync.node_adopt(''same'') where it takes the node''s place, node_adopt(''new'', node => ''…'') where it becomes another one.'
    FROM node n WHERE n.copied AND n.detached_since IS NULL
    UNION ALL
    SELECT 'warning', 'library_version', 'server', NULL,
        pg_catalog.format('the library is of version %s, the extension of %s', n.library, n.extension),
        'Where the library is the newer one: ALTER EXTENSION seal_sync UPDATE. Else install the newer library and restart the server.'
    FROM node n WHERE n.library <> n.extension
    UNION ALL
    SELECT 'critical', 'not_preloaded', 'server', NULL, 'the library is not in shared_preload_libraries: changes are recorded, nothing is shipped',
        'Add seal_sync to shared_preload_libraries and restart the server.'
    FROM server v, node WHERE NOT v.preloaded
    UNION ALL
    SELECT 'warning', 'disabled', 'server', NULL, 'seal_sync.enabled is off: nothing is shipped', 'Set seal_sync.enabled to on.'
    FROM server v, node WHERE NOT v.enabled
    UNION ALL
    SELECT 'critical', 'worker_not_running', 'server', NULL, 'the worker of this database does not run',
        'See the server log, seal_sync.databases and max_worker_processes.'
    FROM server v, node WHERE v.preloaded AND v.enabled AND v.worker_pid IS NULL AND NOT v.no_room
    UNION ALL
    SELECT 'critical', 'too_many_databases', 'server', NULL,
        pg_catalog.format('nothing is shipped from this database: seal_sync looks after at most %s databases of a server', v.max_databases),
        'Name those that have the extension in seal_sync.databases.'
    FROM server v, node WHERE v.no_room AND v.enabled
    UNION ALL
    SELECT 'critical', 'worker_slots', 'server', NULL,
        pg_catalog.format('max_worker_processes is %s: too few for %s routes', v.max_worker_processes, n.routes),
        pg_catalog.format('Set max_worker_processes to %s or more and restart the server.', n.routes + 8)
    FROM server v, (SELECT pg_catalog.count(*) AS routes FROM seal_sync.peer) n, node
    WHERE v.max_worker_processes < n.routes + 2
    UNION ALL
    SELECT 'warning', 'guard_' || v.guard, 'server', NULL,
        pg_catalog.format('seal_sync.guard is %s: rows of clusters with their primary elsewhere can be changed here', v.guard),
        'Set seal_sync.guard to refuse.'
    FROM server v WHERE v.guard <> 'refuse'
    UNION ALL
    SELECT CASE WHEN v.log_bytes >= v.log_limit_bytes * 0.8 THEN 'critical' ELSE 'warning' END, 'change_log_size', 'node', NULL,
        pg_catalog.format('the change log has %s of at most %s', pg_catalog.pg_size_pretty(v.log_bytes), pg_catalog.pg_size_pretty(v.log_limit_bytes)),
        'See seal_sync.status for the peer that does not take its changes.'
    FROM server v WHERE v.log_bytes >= v.log_limit_bytes * 0.5
    UNION ALL
    SELECT 'critical', 'server_missing', 'peer ' || l.peer, NULL,
        pg_catalog.format('server "%s" of peer "%s" does not exist', l.server, l.peer),
        'CREATE SERVER and its user mapping again, or name another one with seal_sync.peer_alter.'
    FROM logins l WHERE l.server_oid IS NULL
    UNION ALL
    SELECT 'critical', 'user_mapping_missing', 'peer ' || l.peer, NULL,
        pg_catalog.format('server "%s" has no user mapping for role "seal_sync_worker"', l.server),
        pg_catalog.format('CREATE USER MAPPING FOR seal_sync_worker SERVER %I OPTIONS (user ''…'').', l.server)
    FROM logins l WHERE l.server_oid IS NOT NULL AND NOT l.mapped
    UNION ALL
    SELECT 'info', 'inline_password', 'peer ' || l.peer, NULL,
        pg_catalog.format('the user mapping of server "%s" holds a password', l.server),
        'It appears in dumps, and in the server log under log_statement = ddl. Use a certificate or a passfile.'
    FROM logins l WHERE EXISTS (SELECT FROM pg_catalog.unnest(l.options) o WHERE o LIKE 'password=%')
    UNION ALL
    SELECT 'critical', 'peer_halted', 'peer ' || r.peer, r.state_since, coalesce(r.state_reason, r.last_error),
        'Nothing is shipped to it. Correct the cause, then SELECT seal_sync.resume(' || pg_catalog.quote_literal(r.peer) || ').'
    FROM routes r WHERE r.state = 'halted'
    UNION ALL
    SELECT CASE WHEN r.state_since < pg_catalog.clock_timestamp() - interval '1 h' THEN 'warning' ELSE 'info' END,
        'peer_paused', 'peer ' || r.peer, r.state_since,
        pg_catalog.format('shipping to peer "%s" is paused, %s keys wait', r.peer, r.pending_keys),
        'SELECT seal_sync.resume(' || pg_catalog.quote_literal(r.peer) || ') goes on.'
    FROM routes r WHERE r.state = 'paused'
    UNION ALL
    SELECT CASE WHEN r.state_since < pg_catalog.clock_timestamp() - interval '15 s' THEN 'critical' ELSE 'warning' END,
        'peer_' || r.state, 'peer ' || r.peer, r.state_since,
        pg_catalog.format('shipping to peer "%s" waits: %s', r.peer,
            CASE WHEN r.state = 'retrying' THEN coalesce(r.last_error, r.state_reason) ELSE coalesce(r.state_reason, r.state) END),
        CASE WHEN r.state = 'retrying' THEN r.last_error_hint
             ELSE 'SELECT * FROM seal_sync.peer_check(' || pg_catalog.quote_literal(r.peer) || ') shows every step.' END
    FROM routes r, server v WHERE r.state IN ('retrying', 'waiting_peer', 'stopped') AND v.preloaded AND v.enabled AND v.worker_pid IS NOT NULL
      AND NOT EXISTS (SELECT FROM node n WHERE n.detached_since IS NOT NULL OR n.copied) -- said above
      AND NOT (r.state = 'waiting_peer' AND r.connected_since IS NOT NULL
          AND (EXISTS (SELECT FROM held h WHERE h.peer = r.peer AND h.state = 'waiting_peer') -- said below, by table and cluster
              OR EXISTS (SELECT FROM copies y WHERE y.peer = r.peer AND y.state = 'waiting_peer')))
    UNION ALL
    SELECT 'critical', 'capture_disabled', 'table ' || p.relation::text, NULL,
        pg_catalog.format('trigger of seal_sync is %s on table %s', CASE WHEN p.missing THEN 'missing' ELSE 'not enabled always' END, p.member),
        'Changes made meanwhile are not recorded. ENABLE ALWAYS the trigger, or remove the table and add it again.'
    FROM (SELECT x.relation, x.member, pg_catalog.bool_or(x.missing) AS missing
          FROM seal_sync.capture_problems x GROUP BY x.relation, x.member) p
    UNION ALL
    SELECT 'warning', 'table_dirty', 'table ' || s.relation::regclass::text, s.dirty_since,
        'changes of the table were not recorded: ' || coalesce(s.dirty_reason, 'reason unknown'),
        'All its rows are shipped again by themselves once the change log has room.'
    FROM seal_sync.table_state s WHERE s.dirty_since IS NOT NULL
    UNION ALL
    SELECT 'warning', 'table_' || h.state, 'table ' || h.relation::regclass::text, h.since,
        pg_catalog.format('%s keys wait for peer "%s": %s', h.keys, h.peer, coalesce(h.message, h.state)),
        CASE h.state WHEN 'parked' THEN coalesce(h.hint, pg_catalog.format('Correct the table on node "%s"; it goes on by itself.', h.peer))
            ELSE pg_catalog.format('Create the table on node "%s" and add it there with seal_sync.table_add; it goes on by itself.', h.peer) END
    FROM held h WHERE h.state IN ('parked', 'waiting_peer') AND h.awaited IS NULL
    UNION ALL
    SELECT 'warning', 'table_' || y.state, 'table ' || y.relation::text, y.requested_at,
        pg_catalog.format('existing rows wait for peer "%s": %s', y.peer, y.message),
        CASE y.state WHEN 'parked' THEN coalesce(y.hint, pg_catalog.format('Correct the table on node "%s"; it goes on by itself.', y.peer))
            ELSE pg_catalog.format('Create the table on node "%s" and add it there with seal_sync.table_add; it goes on by itself.', y.peer) END
    FROM copies y WHERE y.state IN ('parked', 'waiting_peer')
      AND NOT EXISTS (SELECT FROM held h WHERE h.peer = y.peer AND h.relation = y.relation AND h.state = y.state AND h.awaited IS NULL)
    UNION ALL
    SELECT 'info', 'table_copying', 'table ' || y.relation::text, y.begun_at,
        pg_catalog.format('rows are being copied to peer "%s": %s', y.peer, y.message), 'See seal_sync.copy_progress.'
    FROM copies y WHERE y.state IN ('copying', 'activating')
    UNION ALL
    SELECT 'warning', 'cluster_waiting_peer', 'cluster ' || coalesce(c.cluster::text, h.awaited::text), h.since,
        pg_catalog.format('%s keys wait until peer "%s" declares the cluster', h.keys, h.peer),
        pg_catalog.format('On node "%s": SELECT seal_sync.cluster_create(%L, primary_node => %L).', h.peer, c.cluster, n.node)
    FROM (SELECT x.peer, x.awaited, pg_catalog.sum(x.keys) AS keys, pg_catalog.min(x.since) AS since
          FROM held x WHERE x.awaited IS NOT NULL GROUP BY x.peer, x.awaited) h
    LEFT JOIN seal_sync.cluster c ON c.cluster_id = h.awaited
    CROSS JOIN node n
    UNION ALL
    SELECT 'critical', 'quarantined_keys', 'table ' || h.relation::regclass::text, h.since,
        pg_catalog.format('%s keys are refused by peer "%s": %s', h.keys, h.peer, h.message),
        'See seal_sync.quarantine. Correct the cause, then SELECT seal_sync.quarantine_retry() ships them at once.'
    FROM held h WHERE h.state = 'quarantined'
    UNION ALL
    SELECT 'info', 'skipped_keys', 'table ' || h.relation::regclass::text, h.since,
        pg_catalog.format('%s keys differ on peer "%s": refused there, and skipped here by an operator', h.keys, h.peer),
        'They are shipped when they change again. See seal_sync.quarantine, and seal_sync.events for who skipped them.'
    FROM held h WHERE h.state = 'skipped'
    UNION ALL
    SELECT s.severity, s.code, s.scope, s.since, s.message, s.hint FROM seal_sync.sequence_findings s
    UNION ALL
    SELECT CASE WHEN coalesce(c.staleness > interval '15 min', false) THEN 'critical' ELSE 'warning' END,
        'standby_stale', 'cluster ' || c.cluster, c.complete_until,
        CASE WHEN c.complete_until IS NULL THEN pg_catalog.format('nothing of cluster "%s" has arrived from node "%s" yet', c.cluster, c.primary_node)
             ELSE pg_catalog.format('cluster "%s" is complete only until %s', c.cluster, c.complete_until) END,
        pg_catalog.format('See seal_sync.status here and on node "%s".', c.primary_node)
    FROM seal_sync.clusters c, node n
    WHERE c.role = 'standby' AND c.tables > 0
      AND (c.staleness > interval '1 min'
        OR c.complete_until IS NULL AND greatest(c.state_since, n.created_at) < pg_catalog.clock_timestamp() - interval '1 min')
)
SELECT f.severity, f.code, f.scope, f.since, f.message, f.hint FROM findings f
UNION ALL
SELECT 'ok', 'ok', 'node', NULL, 'all is well', NULL
WHERE NOT EXISTS (SELECT FROM findings f WHERE f.severity <> 'info');
COMMENT ON VIEW seal_sync.health IS 'what is wrong, worst first by severity: critical, warning, info; never empty: all well is one row ok';
