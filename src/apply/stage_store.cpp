// See stage_store.hpp.
#include "apply/stage_store.hpp"

#include "apply/reply.hpp"
#include "config/config.hpp"
#include "pg/guc.hpp"
#include "pg/varlena.hpp"

extern "C" {
#include "commands/sequence.h"
}

namespace seal_sync::apply {

namespace {

enum StageColumn {
  kOrigin = 1, kStage, kNumber, kPrevious, kPreviousId, kFirstPass, kPass, kChunks, kRows, kBytes,
  kFirstPassChunks, kFirstPassRows, kNote, kCreatedAt, kLastAt, kStageColumns = kLastAt
};
enum TableColumn { kOfStage = 1, kDialect, kTable, kTablePass, kEncoding, kDescription, kTold, kTableColumns = kTold };
enum ChunkColumn { kChunkStage = 1, kChunkDialect, kSeq, kPiece, kChunkPass, kSize, kData, kChunkColumns = kData };

// What a row of stage_chunk has beside its data, so that the row fills its page.
constexpr Size kRowHead = MAXALIGN(SizeofHeapTupleHeader) + 2 * sizeof(int64) + 4 * sizeof(int32) + VARHDRSZ;
constexpr Size kPieceSize = MaxHeapTupleSize - kRowHead;
constexpr int kPiecesAtOnce = 32;

core::ByteSpan copy_of(Datum value) { return bytes_of(DatumGetByteaPCopy(value)); }

// ---- an index scan under a snapshot taken now ---------------------------------------------------------

struct Scan {
  Relation heap, index;
  SysScanDesc scan;
};

Scan begin_scan(const char *table, const char *index, LOCKMODE mode, int keys, ScanKeyData *key) {
  Scan scan;
  scan.heap = table_open(config::own_relation(table), mode);
  scan.index = index_open(config::own_relation(index), AccessShareLock);
  PushActiveSnapshot(GetLatestSnapshot());
  scan.scan = systable_beginscan_ordered(scan.heap, scan.index, GetActiveSnapshot(), keys, key);
  return scan;
}

HeapTuple next_of(const Scan &scan) { return systable_getnext_ordered(scan.scan, ForwardScanDirection); }

void end_scan(const Scan &scan) {
  systable_endscan_ordered(scan.scan);
  PopActiveSnapshot();
  index_close(scan.index, AccessShareLock);
  table_close(scan.heap, NoLock);
}

// ---- headers ------------------------------------------------------------------------------------------

StageHeader header_of(HeapTuple tuple, TupleDesc desc) {
  Datum values[kStageColumns];
  bool nulls[kStageColumns];
  heap_deform_tuple(tuple, desc, values, nulls);
  StageHeader header = {};
  header.tid = tuple->t_self;
  header.id = id_of(*DatumGetUUIDP(values[kStage - 1]));
  header.number = DatumGetInt64(values[kNumber - 1]);
  header.previous = DatumGetInt64(values[kPrevious - 1]);
  header.previous_id = id_of(*DatumGetUUIDP(values[kPreviousId - 1]));
  header.first_pass = DatumGetInt32(values[kFirstPass - 1]);
  header.pass = DatumGetInt32(values[kPass - 1]);
  header.chunks = DatumGetInt64(values[kChunks - 1]);
  header.rows = DatumGetInt64(values[kRows - 1]);
  header.bytes = DatumGetInt64(values[kBytes - 1]);
  header.first_pass_chunks = DatumGetInt64(values[kFirstPassChunks - 1]);
  header.first_pass_rows = DatumGetInt64(values[kFirstPassRows - 1]);
  header.note = DatumGetByteaPCopy(values[kNote - 1]);
  header.created_at = DatumGetTimestampTz(values[kCreatedAt - 1]);
  return header;
}

HeapTuple form_header(TupleDesc desc, const NameData &origin, const StageHeader &header) {
  NameData name = origin;
  pg_uuid_t id = uuid_of(header.id), previous_id = uuid_of(header.previous_id);
  Datum values[kStageColumns] = {};
  bool nulls[kStageColumns] = {};
  values[kOrigin - 1] = NameGetDatum(&name);
  values[kStage - 1] = UUIDPGetDatum(&id);
  values[kNumber - 1] = Int64GetDatum(header.number);
  values[kPrevious - 1] = Int64GetDatum(header.previous);
  values[kPreviousId - 1] = UUIDPGetDatum(&previous_id);
  values[kFirstPass - 1] = Int32GetDatum(header.first_pass);
  values[kPass - 1] = Int32GetDatum(header.pass);
  values[kChunks - 1] = Int64GetDatum(header.chunks);
  values[kRows - 1] = Int64GetDatum(header.rows);
  values[kBytes - 1] = Int64GetDatum(header.bytes);
  values[kFirstPassChunks - 1] = Int64GetDatum(header.first_pass_chunks);
  values[kFirstPassRows - 1] = Int64GetDatum(header.first_pass_rows);
  values[kNote - 1] = PointerGetDatum(header.note);
  values[kCreatedAt - 1] = TimestampTzGetDatum(header.created_at);
  values[kLastAt - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
  return heap_form_tuple(desc, values, nulls);
}

} // namespace

void hold_stages(LOCKMODE mode) { LockRelationOid(config::own_relation("stage_chunk"), mode); }

bool find_stage(const NameData &origin, const core::wire::Id &id, StageHeader *header) {
  pg_uuid_t uuid = uuid_of(id);
  ScanKeyData key[2];
  ScanKeyInit(&key[0], kOrigin, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&origin));
  ScanKeyInit(&key[1], kStage, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(&uuid));
  const Scan scan = begin_scan("stage", "stage_pkey", AccessShareLock, 2, key);
  HeapTuple tuple = next_of(scan);
  const bool found = HeapTupleIsValid(tuple);
  if (found)
    *header = header_of(tuple, RelationGetDescr(scan.heap));
  end_scan(scan);
  return found;
}

int list_stages(const NameData &origin, StageHeader **headers) {
  ScanKeyData key;
  ScanKeyInit(&key, kOrigin, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&origin));
  const Scan scan = begin_scan("stage", "stage_pkey", AccessShareLock, 1, &key);
  int count = 0, capacity = 8;
  if (headers != nullptr)
    *headers = static_cast<StageHeader *>(palloc(sizeof(StageHeader) * capacity));
  for (HeapTuple tuple; HeapTupleIsValid(tuple = next_of(scan)); ++count) {
    if (headers == nullptr)
      continue;
    if (count == capacity)
      *headers = static_cast<StageHeader *>(repalloc(*headers, sizeof(StageHeader) * (capacity *= 2)));
    (*headers)[count] = header_of(tuple, RelationGetDescr(scan.heap));
  }
  end_scan(scan);
  return count;
}

