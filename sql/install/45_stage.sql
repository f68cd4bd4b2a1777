-- Stages: what peers have sent of batches that take long (src/core/wire.hpp, src/apply/stage_store.hpp). They outlive
-- connections and crashes; pg_dump leaves them out, like everything that is only underway.

-- Numbers of stages and of the ways in which connections have described their tables (dialects).
CREATE SEQUENCE seal_sync.stage_number;

-- A stage. bytes: as they came, which is what they take. What came after the first pass stands behind its chunks.
-- note is the sender's own.
CREATE TABLE seal_sync.stage (
    origin name NOT NULL,
    stage uuid NOT NULL,
    number bigint NOT NULL,
    previous bigint NOT NULL,
    previous_id uuid NOT NULL,
    first_pass integer NOT NULL,
    pass integer NOT NULL,
    chunks bigint NOT NULL,
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    first_pass_chunks bigint NOT NULL,
    first_pass_rows bigint NOT NULL,
    note bytea NOT NULL,
    created_at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    PRIMARY KEY (origin, stage)
);

-- How the tables of its chunks were described, by their number there. description: as it came, without the number;
-- told: the answer, one byte a column. pass: the first one that has rows of it.
CREATE TABLE seal_sync.stage_table (
    stage bigint NOT NULL,
    dialect bigint NOT NULL,
    number bigint NOT NULL,
    pass integer NOT NULL,
    encoding integer NOT NULL,
    description bytea NOT NULL,
    told bytea NOT NULL,
    CONSTRAINT stage_table_number PRIMARY KEY (stage, dialect, number)
);

-- The chunks in pieces that fill a page each, so that nothing goes through TOAST. A chunk belongs to nobody once its
-- stage is gone; the database worker empties the table, or deletes in small pieces, and only that is vacuumed.
CREATE TABLE seal_sync.stage_chunk (
    stage bigint NOT NULL,
    dialect bigint NOT NULL,
    seq integer NOT NULL,
    piece integer NOT NULL,
    pass integer NOT NULL,
    size integer NOT NULL,
    CONSTRAINT stage_chunk_piece PRIMARY KEY (stage, seq, piece) -- else a publication of all tables would refuse the DELETE
) WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647,
        autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.1);
-- In one statement: a column that may be toasted for a moment would make a TOAST table.
ALTER TABLE seal_sync.stage_chunk ADD COLUMN data bytea NOT NULL, ALTER COLUMN data SET STORAGE PLAIN;

CREATE VIEW seal_sync.stages AS
SELECT s.origin, s.chunks, s.rows, s.bytes, s.created_at, s.last_at FROM seal_sync.stage s;
COMMENT ON VIEW seal_sync.stages IS 'what peers have sent of batches that are not whole yet';

CREATE FUNCTION seal_sync.wire_stage(request bytea) RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_stage';
COMMENT ON FUNCTION seal_sync.wire_stage(bytea) IS 'called by a peer: keeps what was put for a later batch';

CREATE FUNCTION seal_sync.wire_stages() RETURNS bytea
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_stages';
COMMENT ON FUNCTION seal_sync.wire_stages() IS 'called by a peer: what is kept of it';

CREATE FUNCTION seal_sync.wire_stage_drop(request bytea) RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
    AS 'MODULE_PATHNAME', 'seal_sync_wire_stage_drop';
COMMENT ON FUNCTION seal_sync.wire_stage_drop(bytea) IS 'called by a peer: forgets what is kept';

REVOKE ALL ON FUNCTION seal_sync.wire_stage(bytea), seal_sync.wire_stages(), seal_sync.wire_stage_drop(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION seal_sync.wire_stage(bytea), seal_sync.wire_stages(), seal_sync.wire_stage_drop(bytea)
    TO seal_sync_peer;
REVOKE ALL ON seal_sync.stage, seal_sync.stage_table, seal_sync.stage_chunk, seal_sync.stages FROM PUBLIC;
