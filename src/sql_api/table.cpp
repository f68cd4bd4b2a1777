// table_add and table_remove: which tables are synchronized, and what they carry for it.
//
// Whoever adds a table must own it, for its triggers slow every change of it and can refuse one.
// Order of locks: the table first, then our own tables; SHARE ROW EXCLUSIVE keeps writers out from
// before the triggers exist until the rule is committed, so no change falls between.

#include "sql_api/copies.hpp"
#include "sql_api/table.hpp"

#include "sql_api/events.hpp"
#include "sql_api/registration.hpp"
#include "sql_api/sequence.hpp"

namespace seal_sync::sql_api {

namespace {

bool may_hold_rows(Oid relation) {
  const char kind = get_rel_relkind(relation);
  return kind == RELKIND_RELATION || kind == RELKIND_PARTITIONED_TABLE;
}

/// Locks a table and its partitions against writers, for its owner only.
void lock_for_owner(Oid relation, bool needs_ownership) {
  pg::call([=] {
    const char *name = get_rel_name(relation);
    if (name == nullptr)
      ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
              errmsg("relation with OID %u does not exist", relation));
    if (needs_ownership && !pg::owns_relation(relation, GetUserId()))
      aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relation)), name);
    const bool holds_rows = may_hold_rows(relation);
    LockRelationOid(relation, holds_rows ? ShareRowExclusiveLock : AccessShareLock);
    // While we waited for the lock it may have gone, or gone to another owner.
    if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation)))
      ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation \"%s\" does not exist", name));
    if (needs_ownership && !pg::owns_relation(relation, GetUserId()))
      aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relation)), name);
    if (holds_rows) // this locks the partitions, but not the relation it is given
      list_free(find_all_inheritors(relation, ShareRowExclusiveLock, nullptr));
  });
}

[[noreturn]] void cannot_add(Oid relation, const std::string &reason, const std::string &detail = {},
                             const std::string &hint = {}) {
  throw core::Error("55000", "cannot add table \"" + display_name(relation) + "\": " + reason, detail, hint);
}

void refuse_unfit(Oid relation) {
  Oid member = relation;
  if (const std::optional<Unfit> unfit = unfit_member(relation, &member)) {
    if (member == relation)
      cannot_add(relation, unfit->reason, unfit->detail, unfit->hint);
    cannot_add(relation, "partition \"" + display_name(member) + "\" cannot be captured: " + unfit->reason,
               unfit->detail, unfit->hint);
  }
}

/// A table can be registered once: not below a registered table, nor above one.
void refuse_overlap(Oid relation) {
  for (const Oid root : registered_roots({relation}))
    if (root != relation)
      cannot_add(relation, "it is a partition of table \"" + display_name(root) + "\", which is registered",
                 "All its rows are synchronized already.");
  for (const Oid root : registered_roots(members(relation)))
    if (root != relation)
      cannot_add(relation, "its partition \"" + display_name(root) + "\" is registered by itself", {},
                 "SELECT seal_sync.table_remove(" + literal(sql_name(root)) + ") first.");
}

void refuse_without_key(Oid relation) {
  const Rows key = query("SELECT i.indimmediate, i.indisvalid, c.relam = (SELECT a.oid FROM pg_catalog.pg_am a "
                         " WHERE a.amname = 'btree'), k.conname "
                         "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
                         "LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.contype = 'p' "
                         "WHERE i.indrelid = $1 AND i.indisprimary",
                         {arg(relation)});
  if (key.empty())
    cannot_add(relation, "it has no primary key", "Changes are recorded and compared by primary key.",
               "ALTER TABLE " + sql_name(relation) + " ADD PRIMARY KEY (…), or leave the table out.");
  if (!key.boolean(0, 0))
    cannot_add(relation, "its primary key is deferrable",
               "Until the end of a transaction two rows could have the same key.",
               "ALTER TABLE " + sql_name(relation) + " DROP CONSTRAINT " + quote(key.text(0, 3)) +
                   ", ADD PRIMARY KEY (…), which is not deferrable.");
  if (!key.boolean(0, 1))
    cannot_add(relation, "its primary key is not valid", "A partition has no matching index yet.");
  const Rows generated = query("SELECT a.attname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a "
                               "ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::smallint[]) "
                               "WHERE i.indrelid = $1 AND i.indisprimary AND a.attgenerated <> '' LIMIT 1",
                               {arg(relation)});
  if (!generated.empty())
    cannot_add(relation, "its primary key contains the generated column " + quote(generated.text(0, 0)),
               "Generated columns are computed on each node and not shipped.");
  if (!key.boolean(0, 2))
    cannot_add(relation, "its primary key is not compared by plain equality",
               "A primary key WITHOUT OVERLAPS does not name one row by its values.");
}

