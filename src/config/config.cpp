// The rules: this node, its clusters, which tables are registered, and the extension's own relations.
//
// Called by everybody through config.hpp. Invariant: a reading of the rules takes the place of the one before
// only when it is complete, and what was handed out stays valid until the transaction ends (rules.hpp).

#include "config/rules.hpp"

#include "pg/boundary.hpp"

namespace seal_sync::config {

Rules *current = nullptr;
bool rules_stale = true;

namespace {

struct OwnRelation {
  NameData name;
  Oid oid;
};

List *retired = NIL; // contexts to be freed at the end of the transaction
uint64 rules_version = 0;
uint64 invalidations = 0; // of rule tables, to notice one that arrives while they are read

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
  table_changed(relation);
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
  memset(nulls, true, sizeof nulls); // columns that an older installation of the extension does not have
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
  rules->tables = make_table_cache(context);
  HASHCTL ctl{};
  ctl.keysize = sizeof(Oid);
  ctl.entrysize = sizeof(Rule);
  ctl.hcxt = context;
  rules->rules = hash_create("seal_sync rules", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

  for_each_row("local_node", [&](Datum *values, bool *nulls) {
    rules->have_node = true;
    namestrcpy(&rules->node_name, NameStr(*DatumGetName(values[1])));
    memcpy(&rules->node_token, DatumGetUUIDP(values[2]), sizeof rules->node_token);
    if (!nulls[4] && !nulls[5])
      rules->moved = pg::moved_from(TextDatumGetCString(values[4]), DatumGetInt64(values[5]));
    if (!nulls[6])
      rules->detached = psprintf("Detached since %s%s%s.", timestamptz_to_str(DatumGetTimestampTz(values[6])),
                                 nulls[7] ? "" : ", reason: ", nulls[7] ? "" : TextDatumGetCString(values[7]));
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
        rules->have_node && rules->detached == nullptr && namestrcmp(&rules->clusters[i].primary_node, NameStr(rules->node_name)) == 0;
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
  forget_last_table();
  rules_version++;
  // Without the extension nothing will tell us when it comes.
  rules_stale = invalidations != before || !have_extension;
}

} // namespace

void retire(MemoryContext context) {
  MemoryContextSetParent(context, TopMemoryContext);
  const MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
  retired = lappend(retired, context);
  MemoryContextSwitchTo(old);
}

void ensure_rules() {
  if (rules_stale || current == nullptr)
    load_rules();
}

const Rule *find_rule(Oid relation) {
  return static_cast<const Rule *>(hash_search(current->rules, &relation, HASH_FIND, nullptr));
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

const char *detached() {
  ensure_rules();
  return current->have_node ? current->detached : nullptr;
}

bool copied() {
  ensure_rules();
  return current->have_node && current->moved == pg::Move::kCopy;
}

bool promoted() {
  ensure_rules();
  return current->have_node && current->moved == pg::Move::kPromoted;
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