int64 next_stage_number() { return nextval_internal(config::own_relation("stage_number"), false); }

void insert_stage(const NameData &origin, const StageHeader &header) {
  Relation heap = table_open(config::own_relation("stage"), RowExclusiveLock);
  CatalogTupleInsert(heap, form_header(RelationGetDescr(heap), origin, header));
  table_close(heap, NoLock);
}

void update_stage(const NameData &origin, const StageHeader &header) {
  Relation heap = table_open(config::own_relation("stage"), RowExclusiveLock);
  ItemPointerData tid = header.tid;
  PushActiveSnapshot(GetLatestSnapshot()); // an old note may have to be removed from the TOAST table
  CatalogTupleUpdate(heap, &tid, form_header(RelationGetDescr(heap), origin, header));
  PopActiveSnapshot();
  table_close(heap, NoLock);
}

void delete_stage(const StageHeader &header) {
  Relation heap = table_open(config::own_relation("stage"), RowExclusiveLock);
  ItemPointerData tid = header.tid;
  PushActiveSnapshot(GetLatestSnapshot());
  CatalogTupleDelete(heap, &tid);
  PopActiveSnapshot();
  table_close(heap, NoLock);
}

// ---- descriptions -------------------------------------------------------------------------------------

bool has_description(int64 stage, int64 dialect, uint64 number) {
  ScanKeyData key[3];
  ScanKeyInit(&key[0], kOfStage, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stage));
  ScanKeyInit(&key[1], kDialect, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(dialect));
  ScanKeyInit(&key[2], kTable, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(static_cast<int64>(number)));
  const Scan scan = begin_scan("stage_table", "stage_table_number", RowExclusiveLock, 3, key);
  const bool found = HeapTupleIsValid(next_of(scan));
  end_scan(scan);
  return found;
}

