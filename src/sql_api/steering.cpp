// pause, resume, sync_now: what an operator does to a running route.

#include "config/config.hpp"
#include "pg/latch.hpp"
#include "pg/shared_state.hpp"
#include "scan/batch.hpp"
#include "sql_api/durations.hpp"
#include "sql_api/events.hpp"
#include "sql_api/steering.hpp"
#include "worker/wakeup.hpp"

#include <algorithm>

namespace seal_sync::sql_api {

namespace {

/// One route that sync_now waits for.
struct Wanted {
  std::string peer;
  uint64 number;
  int64 keys_at_start;
};

struct RouteView {
  bool used = false;
  uint64 sync_done = 0;
  pg::RouteState state = pg::RouteState::kStopped;
  char text[300] = "";
};

RouteView look_at(const std::string &peer) {
  const char *name = peer.c_str();
  return pg::call([name] {
    RouteView view;
    LWLockAcquire(pg::shared_lock(), LW_SHARED);
    if (const pg::RouteSlot *slot = pg::route_slot(MyDatabaseId, name, false)) {
      view.used = true;
      view.sync_done = slot->sync_done;
      view.state = slot->state;
      const char *reason = slot->state_reason[0] != '\0' ? slot->state_reason : slot->last_error;
      snprintf(view.text, sizeof view.text, "\"%s\"%s%s", pg::to_text(slot->state), reason[0] != '\0' ? ": " : "",
               slot->state == pg::RouteState::kStreaming ? "" : reason);
    }
    LWLockRelease(pg::shared_lock());
    return view;
  });
}

int64 pending(const std::string &peer) {
  const AsOwner owner;
  const char *name = peer.c_str();
  return pg::call([name] {
    config::refresh();
    return scan::pending_keys(name);
  });
}

[[noreturn]] void timed_out(const Wanted &wanted, int64 timeout_ms) {
  const RouteView view = look_at(wanted.peer);
  const int64 left = pending(wanted.peer);
  throw core::Error("57014",
                    "timed out after " + in_seconds(timeout_ms) + " while waiting for peer \"" + wanted.peer + "\"",
                    std::to_string(left) + " of " + std::to_string(std::max(wanted.keys_at_start, left)) +
                        " keys are not there yet; state " + (view.used ? view.text : "\"stopped\"") + ".",
                    "Nothing is lost; see seal_sync.status.");
}

void refuse_if_not_running(const std::string &peer) {
  const Rows rows = query("SELECT s.paused_since IS NOT NULL AND (s.pause_until IS NULL OR s.pause_until > pg_catalog.clock_timestamp()), "
                          "s.pause_reason, s.halted_since IS NOT NULL, s.halt_message FROM seal_sync.peer_state s WHERE s.peer = $1",
                          {arg(peer)});
  if (rows.empty())
    return;
  if (rows.boolean(0, 2))
    throw core::Error("55000", "shipping to peer \"" + peer + "\" is halted", rows.null(0, 3) ? "" : rows.text(0, 3),
                      "See seal_sync.health.");
  if (rows.boolean(0, 0))
    throw core::Error("55000", "shipping to peer \"" + peer + "\" is paused",
                      rows.null(0, 1) ? "" : "Reason given: " + rows.text(0, 1),
                      "SELECT seal_sync.resume(" + literal(peer) + ") goes on.");
}

/// The routes to wait for; an error when one of them will not go on by itself.
std::vector<Wanted> routes_to_wait_for(const std::optional<std::string> &peer) {
  const AsOwner owner;
  const Spi spi;
  std::vector<Wanted> wanted;
  if (peer)
    require_peer(*peer);
  const Rows peers = peer ? query("SELECT $1", {arg(*peer)}) : query("SELECT p.peer FROM seal_sync.peer p ORDER BY 1");
  for (size_t i = 0; i < peers.size(); i++) {
    const std::string &name = peers.text(i, 0);
    refuse_if_not_running(name);
    wanted.push_back({name, 0, pending(name)});
  }
  return wanted;
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_pause) {
  const std::string peer = required_name(fcinfo, 0, "peer");
  const std::optional<std::string> reason = optional_text(fcinfo, 1);
  const Arg duration = datum_arg(INTERVALOID, PG_ARGISNULL(2) ? 0 : PG_GETARG_DATUM(2), PG_ARGISNULL(2));

  const AsOwner owner;
  const Spi spi;
  require_peer(peer);
  if (!duration.null && !query("SELECT WHERE $1 <= interval '0'", {duration}).empty())
    throw core::Error("22023", "duration of a pause must be positive");
  query("UPDATE seal_sync.peer_state SET paused_since = coalesce(paused_since, pg_catalog.clock_timestamp()), "
        "pause_until = pg_catalog.clock_timestamp() + $2, pause_reason = $3 WHERE peer = $1",
        {arg(peer), duration, arg(reason)});
  record_event("pause", "peer " + peer, reason);
  pg::call([] { worker::wake_at_commit(); });
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_resume) {
  const std::string peer = required_name(fcinfo, 0, "peer");

  const AsOwner owner;
  const Spi spi;
  require_peer(peer);
  // A halted route tries again too; what halted it is found again if it is still there.
  query("UPDATE seal_sync.peer_state SET paused_since = NULL, pause_until = NULL, pause_reason = NULL, "
        "halted_since = NULL, halt_message = NULL WHERE peer = $1",
        {arg(peer)});
  record_event("resume", "peer " + peer, {});
  pg::call([] { worker::wake_at_commit(); });
  PG_RETURN_VOID();
}

/// Done is not the same as all there: says so when keys are held back.
static void tell_held(const std::string &peer) {
  const AsOwner owner;
  const Spi spi;
  const Rows held = query("SELECT pg_catalog.count(*), pg_catalog.string_agg(DISTINCT state, ', ') "
                          "FROM seal_sync.held WHERE peer = $1 AND state <> 'skipped'",
                          {arg(peer)});
  if (held.text(0, 0) != "0")
    notice(held.text(0, 0) + " keys are held back for peer \"" + peer + "\" (" + held.text(0, 1) + ")",
           "Everything else has arrived.", "SELECT * FROM seal_sync.health tells what they wait for.");
}

int64 timeout_of(FunctionCallInfo fcinfo, int number) {
  if (PG_ARGISNULL(number))
    throw core::Error("22004", "argument \"timeout\" must not be null");
  const int64 timeout_ms = to_milliseconds(PG_GETARG_INTERVAL_P(number));
  if (timeout_ms < 0)
    throw core::Error("22023", "timeout must not be negative");
  return timeout_ms;
}

void ship_pending(const std::optional<std::string> &peer, int64 timeout_ms) {
  if (!pg::have_shared_state())
    throw core::Error("55000", "no worker runs on this server",
                      "The library seal_sync is not in shared_preload_libraries.",
                      "Add it to shared_preload_libraries and restart the server.");

  std::vector<Wanted> wanted = routes_to_wait_for(peer);
  const pg::Deadline deadline = pg::Deadline::in_ms(timeout_ms);
  const auto ask = [](Wanted &route) {
    const char *name = route.peer.c_str();
    route.number = pg::call([name] { return pg::request_sync(MyDatabaseId, name); });
  };
  for (Wanted &route : wanted)
    ask(route);
  for (Wanted &route : wanted) {
    for (;;) {
      if (route.number == 0) // its worker may just be starting
        ask(route);
      if (route.number != 0 && look_at(route.peer).sync_done >= route.number)
        break;
      if (deadline.passed())
        timed_out(route, timeout_ms);
      const int64 step = std::min<int64>(deadline.left_ms(), 20);
      pg::call([step] { pg::wait(step); });
    }
  }
  for (const Wanted &route : wanted)
    tell_held(route.peer);
}

SEAL_SYNC_FUNCTION(seal_sync_sync_now) {
  const std::optional<std::string> peer = optional_name(fcinfo, 0);
  const int64 timeout_ms = timeout_of(fcinfo, 1);

  // What this transaction has written is not visible to the worker before it commits, so waiting for
  // it would always time out (trap T22).
  if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
    throw core::Error("25001", "sync_now cannot run in a transaction that has made changes",
                      "They can be shipped only when the transaction has committed.",
                      "COMMIT, then call seal_sync.sync_now() by itself.");
  require_node();
  ship_pending(peer, timeout_ms);
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
