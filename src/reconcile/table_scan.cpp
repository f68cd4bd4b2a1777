// See table_scan.hpp.
#include "reconcile/table_scan.hpp"

#include "core/canonical.hpp"
#include "reconcile/canonical_value.hpp"
#include "scan/keys.hpp"
#include "scan/row_source.hpp"

namespace seal_sync::reconcile {

namespace {

constexpr Size kMostKept = 1024 * 1024; // of a row's buffer

struct Column {
  const char *name; // UTF-8
  AttrNumber root_attno;
  CanonicalType *type;
};

struct KeyPart {
  AttrNumber root_attno;
  CanonicalType *type;
};

} // namespace

struct ComparedTable {
  Oid root;
  uint64 signature;
  Column *columns; // by name in the order of bytes
  int column_count;
  AttrNumber last_attno; // of the root
  KeyPart keys[INDEX_MAX_KEYS];
  int key_count;
  Size raw_key; // bytes, 0: keys are known by their hash
};

namespace {

int compare_columns(const void *a, const void *b) {
  return strcmp(static_cast<const Column *>(a)->name, static_cast<const Column *>(b)->name);
}

[[noreturn]] void has_changed(Oid root) {
  const char *name = get_rel_name(root);
  ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE), errmsg("table %s or its rules were changed", name != nullptr ? name : "(dropped)"),
          errhint("Compare it again."));
  pg_unreachable();
}

/// The attribute of a leaf, for each of the root's; 0: none.
AttrNumber *leaf_attnos(const ComparedTable *table, const config::Table *leaf, TupleDesc desc) {
  auto *attnos = static_cast<AttrNumber *>(palloc0(sizeof(AttrNumber) * static_cast<Size>(table->last_attno + 1)));
  for (int a = 0; a < desc->natts; a++) {
    const AttrNumber root = leaf->root_attnos == nullptr ? static_cast<AttrNumber>(a + 1) : leaf->root_attnos[a];
    if (root > 0 && root <= table->last_attno && !TupleDescAttr(desc, a)->attisdropped)
      attnos[root] = static_cast<AttrNumber>(a + 1);
  }
  for (int i = 0; i < table->column_count; i++)
    if (attnos[table->columns[i].root_attno] == 0)
      has_changed(table->root);
  return attnos;
}

/// The table and its partitions at any depth, as a snapshot shows them, ascending.
List *members(Oid root, Snapshot snapshot) {
  List *found = list_make1_oid(root);
  const Relation inherits = table_open(InheritsRelationId, AccessShareLock);
  for (int at = 0; at < list_length(found); at++) {
    ScanKeyData key;
    ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(list_nth_oid(found, at)));
    const SysScanDesc scan = systable_beginscan(inherits, InheritsParentIndexId, true, snapshot, 1, &key);
    for (HeapTuple tuple; HeapTupleIsValid(tuple = systable_getnext(scan));)
      found = lappend_oid(found, reinterpret_cast<Form_pg_inherits>(GETSTRUCT(tuple))->inhrelid);
    systable_endscan(scan);
  }
  table_close(inherits, AccessShareLock);
  list_sort(found, list_oid_cmp);
  return found;
}

struct LeafScan {
  const ComparedTable *table;
  config::Table *leaf;
  int32 cluster; // by id: rules may be read anew meanwhile
  const core::RunSecret *secret;
  core::RowDigest *digest;
  AttrNumber *attnos;
  core::RowHasher *hasher;
  core::Buffer *key;
  const char *column; // at hand, for errors
};

core::DigestedRow digested(LeafScan *scan, const TupleTableSlot *slot) {
  const ComparedTable *table = scan->table;
  scan->hasher->begin();
  for (int i = 0; i < table->column_count; i++) {
    const Column &column = table->columns[i];
    const int at = scan->attnos[column.root_attno] - 1;
    scan->column = column.name;
    write_canonical(scan->hasher, column.type, slot->tts_values[at], slot->tts_isnull[at]);
  }
  scan->column = nullptr;
  core::DigestedRow row;
  row.hash = scan->hasher->end();
  scan->key->size = 0;
  for (int i = 0; i < table->key_count; i++) {
    const KeyPart &part = table->keys[i];
    const int at = scan->attnos[part.root_attno] - 1;
    if (slot->tts_isnull[at])
      has_changed(table->root);
    if (table->raw_key > 0)
      write_raw(scan->key, part.type, slot->tts_values[at]);
    else
      collect_canonical(scan->key, part.type, slot->tts_values[at], false);
  }
  row.key = core::key_id(*scan->secret, scan->key->span(), table->raw_key > 0);
  return row;
}

/// One huge row must not hold its memory until the end.
void shrink(core::Buffer *buffer) {
  if (buffer->capacity <= kMostKept)
    return;
  pfree(buffer->data);
  buffer->data = nullptr;
  buffer->size = buffer->capacity = 0;
}

void tell_place(void *arg) {
  const auto *scan = static_cast<const LeafScan *>(arg);
  const char *table = get_rel_name(scan->leaf->relation);
  if (table != nullptr && scan->column != nullptr)
    errcontext("comparison of table %s, column %s", table, scan->column);
}

