// See arrived.hpp.
#include "scan/arrived.hpp"

#include "config/config.hpp"
#include "scan/values.hpp"

namespace seal_sync::scan {

namespace {

Datum id_array(const int64 *ids, int count) {
  auto *elements = static_cast<Datum *>(palloc_extended(sizeof(Datum) * static_cast<size_t>(count + 1), MCXT_ALLOC_HUGE));
  for (int i = 0; i < count; i++)
    elements[i] = Int64GetDatum(ids[i]);
  return PointerGetDatum(construct_array(elements, count, INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE));
}

/// Session::arrived becomes what the last statement has returned.
void read_arrived(Session *session) {
  const MemoryContext old = MemoryContextSwitchTo(session->context);
  if (session->arrived != nullptr)
    pfree(session->arrived);
  session->arrived_count = 0;
  session->arrived_capacity = static_cast<int>(SPI_processed) + 1;
  session->arrived = static_cast<int64 *>(MemoryContextAllocHuge(session->context, sizeof(int64) * static_cast<size_t>(session->arrived_capacity)));
  MemoryContextSwitchTo(old);
  bool is_null;
  for (uint64 i = 0; i < SPI_processed; i++)
    session->arrived[session->arrived_count++] =
        DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
}

/// Removes those that nobody has locked, and remembers the others.
void remove_free(Session *session, Datum ids, int count) {
  Oid types[1] = {INT8ARRAYOID};
  Datum values[1] = {ids};
  execute("WITH free AS (SELECT h.id FROM seal_sync.held h WHERE h.id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($1)) "
          "FOR UPDATE SKIP LOCKED) "
          "DELETE FROM seal_sync.held h USING free f WHERE h.id OPERATOR(pg_catalog.=) f.id",
          1, types, values, nullptr, SPI_OK_DELETE);
  session->arrived_count = 0;
  if (SPI_processed == static_cast<uint64>(count))
    return;
  execute("SELECT id FROM seal_sync.held WHERE id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($1))", 1, types, values, nullptr,
          SPI_OK_SELECT);
  read_arrived(session);
}

} // namespace

void release_held(Session *session, const int64 *ids, int count, uint64 batch) {
  if (count == 0) {
    session->arrived_count = 0;
    return;
  }
  SPI_connect();
  Oid types[2] = {INT8ARRAYOID, TIMESTAMPTZOID};
  Datum values[2] = {id_array(ids, count), TimestampTzGetDatum(GetCurrentTimestamp())};
  execute(
      "WITH gone AS MATERIALIZED (SELECT c.peer, c.relation, c.key FROM seal_sync.held c WHERE c.id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($1))), "
      "free AS (SELECT d.id FROM gone g JOIN seal_sync.held d ON d.peer OPERATOR(pg_catalog.=) g.peer "
      "AND d.other_relation OPERATOR(pg_catalog.=) g.relation "
      "AND pg_catalog.sha256(d.other_key) OPERATOR(pg_catalog.=) pg_catalog.sha256(g.key) "
      "WHERE d.state OPERATOR(pg_catalog.=) 'quarantined' AND d.next_retry_at OPERATOR(pg_catalog.>) $2 "
      "AND NOT d.id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($1)) FOR NO KEY UPDATE OF d SKIP LOCKED) "
      "UPDATE seal_sync.held h SET next_retry_at = $2 FROM free f WHERE h.id OPERATOR(pg_catalog.=) f.id",
      2, types, values, nullptr, SPI_OK_UPDATE);
  types[1] = INT8OID;
  values[1] = Int64GetDatum(static_cast<int64>(batch));
  execute("INSERT INTO seal_sync.held_arrived (id, peer, batch, relation, leaf, cluster_id, key) "
          "SELECT h.id, h.peer, $2, h.relation, h.leaf, h.cluster_id, h.key FROM seal_sync.held h "
          "WHERE h.id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($1)) ON CONFLICT (id) DO NOTHING",
          2, types, values, nullptr, SPI_OK_INSERT);
  remove_free(session, values[0], count);
  SPI_finish();
}

void release_arrived(Session *session) {
  if (session->arrived_count == 0)
    return;
  SPI_connect();
  remove_free(session, id_array(session->arrived, session->arrived_count), session->arrived_count);
  SPI_finish();
}

void drop_held(Session *session, int64 id) {
  for (int i = 0; i < session->arrived_count; i++)
    if (session->arrived[i] == id)
      return;
  if (session->arrived_count == session->arrived_capacity) {
    session->arrived_capacity = Max(64, session->arrived_capacity * 2);
    const size_t size = sizeof(int64) * static_cast<size_t>(session->arrived_capacity);
    session->arrived = static_cast<int64 *>(session->arrived == nullptr ? MemoryContextAllocHuge(session->context, size)
                                                                        : repalloc_huge(session->arrived, size));
  }
  session->arrived[session->arrived_count++] = id;
}

void hold_after_all(Session *session, const int64 *ids, int count) {
  if (session->arrived_count == 0 || count == 0)
    return;
  SPI_connect();
  Oid types[1] = {INT8ARRAYOID};
  Datum values[1] = {id_array(ids, count)};
  execute("DELETE FROM seal_sync.held_arrived WHERE id OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($1))", 1, types, values, nullptr,
          SPI_OK_DELETE);
  SPI_finish();
}

void hold_again(const char *peer, uint64 batch) {
  if (is_empty("held_arrived"))
    return;
  SPI_connect();
  Oid types[2] = {NAMEOID, INT8OID};
  Datum values[2] = {name_datum(peer), Int64GetDatum(static_cast<int64>(batch))};
  execute("WITH back AS (DELETE FROM seal_sync.held_arrived a WHERE a.peer OPERATOR(pg_catalog.=) $1 AND a.batch OPERATOR(pg_catalog.>) $2 "
          "RETURNING a.id, a.peer, a.batch, a.relation, a.leaf, a.cluster_id, a.key) "
          "INSERT INTO seal_sync.held (peer, relation, leaf, cluster_id, key, state, message, batch) "
          "SELECT b.peer, b.relation, b.leaf, b.cluster_id, b.key, 'quarantined', "
          "'the peer has fallen back to a state before this key had arrived', b.batch FROM back b "
          "WHERE EXISTS (SELECT FROM seal_sync.table_rule r WHERE r.relation OPERATOR(pg_catalog.=) b.relation) "
          "ON CONFLICT DO NOTHING",
          2, types, values, nullptr, SPI_OK_INSERT);
  SPI_finish();
}

void load_arrived(Session *session) {
  session->arrived_count = 0;
  if (is_empty("held") || is_empty("held_arrived"))
    return;
  SPI_connect();
  Oid types[1] = {NAMEOID};
  Datum values[1] = {name_datum(NameStr(session->peer))};
  execute("SELECT h.id FROM seal_sync.held h WHERE h.peer OPERATOR(pg_catalog.=) $1 "
          "AND EXISTS (SELECT FROM seal_sync.held_arrived a WHERE a.id OPERATOR(pg_catalog.=) h.id)",
          1, types, values, nullptr, SPI_OK_SELECT);
  read_arrived(session);
  SPI_finish();
}

void forget_arrived(TimestampTz keep_since) {
  if (is_empty("held_arrived"))
    return;
  SPI_connect();
  Oid types[1] = {TIMESTAMPTZOID};
  Datum values[1] = {TimestampTzGetDatum(keep_since)};
  execute("WITH old AS MATERIALIZED (SELECT h.peer, pg_catalog.max(h.batch) AS batch FROM ("
          "SELECT peer, batch, kind, at FROM seal_sync.route_history_0 UNION ALL SELECT peer, batch, kind, at FROM seal_sync.route_history_1) h "
          "WHERE h.kind OPERATOR(pg_catalog.=) 'a' AND h.at OPERATOR(pg_catalog.<=) $1 GROUP BY h.peer) "
          "DELETE FROM seal_sync.held_arrived a WHERE NOT EXISTS (SELECT FROM seal_sync.held h WHERE h.id OPERATOR(pg_catalog.=) a.id) "
          "AND (a.batch OPERATOR(pg_catalog.<=) (SELECT o.batch FROM old o WHERE o.peer OPERATOR(pg_catalog.=) a.peer) "
          "OR NOT EXISTS (SELECT FROM seal_sync.peer p WHERE p.peer OPERATOR(pg_catalog.=) a.peer))",
          1, types, values, nullptr, SPI_OK_DELETE);
  SPI_finish();
}

} // namespace seal_sync::scan
