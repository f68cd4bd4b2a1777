// See foreign_key_queries.hpp.
#include "apply/foreign_key_queries.hpp"

namespace seal_sync::apply {

struct ForeignKeyQueries {
  const ForeignKey *key;
  bool arrays;           // keys come as arrays; else one by one
  SPIPlanPtr find;       // outgoing: the parents that exist (and are locked); incoming: keys with children
  Oid find_owner;
  SPIPlanPtr children;   // outgoing, made when needed: keys that a row refers to
  SPIPlanPtr parents;    // incoming: the parents that exist again
  Oid parents_owner;
  SPIPlanPtr child; // incoming, made when needed
};

namespace {

// ---- the catalog --------------------------------------------------------------------------------

HeapTuple constraint_tuple(Oid constraint) {
  const HeapTuple tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
  if (!HeapTupleIsValid(tuple))
    elog(ERROR, "cache lookup failed for constraint %u", constraint);
  return tuple;
}

Form_pg_constraint form_of(HeapTuple tuple) {
  return reinterpret_cast<Form_pg_constraint>(GETSTRUCT(tuple));
}

/// The parent of a constraint when both are of the same referencing relation: one of them then stands
/// for a partition of the referenced table.
Oid above(Form_pg_constraint constraint, bool *same_child) {
  *same_child = false;
  if (!OidIsValid(constraint->conparentid))
    return InvalidOid;
  const HeapTuple tuple = constraint_tuple(constraint->conparentid);
  *same_child = form_of(tuple)->conrelid == constraint->conrelid;
  ReleaseSysCache(tuple);
  return constraint->conparentid;
}

/// Reads one constraint; `relation` is its child or, for `incoming`, its parent (maybe a partition).
bool read_constraint(Relation relation, Oid constraint, bool incoming, ForeignKey *key) {
  *key = {};
  key->constraint = constraint;
  key->incoming = incoming;
  AttrNumber child_attnos[INDEX_MAX_KEYS], parent_attnos[INDEX_MAX_KEYS];
  int set_count;
  AttrNumber set_columns[INDEX_MAX_KEYS];
  HeapTuple tuple = constraint_tuple(constraint);
  bool same_child;
  Oid upper = above(form_of(tuple), &same_child);
  if (!pg::foreign_key_enforced(form_of(tuple)) || (OidIsValid(upper) && same_child != incoming)) {
    // Outgoing: stands for a partition of the parent, the constraint above it covers it.
    // Incoming: of a partition of the child, the constraint above it covers it.
    ReleaseSysCache(tuple);
    return false;
  }
  DeconstructFkConstraintRow(tuple, &key->count, child_attnos, parent_attnos, key->parent_child,
                             key->parent_parent, key->child_child, &set_count, set_columns);
  const TupleDesc desc = RelationGetDescr(relation);
  for (int i = 0; i < key->count; ++i) {
    key->attnos[i] = incoming ? parent_attnos[i] : child_attnos[i];
    key->types[i] = TupleDescAttr(desc, key->attnos[i] - 1)->atttypid;
  }
  while (incoming && OidIsValid(upper) && same_child) { // up to the table that the child names
    ReleaseSysCache(tuple);
    tuple = constraint_tuple(upper);
    upper = above(form_of(tuple), &same_child);
  }
  DeconstructFkConstraintRow(tuple, &key->count, child_attnos, parent_attnos, key->parent_child,
                             key->parent_parent, key->child_child, &set_count, set_columns);
  const Form_pg_constraint form = form_of(tuple);
  key->name = form->conname;
  key->child = form->conrelid;
  key->parent = form->confrelid;
  key->match = form->confmatchtype;
  for (int i = 0; i < key->count; ++i) {
    namestrcpy(&key->child_columns[i], get_attname(key->child, child_attnos[i], false));
    namestrcpy(&key->parent_columns[i], get_attname(key->parent, parent_attnos[i], false));
    key->child_types[i] = get_atttype(key->child, child_attnos[i]);
    key->parent_types[i] = get_atttype(key->parent, parent_attnos[i]);
  }
  ReleaseSysCache(tuple);
  return true;
}

// ---- SQL ----------------------------------------------------------------------------------------

char *quoted_relation(Oid relation) {
  return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), get_rel_name(relation));
}

