// node_detach: leaves in order, so that what comes back as this node is complete, whatever becomes of the data directory.
//
// One transaction: ship what is pending while applications go on; keep writers of registered tables out for a moment; ship the
// rest; note it. From its commit on the guard refuses writes here and routes and apply sessions rest. Any failure on the way
// rolls it back and nothing has happened. Invariants: nothing is committed to a registered table after the last shipment;
// applications wait for this call only for a moment at a time and are never the victim of a deadlock with it (a lock that does
// not come soon makes all of them be given back, to be tried again); no peer's batch is half applied. pg_upgrade carries
// positions along: they name transactions, whose numbers it keeps.
#include "apply/apply_session.hpp"
#include "apply/settings.hpp"
#include "pg/latch.hpp"
#include "sql_api/condition.hpp"
#include "sql_api/events.hpp"
#include "sql_api/registration.hpp"
#include "sql_api/steering.hpp"

#include <algorithm>

namespace seal_sync::sql_api {

namespace {

constexpr int64 kPauseMs = 50;      // between two attempts to get all locks
constexpr int64 kWritersWaitMs = 5000; // for the last shipment

struct Wanted {
  const Oid *tables;
  int table_count;
  const char *const *peers;
  int peer_count;
};

/// All or none. On failure *in_the_way is the table that could not be locked, or InvalidOid.
bool try_to_lock(const Wanted &wanted, Oid *in_the_way) {
  const MemoryContext caller = CurrentMemoryContext;
  const ResourceOwner owner = CurrentResourceOwner;
  volatile bool got = false;
  *in_the_way = InvalidOid;
  BeginInternalSubTransaction(nullptr);
  MemoryContextSwitchTo(caller);
  PG_TRY();
  {
    apply::bound_lock_waits();
    // Batches first: one that has its peer's lock gets its tables and ends.
    for (int i = 0; i < wanted.peer_count; i++)
      apply::lock_peer(wanted.peers[i]);
    for (int i = 0; i < wanted.table_count; i++) {
      *in_the_way = wanted.tables[i];
      LockRelationOid(wanted.tables[i], ShareLock);
    }
    ReleaseCurrentSubTransaction();
    got = true;
  }
  PG_CATCH();
  {
    MemoryContextSwitchTo(caller);
    ErrorData *const error = CopyErrorData();
    FlushErrorState();
    RollbackAndReleaseCurrentSubTransaction();
    MemoryContextSwitchTo(caller);
    CurrentResourceOwner = owner;
    if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE && error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
      ReThrowError(error);
  }
  PG_END_TRY();
  MemoryContextSwitchTo(caller);
  CurrentResourceOwner = owner;
  return got;
}

[[noreturn]] void writers_do_not_end(Oid table, int64 timeout_ms) {
  std::string detail = "Nothing was changed.";
  const Rows prepared = query("SELECT pg_catalog.string_agg(pg_catalog.quote_literal(p.gid), ', ' ORDER BY p.prepared) "
                              "FROM pg_catalog.pg_prepared_xacts p WHERE p.database = pg_catalog.current_database()");
  if (!prepared.null(0, 0))
    detail = "Prepared transactions are open: " + prepared.text(0, 0) + ". " + detail;
  if (!OidIsValid(table))
    throw core::Error("57014", "timed out after " + std::to_string(timeout_ms / 1000) + " s while waiting for a peer's batch",
                      detail, "Call seal_sync.node_detach again.");
  throw core::Error("57014",
                    "timed out after " + std::to_string(timeout_ms / 1000) +
                        " s while waiting for transactions that write to table \"" + display_name(table) + "\"",
                    detail,
                    "SELECT pid FROM pg_locks WHERE relation = " + literal(sql_name(table)) +
                        "::regclass shows them; end them, or stop the applications, and call seal_sync.node_detach again.");
}

void keep_writers_out(const pg::Deadline &deadline, int64 timeout_ms) {
  const Rows roots = query("SELECT r.relation::pg_catalog.oid FROM seal_sync.table_rule r "
                           "JOIN pg_catalog.pg_class c ON c.oid = r.relation ORDER BY 1");
  std::vector<Oid> tables;
  for (size_t i = 0; i < roots.size(); i++)
    for (const Oid member : members(roots.oid(i, 0)))
      tables.push_back(member);
  std::sort(tables.begin(), tables.end());
  const Rows peers = query("SELECT p.peer FROM seal_sync.peer p ORDER BY 1");
  std::vector<const char *> names;
  for (size_t i = 0; i < peers.size(); i++)
    names.push_back(peers.text(i, 0).c_str());
  const Wanted wanted = {tables.data(), static_cast<int>(tables.size()), names.data(), static_cast<int>(names.size())};
  for (;;) {
    Oid in_the_way = InvalidOid;
    if (pg::call([&] { return try_to_lock(wanted, &in_the_way); }))
      return;
    if (deadline.passed())
      writers_do_not_end(in_the_way, timeout_ms);
    pg::call([] { pg::wait(kPauseMs); });
  }
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_node_detach) {
  const std::string reason = required_text(fcinfo, 0, "reason");
  const int64 timeout_ms = timeout_of(fcinfo, 1);
  const std::string node = require_node();
  if (pg::call([] { return IsTransactionBlock(); }) || TransactionIdIsValid(GetTopTransactionIdIfAny()))
    throw core::Error("25001", "node_detach cannot run inside a transaction block",
                      "It keeps writers out of every registered table until its transaction ends.", "Call it by itself.");
  if (const char *since = detached())
    throw core::Error("55000", "node \"" + node + "\" is detached already", since,
                      "SELECT seal_sync.node_attach() brings it back.");
  if (is_copy())
    throw core::Error("55000", "this is a copy of node \"" + node + "\"", {}, "Decide with seal_sync.node_adopt what it is to be.");

  const pg::Deadline deadline = pg::Deadline::in_ms(timeout_ms);
  const bool ship = timeout_ms > 0;
  if (ship)
    ship_pending({}, timeout_ms);
  const AsOwner owner;
  const Spi spi;
  query("LOCK TABLE seal_sync.local_node IN SHARE ROW EXCLUSIVE MODE");
  keep_writers_out(deadline, timeout_ms);
  if (ship) // a few keys, committed since
    ship_pending({}, std::clamp<int64>(deadline.left_ms(), 1000, kWritersWaitMs));
  query("UPDATE seal_sync.local_node SET detached_since = pg_catalog.clock_timestamp(), detach_reason = $1", {arg(reason)});
  record_event("node_detach", "node", reason, {{"node", node}});
  rules_changed();
  if (!ship)
    notice("what is pending was not shipped", "It stays in the change log and is shipped after seal_sync.node_attach().");
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