void insert_description(int64 stage, const StagedDescription &description) {
  Relation heap = table_open(config::own_relation("stage_table"), RowExclusiveLock);
  Datum values[kTableColumns] = {};
  bool nulls[kTableColumns] = {};
  values[kOfStage - 1] = Int64GetDatum(stage);
  values[kDialect - 1] = Int64GetDatum(description.dialect);
  values[kTable - 1] = Int64GetDatum(static_cast<int64>(description.number));
  values[kTablePass - 1] = Int32GetDatum(description.pass);
  values[kEncoding - 1] = Int32GetDatum(description.encoding);
  values[kDescription - 1] = PointerGetDatum(pg::make_bytea(description.description));
  values[kTold - 1] = PointerGetDatum(pg::make_bytea(description.told));
  CatalogTupleInsert(heap, heap_form_tuple(RelationGetDescr(heap), values, nulls));
  table_close(heap, NoLock);
}

int read_descriptions(int64 stage, StagedDescription **descriptions) {
  ScanKeyData key;
  ScanKeyInit(&key, kOfStage, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stage));
  const Scan scan = begin_scan("stage_table", "stage_table_number", AccessShareLock, 1, &key);
  int count = 0, capacity = 16;
  *descriptions = static_cast<StagedDescription *>(palloc(sizeof(StagedDescription) * capacity));
  for (HeapTuple tuple; HeapTupleIsValid(tuple = next_of(scan));) {
    Datum values[kTableColumns];
    bool nulls[kTableColumns];
    heap_deform_tuple(tuple, RelationGetDescr(scan.heap), values, nulls);
    if (count == capacity)
      *descriptions =
          static_cast<StagedDescription *>(repalloc(*descriptions, sizeof(StagedDescription) * (capacity *= 2)));
    StagedDescription *const description = &(*descriptions)[count++];
    description->dialect = DatumGetInt64(values[kDialect - 1]);
    description->number = static_cast<uint64>(DatumGetInt64(values[kTable - 1]));
    description->pass = DatumGetInt32(values[kTablePass - 1]);
    description->encoding = DatumGetInt32(values[kEncoding - 1]);
    description->description = copy_of(values[kDescription - 1]);
    description->told = copy_of(values[kTold - 1]);
  }
  end_scan(scan);
  return count;
}

// ---- chunks -------------------------------------------------------------------------------------------

struct ChunkWriter {
  Relation heap, index;
  IndexInfo *info;
  BulkInsertState bulk;
  CommandId command;
  Datum stage, dialect, pass;
  int64 seq; // of the next chunk
  int used;
  TupleTableSlot *slots[kPiecesAtOnce];
  // One varlena per slot; the size of a bytea's header comes first.
  struct alignas(int32) Piece {
    char bytes[VARHDRSZ + kPieceSize];
  } pieces[kPiecesAtOnce];
};

namespace {

void flush_pieces(ChunkWriter *writer) {
  if (writer->used == 0)
    return;
  table_multi_insert(writer->heap, writer->slots, writer->used, writer->command, 0, writer->bulk);
  for (int i = 0; i < writer->used; ++i) {
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS];
    FormIndexDatum(writer->info, writer->slots[i], nullptr, values, nulls);
    (void)index_insert(writer->index, values, nulls, &writer->slots[i]->tts_tid, writer->heap, UNIQUE_CHECK_YES, false,
                       writer->info);
    ExecClearTuple(writer->slots[i]);
  }
  writer->used = 0;
  CHECK_FOR_INTERRUPTS();
}

} // namespace

ChunkWriter *begin_chunks(int64 stage, int64 dialect, int32 pass, int64 first) {
  auto *writer = static_cast<ChunkWriter *>(palloc0(sizeof(ChunkWriter)));
  writer->heap = table_open(config::own_relation("stage_chunk"), RowExclusiveLock);
  writer->index = index_open(config::own_relation("stage_chunk_piece"), RowExclusiveLock);
  writer->info = BuildIndexInfo(writer->index);
  writer->bulk = GetBulkInsertState();
  writer->command = GetCurrentCommandId(true);
  writer->stage = Int64GetDatum(stage);
  writer->dialect = Int64GetDatum(dialect);
  writer->pass = Int32GetDatum(pass);
  writer->seq = first;
  for (TupleTableSlot *&slot : writer->slots)
    slot = table_slot_create(writer->heap, nullptr);
  return writer;
}

