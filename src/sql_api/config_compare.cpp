// See config_compare.hpp.
#include "sql_api/config_compare.hpp"

#include <algorithm>
#include <map>
#include <set>

namespace seal_sync::sql_api {

namespace {

std::string quoted_list(const std::vector<std::string> &values) {
  std::string text;
  for (const std::string &value : values)
    text += (text.empty() ? "\"" : ", \"") + value + "\"";
  return text;
}

bool holds(const std::vector<std::string> &values, const std::string &wanted) {
  return std::find(values.begin(), values.end(), wanted) != values.end();
}

std::vector<std::string> without(const std::vector<std::string> &values, const std::vector<std::string> &others) {
  std::vector<std::string> rest;
  for (const std::string &value : values)
    if (!holds(others, value))
      rest.push_back(value);
  return rest;
}

std::string describe(const core::ClusterDeclaration &cluster) {
  std::string text = "primary \"" + cluster.primary_node + "\", epoch " + std::to_string(cluster.epoch) + ", values " +
                     quoted_list(cluster.match_values);
  if (cluster.standby_nodes)
    text += ", standbys " + (cluster.standby_nodes->empty() ? "none" : quoted_list(*cluster.standby_nodes));
  if (cluster.home_node != cluster.primary_node)
    text += ", at home on \"" + cluster.home_node + "\"";
  return text;
}

ClusterBy by_of(const core::ClusterRule &rule) {
  ClusterBy by;
  if (!rule.column.empty())
    by.column = rule.column;
  else
    by.cluster = rule.cluster;
  return by;
}

std::string describe(const core::ClusterRule &rule) { return describe(by_of(rule)); }

std::string describe(const core::SchemaDeclaration &schema) {
  std::string text = "new tables by " + describe(schema.rule);
  if (!schema.except_tables.empty())
    text += ", except " + quoted_list(schema.except_tables);
  return text;
}

std::string sql_name(const core::TableDeclaration &table) { return quote(table.schema) + "." + quote(table.name); }

void add_to(Rows::Value &text, const std::string &more) { text = text ? *text + "; " + more : more; }

void refuse(ConfigItem &item, const core::Error &why) {
  item.action = "refuse";
  item.sqlstate = why.sqlstate();
  item.message = why.message();
  item.hint = why.hint().empty() ? Rows::Value() : Rows::Value(why.hint());
}

class Comparison {
public:
  Comparison(const core::Configuration &here, const core::Configuration &there, Oid caller)
      : here_(here), there_(there), caller_(caller) {}

  std::vector<ConfigItem> run() {
    for (const core::ClusterDeclaration &cluster : here_.clusters) {
      clusters_.insert(cluster.name);
      for (const std::string &value : cluster.match_values)
        values_[value] = cluster.name;
    }
    compare_clusters();
    compare_tables();
    compare_schemas();
    return std::move(items_);
  }

private:
  ConfigItem &item(const char *kind, const std::string &name, Rows::Value here, Rows::Value there) {
    ConfigItem &added = items_.emplace_back();
    added.kind = kind;
    added.name = name;
    added.here = std::move(here);
    added.there = std::move(there);
    return added;
  }

  /// Of what the peer does not have.
  void keep(ConfigItem &item) const {
    item.action = "keep";
    item.message = "exists only here";
    item.hint = "On node \"" + there_.node + "\": SELECT * FROM seal_sync.config_adopt(" + literal(here_.node) + ") accepts it there.";
  }

  // ---- clusters ---------------------------------------------------------------------------------

  void compare_clusters() {
    for (const core::ClusterDeclaration &theirs : there_.clusters) {
      const core::ClusterDeclaration *ours = find_cluster(here_, theirs.name);
      if (ours == nullptr)
        judge_new(theirs);
      else
        judge_both(*ours, theirs);
    }
    for (const core::ClusterDeclaration &ours : here_.clusters)
      if (find_cluster(there_, ours.name) == nullptr)
        keep(item("cluster", ours.name, describe(ours), {}));
  }

  static const core::ClusterDeclaration *find_cluster(const core::Configuration &in, const std::string &name) {
    for (const core::ClusterDeclaration &cluster : in.clusters)
      if (cluster.name == name)
        return &cluster;
    return nullptr;
  }

  /// A row can belong to one cluster only.
  bool taken(ConfigItem &item, const std::string &cluster, const std::vector<std::string> &values) {
    for (const std::string &value : values)
      if (const auto found = values_.find(value); found != values_.end() && found->second != cluster) {
        refuse(item, {"42710", "value \"" + value + "\" belongs to cluster \"" + found->second + "\" here", {},
                      "Find out which node is right, and take the value from one of the two with seal_sync.cluster_alter."});
        return true;
      }
    return false;
  }

  void take_values(const std::string &cluster, const std::vector<std::string> &values) {
    for (const std::string &value : values)
      values_[value] = cluster;
  }

