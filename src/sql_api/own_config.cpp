// See own_config.hpp.
#include "sql_api/own_config.hpp"

#include "config/config.hpp"

#include <map>

namespace seal_sync::sql_api {

namespace {

/// One array of the catalogs, element by element.
std::vector<std::string> list(const char *statement, const Arg &argument) {
  const Rows rows = query(statement, {argument});
  std::vector<std::string> values;
  for (size_t i = 0; i < rows.size(); i++)
    values.push_back(rows.text(i, 0));
  return values;
}

core::ClusterRule rule_of(const Rows &rows, size_t row, size_t column) {
  return {rows.rows[row][column].value_or(""), rows.rows[row][column + 1].value_or("")};
}

void read_clusters(std::vector<core::ClusterDeclaration> &out) {
  const Rows rows = query("SELECT c.cluster, c.home_node, s.primary_node, s.epoch, c.standby_nodes IS NULL FROM seal_sync.cluster c "
                          "JOIN seal_sync.cluster_state s ON s.cluster = c.cluster ORDER BY c.cluster");
  for (size_t i = 0; i < rows.size(); i++) {
    core::ClusterDeclaration &cluster = out.emplace_back();
    cluster.name = rows.text(i, 0);
    cluster.home_node = rows.text(i, 1);
    cluster.primary_node = rows.text(i, 2);
    cluster.epoch = std::stoull(rows.text(i, 3));
    cluster.match_values = list("SELECT v FROM seal_sync.cluster c, pg_catalog.unnest(c.match_values) WITH ORDINALITY u(v, n) "
                                "WHERE c.cluster = $1 AND v IS NOT NULL ORDER BY n",
                                arg(cluster.name));
    if (!rows.boolean(i, 4))
      cluster.standby_nodes = list("SELECT v FROM seal_sync.cluster c, pg_catalog.unnest(c.standby_nodes) WITH ORDINALITY "
                                   "u(v, n) WHERE c.cluster = $1 AND v IS NOT NULL ORDER BY n",
                                   arg(cluster.name));
  }
}

void read_schemas(std::vector<core::SchemaDeclaration> &out) {
  const Rows rows = query("SELECT r.schema, r.cluster_column, r.cluster FROM seal_sync.schema_rule r ORDER BY 1");
  for (size_t i = 0; i < rows.size(); i++)
    out.push_back({rows.text(i, 0), rule_of(rows, i, 1),
                   list("SELECT c.relname FROM seal_sync.schema_rule r, pg_catalog.unnest(r.except_tables) e "
                        "JOIN pg_catalog.pg_class c ON c.oid = e JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                        "WHERE r.schema = $1 AND n.nspname = r.schema ORDER BY 1",
                        arg(rows.text(i, 0)))});
}

/// Names of types, looked up once each.
class Types {
public:
  core::TypeDeclaration declared(Oid type, int32 typmod) {
    auto found = names_.find(type);
    if (found == names_.end()) {
      const Rows row = query("SELECT n.nspname, t.typname FROM pg_catalog.pg_type t "
                             "JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.oid = $1",
                             {arg(type)});
      found = names_.emplace(type, row.empty() ? Name{} : Name{row.text(0, 0), row.text(0, 1)}).first;
    }
    return {found->second.schema, found->second.name, typmod};
  }

  core::TypeDeclaration base(Oid type, int32 typmod) {
    const Oid base = pg::call([&] { return getBaseTypeAndTypmod(type, &typmod); });
    return declared(base, typmod);
  }

private:
  struct Name {
    std::string schema, name;
  };
  std::map<Oid, Name> names_;
};

} // namespace

void describe_columns(const std::vector<Oid> &relations, const std::vector<core::TableDeclaration *> &tables) {
  std::map<Oid, core::TableDeclaration *> by_oid;
  for (size_t i = 0; i < relations.size(); i++)
    by_oid[relations[i]] = tables[i];

  Types types;
  const Rows columns = query(
      "SELECT a.attrelid, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.atthasdef OR a.attidentity <> '', a.attidentity, "
      " a.attgenerated, n.nspname, c.collname, coalesce(c.collisdeterministic, true) "
      "FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation "
      "LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace "
      "WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attrelid, a.attnum",
      {arg(relations)});
  for (size_t i = 0; i < columns.size(); i++) {
    core::ColumnDeclaration &column = by_oid[columns.oid(i, 0)]->columns.emplace_back();
    const Oid type = columns.oid(i, 2);
    const int32 typmod = static_cast<int32>(std::stol(columns.text(i, 3)));
    column.name = columns.text(i, 1);
    column.type = types.declared(type, typmod);
    column.base = types.base(type, typmod);
    column.not_null = columns.boolean(i, 4);
    column.fills_itself = columns.boolean(i, 5);
    column.identity = columns.text(i, 6).c_str()[0];
    column.generated = columns.text(i, 7).c_str()[0];
    column.collation_schema = columns.rows[i][8].value_or("");
    column.collation = columns.rows[i][9].value_or("");
    column.deterministic = columns.boolean(i, 10);
  }

  const Rows keys = query("SELECT i.indrelid, c.relname, i.indisprimary, i.indpred IS NOT NULL, i.indexprs IS NOT NULL, i.indexrelid "
                          "FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid "
                          "WHERE i.indrelid = ANY ($1) AND i.indisunique AND i.indislive "
                          "ORDER BY i.indrelid, NOT i.indisprimary, c.relname",
                          {arg(relations)});
  for (size_t i = 0; i < keys.size(); i++) {
    core::UniqueDeclaration &key = by_oid[keys.oid(i, 0)]->unique_keys.emplace_back();
    key.name = keys.text(i, 1);
    key.primary = keys.boolean(i, 2);
    key.partial = keys.boolean(i, 3);
    key.expressions = keys.boolean(i, 4);
    key.columns = list("SELECT a.attname FROM pg_catalog.pg_index i "
                       "CROSS JOIN LATERAL pg_catalog.generate_series(1, i.indnkeyatts) k(n) "
                       "JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[k.n - 1] "
                       "WHERE i.indexrelid = $1 ORDER BY k.n",
                       arg(keys.oid(i, 5)));
  }
}

core::Configuration own_configuration() {
  core::Configuration configuration;
  configuration.node = require_node();
  configuration.encoding = pg::call([] { return GetDatabaseEncodingName(); });
  configuration.version = SEAL_SYNC_VERSION;
  read_clusters(configuration.clusters);
  read_schemas(configuration.schemas);

  const Rows rows = query("SELECT c.oid, n.nspname, c.relname, r.cluster_column, r.cluster FROM seal_sync.table_rule r "
                          "JOIN pg_catalog.pg_class c ON c.oid = r.relation "
                          "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 2, 3");
  std::vector<Oid> relations;
  std::vector<core::TableDeclaration *> tables;
  configuration.tables.resize(rows.size());
  for (size_t i = 0; i < rows.size(); i++) {
    core::TableDeclaration &table = configuration.tables[i];
    table.schema = rows.text(i, 1);
    table.name = rows.text(i, 2);
    table.rule = rule_of(rows, i, 3);
    relations.push_back(rows.oid(i, 0));
    tables.push_back(&table);
  }
  describe_columns(relations, tables);
  return configuration;
}

} // namespace seal_sync::sql_api
