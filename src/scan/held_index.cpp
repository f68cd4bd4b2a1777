// See held_index.hpp.
#include "scan/held_index.hpp"

#include "pg/boundary.hpp"
#include "pg/varlena.hpp"

extern "C" {
#include "utils/fmgrprotos.h"
}

namespace seal_sync::scan {

struct HeldIndex {
  NameData peer;
  Snapshot snapshot;
  Relation heap, by_key;
  IndexScanDesc keys, relations; // by peer, relation and hash; by peer and relation
  TupleTableSlot *row;
  MemoryContext context; // in which the scans live, and allocate what they need later
  MemoryContext scratch;
};

namespace {

enum HeldColumn { kId = 1, kRelation = 3, kKey = 7, kState = 8 }; // of the table

/// Whether another transaction that is still open has locked, changed or deleted the row in the slot. What pgrowlocks
/// asks.
bool is_locked(Relation heap, TupleTableSlot *row) {
  const Buffer buffer = ReadBuffer(heap, ItemPointerGetBlockNumber(&row->tts_tid));
  LockBuffer(buffer, BUFFER_LOCK_SHARE);
  const Page page = BufferGetPage(buffer);
  const ItemId item = PageGetItemId(page, ItemPointerGetOffsetNumber(&row->tts_tid));
  bool locked = false;
  if (ItemIdIsNormal(item)) {
    HeapTupleData tuple;
    tuple.t_tableOid = RelationGetRelid(heap);
    tuple.t_self = row->tts_tid;
    tuple.t_data = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
    tuple.t_len = ItemIdGetLength(item);
    locked = HeapTupleSatisfiesUpdate(&tuple, GetCurrentCommandId(false), buffer) == TM_BeingModified;
  }
  UnlockReleaseBuffer(buffer);
  return locked;
}

void set_peer(HeldIndex *held, ScanKeyData *key) {
  ScanKeyInit(key, 1, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&held->peer));
  key->sk_collation = C_COLLATION_OID;
}

void set_relation(Oid relation, ScanKeyData *key) {
  ScanKeyInit(key, 2, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
}

Datum hash_of_key(core::ByteSpan key) {
  return DirectFunctionCall1(sha256_bytea, PointerGetDatum(pg::make_bytea(key)));
}

HeldKey read_held(TupleTableSlot *row) {
  bool is_null;
  HeldKey key;
  key.id = DatumGetInt64(slot_getattr(row, kId, &is_null));
  key.relation = DatumGetObjectId(slot_getattr(row, kRelation, &is_null));
  const bytea *bytes = DatumGetByteaPCopy(slot_getattr(row, kKey, &is_null));
  key.key = {reinterpret_cast<const uint8_t *>(VARDATA_ANY(bytes)), VARSIZE_ANY_EXHDR(bytes)};
  return key;
}

// ---- what is to be shipped ------------------------------------------------------------------------

struct Selected {
  HeldIndex *held;
  const HeldSelection *which;
  HeldKey *keys;
  int count, capacity, limit;
  HTAB *ids;
};

bool is_unfit(const Selected *selected, Oid relation) {
  for (int i = 0; i < selected->which->unfit_count; i++)
    if (selected->which->unfit[i] == relation)
      return true;
  return false;
}

/// False: there is room for no more.
bool select(Selected *selected, TupleTableSlot *row) {
  if (selected->count >= selected->limit)
    return false;
  bool is_null, known;
  const int64 id = DatumGetInt64(slot_getattr(row, kId, &is_null));
  if (is_unfit(selected, DatumGetObjectId(slot_getattr(row, kRelation, &is_null))))
    return true;
  (void)hash_search(selected->ids, &id, HASH_FIND, &known);
  if (known || is_locked(selected->held->heap, row))
    return true;
  (void)hash_search(selected->ids, &id, HASH_ENTER, nullptr);
  if (selected->count == selected->capacity) {
    selected->capacity = Max(64, selected->capacity * 2);
    const size_t size = sizeof(HeldKey) * static_cast<size_t>(selected->capacity);
    selected->keys =
        static_cast<HeldKey *>(selected->keys == nullptr ? palloc(size) : repalloc_huge(selected->keys, size));
  }
  selected->keys[selected->count++] = read_held(row);
  return true;
}

/// All rows of one range of an index.
void select_range(Selected *selected, Relation index, ScanKeyData *keys, int count) {
  HeldIndex *held = selected->held;
  const IndexScanDesc scan = pg::index_beginscan(held->heap, index, held->snapshot, count);
  index_rescan(scan, keys, count, nullptr, 0);
  while (index_getnext_slot(scan, ForwardScanDirection, held->row) && select(selected, held->row))
    CHECK_FOR_INTERRUPTS();
  ExecClearTuple(held->row);
  index_endscan(scan);
}

Relation open_index(const char *name) { return index_open(config::own_relation(name), AccessShareLock); }

void select_due(Selected *selected) {
  const Relation index = open_index("held_due");
  ScanKeyData keys[2];
  set_peer(selected->held, &keys[0]);
  ScanKeyInit(&keys[1], 2, BTLessEqualStrategyNumber, F_TIMESTAMPTZ_LE, TimestampTzGetDatum(GetCurrentTimestamp()));
  select_range(selected, index, keys, 2);
  index_close(index, NoLock);
}

void select_found(Selected *selected) {
  const Relation index = open_index("held_pkey");
  for (int i = 0; i < selected->which->found_count; i++) {
    ScanKeyData key;
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(selected->which->found[i]));
    select_range(selected, index, &key, 1);
  }
  index_close(index, NoLock);
}

void select_copied(Selected *selected) {
  for (int i = 0; i < selected->which->copied_count; i++) {
    ScanKeyData keys[2];
    set_peer(selected->held, &keys[0]);
    set_relation(selected->which->copied[i], &keys[1]);
    select_range(selected, selected->held->by_key, keys, 2);
  }
}

/// Whatever depends on those that are there already, and on these.
void select_dependants(Selected *selected) {
  const Relation index = open_index("held_other");
  ScanKeyData keys[3];
  set_peer(selected->held, &keys[0]);
  for (int i = 0; i < selected->count; i++) {
    MemoryContextReset(selected->held->scratch);
    const MemoryContext old = MemoryContextSwitchTo(selected->held->scratch);
    set_relation(selected->keys[i].relation, &keys[1]);
    ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_BYTEAEQ, hash_of_key(selected->keys[i].key));
    MemoryContextSwitchTo(old);
    select_range(selected, index, keys, 3);
  }
  index_close(index, NoLock);
}

