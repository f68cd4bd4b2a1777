// cluster_create, cluster_alter, cluster_drop, is_primary, primary_of.

#include "sql_api/cluster.hpp"

#include "capture/capture.hpp"
#include "config/config.hpp"
#include "sql_api/events.hpp"

#include <algorithm>

namespace seal_sync::sql_api {

void lock_clusters() { query("LOCK TABLE seal_sync.cluster IN SHARE ROW EXCLUSIVE MODE"); }

namespace {

std::vector<std::string> match_values(const std::string &cluster) {
  const Rows rows = query("SELECT v FROM seal_sync.cluster c, pg_catalog.unnest(c.match_values) WITH ORDINALITY u(v, n) "
                          "WHERE c.cluster = $1 ORDER BY n",
                          {arg(cluster)});
  std::vector<std::string> values;
  for (size_t i = 0; i < rows.size(); i++)
    values.push_back(rows.text(i, 0));
  return values;
}

void require_cluster(const std::string &cluster) {
  if (query("SELECT FROM seal_sync.cluster WHERE cluster = $1", {arg(cluster)}).empty())
    throw core::Error("42704", "cluster \"" + cluster + "\" does not exist");
}

void refuse_overlap(const std::string &cluster, const std::vector<std::string> &values) {
  for (size_t i = 0; i < values.size(); i++)
    if (std::find(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(i), values[i]) !=
        values.begin() + static_cast<std::ptrdiff_t>(i))
      throw core::Error("22023", "value \"" + values[i] + "\" is given twice");
  const Rows taken = query("SELECT v, c.cluster FROM seal_sync.cluster c, pg_catalog.unnest(c.match_values) v "
                           "WHERE c.cluster <> $1 AND v = ANY ($2) ORDER BY v LIMIT 1",
                           {arg(cluster), arg(values)});
  if (!taken.empty())
    throw core::Error("42710", "value \"" + taken.text(0, 0) + "\" belongs to cluster \"" + taken.text(0, 1) + "\" already",
                      "A row can belong to one cluster only.");
}

/// Declaring may come before the peer is known; a wrong name would make a cluster nobody can write.
void notice_unknown_node(const std::string &node) {
  if (query("SELECT FROM seal_sync.local_node WHERE node = $1 UNION ALL SELECT FROM seal_sync.peer WHERE peer = $1",
            {arg(node)})
          .empty())
    notice("node \"" + node + "\" is not known here yet", {},
           "SELECT seal_sync.peer_create(" + literal(node) + ") makes it known.");
}

} // namespace

void copy_rows_with(const std::vector<std::string> &values) {
  std::vector<const char *> texts;
  for (const std::string &value : values)
    texts.push_back(value.c_str());
  const Rows tables = query("SELECT r.relation::pg_catalog.oid FROM seal_sync.table_rule r "
                            "WHERE r.cluster_column IS NOT NULL ORDER BY 1");
  for (size_t i = 0; i < tables.size(); i++) {
    const Oid relation = tables.oid(i, 0);
    pg::call([&] { capture::recapture_values(relation, texts.data(), static_cast<int>(texts.size())); });
  }
}

void declare_cluster(const Declared &cluster) {
  // The number stands in the change log, so it is never given a second time.
  const Rows id = query("SELECT greatest(pg_catalog.nextval('seal_sync.cluster_id'), "
                        "(SELECT pg_catalog.max(c.cluster_id) + 1 FROM seal_sync.cluster c))");
  query("SELECT pg_catalog.setval('seal_sync.cluster_id', $1)", {int_arg(std::stol(id.text(0, 0)))});
  query("INSERT INTO seal_sync.cluster (cluster, cluster_id, match_values, home_node, standby_nodes) "
        "VALUES ($1, $2, $3, $4, $5)",
        {arg(cluster.name), int_arg(std::stol(id.text(0, 0))), arg(cluster.match_values), arg(cluster.home_node),
         cluster.standby_nodes ? arg(*cluster.standby_nodes) : Arg{TEXTARRAYOID, 0, true}});
  query("INSERT INTO seal_sync.cluster_state (cluster, primary_node, epoch) VALUES ($1, $2, $3)",
        {arg(cluster.name), arg(cluster.primary_node), int_arg(cluster.epoch)});
}

namespace {

const config::Cluster *asked_cluster(FunctionCallInfo fcinfo) {
  const std::string name = required_name(fcinfo, 0, "cluster");
  const char *text = name.c_str();
  const config::Cluster *cluster = pg::call([text] {
    config::refresh();
    return config::find_cluster(text);
  });
  if (cluster == nullptr)
    throw core::Error("42704", "cluster \"" + name + "\" does not exist");
  return cluster;
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_cluster_create) {
  const std::string cluster = required_name(fcinfo, 0, "cluster");
  const std::string primary = required_name(fcinfo, 1, "primary_node");
  const std::vector<std::string> values = optional_list(fcinfo, 2, "match_values").value_or(std::vector{cluster});
  const std::optional<std::vector<std::string>> standbys = optional_list(fcinfo, 3, "standby_nodes");
  check_new_name("cluster", cluster);
  check_new_name("node", primary);
  if (values.empty())
    throw core::Error("22023", "match_values must not be empty", "No row could belong to the cluster.");
  require_node();

  const AsOwner owner;
  const Spi spi;
  lock_clusters();
  if (!query("SELECT FROM seal_sync.cluster WHERE cluster = $1", {arg(cluster)}).empty())
    throw core::Error("42710", "cluster \"" + cluster + "\" already exists");
  refuse_overlap(cluster, values);
  notice_unknown_node(primary);
  for (const std::string &standby : standbys.value_or(std::vector<std::string>{}))
    if (standby != primary)
      notice_unknown_node(standby);
  declare_cluster({cluster, values, primary, primary, 1, standbys});
  rules_changed();
  copy_rows_with(values);
  record_event("cluster_create", "cluster " + cluster, {},
               {{"primary_node", primary}, {"match_values", values}, {"standby_nodes", standbys.value_or(std::vector<std::string>{})}});
  PG_RETURN_VOID();
}

namespace {

/// The standbys after the change; an error when a name does not make sense.
std::vector<std::string> altered_standbys(const std::string &cluster, const std::vector<std::string> &add,
                                          const std::vector<std::string> &drop) {
  const Rows now = query("SELECT c.standby_nodes IS NULL, s.primary_node FROM seal_sync.cluster c "
                         "JOIN seal_sync.cluster_state s ON s.cluster = c.cluster WHERE c.cluster = $1",
                         {arg(cluster)});
  if (now.boolean(0, 0))
    throw core::Error("55000", "every peer is a standby of cluster \"" + cluster + "\"",
                      "It was declared without standby_nodes, so nothing can be added or dropped.");
  const Rows rows = query("SELECT v FROM seal_sync.cluster c, pg_catalog.unnest(c.standby_nodes) WITH ORDINALITY u(v, n) "
                          "WHERE c.cluster = $1 ORDER BY n",
                          {arg(cluster)});
  std::vector<std::string> standbys;
  for (size_t i = 0; i < rows.size(); i++)
    standbys.push_back(rows.text(i, 0));
  for (const std::string &node : drop) {
    const auto at = std::find(standbys.begin(), standbys.end(), node);
    if (at == standbys.end())
      throw core::Error("22023", "node \"" + node + "\" is no standby of cluster \"" + cluster + "\"");
    standbys.erase(at);
  }
  for (const std::string &node : add) {
    check_new_name("node", node);
    if (std::find(standbys.begin(), standbys.end(), node) != standbys.end())
      throw core::Error("42710", "node \"" + node + "\" is a standby of cluster \"" + cluster + "\" already");
    if (node != now.text(0, 1))
      notice_unknown_node(node);
    standbys.push_back(node);
  }
  return standbys;
}

/// What a new standby does not have yet is all of it. The workers ship it, as for a new peer.
void ship_all_again(const std::string &cluster, const std::vector<std::string> &nodes) {
  query("UPDATE seal_sync.table_state s SET dirty_since = COALESCE(s.dirty_since, pg_catalog.clock_timestamp()), dirty_reason = $2 "
        "FROM seal_sync.table_rule r WHERE r.relation::pg_catalog.oid = s.relation AND coalesce(r.cluster = $1, true)",
        {arg(cluster), arg("cluster \"" + cluster + "\" has got standby \"" + nodes[0] + "\"")});
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_cluster_alter) {
  const std::string cluster = required_name(fcinfo, 0, "cluster");
  const std::vector<std::string> add = optional_list(fcinfo, 1, "add_values").value_or(std::vector<std::string>{});
  const std::vector<std::string> drop = optional_list(fcinfo, 2, "drop_values").value_or(std::vector<std::string>{});
  const std::vector<std::string> add_standbys = optional_list(fcinfo, 3, "add_standbys").value_or(std::vector<std::string>{});
  const std::vector<std::string> drop_standbys = optional_list(fcinfo, 4, "drop_standbys").value_or(std::vector<std::string>{});

  const AsOwner owner;
  const Spi spi;
  lock_clusters();
  require_cluster(cluster);
  std::vector<std::string> values = match_values(cluster);
  for (const std::string &value : drop) {
    const auto at = std::find(values.begin(), values.end(), value);
    if (at == values.end())
      throw core::Error("22023", "value \"" + value + "\" does not belong to cluster \"" + cluster + "\"");
    values.erase(at);
  }
  values.insert(values.end(), add.begin(), add.end());
  if (values.empty())
    throw core::Error("22023", "cluster \"" + cluster + "\" would have no value left", "No row could belong to it.");
  refuse_overlap(cluster, values);
  query("UPDATE seal_sync.cluster SET match_values = $2 WHERE cluster = $1", {arg(cluster), arg(values)});
  if (!add_standbys.empty() || !drop_standbys.empty())
    query("UPDATE seal_sync.cluster SET standby_nodes = $2 WHERE cluster = $1",
          {arg(cluster), arg(altered_standbys(cluster, add_standbys, drop_standbys))});
  if (!add_standbys.empty())
    ship_all_again(cluster, add_standbys);
  rules_changed();
  if (!add.empty())
    copy_rows_with(add);
  if (add_standbys.empty() && drop_standbys.empty())
    record_event("cluster_alter", "cluster " + cluster, {}, {{"add_values", add}, {"drop_values", drop}});
  else
    record_event("cluster_alter", "cluster " + cluster, {},
                 {{"add_values", add}, {"drop_values", drop}, {"add_standbys", add_standbys}, {"drop_standbys", drop_standbys}});
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_cluster_drop) {
  const std::string cluster = required_name(fcinfo, 0, "cluster");

  const AsOwner owner;
  const Spi spi;
  lock_clusters();
  require_cluster(cluster);
  const Rows users = query("SELECT r.relation::pg_catalog.oid FROM seal_sync.table_rule r WHERE r.cluster = $1 "
                           "ORDER BY r.relation::pg_catalog.text",
                           {arg(cluster)});
  if (!users.empty()) {
    std::string tables;
    for (size_t i = 0; i < users.size() && i < 5; i++)
      tables += (i == 0 ? "\"" : ", \"") + display_name(users.oid(i, 0)) + "\"";
    if (users.size() > 5)
      tables += " and " + std::to_string(users.size() - 5) + " more";
    throw core::Error("2BP01", "cannot drop cluster \"" + cluster + "\": tables belong to it as a whole",
                      "Registered with this cluster: " + tables + ".",
                      "SELECT seal_sync.table_remove(" + literal(sql_name(users.oid(0, 0))) + ") takes a table out.");
  }
  const Rows schemas = query("SELECT r.schema FROM seal_sync.schema_rule r WHERE r.cluster = $1 ORDER BY 1", {arg(cluster)});
  if (!schemas.empty())
    throw core::Error("2BP01", "cannot drop cluster \"" + cluster + "\": new tables of schema \"" + schemas.text(0, 0) +
                                   "\" belong to it", {},
                      "SELECT * FROM seal_sync.schema_add(" + literal(quote(schemas.text(0, 0))) + ", cluster => " +
                          literal(cluster) + ", new_tables => false) ends that.");
  const Rows sequences = query("SELECT r.sequence::pg_catalog.oid FROM seal_sync.sequence_rule r WHERE r.cluster = $1 ORDER BY 1 LIMIT 1", {arg(cluster)});
  if (!sequences.empty())
    throw core::Error("2BP01", "cannot drop cluster \"" + cluster + "\": sequence \"" + display_name(sequences.oid(0, 0)) + "\" is carried for it", {},
                      "SELECT seal_sync.sequence_remove(" + literal(sql_name(sequences.oid(0, 0))) + ") takes it out.");
  query("DELETE FROM seal_sync.held h USING seal_sync.cluster c WHERE c.cluster = $1 AND h.cluster_id = c.cluster_id",
        {arg(cluster)});
  query("DELETE FROM seal_sync.held_arrived h USING seal_sync.cluster c WHERE c.cluster = $1 AND h.cluster_id = c.cluster_id",
        {arg(cluster)});
  query("DELETE FROM seal_sync.cluster WHERE cluster = $1", {arg(cluster)});
  rules_changed();
  record_event("cluster_drop", "cluster " + cluster);
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_is_primary) { PG_RETURN_BOOL(asked_cluster(fcinfo)->primary_here); }

SEAL_SYNC_FUNCTION(seal_sync_primary_of) {
  const config::Cluster *cluster = asked_cluster(fcinfo);
  const Datum name = pg::call([cluster] {
    return DirectFunctionCall1(namein, CStringGetDatum(NameStr(cluster->primary_node)));
  });
  PG_RETURN_DATUM(name);
}

} // namespace seal_sync::sql_api