  void judge_new(const core::ClusterDeclaration &theirs) {
    ConfigItem &added = item("cluster", theirs.name, {}, describe(theirs));
    added.cluster = &theirs;
    if (taken(added, theirs.name, theirs.match_values))
      return;
    added.action = "add";
    clusters_.insert(theirs.name);
    take_values(theirs.name, theirs.match_values);
    if (theirs.primary_node == here_.node) {
      added.message = "this node is its primary: applications change its rows here";
      return;
    }
    if (theirs.standby_nodes && !holds(*theirs.standby_nodes, here_.node)) {
      added.message = "this node is none of its standbys: its rows do not come here";
      added.hint = "On node \"" + theirs.primary_node + "\": SELECT seal_sync.cluster_alter(" + literal(theirs.name) +
                   ", add_standbys => ARRAY[" + literal(here_.node) + "]).";
      return;
    }
    if (theirs.primary_node != there_.node &&
        query("SELECT FROM seal_sync.peer WHERE peer = $1", {arg(theirs.primary_node)}).empty()) {
      added.message = "its primary \"" + theirs.primary_node + "\" is not a peer here yet: its rows come from there only";
      added.hint = "SELECT seal_sync.peer_create(" + literal(theirs.primary_node) + ") makes it known.";
    }
  }

  void judge_both(const core::ClusterDeclaration &ours, const core::ClusterDeclaration &theirs) {
    const std::string shown_here = describe(ours);
    const std::string shown_there = describe(theirs);
    if (shown_here == shown_there)
      return;
    ConfigItem &found = item("cluster", ours.name, shown_here, shown_there);
    found.cluster = &theirs;
    if (ours.primary_node != theirs.primary_node) {
      refuse(found, {"55000", "cluster \"" + ours.name + "\" has its primary on node \"" + ours.primary_node + "\" here, on node \"" +
                                  theirs.primary_node + "\" there", {},
                     "Nothing is overwritten. Find out which node is right; on the other one SELECT seal_sync.cluster_drop(" +
                         literal(ours.name) + ") and adopt it from there."});
      return;
    }
    if (theirs.epoch > ours.epoch && ours.primary_node == here_.node) {
      refuse(found, {"55000", "this node is primary of cluster \"" + ours.name + "\" in epoch " + std::to_string(ours.epoch) +
                                  ", there in epoch " + std::to_string(theirs.epoch), {},
                     "It looks as if this node was restored from an older copy. Its rows of this cluster may be older than those there."});
      return;
    }
    found.new_values = without(theirs.match_values, ours.match_values);
    if (taken(found, ours.name, found.new_values))
      return;
    take_values(ours.name, found.new_values);
    found.new_epoch = theirs.epoch > ours.epoch;
    // Who ships decides to whom. Here it is only noted.
    found.new_standbys = theirs.primary_node == there_.node && ours.standby_nodes != theirs.standby_nodes;
    if (!found.new_values.empty())
      add_to(found.message, "values " + quoted_list(found.new_values) + " are new here");
    if (found.new_epoch)
      add_to(found.message, "epoch " + std::to_string(theirs.epoch) + " is newer than the one here");
    if (found.new_standbys)
      add_to(found.message, "its primary ships to other standbys than is noted here");
    found.action = found.message ? "alter" : "keep";
    if (const auto more = without(ours.match_values, theirs.match_values); !more.empty())
      add_to(found.message, "values " + quoted_list(more) + " are not known there");
    if (theirs.epoch < ours.epoch)
      add_to(found.message, "epoch " + std::to_string(theirs.epoch) + " there is older than the one here");
    if (ours.standby_nodes != theirs.standby_nodes && !found.new_standbys)
      add_to(found.message, "standbys differ, and node \"" + there_.node + "\" is not its primary");
    if (ours.home_node != theirs.home_node)
      add_to(found.message, "its home differs");
    if (!found.message)
      found.message = "the order of its values differs";
  }

  // ---- tables -----------------------------------------------------------------------------------

  void compare_tables() {
    std::map<std::pair<std::string, std::string>, const core::TableDeclaration *> ours, theirs;
    for (const core::TableDeclaration &table : here_.tables)
      ours[{table.schema, table.name}] = &table;
    for (const core::TableDeclaration &table : there_.tables) {
      theirs[{table.schema, table.name}] = &table;
      const auto found = ours.find({table.schema, table.name});
      if (found == ours.end())
        judge_new(table);
      else if (!(found->second->rule == table.rule)) {
        refuse(item("table", sql_name(table), describe(found->second->rule), describe(table.rule)),
               {"55000", "table \"" + table.schema + "." + table.name + "\" belongs to clusters by " + describe(found->second->rule) +
                             " here, by " + describe(table.rule) + " there", {},
                "Its rows are parked on both sides. On the node that is wrong, SELECT seal_sync.table_remove(" +
                    literal(sql_name(table)) + ") and add it the other way."});
      }
    }
    for (const core::TableDeclaration &table : here_.tables)
      if (theirs.find({table.schema, table.name}) == theirs.end())
        keep(item("table", sql_name(table), describe(table.rule), {}));
  }