/// Keys of tables that fit now, and of clusters that are accepted now.
void select_left_out(Selected *selected) {
  HeldIndex *held = selected->held;
  const Relation index = open_index("held_left_out");
  const IndexScanDesc scan = pg::index_beginscan(held->heap, index, held->snapshot, 2);
  for (Oid relation = InvalidOid;;) {
    ScanKeyData keys[4];
    set_peer(held, &keys[0]);
    ScanKeyInit(&keys[1], 2, BTGreaterStrategyNumber, F_OIDGT, ObjectIdGetDatum(relation));
    index_rescan(scan, keys, 2, nullptr, 0);
    if (!index_getnext_slot(scan, ForwardScanDirection, held->row))
      break;
    bool is_null;
    relation = DatumGetObjectId(slot_getattr(held->row, kRelation, &is_null));
    ExecClearTuple(held->row);
    if (is_unfit(selected, relation))
      continue;
    set_relation(relation, &keys[1]);
    ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_BOOLEQ, BoolGetDatum(false));
    select_range(selected, index, keys, 3);
    ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_BOOLEQ, BoolGetDatum(true));
    for (int i = 0; i < selected->which->accepted_count; i++) {
      ScanKeyInit(&keys[3], 4, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(selected->which->accepted[i]));
      select_range(selected, index, keys, 4);
    }
  }
  ExecClearTuple(held->row);
  index_endscan(scan);
  index_close(index, NoLock);
}

} // namespace

