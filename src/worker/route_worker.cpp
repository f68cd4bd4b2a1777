// The route worker: ships what changes here to one peer.
//
// One per peer, started by the database worker. Its loop: read the route's rules; be connected, or wait
// for the next attempt; scan and ship; sleep until the scan period is over or a commit wakes it. What
// it knows stands in tables (history, peer_state), so starting anew is recovery. Errors of the peer and
// of the network are core::Error and end a connection, never the process; a local error ends the
// process, and the database worker starts another after a pause.
#include "config/condition.hpp"
#include "config/config.hpp"
#include "config/event_log.hpp"
#include "core/backoff.hpp"
#include "core/gather.hpp"
#include "pg/guc.hpp"
#include "pg/scopes.hpp"
#include "worker/bytes.hpp"
#include "worker/home.hpp"
#include "worker/own_tables.hpp"
#include "worker/roster.hpp"
#include "worker/route_batch.hpp"
#include "worker/route_copy.hpp"

#include <algorithm>

namespace seal_sync::worker {

namespace wire = core::wire;

namespace {

constexpr int64 kRulesUs = 1000 * 1000;         // own rows are read again at least that often
constexpr int64 kAskAgainUs = 30 * 1000000;     // a peer that does not take everything is asked again
constexpr int64 kGiveWayUs = 10 * 1000000; // a connection that is silent for so long is a dead one's
constexpr int64 kStalePauseMs = 50;             // DDL was in the way
constexpr int64 kCatchupKeys = 1000;            // a first scan with more is a backlog
constexpr int64 kIdleWaitMs = 5000;             // paused and halted routes look that often

/// SQLSTATEs after which only a person can go on.
bool is_halt(const core::Error &error) { return std::string_view(error.sqlstate()) == wire::kContradiction; }

/// Timing out because the snapshot got too old is another thing than a silent peer.
core::Error explained(const core::Error &error, int64 batch_started_us) {
  const bool timed_out = std::string_view(error.sqlstate()) == "08006";
  if (!timed_out || batch_started_us == 0 ||
      pg::monotonic_us() - batch_started_us < static_cast<int64>(guc::max_snapshot_age) * 1000)
    return error;
  return {"57014", "a batch took longer than seal_sync.max_snapshot_age", error.message(),
          "Raise seal_sync.max_snapshot_age, or look for what slows the network or the peer."};
}

class RouteWorker {
public:
  RouteWorker(const RouteKey &key, pg::RouteSlot *slot)
      : database_(key.database), peer_(NameStr(key.peer)), link_(peer_), stages_(link_), status_(slot), sequences_(peer_) {}

  /// Returns when the peer is gone.
  void run() {
    status_.update([](pg::RouteSlot &slot) { slot.connected_since = 0; });
    if (status_.state() == pg::RouteState::kStopped)
      status_.enter(pg::RouteState::kStarting);
    while (read_own_rows()) {
      const pg::ScratchContext scratch("seal_sync route worker");
      if (const char *reason = stop_reason())
        rest(reason);
      else if (!link_.open())
        try_to_connect();
      else
        scan_once();
      pg::call([] { pgstat_report_stat(false); });
    }
  }

private:
  // ---- rules ------------------------------------------------------------------------------------

  /// False: the peer was dropped.
  bool read_own_rows() {
    const uint64 rules = pg::rules_count();
    if (rules == rules_seen_ && rules_read_us_ + kRulesUs > pg::monotonic_us())
      return rules_.exists;
    rules_seen_ = rules;
    const pg::ScratchContext scratch("seal_sync route rules");
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    rules_ = read_rules(peer_);
    target_problem_.reset();
    if (rules_.exists)
      try {
        target_ = remote::target_of(rules_.server);
      } catch (const core::Error &error) {
        target_problem_ = std::make_unique<core::Error>(error);
      }
    transaction.commit();
    rules_read_us_ = pg::monotonic_us();
    if (link_.connected() && (target_problem_ || target_ != link_.target())) {
      disconnect(); // another server, address or login
      next_attempt_us_ = 0;
    }
    return rules_.exists;
  }

