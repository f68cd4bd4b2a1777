#pragma once
// What a route shows of itself: its slot in shared memory, and one line in the server log per change.
//
// Only the route worker writes here; SQL reads copies. Invariants: a state is logged when it changes,
// an error once per kind while a series of failures lasts; no text here holds a secret or a row value.
// C++ regime.

#include "core/error.hpp"
#include "core/rate.hpp"
#include "pg/shared_state.hpp"

namespace seal_sync::worker {

class RouteStatus {
public:
  explicit RouteStatus(pg::RouteSlot *slot) : slot_(slot), state_(slot->state) {}

  [[nodiscard]] pg::RouteState state() const noexcept { return state_; }
  void enter(pg::RouteState state, const std::string &reason = {});

  /// A failed attempt; the next one comes in `pause_ms`. kRetrying, or kWaitingPeer when the peer is
  /// there but not configured yet.
  void retrying(const core::Error &error, int64 pause_ms, int retries);
  /// The route has stopped for good, until a person acts.
  void halted(const core::Error &error);
  /// A local error that ends this process.
  void failed(const ErrorData *error) noexcept;
  /// That many pending keys were worked off in that time.
  void worked_off(int64 keys, int64 busy_us);

  // The batch under way: how far it is, so that eta moves while it lasts.
  /// staged: keys of the window that earlier passes have put into a stage; left: that go with copies of their tables.
  void batch_collected(int64 started_us, TimestampTz since, int64 keys, int64 staged, int64 left);
  void batch_sent(int64 keys_done, int64 rows_done);
  void batch_applies_afterwards(bool yes); // what is sent is applied only when all of it is there
  void batch_applying();            // all is sent
  void batch_applied(int64 keys, int64 apply_us);
  void batch_over();                // one way or the other
  /// The series of failures is over.
  void recovered();

  /// Changes the slot under its lock. fn must not raise.
  template <typename Fn> void update(Fn fn) {
    LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
    fn(*slot_);
    LWLockRelease(pg::shared_lock());
  }
  [[nodiscard]] pg::RouteSlot read() const;
  [[nodiscard]] pg::RouteSlot *slot() const noexcept { return slot_; }

private:
  void note_error(const char *sqlstate, const std::string &text, const std::string &hint);
  void log(pg::RouteState state, const std::string &reason, const std::string &detail,
           const std::string &hint);

  pg::RouteSlot *slot_;
  pg::RouteState state_;
  std::string reason_;
  void show_batch();

  core::Rate rate_;
  core::Rate apply_rate_;
  core::BatchProgress batch_;
  int64 batch_staged_ = 0;
  std::vector<std::string> logged_; // SQLSTATEs of this series of failures
};

} // namespace seal_sync::worker
