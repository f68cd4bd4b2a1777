// Registered tables as they are now: key, cluster column, partitions; and the cluster of a row.
//
// Called by everybody through config.hpp, and by config.cpp when an invalidation arrives. Invariant: a
// description is made anew once its relation was invalidated, under the rules that hold then; one that has
// been handed out stays valid until the transaction ends.

#include "config/rules.hpp"

#include "pg/boundary.hpp"

namespace seal_sync::config {

namespace {

struct TableEntry {
  Oid relation; // hash key
  Table *table; // NULL: not registered
  MemoryContext context; // of the table
  bool stale;
};
constexpr int kMemoSlots = 64;

Oid last_relation = InvalidOid; // what find_table() was asked for last
Table *last_table = nullptr;

} // namespace

/// One slot of a table's direct-mapped memo from value bytes to cluster.
struct ClusterMemo {
  uint32 hash;
  uint8 size; // 0: empty
  uint8 bytes[46];
  const Cluster *cluster;
};

namespace {

/// Fills what cluster_of() needs for the cluster column.
void prepare_cluster_column(Table *table, Relation rel) {
  const Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), table->cluster_attno - 1);
  Oid output;
  bool is_varlena;
  table->cluster_type = getBaseType(attr->atttypid);
  getTypeOutputInfo(attr->atttypid, &output, &is_varlena);
  fmgr_info_cxt(output, &table->cluster_out, CurrentMemoryContext);
  table->cluster_blank_padded = table->cluster_type == BPCHAROID;
  table->cluster_width = attr->attlen;
  table->cluster_by_value = attr->attbyval;
  table->cluster_memo = static_cast<ClusterMemo *>(palloc0(sizeof(ClusterMemo) * kMemoSlots));
}

/// VACUUM and ANALYZE invalidate a relation as DDL does; a batch must tell them apart.
uint64 signature_of(const Table *table, TupleDesc desc) {
  uint64 hash = hash_combine64(table->relation, table->root);
  const auto mix = [&](uint64 value) { hash = hash_combine64(hash, value * UINT64CONST(0x9e3779b97f4a7c15)); };
  for (int i = 0; i < desc->natts; i++) {
    const Form_pg_attribute attr = TupleDescAttr(desc, i);
    mix(attr->attisdropped);
    if (attr->attisdropped)
      continue;
    mix(DatumGetUInt64(hash_any_extended(reinterpret_cast<const unsigned char *>(NameStr(attr->attname)),
                                         static_cast<int>(strlen(NameStr(attr->attname))), 0)));
    mix(attr->atttypid);
    mix(static_cast<uint64>(attr->atttypmod));
    mix(static_cast<uint64>(attr->attgenerated));
  }
  mix(table->usable);
  mix(table->key_index);
  for (int i = 0; i < table->key_count; i++)
    mix(static_cast<uint64>(table->keys[i].attno));
  mix(static_cast<uint64>(table->cluster_attno));
  mix(table->constant_cluster == nullptr ? 0 : static_cast<uint64>(table->constant_cluster->id));
  return hash;
}

