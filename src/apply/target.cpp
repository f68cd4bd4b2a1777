// See target.hpp.
#include <tuple>

#include "apply/target.hpp"

#include "apply/attempt.hpp"
#include "apply/foreign_keys.hpp"
#include "apply/index_entries.hpp"
#include "apply/trigger_filter.hpp"

extern "C" {
#include "executor/execPartition.h"
#include "optimizer/optimizer.h"
#include "partitioning/partdesc.h"
}

namespace seal_sync::apply {

namespace {

// ---- a relation that holds rows -----------------------------------------------------------------

/// Leaf columns by name: attribute numbers of partitions differ (trap T24).
AttrNumber *map_to_root(Relation leaf, Relation root) {
  const TupleDesc leaf_desc = RelationGetDescr(leaf);
  const TupleDesc root_desc = RelationGetDescr(root);
  auto *map = static_cast<AttrNumber *>(palloc0(sizeof(AttrNumber) * leaf_desc->natts));
  for (int i = 0; i < leaf_desc->natts; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(leaf_desc, i);
    for (int j = 0; j < root_desc->natts && !attribute->attisdropped; ++j)
      if (!TupleDescAttr(root_desc, j)->attisdropped &&
          strcmp(NameStr(attribute->attname), NameStr(TupleDescAttr(root_desc, j)->attname)) == 0)
        map[i] = static_cast<AttrNumber>(j + 1);
  }
  return map;
}

/// A lock that is held already, once more for what outlives the segment: a subtransaction that is rolled
/// back gives up its own locks.
void keep_lock(Oid relation, ResourceOwner keeper) {
  const ResourceOwner owner = CurrentResourceOwner;
  CurrentResourceOwner = keeper;
  LockRelationOid(relation, RowExclusiveLock);
  CurrentResourceOwner = owner;
}

void open_lookup(Leaf *leaf, Oid key_index) {
  leaf->key_index = index_open(key_index, RowExclusiveLock);
  const Relation index = leaf->key_index;
  leaf->key_count = IndexRelationGetNumberOfKeyAttributes(index);
  for (int i = 0; i < leaf->key_count; ++i)
    leaf->key_attnos[i] = index->rd_index->indkey.values[i];
  InitDirtySnapshot(leaf->dirty);
  leaf->cursor = pg::open_key_cursor(leaf->relation, index, &leaf->dirty, false);
}

/// The unique and exclusion constraints beside the primary key, and the columns of those that are
/// checked with each row: a change of such a column may meet a value that is only on its way out.
void note_unique_columns(Leaf *leaf, Oid key_index) {
  for (int i = 0; i < leaf->result->ri_NumIndices; ++i) {
    const Relation index = leaf->result->ri_IndexRelationDescs[i];
    const IndexInfo *const info = leaf->result->ri_IndexRelationInfo[i];
    if (RelationGetRelid(index) == key_index || (!info->ii_Unique && info->ii_ExclusionOps == nullptr))
      continue;
    leaf->has_other_unique = true;
    if (!index->rd_index->indimmediate)
      continue;
    for (int k = 0; k < info->ii_NumIndexKeyAttrs; ++k)
      if (info->ii_IndexAttrNumbers[k] != 0)
        leaf->unique_columns =
            bms_add_member(leaf->unique_columns,
                           info->ii_IndexAttrNumbers[k] - FirstLowInvalidHeapAttributeNumber);
    pull_varattnos(reinterpret_cast<Node *>(info->ii_Expressions), 1, &leaf->unique_columns);
    pull_varattnos(reinterpret_cast<Node *>(info->ii_Predicate), 1, &leaf->unique_columns);
  }
}

void fill_leaf(Target *target, Leaf *leaf, ResultRelInfo *result) {
  leaf->context = target->context;
  leaf->relation = result->ri_RelationDesc;
  leaf->oid = RelationGetRelid(leaf->relation);
  leaf->result = result;
  leaf->entries = open_index_entries(result);
  if (leaf->relation->rd_rel->relkind != RELKIND_RELATION)
    ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
            errmsg("cannot apply rows to \"%s\": it is not a table",
                   RelationGetRelationName(leaf->relation)));
  if (leaf->relation != target->relation)
    keep_lock(leaf->oid, target->locks);
  // The lock is there now: roles that changed before it must be seen (the fence of a role change
  // waits for whoever got his lock earlier).
  config::refresh();
  leaf->rules = config::version() + 1; // not looked up yet
  const config::Table *const rule = rule_of(leaf);
  if (rule == nullptr || !rule->usable)
    schema_changed(target->descriptor, "It is not registered any more, or has lost its primary key.");
  if (leaf->relation != target->relation)
    leaf->root_attnos = map_to_root(leaf->relation, target->relation);
  result->ri_TrigDesc = replica_triggers(result->ri_TrigDesc);
  const TupleConstr *const constraints = RelationGetDescr(leaf->relation)->constr;
  leaf->has_stored_generated = constraints != nullptr && constraints->has_generated_stored;
  leaf->existing = table_slot_create(leaf->relation, nullptr);
  leaf->next = table_slot_create(leaf->relation, nullptr);
  open_lookup(leaf, rule->key_index);
  note_unique_columns(leaf, rule->key_index);
  leaf->foreign_keys = find_foreign_keys(leaf->relation);
}

void close_leaf(Leaf *leaf) {
  if (leaf->bulk != nullptr)
    FreeBulkInsertState(leaf->bulk);
  ExecDropSingleTupleTableSlot(leaf->existing);
  ExecDropSingleTupleTableSlot(leaf->next);
  pg::close_key_cursor(leaf->cursor);
  index_close(leaf->key_index, NoLock);
}

// ---- the described table ------------------------------------------------------------------------

void open_decoders(Session *session, Target *target) {
  const Descriptor *const descriptor = target->descriptor;
  const TupleDesc desc = RelationGetDescr(target->relation);
  target->decoders =
      static_cast<ValueDecoder *>(palloc0(sizeof(ValueDecoder) * descriptor->column_count));
  target->sent = static_cast<bool *>(palloc0(sizeof(bool) * desc->natts));
  for (int i = 0; i < descriptor->column_count; ++i) {
    const SentColumn &column = descriptor->columns[i];
    if (column.attno == 0)
      continue;
    const Form_pg_attribute attribute = TupleDescAttr(desc, column.attno - 1);
    init_decoder(&target->decoders[i], column.cls, column.width, attribute->atttypid,
                 attribute->atttypmod, session->encoding);
  }
}

/// Columns that exist only here fill themselves.
void open_defaults(Target *target) {
  const TupleDesc desc = RelationGetDescr(target->relation);
  target->default_attnos = static_cast<AttrNumber *>(palloc(sizeof(AttrNumber) * desc->natts));
  target->defaults = static_cast<ExprState **>(palloc(sizeof(ExprState *) * desc->natts));
  for (int i = 0; i < desc->natts; ++i) {
    const Form_pg_attribute attribute = TupleDescAttr(desc, i);
    bool sent = attribute->attisdropped || attribute->attgenerated != '\0';
    for (int j = 0; j < target->descriptor->column_count && !sent; ++j)
      sent = target->descriptor->columns[j].attno == attribute->attnum;
    if (sent)
      continue;
    auto *expression = reinterpret_cast<Expr *>(build_column_default(target->relation, i + 1));
    if (expression == nullptr)
      continue;
    target->default_attnos[target->default_count] = attribute->attnum;
    target->defaults[target->default_count] = ExecPrepareExpr(expression, target->estate);
    target->default_count += 1;
  }
}

} // namespace

