// See held.hpp.
#include "scan/held.hpp"

#include "config/event_log.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::scan {

namespace {

void execute(const char *sql, int count, Oid *types, Datum *values, const char *nulls, int expected,
             long limit = 0) {
  const int rc = SPI_execute_with_args(sql, count, types, values, nulls, false, limit);
  if (rc != expected)
    elog(ERROR, "seal_sync: unexpected SPI result %d", rc);
}

Datum name_datum(const char *text) { return DirectFunctionCall1(namein, CStringGetDatum(text)); }

/// A parameter that is NULL when there is nothing to say.
void set_text(const char *text, Datum *value, char *null) {
  if (text == nullptr || text[0] == '\0')
    *null = 'n';
  else
    *value = CStringGetTextDatum(text);
}

bytea *to_bytea(core::ByteSpan bytes) {
  auto *copy = static_cast<bytea *>(palloc(bytes.size() + VARHDRSZ));
  SET_VARSIZE(copy, bytes.size() + VARHDRSZ);
  memcpy(VARDATA(copy), bytes.data(), bytes.size());
  return copy;
}

bool nothing_held() {
  const Relation rel = table_open(config::own_relation("held"), AccessShareLock);
  const bool empty = RelationGetNumberOfBlocks(rel) == 0;
  table_close(rel, AccessShareLock);
  return empty;
}

} // namespace

KeyHash hash_of(Oid relation, core::ByteSpan key) {
  return {relation, DatumGetUInt64(hash_any_extended(key.data(), static_cast<int>(key.size()), 0))};
}

int load_held(const char *peer, int limit, const Datum *unfit, int unfit_count, const int32 *accepted,
              int accepted_count, HeldKey **keys) {
  *keys = nullptr;
  if (nothing_held()) // the usual case costs one look at the file's size
    return 0;
  const MemoryContext caller = CurrentMemoryContext;
  SPI_connect();
  auto *clusters = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(accepted_count + 1)));
  for (int i = 0; i < accepted_count; i++)
    clusters[i] = Int32GetDatum(accepted[i]);
  Oid types[3] = {NAMEOID, OIDARRAYOID, INT4ARRAYOID};
  Datum values[3] = {
      name_datum(peer),
      PointerGetDatum(construct_array(const_cast<Datum *>(unfit), unfit_count, OIDOID, sizeof(Oid), true, TYPALIGN_INT)),
      PointerGetDatum(construct_array(clusters, accepted_count, INT4OID, sizeof(int32), true, TYPALIGN_INT))};
  execute("SELECT id, relation, key, next_retry_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp(), "
          "state OPERATOR(pg_catalog.=) 'skipped' "
          "FROM seal_sync.held WHERE peer OPERATOR(pg_catalog.=) $1 "
          "AND (state OPERATOR(pg_catalog.=) ANY (ARRAY['quarantined', 'skipped']) "
          "OR next_retry_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()) "
          "AND relation OPERATOR(pg_catalog.<>) ALL ($2) AND (NOT awaits_cluster OR cluster_id OPERATOR(pg_catalog.=) ANY ($3)) "
          "ORDER BY next_retry_at",
          3, types, values, nullptr, SPI_OK_SELECT, limit);
  const int count = static_cast<int>(SPI_processed);
  const MemoryContext spi = MemoryContextSwitchTo(caller);
  *keys = static_cast<HeldKey *>(palloc(sizeof(HeldKey) * static_cast<size_t>(Max(count, 1))));
  for (int i = 0; i < count; i++) {
    bool is_null;
    const HeapTuple tuple = SPI_tuptable->vals[i];
    const TupleDesc desc = SPI_tuptable->tupdesc;
    HeldKey *key = &(*keys)[i];
    key->id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &is_null));
    key->relation = DatumGetObjectId(SPI_getbinval(tuple, desc, 2, &is_null));
    const bytea *bytes = DatumGetByteaPCopy(SPI_getbinval(tuple, desc, 3, &is_null));
    key->key = {reinterpret_cast<const uint8_t *>(VARDATA_ANY(bytes)), VARSIZE_ANY_EXHDR(bytes)};
    key->due = DatumGetBool(SPI_getbinval(tuple, desc, 4, &is_null));
    key->skipped = DatumGetBool(SPI_getbinval(tuple, desc, 5, &is_null));
  }
  MemoryContextSwitchTo(spi);
  SPI_finish();
  return count;
}

