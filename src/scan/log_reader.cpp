// See log_reader.hpp.
#include "scan/log_reader.hpp"

#include "config/config.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::scan {

// ---- positions

bool sees(const Position &position, uint64 xid) {
  if (xid >= position.xmax)
    return false;
  if (xid < position.xmin)
    return true;
  for (uint32 i = 0; i < position.running; i++)
    if (position.xip[i] == xid)
      return false;
  return true;
}

Position copy_position(const Position &position, MemoryContext into) {
  Position copy = position;
  copy.xip = nullptr;
  if (position.running > 0) {
    copy.xip = static_cast<uint64 *>(MemoryContextAlloc(into, sizeof(uint64) * position.running));
    memcpy(copy.xip, position.xip, sizeof(uint64) * position.running);
  }
  return copy;
}

namespace {

/// A 32-bit xid of a snapshot taken now, as 64-bit number; all of them precede the next xid.
uint64 widen(TransactionId xid, FullTransactionId next) {
  uint32 epoch = EpochFromFullTransactionId(next);
  if (xid > XidFromFullTransactionId(next))
    epoch--;
  return U64FromFullTransactionId(FullTransactionIdFromEpochAndXid(epoch, xid));
}

int compare_xids(const void *a, const void *b) {
  const uint64 left = *static_cast<const uint64 *>(a);
  const uint64 right = *static_cast<const uint64 *>(b);
  return left < right ? -1 : left > right;
}

} // namespace

Position position_of(Snapshot snapshot) {
  const FullTransactionId next = ReadNextFullTransactionId();
  Position position;
  position.xmin = widen(snapshot->xmin, next);
  position.xmax = widen(snapshot->xmax, next);
  position.running = snapshot->xcnt; // top-level transactions only, prepared ones included
  position.xip = static_cast<uint64 *>(palloc(sizeof(uint64) * Max(snapshot->xcnt, 1)));
  for (uint32 i = 0; i < snapshot->xcnt; i++)
    position.xip[i] = widen(snapshot->xip[i], next);
  qsort(position.xip, position.running, sizeof(uint64), compare_xids);
  return position;
}

Position newest_position() {
  const Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
  Position position = position_of(snapshot);
  UnregisterSnapshot(snapshot);
  // A snapshot never lists its own transaction, which has not finished either: what it writes to the
  // log is after this position.
  const TransactionId own = GetTopTransactionIdIfAny();
  if (TransactionIdIsValid(own)) {
    const uint64 xid = widen(own, ReadNextFullTransactionId());
    if (sees(position, xid)) {
      auto *xip = static_cast<uint64 *>(palloc(sizeof(uint64) * (position.running + 1)));
      memcpy(xip, position.xip, sizeof(uint64) * position.running);
      xip[position.running++] = xid;
      qsort(xip, position.running, sizeof(uint64), compare_xids);
      position.xip = xip;
      position.xmin = Min(position.xmin, xid);
    }
  }
  return position;
}

bool covers(const Position &later, const Position &earlier) {
  if (later.xmax < earlier.xmax)
    return false;
  for (uint32 i = 0; i < later.running; i++)
    if (sees(earlier, later.xip[i]))
      return false;
  return true;
}

// Through the type's text form: its binary layout is private to the server.
Datum position_to_datum(const Position &position) {
  StringInfoData text;
  initStringInfo(&text);
  appendStringInfo(&text, UINT64_FORMAT ":" UINT64_FORMAT ":", position.xmin, position.xmax);
  for (uint32 i = 0; i < position.running; i++)
    appendStringInfo(&text, i == 0 ? UINT64_FORMAT : "," UINT64_FORMAT, position.xip[i]);
  return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(text.data));
}

Position position_from_datum(Datum snapshot) {
  char *text = DatumGetCString(DirectFunctionCall1(pg_snapshot_out, snapshot));
  Position position;
  char *at = text;
  position.xmin = strtou64(at, &at, 10);
  at++;
  position.xmax = strtou64(at, &at, 10);
  at++;
  uint32 commas = *at == '\0' ? 0 : 1;
  for (const char *c = at; *c != '\0'; c++)
    commas += *c == ',';
  position.xip = static_cast<uint64 *>(palloc(sizeof(uint64) * Max(commas, 1)));
  while (*at != '\0') {
    position.xip[position.running++] = strtou64(at, &at, 10);
    if (*at == ',')
      at++;
  }
  pfree(text);
  return position;
}

// ---- reading -----------------------------------------------------------------------------------

