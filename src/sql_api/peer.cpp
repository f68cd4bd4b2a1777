// peer_create, peer_alter, peer_drop: which node is reached through which foreign server.
//
// Only this node is written to. What can be wrong between the two is asked with a short connection:
// not reachable or not installed yet is reported and tried again by the workers, a contradiction is
// an error now rather than a riddle in the log later.

#include "apply/apply_session.hpp"
#include "scan/batch.hpp"
#include "sql_api/copies.hpp"
#include "sql_api/events.hpp"
#include "sql_api/peer_probe.hpp"

namespace seal_sync::sql_api {

namespace {

/// The server exists, is one of ours, and has the login the workers use.
Oid check_server(const std::string &server) {
  const Rows rows = query("SELECT s.oid, f.oid = (SELECT w.oid FROM pg_catalog.pg_foreign_data_wrapper w "
                          " JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass "
                          " AND d.objid = w.oid AND d.deptype = 'e' AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass "
                          " JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'seal_sync'), "
                          "EXISTS (SELECT FROM pg_catalog.pg_user_mapping m WHERE m.umserver = s.oid AND (m.umuser = 0 OR "
                          " m.umuser = (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = 'seal_sync_worker'))) "
                          "FROM pg_catalog.pg_foreign_server s JOIN pg_catalog.pg_foreign_data_wrapper f ON f.oid = s.srvfdw "
                          "WHERE s.srvname = $1",
                          {arg(server)});
  if (rows.empty())
    throw core::Error("42704", "server \"" + server + "\" does not exist", {},
                      "CREATE SERVER " + quote(server) + " FOREIGN DATA WRAPPER seal_sync OPTIONS (host '…', dbname '…').");
  if (!rows.boolean(0, 1))
    throw core::Error("42809", "server \"" + server + "\" does not belong to foreign-data wrapper \"seal_sync\"");
  if (!rows.boolean(0, 2))
    throw core::Error("42704", "server \"" + server + "\" has no user mapping for role \"seal_sync_worker\"",
                      "The workers log in at the peer with its options.",
                      "CREATE USER MAPPING FOR seal_sync_worker SERVER " + quote(server) + " OPTIONS (user '…').");
  return rows.oid(0, 0);
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_peer_create) {
  const std::string peer = required_name(fcinfo, 0, "peer");
  const std::string server = optional_name(fcinfo, 1).value_or(peer);
  const bool require_connection = flag(fcinfo, 2, false);
  check_new_name("peer", peer);
  const std::string node = require_node();
  if (peer == node)
    throw core::Error("22023", "node \"" + peer + "\" cannot be its own peer");

  const AsOwner owner;
  const Spi spi;
  if (!query("SELECT FROM seal_sync.peer WHERE peer = $1", {arg(peer)}).empty())
    throw core::Error("42710", "peer \"" + peer + "\" already exists");
  const Oid server_oid = check_server(server);
  probe_peer(peer, server, require_connection);
  query("INSERT INTO seal_sync.peer (peer, server) VALUES ($1, $2)", {arg(peer), arg(server)});
  query("INSERT INTO seal_sync.peer_state (peer, server_oid) VALUES ($1, $2)", {arg(peer), arg(server_oid)});
  const char *name = peer.c_str();
  pg::call([name] { scan::start_at(name, scan::newest_position()); });
  // The log may say nothing of rows that were there before: tables registered by now are shipped again.
  query("INSERT INTO seal_sync.copy (peer, relation) SELECT $1, s.relation FROM seal_sync.table_state s ORDER BY s.added_at, s.relation",
        {arg(peer)});
  rules_changed();
  record_event("peer_create", "peer " + peer, {}, {{"server", server}});
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_peer_alter) {
  const std::string peer = required_name(fcinfo, 0, "peer");
  const std::string server = required_name(fcinfo, 1, "server");

  const AsOwner owner;
  const Spi spi;
  require_peer(peer);
  const Oid server_oid = check_server(server);
  probe_peer(peer, server, false);
  query("UPDATE seal_sync.peer SET server = $2 WHERE peer = $1", {arg(peer), arg(server)});
  query("UPDATE seal_sync.peer_state SET server_oid = $2 WHERE peer = $1", {arg(peer), arg(server_oid)});
  rules_changed();
  record_event("peer_alter", "peer " + peer, {}, {{"server", server}});
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_peer_drop) {
  const std::string peer = required_name(fcinfo, 0, "peer");

  const AsOwner owner;
  const Spi spi;
  const char *name = peer.c_str();
  pg::call([name] { apply::lock_peer(name); }); // a message of it under way would leave something behind
  require_peer(peer);
  query("DELETE FROM seal_sync.peer WHERE peer = $1", {arg(peer)}); // takes peer_state and held along
  for (const char *table : {"route_history_0", "route_history_1", "held_arrived"})
    query(std::string("DELETE FROM seal_sync.") + table + " WHERE peer = $1", {arg(peer)});
  // Nor is anything remembered of what it sent: as a peer it would start anew.
  for (const char *table : {"applied_0", "applied_1"})
    query(std::string("DELETE FROM seal_sync.") + table + " WHERE origin = $1", {arg(peer)});
  query("DELETE FROM seal_sync.stage WHERE origin = $1", {arg(peer)}); // their chunks follow
  query("DELETE FROM seal_sync.origin WHERE node = $1", {arg(peer)});
  query("DELETE FROM seal_sync.reception WHERE origin = $1", {arg(peer)});
  rules_changed();
  record_event("peer_drop", "peer " + peer);
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