int64 hold_key(const char *peer, Oid relation, Oid leaf, int32 cluster, core::ByteSpan key,
               const HeldReason &reason) {
  SPI_connect();
  Oid types[15] = {NAMEOID, OIDOID, OIDOID, INT4OID, BYTEAOID, TEXTOID, CHAROID, TEXTOID,
                   TEXTOID, TEXTOID, NAMEOID, INT8OID, BOOLOID, TEXTOID, BOOLOID};
  Datum values[15] = {};
  char nulls[16] = "               ";
  values[0] = name_datum(peer);
  values[1] = ObjectIdGetDatum(relation);
  values[2] = ObjectIdGetDatum(leaf);
  values[3] = Int32GetDatum(cluster);
  values[4] = PointerGetDatum(to_bytea(key));
  values[5] = CStringGetTextDatum(reason.state);
  values[6] = CharGetDatum(reason.kind);
  set_text(reason.sqlstate, &values[7], &nulls[7]);
  set_text(reason.message, &values[8], &nulls[8]);
  set_text(reason.detail, &values[9], &nulls[9]);
  set_text(reason.hint, &values[13], &nulls[13]);
  if (reason.constraint == nullptr || reason.constraint[0] == '\0')
    nulls[10] = 'n';
  else
    values[10] = name_datum(reason.constraint);
  values[11] = Int64GetDatum(reason.batch);
  values[12] = BoolGetDatum(reason.awaits_cluster);
  values[14] = BoolGetDatum(reason.over_skip);
  // An update that was refused stays one, though it is tried again with the whole row.
  // The delay doubles from 1 s to 10 min; parked tables are looked at again as soon as they fit.
  execute("INSERT INTO seal_sync.held AS h (peer, relation, leaf, cluster_id, key, state, kind, sqlstate, "
          "message, detail, constraint_name, batch, awaits_cluster, hint, next_retry_at) "
          "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, pg_catalog.clock_timestamp() "
          "OPERATOR(pg_catalog.+) CASE WHEN $6 OPERATOR(pg_catalog.=) 'quarantined' "
          "THEN interval '1 s' ELSE interval '0' END) "
          "ON CONFLICT (peer, relation, pg_catalog.sha256(key)) DO UPDATE SET "
          "state = CASE WHEN h.state OPERATOR(pg_catalog.=) 'skipped' AND NOT $15 THEN h.state ELSE excluded.state END, "
          "leaf = excluded.leaf, cluster_id = COALESCE(NULLIF(excluded.cluster_id, 0), h.cluster_id), "
          "awaits_cluster = excluded.awaits_cluster, "
          "kind = CASE WHEN h.kind OPERATOR(pg_catalog.=) 'P' AND excluded.kind OPERATOR(pg_catalog.=) 'W' THEN h.kind ELSE excluded.kind END, sqlstate = excluded.sqlstate, message = excluded.message, "
          "detail = excluded.detail, hint = excluded.hint, constraint_name = excluded.constraint_name, batch = excluded.batch, "
          "last_failed_at = pg_catalog.clock_timestamp(), attempts = h.attempts OPERATOR(pg_catalog.+) 1, "
          "next_retry_at = CASE WHEN h.state OPERATOR(pg_catalog.=) 'skipped' AND NOT $15 THEN h.next_retry_at "
          "WHEN excluded.state OPERATOR(pg_catalog.=) 'quarantined' "
          "THEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) (interval '1 s' OPERATOR(pg_catalog.*) "
          "LEAST(600::float8, pg_catalog.power(2::float8, LEAST(h.attempts, 10)::float8))) "
          "ELSE excluded.next_retry_at END "
          "RETURNING id",
          15, types, values, nulls, SPI_OK_INSERT_RETURNING);
  bool is_null;
  const int64 id =
      SPI_processed == 1
          ? DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null))
          : 0;
  SPI_finish();
  return id;
}