void digest_leaf(LeafScan *scan, Relation rel, Snapshot snapshot) {
  TupleTableSlot *slot = table_slot_create(rel, nullptr);
  const MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "seal_sync compared row", ALLOCSET_DEFAULT_SIZES);
  ErrorContextCallback place = {error_context_stack, tell_place, scan};
  error_context_stack = &place;
  const TableScanDesc rows = table_beginscan(rel, snapshot, 0, nullptr);
  while (table_scan_getnextslot(rows, ForwardScanDirection, slot)) {
    CHECK_FOR_INTERRUPTS();
    const MemoryContext caller = MemoryContextSwitchTo(row_context);
    if (const config::Cluster *cluster = config::cluster_of(scan->leaf, slot); cluster != nullptr && cluster->id == scan->cluster) {
      slot_getallattrs(slot);
      core::add(*scan->digest, *scan->secret, digested(scan, slot));
      shrink(scan->hasher->row());
    }
    MemoryContextSwitchTo(caller);
    MemoryContextReset(row_context);
  }
  table_endscan(rows);
  error_context_stack = place.previous;
  ExecDropSingleTupleTableSlot(slot);
  MemoryContextDelete(row_context);
}

} // namespace

ComparedTable *compared_table(const config::Table *root) {
  if (!root->usable)
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("table %s has no primary key now", get_rel_name(root->root)));
  auto *table = static_cast<ComparedTable *>(palloc0(sizeof(ComparedTable)));
  table->root = root->root;
  table->signature = root->signature;
  const Relation rel = table_open(root->root, AccessShareLock);
  const TupleDesc desc = RelationGetDescr(rel);
  table->columns = static_cast<Column *>(palloc0(sizeof(Column) * static_cast<Size>(Max(desc->natts, 1))));
  table->last_attno = static_cast<AttrNumber>(desc->natts);
  for (int a = 0; a < desc->natts; a++) {
    const Form_pg_attribute attribute = TupleDescAttr(desc, a);
    if (attribute->attisdropped || attribute->attgenerated != '\0')
      continue;
    Column *column = &table->columns[table->column_count++];
    column->name = utf8_name(NameStr(attribute->attname));
    column->root_attno = static_cast<AttrNumber>(a + 1);
    column->type = make_canonical(attribute->atttypid, attribute->atttypmod);
  }
  qsort(table->columns, static_cast<size_t>(table->column_count), sizeof(Column), compare_columns);
  table->key_count = root->key_count;
  for (int k = 0; k < root->key_count; k++) {
    const KeyPart part = {root->keys[k].root_attno, make_canonical(root->keys[k].type, -1)};
    table->keys[k] = part;
    const Size width = raw_width(part.type);
    table->raw_key = width > 0 && (k == 0 || table->raw_key > 0) ? table->raw_key + width : 0;
  }
  if (table->raw_key > core::kKeyIdBytes)
    table->raw_key = 0;
  table_close(rel, NoLock);
  return table;
}

void describe_compared(core::Buffer *out, const ComparedTable *table) {
  out->u32(core::canonical::kVersion);
  out->u8(GetDatabaseEncoding() == PG_SQL_ASCII ? 1 : 0); // nobody knows what its text is
  out->varint(static_cast<uint64>(table->column_count));
  for (int i = 0; i < table->column_count; i++) {
    out->text(table->columns[i].name);
    describe_canonical(out, table->columns[i].type);
  }
  out->varint(static_cast<uint64>(table->key_count));
  for (int k = 0; k < table->key_count; k++)
    for (int i = 0; i < table->column_count; i++)
      if (table->columns[i].root_attno == table->keys[k].root_attno)
        out->varint(static_cast<uint64>(i));
}

Size key_bytes(const ComparedTable *table) { return table->raw_key > 0 ? table->raw_key : core::kKeyIdBytes; }

void digest_rows(const ComparedTable *table, const config::Cluster *cluster, Snapshot snapshot, const core::RunSecret &secret, core::RowDigest *digest) {
  const MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "seal_sync comparison", ALLOCSET_DEFAULT_SIZES);
  const MemoryContext caller = MemoryContextSwitchTo(context);
  const int32 cluster_id = cluster->id;
  core::Buffer row, key;
  scan::init_buffer(&row, context);
  scan::init_buffer(&key, context);
  core::RowHasher hasher;
  hasher.open(&secret, &row);

  // All locks first. Waiting for DDL would make others wait behind us, and it would have changed what the snapshot sees.
  List *relations = members(table->root, snapshot);
  ListCell *cell;
  foreach (cell, relations)
    if (scan::check_footing(lfirst_oid(cell), snapshot) != scan::Footing::kSame)
      has_changed(table->root);
  config::refresh();
  const uint64 rules = config::version();
  const config::Table *root = config::find_table(table->root);
  const Snapshot now = RegisterSnapshot(GetLatestSnapshot());
  const bool same = root != nullptr && root->usable && root->signature == table->signature && equal(relations, members(table->root, now));
  UnregisterSnapshot(now);
  if (!same)
    has_changed(table->root);

  foreach (cell, relations) {
    const Oid relation = lfirst_oid(cell);
    const char kind = get_rel_relkind(relation);
    if (kind == RELKIND_PARTITIONED_TABLE)
      continue;
    config::Table *leaf = config::find_table(relation);
    if (kind != RELKIND_RELATION || leaf == nullptr || !leaf->usable || leaf->root != table->root)
      has_changed(table->root);
    const Relation rel = table_open(relation, NoLock);
    LeafScan scan = {table, leaf, cluster_id, &secret, digest, leaf_attnos(table, leaf, RelationGetDescr(rel)), &hasher, &key, nullptr};
    digest_leaf(&scan, rel, snapshot);
    table_close(rel, NoLock);
  }
  config::refresh();
  if (config::version() != rules) // which rows belong to the cluster may be another matter now
    has_changed(table->root);
  MemoryContextSwitchTo(caller);
  MemoryContextDelete(context);
}

} // namespace seal_sync::reconcile
