// schema_diff: where registered tables have other columns and keys on a peer, what that does to synchronization, and
// the DDL that ends it.
//
// Both sides are told as wire_config tells them; a table that is registered only there is compared with what stands
// here under its name. The effects foretell what apply/relation_map decides when rows are shipped, by the same
// core/type_fit. Everything that a peer says goes into DDL as a quoted name or not at all.

#include "config/config.hpp"
#include "core/type_fit.hpp"
#include "sql_api/config_compare.hpp"
#include "sql_api/own_config.hpp"
#include "sql_api/peer_config.hpp"

#include <algorithm>
#include <map>

namespace seal_sync::sql_api {

namespace {

using core::ColumnDeclaration;
using core::Configuration;
using core::TableDeclaration;
using core::TypeFit;
using core::UniqueDeclaration;

/// What one row says of how the two sides differ.
struct Difference {
  Rows::Value column, here, there;
  std::string effect;
  Rows::Value ddl;
};

std::string table_name(const TableDeclaration &table) { return quote(table.schema) + "." + quote(table.name); }

/// As format_type has it where the type is known here, qualified unless built in, for the search path is the owner's; else by
/// its names alone.
std::string type_text(const core::TypeDeclaration &type) {
  const char *schema = type.schema.c_str();
  const char *name = type.name.c_str();
  const int32 typmod = type.typmod;
  const char *text = pg::call([=]() -> const char * {
    const Oid space = get_namespace_oid(schema, true);
    if (!OidIsValid(space))
      return nullptr;
    const Oid oid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, PointerGetDatum(name), ObjectIdGetDatum(space));
    return OidIsValid(oid) ? format_type_with_typemod(oid, typmod) : nullptr;
  });
  return text != nullptr ? text : quote(type.schema) + "." + quote(type.name);
}

/// With what ADD COLUMN and ALTER COLUMN … TYPE have to say.
std::string type_of(const ColumnDeclaration &column) {
  std::string text = type_text(column.type);
  if (!column.collation.empty() && !(column.collation_schema == "pg_catalog" && column.collation == "default"))
    text += " COLLATE " + quote(column.collation_schema) + "." + quote(column.collation);
  return text;
}

TypeFit fit(const ColumnDeclaration &sent, const ColumnDeclaration &local) {
  if (sent.type == local.type)
    return TypeFit::kSame;
  const auto name = [](const core::TypeDeclaration &type) { return core::TypeName{type.schema, type.name, type.typmod}; };
  return core::type_fit(name(sent.base), name(local.base));
}

std::string columns_of(const UniqueDeclaration &key) {
  std::string text;
  for (const std::string &column : key.columns)
    text += (text.empty() ? "" : ", ") + quote(column);
  return "(" + text + ")";
}

const UniqueDeclaration *primary_key(const TableDeclaration &table) {
  for (const UniqueDeclaration &key : table.unique_keys)
    if (key.primary)
      return &key;
  return nullptr;
}

std::string create_table(const TableDeclaration &table) {
  std::string text = "CREATE TABLE IF NOT EXISTS " + table_name(table) + " (";
  bool first = true;
  for (const ColumnDeclaration &column : table.columns) {
    if (column.generated != 0) // its expression stays where it is
      continue;
    text += (first ? "" : ", ") + quote(column.name) + " " + type_of(column) + (column.not_null ? " NOT NULL" : "");
    first = false;
  }
  if (const UniqueDeclaration *key = primary_key(table))
    text += ", PRIMARY KEY " + columns_of(*key);
  return text + ")";
}

std::string registration(const TableDeclaration &table) {
  return "SELECT seal_sync.table_add(" + literal(table_name(table)) +
         (table.rule.column.empty() ? ", cluster => " + literal(table.rule.cluster)
                                    : ", cluster_column => " + literal(table.rule.column)) + ")";
}

/// One side of a comparison: its table, its node, and whether rows travel from it to the other one.
struct Side {
  const TableDeclaration *table;
  std::string node;
  bool ships;
};

class TableComparison {
public:
  TableComparison(Side here, Side there) : here_(std::move(here)), there_(std::move(there)) {}

  std::vector<Difference> run() {
    compare_rules();
    for (const ColumnDeclaration &column : here_.table->columns) {
      const ColumnDeclaration *other = find(*there_.table, column.name);
      if (other == nullptr)
        only_on(here_, there_, column, true);
      else
        compare(column, *other);
    }
    for (const ColumnDeclaration &column : there_.table->columns)
      if (find(*here_.table, column.name) == nullptr)
        only_on(there_, here_, column, false);
    compare_keys();
    return std::move(found_);
  }

private:
  static const ColumnDeclaration *find(const TableDeclaration &table, const std::string &name) {
    for (const ColumnDeclaration &column : table.columns)
      if (column.name == name)
        return &column;
    return nullptr;
  }