  const char *stop_reason() {
    if (!guc::enabled)
      return "seal_sync.enabled is off";
    if (rules_.halted)
      return rules_.halt_message.c_str();
    if (rules_.paused)
      return rules_.pause_reason.c_str();
    return nullptr;
  }

  void rest(const char *reason) {
    if (link_.connected())
      disconnect();
    const pg::RouteState state = !guc::enabled    ? pg::RouteState::kStopped
                                 : rules_.halted ? pg::RouteState::kHalted
                                                 : pg::RouteState::kPaused;
    status_.enter(state, reason);
    backoff_.succeed();
    next_attempt_us_ = 0;
    rested_ = true;
    watch_for_pending();
    const int64 look_again = known_pending() ? kIdleWaitMs : std::max(guc::scan_period, 1000);
    wait(look_again);
  }

  // ---- connecting -------------------------------------------------------------------------------

  void try_to_connect() {
    const bool asked = status_.read().sync_requested != sync_tried_;
    const int64 left_us = next_attempt_us_ - pg::monotonic_us();
    if (left_us > 0 && !asked) {
      watch_for_pending();
      const int64 look_again = known_pending() ? kIdleWaitMs : std::max(guc::scan_period, 1000);
      wait(std::min(left_us / 1000 + 1, look_again));
      return;
    }
    sync_tried_ = status_.read().sync_requested;
    if (rested_)
      status_.enter(pg::RouteState::kStarting);
    rested_ = false;
    guarded([this] {
      if (target_problem_)
        throw core::Error(*target_problem_);
      link_.connect(target_);
      status_.update([](pg::RouteSlot &slot) { slot.connects++; });
      bool promoted = false;
      in_transaction([&] {
        config::refresh();
        promoted = config::promoted();
      });
      if (promoted)
        give_way();
      agree();
      if (promoted)
        in_transaction([] { note_place(); });
      first_scan_ = true;
      status_.update([this](pg::RouteSlot &slot) {
        slot.connected_since = slot.last_contact_at = GetCurrentTimestamp();
        slot.protocol = static_cast<int32>(link_.facts().protocol);
        slot.clock_offset_us = link_.facts().clock_offset_us;
        strlcpy(slot.peer_version, link_.facts().version.c_str(), sizeof slot.peer_version);
        strlcpy(slot.tls, link_.facts().tls.c_str(), sizeof slot.tls);
        strlcpy(slot.compression, link_.facts().compression, sizeof slot.compression);
      });
    });
  }

  /// A promoted standby goes on where its primary has stopped. One that was recovered from a backup beside its original must
  /// not: hello would end the original's connection and take its place. Who is there speaks, so he is waited for.
  void give_way() {
    const std::string contact = link_.last_contact_of_another();
    if (contact.empty())
      return;
    const int64 now = pg::monotonic_us();
    if (contact != other_contact_) {
      const bool alive = !other_contact_.empty();
      other_contact_ = contact;
      other_seen_us_ = now;
      if (alive) {
        in_transaction([] { note_copy(); });
        throw core::Error("55006", "another copy of this node speaks to peer \"" + peer_ + "\"",
                          "This one has been recovered from a backup.",
                          "Nothing is shipped from here until seal_sync.node_adopt decides what it is to be.");
      }
    } else if (now - other_seen_us_ > kGiveWayUs) {
      return;
    }
    throw core::Error("55006", "peer \"" + peer_ + "\" has a connection of this node from before its promotion",
                      "It is taken over when nothing comes over it.");
  }

  template <typename Fn> static void in_transaction(Fn fn) {
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    pg::call(fn);
    transaction.commit();
  }

  void agree() {
    link_.agree();
    sequences_.hello_said();
    hello_us_ = pg::monotonic_us();
  }

