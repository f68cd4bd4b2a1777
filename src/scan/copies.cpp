// See copies.hpp.
#include "scan/copies.hpp"

#include "config/config.hpp"
#include "scan/log_reader.hpp"
#include "scan/values.hpp"

namespace seal_sync::scan {

namespace {

Datum uuid_datum(const core::wire::Id &id) {
  auto *uuid = static_cast<pg_uuid_t *>(palloc(sizeof(pg_uuid_t)));
  memcpy(uuid->data, id.bytes, sizeof uuid->data);
  return UUIDPGetDatum(uuid);
}

/// Sets columns of a job; the values count from $2. False: there is none, or a transaction of somebody else has it (table_remove
/// in an open transaction), and a worker does not wait for that.
template <size_t N> bool change(const char *set, int64 job, const Oid (&types)[N], const Datum (&values)[N]) {
  Oid all_types[N + 1] = {INT8OID};
  Datum all_values[N + 1] = {Int64GetDatum(job)};
  for (size_t i = 0; i < N; i++) {
    all_types[i + 1] = types[i];
    all_values[i + 1] = values[i];
  }
  SPI_connect();
  char *sql = psprintf("UPDATE seal_sync.copy SET %s WHERE job OPERATOR(pg_catalog.=) ANY (ARRAY("
                       "SELECT c.job FROM seal_sync.copy c WHERE c.job OPERATOR(pg_catalog.=) $1 FOR UPDATE SKIP LOCKED))", set);
  if (SPI_execute_with_args(sql, static_cast<int>(N + 1), all_types, all_values, nullptr, false, 0) != SPI_OK_UPDATE)
    elog(ERROR, "seal_sync: could not note how far a copy is");
  const bool changed = SPI_processed > 0;
  SPI_finish();
  return changed;
}

} // namespace

static int read_jobs(const char *peer, Snapshot snapshot, CopyJob **jobs) {
  const MemoryContext caller = CurrentMemoryContext;
  SPI_connect();
  Oid types[1] = {NAMEOID};
  Datum values[1] = {name_datum(peer)};
  // Read-only: by the active snapshot.
  PushActiveSnapshot(snapshot);
  if (SPI_execute_with_args("SELECT relation, stage, pin, staged_only, wait_message, job, last_at FROM seal_sync.copy "
                            "WHERE peer OPERATOR(pg_catalog.=) $1 ORDER BY requested_at, job",
                            1, types, values, nullptr, true, 0) != SPI_OK_SELECT)
    elog(ERROR, "seal_sync: could not read what is to be copied");
  PopActiveSnapshot();
  const int count = static_cast<int>(SPI_processed);
  const MemoryContext spi = MemoryContextSwitchTo(caller);
  *jobs = static_cast<CopyJob *>(palloc0(sizeof(CopyJob) * static_cast<size_t>(Max(count, 1))));
  for (int i = 0; i < count; i++) {
    bool is_null;
    const HeapTuple tuple = SPI_tuptable->vals[i];
    const TupleDesc desc = SPI_tuptable->tupdesc;
    CopyJob *job = &(*jobs)[i];
    job->relation = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &is_null));
    const Datum stage = SPI_getbinval(tuple, desc, 2, &is_null);
    if (!is_null)
      memcpy(job->stage.bytes, DatumGetUUIDP(stage)->data, sizeof job->stage.bytes);
    const Datum pin = SPI_getbinval(tuple, desc, 3, &is_null);
    job->begun = !is_null;
    if (job->begun)
      job->pin = position_from_datum(pin);
    job->staged_only = DatumGetBool(SPI_getbinval(tuple, desc, 4, &is_null));
    job->wait_message = SPI_getvalue(tuple, desc, 5);
    job->job = DatumGetInt64(SPI_getbinval(tuple, desc, 6, &is_null));
    const Datum last_at = SPI_getbinval(tuple, desc, 7, &is_null);
    job->last_at = is_null ? 0 : DatumGetTimestampTz(last_at);
  }
  MemoryContextSwitchTo(spi);
  SPI_finish();
  return count;
}

int load_copies(const char *peer, CopyJob **jobs) {
  // Whoever files a copy changes the rules; as long as those stand, none stays none.
  static uint64 none_under = 0;
  static NameData none_for = {};
  *jobs = nullptr;
  if ((none_under == config::version() && namestrcmp(&none_for, peer) == 0) || is_empty("copy"))
    return 0;
  const int count = read_jobs(peer, GetActiveSnapshot(), jobs);
  if (count == 0 && MyBackendType == B_BG_WORKER) {
    // The caller's snapshot may be older than the rules that are known here. What a snapshot taken after them does not see is not
    // committed yet, and changes them once more.
    const uint64 version = config::version();
    const Snapshot now = RegisterSnapshot(GetLatestSnapshot());
    CopyJob *later;
    if (read_jobs(peer, now, &later) == 0) {
      none_under = version;
      namestrcpy(&none_for, peer);
    }
    UnregisterSnapshot(now);
  }
  return count;
}

