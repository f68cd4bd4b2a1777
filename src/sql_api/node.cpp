// node_create, node_drop: this database's identity, and what hangs on it.

#include "sql_api/node.hpp"

#include "apply/apply_session.hpp"
#include "pg/place.hpp"
#include "scan/batch.hpp"
#include "sql_api/ddl_events.hpp"
#include "sql_api/events.hpp"
#include "sql_api/registration.hpp"
#include "sql_api/sequence.hpp"
#include "worker/ddl_hooks.hpp"

namespace seal_sync::sql_api {

namespace {

/// What a restored dump holds are rules without positions, shapes and (rightly named) triggers; from
/// now on they are alive. Rows are trusted to be as they were dumped.
void revive_rules() {
  query("INSERT INTO seal_sync.cluster_state (cluster, primary_node) "
        "SELECT c.cluster, c.home_node FROM seal_sync.cluster c ON CONFLICT DO NOTHING");

  const Rows peers = query("INSERT INTO seal_sync.peer_state (peer, server_oid) SELECT p.peer, s.oid "
                           "FROM seal_sync.peer p LEFT JOIN pg_catalog.pg_foreign_server s ON s.srvname = p.server "
                           "ON CONFLICT DO NOTHING RETURNING peer");
  for (size_t i = 0; i < peers.size(); i++) {
    const char *peer = peers.text(i, 0).c_str();
    pg::call([peer] { scan::start_at(peer, scan::newest_position()); });
  }

  const Rows tables = query("SELECT r.relation::pg_catalog.oid, coalesce(a.attnum, 0) FROM seal_sync.table_rule r "
                            "JOIN pg_catalog.pg_class c ON c.oid = r.relation "
                            "LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = r.relation "
                            "AND a.attname = r.cluster_column AND NOT a.attisdropped");
  for (size_t i = 0; i < tables.size(); i++) {
    const Oid relation = tables.oid(i, 0);
    pg::call([=] {
      LockRelationOid(relation, ShareRowExclusiveLock);
      list_free(find_all_inheritors(relation, ShareRowExclusiveLock, nullptr));
    });
    drop_triggers(relation); // restored ones bear the number the table had before
    remember_shape(relation, shape_of(relation, std::stoi(tables.text(i, 1))));
    make_triggers(relation);
  }
}

/// No batch of a peer may be under way, and no route of ours, when what they rely on goes.
void wait_for_messages_under_way() {
  // A route in mid-batch holds locks on our tables while its peer is slow. It must be gone before user
  // tables are locked, or applications would queue up behind that peer.
  pg::call([] { worker::keep_workers_out_until_end(MyDatabaseId); });
  const Rows peers = query("SELECT p.peer FROM seal_sync.peer p ORDER BY 1");
  for (size_t i = 0; i < peers.size(); i++) {
    const char *name = peers.text(i, 0).c_str();
    pg::call([name] { apply::lock_peer(name); });
  }
}

} // namespace

void find_catalog_numbers() {
  query("UPDATE seal_sync.schema_rule r SET schema_oid = coalesce((SELECT n.oid FROM pg_catalog.pg_namespace n "
        "WHERE n.nspname = r.schema), 0)");
  query("UPDATE seal_sync.peer_state s SET server_oid = f.oid FROM seal_sync.peer p, pg_catalog.pg_foreign_server f "
        "WHERE p.peer = s.peer AND f.srvname = p.server AND s.server_oid IS DISTINCT FROM f.oid");
  tie_servers();
  const Rows tables = query("SELECT s.relation, s.cluster_attno FROM seal_sync.table_state s "
                            "JOIN seal_sync.table_rule r ON r.relation::pg_catalog.oid = s.relation "
                            "JOIN pg_catalog.pg_class c ON c.oid = s.relation");
  for (size_t i = 0; i < tables.size(); i++)
    remember_shape(tables.oid(i, 0), shape_of(tables.oid(i, 0), std::stoi(tables.text(i, 1))));
}

void create_node(const std::string &node) {
  if (!query("SELECT FROM seal_sync.peer WHERE peer = $1", {arg(node)}).empty())
    throw core::Error("42710", "a peer is called \"" + node + "\"", "Nodes that work together have different names.");
  query("INSERT INTO seal_sync.local_node (node, token) VALUES ($1, pg_catalog.gen_random_uuid())", {arg(node)});
  stay_here();
  rules_changed();
  revive_rules();
  find_catalog_numbers();
}

void stay_here() {
  const int64 timeline = pg::call([] { return pg::timeline_here(); });
  query("UPDATE seal_sync.local_node SET place = $1, place_timeline = $2, detached_since = NULL, detach_reason = NULL",
        {arg(pg::place_here()), int_arg(timeline)});
}

void forget_identity() {
  wait_for_messages_under_way();
  query("DELETE FROM seal_sync.local_node");
  query("DELETE FROM seal_sync.table_state");
  query("DELETE FROM seal_sync.held");
  query("DELETE FROM seal_sync.copy"); // their pins are of a log that goes, their stages of a name that goes
  query("DELETE FROM seal_sync.held_arrived");
  query("DELETE FROM seal_sync.peer_state");
  query("DELETE FROM seal_sync.origin");
  query("DELETE FROM seal_sync.sequence_peer"); // what peers have said to the one before
  query("DELETE FROM seal_sync.agreement");
  query("DELETE FROM seal_sync.reception");
  query("TRUNCATE seal_sync.change_log_0, seal_sync.change_log_1, seal_sync.change_log_2, "
        "seal_sync.change_log_3, seal_sync.change_log_4, seal_sync.change_log_5, seal_sync.change_log_6, "
        "seal_sync.change_log_7, seal_sync.route_history_0, seal_sync.route_history_1, "
        "seal_sync.applied_0, seal_sync.applied_1, seal_sync.stage, seal_sync.stage_table, seal_sync.stage_chunk");
}

SEAL_SYNC_FUNCTION(seal_sync_node_create) {
  const std::string node = required_name(fcinfo, 0, "node");
  check_new_name("node", node);

  const AsOwner owner;
  const Spi spi;
  query("LOCK TABLE seal_sync.local_node IN SHARE ROW EXCLUSIVE MODE");
  const Rows have = query("SELECT node FROM seal_sync.local_node");
  if (!have.empty())
    throw core::Error("42710", "this database is node \"" + have.text(0, 0) + "\" already", {},
                      "SELECT seal_sync.node_drop() takes its identity and all configuration away.");
  create_node(node);
  record_event("node_create", "node", {}, {{"node", node}});
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_node_drop) {
  const AsOwner owner;
  const Spi spi;
  query("LOCK TABLE seal_sync.local_node IN SHARE ROW EXCLUSIVE MODE");
  const Rows was = query("SELECT node FROM seal_sync.local_node");
  forget_identity();
  const Rows tables = query("SELECT r.relation::pg_catalog.oid FROM seal_sync.table_rule r "
                            "JOIN pg_catalog.pg_class c ON c.oid = r.relation ORDER BY 1");
  for (size_t i = 0; i < tables.size(); i++)
    drop_triggers(tables.oid(i, 0));
  give_all_sequences_back();
  query("DELETE FROM seal_sync.table_rule");
  query("DELETE FROM seal_sync.schema_rule");
  query("DELETE FROM seal_sync.peer");
  query("DELETE FROM seal_sync.cluster"); // takes cluster_state along
  rules_changed();
  record_event("node_drop", "node", {}, {{"node", was.empty() ? Rows::Value{} : was.rows[0][0]}, {"tables", static_cast<int64>(tables.size())}});
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_version) {
  const Datum version = pg::call([] { return PointerGetDatum(cstring_to_text(SEAL_SYNC_VERSION)); });
  PG_RETURN_DATUM(version);
}

} // namespace seal_sync::sql_api