bool restate_held(const char *peer, Oid relation, const HeldReason &reason) {
  if (nothing_held())
    return false;
  Oid types[7] = {NAMEOID, OIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
  Datum values[7] = {name_datum(peer), ObjectIdGetDatum(relation), CStringGetTextDatum(reason.state)};
  char nulls[8] = "       ";
  set_text(reason.sqlstate, &values[3], &nulls[3]);
  set_text(reason.message, &values[4], &nulls[4]);
  set_text(reason.detail, &values[5], &nulls[5]);
  set_text(reason.hint, &values[6], &nulls[6]);
  SPI_connect();
  execute("UPDATE seal_sync.held SET state = $3, sqlstate = $4, message = $5, detail = $6, hint = $7 "
          "WHERE peer OPERATOR(pg_catalog.=) $1 AND relation OPERATOR(pg_catalog.=) $2 "
          "AND state OPERATOR(pg_catalog.<>) ALL (ARRAY['quarantined', 'skipped']) AND NOT awaits_cluster "
          "AND (state OPERATOR(pg_catalog.<>) $3 OR message IS DISTINCT FROM $5)",
          7, types, values, nulls, SPI_OK_UPDATE);
  const bool any = SPI_processed > 0;
  SPI_finish();
  return any;
}

void release_held(const int64 *ids, int count) {
  if (count == 0)
    return;
  auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(count)));
  for (int i = 0; i < count; i++)
    elements[i] = Int64GetDatum(ids[i]);
  Oid types[1] = {INT8ARRAYOID};
  Datum values[1] = {
      PointerGetDatum(construct_array(elements, count, INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE))};
  SPI_connect();
  execute("DELETE FROM seal_sync.held WHERE id OPERATOR(pg_catalog.=) ANY ($1)", 1, types, values,
          nullptr, SPI_OK_DELETE);
  SPI_finish();
}

void mark_dirty(Oid relation, const char *reason) {
  Oid types[2] = {OIDOID, TEXTOID};
  Datum values[2] = {ObjectIdGetDatum(relation), CStringGetTextDatum(reason)};
  SPI_connect();
  execute("SELECT FROM seal_sync.table_state WHERE relation OPERATOR(pg_catalog.=) $1 AND dirty_since IS NULL", 1, types,
          values, nullptr, SPI_OK_SELECT);
  const bool news = SPI_processed > 0;
  // Also when it is marked already: whoever is removing that mark may not have seen our changes.
  execute("UPDATE seal_sync.table_state SET dirty_since = COALESCE(dirty_since, pg_catalog.clock_timestamp()), "
          "dirty_reason = $2 WHERE relation OPERATOR(pg_catalog.=) $1",
          2, types, values, nullptr, SPI_OK_UPDATE);
  SPI_finish();
  if (news)
    config::note_event("table_dirty", config::table_scope(relation), reason, {});
}

int64 count_held(const char *peer) {
  if (nothing_held())
    return 0;
  SPI_connect();
  Oid types[1] = {NAMEOID};
  Datum values[1] = {name_datum(peer)};
  execute("SELECT pg_catalog.count(*) FROM seal_sync.held WHERE peer OPERATOR(pg_catalog.=) $1 "
          "AND state OPERATOR(pg_catalog.<>) 'skipped'", 1,
          types, values, nullptr, SPI_OK_SELECT);
  bool is_null;
  const int64 count =
      DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
  SPI_finish();
  return count;
}

} // namespace seal_sync::scan
