// The row trigger: what changed, not the values.
//
// seal_sync.capture() runs AFTER each row change of a registered table, ALWAYS, as whoever changes the
// row. Anybody may execute it (trap T19): on an unregistered relation or a node without identity it
// does nothing. Apply's own writes never reach it (apply hands the executor a trigger list without
// it, trap T23); what triggers of the user write during apply does, and is captured and guarded.

#include "capture/capture.hpp"
#include "capture/guard.hpp"
#include "capture/key_buffer.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::capture {

namespace {

// Roles are re-read when a new statement begins: it has just taken its lock on the table, which is
// what a change of role waits for.
CommandId seen_command = InvalidCommandId;
SubTransactionId seen_subtransaction = InvalidSubTransactionId;

void refresh_per_statement() {
  const CommandId command = GetCurrentCommandId(false);
  const SubTransactionId sub = GetCurrentSubTransactionId();
  if (command != seen_command || sub != seen_subtransaction) {
    config::refresh();
    seen_command = command;
    seen_subtransaction = sub;
  }
}

void forget_statement(XactEvent event, void *) {
  if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE)
    seen_command = InvalidCommandId;
}

/// Whether two values of a column are surely the same, without detoasting: equal TOAST pointers, or
/// equal bytes.
bool same_image(Datum a, Datum b, const Form_pg_attribute attr) {
  if (attr->attbyval)
    return a == b;
  if (attr->attlen == -1) {
    const auto *left = reinterpret_cast<const struct varlena *>(DatumGetPointer(a));
    const auto *right = reinterpret_cast<const struct varlena *>(DatumGetPointer(b));
    const size_t size = VARSIZE_ANY(left);
    return size == VARSIZE_ANY(right) && memcmp(left, right, size) == 0;
  }
  return datumIsEqual(a, b, false, attr->attlen);
}

/// Fills mask with the changed columns, by root attribute number. Returns its size, 0: nothing changed.
size_t changed_columns(const config::Table *table, TupleDesc desc, TupleTableSlot *before,
                       TupleTableSlot *after, uint8_t *mask) {
  slot_getallattrs(before);
  slot_getallattrs(after);
  size_t size = 0;
  for (int i = 0; i < desc->natts; i++) {
    const Form_pg_attribute attr = TupleDescAttr(desc, i);
    if (attr->attisdropped || attr->attgenerated != '\0')
      continue;
    const bool null_before = before->tts_isnull[i];
    const bool null_after = after->tts_isnull[i];
    if (null_before == null_after &&
        (null_before || same_image(before->tts_values[i], after->tts_values[i], attr)))
      continue;
    const int column = table->root_attnos != nullptr ? table->root_attnos[i] - 1 : i;
    if (column < 0)
      continue;
    const size_t byte = static_cast<size_t>(column) / 8;
    while (size <= byte)
      mask[size++] = 0;
    mask[byte] = static_cast<uint8_t>(mask[byte] | (1u << (column % 8)));
  }
  return size;
}

/// Keys are the same when the key's own equality operator says so: 1.0 and 1.00 find the same row, and
/// so do 'a' and 'A' under citext or a nondeterministic collation (trap T24).
bool same_key(const config::Table *table, TupleDesc desc, TupleTableSlot *before,
              TupleTableSlot *after) {
  for (int i = 0; i < table->key_count; i++) {
    const config::KeyColumn &key = table->keys[i];
    const Form_pg_attribute attr = TupleDescAttr(desc, key.attno - 1);
    const Datum a = before->tts_values[key.attno - 1];
    const Datum b = after->tts_values[key.attno - 1];
    if (same_image(a, b, attr))
      continue;
    TypeCacheEntry *type = lookup_type_cache(key.type, TYPECACHE_EQ_OPR_FINFO);
    if (!OidIsValid(type->eq_opr_finfo.fn_oid) ||
        !DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, key.collation, a, b)))
      return false;
  }
  return true;
}

