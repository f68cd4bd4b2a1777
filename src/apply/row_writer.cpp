// See row_writer.hpp.
#include "apply/row_writer.hpp"

#include "apply/foreign_keys.hpp"
#include "apply/index_entries.hpp"
#include "apply/later_inserts.hpp"
#include "apply/partitions.hpp"
#include "apply/settings.hpp"
#include "apply/unique_rechecks.hpp"

namespace seal_sync::apply {

namespace {

constexpr int kMaxRetries = 1000; // a row that others change all the time

char *shown(const Target *target) {
  return psprintf("%s.%s", NameStr(target->descriptor->schema), NameStr(target->descriptor->table));
}

// ---- whose row it is ----------------------------------------------------------------------------

void refuse_cluster(Attempt *attempt, const Target *target, const config::Cluster *cluster, bool existing) {
  if (cluster == nullptr) {
    refuse_current(attempt, "23514", psprintf("row of table \"%s\" belongs to no cluster", shown(target)),
                   existing ? "The row on the standby has a null or undeclared cluster value."
                            : "Its cluster value is null or not declared on the standby.",
                   "");
    return;
  }
  refuse_current(attempt, "55000",
                 psprintf("row of table \"%s\" belongs to cluster \"%s\", which is not primary on node \"%s\"",
                          shown(target), NameStr(cluster->name), NameStr(attempt->session->origin)),
                 existing ? psprintf("A row with the same key is there already; the primary of its cluster"
                                     " is node \"%s\".",
                                     NameStr(cluster->primary_node))
                          : psprintf("The primary of that cluster is node \"%s\".",
                                     NameStr(cluster->primary_node)),
                 "");
}

/// Refuses the current row unless `row` (leaf layout) is in a cluster of the sender's.
bool check_cluster(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row, bool existing) {
  config::Table *const rule = rule_of(leaf);
  if (rule == nullptr)
    schema_changed(target->descriptor, "It is not registered any more.");
  const config::Cluster *const cluster = config::cluster_of(rule, row);
  if (is_senders(attempt, cluster))
    return true;
  refuse_cluster(attempt, target, cluster, existing);
  return false;
}

// ---- triggers -----------------------------------------------------------------------------------

void begin_after_query(Target *target) {
  if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA)
    enter_replica_role();
  if (!target->after_query) {
    AfterTriggerBeginQuery();
    target->after_query = true;
  }
}

/// A trigger of the user's may have rewritten the row.
void require_cluster_after_triggers(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row) {
  const config::Cluster *const cluster = config::cluster_of(rule_of(leaf), row);
  if (!is_senders(attempt, cluster))
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("a trigger of table \"%s\" moved a row to a cluster that is not node \"%s\"'s",
                   shown(target), NameStr(attempt->session->origin)));
}

// ---- common to insert and update ----------------------------------------------------------------

/// Generated columns, cluster, constraints. False: refused.
bool prepare_row(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row) {
  // CMD_INSERT: every generated column. For updates the executor would keep the set of columns it
  // computes from the first statement, but partial sections differ in what they carry.
  if (leaf->has_stored_generated)
    ExecComputeStoredGenerated(leaf->result, target->estate, row, CMD_INSERT);
  if (leaf->result->ri_TrigDesc != nullptr)
    require_cluster_after_triggers(attempt, target, leaf, row);
  else if (!check_cluster(attempt, target, leaf, row, false))
    return false;
  if (RelationGetDescr(leaf->relation)->constr != nullptr)
    ExecConstraints(leaf->result, row, target->estate);
  if (leaf->relation->rd_rel->relispartition)
    (void)ExecPartitionCheck(leaf->result, row, target->estate, true);
  return true;
}

bool same_value(TupleDesc desc, int i, TupleTableSlot *a, TupleTableSlot *b) {
  if (a->tts_isnull[i] || b->tts_isnull[i])
    return a->tts_isnull[i] == b->tts_isnull[i];
  const Form_pg_attribute attribute = TupleDescAttr(desc, i);
  return datum_image_eq(a->tts_values[i], b->tts_values[i], attribute->attbyval, attribute->attlen);
}

