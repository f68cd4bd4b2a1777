#pragma once
// The one place where a process of ours waits.
//
// Whoever waits elsewhere breaks DROP DATABASE for the whole server: since PostgreSQL 15 that command
// waits until every process has answered its signal barrier, and only CHECK_FOR_INTERRUPTS answers.
// PostgreSQL regime: termination and cancellation leave by ereport.

#include "pg/postgres.hpp"

namespace seal_sync::pg {

/// A point on the monotonic clock; clock corrections neither shorten nor stretch a wait.
class Deadline {
public:
  static Deadline in_ms(int64 milliseconds) noexcept;
  static Deadline earlier(Deadline one, Deadline other) noexcept {
    return one.at_us_ < other.at_us_ ? one : other;
  }
  [[nodiscard]] int64 left_ms() const noexcept; // rounded up; 0 when passed
  [[nodiscard]] bool passed() const noexcept { return left_ms() == 0; }

private:
  explicit Deadline(int64 at_us) noexcept : at_us_(at_us) {}
  int64 at_us_;
};

/// Microseconds on the monotonic clock, for measuring.
int64 monotonic_us() noexcept;

enum WaitResult : int {
  kWoken = 1,     // the latch was set
  kTimedOut = 2,  // nothing happened
  kReadable = 4,  // the socket
  kWriteable = 8, // the socket
};

/// Waits for the process latch, the time, or the socket. Handles interrupts, in a worker also the
/// reload of the configuration; the end of the postmaster ends the process.
int wait(int64 timeout_ms, pgsocket socket = PGINVALID_SOCKET, bool readable = false,
         bool writeable = false);

} // namespace seal_sync::pg
