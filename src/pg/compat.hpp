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

/// object_ownercheck: PostgreSQL 16 made one of many (commit afbfc02983f). For the two classes we need.
inline bool object_ownercheck(Oid class_id, Oid object_id, Oid role_id) {
#if PG_VERSION_NUM >= 160000
  return ::object_ownercheck(class_id, object_id, role_id);
#else
  return class_id == DatabaseRelationId ? pg_database_ownercheck(object_id, role_id)
                                        : pg_extension_ownercheck(object_id, role_id);
#endif
}

/// WaitEventExtensionNew: PostgreSQL 17 gave extensions wait events with names (commit c9af054653).
inline uint32 wait_event(const char *name) {
#if PG_VERSION_NUM >= 170000
  return WaitEventExtensionNew(name);
#else
  (void)name;
  return PG_WAIT_EXTENSION;
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

/// Whether a role owns a relation: PostgreSQL 16 made one function of many (commit afbfc02983f).
inline bool owns_relation(Oid relation, Oid role) {
#if PG_VERSION_NUM >= 160000
  return object_ownercheck(RelationRelationId, relation, role);
#else
  return pg_class_ownercheck(relation, role);
#endif
}

} // namespace seal_sync::pg