/// Whether leaf->next differs from leaf->existing in them; its generated columns are computed for that.
bool changes_unique_columns(Target *target, Leaf *leaf) {
  if (leaf->has_stored_generated)
    ExecComputeStoredGenerated(leaf->result, target->estate, leaf->next, CMD_INSERT);
  const TupleDesc desc = RelationGetDescr(leaf->relation);
  int member = -1;
  while ((member = bms_next_member(leaf->unique_columns, member)) >= 0) {
    const int attno = member + FirstLowInvalidHeapAttributeNumber;
    if (attno == 0) // a whole-row reference
      return true;
    if (attno > 0 && !same_value(desc, attno - 1, leaf->existing, leaf->next))
      return true;
  }
  return false;
}

/// leaf->next becomes the existing row with the columns that were sent. False: nothing differs.
bool merge(Target *target, Leaf *leaf, TupleTableSlot *row) {
  const TupleDesc desc = RelationGetDescr(leaf->relation);
  slot_getallattrs(leaf->existing);
  ExecClearTuple(leaf->next);
  bool differs = false;
  for (int i = 0; i < desc->natts; ++i) {
    const AttrNumber source = leaf->root_attnos != nullptr ? leaf->root_attnos[i] : i + 1;
    const bool sent = source > 0 && target->sent[source - 1];
    leaf->next->tts_values[i] = sent ? row->tts_values[source - 1] : leaf->existing->tts_values[i];
    leaf->next->tts_isnull[i] = sent ? row->tts_isnull[source - 1] : leaf->existing->tts_isnull[i];
    if (sent && !differs)
      differs = !same_value(desc, i, leaf->existing, leaf->next);
  }
  ExecStoreVirtualTuple(leaf->next);
  return differs;
}

/// Defaults where nothing was sent.
void complete(Target *target, TupleTableSlot *row) {
  for (int i = 0; i < target->default_count; ++i) {
    const int column = target->default_attnos[i] - 1;
    row->tts_values[column] = ExecEvalExprSwitchContext(
        target->defaults[i], GetPerTupleExprContext(target->estate), &row->tts_isnull[column]);
  }
}

[[noreturn]] void key_twice(const Target *target) {
  ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION),
          errmsg("a peer sent a key of table \"%s\" twice in one batch", shown(target)),
          errhint("A trigger that fires during apply and changes the same row has the same effect."));
  pg_unreachable();
}

/// True when the row was changed by somebody else meanwhile and has to be looked up again.
bool must_retry(const Target *target, TM_Result result) {
  switch (result) {
  case TM_Ok:
    return false;
  case TM_Updated:
  case TM_Deleted:
    return true;
  case TM_SelfModified:
  case TM_Invisible:
    key_twice(target);
  default:
    elog(ERROR, "unexpected result %d of writing a tuple", static_cast<int>(result));
  }
  pg_unreachable();
}

/// For tables with triggers the row is locked first, so that triggers see the version that is written.
bool lock_existing(Target *target, Leaf *leaf) {
  TM_FailureData failure;
  const ItemPointerData tid = leaf->existing->tts_tid;
  const TM_Result result = table_tuple_lock(
      leaf->relation, const_cast<ItemPointer>(&tid), GetActiveSnapshot(), leaf->existing,
      GetCurrentCommandId(false), LockTupleExclusive, LockWaitBlock, 0, &failure);
  return !must_retry(target, result);
}

enum class Written { kDone, kSkipped, kRefused, kRetry };

Written update_existing(Attempt *attempt, Target *target, Leaf *leaf) {
  ResultRelInfo *const result = leaf->result;
  EState *const estate = target->estate;
  ItemPointerData tid = leaf->existing->tts_tid;
  if (result->ri_TrigDesc != nullptr) {
    begin_after_query(target);
    if (result->ri_TrigDesc->trig_update_before_row &&
        !pg::before_row_update(estate, &target->epq, result, &tid, leaf->next))
      return Written::kSkipped;
  }
  if (!prepare_row(attempt, target, leaf, leaf->next))
    return Written::kRefused;
  const pg::UpdatedTuple done = pg::update_tuple(leaf->relation, &tid, leaf->next,
                                                 GetCurrentCommandId(true), GetActiveSnapshot());
  if (must_retry(target, done.result))
    return Written::kRetry;
  List *recheck = NIL;
  attempt->writing = {leaf, leaf->next};
  if (done.indexes)
    recheck = insert_index_entries(leaf->entries, estate, leaf->next, leaf->existing, done.only_summarizing);
  attempt->writing = {};
  if (recheck != NIL)
    note_rechecks(attempt, target->owner, leaf->relation, recheck, leaf->next->tts_tid);
  if (leaf->foreign_keys != nullptr)
    note_foreign_keys(attempt, leaf->foreign_keys, leaf->existing, leaf->next);
  if (result->ri_TrigDesc != nullptr)
    ExecARUpdateTriggers(estate, result, nullptr, nullptr, &tid, nullptr, leaf->next, NIL, nullptr, false);
  return Written::kDone;
}

