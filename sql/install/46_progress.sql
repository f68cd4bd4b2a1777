-- How far a route is with the batch under way: what eta is made of.

-- batch_keys is NULL while no batch is under way; remaining_seconds, as of measured_at, while too little has been seen of it.
CREATE FUNCTION seal_sync.get_progress(OUT peer name, OUT batch_keys bigint, OUT batch_done bigint, OUT batch_since timestamptz,
        OUT remaining_seconds float8, OUT measured_at timestamptz, OUT typical_batch float8)
    RETURNS SETOF record LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 2 AS 'MODULE_PATHNAME', 'seal_sync_get_progress';
