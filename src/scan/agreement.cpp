// See agreement.hpp.
#include "scan/agreement.hpp"

#include "capture/capture.hpp"
#include "config/event_log.hpp"
#include "scan/descriptor.hpp"
#include "scan/rotation.hpp"
#include "scan/values.hpp"

namespace seal_sync::scan {

namespace {

Datum int2_array(const int16 *values, int count) {
  auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(count + 1)));
  for (int i = 0; i < count; i++)
    elements[i] = Int16GetDatum(values[i]);
  return PointerGetDatum(construct_array(elements, count, INT2OID, sizeof(int16), true, TYPALIGN_SHORT));
}

int int2_elements(Datum array, int16 *out, int most) {
  Datum *elements;
  int count;
  deconstruct_array(DatumGetArrayTypeP(array), INT2OID, sizeof(int16), true, TYPALIGN_SHORT, &elements, nullptr, &count);
  const int used = Min(count, most);
  for (int i = 0; i < used; i++)
    out[i] = DatumGetInt16(elements[i]);
  return used;
}

struct Agreement {
  bool found;
  int count;
  int16 columns[MaxHeapAttributeNumber];
  int16 places[MaxHeapAttributeNumber]; // of each column, with an incarnation
  bool has_incarnation;
  core::wire::Id incarnation;
  uint64 newest;
};

void read_agreement(const char *peer, Oid relation, Agreement *row) {
  row->found = row->has_incarnation = false;
  row->count = 0;
  Oid types[2] = {NAMEOID, OIDOID};
  Datum values[2] = {name_datum(peer), ObjectIdGetDatum(relation)};
  if (execute("SELECT columns, incarnation, newest, places FROM seal_sync.agreement "
              "WHERE peer OPERATOR(pg_catalog.=) $1 AND relation OPERATOR(pg_catalog.=) $2",
              2, types, values, nullptr, SPI_OK_SELECT) == 0)
    return;
  const HeapTuple tuple = SPI_tuptable->vals[0];
  const TupleDesc desc = SPI_tuptable->tupdesc;
  bool is_null;
  row->found = true;
  row->count = int2_elements(SPI_getbinval(tuple, desc, 1, &is_null), row->columns, MaxHeapAttributeNumber);
  const Datum incarnation = SPI_getbinval(tuple, desc, 2, &is_null);
  row->has_incarnation = !is_null;
  if (!is_null)
    memcpy(row->incarnation.bytes, DatumGetUUIDP(incarnation)->data, sizeof row->incarnation.bytes);
  row->newest = static_cast<uint64>(DatumGetInt64(SPI_getbinval(tuple, desc, 3, &is_null)));
  const Datum places = SPI_getbinval(tuple, desc, 4, &is_null);
  if (is_null || int2_elements(places, row->places, MaxHeapAttributeNumber) != row->count)
    row->has_incarnation = false;
}

/// Whether the values of this column have gone to the same place ever since.
bool agreed_before(const SentTable *sent, int column, const Agreement *row) {
  for (int i = 0; i < row->count; i++)
    if (row->columns[i] == sent->columns[column].root_attno)
      return !sent->told || !row->has_incarnation || row->places[i] == sent->places[column];
  return false;
}

/// Whether anything has to be written.
bool same(const SentTable *sent, const Agreement *row) {
  if (!row->found || row->count != sent->column_count)
    return false;
  for (int i = 0; i < sent->column_count; i++)
    if (!agreed_before(sent, i, row))
      return false;
  return !sent->told || (row->has_incarnation && row->incarnation == sent->incarnation && row->newest == sent->newest);
}

void store(const char *peer, const SentTable *sent) {
  auto *columns = static_cast<int16 *>(palloc(sizeof(int16) * static_cast<size_t>(sent->column_count + 1)));
  for (int i = 0; i < sent->column_count; i++)
    columns[i] = sent->columns[i].root_attno;
  pg_uuid_t incarnation;
  memcpy(incarnation.data, sent->incarnation.bytes, sizeof incarnation.data);
  Oid types[6] = {NAMEOID, OIDOID, INT2ARRAYOID, UUIDOID, INT8OID, INT2ARRAYOID};
  Datum values[6] = {name_datum(peer), ObjectIdGetDatum(sent->root), int2_array(columns, sent->column_count),
                     UUIDPGetDatum(&incarnation),
                     Int64GetDatum(static_cast<int64>(sent->newest)), Datum{0}};
  char nulls[7] = "      ";
  if (sent->told)
    values[5] = int2_array(sent->places, sent->column_count);
  else
    nulls[3] = nulls[5] = 'n';
  execute("INSERT INTO seal_sync.agreement (peer, relation, columns, incarnation, newest, places) VALUES ($1, $2, $3, $4, $5, $6) "
          "ON CONFLICT (peer, relation) DO UPDATE SET columns = excluded.columns, incarnation = excluded.incarnation, "
          "newest = excluded.newest, places = excluded.places",
          6, types, values, nulls, SPI_OK_INSERT);
}