void file_copy(const char *peer, Oid relation, const Position *pin) {
  Oid types[3] = {NAMEOID, OIDOID, PG_SNAPSHOTOID};
  Datum values[3] = {name_datum(peer), ObjectIdGetDatum(relation), pin != nullptr ? position_to_datum(*pin) : 0};
  const char nulls[3] = {' ', ' ', pin != nullptr ? ' ' : 'n'};
  SPI_connect();
  if (SPI_execute_with_args("INSERT INTO seal_sync.copy (peer, relation, pin, begun_at) "
                            "SELECT $1, $2, $3, CASE WHEN $3 IS NOT NULL THEN pg_catalog.clock_timestamp() END WHERE EXISTS ("
                            "SELECT FROM seal_sync.table_rule r WHERE r.relation OPERATOR(pg_catalog.=) $2) "
                            "ON CONFLICT (peer, relation) DO UPDATE SET pin = EXCLUDED.pin, "
                            "begun_at = COALESCE(copy.begun_at, EXCLUDED.begun_at) WHERE EXCLUDED.pin IS NOT NULL",
                            3, types, values, nulls, false, 0) != SPI_OK_INSERT)
    elog(ERROR, "seal_sync: could not file the copy of a table");
  SPI_finish();
  config::changed();
}

bool begin_copy_job(int64 job, const core::wire::Id &stage, const Position &pin) {
  const Oid types[] = {UUIDOID, PG_SNAPSHOTOID};
  const Datum values[] = {uuid_datum(stage), position_to_datum(pin)};
  return change("stage = $2, pin = $3, waits = NULL, wait_message = NULL, wait_hint = NULL, "
                "begun_at = COALESCE(begun_at, pg_catalog.clock_timestamp())",
                job, types, values);
}

bool restart_copy_job(int64 job, const core::wire::Id &stage) {
  const Oid types[] = {UUIDOID};
  const Datum values[] = {uuid_datum(stage)};
  return change("stage = $2, rows_read = 0, rows_copied = 0, bytes_copied = 0, all_read_at = NULL", job, types, values);
}

bool unbegin_copy_job(int64 job) {
  const Oid types[] = {BOOLOID};
  const Datum values[] = {BoolGetDatum(true)};
  return change("stage = NULL, pin = NULL, begun_at = NULL, last_at = NULL, rows_read = 0, rows_copied = 0, bytes_copied = 0, "
                "all_read_at = NULL, staged_only = $2",
                job, types, values);
}

bool stage_copy_job(int64 job) {
  const Oid types[] = {BOOLOID};
  const Datum values[] = {BoolGetDatum(true)};
  return change("staged_only = $2", job, types, values);
}

bool note_copied(int64 job, int64 rows_read, int64 rows, int64 bytes, bool all) {
  const Oid types[] = {INT8OID, INT8OID, INT8OID, BOOLOID};
  const Datum values[] = {Int64GetDatum(rows_read), Int64GetDatum(rows), Int64GetDatum(bytes), BoolGetDatum(all)};
  return change("rows_read = rows_read OPERATOR(pg_catalog.+) $2, "
                "rows_copied = rows_copied OPERATOR(pg_catalog.+) $3, bytes_copied = bytes_copied OPERATOR(pg_catalog.+) $4, "
                "waits = NULL, wait_message = NULL, wait_hint = NULL, last_at = pg_catalog.clock_timestamp(), "
                "all_read_at = CASE WHEN $5 THEN pg_catalog.clock_timestamp() END",
                job, types, values);
}

void note_copy_waits(int64 job, const char *state, const char *message, const char *hint) {
  const Oid types[] = {TEXTOID, TEXTOID, TEXTOID};
  const Datum values[] = {CStringGetTextDatum(state), CStringGetTextDatum(message), CStringGetTextDatum(hint)};
  (void)change("waits = $2, wait_message = $3, wait_hint = NULLIF($4, '')", job, types, values);
}

void end_copy_job(int64 job) {
  Oid types[1] = {INT8OID};
  Datum values[1] = {Int64GetDatum(job)};
  SPI_connect();
  if (SPI_execute_with_args("DELETE FROM seal_sync.copy WHERE job OPERATOR(pg_catalog.=) ANY (ARRAY("
                            "SELECT c.job FROM seal_sync.copy c WHERE c.job OPERATOR(pg_catalog.=) $1 FOR UPDATE SKIP LOCKED))",
                            1, types, values, nullptr, false, 0) != SPI_OK_DELETE)
    elog(ERROR, "seal_sync: could not end the copy of a table");
  SPI_finish();
}

void lower_pins(const char *peer, const Position &position) {
  CopyJob *jobs;
  const Snapshot now = RegisterSnapshot(GetLatestSnapshot());
  const int count = read_jobs(peer, now, &jobs);
  UnregisterSnapshot(now);
  for (int i = 0; i < count; i++)
    if (jobs[i].begun && !covers(position, jobs[i].pin)) {
      const Oid types[] = {PG_SNAPSHOTOID};
      const Datum values[] = {position_to_datum(position)};
      if (!change("pin = $2", jobs[i].job, types, values))
        ereport(ERROR, errcode(ERRCODE_LOCK_NOT_AVAILABLE), errmsg("the copy of a table cannot be noted"),
                errdetail("Somebody has changed it and not committed yet."));
    }
}

bool oldest_pin(const char *peer, Position *pin) {
  CopyJob *jobs;
  PushActiveSnapshot(GetLatestSnapshot());
  const int count = load_copies(peer, &jobs);
  PopActiveSnapshot();
  bool found = false;
  for (int i = 0; i < count; i++)
    if (jobs[i].begun) {
      if (!found || covers(*pin, jobs[i].pin))
        *pin = jobs[i].pin;
      found = true;
    }
  return found;
}

} // namespace seal_sync::scan