Target *open_target(Attempt *attempt, Descriptor *descriptor) {
  Session *const session = attempt->session;
  auto *target = static_cast<Target *>(palloc0(sizeof(Target)));
  target->number = descriptor->number;
  target->context = CurrentMemoryContext;
  target->descriptor = descriptor;
  target->locks = attempt->owner;
  target->relation = open_described(session, descriptor, RowExclusiveLock);
  keep_lock(RelationGetRelid(target->relation), target->locks);
  config::refresh();
  recheck_descriptor(session, descriptor, RelationGetRelid(target->relation));
  target->owner = target->relation->rd_rel->relowner;
  // Functions that are IMMUTABLE by name run already here, when defaults and index expressions are
  // simplified: as the owner, like all code of the table's.
  const OwnerScope scope = become_owner(target->owner);

  target->estate = CreateExecutorState();
  target->updated_columns = pg::init_range_table(target->estate, target->relation);
  target->result = makeNode(ResultRelInfo);
  InitResultRelInfo(target->result, target->relation, 1, nullptr, 0);
  target->estate->es_opened_result_relations =
      lappend(target->estate->es_opened_result_relations, target->result);
  pg::init_epq(&target->epq, target->estate);
  open_decoders(session, target);
  open_defaults(target);

  if (target->relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE) {
    target->modify = makeNode(ModifyTableState);
    target->modify->ps.state = target->estate;
    target->modify->operation = CMD_INSERT;
    target->modify->resultRelInfo = target->result;
    target->modify->rootResultRelInfo = target->result;
    target->routing = ExecSetupPartitionTupleRouting(target->estate, target->relation);
    HASHCTL control = {};
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(Leaf);
    control.hcxt = CurrentMemoryContext;
    target->leaves =
        hash_create("seal_sync partitions", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  } else {
    ExecOpenIndices(target->result, false);
    target->only = static_cast<Leaf *>(palloc0(sizeof(Leaf)));
    fill_leaf(target, target->only, target->result);
  }
  leave_owner(scope);
  return target;
}

void close_target(Target *target) {
  for (TupleTableSlot *slot : target->incoming)
    if (slot != nullptr)
      ExecDropSingleTupleTableSlot(slot);
  EvalPlanQualEnd(&target->epq);
  if (target->only != nullptr) {
    close_leaf(target->only);
  } else {
    HASH_SEQ_STATUS status;
    hash_seq_init(&status, target->leaves);
    while (auto *leaf = static_cast<Leaf *>(hash_seq_search(&status)))
      close_leaf(leaf);
    ExecCleanupTupleRouting(target->modify, target->routing);
  }
  ExecCloseResultRelations(target->estate); // indexes, and what triggers have opened
  table_close(target->relation, NoLock);
  ExecResetTupleTable(target->estate->es_tupleTable, false);
  FreeExecutorState(target->estate);
}

TupleTableSlot *incoming_slot(Target *target, int i) {
  if (target->incoming[i] == nullptr) {
    const MemoryContext caller = MemoryContextSwitchTo(target->context); // ours is reset with each run
    target->incoming[i] = target->only != nullptr
                              ? table_slot_create(target->relation, nullptr)
                              : MakeSingleTupleTableSlot(RelationGetDescr(target->relation),
                                                         &TTSOpsVirtual);
    MemoryContextSwitchTo(caller);
  }
  return ExecClearTuple(target->incoming[i]);
}

Leaf *route(Target *target, TupleTableSlot *row) {
  if (target->only != nullptr)
    return target->only;
  const MemoryContext caller = MemoryContextSwitchTo(GetPerTupleMemoryContext(target->estate));
  ResultRelInfo *const result =
      ExecFindPartition(target->modify, target->result, target->routing, row, target->estate);
  MemoryContextSwitchTo(caller);
  const Oid oid = RelationGetRelid(result->ri_RelationDesc);
  bool found;
  auto *leaf = static_cast<Leaf *>(hash_search(target->leaves, &oid, HASH_ENTER, &found));
  if (!found) {
    const MemoryContext before = MemoryContextSwitchTo(target->context);
    *leaf = {};
    leaf->oid = oid;
    fill_leaf(target, leaf, result);
    MemoryContextSwitchTo(before);
  }
  return leaf;
}

namespace {

void key_values(const Leaf *leaf, const TupleTableSlot *row, Datum *values) {
  for (int i = 0; i < leaf->key_count; ++i) {
    const AttrNumber attno = leaf->root_attnos != nullptr ? leaf->root_attnos[leaf->key_attnos[i] - 1]
                                                          : leaf->key_attnos[i];
    values[i] = row->tts_values[attno - 1];
  }
}

} // namespace

bool find_standing(Leaf *leaf, TupleTableSlot *row) {
  Datum values[INDEX_MAX_KEYS];
  key_values(leaf, row, values);
  return pg::find_key(leaf->cursor, values, leaf->existing) && !TransactionIdIsValid(leaf->dirty.xmin) &&
         !TransactionIdIsValid(leaf->dirty.xmax);
}

bool find_existing(Leaf *leaf, TupleTableSlot *row) {
  Datum values[INDEX_MAX_KEYS];
  key_values(leaf, row, values);
  bool found = pg::find_key(leaf->cursor, values, leaf->existing);
  while (found) {
    const TransactionId busy =
        TransactionIdIsValid(leaf->dirty.xmin) ? leaf->dirty.xmin : leaf->dirty.xmax;
    if (!TransactionIdIsValid(busy))
      break;
    // Somebody's uncommitted insert or delete: wait without holding a page.
    ExecClearTuple(leaf->existing);
    pg::restart_keys(leaf->cursor);
    XactLockTableWait(busy, leaf->relation, nullptr, XLTW_None);
    found = pg::look_up_key(leaf->cursor, values, leaf->existing);
  }
  return found;
}

bool any_between(Leaf *leaf, TupleTableSlot *first, TupleTableSlot *last) {
  // Equal leading columns narrow the range, so that (cluster, number) is as good as (number).
  const Relation index = leaf->key_index;
  ScanKeyData keys[INDEX_MAX_KEYS + 1];
  int count = 0;
  for (int i = 0; i < leaf->key_count; ++i) {
    const AttrNumber attno = leaf->key_attnos[i];
    const Datum low = first->tts_values[attno - 1];
    const Datum high = last->tts_values[attno - 1];
    const Oid type = index->rd_opcintype[i];
    const Oid equal = get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber);
    ScanKeyInit(&keys[count], static_cast<AttrNumber>(i + 1), BTEqualStrategyNumber, get_opcode(equal), low);
    keys[count].sk_collation = index->rd_indcollation[i];
    if (DatumGetBool(FunctionCall2Coll(&keys[count].sk_func, index->rd_indcollation[i], low, high))) {
      count++;
      continue;
    }
    const Oid from = get_opfamily_member(index->rd_opfamily[i], type, type, BTGreaterEqualStrategyNumber);
    const Oid to = get_opfamily_member(index->rd_opfamily[i], type, type, BTLessEqualStrategyNumber);
    for (const auto &[strategy, op, argument] :
         {std::tuple{BTGreaterEqualStrategyNumber, from, low}, std::tuple{BTLessEqualStrategyNumber, to, high}}) {
      ScanKeyInit(&keys[count], static_cast<AttrNumber>(i + 1), strategy, get_opcode(op), argument);
      keys[count++].sk_collation = index->rd_indcollation[i];
    }
    break;
  }
  IndexScanDesc scan = pg::index_beginscan(leaf->relation, index, &leaf->dirty, count);
  index_rescan(scan, keys, count, nullptr, 0);
  const bool any = index_getnext_slot(scan, ForwardScanDirection, leaf->existing);
  ExecClearTuple(leaf->existing);
  index_endscan(scan);
  return any;
}

} // namespace seal_sync::apply