/// False: the table is registered no more, or somebody's open transaction has its row (table_remove). A worker does not wait for
/// that, nor for the row of the agreement, which forget_tables() deletes later.
bool lock_state(Oid relation) {
  Oid types[1] = {OIDOID};
  Datum values[1] = {ObjectIdGetDatum(relation)};
  return execute("SELECT FROM seal_sync.table_state WHERE relation OPERATOR(pg_catalog.=) $1 FOR UPDATE SKIP LOCKED", 1, types, values,
                 nullptr, SPI_OK_SELECT) > 0;
}

void mark(const SentTable *sent, const int16 *columns, int count) {
  Oid types[2] = {OIDOID, INT2ARRAYOID};
  Datum values[2] = {ObjectIdGetDatum(sent->root), int2_array(columns, count)};
  execute("UPDATE seal_sync.table_state SET owed_since = COALESCE(owed_since, pg_catalog.clock_timestamp()), "
          "owed_columns = ARRAY(SELECT pg_catalog.unnest(owed_columns) UNION SELECT pg_catalog.unnest($2)) "
          "WHERE relation OPERATOR(pg_catalog.=) $1",
          2, types, values, nullptr, SPI_OK_UPDATE);
}

/// False: not now.
bool note(const char *peer, const SentTable *sent, Agreement *before) {
  read_agreement(peer, sent->root, before);
  if (same(sent, before))
    return true;
  if (!lock_state(sent->root))
    return false;
  // All columns: the table over there is another one, or was filled anew.
  const bool another = sent->told && before->has_incarnation && !(before->incarnation == sent->incarnation);
  auto *owed = static_cast<int16 *>(palloc(sizeof(int16) * static_cast<size_t>(sent->column_count + 1)));
  int count = 0;
  for (int i = 0; i < sent->column_count && before->found; i++)
    if (another || !agreed_before(sent, i, before) ||
        (sent->told && before->has_incarnation && sent->numbers[i] > before->newest))
      owed[count++] = sent->columns[i].root_attno;
  store(peer, sent);
  if (count > 0)
    mark(sent, owed, count);
  return true;
}

} // namespace

void note_agreements(Session *session) {
  if (session->tables == nullptr)
    return;
  Agreement *before = nullptr;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, session->tables);
  while (auto *sent = static_cast<SentTable *>(hash_seq_search(&status))) {
    if (sent->columns == nullptr || sent->fit != TableFit::kFits || sent->noted)
      continue;
    SPI_connect();
    if (before == nullptr)
      before = static_cast<Agreement *>(SPI_palloc(sizeof(Agreement)));
    sent->noted = note(NameStr(session->peer), sent, before);
    SPI_finish();
  }
}

int agreed_tables(const char *peer, Oid **relations) {
  const MemoryContext caller = CurrentMemoryContext;
  Oid types[1] = {NAMEOID};
  Datum values[1] = {name_datum(peer)};
  SPI_connect();
  const int count = static_cast<int>(
      execute("SELECT a.relation FROM seal_sync.agreement a JOIN seal_sync.table_state s ON s.relation OPERATOR(pg_catalog.=) a.relation "
              "WHERE a.peer OPERATOR(pg_catalog.=) $1",
              1, types, values, nullptr, SPI_OK_SELECT));
  *relations = static_cast<Oid *>(MemoryContextAlloc(caller, sizeof(Oid) * static_cast<size_t>(count + 1)));
  bool is_null;
  for (int i = 0; i < count; i++)
    (*relations)[i] = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
  SPI_finish();
  return count;
}

bool ship_owed() {
  if (!log_has_room())
    return false;
  int16 columns[MaxHeapAttributeNumber];
  int count = 0;
  Oid relation = InvalidOid;
  SPI_connect();
  // First the mark, then the rows: what is owed anew after our snapshot marks the table anew. In one statement, lest a column
  // that is marked meanwhile is unmarked unseen.
  const int rc = SPI_execute("WITH marked AS (SELECT relation, owed_columns FROM seal_sync.table_state WHERE owed_columns IS NOT NULL "
                             " LIMIT 1 FOR UPDATE SKIP LOCKED) "
                             "UPDATE seal_sync.table_state s SET owed_columns = NULL, owed_since = NULL FROM marked m "
                             "WHERE s.relation OPERATOR(pg_catalog.=) m.relation RETURNING m.relation, m.owed_columns",
                             false, 0);
  if (rc != SPI_OK_UPDATE_RETURNING)
    elog(ERROR, "seal_sync: unexpected SPI result %d", rc);
  if (SPI_processed == 1) {
    bool is_null;
    relation = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
    count = int2_elements(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &is_null), columns, MaxHeapAttributeNumber);
  }
  SPI_finish();
  if (!OidIsValid(relation))
    return false;
  const int64 before = log_bytes();
  capture::recapture_columns(relation, columns, count);
  config::note_event("table_shipped_again", config::table_scope(relation), "columns that DDL has made or changed", {});
  count_copy(before);
  return true;
}

} // namespace seal_sync::scan
