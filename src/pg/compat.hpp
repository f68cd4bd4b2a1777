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
#include "commands/sequence.h"
#include "executor/nodeModifyTable.h"
#include "storage/lock.h"
#include "utils/datetime.h"
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

/// PostgreSQL 16 knows indexes whose entries stand for blocks (commit 19d8e2308bc); before, none is left out.
inline bool is_summarizing(const IndexInfo *info) {
#if PG_VERSION_NUM >= 160000
  return info->ii_Summarizing;
#else
  (void)info;
  return true;
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

/// LockHeldByMe: PostgreSQL 17 added orstronger (commit 3f1ce973467).
inline bool lock_held_by_me(const LOCKTAG *tag, LOCKMODE mode) {
#if PG_VERSION_NUM >= 170000
  return LockHeldByMe(tag, mode, false);
#else
  return LockHeldByMe(tag, mode);
#endif
}

/// AdjustTimestampForTypmod: PostgreSQL 16 added soft errors (commit ccff2d20ed9); here it raises.
inline void adjust_timestamp(Timestamp *timestamp, int32 typmod) {
#if PG_VERSION_NUM >= 160000
  (void)AdjustTimestampForTypmod(timestamp, typmod, nullptr);
#else
  AdjustTimestampForTypmod(timestamp, typmod);
#endif
}

/// The executor's range table for writing to one relation, and where the set of updated columns lives:
/// PostgreSQL 16 moved it from the entry to RTEPermissionInfo (commit a61b1f74823).
inline Bitmapset **init_range_table(EState *estate, Relation relation) {
  RangeTblEntry *const entry = makeNode(RangeTblEntry);
  entry->rtekind = RTE_RELATION;
  entry->relid = RelationGetRelid(relation);
  entry->relkind = relation->rd_rel->relkind;
  entry->rellockmode = RowExclusiveLock;
#if PG_VERSION_NUM >= 160000
  List *permissions = NIL;
  RTEPermissionInfo *const permission = addRTEPermissionInfo(&permissions, entry);
#if PG_VERSION_NUM >= 180000
  ExecInitRangeTable(estate, list_make1(entry), permissions, bms_make_singleton(1));
#else
  ExecInitRangeTable(estate, list_make1(entry), permissions);
#endif
  return &permission->updatedCols;
#else
  ExecInitRangeTable(estate, list_make1(entry));
  return &entry->updatedCols;
#endif
}

/// table_tuple_update: PostgreSQL 16 tells summarizing indexes apart (commit 19d8e2308bc).
struct UpdatedTuple {
  TM_Result result;
  bool indexes;          // new entries are needed
  bool only_summarizing; // in summarizing indexes only
};
inline UpdatedTuple update_tuple(Relation relation, ItemPointer tid, TupleTableSlot *slot, CommandId cid,
                                 Snapshot snapshot) {
  UpdatedTuple done = {};
  TM_FailureData failure;
  LockTupleMode mode;
#if PG_VERSION_NUM >= 160000
  TU_UpdateIndexes indexes = TU_None;
  done.result = table_tuple_update(relation, tid, slot, cid, snapshot, InvalidSnapshot, true, &failure,
                                   &mode, &indexes);
  done.indexes = indexes != TU_None;
  done.only_summarizing = indexes == TU_Summarizing;
#else
  done.result = table_tuple_update(relation, tid, slot, cid, snapshot, InvalidSnapshot, true, &failure,
                                   &mode, &done.indexes);
#endif
  return done;
}

/// EvalPlanQualInit: PostgreSQL 16 added resultRelations (commit 70b42f27902).
inline void init_epq(EPQState *epq, EState *estate) {
#if PG_VERSION_NUM >= 160000
  EvalPlanQualInit(epq, estate, nullptr, NIL, -1, NIL);
#else
  EvalPlanQualInit(epq, estate, nullptr, NIL, -1);
#endif
}

/// BEFORE ROW triggers: PostgreSQL 16 returns what locking the row met, 18 knows MERGE.
inline bool before_row_update(EState *estate, EPQState *epq, ResultRelInfo *target, ItemPointer tid,
                              TupleTableSlot *slot) {
#if PG_VERSION_NUM >= 180000
  return ExecBRUpdateTriggers(estate, epq, target, tid, nullptr, slot, nullptr, nullptr, false);
#elif PG_VERSION_NUM >= 160000
  return ExecBRUpdateTriggers(estate, epq, target, tid, nullptr, slot, nullptr, nullptr);
#else
  return ExecBRUpdateTriggers(estate, epq, target, tid, nullptr, slot, nullptr);
#endif
}
inline bool before_row_delete(EState *estate, EPQState *epq, ResultRelInfo *target, ItemPointer tid) {
#if PG_VERSION_NUM >= 180000
  return ExecBRDeleteTriggers(estate, epq, target, tid, nullptr, nullptr, nullptr, nullptr, false);
#elif PG_VERSION_NUM >= 160000
  return ExecBRDeleteTriggers(estate, epq, target, tid, nullptr, nullptr, nullptr, nullptr);
#else
  return ExecBRDeleteTriggers(estate, epq, target, tid, nullptr, nullptr);
#endif
}

/// A constraint that is declared but not checked: PostgreSQL 18 has NOT ENFORCED, and foreign keys over
/// periods.
inline bool foreign_key_enforced(Form_pg_constraint constraint) {
#if PG_VERSION_NUM >= 180000
  return constraint->conenforced;
#else
  (void)constraint;
  return true;
#endif
}
inline bool foreign_key_has_period(Form_pg_constraint constraint) {
#if PG_VERSION_NUM >= 180000
  return constraint->conperiod;
#else
  (void)constraint;
  return false;
#endif
}

/// tuplesort_getdatum, forward, of values that are passed by value: PostgreSQL 16 added copy (commit 1cfdd1cdb1).
inline bool tuplesort_getdatum(Tuplesortstate *sort, Datum *value) {
  bool is_null;
#if PG_VERSION_NUM >= 160000
  return ::tuplesort_getdatum(sort, true, false, value, &is_null, nullptr);
#else
  return ::tuplesort_getdatum(sort, true, value, &is_null, nullptr);
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

/// Whether the role owns the schema, itself or as a member. Like owns_relation.
inline bool owns_schema(Oid schema, Oid role) {
#if PG_VERSION_NUM >= 160000
  return object_ownercheck(NamespaceRelationId, schema, role);
#else
  return pg_namespace_ownercheck(schema, role);
#endif
}

/// The WAL record of a sequence's new state, as nextval() writes it: PostgreSQL 16 renamed relfilenodes (commit b0a55e43299).
inline XLogRecPtr log_sequence(Relation sequence, Buffer buffer, HeapTupleHeader tuple, uint32 size) {
  xl_seq_rec record;
#if PG_VERSION_NUM >= 160000
  record.locator = sequence->rd_locator;
#else
  record.node = sequence->rd_node;
#endif
  XLogBeginInsert();
  XLogRegisterBuffer(0, buffer, REGBUF_WILL_INIT);
  XLogRegisterData(reinterpret_cast<char *>(&record), sizeof record);
  XLogRegisterData(reinterpret_cast<char *>(tuple), size);
  return XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
}

} // namespace seal_sync::pg