void capture_update(config::Table *table, TupleDesc desc, TupleTableSlot *before,
                    TupleTableSlot *after) {
  uint8_t mask[core::kMaxMaskBytes];
  const size_t size = changed_columns(table, desc, before, after, mask);
  const config::Cluster *before_in = config::cluster_of(table, before);
  const config::Cluster *after_in = table->constant_cluster != nullptr ? before_in : config::cluster_of(table, after);
  const config::Cluster *from = guarded_cluster(table, before_in, "update");
  const config::Cluster *to = after_in == before_in ? from : guarded_cluster(table, after_in, "update");
  if (size == 0)
    return;
  if (from == to && from != nullptr && same_key(table, desc, before, after)) {
    remember(core::ChangeKind::kUpdate, table, to, core::ByteSpan(mask, size), after);
    return;
  }
  // A changed key or cluster is a delete here and an insert there.
  if (from != nullptr)
    remember(core::ChangeKind::kDelete, table, from, {}, before);
  if (to != nullptr)
    remember(core::ChangeKind::kInsert, table, to, {}, after);
}

void require_usable(const config::Table *table) {
  if (!table->usable)
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("table \"%s\" is registered with seal_sync but its primary key or cluster column is gone",
                   get_rel_name(table->root)),
            errhint("Restore it, or call seal_sync.table_remove('%s').", get_rel_name(table->root)));
}

/// Calls fn(slot) for each live row of a relation, seen now.
template <typename Fn> void for_each_live_row(Oid relation, Fn fn) {
  const Relation rel = table_open(relation, AccessShareLock);
  const Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
  TupleTableSlot *slot = table_slot_create(rel, nullptr);
  const TableScanDesc scan = table_beginscan(rel, snapshot, 0, nullptr);
  while (table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
    CHECK_FOR_INTERRUPTS();
    fn(slot);
  }
  table_endscan(scan);
  ExecDropSingleTupleTableSlot(slot);
  UnregisterSnapshot(snapshot);
  table_close(rel, NoLock);
}

} // namespace

void init_trigger() { RegisterXactCallback(forget_statement, nullptr); }

namespace {

/// Enters each live row below `relation` that `wanted` wants and whose cluster has its primary here. mask: of the root's
/// columns; empty: the whole row.
template <typename Fn> int64 recapture_rows(Oid relation, core::ByteSpan mask, Fn wanted) {
  config::refresh();
  int64 keys = 0;
  List *relations = find_all_inheritors(relation, AccessShareLock, nullptr);
  ListCell *cell;
  foreach (cell, relations) {
    const Oid leaf = lfirst_oid(cell);
    if (get_rel_relkind(leaf) != RELKIND_RELATION)
      continue;
    config::Table *table = config::find_table(leaf);
    if (table == nullptr)
      continue;
    require_usable(table);
    for_each_live_row(leaf, [&](TupleTableSlot *row) {
      const config::Cluster *cluster = config::cluster_of(table, row);
      if (cluster != nullptr && cluster->primary_here && wanted(table, row)) {
        remember(mask.empty() ? core::ChangeKind::kWhole : core::ChangeKind::kUpdate, table, cluster, mask, row);
        keys++;
      }
    });
  }
  list_free(relations);
  return keys;
}

} // namespace

int64 recapture(Oid relation) {
  return recapture_rows(relation, {}, [](config::Table *, TupleTableSlot *) { return true; });
}

int64 recapture_columns(Oid relation, const int16 *columns, int count) {
  uint8_t mask[core::kMaxMaskBytes] = {};
  size_t size = 0;
  for (int i = 0; i < count; i++) {
    if (columns[i] <= 0 || columns[i] > static_cast<int>(8 * sizeof mask))
      continue;
    const auto column = static_cast<size_t>(columns[i] - 1);
    mask[column / 8] = static_cast<uint8_t>(mask[column / 8] | (1u << (column % 8)));
    size = Max(size, column / 8 + 1);
  }
  if (size == 0)
    return 0;
  return recapture_rows(relation, core::ByteSpan(mask, size), [](config::Table *, TupleTableSlot *) { return true; });
}

