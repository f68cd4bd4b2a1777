// The database worker: one per database with the extension. Keeps a route worker for each peer and
// rotates the change log and the history of applied batches.
//
// Started by the launcher, restarted by it. Reads its tables when a configuration call commits (it is
// woken then) and every few seconds; nothing is kept but pauses and handles, so a successor goes on
// with the route workers that run.
#include "apply/progress.hpp"
#include "apply/stage_store.hpp"
#include "config/condition.hpp"
#include "config/config.hpp"
#include "pg/guc.hpp"
#include "pg/scopes.hpp"
#include "scan/agreement.hpp"
#include "scan/arrived.hpp"
#include "scan/rotation.hpp"
#include "worker/child.hpp"
#include "worker/event_upkeep.hpp"
#include "worker/home.hpp"
#include "worker/own_tables.hpp"
#include "worker/roster.hpp"

#include <algorithm>
#include <csignal>
#include <map>


namespace seal_sync::worker {

namespace {

constexpr int64 kPollMs = 5000;
constexpr int kStageParts = 32; // some seconds
constexpr uint64 kRotationsAnUpkeep = 12; // a minute, unless a test rotates faster

class DatabaseWorker {
public:
  explicit DatabaseWorker(Oid database) : database_(database) {}

  /// Returns when the extension is gone.
  void run() {
    for (;;) {
      const pg::ScratchContext scratch("seal_sync database worker");
      std::vector<std::string> peers;
      const char *idle_reason = nullptr;
      if (!read_tables(&peers, &idle_reason)) {
        pg::call([&] {
          report_extension(database_, false);
          terminate_routes();
        });
        return;
      }
      pg::call([&] { report_extension(database_, true); });
      int64 pause = kPollMs;
      for (const std::string &peer : peers)
        pause = std::min(pause, look_after(peer, idle_reason));
      if (dismiss_others(peers))
        pause = std::min<int64>(pause, 500);
      pause = std::min<int64>(pause, guc::debug_rotation_period);
      if (rotated_us_ + int64{guc::debug_rotation_period} * 1000 <= pg::monotonic_us())
        rotate();
      pg::call([&] {
        pgstat_report_stat(true);
        pg::wait(pause);
      });
    }
  }

private:
  /// False: no extension here.
  static bool read_tables(std::vector<std::string> *peers, const char **idle_reason) {
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    const bool present = pg::call([] { return OidIsValid(get_extension_oid("seal_sync", true)); });
    if (present) {
      const Rows rows = pg::call([] { return query("SELECT peer FROM seal_sync.peer ORDER BY peer", {}); });
      for (int i = 0; i < rows.count; i++)
        peers->emplace_back(rows.at(i, 0));
      const bool node = pg::call([] {
        config::refresh();
        return config::local_node() != nullptr;
      });
      const bool detached = node && pg::call([] { return config::detached() != nullptr; });
      const bool copied = node && pg::call([] { return config::copied(); });
      const bool promoted = node && pg::call([] { return config::promoted(); });
      // After a promotion elsewhere the first route that has spoken from here notes it.
      if (node && guc::enabled && !detached && !copied && (peers->empty() || !promoted))
        pg::call([] {
          static bool noted = false;
          if (!noted)
            note_place();
          noted = true;
        });
      if (!guc::enabled)
        *idle_reason = "seal_sync.enabled is off";
      else if (!node)
        *idle_reason = "this node has no identity";
      else if (detached)
        *idle_reason = "the node is detached";
      else if (copied)
        *idle_reason = "this is a copy of the node, and nobody has decided what it is to be";
    }
    transaction.commit();
    return present;
  }

  struct Slot {
    bool exists;
    bool running;
  };

  /// Makes the route's slot, and with a reason shows why nothing runs there.
  Slot look_at_slot(const char *peer, const char *idle_reason) const {
    return pg::call([&] {
      LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
      pg::RouteSlot *slot = pg::route_slot(database_, peer, true);
      Slot out = {slot != nullptr, slot != nullptr && slot->pid != 0};
      if (slot != nullptr && idle_reason != nullptr) {
        if (slot->pid != 0)
          kill(slot->pid, SIGTERM);
        else if (slot->state != pg::RouteState::kStopped || strcmp(slot->state_reason, idle_reason) != 0) {
          slot->state = pg::RouteState::kStopped;
          slot->state_since = GetCurrentTimestamp();
          strlcpy(slot->state_reason, idle_reason, sizeof slot->state_reason);
          slot->next_retry_at = 0;
        }
      }
      LWLockRelease(pg::shared_lock());
      return out;
    });
  }

