#pragma once
// Index entries of the rows that apply writes.
//
// Opened per leaf by target.cpp, called by row_writer.cpp after a row version is in the table. Invariant:
// what ExecInsertIndexTuples() would have inserted and checked is inserted and checked, but for one thing
// that cannot fail: the new version of a row cannot violate a valid unique index whose columns it did not change,
// for the version before it, live until this transaction commits, keeps everybody else out. Leaving that
// check out saves a visit to every version of the row.
#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct IndexEntries;

/// For the indexes that are open in `result`, in the current memory context.
IndexEntries *open_index_entries(ResultRelInfo *result);

/// For the row in the slot, at its tts_tid. `replaced`: the version before it, null for an insert. Returns the
/// indexes whose uniqueness has to be checked again at the end (deferrable ones).
List *insert_index_entries(IndexEntries *entries, EState *estate, TupleTableSlot *row, TupleTableSlot *replaced,
                           bool only_summarizing);

} // namespace seal_sync::apply