  void disconnect() {
    stages_.forget();
    status_.batch_over();
    link_.close();
    status_.update([](pg::RouteSlot &slot) { slot.connected_since = 0; });
  }

  // ---- scanning ---------------------------------------------------------------------------------

  void scan_once() {
    guarded([this] {
      sequences_.tell_if_due(link_, rules_seen_);
      const pg::RouteSlot before = status_.read();
      if (before.sync_requested != before.sync_done)
        look_again();
      committed_ = pg::committed_count();
      scan_us_ = pg::monotonic_us();
      const ScanResult result = scan_and_ship(link_, stages_, status_, sequences_, told_, rules_seen_);
      scan_us_ = 0;
      last_scan_us_ = pg::monotonic_us();
      switch (result.outcome) {
      case ScanOutcome::kStale:
        wait(std::min<int64>(kStalePauseMs << std::min(stale_++, 6), guc::scan_period));
        return;
      case ScanOutcome::kRulesChanged:
        return;
      case ScanOutcome::kHelloAgain:
        // A peer that refuses again and again what it has just agreed to is no better than a broken one.
        if (++hellos_ > 3)
          throw core::Error("55000", "peer \"" + peer_ + "\" does not keep to what was agreed");
        agree();
        return;
      case ScanOutcome::kStaged:
        stale_ = hellos_ = 0;
        status_.enter(pg::RouteState::kCatchup);
        return;
      case ScanOutcome::kNothing:
      case ScanOutcome::kShipped:
        break;
      }
      stale_ = hellos_ = 0;
      finished(result, before.sync_requested);
      if (result.outcome == ScanOutcome::kNothing || contact_us_ + kAskAgainUs < pg::monotonic_us())
        heartbeat(result);
      if (!link_.not_taken().empty() && hello_us_ + kAskAgainUs < pg::monotonic_us())
        agree();
      if (!copy_some())
        sleep(result);
    });
  }

  /// Somebody waits for what can be shipped now: what the peer did not take a moment ago it may have been told of since.
  void look_again() {
    if (!link_.not_taken().empty())
      agree();
    pg::call([this] { scan::forget_unfit(link_.session()); });
  }

  /// A part of a table that is being copied. True: another batch, and another part, at once.
  bool copy_some() {
    if (copy_next_us_ > pg::monotonic_us())
      return false;
    const CopyPart part = copy_part(link_, stages_, status_, told_);
    if (part.bytes > 0 && guc::copy_max_rate > 0) // kilobytes a second
      copy_next_us_ = pg::monotonic_us() + part.bytes * 1000000 / (static_cast<int64>(guc::copy_max_rate) * 1024);
    return part.more && copy_next_us_ <= pg::monotonic_us();
  }

  /// The window was empty or has been acknowledged: all is well.
  void finished(const ScanResult &result, uint64 sync_requested) {
    if (backoff_.failures() > 0) {
      backoff_.succeed();
      status_.recovered();
    }
    status_.update([&](pg::RouteSlot &slot) {
      slot.oldest_pending_at = 0;
      slot.complete_until = result.taken_at;
      slot.sync_done = std::max(slot.sync_done, sync_requested);
      if (result.outcome == ScanOutcome::kNothing)
        slot.empty_scans++;
    });
    sync_tried_ = sync_requested;
    if (first_scan_ || status_.state() != pg::RouteState::kCatchup || result.collected <= kCatchupKeys)
      show_state(first_scan_ && result.collected > kCatchupKeys);
    first_scan_ = false;
  }

  void show_state(bool backlog) {
    const LeftOutTables tables = left_out(link_.session());
    if (!link_.not_taken().empty())
      status_.enter(pg::RouteState::kWaitingPeer, link_.not_taken());
    else if (tables.waiting > 0)
      status_.enter(pg::RouteState::kWaitingPeer, tables.waiting == 1 ? "one table is not registered there"
                                                                   : std::to_string(tables.waiting) + " tables are not registered there");
    else
      status_.enter(backlog ? pg::RouteState::kCatchup : pg::RouteState::kStreaming);
  }