HeldIndex *open_held_index(const char *peer, Snapshot snapshot) {
  const Relation heap = table_open(config::own_relation("held"), AccessShareLock);
  if (RelationGetNumberOfBlocks(heap) == 0) { // the usual case costs one look at the file's size
    table_close(heap, AccessShareLock);
    return nullptr;
  }
  auto *held = static_cast<HeldIndex *>(palloc0(sizeof(HeldIndex)));
  namestrcpy(&held->peer, peer);
  held->snapshot = snapshot;
  held->context = CurrentMemoryContext;
  held->heap = heap;
  held->by_key = open_index("held_key");
  held->keys = pg::index_beginscan(held->heap, held->by_key, snapshot, 3);
  held->relations = pg::index_beginscan(held->heap, held->by_key, snapshot, 2);
  held->row = table_slot_create(held->heap, nullptr);
  held->scratch = AllocSetContextCreate(CurrentMemoryContext, "seal_sync held key", ALLOCSET_SMALL_SIZES);
  return held;
}

void close_held_index(HeldIndex *held) {
  index_endscan(held->keys);
  index_endscan(held->relations);
  ExecDropSingleTupleTableSlot(held->row);
  index_close(held->by_key, NoLock);
  table_close(held->heap, NoLock);
  MemoryContextDelete(held->scratch);
  pfree(held);
}

bool any_held(HeldIndex *held, Oid relation) {
  ScanKeyData keys[2];
  set_peer(held, &keys[0]);
  set_relation(relation, &keys[1]);
  const MemoryContext old = MemoryContextSwitchTo(held->context);
  index_rescan(held->relations, keys, 2, nullptr, 0);
  const bool any = index_getnext_slot(held->relations, ForwardScanDirection, held->row);
  ExecClearTuple(held->row);
  MemoryContextSwitchTo(old);
  return any;
}

bool look_up_held(HeldIndex *held, Oid relation, core::ByteSpan key, HeldState *state) {
  *state = {};
  MemoryContextReset(held->scratch);
  const MemoryContext old = MemoryContextSwitchTo(held->scratch);
  ScanKeyData keys[3];
  set_peer(held, &keys[0]);
  set_relation(relation, &keys[1]);
  ScanKeyInit(&keys[2], 3, BTEqualStrategyNumber, F_BYTEAEQ, hash_of_key(key));
  MemoryContextSwitchTo(held->context);
  index_rescan(held->keys, keys, 3, nullptr, 0);
  if (index_getnext_slot(held->keys, ForwardScanDirection, held->row)) {
    bool is_null;
    state->id = DatumGetInt64(slot_getattr(held->row, kId, &is_null));
    const text *name = DatumGetTextPP(slot_getattr(held->row, kState, &is_null));
    state->skipped = VARSIZE_ANY_EXHDR(name) == 7 && memcmp(VARDATA_ANY(name), "skipped", 7) == 0;
  }
  ExecClearTuple(held->row);
  MemoryContextSwitchTo(old);
  return state->id != 0;
}

int load_held(HeldIndex *held, const HeldSelection &which, HeldKey **keys) {
  Selected selected{};
  selected.held = held;
  selected.which = &which;
  HASHCTL ctl{};
  ctl.keysize = ctl.entrysize = sizeof(int64);
  ctl.hcxt = CurrentMemoryContext;
  selected.ids = hash_create("seal_sync held ids", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  selected.limit = which.left_out;
  select_copied(&selected);
  selected.limit = selected.count + which.refused;
  select_found(&selected);
  select_due(&selected);
  select_dependants(&selected);
  selected.limit = selected.count + which.left_out;
  select_left_out(&selected);
  hash_destroy(selected.ids);
  *keys = selected.keys;
  return selected.count;
}

} // namespace seal_sync::scan
