-- Sequences: split, so that each node takes numbers of its own, or carried, so that a standby's is always ahead. How, and
-- why so: decision 0005.

-- Which, and how. former_…: how a split sequence counted before. floor: how far its numbers went then, on this node.
CREATE TABLE seal_sync.sequence_rule (
    sequence regclass NOT NULL PRIMARY KEY,
    cluster name REFERENCES seal_sync.cluster,
    head_room bigint CHECK (head_room > 0),
    slots integer CHECK (slots > 1),
    former_increment bigint,
    former_start bigint,
    former_bound bigint,
    floor bigint,
    CHECK ((cluster IS NULL) <> (slots IS NULL)),
    CHECK ((cluster IS NULL) = (head_room IS NULL)),
    CHECK ((slots IS NULL) = (former_increment IS NULL) AND (slots IS NULL) = (former_start IS NULL))
);
SELECT pg_catalog.pg_extension_config_dump('seal_sync.sequence_rule', '');

-- Each node's share of all split sequences. A node that is restored under its name has its share again.
-- direct: the node itself has said so, not another one about it.
CREATE TABLE seal_sync.sequence_slot (
    node name NOT NULL PRIMARY KEY,
    slot integer NOT NULL CHECK (slot > 0),
    in_use boolean NOT NULL,
    direct boolean NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('seal_sync.sequence_slot', '');

-- What a peer has said of a sequence; on a standby, what has come from the primary.
CREATE TABLE seal_sync.sequence_peer (
    sequence oid NOT NULL,
    peer name NOT NULL REFERENCES seal_sync.peer ON DELETE CASCADE,
    state text NOT NULL,
    message text,
    hint text,
    carried bigint,
    carried_at timestamptz,
    floor bigint,
    PRIMARY KEY (sequence, peer)
);

CREATE FUNCTION seal_sync.sequence_split(sequence regclass, slots integer DEFAULT 8, slot integer DEFAULT NULL) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_sequence_split';
COMMENT ON FUNCTION seal_sync.sequence_split(regclass, integer, integer) IS
    'from now on this node takes every slots-th number of a sequence, others than all other nodes; slot, otherwise agreed upon with the peers, is this node''s share of all split sequences';

CREATE FUNCTION seal_sync.sequence_add(sequence regclass, cluster name, head_room bigint DEFAULT 1000) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_sequence_add';
COMMENT ON FUNCTION seal_sync.sequence_add(regclass, name, bigint) IS
    'the cluster''s primary counts, its standbys are kept ahead by what seal_sync.sequence_head_room says, at least by head_room calls of nextval';

CREATE FUNCTION seal_sync.sequence_remove(sequence regclass) RETURNS void
    LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'seal_sync_sequence_remove';
COMMENT ON FUNCTION seal_sync.sequence_remove(regclass) IS 'a sequence is this node''s own again; a split one counts as it did before, from where it is';

-- As they stand. fault: increment, number, start, cycle or slot, where a split sequence does not keep to its share.
CREATE FUNCTION seal_sync.sequence_states(OUT sequence oid, OUT slot integer, OUT increment bigint, OUT last_value bigint,
        OUT ascending boolean, OUT fault text)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'seal_sync_sequence_states';

CREATE FUNCTION seal_sync.wire_sequences(request bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_sequences';
COMMENT ON FUNCTION seal_sync.wire_sequences(bytea) IS 'called by a peer: which numbers are its own, and how far its sequences have come';
REVOKE ALL ON FUNCTION seal_sync.wire_sequences(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION seal_sync.wire_sequences(bytea) TO seal_sync_peer;

CREATE VIEW seal_sync.sequences AS
WITH node AS MATERIALIZED (
    SELECT n.node FROM seal_sync.local_node n
), described AS (
    SELECT r.sequence, r.cluster, s.slot, r.slots, s.increment, s.last_value, s.ascending, p.peer, k.carried, k.carried_at,
        k.state, k.message, k.hint, r.slots IS NOT NULL AS split, c.primary_node, c.primary_node = n.node AS here,
        CASE WHEN s.ascending THEN k.carried < s.last_value ELSE k.carried > s.last_value END AS behind,
        pg_catalog.quote_literal(r.sequence::text) AS argument, f.floor,
        CASE WHEN s.fault IS NOT NULL THEN s.fault
             WHEN r.slots IS NOT NULL AND NOT q.seqcycle AND CASE WHEN s.ascending THEN s.last_value < f.floor ELSE s.last_value > f.floor END THEN 'floor'
             -- carried is of when this node was told, not of when it told
             WHEN r.slots IS NULL AND c.primary_node <> n.node AND k.state = 'standby'
                AND CASE WHEN s.ascending THEN s.last_value < k.carried ELSE s.last_value > k.carried END THEN 'back'
        END AS fault
    FROM seal_sync.sequence_rule r
    JOIN seal_sync.sequence_states() s ON s.sequence = r.sequence
    JOIN pg_catalog.pg_sequence q ON q.seqrelid = r.sequence
    LEFT JOIN node n ON true
    LEFT JOIN seal_sync.cluster_state c ON c.cluster = r.cluster
    LEFT JOIN seal_sync.cluster d ON d.cluster = r.cluster
    -- whom it concerns: all peers, the standbys, or the primary
    LEFT JOIN seal_sync.peer p ON r.slots IS NOT NULL
        OR c.primary_node = n.node AND (d.standby_nodes IS NULL OR p.peer = ANY (d.standby_nodes))
        OR c.primary_node <> n.node AND p.peer = c.primary_node
    LEFT JOIN seal_sync.sequence_peer k ON k.sequence = r.sequence AND k.peer = p.peer
    CROSS JOIN LATERAL (SELECT CASE WHEN r.former_increment > 0 THEN greatest(r.floor, k.floor) ELSE least(r.floor, k.floor) END AS floor) f
)
SELECT d.sequence, d.cluster, d.slot, d.slots, d.increment, d.last_value, d.carried, d.carried_at, d.peer,
    CASE WHEN d.fault IS NOT NULL THEN 'broken'
         WHEN d.here AND d.state = 'carried' AND d.behind THEN 'behind'
         WHEN NOT d.split AND NOT d.here AND d.carried IS NULL THEN 'waiting_peer'
         WHEN NOT d.split AND NOT d.here THEN 'standby'
         WHEN d.state = 'standby' THEN 'waiting_peer' -- of before the primary moved here
         ELSE coalesce(d.state, 'waiting_peer') END AS state,
    CASE d.fault
        WHEN 'slot' THEN pg_catalog.format('sequence %s is split, but not for this node', d.sequence)
        WHEN 'increment' THEN pg_catalog.format('sequence %s counts by %s: its numbers are not only this node''s', d.sequence, d.increment)
        WHEN 'number' THEN pg_catalog.format('sequence %s stands at %s, which is not a number of this node''s', d.sequence, d.last_value)
        WHEN 'start' THEN pg_catalog.format('sequence %s would restart at a number that is not this node''s', d.sequence)
        WHEN 'cycle' THEN pg_catalog.format('sequence %s would begin again at a number that is not this node''s', d.sequence)
        WHEN 'floor' THEN pg_catalog.format('sequence %s stands at %s, but numbers up to %s were given when it was split', d.sequence, d.last_value, d.floor)
        WHEN 'back' THEN pg_catalog.format('sequence %s stands at %s: it was set back, node "%s" had taken it to %s', d.sequence, d.last_value, d.peer, d.carried)
        ELSE CASE WHEN d.here AND d.state = 'carried' AND d.behind
                THEN pg_catalog.format('sequence %s of node "%s" is behind: it stands at %s, here at %s', d.sequence, d.peer, d.carried, d.last_value)
             WHEN NOT d.split AND NOT d.here THEN
                CASE WHEN d.carried IS NULL THEN pg_catalog.format('nothing of sequence %s has come from node "%s" yet', d.sequence, d.primary_node) END
             WHEN d.state IS NULL AND d.peer IS NOT NULL THEN pg_catalog.format('node "%s" has not been asked yet', d.peer)
             ELSE d.message END
    END AS message,
    CASE WHEN d.fault = 'back' THEN pg_catalog.format('SELECT pg_catalog.setval(%s, %s) takes it there again.', d.argument, d.carried)
         WHEN d.fault IS NOT NULL THEN 'SELECT seal_sync.sequence_split(' || d.argument || ', slots => ' || d.slots || ') corrects it.'
         WHEN d.here AND d.state = 'carried' AND d.behind THEN 'It is told as soon as the node answers; see seal_sync.status.'
         WHEN NOT d.split AND NOT d.here AND d.carried IS NULL THEN pg_catalog.format('On node "%s": SELECT seal_sync.sequence_add(%s, cluster => %L).',
            d.primary_node, d.argument, d.cluster)
         WHEN NOT d.split AND NOT d.here THEN NULL
         ELSE d.hint END AS hint
FROM described d;
COMMENT ON VIEW seal_sync.sequences IS 'each sequence that is split or carried, and what each peer says to it';

-- How many times nextval can still be called, and what part of all that is.
CREATE VIEW seal_sync.sequence_left AS
SELECT r.sequence, pg_catalog.div(l.numbers, pg_catalog.abs(q.seqincrement)) AS calls, l.numbers / (q.seqmax::numeric - q.seqmin) AS share
FROM seal_sync.sequence_rule r
JOIN seal_sync.sequence_states() s ON s.sequence = r.sequence
JOIN pg_catalog.pg_sequence q ON q.seqrelid = r.sequence AND NOT q.seqcycle
CROSS JOIN LATERAL (SELECT CASE WHEN q.seqincrement > 0 THEN q.seqmax::numeric - s.last_value ELSE s.last_value::numeric - q.seqmin END AS numbers) l
WHERE s.last_value IS NOT NULL;

-- What health says of them.
CREATE VIEW seal_sync.sequence_findings (severity, code, scope, since, message, hint) AS
SELECT CASE WHEN s.state IN ('broken', 'collides') THEN 'critical' ELSE 'warning' END,
    'sequence_' || s.state, 'sequence ' || s.sequence::text, NULL::timestamptz, s.message, s.hint
FROM (SELECT DISTINCT ON (q.sequence, q.state, q.message) q.* FROM seal_sync.sequences q ORDER BY q.sequence, q.state, q.message, q.peer) s
WHERE s.state NOT IN ('agreed', 'carried', 'standby') AND s.message IS NOT NULL
UNION ALL
SELECT CASE WHEN l.calls < 1 THEN 'critical' ELSE 'warning' END,
    'sequence_near_end', 'sequence ' || l.sequence::text, NULL, pg_catalog.format('sequence %s has %s numbers left', l.sequence, l.calls),
    'ALTER SEQUENCE … with other bounds, on every node, and a wider type of the column.'
FROM seal_sync.sequence_left l WHERE l.share < 0.1 OR l.calls < 1
UNION ALL
-- Found when nodes hear of each other that had got theirs from different ones, or by hand
SELECT CASE WHEN pg_catalog.bool_and(s.in_use OR s.node = n.node AND EXISTS (SELECT FROM seal_sync.sequence_rule r WHERE r.slots IS NOT NULL))
        THEN 'critical' ELSE 'warning' END,
    'sequence_slot_taken', 'node', NULL, pg_catalog.format('nodes %s have the same slot %s of split sequences',
        pg_catalog.string_agg(pg_catalog.quote_ident(s.node), ', ' ORDER BY s.node), s.slot),
    'On one of them: SELECT seal_sync.sequence_split(…, slot => ' || (SELECT pg_catalog.max(m.slot) + 1 FROM seal_sync.sequence_slot m) || ').'
FROM seal_sync.sequence_slot s LEFT JOIN seal_sync.local_node n ON true GROUP BY s.slot, n.node HAVING pg_catalog.count(*) > 1;