  void judge_new(const core::TableDeclaration &table) {
    ConfigItem &added = item("table", sql_name(table), {}, describe(table.rule));
    added.table = &table;
    added.by = by_of(table.rule);
    added.relation = find_relation(table.schema, table.name);
    if (added.by.cluster && clusters_.find(*added.by.cluster) == clusters_.end()) {
      refuse(added, {"42704", "cluster \"" + *added.by.cluster + "\" does not exist here, and is not adopted either"});
      return;
    }
    if (added.relation == InvalidOid) {
      refuse(added, {"42P01", "table \"" + table.schema + "." + table.name + "\" does not exist here", {},
                     "SELECT suggested_ddl FROM seal_sync.schema_diff(" + literal(there_.node) + ") WHERE relation = " +
                         literal(sql_name(table)) + " makes it; then adopt again."});
      return;
    }
    judge_table(added, caller_);
  }

  // ---- schemas ----------------------------------------------------------------------------------

  void compare_schemas() {
    std::map<std::string, const core::SchemaDeclaration *> ours, theirs;
    for (const core::SchemaDeclaration &schema : here_.schemas)
      ours[schema.schema] = &schema;
    for (const core::SchemaDeclaration &schema : there_.schemas) {
      theirs[schema.schema] = &schema;
      const auto found = ours.find(schema.schema);
      if (found == ours.end()) {
        judge_new(schema);
        continue;
      }
      const std::string shown_here = describe(*found->second);
      const std::string shown_there = describe(schema);
      if (shown_here == shown_there)
        continue;
      ConfigItem &both = item("schema", quote(schema.schema), shown_here, shown_there);
      both.action = "keep";
      both.message = "other tables are left out there";
      if (!(found->second->rule == schema.rule))
        refuse(both, {"55000", "new tables of schema \"" + schema.schema + "\" belong to clusters by " + describe(found->second->rule) +
                                   " here, by " + describe(schema.rule) + " there", {},
                      "On the node that is wrong, call seal_sync.schema_add with new_tables => true the other way."});
    }
    for (const core::SchemaDeclaration &schema : here_.schemas)
      if (theirs.find(schema.schema) == theirs.end())
        keep(item("schema", quote(schema.schema), describe(schema), {}));
  }

  void judge_new(const core::SchemaDeclaration &schema) {
    ConfigItem &added = item("schema", quote(schema.schema), {}, describe(schema));
    added.schema = &schema;
    added.by = by_of(schema.rule);
    const char *name = schema.schema.c_str();
    added.schema_oid = pg::call([=] { return get_namespace_oid(name, true); });
    try {
      if (added.schema_oid == InvalidOid)
        throw core::Error("3F000", "schema \"" + schema.schema + "\" does not exist here", {},
                          "CREATE SCHEMA " + quote(schema.schema) + ", then adopt again.");
      check_schema(added.schema_oid);
      refuse_foreign_schema(added.schema_oid, caller_);
      if (added.by.cluster && clusters_.find(*added.by.cluster) == clusters_.end())
        throw core::Error("42704", "cluster \"" + *added.by.cluster + "\" does not exist here, and is not adopted either");
      added.action = "add";
    } catch (const core::Error &why) { // not pg::Error: that one has broken the transaction
      refuse(added, why);
    }
  }

  const core::Configuration &here_;
  const core::Configuration &there_;
  const Oid caller_;
  std::vector<ConfigItem> items_;
  std::set<std::string> clusters_;             // that exist here, or would after adopting
  std::map<std::string, std::string> values_;  // and whose each value is
};

} // namespace

Oid find_relation(const std::string &schema, const std::string &name) {
  const char *s = schema.c_str();
  const char *n = name.c_str();
  return pg::call([=] {
    const Oid namespace_oid = get_namespace_oid(s, true);
    return OidIsValid(namespace_oid) ? get_relname_relid(n, namespace_oid) : InvalidOid;
  });
}

void judge_table(ConfigItem &item, Oid caller) {
  try {
    if (!pg::call([&] { return pg::owns_relation(item.relation, caller); }))
      throw core::Error("42501", "cannot add table \"" + display_name(item.relation) + "\": you do not own it", {},
                        "Its triggers slow down its changes and can refuse them: let its owner adopt it.");
    item.cluster_attno = check_table(item.relation, item.by);
    item.action = "add";
  } catch (const core::Error &why) { // not pg::Error: that one has broken the transaction
    refuse(item, why);
  }
}

std::vector<ConfigItem> compare_configurations(const core::Configuration &here, const core::Configuration &there,
                                               Oid caller) {
  return Comparison(here, there, caller).run();
}

} // namespace seal_sync::sql_api
