// See row_source.hpp.
#include "scan/row_source.hpp"

#include "pg/boundary.hpp"
#include "pg/key_cursor.hpp"

namespace seal_sync::scan {

namespace {

struct Leaf {
  Oid relation;
  Leaf *next;
  bool gone; // dropped or detached: its rows left the table by DDL, which is not shipped
  config::Table *table;
  Relation rel; // open while the source is open
  Relation index;
  pg::KeyCursor *cursor;
  TupleTableSlot *slot;
};

} // namespace

struct RowSource {
  Oid root;
  uint64 root_signature;
  Snapshot snapshot;
  Leaf *leaves;
  bool all_known; // every partition of the root is in `leaves`
  bool open;
};

/// pg_class.relfilenode as the snapshot saw it.
static Oid storage_under(Oid relation, Snapshot snapshot) {
  const Relation pg_class = table_open(RelationRelationId, AccessShareLock);
  ScanKeyData key;
  ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relation));
  const SysScanDesc scan = systable_beginscan(pg_class, ClassOidIndexId, true, snapshot, 1, &key);
  const HeapTuple tuple = systable_getnext(scan);
  const Oid storage = HeapTupleIsValid(tuple)
                          ? reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relfilenode
                          : InvalidOid;
  systable_endscan(scan);
  table_close(pg_class, AccessShareLock);
  return storage;
}

static Oid storage_now(Oid relation) {
  const HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
  if (!HeapTupleIsValid(tuple))
    return InvalidOid;
  const Oid storage = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relfilenode;
  ReleaseSysCache(tuple);
  return storage;
}

bool same_storage(Oid relation, Snapshot snapshot) {
  return storage_now(relation) == storage_under(relation, snapshot);
}

Footing check_footing(Oid relation, Snapshot snapshot) {
  if (!ConditionalLockRelationOid(relation, AccessShareLock))
    return Footing::kBusy;
  if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation))) {
    UnlockRelationOid(relation, AccessShareLock);
    return Footing::kGone;
  }
  if (get_rel_relkind(relation) == RELKIND_RELATION && !same_storage(relation, snapshot)) {
    UnlockRelationOid(relation, AccessShareLock);
    return Footing::kChanged;
  }
  return Footing::kSame;
}

RowSource *make_source(const config::Table *root, Snapshot snapshot) {
  auto *source = static_cast<RowSource *>(palloc0(sizeof(RowSource)));
  source->root = root->root;
  source->root_signature = root->signature;
  source->snapshot = snapshot;
  return source;
}

bool open_source(RowSource *source) {
  const Footing footing = check_footing(source->root, source->snapshot);
  if (footing != Footing::kSame)
    return false;
  const config::Table *root = config::find_table(source->root);
  if (root == nullptr || root->signature != source->root_signature) {
    UnlockRelationOid(source->root, AccessShareLock);
    return false; // its columns or key changed: what was collected may not fit any more
  }
  source->open = true;
  return true;
}

static bool open_leaf(RowSource *source, Leaf *leaf) {
  switch (check_footing(leaf->relation, source->snapshot)) {
  case Footing::kGone:
    leaf->gone = true;
    return true;
  case Footing::kSame:
    break;
  default:
    return false;
  }
  leaf->table = config::find_table(leaf->relation);
  if (leaf->table == nullptr || leaf->table->root != source->root) {
    UnlockRelationOid(leaf->relation, AccessShareLock);
    leaf->gone = true;
    return true;
  }
  if (!leaf->table->usable || !OidIsValid(leaf->table->key_index)) {
    UnlockRelationOid(leaf->relation, AccessShareLock);
    return false;
  }
  // An index built after the snapshot may lack rows that only the snapshot still sees.
  if (!same_storage(leaf->table->key_index, source->snapshot)) {
    UnlockRelationOid(leaf->relation, AccessShareLock);
    return false;
  }
  leaf->rel = table_open(leaf->relation, NoLock);
  leaf->index = index_open(leaf->table->key_index, AccessShareLock);
  leaf->slot = table_slot_create(leaf->rel, nullptr);
  leaf->cursor = pg::open_key_cursor(leaf->rel, leaf->index, source->snapshot, true);
  return true;
}

static void close_leaf(Leaf *leaf) {
  if (leaf->rel == nullptr)
    return;
  pg::close_key_cursor(leaf->cursor);
  ExecDropSingleTupleTableSlot(leaf->slot);
  index_close(leaf->index, AccessShareLock);
  table_close(leaf->rel, AccessShareLock);
  leaf->rel = nullptr;
  leaf->cursor = nullptr;
}

void close_source(RowSource *source) {
  if (!source->open)
    return;
  for (Leaf *leaf = source->leaves; leaf != nullptr; leaf = leaf->next)
    close_leaf(leaf);
  UnlockRelationOid(source->root, AccessShareLock);
  source->open = false;
}

static Leaf *leaf_of(RowSource *source, Oid relation) {
  for (Leaf *leaf = source->leaves; leaf != nullptr; leaf = leaf->next)
    if (leaf->relation == relation)
      return leaf;
  auto *leaf = static_cast<Leaf *>(MemoryContextAllocZero(GetMemoryChunkContext(source), sizeof(Leaf)));
  leaf->relation = relation;
  leaf->next = source->leaves;
  source->leaves = leaf;
  return leaf;
}

/// `ordered`: the keys asked for in this leaf ascend, as a batch's sorted keys do.
static TupleTableSlot *probe(RowSource *source, Leaf *leaf, const Datum *values, bool ordered, bool *stale) {
  if (leaf->gone)
    return nullptr;
  if (leaf->rel == nullptr) {
    const MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(source));
    const bool ok = open_leaf(source, leaf);
    MemoryContextSwitchTo(old);
    if (!ok) {
      *stale = true;
      return nullptr;
    }
    if (leaf->gone)
      return nullptr;
  }
  const bool found = ordered ? pg::find_key(leaf->cursor, values, leaf->slot)
                             : pg::look_up_key(leaf->cursor, values, leaf->slot);
  return found ? leaf->slot : nullptr;
}

static void know_all_leaves(RowSource *source) {
  if (source->all_known)
    return;
  List *relations = find_all_inheritors(source->root, NoLock, nullptr);
  ListCell *cell;
  foreach (cell, relations)
    if (get_rel_relkind(lfirst_oid(cell)) == RELKIND_RELATION)
      leaf_of(source, lfirst_oid(cell));
  list_free(relations);
  source->all_known = true;
}

TupleTableSlot *find_row(RowSource *source, const KeyGroup *group, config::Table **table, bool *stale,
                         bool *gone) {
  *gone = false;
  if (group->any_leaf) {
    know_all_leaves(source);
    for (Leaf *leaf = source->leaves; leaf != nullptr && !*stale; leaf = leaf->next) {
      TupleTableSlot *slot = probe(source, leaf, group->values, false, stale);
      if (slot != nullptr) {
        *table = leaf->table;
        return slot;
      }
      close_leaf(leaf); // one key must not hold the locks of a thousand partitions
    }
    return nullptr;
  }
  *gone = true;
  for (int i = 0; i < group->leaf_count && !*stale; i++) {
    Leaf *leaf = leaf_of(source, group->leaves[i]);
    TupleTableSlot *slot = probe(source, leaf, group->values, true, stale);
    *gone = *gone && leaf->gone;
    if (slot != nullptr) {
      *table = leaf->table;
      return slot;
    }
  }
  return nullptr;
}

} // namespace seal_sync::scan