/// Describes `relation`, a leaf of `root` or root itself, in the current memory context. The caller
/// holds a lock on it. Column numbers differ between partitions (trap T24): mapped by name.
Table *build_table(Oid relation, Oid root, const Rule *rule) {
  const Relation rel = RelationIdGetRelation(relation);
  if (!RelationIsValid(rel))
    return nullptr;
  const Relation root_rel = relation == root ? rel : RelationIdGetRelation(root);
  if (!RelationIsValid(root_rel)) {
    RelationClose(rel);
    return nullptr;
  }
  auto *table = static_cast<Table *>(palloc0(sizeof(Table)));
  table->relation = relation;
  table->root = root;
  table->usable = true;

  list_free(RelationGetIndexList(rel));
  table->key_index = rel->rd_pkindex;
  list_free(RelationGetIndexList(root_rel));
  const Oid root_key = root_rel->rd_pkindex;
  const TupleDesc desc = RelationGetDescr(rel);
  const TupleDesc root_desc = RelationGetDescr(root_rel);

  if (relation != root) {
    table->root_attnos = static_cast<AttrNumber *>(palloc0(sizeof(AttrNumber) * desc->natts));
    bool identical = desc->natts == root_desc->natts;
    for (int i = 0; i < desc->natts; i++) {
      const Form_pg_attribute attr = TupleDescAttr(desc, i);
      if (attr->attisdropped)
        continue;
      for (int j = 0; j < root_desc->natts; j++)
        if (!TupleDescAttr(root_desc, j)->attisdropped &&
            namestrcmp(&attr->attname, NameStr(TupleDescAttr(root_desc, j)->attname)) == 0)
          table->root_attnos[i] = static_cast<AttrNumber>(j + 1);
      identical = identical && table->root_attnos[i] == i + 1;
    }
    if (identical)
      table->root_attnos = nullptr;
  }

  if (!OidIsValid(root_key) || !OidIsValid(table->key_index))
    table->usable = false;
  else {
    const Relation index = RelationIdGetRelation(root_key);
    table->key_count = IndexRelationGetNumberOfKeyAttributes(index);
    for (int i = 0; i < table->key_count; i++) {
      KeyColumn *key = &table->keys[i];
      key->root_attno = index->rd_index->indkey.values[i];
      key->collation = index->rd_indcollation[i];
      key->attno = key->root_attno;
      if (table->root_attnos != nullptr) {
        key->attno = InvalidAttrNumber;
        for (int a = 0; a < desc->natts; a++)
          if (table->root_attnos[a] == key->root_attno)
            key->attno = static_cast<AttrNumber>(a + 1);
      }
      if (key->attno <= 0) {
        table->usable = false;
        break;
      }
      const Form_pg_attribute attr = TupleDescAttr(desc, key->attno - 1);
      key->type = attr->atttypid;
      key->width = attr->attlen;
      key->by_value = attr->attbyval;
      key->align = attr->attalign;
    }
    RelationClose(index);
  }

  if (rule->cluster != nullptr)
    table->constant_cluster = rule->cluster;
  else {
    table->cluster_attno = get_attnum(relation, NameStr(rule->cluster_column));
    if (table->cluster_attno <= 0)
      table->usable = false;
    else
      prepare_cluster_column(table, rel);
  }
  table->signature = signature_of(table, desc);
  if (root_rel != rel)
    RelationClose(root_rel);
  RelationClose(rel);
  return table;
}

/// The registered relation that `relation` belongs to: itself or the nearest partition ancestor.
Oid registered_root(Oid relation) {
  if (find_rule(relation) != nullptr)
    return relation;
  if (!get_rel_relispartition(relation))
    return InvalidOid;
  Oid root = InvalidOid;
  List *ancestors = get_partition_ancestors(relation);
  ListCell *cell;
  foreach (cell, ancestors)
    if (find_rule(lfirst_oid(cell)) != nullptr) {
      root = lfirst_oid(cell);
      break;
    }
  list_free(ancestors);
  return root;
}

/// Describes a table anew. An invalidation by ANALYZE and the like keeps the old description.
Table *renew(TableEntry *entry, Oid relation) {
  const MemoryContext context =
      AllocSetContextCreate(CurrentMemoryContext, "seal_sync table", ALLOCSET_SMALL_SIZES);
  const MemoryContext old = MemoryContextSwitchTo(context);
  const Oid root = registered_root(relation);
  Table *table = OidIsValid(root) ? build_table(relation, root, find_rule(root)) : nullptr;
  MemoryContextSwitchTo(old);
  if (entry->table != nullptr && table != nullptr && entry->table->signature == table->signature) {
    MemoryContextDelete(context);
    return entry->table;
  }
  if (entry->context != nullptr)
    retire(entry->context);
  entry->context = nullptr;
  if (table == nullptr) {
    MemoryContextDelete(context);
    return nullptr;
  }
  MemoryContextSetParent(context, current->context);
  entry->context = context;
  return table;
}

} // namespace