  std::string alter() const { return "ALTER TABLE " + table_name(*here_.table) + " "; }
  [[nodiscard]] bool travels() const { return here_.ships || there_.ships; }
  static std::string on(const Side &side) { return "node \"" + side.node + "\""; }
  static std::string typed_on(const Side &side) { return ". The DDL is for " + on(side) + "."; }

  void add(Rows::Value column, Rows::Value here, Rows::Value there, std::string effect, Rows::Value ddl = {}) {
    found_.push_back({std::move(column), std::move(here), std::move(there), std::move(effect), std::move(ddl)});
  }
  void none(Rows::Value column, Rows::Value here, Rows::Value there, const std::string &why) {
    add(std::move(column), std::move(here), std::move(there), "none: " + why);
  }

  void compare_rules() {
    const core::ClusterRule &ours = here_.table->rule;
    const core::ClusterRule &theirs = there_.table->rule;
    if (ours == theirs || (ours.column.empty() && ours.cluster.empty())) // not registered here: told by the caller
      return;
    const auto by = [](const core::ClusterRule &rule) {
      return rule.column.empty() ? "cluster " + quote(rule.cluster) : "clusters by column " + quote(rule.column);
    };
    add({}, by(ours), by(theirs), "parked: rows of the table wait on both sides" + typed_on(there_),
        "SELECT seal_sync.table_remove(" + literal(table_name(*here_.table)) + "); " + registration(*here_.table));
  }

  /// A column that one side does not have.
  void only_on(const Side &has, const Side &lacks, const ColumnDeclaration &column, bool has_here) {
    const Rows::Value shown = type_of(column) + (column.not_null ? " NOT NULL" : "");
    const Rows::Value here = has_here ? shown : Rows::Value();
    const Rows::Value there = has_here ? Rows::Value() : shown;
    if (column.generated != 0)
      none(column.name, here, there, "it is computed on " + on(has) + " and not shipped");
    else if (has.ships)
      add(column.name, here, there, "parked: rows from " + on(has) + " wait until the column exists on " + on(lacks) + typed_on(lacks),
          alter() + "ADD COLUMN " + quote(column.name) + " " + type_of(column));
    else if (lacks.ships && column.not_null && !column.fills_itself)
      add(column.name, here, there, "parked: rows from " + on(lacks) + " have no value for it, and it has no default" + typed_on(has),
          alter() + "ALTER COLUMN " + quote(column.name) + " DROP NOT NULL");
    else if (lacks.ships)
      none(column.name, here, there, "rows from " + on(lacks) + " get its default");
    else
      none(column.name, here, there, "no rows of the table travel between the two");
  }

  void compare(const ColumnDeclaration &ours, const ColumnDeclaration &theirs) {
    compare_types(ours, theirs);
    if (ours.generated == 0 && theirs.generated == 0)
      compare_nulls(ours, theirs);
    else if ((ours.generated != 0) != (theirs.generated != 0))
      compare_generated(ours, theirs);
    if (ours.identity != theirs.identity)
      none(ours.name, identity(ours), identity(theirs), "it only says where numbers are made");
    compare_collations(ours, theirs);
  }

  static std::string identity(const ColumnDeclaration &column) {
    return column.identity == 0 ? "no identity column" : column.identity == 'a' ? "GENERATED ALWAYS AS IDENTITY" : "GENERATED BY DEFAULT AS IDENTITY";
  }

  void compare_types(const ColumnDeclaration &ours, const ColumnDeclaration &theirs) {
    if (ours.type == theirs.type || ours.generated != 0 || theirs.generated != 0)
      return;
    const Rows::Value here = type_text(ours.type);
    const Rows::Value there = type_text(theirs.type);
    const TypeFit out = fit(ours, theirs);
    const TypeFit in = fit(theirs, ours);
    const auto parked = [&](const Side &from, const Side &to, const ColumnDeclaration &wanted) {
      add(ours.name, here, there, "parked: " + on(to) + " cannot hold every value of rows from " + on(from) + typed_on(to),
          alter() + "ALTER COLUMN " + quote(ours.name) + " TYPE " + type_of(wanted));
    };
    if (here_.ships && out == TypeFit::kNarrower)
      parked(here_, there_, ours);
    else if (there_.ships && in == TypeFit::kNarrower)
      parked(there_, here_, theirs);
    else if ((here_.ships && out == TypeFit::kUnknown) || (there_.ships && in == TypeFit::kUnknown))
      add(ours.name, here, there, "refused rows possible: values travel as text, and the type decides on each" + typed_on(there_),
          alter() + "ALTER COLUMN " + quote(ours.name) + " TYPE " + type_of(ours));
    else
      none(ours.name, here, there, travels() ? "every value that is shipped fits" : "no rows of the table travel between the two");
  }