void write_chunk(ChunkWriter *writer, core::ByteSpan chunk) {
  Assert(!chunk.empty());
  int32 piece = 0;
  for (Size at = 0; at < chunk.size(); at += kPieceSize) {
    const Size size = Min(kPieceSize, chunk.size() - at);
    TupleTableSlot *const slot = writer->slots[writer->used];
    char *const value = writer->pieces[writer->used].bytes;
    SET_VARSIZE(value, size + VARHDRSZ);
    memcpy(VARDATA(value), chunk.data() + at, size);
    ExecClearTuple(slot);
    slot->tts_values[kChunkStage - 1] = writer->stage;
    slot->tts_values[kChunkDialect - 1] = writer->dialect;
    slot->tts_values[kSeq - 1] = Int32GetDatum(static_cast<int32>(writer->seq));
    slot->tts_values[kPiece - 1] = Int32GetDatum(piece++);
    slot->tts_values[kChunkPass - 1] = writer->pass;
    slot->tts_values[kSize - 1] = Int32GetDatum(static_cast<int32>(chunk.size()));
    slot->tts_values[kData - 1] = PointerGetDatum(value);
    memset(slot->tts_isnull, false, sizeof(bool) * kChunkColumns);
    ExecStoreVirtualTuple(slot);
    if (++writer->used == kPiecesAtOnce)
      flush_pieces(writer);
  }
  writer->seq += 1;
}

void end_chunks(ChunkWriter *writer) {
  flush_pieces(writer);
  table_finish_bulk_insert(writer->heap, 0);
  for (TupleTableSlot *const slot : writer->slots)
    ExecDropSingleTupleTableSlot(slot);
  FreeBulkInsertState(writer->bulk);
  index_close(writer->index, NoLock);
  table_close(writer->heap, NoLock);
  pfree(writer);
}

StagedChunk read_staged_chunk(int64 stage, int64 seq) {
  ScanKeyData key[2];
  ScanKeyInit(&key[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stage));
  ScanKeyInit(&key[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(static_cast<int32>(seq)));
  key[1].sk_attno = kSeq;
  const Scan scan = begin_scan("stage_chunk", "stage_chunk_piece", AccessShareLock, 2, key);
  const TupleDesc desc = RelationGetDescr(scan.heap);
  StagedChunk chunk = {};
  uint8 *bytes = nullptr;
  Size size = 0, at = 0;
  int32 piece = 0;
  bool whole = false;
  for (HeapTuple tuple; HeapTupleIsValid(tuple = next_of(scan));) {
    Datum values[kChunkColumns];
    bool nulls[kChunkColumns];
    heap_deform_tuple(tuple, desc, values, nulls);
    if (bytes == nullptr) {
      size = static_cast<Size>(DatumGetInt32(values[kSize - 1]));
      chunk.dialect = DatumGetInt64(values[kChunkDialect - 1]);
      chunk.pass = DatumGetInt32(values[kChunkPass - 1]);
      bytes = static_cast<uint8 *>(MemoryContextAllocHuge(CurrentMemoryContext, size + 1));
    }
    const core::ByteSpan part = bytes_of(reinterpret_cast<const bytea *>(DatumGetPointer(values[kData - 1])));
    whole = DatumGetInt32(values[kPiece - 1]) == piece && part.size() <= size - at;
    if (!whole)
      break;
    memcpy(bytes + at, part.data(), part.size());
    at += part.size();
    piece += 1;
  }
  end_scan(scan);
  if (!whole || at != size)
    ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED), errmsg("a chunk of a stage is damaged"),
            errdetail("Chunk " INT64_FORMAT " of stage number " INT64_FORMAT ".", seq, stage));
  chunk.bytes = {bytes, size};
  return chunk;
}

// ---- cleaning up --------------------------------------------------------------------------------------

