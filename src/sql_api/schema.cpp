// schema_add: table_add for every table of a schema, in one call and one transaction; and the rule by which
// tables made later are registered, too.
//
// A dry run is the first half of the real call, so what it says is what the call does. Order of locks as
// in table.cpp: all tables, by number, before our own are written. Tables are judged without a lock first,
// for one that is left out must not be locked, and those that pass a second time under it.

#include "sql_api/copies.hpp"
#include "sql_api/events.hpp"
#include "sql_api/registration.hpp"
#include "sql_api/table.hpp"

#include <algorithm>

namespace seal_sync::sql_api {

namespace {

struct Candidate {
  Oid relation = InvalidOid;
  Oid partition_of = InvalidOid; // its root in another schema, with which it goes
  Rows::Value rows_estimate;
};

/// One row of the answer.
struct Verdict {
  std::string action;
  Rows::Value cluster_by, sqlstate, message, hint;
  int cluster_attno = 0;
};

} // namespace

std::string describe(const ClusterBy &by) {
  return by.column ? "column " + quote(*by.column) : "cluster " + quote(*by.cluster);
}

void check_schema(Oid schema) {
  const Rows found = query("SELECT n.nspname, n.nspname ~ '^pg_' OR n.nspname IN ('information_schema', 'seal_sync') "
                           "FROM pg_catalog.pg_namespace n WHERE n.oid = $1",
                           {arg(schema)});
  if (found.empty())
    throw core::Error("3F000", "schema with OID " + std::to_string(schema) + " does not exist");
  if (found.boolean(0, 1))
    throw core::Error("55000", "cannot add the tables of schema \"" + found.text(0, 0) + "\"",
                      "It belongs to the system.");
}

namespace {

/// What holds or shows rows as a table does. Partitions go with their root and are no rows of the answer,
/// unless the root is elsewhere and would not be seen.
std::vector<Candidate> candidates(Oid schema) {
  const Rows rows = query(
      "SELECT c.oid, CASE WHEN c.relispartition THEN r.oid END, "
      " CASE c.relkind WHEN 'r' THEN CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END "
      "  WHEN 'p' THEN (SELECT CASE WHEN pg_catalog.bool_and(l.reltuples >= 0) IS NOT FALSE "
      "   THEN coalesce(pg_catalog.sum(l.reltuples), 0)::bigint END "
      "   FROM pg_catalog.pg_partition_tree(c.oid::pg_catalog.regclass) t "
      "   JOIN pg_catalog.pg_class l ON l.oid = t.relid WHERE t.isleaf) END "
      "FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_class r ON c.relispartition "
      " AND r.oid = pg_catalog.pg_partition_root(c.oid::pg_catalog.regclass) "
      "WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'f') "
      "AND NOT (c.relispartition AND r.relnamespace = $1) ORDER BY c.relname",
      {arg(schema)});
  std::vector<Candidate> result;
  for (size_t i = 0; i < rows.size(); i++)
    result.push_back({rows.oid(i, 0), rows.oid(i, 1), rows.rows[i][2]});
  return result;
}

std::vector<Oid> excepted_tables(FunctionCallInfo fcinfo, int number) {
  std::vector<Oid> result;
  if (PG_ARGISNULL(number))
    return result;
  Datum *elements = nullptr;
  bool *nulls = nullptr;
  int count = 0;
  pg::call([&] {
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(number), REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT, &elements, &nulls,
                      &count);
  });
  for (int i = 0; i < count; i++) {
    if (nulls[i])
      throw core::Error("22004", "argument \"except_tables\" must not hold nulls");
    result.push_back(DatumGetObjectId(elements[i]));
  }
  return result;
}

bool holds(const std::vector<Oid> &oids, Oid wanted) {
  return std::find(oids.begin(), oids.end(), wanted) != oids.end();
}

/// A name that excludes nothing is a mistake: the table meant would be added.
void check_excepted(Oid schema, const std::vector<Candidate> &tables, const std::vector<Oid> &excepted) {
  for (const Oid relation : excepted) {
    if (std::any_of(tables.begin(), tables.end(), [=](const Candidate &c) { return c.relation == relation; }))
      continue;
    const Rows name = query("SELECT n.nspname, coalesce((SELECT c.relispartition FROM pg_catalog.pg_class c "
                            " WHERE c.oid = $2), false) FROM pg_catalog.pg_namespace n WHERE n.oid = $1",
                            {arg(schema), arg(relation)});
    throw core::Error("22023",
                      "\"" + display_name(relation) + "\" cannot be left out: it is not a table of schema \"" +
                          name.text(0, 0) + "\" by itself",
                      name.boolean(0, 1) ? "A partition goes with the table that it belongs to." : "");
  }
}

/// What is to become of one table. Nothing is written.
Verdict judge(const Candidate &table, const ClusterBy &by, Oid caller) {
  Verdict verdict;
  const Rows rule = query("SELECT r.cluster_column, r.cluster FROM seal_sync.table_rule r "
                          "WHERE r.relation = $1::pg_catalog.regclass",
                          {arg(table.relation)});
  if (!rule.empty()) {
    verdict.action = "keep";
    verdict.cluster_by = describe({rule.rows[0][0], rule.rows[0][1]});
    verdict.message = "table \"" + display_name(table.relation) + "\" is already registered";
    return verdict;
  }
  if (table.partition_of != InvalidOid) {
    verdict.action = "skip";
    verdict.message = "table \"" + display_name(table.relation) + "\" is a partition of table \"" +
                      display_name(table.partition_of) + "\"";
    verdict.hint = "It is synchronized with that table.";
    return verdict;
  }
  try {
    if (!pg::call([&] { return pg::owns_relation(table.relation, caller); }))
      throw core::Error("42501", "cannot add table \"" + display_name(table.relation) + "\": you do not own it", {},
                        "Its triggers slow down its changes and can refuse them: let its owner add it.");
    verdict.cluster_attno = check_table(table.relation, by);
    verdict.action = "add";
    verdict.cluster_by = describe(by);
  } catch (const core::Error &refusal) { // not pg::Error: that one has broken the transaction
    verdict.action = "refuse";
    verdict.sqlstate = refusal.sqlstate();
    verdict.message = refusal.message();
    if (!refusal.hint().empty())
      verdict.hint = refusal.hint();
  }
  return verdict;
}

/// Registers what passes under the lock, too. Returns the tables that are now registered.
std::vector<Oid> add_all(Oid schema, const std::vector<Candidate> &tables, std::vector<Verdict> &verdicts,
                         const ClusterBy &by, Oid caller) {
  std::vector<size_t> order;
  for (size_t i = 0; i < tables.size(); i++)
    if (verdicts[i].action == "add")
      order.push_back(i);
  // By number, so that two such calls do not wait for each other in a circle.
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return tables[a].relation < tables[b].relation; });
  for (const size_t i : order)
    lock_against_writers(tables[i].relation);
  if (by.cluster)
    require_cluster(*by.cluster, true);

  std::vector<Oid> added;
  for (const size_t i : order) {
    const Oid relation = tables[i].relation;
    if (pg::call([=] { return get_rel_namespace(relation); }) != schema) {
      verdicts[i].action.clear(); // dropped or moved away while we waited
      continue;
    }
    verdicts[i] = judge(tables[i], by, caller);
    if (verdicts[i].action != "add")
      continue;
    enter_table(relation, by, verdicts[i].cluster_attno);
    added.push_back(relation);
  }
  return added;
}

} // namespace

