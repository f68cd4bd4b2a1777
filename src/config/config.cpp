// See config.hpp.
//
// The cache is one memory context per generation of the rules. A generation that has become stale is
// not freed before the transaction ends, so a pointer handed out stays good for its transaction even
// when a trigger fired in between has refreshed the cache.

#include "config/config.hpp"

#include "pg/boundary.hpp"

namespace seal_sync::config {

namespace {

struct OwnRelation {
  NameData name;
  Oid oid;
};

struct Rule {
  Oid relation; // hash key
  NameData cluster_column;
  const Cluster *cluster;
};

struct TableEntry {
  Oid relation; // hash key
  Table *table; // NULL: not registered
  MemoryContext context; // of the table
  bool stale;
};

} // namespace

/// One slot of a table's direct-mapped memo from value bytes to cluster.
struct ClusterMemo {
  uint32 hash;
  uint8 size; // 0: empty
  uint8 bytes[46];
  const Cluster *cluster;
};

namespace {

constexpr int kMemoSlots = 64;

/// One reading of the rules, in a memory context of its own.
struct Rules {
  MemoryContext context;
  bool have_node;
  NameData node_name;
  pg_uuid_t node_token;
  Cluster *clusters;
  int cluster_count;
  HTAB *rules;  // Rule by relation
  HTAB *tables; // TableEntry by relation, filled when asked for
};

Rules *current = nullptr;
List *retired = NIL; // contexts to be freed at the end of the transaction
bool rules_stale = true;
uint64 rules_version = 0;
uint64 invalidations = 0; // of rule tables, to notice one that arrives while they are read
Oid last_relation = InvalidOid;
Table *last_table = nullptr;

constexpr int kMaxOwn = 48;
OwnRelation own[kMaxOwn];
int own_used = 0;
Oid segments[kSegments];

const char *const kRuleTables[] = {"local_node", "peer", "cluster", "cluster_state", "table_rule"};

bool is_rule_table(const char *name) noexcept {
  for (const char *rule_table : kRuleTables)
    if (strcmp(name, rule_table) == 0)
      return true;
  return false;
}

/// Invalidations arrive anywhere, also in the middle of building an entry: only flags are set.
void on_relcache_invalidation(Datum, Oid relation) noexcept {
  if (relation == InvalidOid) {
    rules_stale = true;
    invalidations++;
    own_used = 0;
    memset(segments, 0, sizeof segments);
    return;
  }
  for (int i = 0; i < own_used; i++)
    if (own[i].oid == relation) {
      if (is_rule_table(NameStr(own[i].name))) {
        rules_stale = true;
        invalidations++;
      }
      own[i] = own[--own_used]; // it may just have been dropped with the extension
      memset(segments, 0, sizeof segments);
      return;
    }
  if (current != nullptr) {
    auto *entry = static_cast<TableEntry *>(hash_search(current->tables, &relation, HASH_FIND, nullptr));
    if (entry != nullptr)
      entry->stale = true;
    if (relation == last_relation)
      last_relation = InvalidOid;
  }
}

void on_transaction_end(XactEvent event, void *) {
  switch (event) {
  case XACT_EVENT_COMMIT:
  case XACT_EVENT_ABORT:
  case XACT_EVENT_PREPARE:
  case XACT_EVENT_PARALLEL_COMMIT:
  case XACT_EVENT_PARALLEL_ABORT: {
    ListCell *cell;
    foreach (cell, retired)
      MemoryContextDelete(static_cast<MemoryContext>(lfirst(cell)));
    list_free(retired);
    retired = NIL;
    break;
  }
  default:
    break;
  }
}

void register_callbacks() {
  static bool registered = false;
  if (registered)
    return;
  CacheRegisterRelcacheCallback(on_relcache_invalidation, static_cast<Datum>(0));
  RegisterXactCallback(on_transaction_end, nullptr);
  registered = true;
}

/// Frees a context when the transaction ends: somebody may still hold a pointer into it.
void retire(MemoryContext context) {
  MemoryContextSetParent(context, TopMemoryContext);
  const MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
  retired = lappend(retired, context);
  MemoryContextSwitchTo(old);
}

/// Calls fn(values, nulls, memory context of the rules) for each row of one of our tables, seen with a
/// catalog snapshot: committed by now, whatever the transaction's own snapshot says (trap T15).
template <typename Fn> void for_each_row(const char *name, Fn fn) {
  const Oid oid = own_relation(name);
  if (!OidIsValid(oid))
    return;
  const Relation rel = table_open(oid, AccessShareLock);
  const SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, nullptr, 0, nullptr);
  HeapTuple tuple;
  Datum values[16];
  bool nulls[16];
  while (HeapTupleIsValid(tuple = systable_getnext(scan))) {
    heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
    fn(values, nulls);
  }
  systable_endscan(scan);
  table_close(rel, AccessShareLock);
}

int text_array(Datum value, const char ***out) {
  Datum *elements;
  bool *nulls;
  int count;
  deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls,
                    &count);
  *out = static_cast<const char **>(palloc(sizeof(char *) * Max(count, 1)));
  int used = 0;
  for (int i = 0; i < count; i++)
    if (!nulls[i])
      (*out)[used++] = TextDatumGetCString(elements[i]);
  return used;
}