struct LogReader {
  Position previous;
  Snapshot snapshot;
  MemoryContext row_context;
  int segment; // being read
  uint32 probe; // 0 .. running-1: that transaction; running: all from xmax on
  Relation log;
  Relation index;
  IndexScanDesc scan;
  TupleTableSlot *slot;
  core::ChangeRunReader runs;
  uint64 xid;
  bool in_row;
};

namespace {

void close_segment(LogReader *reader) {
  if (reader->log == nullptr)
    return;
  index_endscan(reader->scan);
  ExecDropSingleTupleTableSlot(reader->slot);
  index_close(reader->index, AccessShareLock);
  table_close(reader->log, AccessShareLock);
  reader->log = nullptr;
}

void start_probe(LogReader *reader) {
  ScanKeyData key;
  if (reader->probe < reader->previous.running)
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_XID8EQ,
                FullTransactionIdGetDatum(FullTransactionIdFromU64(reader->previous.xip[reader->probe])));
  else
    ScanKeyInit(&key, 1, BTGreaterEqualStrategyNumber, F_XID8GE,
                FullTransactionIdGetDatum(FullTransactionIdFromU64(reader->previous.xmax)));
  index_rescan(reader->scan, &key, 1, nullptr, 0);
}

/// Opens the next segment that has anything in it.
bool open_segment(LogReader *reader) {
  while (reader->segment < config::kSegments) {
    const Oid oid = config::change_log_segment(reader->segment);
    if (!OidIsValid(oid))
      return false;
    reader->log = table_open(oid, AccessShareLock);
    if (RelationGetNumberOfBlocks(reader->log) > 0) {
      List *indexes = RelationGetIndexList(reader->log);
      reader->index = index_open(linitial_oid(indexes), AccessShareLock);
      list_free(indexes);
      reader->slot = table_slot_create(reader->log, nullptr);
      reader->scan = pg::index_beginscan(reader->log, reader->index, reader->snapshot, 1);
      reader->probe = 0;
      start_probe(reader);
      return true;
    }
    table_close(reader->log, AccessShareLock);
    reader->log = nullptr;
    reader->segment++;
  }
  return false;
}

bool next_row(LogReader *reader) {
  for (;;) {
    if (reader->log == nullptr && !open_segment(reader))
      return false;
    if (index_getnext_slot(reader->scan, ForwardScanDirection, reader->slot)) {
      bool is_null;
      reader->xid =
          U64FromFullTransactionId(DatumGetFullTransactionId(slot_getattr(reader->slot, 1, &is_null)));
      MemoryContextReset(reader->row_context);
      const MemoryContext old = MemoryContextSwitchTo(reader->row_context);
      const bytea *entries = DatumGetByteaPP(slot_getattr(reader->slot, 2, &is_null));
      MemoryContextSwitchTo(old);
      reader->runs = core::ChangeRunReader(
          {reinterpret_cast<const uint8_t *>(VARDATA_ANY(entries)), VARSIZE_ANY_EXHDR(entries)});
      return true;
    }
    if (reader->probe < reader->previous.running) {
      reader->probe++;
      start_probe(reader);
      continue;
    }
    close_segment(reader);
    reader->segment++;
  }
}

} // namespace

LogReader *open_log(const Position &previous, Snapshot snapshot) {
  auto *reader = static_cast<LogReader *>(palloc0(sizeof(LogReader)));
  reader->previous = previous;
  reader->snapshot = snapshot;
  reader->row_context =
      AllocSetContextCreate(CurrentMemoryContext, "seal_sync log row", ALLOCSET_DEFAULT_SIZES);
  return reader;
}

bool next_run(LogReader *reader, core::ChangeRun *run, uint64 *xid) {
  for (;;) {
    if (reader->in_row) {
      if (reader->runs.next(*run)) {
        if (xid != nullptr)
          *xid = reader->xid;
        return true;
      }
      if (reader->runs.damaged())
        ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED),
                errmsg("a row of the change log is damaged"),
                errdetail("It was written by transaction " UINT64_FORMAT " in segment %d.",
                          reader->xid, reader->segment));
    }
    CHECK_FOR_INTERRUPTS();
    // A btree scan allocates lazily, in whatever context is current: it must be one that outlives it.
    const MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(reader));
    reader->in_row = next_row(reader);
    MemoryContextSwitchTo(old);
    if (!reader->in_row)
      return false;
  }
}

void close_log(LogReader *reader) {
  close_segment(reader);
  MemoryContextDelete(reader->row_context);
  pfree(reader);
}

} // namespace seal_sync::scan