  int64 look_after(const std::string &peer, const char *idle_reason) {
    const Slot slot = look_at_slot(peer.c_str(), idle_reason);
    if (!slot.exists) {
      if (!warned_full_)
        pg::call([&] {
          ereport(WARNING, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                  errmsg("no room for the route to peer \"%s\"", peer.c_str()),
                  errdetail("A server has at most %d routes.", pg::kMaxRoutes));
        });
      warned_full_ = true;
      return kPollMs;
    }
    Child &child = routes_[peer];
    const bool running = child.running(slot.running);
    if (idle_reason != nullptr) {
      child.forgive();
      return running ? 500 : kPollMs;
    }
    if (running)
      return kPollMs;
    if (!child.due()) {
      show_pause(peer.c_str(), child.due_in_ms());
      return child.due_in_ms();
    }
    RouteKey key = {};
    key.database = database_;
    namestrcpy(&key.peer, peer.c_str());
    const std::string name = "seal_sync route worker \"" + peer + "\"";
    child.launch({"seal_sync route worker", name.c_str(), "seal_sync_route_worker_main", database_, &key,
                  sizeof key});
    return kPollMs;
  }

  void show_pause(const char *peer, int64 milliseconds) const {
    pg::call([&] {
      LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
      if (pg::RouteSlot *slot = pg::route_slot(database_, peer, false))
        slot->next_retry_at = GetCurrentTimestamp() + milliseconds * 1000;
      LWLockRelease(pg::shared_lock());
    });
  }

  /// Route workers whose peer was dropped. True: one is still on its way out.
  bool dismiss_others(const std::vector<std::string> &peers) {
    bool any = false;
    pg::RouteSlot *slots = pg::route_slots();
    for (int i = 0; i < pg::kMaxRoutes; i++) {
      pg::call([&] { LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE); });
      if (slots[i].used && slots[i].database == database_) {
        const std::string_view peer(NameStr(slots[i].peer));
        const bool known = std::any_of(peers.begin(), peers.end(), [&](const auto &p) { return p == peer; });
        if (!known && slots[i].pid != 0) {
          any = true;
          kill(slots[i].pid, SIGTERM);
        } else if (!known) {
          pg::forget_route(&slots[i]);
        }
      }
      LWLockRelease(pg::shared_lock());
    }
    for (auto route = routes_.begin(); route != routes_.end();)
      if (std::find(peers.begin(), peers.end(), route->first) == peers.end() && !route->second.running(false))
        route = routes_.erase(route);
      else
        ++route;
    return any;
  }

  void terminate_routes() const {
    LWLockAcquire(pg::shared_lock(), LW_SHARED);
    for (int i = 0; i < pg::kMaxRoutes; i++) {
      const pg::RouteSlot &slot = pg::route_slots()[i];
      if (slot.used && slot.database == database_ && slot.pid != 0)
        kill(slot.pid, SIGTERM);
    }
    LWLockRelease(pg::shared_lock());
  }

  void rotate() {
    rotated_us_ = pg::monotonic_us();
    const TimestampTz keep_since = GetCurrentTimestamp() - static_cast<int64>(guc::resend_window) * USECS_PER_SEC;
    in_transaction([&] { (void)scan::rotate_log(keep_since); });
    in_transaction([&] { scan::rotate_history(keep_since); });
    in_transaction([&] { scan::forget_arrived(keep_since); });
    in_transaction([] { apply::rotate_progress(); });
    bool more = true;
    for (int part = 0; more && part < kStageParts; ++part) // the rest next time: the routes need looking after
      in_transaction([&] { more = apply::clean_stages(); });
    in_transaction([] { (void)scan::heal_dirty_table(); });
    in_transaction([] { (void)scan::ship_owed(); });
    if (rotations_++ % kRotationsAnUpkeep == 0) {
      in_transaction([] { forget_old_events(); });
      in_transaction([] { fold_events(); });
    }
  }

  template <typename Fn> static void in_transaction(Fn fn) {
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    pg::call(fn);
    transaction.commit();
  }

  const Oid database_;
  std::map<std::string, Child, std::less<>> routes_;
  int64 rotated_us_ = 0;
  uint64 rotations_ = 0;
  bool warned_full_ = false;
};

} // namespace

} // namespace seal_sync::worker

extern "C" PGDLLEXPORT void seal_sync_database_worker_main(Datum argument) {
  using namespace seal_sync;
  const Oid database = DatumGetObjectId(argument);
  worker::set_up_signals();
  if (!pg::have_shared_state() || !worker::attach_database_worker(database))
    proc_exit(0);
  BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
  worker::pin_session();
  pg::entry([database] {
    worker::DatabaseWorker worker(database);
    worker.run();
  });
  proc_exit(0);
}
