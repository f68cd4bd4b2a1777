-- For monitoring: every number of the other views as one row each, in base units (seconds, bytes), counters ending in
-- _total, so that one query serves any SQL exporter (contrib/monitoring). What is unknown has no row: exporters make
-- NaN of null, which no alert compares, while a series that is absent can be alerted on. Of what can be true or not, 1
-- and 0. relation is always schema.table, whatever the search path. A part of the extension that has numbers adds
-- them here.
CREATE VIEW seal_sync.metrics AS
WITH node AS MATERIALIZED (
    SELECT n.node FROM seal_sync.local_node n
), routes AS MATERIALIZED (
    SELECT s.* FROM seal_sync.status s
), findings AS MATERIALIZED (
    SELECT h.severity FROM seal_sync.health h
), held AS MATERIALIZED (
    SELECT h.peer, pg_catalog.count(*) FILTER (WHERE h.state = 'quarantined') AS quarantined,
        pg_catalog.count(*) FILTER (WHERE h.state = 'skipped') AS skipped,
        pg_catalog.count(*) FILTER (WHERE h.state IN ('parked', 'waiting_peer')) AS waiting,
        pg_catalog.min(h.first_failed_at) FILTER (WHERE h.state = 'quarantined') AS quarantined_since
    FROM seal_sync.held h GROUP BY h.peer
), names AS MATERIALIZED (
    SELECT c.oid, n.nspname || '.' || c.relname AS name
    FROM seal_sync.table_rule r JOIN pg_catalog.pg_class c ON c.oid = r.relation
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
), numbers(metric, peer, direction, cluster, relation, value) AS (
    -- the node
    SELECT m.metric, NULL::name, NULL::text, NULL::name, NULL::text, m.value
    FROM seal_sync.get_server() v
    CROSS JOIN LATERAL (VALUES
        ('preloaded', v.preloaded::integer::float8),
        ('enabled', v.enabled::integer::float8),
        ('worker_running', (v.worker_pid IS NOT NULL)::integer::float8),
        ('guard_refuses', (v.guard = 'refuse')::integer::float8),
        ('change_log_bytes', v.log_bytes::float8),
        ('change_log_limit_bytes', v.log_limit_bytes::float8)) m(metric, value)
    UNION ALL
    SELECT 'identity', NULL, NULL, NULL, NULL, pg_catalog.count(*)::float8 FROM node
    UNION ALL
    SELECT 'health_' || s.severity, NULL, NULL, NULL, NULL,
        (SELECT pg_catalog.count(*)::float8 FROM findings f WHERE f.severity = s.severity)
    FROM (VALUES ('critical'), ('warning'), ('info')) s(severity)
    UNION ALL
    SELECT 'tables', NULL, NULL, NULL, NULL, pg_catalog.count(*)::float8 FROM seal_sync.table_rule r
    -- each route, both directions
    UNION ALL
    SELECT m.metric, r.peer, r.direction, NULL, NULL, m.value
    FROM routes r
    CROSS JOIN LATERAL (VALUES
        ('route_connected', (r.connected_since IS NOT NULL)::integer::float8),
        ('route_encrypted', CASE WHEN r.direction = 'out' AND r.connected_since IS NOT NULL THEN (r.tls IS NOT NULL)::integer::float8 END),
        ('state_age_seconds', extract(epoch FROM pg_catalog.clock_timestamp() - r.state_since)::float8),
        ('last_contact_age_seconds', extract(epoch FROM pg_catalog.clock_timestamp() - r.last_contact_at)::float8),
        ('last_batch_age_seconds', extract(epoch FROM pg_catalog.clock_timestamp() - r.last_batch_at)::float8),
        ('last_batch_keys', r.last_batch_keys::float8),
        ('pending_keys', r.pending_keys::float8),
        ('lag_seconds', extract(epoch FROM r.lag)::float8),
        ('eta_seconds', extract(epoch FROM r.eta)::float8),
        ('keys_per_second', r.keys_per_second),
        ('parked_tables', r.parked_tables::float8),
        ('retries', r.retries::float8),
        ('clock_offset_seconds', extract(epoch FROM r.clock_offset)::float8)) m(metric, value)
    UNION ALL
    SELECT 'route_state_' || s.state, r.peer, r.direction, NULL, NULL, (r.state = s.state)::integer::float8
    FROM routes r CROSS JOIN (VALUES ('starting'), ('catchup'), ('streaming'), ('waiting_peer'), ('paused'), ('retrying'),
        ('halted'), ('stopped')) s(state)
    UNION ALL
    SELECT m.metric, p.peer, 'out', NULL, NULL, m.value
    FROM seal_sync.peer p
    LEFT JOIN held h ON h.peer = p.peer
    CROSS JOIN LATERAL (VALUES
        ('quarantined_keys', coalesce(h.quarantined, 0)::float8),
        ('skipped_keys', coalesce(h.skipped, 0)::float8),
        ('waiting_keys', coalesce(h.waiting, 0)::float8),
        ('quarantine_age_seconds', extract(epoch FROM pg_catalog.clock_timestamp() - h.quarantined_since)::float8)) m(metric, value)
    UNION ALL
    SELECT m.metric, r.peer, 'out', NULL, NULL, m.value
    FROM seal_sync.stat_route r
    CROSS JOIN LATERAL (VALUES
        ('batches_total', r.batches::float8),
        ('empty_scans_total', r.empty_scans::float8),
        ('shipped_keys_total', r.keys::float8),
        ('shipped_upserts_total', r.upserts::float8),
        ('shipped_deletes_total', r.deletes::float8),
        ('raw_bytes_total', r.bytes_raw::float8),
        ('wire_bytes_total', r.bytes_wire::float8),
        ('scan_seconds_total', r.scan_time / 1000),
        ('read_seconds_total', r.read_time / 1000),
        ('encode_seconds_total', r.encode_time / 1000),
        ('send_seconds_total', r.send_time / 1000),
        ('apply_seconds_total', r.apply_time / 1000),
        ('commit_seconds_total', r.commit_time / 1000),
        ('idle_seconds_total', r.idle_time / 1000),
        ('max_batch_seconds', r.max_batch_time / 1000),
        ('connects_total', r.connects::float8),
        ('connect_failures_total', r.connect_failures::float8)) m(metric, value)
    -- each cluster
    UNION ALL
    SELECT m.metric, NULL, NULL, c.cluster, NULL, m.value
    FROM seal_sync.clusters c
    CROSS JOIN LATERAL (VALUES
        ('cluster_primary', (c.role = 'primary')::integer::float8),
        ('cluster_standby', (c.role = 'standby')::integer::float8),
        ('cluster_accepts_writes', c.accepts_writes::integer::float8),
        ('cluster_prefix_suspended', (c.state = 'PREFIX_SUSPENDED')::integer::float8),
        ('cluster_epoch', c.epoch::float8),
        ('cluster_staleness_seconds', extract(epoch FROM c.staleness)::float8),
        ('cluster_complete_until_timestamp_seconds', extract(epoch FROM c.complete_until)::float8),
        ('cluster_quarantined_keys', c.quarantined_keys::float8),
        ('cluster_lost_tail_keys', c.lost_tail_open::float8),
        ('cluster_last_reconciled_timestamp_seconds', extract(epoch FROM c.last_reconciled_at)::float8)) m(metric, value)
    -- each table and peer
    UNION ALL
    SELECT m.metric, t.peer, NULL, NULL, n.name, m.value
    FROM seal_sync.stat_table t
    JOIN names n ON n.oid = t.relation
    CROSS JOIN LATERAL (VALUES
        ('table_synced', (t.state = 'synced')::integer::float8),
        ('table_pending_keys', t.pending_keys::float8),
        ('table_pending_age_seconds', extract(epoch FROM pg_catalog.clock_timestamp() - t.oldest_pending_at)::float8),
        ('table_quarantined_keys', t.quarantined_keys::float8),
        ('table_captured_inserts_total', t.captured_inserts::float8),
        ('table_captured_updates_total', t.captured_updates::float8),
        ('table_captured_deletes_total', t.captured_deletes::float8),
        ('table_shipped_keys_total', t.keys_shipped::float8),
        ('table_shipped_bytes_total', t.bytes_shipped::float8),
        ('table_applied_keys_total', t.keys_applied::float8),
        ('table_guard_refused_total', t.guard_refused::float8),
        ('table_guard_overridden_total', t.guard_overridden::float8)) m(metric, value)
    -- each sequence that is split or carried; and each peer that it concerns
    UNION ALL
    SELECT m.metric, NULL, NULL, r.cluster, n.nspname || '.' || c.relname, m.value
    FROM seal_sync.sequence_rule r
    JOIN pg_catalog.pg_class c ON c.oid = r.sequence
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN seal_sync.sequence_states() s ON s.sequence = r.sequence
    LEFT JOIN seal_sync.sequence_left l ON l.sequence = r.sequence
    CROSS JOIN LATERAL (VALUES
        ('sequence_last_value', s.last_value::float8),
        ('sequence_left_calls', l.calls::float8),
        ('sequence_left_ratio', l.share::float8)) m(metric, value)
    UNION ALL
    SELECT m.metric, q.peer, NULL, q.cluster, n.nspname || '.' || c.relname, m.value
    FROM seal_sync.sequences q
    JOIN pg_catalog.pg_class c ON c.oid = q.sequence
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (VALUES
        ('sequence_settled', (q.state = ANY ('{agreed,carried,standby}'))::integer::float8),
        ('sequence_ahead_calls', CASE WHEN q.state = ANY ('{carried,behind}') THEN (q.carried::float8 - q.last_value) / q.increment END)) m(metric, value)
    WHERE q.peer IS NOT NULL
)
SELECT x.metric, n.node, x.peer, x.direction, x.cluster, x.relation, x.value
FROM numbers x LEFT JOIN node n ON true
WHERE x.value IS NOT NULL;
COMMENT ON VIEW seal_sync.metrics IS 'all numbers for monitoring, one a row, in seconds and bytes; what is unknown has no row';
