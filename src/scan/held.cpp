// See held.hpp.
#include "scan/held.hpp"

#include "config/event_log.hpp"
#include "pg/boundary.hpp"
#include "pg/varlena.hpp"
#include "scan/held_index.hpp"
#include "scan/values.hpp"

namespace seal_sync::scan {

namespace {

/// A statement for each of many keys, by the id of one at most: parsed and planned once per process.
struct Statement {
  const char *sql;
  SPIPlanPtr plan;
};

void execute(Statement *statement, int count, Oid *types, Datum *values, const char *nulls, int expected) {
  if (statement->plan == nullptr) {
    SPIPlanPtr const plan = SPI_prepare(statement->sql, count, types);
    if (plan == nullptr || SPI_keepplan(plan) != 0)
      elog(ERROR, "seal_sync: could not prepare a statement: %s", SPI_result_code_string(SPI_result));
    statement->plan = plan;
  }
  const int rc = SPI_execute_plan(statement->plan, values, nulls, false, 0);
  if (rc != expected)
    elog(ERROR, "seal_sync: unexpected SPI result %d", rc);
}

/// A parameter that is NULL when there is nothing to say.
void set_text(const char *text, Datum *value, char *null) {
  if (text == nullptr || text[0] == '\0')
    *null = 'n';
  else
    *value = CStringGetTextDatum(text);
}

/// The same as a name.
void set_name(const char *text, Datum *value, char *null) {
  if (text == nullptr || text[0] == '\0')
    *null = 'n';
  else
    *value = name_datum(text);
}

} // namespace

KeyHash hash_of(Oid relation, core::ByteSpan key) {
  return {relation, DatumGetUInt64(hash_any_extended(key.data(), static_cast<int>(key.size()), 0))};
}

namespace {

/// The id of this key's row as of now; 0: none. By the index, for which the planner might take another one.
int64 find_now(const char *peer, Oid relation, core::ByteSpan key) {
  const Snapshot now = RegisterSnapshot(GetLatestSnapshot());
  HeldIndex *held = open_held_index(peer, now);
  HeldState state{};
  if (held != nullptr) {
    (void)look_up_held(held, relation, key, &state);
    close_held_index(held);
  }
  UnregisterSnapshot(now);
  return state.id;
}

} // namespace

int64 hold_key(const char *peer, Oid relation, Oid leaf, int32 cluster, core::ByteSpan key,
               const HeldReason &reason) {
  CommandCounterIncrement(); // the same key may come twice
  int64 id = find_now(peer, relation, key);
  constexpr int kParameters = 21;
  SPI_connect();
  Oid types[kParameters] = {NAMEOID, OIDOID,  OIDOID,  INT4OID, BYTEAOID, TEXTOID,  CHAROID, TEXTOID, TEXTOID, TEXTOID, NAMEOID,
                            INT8OID, BOOLOID, TEXTOID, BOOLOID, OIDOID,   BYTEAOID, NAMEOID, BOOLOID, JSONBOID, INT8OID};
  Datum values[kParameters] = {};
  char nulls[kParameters + 1];
  memset(nulls, ' ', sizeof nulls);
  values[0] = name_datum(peer);
  values[1] = ObjectIdGetDatum(relation);
  values[2] = ObjectIdGetDatum(leaf);
  values[3] = Int32GetDatum(cluster);
  values[4] = PointerGetDatum(pg::make_bytea(key));
  values[5] = CStringGetTextDatum(reason.state);
  values[6] = CharGetDatum(reason.kind);
  set_text(reason.sqlstate, &values[7], &nulls[7]);
  set_text(reason.message, &values[8], &nulls[8]);
  set_text(reason.detail, &values[9], &nulls[9]);
  set_text(reason.hint, &values[13], &nulls[13]);
  set_name(reason.constraint, &values[10], &nulls[10]);
  values[11] = Int64GetDatum(reason.batch);
  values[12] = BoolGetDatum(reason.awaits_cluster);
  values[14] = BoolGetDatum(reason.over_skip);
  if (OidIsValid(reason.other_relation)) {
    values[15] = ObjectIdGetDatum(reason.other_relation);
    values[16] = PointerGetDatum(pg::make_bytea(reason.other_key));
  } else {
    nulls[15] = nulls[16] = 'n';
  }
  set_name(reason.other_cluster, &values[17], &nulls[17]);
  values[18] = BoolGetDatum(reason.other_stands);
  if (reason.standing != nullptr)
    values[19] = DirectFunctionCall1(jsonb_in, CStringGetDatum(reason.standing));
  else
    nulls[19] = 'n';
  values[20] = Int64GetDatum(id);
  // The delay doubles from 1 s to 10 min; parked tables are looked at again as soon as they fit.
  if (id == 0) {
    static Statement addition = {
        "INSERT INTO seal_sync.held (peer, relation, leaf, cluster_id, key, state, kind, sqlstate, message, detail, "
        "constraint_name, batch, awaits_cluster, hint, other_relation, other_key, other_cluster, other_stands, standing, next_retry_at) "
        "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $16, $17, $18, $19, $20, pg_catalog.clock_timestamp() "
        "OPERATOR(pg_catalog.+) CASE WHEN $6 OPERATOR(pg_catalog.=) 'quarantined' THEN interval '1 s' ELSE interval '0' END "
        "WHERE $15 IS NOT NULL AND $21 OPERATOR(pg_catalog.=) 0 RETURNING id",
        nullptr};
    execute(&addition, kParameters, types, values, nulls, SPI_OK_INSERT_RETURNING);
    bool is_null;
    id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
  } else {
    // An update that was refused stays one, though it is tried again with the whole row.
    static Statement change = {
        "WITH free AS (SELECT x.id FROM seal_sync.held x WHERE x.id OPERATOR(pg_catalog.=) $21 FOR NO KEY UPDATE SKIP LOCKED) "
        "UPDATE seal_sync.held h SET "
        "state = CASE WHEN h.state OPERATOR(pg_catalog.=) 'skipped' AND NOT $15 THEN h.state ELSE $6 END, "
        "leaf = $3, cluster_id = COALESCE(NULLIF($4, 0), h.cluster_id), awaits_cluster = $13, "
        "kind = CASE WHEN h.kind OPERATOR(pg_catalog.=) 'P' AND $7 OPERATOR(pg_catalog.=) 'W' THEN h.kind ELSE $7 END, "
        "sqlstate = $8, message = $9, detail = $10, constraint_name = $11, batch = $12, hint = $14, "
        "other_relation = $16, other_key = $17, other_cluster = $18, other_stands = $19, standing = $20, "
        "last_failed_at = pg_catalog.clock_timestamp(), attempts = h.attempts OPERATOR(pg_catalog.+) 1, "
        "next_retry_at = CASE WHEN h.state OPERATOR(pg_catalog.=) 'skipped' AND NOT $15 THEN h.next_retry_at "
        "WHEN $6 OPERATOR(pg_catalog.=) 'quarantined' "
        "THEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) (interval '1 s' OPERATOR(pg_catalog.*) "
        "LEAST(600::float8, pg_catalog.power(2::float8, LEAST(h.attempts, 10)::float8))) "
        "ELSE pg_catalog.clock_timestamp() END "
        "FROM free f WHERE h.id OPERATOR(pg_catalog.=) f.id AND $1 IS NOT NULL AND $2 IS NOT NULL AND $5 IS NOT NULL",
        nullptr};
    execute(&change, kParameters, types, values, nulls, SPI_OK_UPDATE);
  }
  SPI_finish();
  return id;
}

bool restate_held(const char *peer, Oid relation, const HeldReason &reason) {
  if (is_empty("held"))
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
  if (is_empty("held"))
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
