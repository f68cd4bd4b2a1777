// config_diff and config_adopt: a peer's configuration, looked at and accepted.
//
// Both pull it, compare it (config_compare.cpp) and answer with one row for each item that differs; adopting then does
// what the row says, in the caller's transaction. Only this node is written to. Order of locks: clusters, then
// tables by number, as table_add and schema_add have it; nothing is locked while the network is waited for.

#include "config/config.hpp"
#include "sql_api/cluster.hpp"
#include "sql_api/config_compare.hpp"
#include "sql_api/copies.hpp"
#include "sql_api/events.hpp"
#include "sql_api/own_config.hpp"
#include "sql_api/peer_config.hpp"
#include "sql_api/registration.hpp"

#include <algorithm>

namespace seal_sync::sql_api {

namespace {

Datum text_datum(const Rows::Value &value) { return value ? arg(std::string_view(*value)).value : Datum{0}; }

void answer(FunctionCallInfo fcinfo, const std::vector<Rows::Value> &row) {
  constexpr size_t kMost = 8;
  Datum values[kMost];
  bool nulls[kMost];
  for (size_t i = 0; i < row.size(); i++) {
    values[i] = text_datum(row[i]);
    nulls[i] = !row[i];
  }
  pg::call([&] {
    auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
  });
}

void alter_cluster(const ConfigItem &item) {
  const core::ClusterDeclaration &theirs = *item.cluster;
  if (!item.new_values.empty())
    query("UPDATE seal_sync.cluster SET match_values = match_values || $2 WHERE cluster = $1",
          {arg(theirs.name), arg(item.new_values)});
  if (item.new_epoch)
    query("UPDATE seal_sync.cluster_state SET epoch = $2, since = pg_catalog.clock_timestamp() WHERE cluster = $1",
          {arg(theirs.name), int_arg(static_cast<int64>(theirs.epoch))});
  if (item.new_standbys)
    query("UPDATE seal_sync.cluster SET standby_nodes = $2 WHERE cluster = $1",
          {arg(theirs.name), theirs.standby_nodes ? arg(*theirs.standby_nodes) : Arg{TEXTARRAYOID, 0, true}});
}

using Names = std::vector<std::string>;

/// Returns those that were added or altered.
Names adopt_clusters(const std::vector<ConfigItem> &items) {
  Names done;
  std::vector<std::string> values;
  for (const ConfigItem &item : items) {
    if (item.cluster == nullptr || (item.action != "add" && item.action != "alter"))
      continue;
    const core::ClusterDeclaration &theirs = *item.cluster;
    if (item.action == "add")
      declare_cluster({theirs.name, theirs.match_values, theirs.home_node, theirs.primary_node,
                       static_cast<int64>(theirs.epoch), theirs.standby_nodes});
    else
      alter_cluster(item);
    const std::vector<std::string> &fresh = item.action == "add" ? theirs.match_values : item.new_values;
    values.insert(values.end(), fresh.begin(), fresh.end());
    done.push_back(item.name);
  }
  if (!done.empty())
    rules_changed();
  if (!values.empty())
    copy_rows_with(values);
  return done;
}

Names adopt_tables(std::vector<ConfigItem> &items, const std::string &existing, Oid caller) {
  std::vector<ConfigItem *> order;
  for (ConfigItem &item : items)
    if (item.table != nullptr && item.action == "add")
      order.push_back(&item);
  // By number, so that two such calls do not wait for each other in a circle.
  std::sort(order.begin(), order.end(), [](const ConfigItem *a, const ConfigItem *b) { return a->relation < b->relation; });
  for (const ConfigItem *item : order)
    lock_against_writers(item->relation);
  Names done;
  std::vector<Oid> added;
  for (ConfigItem *item : order) {
    if (find_relation(item->table->schema, item->table->name) != item->relation) {
      item->action = "refuse"; // dropped or renamed while we waited
      item->sqlstate = "42P01";
      item->message = "table \"" + item->table->schema + "." + item->table->name + "\" does not exist here";
      continue;
    }
    judge_table(*item, caller);
    if (item->action != "add")
      continue;
    enter_table(item->relation, item->by, item->cluster_attno);
    added.push_back(item->relation);
    done.push_back(item->name);
  }
  if (!added.empty())
    rules_changed(); // once: every session reads all rules anew
  if (existing == "copy")
    file_copies(added);
  std::sort(done.begin(), done.end()); // who reads events looks for names, not for numbers
  return done;
}

Names adopt_schemas(const std::vector<ConfigItem> &items) {
  Names done;
  for (const ConfigItem &item : items) {
    if (item.schema == nullptr || item.action != "add")
      continue;
    std::vector<Oid> excepted;
    for (const std::string &table : item.schema->except_tables)
      if (const Oid relation = find_relation(item.schema->schema, table); relation != InvalidOid)
        excepted.push_back(relation);
    set_schema_rule(item.schema_oid, item.by, excepted, true);
    done.push_back(item.name);
  }
  if (!done.empty())
    rules_changed();
  return done;
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_config_diff) {
  const std::string peer = required_name(fcinfo, 0, "peer");
  require_node();
  pg::call([fcinfo] { InitMaterializedSRF(fcinfo, 0); });

  const AsOwner owner;
  const Spi spi;
  const core::Configuration there = peer_configuration(peer);
  const core::Configuration here = own_configuration();
  for (const ConfigItem &item : compare_configurations(here, there, owner.caller()))
    answer(fcinfo, {item.kind, item.name, item.here, item.there, item.action, item.sqlstate, item.message, item.hint});
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_config_adopt) {
  const std::string peer = required_name(fcinfo, 0, "peer");
  const bool dry_run = flag(fcinfo, 1, false);
  const std::string existing = required_text(fcinfo, 2, "existing_rows");
  check_arguments(existing, {std::string("any"), std::nullopt});
  require_node();
  pg::call([fcinfo] { InitMaterializedSRF(fcinfo, 0); });

  const AsOwner owner;
  const Spi spi;
  const core::Configuration there = peer_configuration(peer);
  if (!dry_run)
    lock_clusters();
  const core::Configuration here = own_configuration();
  std::vector<ConfigItem> items = compare_configurations(here, there, owner.caller());
  if (!dry_run) {
    const Names clusters = adopt_clusters(items);
    const Names tables = adopt_tables(items, existing, owner.caller());
    const Names schemas = adopt_schemas(items);
    if (!clusters.empty() || !tables.empty() || !schemas.empty())
      record_event("config_adopt", "peer " + peer, {}, {{"clusters", clusters}, {"tables", tables}, {"schemas", schemas}});
  }
  for (const ConfigItem &item : items)
    answer(fcinfo, {item.kind, item.name, item.action, item.sqlstate, item.message, item.hint});
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
