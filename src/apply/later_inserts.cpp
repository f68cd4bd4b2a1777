// See later_inserts.hpp.
#include "apply/later_inserts.hpp"

#include <algorithm>

#include "apply/reply.hpp"
#include "apply/row_writer.hpp"
#include "apply/segment.hpp"

namespace seal_sync::apply {

namespace {

enum Extra { kSequence = 1, kOrdinal, kKind, kKey, kExtras = kKey };

struct Store {
  uint64 number; // hash key: of the descriptor
  Descriptor *descriptor;
  TupleDesc desc; // kExtras columns, then the target's
  TupleTableSlot *slot;
  Tuplestorestate *rows;
};

struct Range {
  int64 from, to;
};

} // namespace

struct LaterInserts {
  HTAB *stores;
  int64 next_sequence;
  Range *forgotten; // of rolled-back segments: a tuplestore cannot be cut
  int forgotten_count, forgotten_capacity;
};

namespace {

/// The table's lock is held since the first of these rows; still, nothing is read by another layout.
void check_layout(const Store *store, const Target *target) {
  const TupleDesc now = RelationGetDescr(target->relation);
  bool same = store->desc->natts == now->natts + kExtras;
  for (int i = 0; same && i < now->natts; ++i) {
    const Form_pg_attribute before = TupleDescAttr(store->desc, kExtras + i);
    same = before->atttypid == TupleDescAttr(now, i)->atttypid &&
           before->attisdropped == TupleDescAttr(now, i)->attisdropped;
  }
  if (!same)
    schema_changed(target->descriptor, "Its columns have changed while a batch was applied.");
}

Store *store_of(Attempt *attempt, Target *target) {
  const MemoryContext caller = MemoryContextSwitchTo(attempt->context);
  if (attempt->later == nullptr) {
    attempt->later = static_cast<LaterInserts *>(palloc0(sizeof(LaterInserts)));
    HASHCTL control = {};
    control.keysize = sizeof(uint64);
    control.entrysize = sizeof(Store);
    control.hcxt = attempt->context;
    attempt->later->stores =
        hash_create("seal_sync later inserts", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  }
  bool found;
  auto *store = static_cast<Store *>(
      hash_search(attempt->later->stores, &target->number, HASH_ENTER, &found));
  if (!found) {
    const TupleDesc of_target = RelationGetDescr(target->relation);
    store->descriptor = target->descriptor;
    store->desc = CreateTemplateTupleDesc(of_target->natts + kExtras);
    TupleDescInitEntry(store->desc, kSequence, "sequence", INT8OID, -1, 0);
    TupleDescInitEntry(store->desc, kOrdinal, "ordinal", INT8OID, -1, 0);
    TupleDescInitEntry(store->desc, kKind, "kind", CHAROID, -1, 0);
    TupleDescInitEntry(store->desc, kKey, "key", BYTEAOID, -1, 0);
    for (int i = 0; i < of_target->natts; ++i)
      TupleDescCopyEntry(store->desc, static_cast<AttrNumber>(kExtras + i + 1), of_target,
                         static_cast<AttrNumber>(i + 1));
    store->slot = MakeSingleTupleTableSlot(store->desc, &TTSOpsMinimalTuple);
    // A segment's own resource owner would take the temporary file away with the segment.
    const ResourceOwner owner = CurrentResourceOwner;
    CurrentResourceOwner = attempt->owner;
    store->rows = tuplestore_begin_heap(false, false, work_mem);
    CurrentResourceOwner = owner;
  } else {
    check_layout(store, target);
  }
  MemoryContextSwitchTo(caller);
  return store;
}

bool is_forgotten(const LaterInserts *later, int64 sequence) {
  for (int i = 0; i < later->forgotten_count; ++i)
    if (sequence >= later->forgotten[i].from && sequence < later->forgotten[i].to)
      return true;
  return false;
}

/// Values that stand outside the row would be gone with the row they belong to.
Datum inline_value(const FormData_pg_attribute *attribute, Datum value) {
  if (attribute->attlen != -1)
    return value;
  auto *stored = reinterpret_cast<varlena *>(DatumGetPointer(value));
  return VARATT_IS_EXTERNAL(stored) ? PointerGetDatum(detoast_external_attr(stored)) : value;
}

} // namespace

void insert_later(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row) {
  Store *const store = store_of(attempt, target);
  const TupleDesc leaf_desc = RelationGetDescr(leaf->relation);
  const int natts = store->desc->natts;
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows);
  auto *values = static_cast<Datum *>(palloc0(sizeof(Datum) * natts));
  auto *nulls = static_cast<bool *>(palloc(sizeof(bool) * natts));
  memset(nulls, true, sizeof(bool) * natts);
  const core::ByteSpan key = current_key(attempt);
  auto *key_value = static_cast<bytea *>(palloc(key.size() + VARHDRSZ));
  SET_VARSIZE(key_value, key.size() + VARHDRSZ);
  memcpy(VARDATA(key_value), key.data(), key.size());
  values[kSequence - 1] = Int64GetDatum(attempt->later->next_sequence++);
  values[kOrdinal - 1] = Int64GetDatum(static_cast<int64>(attempt->current.ordinal));
  values[kKind - 1] = CharGetDatum(static_cast<char>(attempt->current.kind));
  values[kKey - 1] = PointerGetDatum(key_value);
  memset(nulls, false, sizeof(bool) * kExtras);
  slot_getallattrs(row);
  for (int i = 0; i < leaf_desc->natts; ++i) {
    const int column = leaf->root_attnos != nullptr ? leaf->root_attnos[i] : i + 1;
    if (column == 0 || row->tts_isnull[i])
      continue;
    nulls[kExtras + column - 1] = false;
    values[kExtras + column - 1] = inline_value(TupleDescAttr(leaf_desc, i), row->tts_values[i]);
  }
  tuplestore_putvalues(store->rows, store->desc, values, nulls);
  MemoryContextSwitchTo(caller);
}

int64 later_mark(const Attempt *attempt) {
  return attempt->later == nullptr ? 0 : attempt->later->next_sequence;
}

void forget_later(Attempt *attempt, int64 mark) {
  LaterInserts *const later = attempt->later;
  if (later == nullptr || later->next_sequence == mark)
    return;
  const MemoryContext caller = MemoryContextSwitchTo(attempt->context);
  if (later->forgotten_count == later->forgotten_capacity) {
    later->forgotten_capacity = later->forgotten_capacity == 0 ? 16 : later->forgotten_capacity * 2;
    const Size size = sizeof(Range) * later->forgotten_capacity;
    later->forgotten =
        static_cast<Range *>(later->forgotten == nullptr ? palloc(size) : repalloc(later->forgotten, size));
  }
  later->forgotten[later->forgotten_count++] = {mark, later->next_sequence};
  MemoryContextSwitchTo(caller);
}

namespace {

struct Walk {
  Store *store;
  int64 from, until; // sequence numbers
};

void insert_one(Attempt *attempt, Target *target, TupleTableSlot *stored) {
  TupleTableSlot *const row = incoming_slot(target, 0);
  const int natts = RelationGetDescr(target->relation)->natts;
  memcpy(row->tts_values, stored->tts_values + kExtras, sizeof(Datum) * natts);
  memcpy(row->tts_isnull, stored->tts_isnull + kExtras, sizeof(bool) * natts);
  ExecStoreVirtualTuple(row);
  ResetPerTupleExprContext(target->estate);
  Leaf *const leaf = route(target, row);
  if (insert_row(attempt, target, leaf, in_leaf_layout(target, leaf, row)) == Outcome::kInserted)
    attempt->inserted += 1;
  end_after_query(target);
}

/// What a segment does; attempt->current says where it failed.
void insert_range(Attempt *attempt, void *argument) {
  const auto *walk = static_cast<Walk *>(argument);
  Store *const store = walk->store;
  Target *const target = segment_target(attempt, store->descriptor);
  check_layout(store, target);
  const OwnerScope scope = become_owner(target->owner);
  tuplestore_rescan(store->rows);
  while (tuplestore_gettupleslot(store->rows, true, false, store->slot)) {
    slot_getallattrs(store->slot);
    const int64 sequence = DatumGetInt64(store->slot->tts_values[kSequence - 1]);
    if (sequence < walk->from || is_forgotten(attempt->later, sequence))
      continue;
    if (sequence >= walk->until)
      break;
    attempt->current = {};
    attempt->current.ordinal = static_cast<Ordinal>(DatumGetInt64(store->slot->tts_values[kOrdinal - 1]));
    if (is_refused(&attempt->session->notes, attempt->current.ordinal))
      continue;
    attempt->current.descriptor = store->descriptor;
    attempt->current.kind = static_cast<uint8>(DatumGetChar(store->slot->tts_values[kKind - 1]));
    attempt->current.bytes = bytes_of(DatumGetByteaPP(store->slot->tts_values[kKey - 1]));
    attempt->position = static_cast<uint64>(sequence);
    insert_one(attempt, target, store->slot);
    MemoryContextReset(attempt->rows);
    CHECK_FOR_INTERRUPTS();
  }
  leave_owner(scope);
}

} // namespace

void run_later_inserts(Attempt *attempt) {
  if (attempt->later == nullptr)
    return;
  HASH_SEQ_STATUS status;
  hash_seq_init(&status, attempt->later->stores);
  while (auto *store = static_cast<Store *>(hash_seq_search(&status))) {
    Walk walk = {store, 0, 0};
    run_careful(attempt, insert_range, &walk, [](void *argument, uint64 from, uint64 until) {
      auto *range = static_cast<Walk *>(argument);
      range->from = static_cast<int64>(from);
      range->until = static_cast<int64>(std::min<uint64>(until, PG_INT64_MAX));
    });
    ExecDropSingleTupleTableSlot(store->slot); // it may point into the store
    tuplestore_end(store->rows);
    store->slot = nullptr;
    store->rows = nullptr;
  }
}

} // namespace seal_sync::apply