int64 recapture_values(Oid relation, const char *const *values, int count) {
  return recapture_rows(relation, {}, [&](config::Table *table, TupleTableSlot *row) {
    if (table->constant_cluster != nullptr)
      return false;
    bool is_null;
    const Datum value = slot_getattr(row, table->cluster_attno, &is_null);
    char *text = OutputFunctionCall(&table->cluster_out, value); // never null: it has a cluster
    size_t length = strlen(text);
    if (table->cluster_blank_padded)
      while (length > 0 && text[length - 1] == ' ')
        length--;
    bool found = false;
    for (int i = 0; i < count && !found; i++)
      found = strlen(values[i]) == length && memcmp(values[i], text, length) == 0;
    pfree(text);
    return found;
  });
}

} // namespace seal_sync::capture

using namespace seal_sync;

SEAL_SYNC_PG_FUNCTION(seal_sync_capture) {
  if (!CALLED_AS_TRIGGER(fcinfo))
    ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
            errmsg("function seal_sync.capture() was not called by a trigger"));
  const auto *trigger = reinterpret_cast<TriggerData *>(fcinfo->context);
  if (!TRIGGER_FIRED_AFTER(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
    ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
            errmsg("function seal_sync.capture() must be fired AFTER ROW"));

  capture::refresh_per_statement();
  config::Table *table = config::find_table(RelationGetRelid(trigger->tg_relation));
  if (table == nullptr)
    return PointerGetDatum(nullptr);
  capture::require_usable(table);

  if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event)) {
    const config::Cluster *cluster =
        capture::guarded_cluster(table, config::cluster_of(table, trigger->tg_trigslot), "insert into");
    if (cluster != nullptr)
      capture::remember(core::ChangeKind::kInsert, table, cluster, {}, trigger->tg_trigslot);
  } else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event)) {
    const config::Cluster *cluster =
        capture::guarded_cluster(table, config::cluster_of(table, trigger->tg_trigslot), "delete from");
    if (cluster != nullptr)
      capture::remember(core::ChangeKind::kDelete, table, cluster, {}, trigger->tg_trigslot);
  } else {
    capture::capture_update(table, RelationGetDescr(trigger->tg_relation), trigger->tg_trigslot,
                            trigger->tg_newslot);
  }
  return PointerGetDatum(nullptr);
}

SEAL_SYNC_PG_FUNCTION(seal_sync_capture_truncate) {
  if (!CALLED_AS_TRIGGER(fcinfo))
    ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
            errmsg("function seal_sync.truncate_guard() was not called by a trigger"));
  const auto *trigger = reinterpret_cast<TriggerData *>(fcinfo->context);
  if (!TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
    ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
            errmsg("function seal_sync.truncate_guard() must be fired BEFORE TRUNCATE"));

  config::refresh();
  const Oid relation = RelationGetRelid(trigger->tg_relation);
  config::Table *table = config::find_table(relation);
  if (table == nullptr)
    return PointerGetDatum(nullptr);
  capture::require_usable(table);
  capture::guard_truncate(table);

  // TRUNCATE shows no rows to an AFTER trigger, so the keys are taken now. It removes what is committed
  // by now, whatever the transaction's snapshot: read with a fresh one (the lock keeps writers out).
  if (trigger->tg_relation->rd_rel->relkind == RELKIND_RELATION)
    capture::for_each_live_row(relation, [&](TupleTableSlot *row) {
      const config::Cluster *cluster = config::cluster_of(table, row);
      if (cluster != nullptr && cluster->primary_here)
        capture::remember(core::ChangeKind::kDelete, table, cluster, {}, row);
    });
  return PointerGetDatum(nullptr);
}