/// `next` is what will stand there again, nullptr after a delete: foreign keys that stay the same are not
/// checked, as in core.
Written delete_existing(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *next) {
  ResultRelInfo *const result = leaf->result;
  EState *const estate = target->estate;
  ItemPointerData tid = leaf->existing->tts_tid;
  if (result->ri_TrigDesc != nullptr) {
    begin_after_query(target);
    if (result->ri_TrigDesc->trig_delete_before_row &&
        !pg::before_row_delete(estate, &target->epq, result, &tid))
      return Written::kSkipped;
  }
  TM_FailureData failure;
  const TM_Result done = table_tuple_delete(leaf->relation, &tid, GetCurrentCommandId(true),
                                            GetActiveSnapshot(), InvalidSnapshot, true, &failure, false);
  if (must_retry(target, done))
    return Written::kRetry;
  if (leaf->foreign_keys != nullptr)
    note_foreign_keys(attempt, leaf->foreign_keys, leaf->existing, next);
  if (result->ri_TrigDesc != nullptr)
    ExecARDeleteTriggers(estate, result, &tid, nullptr, nullptr, false);
  return Written::kDone;
}

/// A partition that does not exist holds no row: nothing to delete, and nothing to update in part.
bool is_absent(const Target *target, TupleTableSlot *row) {
  return target->only == nullptr && !has_partition(target->relation, row);
}

/// Tables with unique constraints beside the key: what could conflict waits until all else is done.
bool must_wait(const Attempt *attempt, const Leaf *leaf) {
  return attempt->careful && !attempt->inserting_later && leaf->unique_columns != nullptr;
}

/// What is to be deleted may be an older row of the batch that is not written yet.
bool delete_must_wait(const Attempt *attempt, const Target *target, const Leaf *leaf) {
  return attempt->staged != nullptr && must_wait(attempt, leaf) && any_later(attempt, target);
}

Outcome put_existing(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row, bool *retry) {
  if (!check_cluster(attempt, target, leaf, leaf->existing, true))
    return Outcome::kRefused;
  if (leaf->result->ri_TrigDesc != nullptr && !lock_existing(target, leaf)) {
    *retry = true;
    return Outcome::kUnchanged;
  }
  if (!merge(target, leaf, row))
    return Outcome::kUnchanged;
  if (must_wait(attempt, leaf) && changes_unique_columns(target, leaf)) {
    if (!check_cluster(attempt, target, leaf, leaf->next, false))
      return Outcome::kRefused;
    const int64 mark = later_mark(attempt);
    insert_later(attempt, target, leaf, leaf->next, true); // while its columns can still be read
    const Written written = delete_existing(attempt, target, leaf, leaf->next);
    if (written == Written::kDone)
      return Outcome::kLater;
    forget_later(attempt, mark);
    *retry = written == Written::kRetry;
    return Outcome::kUnchanged;
  }
  switch (update_existing(attempt, target, leaf)) {
  case Written::kDone:
    return Outcome::kUpdated;
  case Written::kRefused:
    return Outcome::kRefused;
  case Written::kSkipped:
    return Outcome::kUnchanged;
  case Written::kRetry:
    *retry = true;
    break;
  }
  return Outcome::kUnchanged;
}

} // namespace

TupleTableSlot *in_leaf_layout(Target *target, Leaf *leaf, TupleTableSlot *row) {
  if (leaf->root_attnos == nullptr)
    return row;
  const TupleDesc desc = RelationGetDescr(leaf->relation);
  ExecClearTuple(leaf->next);
  for (int i = 0; i < desc->natts; ++i) {
    const AttrNumber source = leaf->root_attnos[i];
    leaf->next->tts_values[i] = source > 0 ? row->tts_values[source - 1] : Datum{0};
    leaf->next->tts_isnull[i] = source > 0 ? row->tts_isnull[source - 1] : true;
  }
  return ExecStoreVirtualTuple(leaf->next);
}

