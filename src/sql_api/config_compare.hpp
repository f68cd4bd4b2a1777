#pragma once
// Where a peer's configuration differs from this node's, and what adopting it would do about each item.
//
// Called by config_diff, which shows it, and config_adopt, which does it (config_adopt.cpp). Nothing is written here.
// Invariant: what contradicts is refused, what the peer lacks is kept; an item is only ever added or widened.

#include "core/configuration.hpp"
#include "sql_api/table.hpp"

namespace seal_sync::sql_api {

struct ConfigItem {
  const char *kind; // cluster, table, schema
  std::string name; // of a table or schema as SQL writes it
  Rows::Value here, there;
  std::string action; // add, alter, keep, refuse
  Rows::Value sqlstate, message, hint;

  // What `add` and `alter` need.
  const core::ClusterDeclaration *cluster = nullptr;
  std::vector<std::string> new_values;
  bool new_epoch = false;
  bool new_standbys = false;
  const core::TableDeclaration *table = nullptr;
  Oid relation = InvalidOid;
  ClusterBy by;
  int cluster_attno = 0;
  const core::SchemaDeclaration *schema = nullptr;
  Oid schema_oid = InvalidOid;
};

/// One for each item that differs: clusters, then tables, then schemas. `caller` would adopt. Points into `there`.
std::vector<ConfigItem> compare_configurations(const core::Configuration &here, const core::Configuration &there,
                                               Oid caller);

/// Judges an item of kind table again, now that the table is locked.
void judge_table(ConfigItem &item, Oid caller);

/// A relation by its names, or InvalidOid.
Oid find_relation(const std::string &schema, const std::string &name);

} // namespace seal_sync::sql_api
