\echo Use "CREATE EXTENSION seal_sync" to load this file. \quit

-- Everything below is fully qualified; the search path is pinned so that nothing an earlier user
-- created in public can be picked up (CVE-2018-1058).
SET LOCAL search_path TO pg_catalog, pg_temp;

-- A schema of this name made beforehand makes the installation fail, on purpose (CVE-2022-24128).
CREATE SCHEMA seal_sync;
COMMENT ON SCHEMA seal_sync IS 'seal_sync: keeps databases of two application clusters in step';
