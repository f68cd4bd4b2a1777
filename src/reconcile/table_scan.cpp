// See table_scan.hpp.
#include "reconcile/table_scan.hpp"

#include "reconcile/canonical_value.hpp"
#include "scan/keys.hpp"
#include "scan/row_source.hpp"

namespace seal_sync::reconcile {

namespace {

struct Column {
  NameData name;
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
  return strcmp(NameStr(static_cast<const Column *>(a)->name), NameStr(static_cast<const Column *>(b)->name));
}

/// The attribute of a leaf, for each of the root's; 0: none.
AttrNumber *leaf_attnos(const ComparedTable *table, const config::Table *leaf, TupleDesc desc) {
  auto *attnos = static_cast<AttrNumber *>(palloc0(sizeof(AttrNumber) * static_cast<Size>(table->last_attno + 1)));
  for (int a = 0; a < desc->natts; a++) {
    const AttrNumber root = leaf->root_attnos == nullptr ? static_cast<AttrNumber>(a + 1) : leaf->root_attnos[a];
    if (root > 0 && root <= table->last_attno)
      attnos[root] = static_cast<AttrNumber>(a + 1);
  }
  return attnos;
}

[[noreturn]] void has_changed(Oid root) {
  ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE), errmsg("table %s was changed by DDL, or is being changed", get_rel_name(root)),
          errhint("Compare it again afterwards."));
  pg_unreachable();
}

struct LeafScan {
  const ComparedTable *table;
  config::Table *leaf;
  const config::Cluster *cluster;
  const core::RunSecret *secret;
  core::RowDigest *digest;
  AttrNumber *attnos;
  core::RowHasher *hasher;
  core::Buffer *key;
};

core::DigestedRow digested(const LeafScan &scan, const TupleTableSlot *slot) {
  const ComparedTable *table = scan.table;
  scan.hasher->begin();
  for (int i = 0; i < table->column_count; i++) {
    const Column &column = table->columns[i];
    const int at = scan.attnos[column.root_attno] - 1;
    write_canonical(scan.hasher, column.type, slot->tts_values[at], slot->tts_isnull[at]);
  }
  core::DigestedRow row;
  row.hash = scan.hasher->end();
  scan.key->size = 0;
  for (int i = 0; i < table->key_count; i++) {
    const KeyPart &part = table->keys[i];
    const Datum value = slot->tts_values[scan.attnos[part.root_attno] - 1];
    if (table->raw_key > 0)
      write_raw(scan.key, part.type, value);
    else
      collect_canonical(scan.key, part.type, value, false);
  }
  row.key = core::key_id(*scan.secret, scan.key->span(), table->raw_key > 0);
  return row;
}

void digest_leaf(const LeafScan &scan, Relation rel, Snapshot snapshot) {
  TupleTableSlot *slot = table_slot_create(rel, nullptr);
  const MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "seal_sync compared row", ALLOCSET_DEFAULT_SIZES);
  const TableScanDesc rows = table_beginscan(rel, snapshot, 0, nullptr);
  while (table_scan_getnextslot(rows, ForwardScanDirection, slot)) {
    CHECK_FOR_INTERRUPTS();
    const MemoryContext caller = MemoryContextSwitchTo(row_context);
    if (config::cluster_of(scan.leaf, slot) == scan.cluster) {
      slot_getallattrs(slot);
      core::add(*scan.digest, *scan.secret, digested(scan, slot));
    }
    MemoryContextSwitchTo(caller);
    MemoryContextReset(row_context);
  }
  table_endscan(rows);
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
    column->name = attribute->attname;
    column->root_attno = static_cast<AttrNumber>(a + 1);
    column->type = make_canonical(attribute->atttypid);
  }
  qsort(table->columns, static_cast<size_t>(table->column_count), sizeof(Column), compare_columns);
  table->key_count = root->key_count;
  for (int k = 0; k < root->key_count; k++) {
    const KeyPart part = {root->keys[k].root_attno, make_canonical(root->keys[k].type)};
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
  out->varint(static_cast<uint64>(table->column_count));
  for (int i = 0; i < table->column_count; i++) {
    out->text(NameStr(table->columns[i].name));
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
  core::Buffer row, key;
  scan::init_buffer(&row, context);
  scan::init_buffer(&key, context);
  core::RowHasher hasher;
  hasher.open(&secret, &row);
  List *relations = find_all_inheritors(table->root, AccessShareLock, nullptr);
  ListCell *cell;
  foreach (cell, relations) {
    const Oid relation = lfirst_oid(cell);
    if (get_rel_relkind(relation) != RELKIND_RELATION)
      continue;
    config::Table *leaf = config::find_table(relation);
    if (leaf == nullptr || leaf->root != table->root || !scan::same_storage(relation, snapshot))
      has_changed(table->root);
    const Relation rel = table_open(relation, NoLock);
    digest_leaf({table, leaf, cluster, &secret, digest, leaf_attnos(table, leaf, RelationGetDescr(rel)), &hasher, &key}, rel, snapshot);
    table_close(rel, NoLock);
  }
  const config::Table *now = config::find_table(table->root);
  if (now == nullptr || now->signature != table->signature)
    has_changed(table->root);
  MemoryContextSwitchTo(caller);
  MemoryContextDelete(context);
}

} // namespace seal_sync::reconcile