int name_array(Datum value, NameData **out) {
  Datum *elements;
  bool *nulls;
  int count;
  deconstruct_array(DatumGetArrayTypeP(value), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &elements,
                    &nulls, &count);
  *out = static_cast<NameData *>(palloc(sizeof(NameData) * Max(count, 1)));
  int used = 0;
  for (int i = 0; i < count; i++)
    if (!nulls[i])
      namestrcpy(&(*out)[used++], NameStr(*DatumGetName(elements[i])));
  return used;
}

Cluster *cluster_named(const Rules *rules, const char *name) {
  for (int i = 0; i < rules->cluster_count; i++)
    if (strcmp(NameStr(rules->clusters[i].name), name) == 0)
      return &rules->clusters[i];
  return nullptr;
}

/// Reads the rules and puts them in place of the old ones only when all has been read: an error half
/// way (a lock time-out, a cancel) must not leave a backend that takes tables for unregistered.
void load_rules() {
  register_callbacks();
  for (const char *name : kRuleTables)
    (void)own_relation(name); // known beforehand, so that their invalidations are recognized
  const uint64 before = invalidations;
  const bool have_extension = OidIsValid(own_relation("cluster"));

  const MemoryContext context =
      AllocSetContextCreate(CurrentMemoryContext, "seal_sync rules", ALLOCSET_DEFAULT_SIZES);
  const MemoryContext old = MemoryContextSwitchTo(context);
  auto *rules = static_cast<Rules *>(palloc0(sizeof(Rules)));
  rules->context = context;
  HASHCTL ctl{};
  ctl.keysize = sizeof(Oid);
  ctl.entrysize = sizeof(TableEntry);
  ctl.hcxt = context;
  rules->tables = hash_create("seal_sync tables", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
  ctl.entrysize = sizeof(Rule);
  rules->rules = hash_create("seal_sync rules", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

  for_each_row("local_node", [&](Datum *values, bool *) {
    rules->have_node = true;
    namestrcpy(&rules->node_name, NameStr(*DatumGetName(values[1])));
    memcpy(&rules->node_token, DatumGetUUIDP(values[2]), sizeof rules->node_token);
  });
  int count = 0;
  for_each_row("cluster", [&](Datum *, bool *) { count++; });
  rules->clusters = static_cast<Cluster *>(palloc0(sizeof(Cluster) * static_cast<size_t>(Max(count, 1))));
  for_each_row("cluster", [&](Datum *values, bool *nulls) {
    if (rules->cluster_count == count)
      return;
    Cluster *cluster = &rules->clusters[rules->cluster_count++];
    namestrcpy(&cluster->name, NameStr(*DatumGetName(values[0])));
    cluster->id = DatumGetInt32(values[1]);
    cluster->match_count = text_array(values[2], &cluster->match_values);
    namestrcpy(&cluster->primary_node, NameStr(*DatumGetName(values[3])));
    cluster->standby_count = nulls[4] ? -1 : name_array(values[4], &cluster->standby_nodes);
  });
  for_each_row("cluster_state", [&](Datum *values, bool *) {
    if (Cluster *cluster = cluster_named(rules, NameStr(*DatumGetName(values[0])))) {
      namestrcpy(&cluster->primary_node, NameStr(*DatumGetName(values[1])));
      cluster->epoch = DatumGetInt64(values[2]);
    }
  });
  for (int i = 0; i < rules->cluster_count; i++)
    rules->clusters[i].primary_here =
        rules->have_node && namestrcmp(&rules->clusters[i].primary_node, NameStr(rules->node_name)) == 0;
  for_each_row("table_rule", [&](Datum *values, bool *nulls) {
    const Oid relation = DatumGetObjectId(values[0]);
    auto *rule = static_cast<Rule *>(hash_search(rules->rules, &relation, HASH_ENTER, nullptr));
    memset(&rule->cluster_column, 0, sizeof rule->cluster_column);
    if (!nulls[1])
      namestrcpy(&rule->cluster_column, NameStr(*DatumGetName(values[1])));
    rule->cluster = nulls[2] ? nullptr : cluster_named(rules, NameStr(*DatumGetName(values[2])));
  });
  MemoryContextSwitchTo(old);

  if (current != nullptr)
    retire(current->context);
  MemoryContextSetParent(context, TopMemoryContext);
  current = rules;
  last_relation = InvalidOid;
  rules_version++;
  // Without the extension nothing will tell us when it comes.
  rules_stale = invalidations != before || !have_extension;
}

void ensure_rules() {
  if (rules_stale || current == nullptr)
    load_rules();
}

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

const Rule *find_rule(Oid relation) {
  return static_cast<const Rule *>(hash_search(current->rules, &relation, HASH_FIND, nullptr));
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

const Cluster *cluster_by_text(const char *text, size_t size) {
  for (int i = 0; i < current->cluster_count; i++) {
    const Cluster *cluster = &current->clusters[i];
    for (int m = 0; m < cluster->match_count; m++)
      if (strlen(cluster->match_values[m]) == size && memcmp(cluster->match_values[m], text, size) == 0)
        return cluster;
  }
  return nullptr;
}

} // namespace

void refresh() {
  register_callbacks();
  AcceptInvalidationMessages();
  ensure_rules();
}

const char *local_node() {
  ensure_rules();
  return current->have_node ? NameStr(current->node_name) : nullptr;
}

bool local_token(pg_uuid_t *token) {
  ensure_rules();
  if (current->have_node)
    memcpy(token, &current->node_token, sizeof current->node_token);
  return current->have_node;
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

const Cluster *find_cluster(int32 id) {
  ensure_rules();
  for (int i = 0; i < current->cluster_count; i++)
    if (current->clusters[i].id == id)
      return &current->clusters[i];
  return nullptr;
}

const Cluster *find_cluster(const char *name) {
  ensure_rules();
  return cluster_named(current, name);
}

int cluster_count() {
  ensure_rules();
  return current->cluster_count;
}

const Cluster *cluster_at(int index) { return &current->clusters[index]; }

bool peer_exists(const char *name) {
  bool exists = false;
  for_each_row("peer", [&](Datum *values, bool *) {
    exists = exists || namestrcmp(DatumGetName(values[0]), name) == 0;
  });
  return exists;
}

bool routed_to(const Cluster *cluster, const char *peer) {
  if (!cluster->primary_here)
    return false;
  if (cluster->standby_count < 0)
    return true;
  for (int i = 0; i < cluster->standby_count; i++)
    if (strcmp(NameStr(cluster->standby_nodes[i]), peer) == 0)
      return true;
  return false;
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

void changed() {
  const Oid oid = own_relation("cluster");
  if (OidIsValid(oid))
    CacheInvalidateRelcacheByRelid(oid);
  CommandCounterIncrement();
  rules_stale = true;
}

Oid own_relation(const char *name) {
  register_callbacks();
  for (int i = 0; i < own_used; i++)
    if (strcmp(NameStr(own[i].name), name) == 0)
      return own[i].oid;
  // A schema of that name may be somebody else's: ask for the extension first (pg_net #264).
  if (!OidIsValid(get_extension_oid("seal_sync", true)))
    return InvalidOid;
  const Oid schema = get_namespace_oid("seal_sync", true);
  const Oid oid = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
  if (OidIsValid(oid) && own_used < kMaxOwn) {
    namestrcpy(&own[own_used].name, name);
    own[own_used++].oid = oid;
  }
  return oid;
}

Oid change_log_segment(int segment) {
  if (!OidIsValid(segments[segment])) {
    char name[NAMEDATALEN];
    snprintf(name, sizeof name, "change_log_%d", segment);
    segments[segment] = own_relation(name);
  }
  return segments[segment];
}

Oid extension_owner() {
  const HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(own_relation("cluster")));
  if (!HeapTupleIsValid(tuple))
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("extension \"seal_sync\" does not exist"));
  const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
  ReleaseSysCache(tuple);
  return owner;
}

uint64 version() {
  ensure_rules();
  return rules_version;
}

} // namespace seal_sync::config