Outcome insert_row(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row, bool replaces) {
  ResultRelInfo *const result = leaf->result;
  EState *const estate = target->estate;
  row->tts_tableOid = leaf->oid;
  if (result->ri_TrigDesc != nullptr) {
    begin_after_query(target);
    if (result->ri_TrigDesc->trig_insert_before_row) {
      if (replaces) // what was noted, to be compared with what triggers make of it
        ExecCopySlot(leaf->existing, row);
      if (!ExecBRInsertTriggers(estate, result, row)) {
        if (replaces && leaf->foreign_keys != nullptr) // a delete after all
          note_foreign_keys(attempt, leaf->foreign_keys, leaf->existing, nullptr);
        return Outcome::kUnchanged;
      }
    }
  }
  if (!prepare_row(attempt, target, leaf, row))
    return Outcome::kRefused;
  table_tuple_insert(leaf->relation, row, GetCurrentCommandId(true), 0, nullptr);
  attempt->writing = {leaf, row};
  List *const recheck = insert_index_entries(leaf->entries, estate, row, nullptr, false);
  attempt->writing = {};
  if (recheck != NIL)
    note_rechecks(attempt, target->owner, leaf->relation, recheck, row->tts_tid);
  const bool as_noted =
      replaces && (result->ri_TrigDesc == nullptr || !result->ri_TrigDesc->trig_insert_before_row);
  if (leaf->foreign_keys != nullptr && !as_noted)
    note_foreign_keys(attempt, leaf->foreign_keys, replaces ? leaf->existing : nullptr, row);
  if (result->ri_TrigDesc != nullptr)
    ExecARInsertTriggers(estate, result, row, NIL, nullptr);
  return Outcome::kInserted;
}

Outcome put_row(Attempt *attempt, Target *target, TupleTableSlot *row, bool whole) {
  ResetPerTupleExprContext(target->estate);
  if (!whole && is_absent(target, row))
    return Outcome::kWanted;
  Leaf *const leaf = route(target, row);
  check_claims(attempt); // a partition may just have been locked
  for (int tries = 0; tries < kMaxRetries; ++tries) {
    if (!find_existing(leaf, row)) {
      if (!whole)
        return Outcome::kWanted;
      complete(target, row);
      TupleTableSlot *const complete_row = in_leaf_layout(target, leaf, row);
      if (must_wait(attempt, leaf)) {
        insert_later(attempt, target, leaf, complete_row, false);
        return Outcome::kLater;
      }
      return insert_row(attempt, target, leaf, complete_row, false);
    }
    bool retry = false;
    const Outcome outcome = put_existing(attempt, target, leaf, row, &retry);
    if (!retry)
      return outcome;
    CHECK_FOR_INTERRUPTS();
  }
  ereport(ERROR, errcode(ERRCODE_LOCK_NOT_AVAILABLE),
          errmsg("could not update a row of table \"%s\": others keep changing it", shown(target)));
  pg_unreachable();
}

bool put_over_older(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row) {
  for (int tries = 0; tries < kMaxRetries; ++tries) {
    if (!find_existing(leaf, row))
      return false;
    CommandCounterIncrement(); // it may just have been written
    if (!check_cluster(attempt, target, leaf, leaf->existing, true))
      return true;
    if (leaf->result->ri_TrigDesc != nullptr && !lock_existing(target, leaf))
      continue;
    slot_getallattrs(leaf->existing);
    if (in_leaf_layout(target, leaf, row) == row)
      ExecCopySlot(leaf->next, row);
    slot_getallattrs(leaf->next);
    if (update_existing(attempt, target, leaf) != Written::kRetry)
      return true;
  }
  ereport(ERROR, errcode(ERRCODE_LOCK_NOT_AVAILABLE),
          errmsg("could not update a row of table \"%s\": others keep changing it", shown(target)));
  pg_unreachable();
}

