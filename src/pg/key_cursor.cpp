// See key_cursor.hpp.
#include "pg/key_cursor.hpp"

namespace seal_sync::pg {

namespace {

// A descent costs as much as a dozen steps; beginning to walk reads the rest of a leaf, some twenty descents.
constexpr int kMostSteps = 12;
constexpr int kFewKeys = 32;    // a walk that has found fewer was not worth beginning
constexpr int kFirstPause = 16; // lookups before the first walk
constexpr int kLongestPause = 4096;

} // namespace

struct KeyCursor {
  MemoryContext context;
  Relation table;
  Relation index;
  Snapshot snapshot;
  int count; // key columns
  bool ascending;
  bool can_walk;

  IndexScanDesc lookup;
  ScanKeyData equal[INDEX_MAX_KEYS];

  IndexScanDesc walk; // made when first needed
  ScanKeyData from;
  ScanKeyData from_columns[INDEX_MAX_KEYS];
  MemoryContext from_values;
  FmgrInfo compare[INDEX_MAX_KEYS];
  bool walking;
  bool at_end;
  int found; // by this walk
  int pause; // lookups until the next walk
  int next_pause;
};

namespace {

/// -1: the walk stands before the key, 0: on it, 1: after it.
int compare_position(KeyCursor *cursor, const Datum *values) {
  const TupleDesc desc = RelationGetDescr(cursor->index);
  for (int i = 0; i < cursor->count; ++i) {
    bool is_null;
    const Datum value = index_getattr(cursor->walk->xs_itup, i + 1, desc, &is_null);
    const int order = DatumGetInt32(
        FunctionCall2Coll(&cursor->compare[i], cursor->index->rd_indcollation[i], value, values[i]));
    if (order != 0)
      return order < 0 ? -1 : 1;
  }
  return 0;
}

void step(KeyCursor *cursor) {
  cursor->at_end = index_getnext_tid(cursor->walk, ForwardScanDirection) == nullptr;
}

void begin_walk(KeyCursor *cursor, const Datum *values) {
  if (cursor->walk == nullptr) {
    const Relation index = cursor->index;
    for (int i = 0; i < cursor->count; ++i) {
      const Oid type = index->rd_opcintype[i];
      const Oid order = get_opfamily_proc(index->rd_opfamily[i], type, type, BTORDER_PROC);
      if (!OidIsValid(order))
        elog(ERROR, "missing comparison function in operator family %u", index->rd_opfamily[i]);
      fmgr_info_cxt(order, &cursor->compare[i], cursor->context);
      ScanKeyEntryInitialize(&cursor->from_columns[i], SK_ROW_MEMBER | (i == cursor->count - 1 ? SK_ROW_END : 0),
                             static_cast<AttrNumber>(i + 1), BTGreaterEqualStrategyNumber, type,
                             index->rd_indcollation[i], order, Datum{0});
    }
    cursor->from_values = AllocSetContextCreate(cursor->context, "seal_sync key cursor", ALLOCSET_SMALL_SIZES);
    cursor->walk = index_beginscan(cursor->table, index, cursor->snapshot, 1);
    cursor->walk->xs_want_itup = true;
  }
  // (columns) >= (values): a row comparison, as the executor makes them. It is looked at with each leaf that
  // the walk comes to, long after the caller has reused the memory of its values.
  MemoryContextReset(cursor->from_values);
  const MemoryContext old = MemoryContextSwitchTo(cursor->from_values);
  const TupleDesc desc = RelationGetDescr(cursor->index);
  for (int i = 0; i < cursor->count; ++i) {
    const Form_pg_attribute column = TupleDescAttr(desc, i);
    cursor->from_columns[i].sk_argument = datumCopy(values[i], column->attbyval, column->attlen);
  }
  MemoryContextSwitchTo(old);
  cursor->from = {};
  cursor->from.sk_flags = SK_ROW_HEADER;
  cursor->from.sk_attno = 1;
  cursor->from.sk_strategy = BTGreaterEqualStrategyNumber;
  cursor->from.sk_argument = PointerGetDatum(cursor->from_columns);
  index_rescan(cursor->walk, &cursor->from, 1, nullptr, 0);
  cursor->walking = true;
  cursor->found = 0;
  step(cursor);
}

/// Gives back the leaf's pin. The next walk is tried later when this one was not worth it.
void end_walk(KeyCursor *cursor) {
  cursor->next_pause = cursor->found >= kFewKeys ? 1 : Min(cursor->next_pause * 2, kLongestPause);
  cursor->pause = cursor->next_pause;
  cursor->walking = false;
  index_rescan(cursor->walk, &cursor->from, 1, nullptr, 0);
}

enum class Walked { kFound, kAbsent, kTooFar };

bool has_key(KeyCursor *cursor, const Datum *values, TupleTableSlot *row) {
  for (int i = 0; i < cursor->count; ++i) {
    bool is_null;
    const Datum value = slot_getattr(row, cursor->index->rd_index->indkey.values[i], &is_null);
    if (is_null || DatumGetInt32(FunctionCall2Coll(&cursor->compare[i], cursor->index->rd_indcollation[i], value,
                                                   values[i])) != 0)
      return false;
  }
  return true;
}

/// The row among the index entries with one key. The entries of one key stand in the order of their places, and new
/// versions mostly come after old ones: the last is tried first. The walk may have left their leaf, and with its pin
/// what keeps VACUUM from giving a place to another row: a snapshot that is no MVCC snapshot would see that row.
bool fetch(KeyCursor *cursor, const Datum *values, ItemPointerData *places, int count, TupleTableSlot *row) {
  while (count-- > 0) {
    bool call_again = false;
    if (table_index_fetch_tuple(cursor->walk->xs_heapfetch, &places[count], cursor->snapshot, row, &call_again,
                                nullptr) &&
        (IsMVCCSnapshot(cursor->snapshot) || has_key(cursor, values, row)))
      return true;
  }
  return false;
}

Walked walk_to(KeyCursor *cursor, const Datum *values, TupleTableSlot *row) {
  constexpr int kMostPlaces = 64;
  ItemPointerData places[kMostPlaces];
  int count = 0;
  for (int steps = 0; !cursor->at_end; step(cursor)) {
    const int order = compare_position(cursor, values);
    if (order > 0)
      break;
    if (order == 0) {
      if (count == kMostPlaces) {
        if (fetch(cursor, values, places, count, row)) {
          cursor->found += 1;
          return Walked::kFound;
        }
        count = 0;
      }
      places[count++] = cursor->walk->xs_heaptid;
    } else if (++steps > kMostSteps) {
      return Walked::kTooFar;
    }
  }
  if (count == 0 || !fetch(cursor, values, places, count, row))
    return Walked::kAbsent;
  cursor->found += 1;
  return Walked::kFound;
}

bool look_up(KeyCursor *cursor, const Datum *values, TupleTableSlot *row) {
  for (int i = 0; i < cursor->count; ++i)
    cursor->equal[i].sk_argument = values[i];
  index_rescan(cursor->lookup, cursor->equal, cursor->count, nullptr, 0);
  return index_getnext_slot(cursor->lookup, ForwardScanDirection, row);
}

bool find(KeyCursor *cursor, const Datum *values, TupleTableSlot *row) {
  if (!cursor->walking) {
    if (!cursor->can_walk || --cursor->pause > 0)
      return look_up(cursor, values, row);
    begin_walk(cursor, values);
  }
  switch (walk_to(cursor, values, row)) {
  case Walked::kFound:
    return true;
  case Walked::kAbsent:
    if (!cursor->ascending)
      return look_up(cursor, values, row);
    cursor->found += 1;
    return false;
  case Walked::kTooFar:
    end_walk(cursor);
    break;
  }
  return look_up(cursor, values, row);
}

} // namespace

KeyCursor *open_key_cursor(Relation table, Relation index, Snapshot snapshot, bool ascending) {
  auto *cursor = static_cast<KeyCursor *>(palloc0(sizeof(KeyCursor)));
  cursor->context = CurrentMemoryContext;
  cursor->table = table;
  cursor->index = index;
  cursor->snapshot = snapshot;
  cursor->ascending = ascending;
  cursor->count = IndexRelationGetNumberOfKeyAttributes(index);
  cursor->can_walk = true;
  for (int i = 0; i < cursor->count; ++i) {
    const Oid type = index->rd_opcintype[i];
    const Oid equal = get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber);
    if (!OidIsValid(equal))
      elog(ERROR, "missing equality operator in operator family %u", index->rd_opfamily[i]);
    ScanKeyInit(&cursor->equal[i], static_cast<AttrNumber>(i + 1), BTEqualStrategyNumber, get_opcode(equal),
                Datum{0});
    cursor->equal[i].sk_collation = index->rd_indcollation[i];
    // Type name is kept as cstring in its indexes, which its comparison is not made for.
    if (type == NAMEOID)
      cursor->can_walk = false;
  }
  cursor->lookup = index_beginscan(table, index, snapshot, cursor->count);
  cursor->pause = cursor->next_pause = kFirstPause;
  return cursor;
}

void close_key_cursor(KeyCursor *cursor) {
  index_endscan(cursor->lookup);
  if (cursor->walk != nullptr) {
    index_endscan(cursor->walk);
    MemoryContextDelete(cursor->from_values);
  }
  pfree(cursor);
}

// A btree scan allocates lazily, in whatever context is current: it must be one that outlives it.

bool find_key(KeyCursor *cursor, const Datum *values, TupleTableSlot *row) {
  const MemoryContext caller = MemoryContextSwitchTo(cursor->context);
  const bool found = find(cursor, values, row);
  MemoryContextSwitchTo(caller);
  return found;
}

bool look_up_key(KeyCursor *cursor, const Datum *values, TupleTableSlot *row) {
  const MemoryContext caller = MemoryContextSwitchTo(cursor->context);
  const bool found = look_up(cursor, values, row);
  MemoryContextSwitchTo(caller);
  return found;
}

void restart_keys(KeyCursor *cursor) {
  const MemoryContext caller = MemoryContextSwitchTo(cursor->context);
  index_rescan(cursor->lookup, cursor->equal, cursor->count, nullptr, 0);
  if (cursor->walking)
    end_walk(cursor);
  MemoryContextSwitchTo(caller);
}

} // namespace seal_sync::pg
