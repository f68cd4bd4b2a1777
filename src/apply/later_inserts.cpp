// See later_inserts.hpp.
#include "apply/later_inserts.hpp"

#include "apply/careful.hpp"
#include "apply/reply.hpp"
#include "apply/row_writer.hpp"
#include "apply/segment.hpp"
#include "pg/varlena.hpp"

namespace seal_sync::apply {

namespace {

enum Extra { kSequence = 1, kOrdinal, kKind, kKey, kReplaces, kExtras = kReplaces };

struct Store {
  Oid relation; // hash key: however it was described, in order
  uint64 index;  // by age
  Store *next;   // younger
  Descriptor *descriptor;
  TupleDesc desc; // kExtras columns, then the target's
  TupleTableSlot *slot;
  Tuplestorestate *rows;
  // Segments begin anywhere: after each kBookmarkRows rows a read pointer of the store stands. The
  // sequence number from which on rows stand behind it:
  int64 *bookmarks;
  int bookmark_count, bookmark_capacity;
  int64 read; // rows before the next one
};

constexpr int kBookmarkRows = 256;

/// Where a row stands among all that wait: its table, then its sequence number.
using Position = uint64;
constexpr int kSequenceBits = 40;
constexpr int64 kMaxSequence = (int64{1} << kSequenceBits) - 1;

Position position_of(const Store *store, int64 sequence) {
  return (store->index << kSequenceBits) + static_cast<uint64>(sequence);
}

struct Range {
  int64 from, to;
};

} // namespace

struct LaterInserts {
  HTAB *stores;
  Store *first, *last; // by age
  int64 next_sequence;
  Range *forgotten; // of rolled-back segments, ascending: a tuplestore cannot be cut
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
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(Store);
    control.hcxt = attempt->context;
    attempt->later->stores =
        hash_create("seal_sync later inserts", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  }
  bool found;
  const Oid relation = RelationGetRelid(target->relation);
  auto *store = static_cast<Store *>(hash_search(attempt->later->stores, &relation, HASH_ENTER, &found));
  if (!found) {
    *store = {};
    store->relation = relation;
    const TupleDesc of_target = RelationGetDescr(target->relation);
    store->descriptor = target->descriptor;
    store->desc = CreateTemplateTupleDesc(of_target->natts + kExtras);
    TupleDescInitEntry(store->desc, kSequence, "sequence", INT8OID, -1, 0);
    TupleDescInitEntry(store->desc, kOrdinal, "ordinal", INT8OID, -1, 0);
    TupleDescInitEntry(store->desc, kKind, "kind", CHAROID, -1, 0);
    TupleDescInitEntry(store->desc, kKey, "key", BYTEAOID, -1, 0);
    TupleDescInitEntry(store->desc, kReplaces, "replaces", BOOLOID, -1, 0);
    for (int i = 0; i < of_target->natts; ++i)
      TupleDescCopyEntry(store->desc, static_cast<AttrNumber>(kExtras + i + 1), of_target,
                         static_cast<AttrNumber>(i + 1));
    store->slot = MakeSingleTupleTableSlot(store->desc, &TTSOpsMinimalTuple);
    // A segment's own resource owner would take the temporary file away with the segment.
    const ResourceOwner owner = CurrentResourceOwner;
    CurrentResourceOwner = attempt->owner;
    store->rows = tuplestore_begin_heap(false, false, work_mem);
    CurrentResourceOwner = owner;
    Store *&before = attempt->later->last;
    store->index = before == nullptr ? 0 : before->index + 1;
    (before == nullptr ? attempt->later->first : before->next) = store;
    before = store;
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

void insert_later(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row, bool replaces) {
  Store *const store = store_of(attempt, target);
  const TupleDesc leaf_desc = RelationGetDescr(leaf->relation);
  const int natts = store->desc->natts;
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows);
  auto *values = static_cast<Datum *>(palloc0(sizeof(Datum) * natts));
  auto *nulls = static_cast<bool *>(palloc(sizeof(bool) * natts));
  memset(nulls, true, sizeof(bool) * natts);
  const core::ByteSpan key = current_key(attempt);
  bytea *const key_value = pg::make_bytea(key);
  values[kSequence - 1] = Int64GetDatum(attempt->later->next_sequence++);
  values[kOrdinal - 1] = Int64GetDatum(static_cast<int64>(attempt->current.ordinal));
  values[kKind - 1] = CharGetDatum(static_cast<char>(attempt->current.kind));
  values[kKey - 1] = PointerGetDatum(key_value);
  values[kReplaces - 1] = BoolGetDatum(replaces);
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

bool any_later(const Attempt *attempt, const Target *target) {
  const Oid relation = RelationGetRelid(target->relation);
  return attempt->later != nullptr && hash_search(attempt->later->stores, &relation, HASH_FIND, nullptr) != nullptr;
}

int64 later_mark(const Attempt *attempt) {
  return attempt->later == nullptr ? 0 : attempt->later->next_sequence;
}

void forget_later(Attempt *attempt, int64 mark) {
  LaterInserts *const later = attempt->later;
  if (later == nullptr || later->next_sequence == mark)
    return;
  // What was forgotten since belongs to it; so there are never more of them than parts of a careful run.
  while (later->forgotten_count > 0 && later->forgotten[later->forgotten_count - 1].to >= mark) {
    Range &last = later->forgotten[--later->forgotten_count];
    mark = Min(mark, last.from);
  }
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
  Position from, until;
};

/// The store's next row is the first that may have this sequence number, or one a little before.
void seek(Store *store, int64 sequence) {
  int mark = store->bookmark_count;
  while (mark > 0 && store->bookmarks[mark - 1] > sequence)
    --mark;
  if (mark == 0)
    tuplestore_rescan(store->rows);
  else
    tuplestore_copy_read_pointer(store->rows, mark, 0);
  store->read = static_cast<int64>(mark) * kBookmarkRows;
}

/// The next row, into store->slot; remembers the way to it now and then. False: there is none.
bool read_next(Attempt *attempt, Store *store, int64 *sequence) {
  if (!tuplestore_gettupleslot(store->rows, true, false, store->slot))
    return false;
  slot_getallattrs(store->slot);
  *sequence = DatumGetInt64(store->slot->tts_values[kSequence - 1]);
  store->read += 1;
  if (store->read == (static_cast<int64>(store->bookmark_count) + 1) * kBookmarkRows) {
    if (store->bookmark_count == store->bookmark_capacity) {
      store->bookmark_capacity = Max(16, store->bookmark_capacity * 2);
      const Size size = sizeof(int64) * static_cast<Size>(store->bookmark_capacity);
      store->bookmarks = static_cast<int64 *>(store->bookmarks == nullptr
                                                  ? MemoryContextAlloc(attempt->context, size)
                                                  : repalloc(store->bookmarks, size));
    }
    const int pointer = tuplestore_alloc_read_pointer(store->rows, EXEC_FLAG_REWIND);
    Assert(pointer == store->bookmark_count + 1);
    tuplestore_copy_read_pointer(store->rows, 0, pointer);
    store->bookmarks[store->bookmark_count++] = *sequence + 1;
  }
  return true;
}

void insert_one(Attempt *attempt, Target *target, TupleTableSlot *stored) {
  TupleTableSlot *const row = incoming_slot(target, 0);
  const int natts = RelationGetDescr(target->relation)->natts;
  memcpy(row->tts_values, stored->tts_values + kExtras, sizeof(Datum) * natts);
  memcpy(row->tts_isnull, stored->tts_isnull + kExtras, sizeof(bool) * natts);
  ExecStoreVirtualTuple(row);
  ResetPerTupleExprContext(target->estate);
  if (attempt->current.kind == 'D') {
    CommandCounterIncrement(); // what it is about may just have been written
    if (delete_row(attempt, target, row) == Outcome::kDeleted)
      attempt->deleted += 1;
    end_after_query(target);
    return;
  }
  Leaf *const leaf = route(target, row);
  const bool replaces = DatumGetBool(stored->tts_values[kReplaces - 1]);
  if (attempt->staged != nullptr) { // a row of the same key may have waited before it
    if (put_over_older(attempt, target, leaf, row)) {
      attempt->updated += 1;
      end_after_query(target);
      return;
    }
    ResetPerTupleExprContext(target->estate);
  }
  if (insert_row(attempt, target, leaf, in_leaf_layout(target, leaf, row), replaces) == Outcome::kInserted)
    attempt->inserted += 1;
  end_after_query(target);
}

/// Rows of one table with sequence numbers of the range.
void insert_of_store(Attempt *attempt, Store *store, int64 from, int64 until) {
  Target *const target = segment_target(attempt, store->descriptor);
  check_layout(store, target);
  const OwnerScope scope = become_owner(target->owner);
  seek(store, from);
  int64 sequence;
  while (read_next(attempt, store, &sequence) && sequence < until) {
    if (sequence < from || is_forgotten(attempt->later, sequence))
      continue;
    attempt->current = {};
    attempt->current.ordinal = static_cast<Ordinal>(DatumGetInt64(store->slot->tts_values[kOrdinal - 1]));
    if (is_refused(&attempt->session->notes, attempt->current.ordinal))
      continue;
    attempt->current.descriptor = store->descriptor;
    attempt->current.kind = static_cast<uint8>(DatumGetChar(store->slot->tts_values[kKind - 1]));
    attempt->current.bytes = bytes_of(DatumGetByteaPP(store->slot->tts_values[kKey - 1]));
    attempt->position = position_of(store, sequence);
    insert_one(attempt, target, store->slot);
    MemoryContextReset(attempt->rows);
    CHECK_FOR_INTERRUPTS();
  }
  attempt->current = {};
  leave_owner(scope);
}

/// What a segment does; attempt->current says where it failed.
void insert_range(Attempt *attempt, void *argument) {
  const auto *walk = static_cast<Walk *>(argument);
  for (Store *store = attempt->later->first; store != nullptr; store = store->next) {
    const Position first = position_of(store, 0), last = position_of(store, kMaxSequence);
    if (last < walk->from || first >= walk->until)
      continue;
    insert_of_store(attempt, store, walk->from > first ? static_cast<int64>(walk->from - first) : 0,
                    walk->until <= last ? static_cast<int64>(walk->until - first) : kMaxSequence);
  }
}

} // namespace

void run_later_inserts(Attempt *attempt) {
  if (attempt->later == nullptr)
    return;
  attempt->inserting_later = true;
  Walk walk = {0, 0};
  run_careful(attempt, insert_range, &walk, [](void *argument, uint64 from, uint64 until) {
    *static_cast<Walk *>(argument) = {from, until};
  });
  for (Store *store = attempt->later->first; store != nullptr; store = store->next) {
    ExecDropSingleTupleTableSlot(store->slot); // it may point into the store
    tuplestore_end(store->rows);
    store->slot = nullptr;
    store->rows = nullptr;
  }
}

} // namespace seal_sync::apply
