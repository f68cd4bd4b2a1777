// See copy_scan.hpp.
#include "scan/copy_scan.hpp"

#include "pg/boundary.hpp"
#include "scan/key_order.hpp"
#include "scan/keys.hpp"
#include "scan/row_source.hpp"

namespace seal_sync::scan {

struct CopyScan {
  MemoryContext context;
  Snapshot snapshot;
  Oid root;
  uint64 root_signature;
  List *leaves; // of the relations not finished yet, ascending

  // The place: behind `key` of `scope`.
  Oid scope;
  core::Buffer key;
  bool key_at_end; // behind all of the scope

  // The open relation, the first of `leaves`.
  MemoryContext open_context;
  Oid open;
  config::Table *table;
  Relation rel;
  Relation index;
  IndexScanDesc scan;
  TupleTableSlot *slot;
  bool given; // the slot holds the row that was given last
  ScanKeyData from;
  ScanKeyData from_columns[INDEX_MAX_KEYS];
};

CopyScan *begin_copy(const config::Table *root, Snapshot snapshot, Oid scope, core::ByteSpan key) {
  auto *scan = static_cast<CopyScan *>(palloc0(sizeof(CopyScan)));
  scan->context = CurrentMemoryContext;
  scan->snapshot = snapshot;
  scan->root = root->root;
  scan->root_signature = root->signature;
  init_buffer(&scan->key, scan->context);
  scan->key.bytes(key.data(), key.size());
  scan->scope = scope;
  scan->key_at_end = key.empty();
  List *all = find_all_inheritors(root->root, NoLock, nullptr);
  list_sort(all, list_oid_cmp);
  ListCell *cell;
  foreach (cell, all) {
    const Oid relation = lfirst_oid(cell);
    if (get_rel_relkind(relation) == RELKIND_RELATION &&
        (!OidIsValid(scope) || relation > scope || (relation == scope && !key.empty())))
      scan->leaves = lappend_oid(scan->leaves, relation);
  }
  list_free(all);
  return scan;
}

namespace {

/// (columns) > (the place): a row comparison, as the executor makes them.
void set_start(CopyScan *scan) {
  KeyOrder *order = make_key_order(scan->table);
  Datum values[INDEX_MAX_KEYS];
  core::Reader reader(scan->key.span());
  read_key(&reader, scan->table, values);
  for (int i = 0; i < order->count; i++)
    ScanKeyEntryInitialize(&scan->from_columns[i], SK_ROW_MEMBER | (i == order->count - 1 ? SK_ROW_END : 0),
                           static_cast<AttrNumber>(i + 1), BTGreaterStrategyNumber, order->types[i],
                           order->collations[i], order->compare[i].fn_oid, values[i]);
  scan->from = {};
  scan->from.sk_flags = SK_ROW_HEADER;
  scan->from.sk_attno = 1;
  scan->from.sk_strategy = BTGreaterStrategyNumber;
  scan->from.sk_argument = PointerGetDatum(scan->from_columns);
}

enum class Opened { kOpen, kGone, kStale };

Opened open_relation(CopyScan *scan, Oid relation) {
  switch (check_footing(relation, scan->snapshot)) {
  case Footing::kGone:
    return Opened::kGone;
  case Footing::kSame:
    break;
  default:
    return Opened::kStale;
  }
  scan->table = config::find_table(relation);
  if (scan->table == nullptr || scan->table->root != scan->root) {
    UnlockRelationOid(relation, AccessShareLock);
    return Opened::kGone; // detached: its rows left the table by DDL
  }
  // An index built after the snapshot may lack rows that only the snapshot still sees.
  if (!scan->table->usable || !OidIsValid(scan->table->key_index) ||
      !same_storage(scan->table->key_index, scan->snapshot)) {
    UnlockRelationOid(relation, AccessShareLock);
    return Opened::kStale;
  }
  scan->open_context = AllocSetContextCreate(scan->context, "seal_sync copied table", ALLOCSET_DEFAULT_SIZES);
  const MemoryContext old = MemoryContextSwitchTo(scan->open_context);
  scan->rel = table_open(relation, NoLock);
  scan->index = index_open(scan->table->key_index, AccessShareLock);
  scan->slot = table_slot_create(scan->rel, nullptr);
  const bool within = scan->scope == relation && !scan->key_at_end;
  scan->scan = pg::index_beginscan(scan->rel, scan->index, scan->snapshot, within ? 1 : 0);
  if (within)
    set_start(scan);
  index_rescan(scan->scan, within ? &scan->from : nullptr, within ? 1 : 0, nullptr, 0);
  MemoryContextSwitchTo(old);
  scan->open = relation;
  scan->given = false;
  return Opened::kOpen;
}

void note_place(CopyScan *scan) {
  Datum values[INDEX_MAX_KEYS];
  for (int k = 0; k < scan->table->key_count; k++) {
    bool is_null;
    values[k] = slot_getattr(scan->slot, scan->table->keys[k].attno, &is_null);
  }
  scan->scope = scan->open;
  scan->key_at_end = false;
  scan->key.size = 0;
  const MemoryContext old = MemoryContextSwitchTo(scan->open_context);
  write_key(&scan->key, scan->table, values);
  MemoryContextSwitchTo(old);
}

void close_relation(CopyScan *scan) {
  if (!OidIsValid(scan->open))
    return;
  index_endscan(scan->scan);
  ExecDropSingleTupleTableSlot(scan->slot);
  index_close(scan->index, AccessShareLock);
  table_close(scan->rel, AccessShareLock);
  MemoryContextDelete(scan->open_context);
  scan->open = InvalidOid;
}

void next_relation(CopyScan *scan) {
  scan->scope = linitial_oid(scan->leaves);
  scan->key_at_end = true;
  scan->key.size = 0;
  scan->leaves = list_delete_first(scan->leaves);
}

} // namespace

TupleTableSlot *next_copied(CopyScan *scan, config::Table **leaf, bool *stale) {
  while (scan->leaves != NIL) {
    CHECK_FOR_INTERRUPTS();
    if (!OidIsValid(scan->open)) {
      const config::Table *root = config::find_table(scan->root);
      if (root == nullptr || root->signature != scan->root_signature) {
        *stale = true;
        return nullptr;
      }
      switch (open_relation(scan, linitial_oid(scan->leaves))) {
      case Opened::kStale:
        *stale = true;
        return nullptr;
      case Opened::kGone:
        next_relation(scan);
        continue;
      case Opened::kOpen:
        break;
      }
    }
    const MemoryContext old = MemoryContextSwitchTo(scan->open_context); // a btree scan allocates lazily
    scan->given = index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot);
    MemoryContextSwitchTo(old);
    if (scan->given) {
      *leaf = scan->table;
      return scan->slot;
    }
    close_relation(scan);
    next_relation(scan);
  }
  return nullptr;
}

void pause_copy(CopyScan *scan) {
  if (OidIsValid(scan->open) && scan->given)
    note_place(scan);
  close_relation(scan);
}

CopyPlace place_of(const CopyScan *scan) {
  return {scan->scope, scan->key_at_end ? core::ByteSpan{} : scan->key.span()};
}

} // namespace seal_sync::scan