void refuse_foreign_schema(Oid schema, Oid caller) {
  if (pg::call([=] { return pg::owns_schema(schema, caller); }))
    return;
  const Rows name = query("SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.oid = $1", {arg(schema)});
  throw core::Error("42501", "cannot add new tables of schema \"" + name.text(0, 0) + "\": you do not own it",
                    "Everybody's tables in it would be synchronized.", "Let the owner of the schema call it.");
}

static std::string schema_name(Oid schema) {
  return query("SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.oid = $1", {arg(schema)}).text(0, 0);
}

void set_schema_rule(Oid schema, const ClusterBy &by, const std::vector<Oid> &excepted, bool new_tables) {
  query("DELETE FROM seal_sync.schema_rule r USING pg_catalog.pg_namespace n WHERE n.oid = $1 AND r.schema = n.nspname",
        {arg(schema)});
  if (new_tables)
    query("INSERT INTO seal_sync.schema_rule (schema, schema_oid, cluster_column, cluster, except_tables) "
          "SELECT n.nspname, n.oid, $2, $3, $4::pg_catalog.regclass[] FROM pg_catalog.pg_namespace n WHERE n.oid = $1",
          {arg(schema), arg(by.column), arg(by.cluster), arg(excepted)});
}

namespace {

Datum text_datum(const Rows::Value &value) {
  return value ? arg(std::string_view(*value)).value : Datum{0};
}

void answer(FunctionCallInfo fcinfo, const Candidate &table, const Verdict &verdict) {
  const Rows::Value &estimate = table.rows_estimate;
  Datum values[] = {ObjectIdGetDatum(table.relation),
                    text_datum(verdict.action),
                    text_datum(verdict.cluster_by),
                    Int64GetDatum(estimate ? std::stoll(*estimate) : 0),
                    text_datum(verdict.sqlstate),
                    text_datum(verdict.message),
                    text_datum(verdict.hint)};
  bool nulls[] = {false,
                  false,
                  !verdict.cluster_by,
                  !estimate,
                  !verdict.sqlstate,
                  !verdict.message,
                  !verdict.hint};
  pg::call([&] {
    auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
  });
}

} // namespace

