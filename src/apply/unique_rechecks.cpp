// See unique_rechecks.hpp.
#include "apply/unique_rechecks.hpp"

#include "apply/other_keys.hpp"

namespace seal_sync::apply {

struct UniqueRechecks {
  struct Entry {
    Oid owner, heap, index;
    ItemPointerData tid;
    CurrentRow row;
  } *entries;
  uint64 count, capacity;
};

namespace {

using Entry = UniqueRechecks::Entry;

/// What unique_key_recheck() of core does, for one entry.
void recheck(const Entry &entry) {
  Relation heap = table_open(entry.heap, RowExclusiveLock);
  TupleTableSlot *const slot = table_slot_create(heap, nullptr);
  ItemPointerData tid = entry.tid;
  bool call_again = false;
  IndexFetchTableData *const fetch = table_index_fetch_begin(heap);
  // Is any member of its HOT chain alive? If not, the row has gone or got a newer entry meanwhile.
  const bool alive = table_index_fetch_tuple(fetch, &tid, SnapshotSelf, slot, &call_again, nullptr);
  table_index_fetch_end(fetch);
  if (alive) {
    Relation index = index_open(entry.index, RowExclusiveLock);
    IndexInfo *const info = BuildIndexInfo(index);
    EState *estate = nullptr;
    if (info->ii_Expressions != NIL || info->ii_ExclusionOps != nullptr) {
      estate = CreateExecutorState();
      GetPerTupleExprContext(estate)->ecxt_scantuple = slot;
    }
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS];
    FormIndexDatum(info, slot, estate, values, nulls);
    ItemPointerData checked = entry.tid;
    if (info->ii_ExclusionOps == nullptr)
      index_insert(index, values, nulls, &checked, heap, UNIQUE_CHECK_EXISTING, false, info);
    else
      check_exclusion_constraint(heap, index, info, &tid, values, nulls, estate, false);
    if (estate != nullptr)
      FreeExecutorState(estate);
    index_close(index, RowExclusiveLock);
  }
  ExecDropSingleTupleTableSlot(slot);
  table_close(heap, NoLock);
}

/// attempt->position is the entry at hand.
void recheck_from(Attempt *attempt, uint64 first) {
  for (uint64 i = first; i < attempt->rechecks->count; ++i) {
    const Entry &entry = attempt->rechecks->entries[i];
    attempt->position = i;
    if (is_refused(&attempt->session->notes, entry.row.ordinal))
      continue;
    const OwnerScope scope = become_owner(entry.owner);
    recheck(entry);
    leave_owner(scope);
    MemoryContextReset(attempt->rows);
  }
}

} // namespace

void note_rechecks(Attempt *attempt, Oid owner, Relation heap, List *indexes, const ItemPointerData &tid) {
  const MemoryContext caller = MemoryContextSwitchTo(attempt->context);
  if (attempt->rechecks == nullptr)
    attempt->rechecks = static_cast<UniqueRechecks *>(palloc0(sizeof(UniqueRechecks)));
  UniqueRechecks *const list = attempt->rechecks;
  ListCell *cell;
  foreach (cell, indexes) {
    if (list->count == list->capacity) {
      const uint64 wanted = list->capacity == 0 ? 64 : list->capacity * 2;
      const Size size = sizeof(Entry) * wanted;
      list->entries = static_cast<Entry *>(
          list->entries == nullptr ? palloc(size) : repalloc_huge(list->entries, size));
      list->capacity = wanted;
    }
    Entry *const entry = &list->entries[list->count++];
    *entry = {owner, RelationGetRelid(heap), lfirst_oid(cell), tid, attempt->current};
    if (attempt->careful) { // the chunk will not be at hand when it is refused
      entry->row.bytes = keep_current_key(attempt);
      entry->row.columns = nullptr;
    }
  }
  MemoryContextSwitchTo(caller);
}

uint64 recheck_mark(const Attempt *attempt) {
  return attempt->rechecks == nullptr ? 0 : attempt->rechecks->count;
}

void forget_rechecks(Attempt *attempt, uint64 mark) {
  if (attempt->rechecks != nullptr)
    attempt->rechecks->count = mark;
}

void run_rechecks(Attempt *attempt) {
  if (attempt->rechecks == nullptr)
    return;
  CommandCounterIncrement();
  const MemoryContext caller = MemoryContextSwitchTo(attempt->rows);
  const ResourceOwner owner = CurrentResourceOwner;
  if (!attempt->careful) {
    recheck_from(attempt, 0);
    MemoryContextSwitchTo(caller);
    return;
  }
  attempt->position = 0;
  while (attempt->position < attempt->rechecks->count) {
    BeginInternalSubTransaction(nullptr);
    MemoryContextSwitchTo(attempt->rows);
    PG_TRY();
    {
      recheck_from(attempt, attempt->position);
      ReleaseCurrentSubTransaction();
      attempt->position = attempt->rechecks->count;
    }
    PG_CATCH();
    {
      MemoryContextSwitchTo(attempt->context);
      ErrorData *const error = CopyErrorData();
      FlushErrorState();
      RollbackAndReleaseCurrentSubTransaction();
      CurrentResourceOwner = owner;
      if (!is_row_error(error))
        ReThrowError(error);
      const Entry &entry = attempt->rechecks->entries[attempt->position];
      attempt->current = entry.row;
      OtherKey other;
      if (error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
          find_conflict_of(attempt, entry.heap, entry.index, entry.tid, &other))
        attempt->other = &other;
      refuse_current(attempt, error);
      attempt->other = nullptr;
      FreeErrorData(error);
      attempt->current = {};
      attempt->position += 1;
    }
    PG_END_TRY();
    CurrentResourceOwner = owner;
    MemoryContextSwitchTo(attempt->rows);
  }
  MemoryContextSwitchTo(caller);
}

} // namespace seal_sync::apply