Outcome delete_row(Attempt *attempt, Target *target, TupleTableSlot *row) {
  ResetPerTupleExprContext(target->estate);
  if (is_absent(target, row))
    return Outcome::kUnchanged;
  Leaf *const leaf = route(target, row);
  check_claims(attempt);
  for (int tries = 0; tries < kMaxRetries; ++tries) {
    if (!find_existing(leaf, row)) {
      if (!delete_must_wait(attempt, target, leaf))
        return Outcome::kUnchanged;
      insert_later(attempt, target, leaf, in_leaf_layout(target, leaf, row), false);
      return Outcome::kLater;
    }
    if (!check_cluster(attempt, target, leaf, leaf->existing, true))
      return Outcome::kRefused;
    if (leaf->result->ri_TrigDesc != nullptr && !lock_existing(target, leaf))
      continue;
    switch (delete_existing(attempt, target, leaf, nullptr)) {
    case Written::kDone:
      return Outcome::kDeleted;
    case Written::kSkipped:
    case Written::kRefused:
      return Outcome::kUnchanged;
    case Written::kRetry:
      CHECK_FOR_INTERRUPTS();
      break;
    }
  }
  ereport(ERROR, errcode(ERRCODE_LOCK_NOT_AVAILABLE),
          errmsg("could not delete a row of table \"%s\": others keep changing it", shown(target)));
  pg_unreachable();
}

bool insert_run(Attempt *attempt, Target *target, int rows, const Ordinal *ordinals) {
  Leaf *const leaf = target->only;
  if (leaf == nullptr || leaf->result->ri_TrigDesc != nullptr || attempt->careful)
    return false;
  check_claims(attempt);
  if (any_between(leaf, target->incoming[0], target->incoming[rows - 1]))
    return false;
  EState *const estate = target->estate;
  // A row that is not the sender's sends all of the run the slow way, before anything is done to it.
  config::Table *const rule = rule_of(leaf);
  if (rule == nullptr || (rule->cluster_attno > 0 && !target->sent[rule->cluster_attno - 1]))
    return false;
  for (int i = 0; i < rows; ++i)
    if (!is_senders(attempt, config::cluster_of(rule, target->incoming[i])))
      return false;
  for (int i = 0; i < rows; ++i) {
    TupleTableSlot *const row = target->incoming[i];
    attempt->current.ordinal = ordinals[i];
    ResetPerTupleExprContext(estate);
    complete(target, row);
    for (int d = 0; d < target->default_count; ++d) { // evaluated in memory that the next row resets
      const int column = target->default_attnos[d] - 1;
      const Form_pg_attribute attribute = TupleDescAttr(RelationGetDescr(target->relation), column);
      if (!row->tts_isnull[column])
        row->tts_values[column] =
            datumCopy(row->tts_values[column], attribute->attbyval, attribute->attlen);
    }
    row->tts_tableOid = leaf->oid;
    if (leaf->has_stored_generated)
      ExecComputeStoredGenerated(leaf->result, estate, row, CMD_INSERT);
    if (RelationGetDescr(leaf->relation)->constr != nullptr)
      ExecConstraints(leaf->result, row, estate);
    if (leaf->relation->rd_rel->relispartition)
      (void)ExecPartitionCheck(leaf->result, row, estate, true);
  }
  if (leaf->bulk == nullptr) {
    const MemoryContext caller = MemoryContextSwitchTo(target->context);
    leaf->bulk = GetBulkInsertState();
    MemoryContextSwitchTo(caller);
  }
  table_multi_insert(leaf->relation, target->incoming, rows, GetCurrentCommandId(true), 0, leaf->bulk);
  for (int i = 0; i < rows; ++i) {
    TupleTableSlot *const row = target->incoming[i];
    attempt->current.ordinal = ordinals[i];
    ResetPerTupleExprContext(estate);
    List *const recheck = insert_index_entries(leaf->entries, estate, row, nullptr, false);
    if (recheck != NIL)
      note_rechecks(attempt, target->owner, leaf->relation, recheck, row->tts_tid);
    if (leaf->foreign_keys != nullptr)
      note_foreign_keys(attempt, leaf->foreign_keys, nullptr, row);
  }
  return true;
}

void end_after_query(Target *target) {
  if (target->after_query) {
    AfterTriggerEndQuery(target->estate);
    target->after_query = false;
  }
}

} // namespace seal_sync::apply
