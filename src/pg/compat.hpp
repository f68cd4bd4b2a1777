#pragma once
// Every test of PG_VERSION_NUM stands here. Wrappers have the newest signature.
// Included by postgres.hpp only.

#if PG_VERSION_NUM < 150000
#error "seal_sync needs PostgreSQL 15 or newer"
#endif

extern "C" {
#if PG_VERSION_NUM >= 170000
#include "utils/wait_event.h"
#endif
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif
}

namespace seal_sync::pg {

/// ExecInsertIndexTuples: PostgreSQL 16 added onlySummarizing (commit 19d8e2308bc).
inline List *exec_insert_index_tuples(ResultRelInfo *result_rel, TupleTableSlot *slot, EState *estate,
                                      bool update, bool no_dup_error, bool *speculative_conflict,
                                      List *arbiters, bool only_summarizing) {
#if PG_VERSION_NUM >= 160000
  return ExecInsertIndexTuples(result_rel, slot, estate, update, no_dup_error, speculative_conflict,
                               arbiters, only_summarizing);
#else
  (void)only_summarizing;
  return ExecInsertIndexTuples(result_rel, slot, estate, update, no_dup_error, speculative_conflict,
                               arbiters);
#endif
}

/// index_beginscan: PostgreSQL 18 added instrumentation (commit 0fbceae841c).
inline IndexScanDesc index_beginscan(Relation heap, Relation index, Snapshot snapshot, int keys) {
#if PG_VERSION_NUM >= 180000
  return ::index_beginscan(heap, index, snapshot, nullptr, keys, 0);
#else
  return ::index_beginscan(heap, index, snapshot, keys, 0);
#endif
}

} // namespace seal_sync::pg