namespace {

constexpr int kPiecesToDelete = 4096; // 32 MB

/// Where the last call has stopped: what was deleted before still stands in the index.
int64 deleted_of = 0;
int32 deleted_to = 0;

uint64 execute(const char *sql, int expected) {
  if (SPI_execute(sql, false, 0) != expected)
    elog(ERROR, "could not clean up stages: %s", sql);
  return SPI_processed;
}

bool is_empty(const char *table) {
  Relation heap = table_open(config::own_relation(table), NoLock);
  const bool empty = RelationGetNumberOfBlocks(heap) == 0;
  table_close(heap, NoLock);
  return empty;
}

/// Nobody else reads or writes them now, and nobody has begun to since the locks are there.
void empty_tables() {
  if (execute("SELECT FROM seal_sync.stage LIMIT 1", SPI_OK_SELECT) == 0)
    (void)execute("TRUNCATE seal_sync.stage_chunk, seal_sync.stage_table", SPI_OK_UTILITY);
}

/// Of the oldest stage that is gone and has chunks. False: there is none.
bool delete_pieces() {
  // One probe of the index per stage, however many chunks it has.
  constexpr char kOldest[] =
      "WITH RECURSIVE numbers(stage) AS ("
      " (SELECT c.stage FROM seal_sync.stage_chunk c ORDER BY c.stage LIMIT 1)"
      " UNION ALL SELECT (SELECT c.stage FROM seal_sync.stage_chunk c WHERE c.stage > n.stage ORDER BY c.stage LIMIT 1)"
      " FROM numbers n WHERE n.stage IS NOT NULL)"
      " SELECT n.stage FROM numbers n WHERE n.stage IS NOT NULL"
      " AND NOT EXISTS (SELECT FROM seal_sync.stage s WHERE s.number = n.stage) LIMIT 1";
  if (execute(kOldest, SPI_OK_SELECT) == 0)
    return false;
  bool is_null;
  const int64 stage = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
  if (deleted_of != stage)
    deleted_to = 0;
  deleted_of = stage;
  const char *const sql = psprintf(
      "WITH gone AS (DELETE FROM seal_sync.stage_chunk c WHERE c.ctid = ANY (ARRAY("
      "SELECT p.ctid FROM seal_sync.stage_chunk p WHERE p.stage = " INT64_FORMAT
      " AND p.seq >= %d ORDER BY p.stage, p.seq, p.piece LIMIT %d)) RETURNING c.seq)"
      " SELECT pg_catalog.max(g.seq) FROM gone g",
      stage, deleted_to, kPiecesToDelete);
  (void)execute(sql, SPI_OK_SELECT);
  const int32 last = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
  deleted_to = is_null ? 0 : last; // nothing behind it: once more from the beginning
  return true;
}

} // namespace

bool clean_stages() {
  const Oid chunks = config::own_relation("stage_chunk");
  const Oid tables = config::own_relation("stage_table");
  if (!OidIsValid(chunks) || !OidIsValid(tables))
    return false;
  if (!ConditionalLockRelationOid(tables, AccessShareLock))
    return false;
  if (!ConditionalLockRelationOid(chunks, AccessShareLock))
    return false;
  if (is_empty("stage_chunk") && is_empty("stage_table"))
    return false;
  SPI_connect();
  bool more = false;
  if (execute("SELECT FROM seal_sync.stage LIMIT 1", SPI_OK_SELECT) == 0) {
    if (ConditionalLockRelationOid(chunks, AccessExclusiveLock) && ConditionalLockRelationOid(tables, AccessExclusiveLock))
      empty_tables();
  } else if (ConditionalLockRelationOid(chunks, RowExclusiveLock) &&
             ConditionalLockRelationOid(tables, RowExclusiveLock)) {
    // Of a peer that does not come back. One that is at work on its stage has the row, and is left alone.
    (void)execute(psprintf("DELETE FROM seal_sync.stage s WHERE s.ctid = ANY (ARRAY(SELECT o.ctid FROM seal_sync.stage o "
                           "WHERE o.last_at < pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => %d) FOR UPDATE SKIP LOCKED))",
                           guc::stage_retention),
                  SPI_OK_DELETE);
    more = delete_pieces();
    if (!more)
      (void)execute("DELETE FROM seal_sync.stage_table t"
                    " WHERE NOT EXISTS (SELECT FROM seal_sync.stage s WHERE s.number = t.stage)",
                    SPI_OK_DELETE);
  }
  SPI_finish();
  return more;
}

} // namespace seal_sync::apply