namespace {
std::string sentence(std::string message) {
  message[0] = static_cast<char>(pg::call([&] { return pg_toupper(static_cast<unsigned char>(message[0])); }));
  return message + ".";
}
} // namespace

void add_new_tables(const std::vector<Oid> &relations, bool made) {
  const Rows rows = query("SELECT c.oid, r.cluster_column, r.cluster FROM seal_sync.schema_rule r "
                          "JOIN pg_catalog.pg_namespace n ON n.nspname = r.schema "
                          "JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid "
                          "WHERE c.oid = ANY ($1) AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p' "
                          "AND NOT c.relispartition AND c.oid <> ALL (r.except_tables::pg_catalog.oid[]) "
                          "AND NOT EXISTS (SELECT FROM seal_sync.table_rule t WHERE t.relation = c.oid) ORDER BY 1",
                          {arg(relations)});
  for (size_t i = 0; i < rows.size(); i++) {
    const Oid relation = rows.oid(i, 0);
    const ClusterBy by{rows.rows[i][1], rows.rows[i][2]};
    int cluster_attno = 0;
    // What makes a table, or makes one fit, has locked it. Whatever has not (an index, statistics, a comment) must
    // not wait for writers on our account, nor make them wait.
    if (!pg::call([relation] {
          const Relation rel = RelationIdGetRelation(relation);
          const bool locked = RelationIsValid(rel) && CheckRelationLockedByMe(rel, ShareRowExclusiveLock, true);
          if (RelationIsValid(rel))
            RelationClose(rel);
          return locked;
        }))
      continue;
    try {
      cluster_attno = check_table(relation, by);
    } catch (const core::Error &refusal) { // whoever makes a table must not fail for our sake
      if (made)
        notice("new table \"" + display_name(relation) + "\" is not synchronized", sentence(refusal.message()),
               refusal.hint());
      continue;
    }
    lock_against_writers(relation);
    enter_table(relation, by, cluster_attno);
    rules_changed();
    file_copies({relation}); // CREATE TABLE AS, or a primary key that came late
    record_event("table_add", "table " + display_name(relation), "new table of a schema added with new_tables",
                 {{"cluster_column", by.column}, {"cluster", by.cluster}});
  }
}

void except_from_schema_rule(Oid relation) {
  query("UPDATE seal_sync.schema_rule r SET except_tables = r.except_tables || c.oid::pg_catalog.regclass "
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = $1 AND n.nspname = r.schema AND c.oid <> ALL (r.except_tables::pg_catalog.oid[])",
        {arg(relation)});
}