/// The number of the cluster column.
int find_cluster_column(Oid relation, const std::string &column) {
  const Rows found = query("SELECT a.attnum, a.attgenerated, b.typcategory IN ('A', 'C', 'R') OR b.oid IN ('json'::pg_catalog.regtype, "
                           " 'jsonb'::pg_catalog.regtype, 'xml'::pg_catalog.regtype), pg_catalog.format_type(a.atttypid, NULL) "
                           "FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
                           "JOIN pg_catalog.pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END "
                           "WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
                           {arg(relation), arg(column)});
  if (!found.empty()) {
    if (found.text(0, 1) == "v")
      cannot_add(relation, "column \"" + column + "\" is a virtual generated column",
                 "Its value is not kept in the row, so that the row's cluster is not known when it changes.",
                 "Make the column STORED.");
    if (found.boolean(0, 2)) // by the rule of its schema such a table would come to refuse every row
      cannot_add(relation, "column \"" + column + "\" is of type " + found.text(0, 3) + ", which cannot name a cluster",
                 "Match values are compared with the text of the column, and that type has many texts for one value.",
                 "Use a column of type text, or leave the table out.");
    return std::stoi(found.text(0, 0));
  }
  // A child table usually follows its parent: take the type from there.
  const Rows parent = query("SELECT k.confrelid, pg_catalog.format_type(a.atttypid, a.atttypmod) "
                            "FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_attribute a "
                            "ON a.attrelid = k.confrelid AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped "
                            "WHERE k.conrelid = $1 AND k.contype = 'f' ORDER BY k.oid LIMIT 1",
                            {arg(relation), arg(column)});
  const std::string type = parent.empty() ? "text" : parent.text(0, 1);
  std::string hint = "ALTER TABLE " + sql_name(relation) + " ADD COLUMN " + quote(column) + " " + type;
  hint += parent.empty() ? ", fill it, then add the table; or give a constant cluster => '…'."
                         : ", fill it from " + sql_name(parent.oid(0, 0)) + ", then add the table.";
  throw core::Error("42703", "column \"" + column + "\" of table \"" + display_name(relation) + "\" does not exist",
                    "Every row must tell which cluster it belongs to.", hint);
}

/// Both nodes count 1, 2, 3: a key fed by a sequence names two different rows on two nodes.
void refuse_colliding_key(Oid relation, int cluster_attno, const std::string &column) {
  const Rows rows = query(
      "WITH key AS (SELECT a.attnum, a.attname, a.atttypid, a.attidentity <> '' AS identity, d.oid AS default_oid "
      " FROM pg_catalog.pg_index i "
      " CROSS JOIN LATERAL pg_catalog.generate_series(1, i.indnkeyatts) k(n) "
      " JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1] "
      " LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
      " WHERE i.indrelid = $1 AND i.indisprimary) "
      "SELECT key.attname, s.oid, EXISTS (SELECT FROM key WHERE key.attnum = $2) "
      "FROM key CROSS JOIN LATERAL ( "
      " SELECT d.objid AS oid FROM pg_catalog.pg_depend d WHERE key.identity "
      "  AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'i' "
      "  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = $1 "
      "  AND d.refobjsubid = key.attnum "
      " UNION ALL SELECT d.refobjid FROM pg_catalog.pg_depend d "
      "  WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND ( "
      "   d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = key.default_oid "
      "   OR key.default_oid IS NULL AND d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass "
      "      AND d.objid = key.atttypid)) f JOIN pg_catalog.pg_class s ON s.oid = f.oid AND s.relkind = 'S' "
      "ORDER BY key.attnum, s.oid",
      {arg(relation), int_arg(cluster_attno)});
  if (rows.empty() || rows.boolean(0, 2))
    return;
  for (size_t i = 0; i < rows.size(); i++)
    if (is_split(rows.oid(i, 1))) // one column that differs is enough
      return;
  throw core::Error("SS101", "primary key of table \"" + display_name(relation) + "\" can collide between nodes",
                    "Column \"" + rows.text(0, 0) + "\" takes numbers from sequence \"" +
                        display_name(rows.oid(0, 1)) + "\", which counts on each node by itself.",
                    "SELECT seal_sync.sequence_split(" + literal(sql_name(rows.oid(0, 1))) + "), or put " + "\"" + column +
                        "\" into the primary key.");
}

} // namespace