/// ONLY keeps inheritance children out; partitions belong to it.
const char *only(Oid relation) {
  return get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ";
}

/// "pg_catalog.unnest($1, $2) WITH ORDINALITY AS k (c1, c2, n)", or one key as parameters.
void append_keys(StringInfo sql, const ForeignKeyQueries *queries) {
  const int count = queries->key->count;
  if (!queries->arrays) {
    appendStringInfoString(sql, "(SELECT ");
    for (int i = 1; i <= count; ++i)
      appendStringInfo(sql, "$%d AS c%d, ", i, i);
    appendStringInfoString(sql, "1::pg_catalog.int8 AS n) AS k");
    return;
  }
  appendStringInfoString(sql, "ROWS FROM (");
  for (int i = 1; i <= count; ++i)
    appendStringInfo(sql, "%spg_catalog.unnest($%d)", i == 1 ? "" : ", ", i);
  appendStringInfoString(sql, ") WITH ORDINALITY AS k (");
  for (int i = 1; i <= count; ++i)
    appendStringInfo(sql, "c%d, ", i);
  appendStringInfoString(sql, "n)");
}

void append_equal(StringInfo sql, const char *left, Oid left_type, Oid op, const char *right, Oid right_type,
                  bool first) {
  appendStringInfoString(sql, first ? " WHERE " : " AND ");
  generate_operator_clause(sql, left, left_type, op, right, right_type);
}

/// The keys whose parent exists; with a lock on it where `lock`.
char *parents_query(const ForeignKeyQueries *queries, bool lock) {
  const ForeignKey *const key = queries->key;
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfo(&sql, "SELECT k.n FROM %s%s AS x, ", only(key->parent), quoted_relation(key->parent));
  append_keys(&sql, queries);
  for (int i = 0; i < key->count; ++i)
    append_equal(&sql, psprintf("x.%s", quote_identifier(NameStr(key->parent_columns[i]))),
                 key->parent_types[i], key->incoming ? key->parent_parent[i] : key->parent_child[i],
                 psprintf("k.c%d", i + 1), key->types[i], i == 0);
  if (lock)
    appendStringInfoString(&sql, " FOR KEY SHARE OF x");
  return sql.data;
}

/// The keys that a child refers to.
char *children_query(const ForeignKeyQueries *queries) {
  const ForeignKey *const key = queries->key;
  StringInfoData sql;
  initStringInfo(&sql);
  appendStringInfoString(&sql, "SELECT k.n FROM ");
  append_keys(&sql, queries);
  appendStringInfo(&sql, " WHERE EXISTS (SELECT FROM %s%s AS x", only(key->child),
                   quoted_relation(key->child));
  for (int i = 0; i < key->count; ++i)
    append_equal(&sql, psprintf("k.c%d", i + 1), key->types[i],
                 key->incoming ? key->parent_child[i] : key->child_child[i],
                 psprintf("x.%s", quote_identifier(NameStr(key->child_columns[i]))), key->child_types[i],
                 i == 0);
  appendStringInfoChar(&sql, ')');
  return sql.data;
}

Oid owner_of(Oid relation) {
  const HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
  if (!HeapTupleIsValid(tuple))
    elog(ERROR, "cache lookup failed for relation %u", relation);
  const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
  ReleaseSysCache(tuple);
  return owner;
}

struct Scope {
  Oid user;
  int context;
};

