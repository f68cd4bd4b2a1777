#pragma once
// One worker process as its parent sees it: launching, noticing its end, and when to try again.
//
// The launcher keeps one per database, a database worker one per route. BGW_NEVER_RESTART: the
// postmaster knows one fixed pause, the parent knows how often it failed. A parent that was itself
// restarted finds its children by their slots and adopts them. C++ regime.

#include "core/backoff.hpp"
#include "pg/latch.hpp"

namespace seal_sync::worker {

class Child {
public:
  struct Launch {
    const char *type;     // as in pg_stat_activity.backend_type
    const char *name;     // as in the server log
    const char *function; // of this library
    Oid database;         // main argument
    const void *extra;
    std::size_t extra_size;
  };

  /// Looks at the process. `in_slot`: whether somebody stands in the child's slot. True: it runs, or is
  /// on its way.
  bool running(bool in_slot);
  /// Whether the pause after the last failure is over.
  [[nodiscard]] bool due() const noexcept { return pg::monotonic_us() >= not_before_us_; }
  [[nodiscard]] int64 due_in_ms() const noexcept {
    const int64 left = not_before_us_ - pg::monotonic_us();
    return left <= 0 ? 0 : left / 1000 + 1;
  }
  /// False: no free background worker slot; the pause applies.
  bool launch(const Launch &what);
  /// Not a failure: the next start need not wait.
  void forgive() noexcept {
    backoff_.succeed();
    not_before_us_ = 0;
  }

private:
  void ended() noexcept;

  BackgroundWorkerHandle *handle_ = nullptr;
  bool seen_ = false; // running when last looked at
  int64 started_us_ = 0;
  int64 not_before_us_ = 0;
  core::Backoff backoff_;
};

} // namespace seal_sync::worker