void check_arguments(const std::string &existing_rows, const ClusterBy &by) {
  if (existing_rows != "copy" && existing_rows != "adopt")
    throw core::Error("22023", "existing_rows cannot be \"" + existing_rows + "\"", {},
                      "\"copy\" ships every row, \"adopt\" trusts that the peer has the same rows.");
  if (by.column.has_value() == by.cluster.has_value())
    throw core::Error("22023",
                      by.column ? "both cluster_column and cluster are given"
                                : "neither cluster_column nor cluster is given",
                      "A row's cluster is told by a column, or is the same for the whole table.",
                      "Give exactly one of them.");
}

void require_cluster(const std::string &cluster, bool to_stay) {
  const std::string select = "SELECT FROM seal_sync.cluster WHERE cluster = $1";
  if (query(to_stay ? select + " FOR KEY SHARE" : select, {arg(cluster)}).empty())
    throw core::Error("42704", "cluster \"" + cluster + "\" does not exist", {},
                      "SELECT seal_sync.cluster_create(" + literal(cluster) + ", primary_node => '…') declares it.");
}

int check_table(Oid relation, const ClusterBy &by) {
  refuse_unfit(relation);
  refuse_overlap(relation);
  refuse_without_key(relation);
  if (!by.column)
    return 0;
  const int cluster_attno = find_cluster_column(relation, *by.column);
  refuse_colliding_key(relation, cluster_attno, *by.column);
  return cluster_attno;
}

void enter_table(Oid relation, const ClusterBy &by, int cluster_attno) {
  query("INSERT INTO seal_sync.table_rule (relation, cluster_column, cluster) VALUES ($1::pg_catalog.regclass, $2, $3)",
        {arg(relation), arg(by.column), arg(by.cluster)});
  remember_shape(relation, shape_of(relation, cluster_attno));
  make_triggers(relation);
}

void lock_against_writers(Oid relation) {
  pg::call([relation] {
    LockRelationOid(relation, ShareRowExclusiveLock);
    list_free(find_all_inheritors(relation, ShareRowExclusiveLock, nullptr)); // not the relation it is given
  });
}

SEAL_SYNC_FUNCTION(seal_sync_table_add) {
  if (PG_ARGISNULL(0))
    throw core::Error("22004", "argument \"relation\" must not be null");
  const Oid relation = PG_GETARG_OID(0);
  const ClusterBy by{optional_name(fcinfo, 1), optional_name(fcinfo, 2)};
  const std::string existing = required_text(fcinfo, 3, "existing_rows");
  const bool if_not_exists = flag(fcinfo, 4, false);

  check_arguments(existing, by);
  require_node();
  lock_for_owner(relation, true);

  const AsOwner owner;
  const Spi spi;
  const std::vector<Oid> registered = registered_roots({relation});
  if (registered == std::vector<Oid>{relation}) {
    if (!if_not_exists)
      throw core::Error("42710", "table \"" + display_name(relation) + "\" is already registered");
    notice("table \"" + display_name(relation) + "\" is already registered, skipping");
    PG_RETURN_VOID();
  }
  const int cluster_attno = check_table(relation, by);
  if (by.cluster)
    require_cluster(*by.cluster, true);
  enter_table(relation, by, cluster_attno);
  rules_changed();
  if (existing == "copy")
    file_copies({relation});
  record_event("table_add", "table " + display_name(relation), {},
               {{"cluster_column", by.column}, {"cluster", by.cluster}, {"existing_rows", existing}});
  PG_RETURN_VOID();
}

static void require_registered(Oid relation) {
  const AsOwner owner;
  const Spi spi;
  const std::vector<Oid> roots = registered_roots({relation});
  if (roots != std::vector<Oid>{relation})
    throw core::Error("42704", "table \"" + display_name(relation) + "\" is not registered", {},
                      roots.empty() ? ""
                                    : "It is a partition of table \"" + display_name(roots[0]) + "\", which is.");
}

SEAL_SYNC_FUNCTION(seal_sync_table_remove) {
  if (PG_ARGISNULL(0))
    throw core::Error("22004", "argument \"relation\" must not be null");
  const Oid relation = PG_GETARG_OID(0);
  // Looked up before anything is locked: a role must not lock what is neither its own nor ours.
  if (!pg::call([relation] { return pg::owns_relation(relation, GetUserId()); }))
    require_registered(relation);
  lock_for_owner(relation, false);

  const AsOwner owner;
  const Spi spi;
  require_registered(relation);
  drop_triggers(relation);
  forget_tables({relation});
  except_from_schema_rule(relation);
  rules_changed();
  record_event("table_remove", "table " + display_name(relation));
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