void forget_in_schema_rules(const std::vector<Oid> &relations, const std::vector<std::string> &schemas) {
  // A number that is gone may be given again.
  query("UPDATE seal_sync.schema_rule r SET except_tables = ARRAY(SELECT e FROM pg_catalog.unnest(r.except_tables) e "
        " WHERE e::pg_catalog.oid <> ALL ($1)) WHERE r.except_tables::pg_catalog.oid[] && $1",
        {arg(relations)});
  query("DELETE FROM seal_sync.schema_rule WHERE schema = ANY ($1::pg_catalog.name[])", {arg(schemas)});
}

void follow_schema(Oid schema) {
  query("UPDATE seal_sync.schema_rule r SET schema = n.nspname FROM pg_catalog.pg_namespace n "
        "WHERE n.oid = $1 AND r.schema_oid = n.oid AND r.schema <> n.nspname",
        {arg(schema)});
}

/// Trigger of seal_sync.schema_rule: the number of the schema is the one it has here, whatever a dump says.
SEAL_SYNC_PG_FUNCTION(seal_sync_locate_schema) {
  const auto *trigger = CALLED_AS_TRIGGER(fcinfo) ? reinterpret_cast<TriggerData *>(fcinfo->context) : nullptr;
  if (trigger == nullptr || !TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
      !TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
    ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
            errmsg("function seal_sync.locate_schema() must be fired BEFORE INSERT FOR EACH ROW"));
  const TupleDesc desc = RelationGetDescr(trigger->tg_relation);
  bool is_null;
  const Datum schema = heap_getattr(trigger->tg_trigtuple, 1, desc, &is_null);
  int columns[] = {2};
  Datum values[] = {ObjectIdGetDatum(is_null ? InvalidOid : get_namespace_oid(NameStr(*DatumGetName(schema)), true))};
  bool nulls[] = {false};
  return PointerGetDatum(heap_modify_tuple_by_cols(trigger->tg_trigtuple, desc, 1, columns, values, nulls));
}

SEAL_SYNC_FUNCTION(seal_sync_schema_add) {
  if (PG_ARGISNULL(0))
    throw core::Error("22004", "argument \"schema\" must not be null");
  const Oid schema = PG_GETARG_OID(0);
  const ClusterBy by{optional_name(fcinfo, 1), optional_name(fcinfo, 2)};
  const std::vector<Oid> excepted = excepted_tables(fcinfo, 3);
  const std::string existing = required_text(fcinfo, 4, "existing_rows");
  const bool about_new_tables = !PG_ARGISNULL(5);
  const bool dry_run = flag(fcinfo, 6, false);

  check_arguments(existing, by);
  require_node();
  pg::call([fcinfo] { InitMaterializedSRF(fcinfo, 0); });

  const AsOwner owner;
  const Spi spi;
  check_schema(schema);
  if (by.cluster)
    require_cluster(*by.cluster, false);
  const std::vector<Candidate> tables = candidates(schema);
  check_excepted(schema, tables, excepted);
  if (about_new_tables)
    refuse_foreign_schema(schema, owner.caller());
  std::vector<Verdict> verdicts;
  for (const Candidate &table : tables) {
    if (holds(excepted, table.relation)) {
      verdicts.emplace_back().action = "except";
      continue;
    }
    verdicts.push_back(judge(table, by, owner.caller()));
  }
  if (!dry_run) {
    const std::vector<Oid> added = add_all(schema, tables, verdicts, by, owner.caller());
    if (about_new_tables)
      set_schema_rule(schema, by, excepted, PG_GETARG_BOOL(5));
    if (!added.empty())
      rules_changed(); // once: every session reads all rules anew
    if (existing == "copy")
      file_copies(added);
    std::vector<std::string> names;
    for (const Oid relation : added)
      names.push_back(display_name(relation));
    EventDetail detail{{"cluster_column", by.column}, {"cluster", by.cluster}, {"existing_rows", existing},
                       {"new_tables", about_new_tables ? Rows::Value(PG_GETARG_BOOL(5) ? "yes" : "no") : Rows::Value()},
                       {"tables", names}};
    record_event("schema_add", "schema " + schema_name(schema), {}, detail);
  }
  for (size_t i = 0; i < tables.size(); i++)
    if (!verdicts[i].action.empty())
      answer(fcinfo, tables[i], verdicts[i]);
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