  void compare_nulls(const ColumnDeclaration &ours, const ColumnDeclaration &theirs) {
    if (ours.not_null == theirs.not_null)
      return;
    const auto shown = [](const ColumnDeclaration &column) { return column.not_null ? "NOT NULL" : "NULL allowed"; };
    const Side &strict = ours.not_null ? here_ : there_;
    const Side &lax = ours.not_null ? there_ : here_;
    if (lax.ships)
      add(ours.name, shown(ours), shown(theirs), "refused rows possible: " + on(strict) + " takes no NULL" + typed_on(strict),
          alter() + "ALTER COLUMN " + quote(ours.name) + " DROP NOT NULL");
    else
      none(ours.name, shown(ours), shown(theirs), "no rows travel to the node that takes no NULL");
  }

  void compare_generated(const ColumnDeclaration &ours, const ColumnDeclaration &theirs) {
    const auto shown = [](const ColumnDeclaration &column) { return column.generated != 0 ? "generated" : "not generated"; };
    const Side &computes = ours.generated != 0 ? here_ : there_;
    add(ours.name, shown(ours), shown(theirs), "values can differ: " + on(computes) + " computes them and neither ships nor takes any");
  }

  void compare_collations(const ColumnDeclaration &ours, const ColumnDeclaration &theirs) {
    if (ours.collation.empty() || theirs.collation.empty() ||
        (ours.collation == theirs.collation && ours.collation_schema == theirs.collation_schema && ours.deterministic == theirs.deterministic))
      return;
    const auto in_a_key = [&](const TableDeclaration &table) {
      return std::any_of(table.unique_keys.begin(), table.unique_keys.end(), [&](const UniqueDeclaration &key) {
        return std::find(key.columns.begin(), key.columns.end(), ours.name) != key.columns.end();
      });
    };
    if (!in_a_key(*here_.table) && !in_a_key(*there_.table))
      return;
    const auto shown = [](const ColumnDeclaration &column) {
      return "COLLATE " + quote(column.collation_schema) + "." + quote(column.collation) + (column.deterministic ? "" : " (not deterministic)");
    };
    // Two deterministic ones call the same values equal; what is not may call equal what the other one does not.
    if (ours.deterministic && theirs.deterministic)
      none(ours.name, shown(ours), shown(theirs), "only the order differs");
    else
      add(ours.name, shown(ours), shown(theirs), "refused rows possible: values of a unique key that differ on one node can be equal on the other" + typed_on(there_),
          alter() + "ALTER COLUMN " + quote(ours.name) + " TYPE " + type_text(theirs.type) + " COLLATE " + quote(ours.collation_schema) + "." + quote(ours.collation));
  }

  void compare_keys() {
    const UniqueDeclaration *ours = primary_key(*here_.table);
    const UniqueDeclaration *theirs = primary_key(*there_.table);
    const auto sorted = [](const UniqueDeclaration *key) {
      std::vector<std::string> columns = key == nullptr ? std::vector<std::string>{} : key->columns;
      std::sort(columns.begin(), columns.end());
      return columns;
    };
    const auto shown = [](const UniqueDeclaration *key) {
      return key == nullptr ? Rows::Value() : Rows::Value("PRIMARY KEY " + columns_of(*key));
    };
    if (sorted(ours) != sorted(theirs)) {
      Rows::Value ddl;
      if (ours != nullptr)
        ddl = "SELECT seal_sync.table_remove(" + literal(table_name(*there_.table)) + "); " + alter() +
              (theirs != nullptr ? "DROP CONSTRAINT " + quote(theirs->name) + ", " : "") + "ADD PRIMARY KEY " + columns_of(*ours) + "; " +
              registration(*there_.table);
      add({}, shown(ours), shown(theirs), (travels() ? "parked: a row is found by its key" : "none: no rows of the table travel between the two") +
                                              (ddl ? typed_on(there_) : std::string()), ddl);
    }
    only_unique_on(here_, there_, true);
    only_unique_on(there_, here_, false);
  }