Scope become(Oid owner) {
  Scope scope;
  GetUserIdAndSecContext(&scope.user, &scope.context);
  SetUserIdAndSecContext(owner, scope.context | SECURITY_LOCAL_USERID_CHANGE |
                                    SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
  return scope;
}

SPIPlanPtr prepare(const ForeignKeyQueries *queries, const char *sql, Oid owner) {
  const ForeignKey *const key = queries->key;
  Oid types[INDEX_MAX_KEYS];
  for (int i = 0; i < key->count; ++i)
    types[i] = queries->arrays ? get_array_type(key->types[i]) : key->types[i];
  const Scope scope = become(owner);
  const SPIPlanPtr plan = SPI_prepare(sql, key->count, types);
  if (plan == nullptr)
    elog(ERROR, "could not prepare the check of a foreign key: %s", SPI_result_code_string(SPI_result));
  SetUserIdAndSecContext(scope.user, scope.context);
  return plan;
}

/// Sets hit[n - 1] for each n that the query returns.
void execute(SPIPlanPtr plan, Oid owner, Datum *arguments, int count, bool *hit) {
  memset(hit, false, sizeof(bool) * static_cast<std::size_t>(count));
  const Scope scope = become(owner);
  if (SPI_execute_plan(plan, arguments, nullptr, false, 0) != SPI_OK_SELECT)
    elog(ERROR, "could not check a foreign key");
  for (uint64 i = 0; i < SPI_processed; ++i) {
    bool is_null;
    const int64 n =
        DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &is_null));
    if (n >= 1 && n <= count)
      hit[n - 1] = true;
  }
  SPI_freetuptable(SPI_tuptable);
  SetUserIdAndSecContext(scope.user, scope.context);
}

} // namespace

ForeignKey *list_foreign_keys(Relation relation, int *count) {
  // Copies: reading catalogs may rebuild the relcache entry and free what it holds.
  List *const outgoing = static_cast<List *>(copyObjectImpl(RelationGetFKeyList(relation)));
  const TriggerDesc *const triggers = CopyTriggerDesc(relation->trigdesc);
  const int most = list_length(outgoing) + (triggers != nullptr ? triggers->numtriggers : 0);
  *count = 0;
  if (most == 0)
    return nullptr;
  auto *keys = static_cast<ForeignKey *>(palloc(sizeof(ForeignKey) * most));
  ListCell *cell;
  foreach (cell, outgoing)
    if (read_constraint(relation, static_cast<ForeignKeyCacheInfo *>(lfirst(cell))->conoid, false, &keys[*count]))
      *count += 1;
  // There is no list of referencing constraints; their triggers on this relation know them.
  for (int i = 0; triggers != nullptr && i < triggers->numtriggers; ++i) {
    const Trigger &trigger = triggers->triggers[i];
    if (RI_FKey_trigger_type(trigger.tgfoid) != RI_TRIGGER_PK)
      continue;
    bool known = false;
    for (int k = 0; k < *count && !known; ++k)
      known = keys[k].incoming && keys[k].constraint == trigger.tgconstraint;
    if (!known && read_constraint(relation, trigger.tgconstraint, true, &keys[*count]))
      *count += 1;
  }
  return keys;
}

bool has_period_foreign_key(Relation relation) {
  bool found = false;
  ListCell *cell;
  List *const keys = static_cast<List *>(copyObjectImpl(RelationGetFKeyList(relation)));
  foreach (cell, keys) {
    const HeapTuple tuple = constraint_tuple(static_cast<ForeignKeyCacheInfo *>(lfirst(cell))->conoid);
    found = found || pg::foreign_key_has_period(form_of(tuple));
    ReleaseSysCache(tuple);
  }
  return found;
}

int keys_at_once(const ForeignKey *key) {
  for (int i = 0; i < key->count; ++i)
    if (!OidIsValid(get_array_type(key->types[i]))) // an array has no array type
      return 1;
  return kForeignKeyChunk;
}

ForeignKeyQueries *prepare_foreign_key_queries(const ForeignKey *key) {
  auto *queries = static_cast<ForeignKeyQueries *>(palloc0(sizeof(ForeignKeyQueries)));
  queries->key = key;
  queries->arrays = keys_at_once(key) > 1;
  queries->parents_owner = owner_of(key->parent);
  if (key->incoming) {
    queries->find_owner = owner_of(key->child);
    queries->find = prepare(queries, children_query(queries), queries->find_owner);
    queries->parents = prepare(queries, parents_query(queries, false), queries->parents_owner);
  } else {
    queries->find_owner = queries->parents_owner;
    queries->find = prepare(queries, parents_query(queries, true), queries->find_owner);
  }
  return queries;
}