HTAB *make_table_cache(MemoryContext context) {
  HASHCTL ctl{};
  ctl.keysize = sizeof(Oid);
  ctl.entrysize = sizeof(TableEntry);
  ctl.hcxt = context;
  return hash_create("seal_sync tables", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void forget_last_table() noexcept { last_relation = InvalidOid; }

void table_changed(Oid relation) noexcept {
  if (current == nullptr)
    return;
  auto *entry = static_cast<TableEntry *>(hash_search(current->tables, &relation, HASH_FIND, nullptr));
  if (entry != nullptr)
    entry->stale = true;
  if (relation == last_relation)
    last_relation = InvalidOid;
}

Table *find_table(Oid relation) {
  if (relation == last_relation && !rules_stale)
    return last_table;
  ensure_rules();
  if (!current->have_node)
    return nullptr;
  bool found;
  auto *entry = static_cast<TableEntry *>(hash_search(current->tables, &relation, HASH_ENTER, &found));
  if (!found) {
    entry->table = nullptr;
    entry->context = nullptr;
    entry->stale = true;
  }
  if (entry->stale) {
    const Rules *const rules = current;
    Table *table = renew(entry, relation);
    if (rules_stale || current != rules) { // reading catalogs, an invalidation of the rules came in
      if (current == rules)
        entry->table = table;
      CHECK_FOR_INTERRUPTS();
      return find_table(relation);
    }
    entry->table = table;
    entry->stale = false;
  }
  last_relation = relation;
  last_table = entry->table;
  return entry->table;
}

const Cluster *cluster_of(Table *table, Datum value, bool is_null) {
  if (table->constant_cluster != nullptr)
    return table->constant_cluster;
  if (is_null)
    return nullptr;

  // Direct-mapped memo on the value's bytes: the output function is for first meetings only.
  uint8 small[sizeof(Datum)];
  const uint8 *bytes = nullptr;
  size_t size = 0;
  const int16 width = table->cluster_width;
  if (width == -1) {
    struct varlena *datum = pg_detoast_datum_packed(reinterpret_cast<struct varlena *>(DatumGetPointer(value)));
    value = PointerGetDatum(datum);
    bytes = reinterpret_cast<const uint8 *>(VARDATA_ANY(datum));
    size = VARSIZE_ANY_EXHDR(datum);
  } else if (table->cluster_by_value) {
    memcpy(small, &value, sizeof small);
    bytes = small;
    size = sizeof small;
  } else if (width > 0) {
    bytes = reinterpret_cast<const uint8 *>(DatumGetPointer(value));
    size = static_cast<size_t>(width);
  }
  ClusterMemo *slot = nullptr;
  uint32 hash = 0;
  if (bytes != nullptr && size > 0 && size <= sizeof slot->bytes) {
    hash = DatumGetUInt32(hash_any(bytes, static_cast<int>(size)));
    slot = &table->cluster_memo[hash % kMemoSlots];
    if (slot->size == size && slot->hash == hash && memcmp(slot->bytes, bytes, size) == 0)
      return slot->cluster;
  }
  char *text = OutputFunctionCall(&table->cluster_out, value);
  size_t length = strlen(text);
  if (table->cluster_blank_padded)
    while (length > 0 && text[length - 1] == ' ')
      length--;
  const Cluster *cluster = cluster_by_text(text, length);
  if (slot != nullptr) {
    slot->hash = hash;
    slot->size = static_cast<uint8>(size);
    memcpy(slot->bytes, bytes, size);
    slot->cluster = cluster;
  }
  pfree(text);
  return cluster;
}

const Cluster *cluster_of(Table *table, TupleTableSlot *slot) {
  if (table->constant_cluster != nullptr)
    return table->constant_cluster;
  bool is_null;
  const Datum value = slot_getattr(slot, table->cluster_attno, &is_null);
  return cluster_of(table, value, is_null);
}

} // namespace seal_sync::config
