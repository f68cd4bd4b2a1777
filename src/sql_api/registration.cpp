// See registration.hpp.
#include "sql_api/registration.hpp"

#include "capture/capture.hpp"

namespace seal_sync::sql_api {

namespace {

std::string capture_name(Oid root) { return "seal_sync_capture_" + std::to_string(root); }
std::string truncate_name(Oid root) { return "seal_sync_truncate_" + std::to_string(root); }

/// Ours are known by the function they call, whatever somebody named them.
constexpr const char *kOurTriggers =
    "SELECT t.oid, t.tgrelid, t.tgname FROM pg_catalog.pg_trigger t "
    "WHERE t.tgparentid = 0 AND t.tgfoid IN (SELECT p.oid FROM pg_catalog.pg_proc p "
    "WHERE p.pronamespace = 'seal_sync'::pg_catalog.regnamespace "
    "AND p.proname IN ('capture', 'truncate_guard')) ";

void make_trigger(Oid relation, const std::string &name, const char *event, const char *action) {
  const std::string table = sql_name(relation);
  const std::string trigger = quote(name);
  query("CREATE TRIGGER " + trigger + " " + event + " ON " + table + " " + action);
  // ALWAYS: what a session in the replica role writes is a change like any other.
  query("ALTER TABLE " + table + " ENABLE ALWAYS TRIGGER " + trigger);
  // So that DROP EXTENSION needs no CASCADE and leaves nothing behind (trap T20).
  query("ALTER TRIGGER " + trigger + " ON " + table + " DEPENDS ON EXTENSION seal_sync");
}

void drop_trigger(Oid relation, const std::string &name) {
  query("DROP TRIGGER " + quote(name) + " ON " + sql_name(relation));
}

std::vector<Oid> oids(const Rows &rows, size_t column) {
  std::vector<Oid> result;
  for (size_t i = 0; i < rows.size(); i++)
    result.push_back(rows.oid(i, column));
  return result;
}

bool own_ddl = false;

} // namespace

OwnDdl::OwnDdl() noexcept : before_(own_ddl) { own_ddl = true; }
OwnDdl::~OwnDdl() { own_ddl = before_; }
bool OwnDdl::under_way() noexcept { return own_ddl; }

std::vector<Oid> members(Oid root) {
  // The tree is empty for a table that neither is nor has a partition.
  return oids(query("SELECT $1 UNION SELECT t.relid::pg_catalog.oid "
                    "FROM pg_catalog.pg_partition_tree($1::pg_catalog.regclass) t ORDER BY 1",
                    {arg(root)}),
              0);
}

std::optional<Unfit> unfit_member(Oid root, Oid *member) {
  const Rows rows =
      query("SELECT c.oid, c.relkind, c.relpersistence, n.nspname, "
            " n.nspname ~ '^pg_' OR n.nspname IN ('information_schema', 'seal_sync'), "
            " (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid "
            "  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid "
            "  AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'), "
            " (SELECT pg_catalog.min(i.inhrelid)::pg_catalog.regclass FROM pg_catalog.pg_inherits i "
            "  WHERE i.inhparent = c.oid AND c.relkind = 'r') "
            "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.oid = ANY ($1) ORDER BY c.oid <> $2, c.oid",
            {arg(members(root)), arg(root)});
  for (size_t i = 0; i < rows.size(); i++) {
    *member = rows.oid(i, 0);
    const char kind = rows.text(i, 1)[0];
    const char persistence = rows.text(i, 2)[0];
    switch (kind) {
    case 'r':
    case 'p':
      break;
    case 'f':
      return Unfit{"it is a foreign table", "Its rows are not kept in this database.", ""};
    case 'v':
      return Unfit{"it is a view", "Only tables can be synchronized.", ""};
    case 'm':
      return Unfit{"it is a materialized view", "Only tables can be synchronized.", ""};
    default:
      return Unfit{"it is not a table", "Only tables can be synchronized.", ""};
    }
    if (persistence == 't')
      return Unfit{"it is a temporary table", "Its rows are seen by one session only.", ""};
    if (persistence == 'u')
      return Unfit{"it is unlogged", "Its rows do not survive a crash, so the peer could not be kept equal.",
                   "ALTER TABLE " + sql_name(*member) + " SET LOGGED, or leave the table out."};
    if (rows.boolean(i, 4))
      return Unfit{"it is a system table", "Schema \"" + rows.text(i, 3) + "\" belongs to the system.", ""};
    if (!rows.null(i, 5))
      return Unfit{"it belongs to extension \"" + rows.text(i, 5) + "\"",
                   "Tables of an extension are managed by the extension on each node.", ""};
    if (!rows.null(i, 6))
      return Unfit{"other tables inherit from it",
                   "Rows of \"" + rows.text(i, 6) + "\" would appear in it on this node only.",
                   "Use declarative partitioning, or end the inheritance with ALTER TABLE … NO INHERIT."};
  }
  return std::nullopt;
}

Shape shape_of(Oid root, int cluster_attno) {
  Shape shape;
  const Rows key =
      query("SELECT pg_catalog.string_agg(pg_catalog.format('%s:%s:%s:%s', a.attnum, "
            "  pg_catalog.format_type(a.atttypid, NULL), i.indcollation[k.n - 1], i.indclass[k.n - 1]), ',' ORDER BY k.n) "
            "FROM pg_catalog.pg_index i "
            "CROSS JOIN LATERAL pg_catalog.generate_series(1, i.indnkeyatts) k(n) "
            "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1] "
            "WHERE i.indrelid = $1 AND i.indisprimary AND i.indimmediate",
            {arg(root)});
  if (!key.empty() && !key.null(0, 0))
    shape.key = key.text(0, 0);
  const Rows column = query("SELECT a.attname FROM pg_catalog.pg_attribute a "
                            "WHERE a.attrelid = $1 AND a.attnum = $2 AND NOT a.attisdropped",
                            {arg(root), int_arg(cluster_attno)});
  if (!column.empty()) {
    shape.cluster_attno = cluster_attno;
    shape.cluster_column = column.text(0, 0);
  }
  return shape;
}

std::vector<Oid> make_triggers(Oid root) {
  const OwnDdl own;
  const Rows have = query("SELECT t.tgrelid FROM pg_catalog.pg_trigger t WHERE t.tgrelid = $1 AND t.tgname = $2",
                          {arg(root), arg(capture_name(root))});
  if (have.empty())
    make_trigger(root, capture_name(root),
                 "AFTER INSERT OR UPDATE OR DELETE",
                 "FOR EACH ROW EXECUTE FUNCTION seal_sync.capture()");

  // Statement triggers are not cloned to partitions, and TRUNCATE of a partition fires none of its
  // parent's (trap T7): every leaf needs its own.
  const Rows without = query(
      "SELECT c.oid FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1) AND (c.relkind = 'r' OR c.oid = $2) "
      "AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = $3) "
      "ORDER BY c.oid",
      {arg(members(root)), arg(root), arg(truncate_name(root))});
  const std::vector<Oid> added = oids(without, 0);
  for (const Oid relation : added)
    make_trigger(relation, truncate_name(root),
                 "BEFORE TRUNCATE",
                 "FOR EACH STATEMENT EXECUTE FUNCTION seal_sync.truncate_guard()");
  return added;
}

void drop_triggers(Oid root) {
  const OwnDdl own;
  const Rows rows = query(std::string(kOurTriggers) + "AND t.tgrelid = ANY ($1) ORDER BY t.tgrelid, t.tgname",
                          {arg(members(root))});
  for (size_t i = 0; i < rows.size(); i++)
    drop_trigger(rows.oid(i, 1), rows.text(i, 2));
}

void drop_triggers_of(Oid root) {
  const OwnDdl own;
  const Rows rows = query(std::string(kOurTriggers) + "AND t.tgname = ANY ($1)",
                          {arg(std::vector<std::string>{capture_name(root), truncate_name(root)})});
  for (size_t i = 0; i < rows.size(); i++)
    drop_trigger(rows.oid(i, 1), rows.text(i, 2));
}

void drop_stray_triggers(Oid root) {
  const OwnDdl own;
  const Rows rows = query(std::string(kOurTriggers) + "AND t.tgname = $2 AND t.tgrelid <> ALL ($1)",
                          {arg(members(root)), arg(truncate_name(root))});
  for (size_t i = 0; i < rows.size(); i++)
    drop_trigger(rows.oid(i, 1), rows.text(i, 2));
}

void copy_existing_rows(Oid relation) {
  pg::call([relation] {
    config::refresh();
    if (config::local_node() != nullptr)
      capture::recapture(relation);
  });
}

bool forget_tables(const std::vector<Oid> &relations) {
  // A dropped leaf takes the keys kept for it along; its root stays registered.
  query("DELETE FROM seal_sync.held WHERE relation = ANY ($1) OR leaf = ANY ($1)", {arg(relations)});
  query("DELETE FROM seal_sync.held_arrived WHERE relation = ANY ($1) OR leaf = ANY ($1)", {arg(relations)});
  query("DELETE FROM seal_sync.copy WHERE relation = ANY ($1)", {arg(relations)});
  query("DELETE FROM seal_sync.table_state WHERE relation = ANY ($1)", {arg(relations)});
  query("DELETE FROM seal_sync.agreement WHERE relation = ANY ($1)", {arg(relations)}); // by its row above workers see that it is taken
  query("DELETE FROM seal_sync.reception WHERE relation = ANY ($1)", {arg(relations)});
  return query("DELETE FROM seal_sync.table_rule WHERE relation::pg_catalog.oid = ANY ($1)", {arg(relations)})
             .processed > 0;
}

std::vector<Oid> registered_roots(const std::vector<Oid> &relations) {
  return oids(query("SELECT r.relation::pg_catalog.oid FROM seal_sync.table_rule r "
                    "JOIN pg_catalog.pg_class c ON c.oid = r.relation "
                    // An array and no OR, so that one index probe finds it among any number of tables.
                    "WHERE r.relation::pg_catalog.oid = ANY (ARRAY("
                    "SELECT o.oid FROM pg_catalog.unnest($1) o(oid) UNION SELECT a.relid::pg_catalog.oid "
                    " FROM pg_catalog.unnest($1) o(oid) "
                    " CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(o.oid::pg_catalog.regclass) a)) ORDER BY 1",
                    {arg(relations)}),
              0);
}

void remember_shape(Oid root, const Shape &shape) {
  query("INSERT INTO seal_sync.table_state AS s (relation, key_columns, cluster_attno, added_by) "
        "VALUES ($1, $2, $3, session_user) "
        "ON CONFLICT (relation) DO UPDATE SET key_columns = excluded.key_columns, "
        "cluster_attno = excluded.cluster_attno",
        {arg(root), arg(shape.key), int_arg(shape.cluster_attno)});
}

} // namespace seal_sync::sql_api