const ForeignKey *queries_key(const ForeignKeyQueries *queries) { return queries->key; }

int queries_chunk(const ForeignKeyQueries *queries) { return keys_at_once(queries->key); }

void check_foreign_keys(ForeignKeyQueries *queries, Datum **columns, int count, bool outdated, bool *good) {
  const ForeignKey *const key = queries->key;
  Datum arguments[INDEX_MAX_KEYS];
  for (int i = 0; i < key->count; ++i) {
    if (!queries->arrays) {
      arguments[i] = columns[i][0];
      continue;
    }
    int16 length;
    bool by_value;
    char align;
    get_typlenbyvalalign(key->types[i], &length, &by_value, &align);
    arguments[i] = PointerGetDatum(construct_array(columns[i], count, key->types[i], length, by_value, align));
  }
  bool hit[kForeignKeyChunk];
  execute(queries->find, queries->find_owner, arguments, count, hit);
  bool any = false; // that may be violated
  for (int i = 0; i < count; ++i)
    any = any || hit[i] == key->incoming;
  bool there[kForeignKeyChunk] = {};
  if (!key->incoming) {
    const Oid owner = outdated && any ? owner_of(key->child) : InvalidOid;
    if (OidIsValid(owner) && queries->children == nullptr)
      queries->children = prepare(queries, children_query(queries), owner);
    if (OidIsValid(owner))
      execute(queries->children, owner, arguments, count, there);
    for (int i = 0; i < count; ++i)
      good[i] = hit[i] || (OidIsValid(owner) && !there[i]);
    return;
  }
  if (any)
    execute(queries->parents, queries->parents_owner, arguments, count, there);
  for (int i = 0; i < count; ++i)
    good[i] = !hit[i] || there[i];
}

bool find_child(ForeignKeyQueries *queries, const Datum *key, const char *const *columns, int count,
                Datum *values) {
  const ForeignKey *const of = queries->key;
  if (queries->child == nullptr) {
    StringInfoData sql;
    initStringInfo(&sql);
    for (int i = 0; i < count; ++i)
      appendStringInfo(&sql, "%s x.%s", i == 0 ? "SELECT" : ",", quote_identifier(columns[i]));
    appendStringInfo(&sql, " FROM %s%s AS x", only(of->child), quoted_relation(of->child));
    for (int i = 0; i < of->count; ++i)
      append_equal(&sql, psprintf("$%d", i + 1), of->types[i], of->parent_child[i],
                   psprintf("x.%s", quote_identifier(NameStr(of->child_columns[i]))), of->child_types[i], i == 0);
    Oid types[INDEX_MAX_KEYS];
    memcpy(types, of->types, sizeof(Oid) * static_cast<std::size_t>(of->count));
    const Scope scope = become(queries->find_owner);
    queries->child = SPI_prepare(sql.data, of->count, types);
    if (queries->child == nullptr)
      elog(ERROR, "could not prepare the search for a child: %s", SPI_result_code_string(SPI_result));
    SetUserIdAndSecContext(scope.user, scope.context);
  }
  const Scope scope = become(queries->find_owner);
  Datum arguments[INDEX_MAX_KEYS];
  memcpy(arguments, key, sizeof(Datum) * static_cast<std::size_t>(of->count));
  if (SPI_execute_plan(queries->child, arguments, nullptr, false, 1) != SPI_OK_SELECT)
    elog(ERROR, "could not search for a child");
  bool found = SPI_processed == 1;
  for (int i = 0; i < count && found; ++i) {
    bool is_null;
    values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &is_null);
    found = !is_null;
  }
  SetUserIdAndSecContext(scope.user, scope.context);
  return found;
}

void free_foreign_key_queries(ForeignKeyQueries *queries) {
  SPI_freeplan(queries->find);
  for (const SPIPlanPtr plan : {queries->parents, queries->children, queries->child})
    if (plan != nullptr)
      SPI_freeplan(plan);
  pfree(queries);
}

} // namespace seal_sync::apply