  void only_unique_on(const Side &has, const Side &lacks, bool has_here) {
    for (const UniqueDeclaration &key : has.table->unique_keys) {
      if (key.primary || found_in(*lacks.table, key))
        continue;
      const bool plain = !key.partial && !key.expressions;
      const Rows::Value shown = "UNIQUE " + (plain ? columns_of(key) : quote(key.name));
      const Rows::Value here = has_here ? shown : Rows::Value();
      const Rows::Value there = has_here ? Rows::Value() : shown;
      if (!lacks.ships)
        none({}, here, there, "no rows travel to the node that has the key");
      else if (plain)
        add({}, here, there, "refused rows possible: " + on(lacks) + " allows rows that are not unique on " + on(has) + typed_on(lacks),
            "CREATE UNIQUE INDEX ON " + table_name(*here_.table) + " " + columns_of(key));
      else
        add({}, here, there, "refused rows possible: " + on(lacks) + " allows rows that are not unique on " + on(has) +
                                 ". Make the index there as it is on " + on(has) + ".");
    }
  }

  static bool found_in(const TableDeclaration &table, const UniqueDeclaration &wanted) {
    return std::any_of(table.unique_keys.begin(), table.unique_keys.end(), [&](const UniqueDeclaration &key) {
      if (key.partial || key.expressions || wanted.partial || wanted.expressions)
        return key.name == wanted.name; // an expression is not compared
      return std::is_permutation(key.columns.begin(), key.columns.end(), wanted.columns.begin(), wanted.columns.end());
    });
  }

  const Side here_;
  const Side there_;
  std::vector<Difference> found_;
};

/// Whether `from` ships rows of such a table to `to`, as `from` has it.
bool ships(const Configuration &from, const std::string &to, const core::ClusterRule &rule) {
  return std::any_of(from.clusters.begin(), from.clusters.end(), [&](const core::ClusterDeclaration &cluster) {
    return cluster.primary_node == from.node && (rule.cluster.empty() || rule.cluster == cluster.name) &&
           (!cluster.standby_nodes ||
            std::find(cluster.standby_nodes->begin(), cluster.standby_nodes->end(), to) != cluster.standby_nodes->end());
  });
}

void answer(FunctionCallInfo fcinfo, const std::string &relation, const Difference &difference) {
  const Rows::Value texts[] = {relation, difference.column, difference.here, difference.there, difference.effect, difference.ddl};
  Datum values[6];
  bool nulls[6];
  for (size_t i = 0; i < 6; i++) {
    values[i] = texts[i] ? arg(std::string_view(*texts[i])).value : Datum{0};
    nulls[i] = !texts[i];
  }
  pg::call([&] {
    auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
  });
}

/// Of a table that only one node has registered.
Difference waiting(const Side &has, const Side &lacks, bool has_here, const std::string &ddl) {
  const Rows::Value registered = "registered";
  std::string effect = has.ships ? "waiting: rows from node \"" + has.node + "\" wait until node \"" + lacks.node + "\" has the table and has added it"
                                 : "none: no rows of the table travel to node \"" + lacks.node + "\"";
  return {{}, has_here ? registered : Rows::Value(), has_here ? Rows::Value() : registered,
          effect + ". The DDL is for node \"" + lacks.node + "\".", ddl};
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_schema_diff) {
  const std::string peer = required_name(fcinfo, 0, "peer");
  require_node();
  pg::call([fcinfo] { InitMaterializedSRF(fcinfo, 0); });

  const AsOwner owner;
  const Spi spi;
  const Configuration there = peer_configuration(peer);
  const Configuration here = own_configuration();
  struct Pair {
    const TableDeclaration *here = nullptr, *there = nullptr;
  };
  std::map<std::pair<std::string, std::string>, Pair> tables;
  for (const TableDeclaration &table : here.tables)
    tables[{table.schema, table.name}].here = &table;
  for (const TableDeclaration &table : there.tables)
    tables[{table.schema, table.name}].there = &table;

  for (const auto &[name, pair] : tables) {
    const TableDeclaration &known = pair.here != nullptr ? *pair.here : *pair.there;
    const std::string relation = table_name(known);
    Side ours{pair.here, here.node, ships(here, peer, known.rule)};
    Side theirs{pair.there, peer, ships(there, here.node, pair.there != nullptr ? pair.there->rule : known.rule)};
    if (pair.there == nullptr) {
      answer(fcinfo, relation, waiting(ours, theirs, true, create_table(*pair.here) + "; " + registration(*pair.here)));
      continue;
    }
    TableDeclaration unregistered;
    if (pair.here == nullptr) {
      const Oid oid = find_relation(name.first, name.second);
      answer(fcinfo, relation, waiting(theirs, ours, false, oid == InvalidOid ? create_table(*pair.there) : registration(*pair.there)));
      if (oid == InvalidOid)
        continue;
      unregistered.schema = name.first;
      unregistered.name = name.second;
      describe_columns({oid}, {&unregistered});
      ours.table = &unregistered;
    }
    for (const Difference &difference : TableComparison(ours, theirs).run())
      answer(fcinfo, relation, difference);
  }
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