  /// "Nothing pending up to then", which also shows that the peer is alive and still holds our last batch.
  void heartbeat(const ScanResult &result) {
    const int64 period_us = static_cast<int64>(guc::scan_period) * 1000;
    if (contact_us_ + period_us * 9 / 10 > pg::monotonic_us())
      return;
    ByteBuffer message;
    message->u64(link_.generation());
    message->i64(result.taken_at);
    const remote::Bytes answer = link_.connection().call("wire_heartbeat", message->span(),
                                                         pg::Deadline::in_ms(guc::reply_timeout));
    core::Reader reader(answer);
    wire::HeartbeatReply reply;
    wire::read(reader, reply);
    if (!reader.ok())
      throw core::Error("08P01", "the peer's answer to a heartbeat cannot be read");
    if (!reply.problem.sqlstate.empty())
      throw core::Error(std::string(reply.problem.sqlstate).c_str(), std::string(reply.problem.message),
                        std::string(reply.problem.detail), std::string(reply.problem.hint));
    contact_us_ = pg::monotonic_us();
    status_.update([](pg::RouteSlot &slot) { slot.last_contact_at = GetCurrentTimestamp(); });
    const scan::HistoryEntry &held = link_.held();
    const bool same_batch = reply.batch == held.number && reply.batch_id == held.id;
    if (!same_batch || reply.config != link_.facts().config) // its rules have changed
      agree();
  }

  // ---- waiting ----------------------------------------------------------------------------------

  void sleep(const ScanResult &result) {
    const int64 began = pg::monotonic_us();
    if (result.outcome == ScanOutcome::kShipped) {
      contact_us_ = last_scan_us_;
      gather(result);
    }
    const int64 period_ms = guc::scan_period;
    const int64 since_ms = (pg::monotonic_us() - last_scan_us_) / 1000;
    pg::RouteSlot *slot = status_.slot();
    // The flag first, then the counters once more: a commit in between is seen by one of the two.
    pg::enter_idle(slot);
    const pg::RouteSlot now = status_.read();
    const bool more = now.sync_requested != now.sync_done ||
                      pg::rules_count() != rules_seen_ ||
                      (guc::wake_on_commit && pg::committed_count() != committed_);
    int64 until_ms = period_ms - since_ms;
    if (copy_next_us_ > began)
      until_ms = std::min(until_ms, (copy_next_us_ - began) / 1000 + 1);
    if (!more && until_ms > 0)
      wait(until_ms);
    pg::leave_idle(slot);
    status_.update([&](pg::RouteSlot &s) {
      s.idle_ms += s.last_idle_ms = static_cast<double>(pg::monotonic_us() - began) / 1000;
    });
  }

  /// While the route is busy, commits wake nobody: they wait here for each other.
  void gather(const ScanResult &result) {
    const int64 until = result.started_us + core::gather_us(result.collected, result.rows, result.busy_us, pg::connected_routes());
    for (;;) {
      const int64 left_us = until - pg::monotonic_us();
      const pg::RouteSlot now = status_.read();
      if (left_us <= 0 || now.sync_requested != now.sync_done || pg::rules_count() != rules_seen_)
        return;
      wait((left_us + 999) / 1000);
    }
  }

  void wait(int64 milliseconds) {
    pg::call([&] {
      pgstat_report_activity(STATE_IDLE, nullptr);
      (void)pg::wait(milliseconds);
    });
  }

  // ---- when the peer is away --------------------------------------------------------------------

  [[nodiscard]] bool known_pending() const { return status_.read().oldest_pending_at != 0; }

