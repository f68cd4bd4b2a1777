-- Copies of tables: what waits, what is under way, and when it will be done.

-- rows_total comes from the planner's statistics, rows_done counts rows looked at, of all clusters, so the two compare; rows_copied
-- are those that go to this peer. state: waiting (its turn comes), waiting_peer and parked (the peer does not take
-- the table, see message), copying, activating (all rows are on the peer; the next batch shows them there).
CREATE VIEW seal_sync.copy_progress AS
SELECT c.relation::regclass AS relation, c.peer,
    CASE WHEN c.waits IS NOT NULL THEN c.waits
         WHEN c.all_read_at IS NOT NULL THEN 'activating'
         WHEN c.begun_at IS NOT NULL THEN 'copying' ELSE 'waiting' END AS state,
    c.rows_read AS rows_done, t.rows AS rows_total, c.rows_copied, c.bytes_copied,
    c.requested_at, c.begun_at, c.last_at,
    c.rows_read / nullif(pg_catalog.date_part('epoch', c.last_at - c.begun_at), 0) AS rows_per_second,
    CASE WHEN c.all_read_at IS NULL AND c.rows_read > 0 AND t.rows IS NOT NULL AND c.last_at > c.begun_at
         THEN pg_catalog.make_interval(secs => pg_catalog.date_part('epoch', c.last_at - c.begun_at) / c.rows_read
                  * greatest(t.rows - c.rows_read, 0)) END AS eta,
    coalesce(c.wait_message,
        CASE WHEN c.all_read_at IS NOT NULL THEN 'all rows are on the peer, and are shown there with the next batch'
             WHEN c.begun_at IS NOT NULL THEN pg_catalog.format('%s of about %s rows read', c.rows_read, coalesce(t.rows::text, '?'))
             ELSE 'existing rows are still to be copied' END) AS message,
    c.wait_hint AS hint
FROM seal_sync.copy c
CROSS JOIN LATERAL (
    SELECT pg_catalog.sum(nullif(k.reltuples, -1))::bigint AS rows
    FROM (SELECT c.relation AS oid UNION SELECT p.relid::oid FROM pg_catalog.pg_partition_tree(c.relation::regclass) p) m
    JOIN pg_catalog.pg_class k ON k.oid = m.oid AND k.relkind = 'r') t;
COMMENT ON VIEW seal_sync.copy_progress IS 'tables whose existing rows are being copied to a peer, or wait for it';
REVOKE ALL ON seal_sync.copy_progress FROM PUBLIC;

CREATE FUNCTION seal_sync.wait_for_tables(timeout interval DEFAULT '1 h') RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_wait_for_tables';
COMMENT ON FUNCTION seal_sync.wait_for_tables(interval) IS 'returns when every registered table is in step with every peer';
