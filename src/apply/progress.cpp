// See progress.hpp.
#include "apply/progress.hpp"

#include "apply/reply.hpp"
#include "config/config.hpp"

namespace seal_sync::apply {

namespace {

constexpr int kTables = 2;
constexpr BlockNumber kFullBlocks = 512; // 4 MB, some ten thousand batches

enum Column { kOrigin = 1, kBatch, kBatchId, kCompleteUntil, kRows, kRefusals, kAt, kColumns = kAt };

const char *const kTableNames[kTables] = {"applied_0", "applied_1"};
const char *const kIndexNames[kTables] = {"applied_0_batch", "applied_1_batch"};

Relation open_progress(int table, LOCKMODE mode) {
  return table_open(config::own_relation(kTableNames[table]), mode);
}

bool is_full(Relation relation) { return RelationGetNumberOfBlocks(relation) >= kFullBlocks; }

/// The newest row of `origin` in one table replaces `best` when it is newer.
void newest_of(int table, Relation heap, const char *origin, Snapshot snapshot, Applied *best) {
  NameData name;
  namestrcpy(&name, origin);
  ScanKeyData key;
  ScanKeyInit(&key, kOrigin, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&name));
  Relation index = index_open(config::own_relation(kIndexNames[table]), AccessShareLock);
  SysScanDesc scan = systable_beginscan_ordered(heap, index, snapshot, 1, &key);
  HeapTuple tuple = systable_getnext_ordered(scan, BackwardScanDirection);
  if (HeapTupleIsValid(tuple)) {
    bool is_null;
    const TupleDesc desc = RelationGetDescr(heap);
    const int64 batch = DatumGetInt64(heap_getattr(tuple, kBatch, desc, &is_null));
    if (!best->found || batch > best->batch) {
      best->found = true;
      best->batch = batch;
      best->id = id_of(*DatumGetUUIDP(heap_getattr(tuple, kBatchId, desc, &is_null)));
      best->complete_until = DatumGetTimestampTz(heap_getattr(tuple, kCompleteUntil, desc, &is_null));
      const Datum refusals = heap_getattr(tuple, kRefusals, desc, &is_null);
      best->refusals = is_null ? nullptr : DatumGetByteaPCopy(refusals);
    }
  }
  systable_endscan_ordered(scan);
  index_close(index, AccessShareLock);
}

} // namespace

Applied last_applied(const char *origin) {
  Applied best = {};
  Relation heaps[kTables];
  // Both locks before the snapshot: rotation copies a row and empties its table in one transaction,
  // and TRUNCATE shows an older snapshot an empty table.
  for (int i = 0; i < kTables; ++i)
    heaps[i] = open_progress(i, AccessShareLock);
  PushActiveSnapshot(GetLatestSnapshot());
  for (int i = 0; i < kTables; ++i)
    newest_of(i, heaps[i], origin, GetActiveSnapshot(), &best);
  PopActiveSnapshot();
  for (int i = 0; i < kTables; ++i)
    table_close(heaps[i], AccessShareLock);
  return best;
}

void note_applied(const char *origin, int64 batch, const core::wire::Id &id, TimestampTz complete_until,
                  int64 rows, bytea *refusals) {
  Relation heap = open_progress(0, RowExclusiveLock);
  if (is_full(heap)) { // until rotation has emptied it, the other one takes what comes
    Relation other = open_progress(1, RowExclusiveLock);
    if (is_full(other)) {
      table_close(other, RowExclusiveLock);
    } else {
      table_close(heap, RowExclusiveLock);
      heap = other;
    }
  }
  NameData name;
  namestrcpy(&name, origin);
  pg_uuid_t uuid = uuid_of(id);
  Datum values[kColumns] = {};
  bool nulls[kColumns] = {};
  values[kOrigin - 1] = NameGetDatum(&name);
  values[kBatch - 1] = Int64GetDatum(batch);
  values[kBatchId - 1] = UUIDPGetDatum(&uuid);
  values[kCompleteUntil - 1] = TimestampTzGetDatum(complete_until);
  values[kRows - 1] = Int64GetDatum(rows);
  nulls[kRefusals - 1] = refusals == nullptr;
  values[kRefusals - 1] = PointerGetDatum(refusals);
  values[kAt - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
  CatalogTupleInsert(heap, heap_form_tuple(RelationGetDescr(heap), values, nulls));
  table_close(heap, NoLock); // the lock stays: rotation must not run between insert and commit
}

void rotate_progress() {
  for (int i = 0; i < kTables; ++i) {
    const Oid relation = config::own_relation(kTableNames[i]);
    if (!OidIsValid(relation))
      return;
    if (!ConditionalLockRelationOid(relation, AccessExclusiveLock))
      continue;
    Relation heap = table_open(relation, NoLock);
    const bool full = is_full(heap);
    table_close(heap, NoLock);
    if (!full) {
      UnlockRelationOid(relation, AccessExclusiveLock);
      continue;
    }
    // Nobody writes to this table any more, so a snapshot taken by SPI now sees all of it. A newer
    // row in the other table may appear meanwhile: the copy is then superfluous, never wrong.
    SPI_connect();
    char *const copy = psprintf(
        "INSERT INTO seal_sync.%s SELECT DISTINCT ON (origin) * FROM seal_sync.%s"
        " ORDER BY origin, batch DESC",
        kTableNames[1 - i], kTableNames[i]);
    if (SPI_execute(copy, false, 0) != SPI_OK_INSERT)
      elog(ERROR, "could not copy progress rows");
    if (SPI_execute(psprintf("TRUNCATE seal_sync.%s", kTableNames[i]), false, 0) != SPI_OK_UTILITY)
      elog(ERROR, "could not empty a progress table");
    SPI_finish();
    return; // the other one next time
  }
}

} // namespace seal_sync::apply