  /// Nothing is scanned while there is nobody to ship to, but since when something waits must be known.
  void watch_for_pending() {
    if (known_pending())
      return;
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    const TimestampTz now = GetCurrentTimestamp();
    const char *peer = peer_.c_str();
    const bool pending = pg::call([peer] {
      config::refresh();
      return scan::pending_keys(peer) > 0;
    });
    transaction.commit();
    status_.update([&](pg::RouteSlot &slot) {
      if (pending)
        slot.oldest_pending_at = now;
    });
  }

  // ---- failures ---------------------------------------------------------------------------------

  /// Runs a part of the conversation. What the peer or the network does wrong ends the connection.
  template <typename Fn> void guarded(Fn fn) {
    std::unique_ptr<core::Error> problem;
    try {
      fn();
      return;
    } catch (const core::Error &error) {
      problem = std::make_unique<core::Error>(explained(error, scan_us_));
    }
    scan_us_ = 0;
    stale_ = hellos_ = 0;
    const bool was_connected = link_.open();
    disconnect();
    if (is_halt(*problem)) {
      halt(*problem);
      return;
    }
    const int64 pause = backoff_.fail(guc::retry_min, guc::retry_max);
    next_attempt_us_ = pg::monotonic_us() + pause * 1000;
    if (!was_connected)
      status_.update([](pg::RouteSlot &slot) { slot.connect_failures++; });
    status_.retrying(*problem, pause, backoff_.failures());
  }

  /// Stands in a table: a restart must not forget that a person has to decide.
  void halt(const core::Error &error) {
    const std::string text = error.detail().empty() ? error.message() : error.message() + ": " + error.detail();
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    pg::call([&] {
      (void)query("UPDATE seal_sync.peer_state SET halted_since = pg_catalog.clock_timestamp(), halt_message = $2 "
                  "WHERE peer = $1::pg_catalog.name",
                  {peer_.c_str(), text.c_str()});
      config::note_event("halted", psprintf("peer %s", peer_.c_str()), text.c_str(), {});
      ForceSyncCommit();
    });
    transaction.commit();
    status_.halted(error);
    rules_read_us_ = 0;
  }

public:
  RouteStatus &status() noexcept { return status_; }

private:
  const Oid database_;
  const std::string peer_;
  RouteLink link_;
  RouteStages stages_;
  RouteStatus status_;
  RouteSequences sequences_;
  ToldProblems told_;

  RouteRules rules_;
  remote::Target target_;
  std::unique_ptr<core::Error> target_problem_;
  int64 rules_read_us_ = 0;
  uint64 rules_seen_ = 0;

  core::Backoff backoff_;
  int64 next_attempt_us_ = 0;
  uint64 sync_tried_ = 0; // a request that has already cut a pause short
  bool rested_ = false;
  std::string other_contact_; // of another copy of this node, as the peer told first
  int64 other_seen_us_ = 0;

  int64 copy_next_us_ = 0;  // seal_sync.copy_max_rate
  bool first_scan_ = false; // on this connection
  uint64 committed_ = 0;    // commits counted before the last scan
  int64 scan_us_ = 0;       // begin of the scan under way
  int64 last_scan_us_ = 0;
  int64 hello_us_ = 0;
  int64 contact_us_ = 0;
  int stale_ = 0;
  int hellos_ = 0;
};

} // namespace

} // namespace seal_sync::worker

extern "C" PGDLLEXPORT void seal_sync_route_worker_main(Datum) {
  using namespace seal_sync;
  worker::RouteKey key;
  memcpy(&key, MyBgworkerEntry->bgw_extra, sizeof key);
  worker::set_up_signals();
  pg::RouteSlot *slot = pg::have_shared_state() ? worker::attach_route_worker(key) : nullptr;
  if (slot == nullptr)
    proc_exit(0);
  BackgroundWorkerInitializeConnectionByOid(key.database, InvalidOid, 0);
  worker::pin_session();
  pg::entry([&] {
    worker::RouteWorker worker(key, slot);
    try {
      worker.run();
    } catch (const pg::Error &error) {
      worker.status().failed(error.data());
      throw;
    }
  });
  proc_exit(0);
}
