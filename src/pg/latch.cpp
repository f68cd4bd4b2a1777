// See latch.hpp.
#include <ctime>

#include "pg/latch.hpp"

namespace seal_sync::pg {

int64 monotonic_us() noexcept {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64>(now.tv_sec) * 1000000 + now.tv_nsec / 1000;
}

Deadline Deadline::in_ms(int64 milliseconds) noexcept {
  return Deadline(monotonic_us() + milliseconds * 1000);
}

int64 Deadline::left_ms() const noexcept {
  const int64 left_us = at_us_ - monotonic_us();
  return left_us <= 0 ? 0 : (left_us + 999) / 1000;
}

int wait(int64 timeout_ms, pgsocket socket, bool readable, bool writeable) {
  static uint32 event = 0; // a number of the server, found once per process
  if (event == 0)
    event = wait_event("SealSync");

  // Before waiting too: a latch set for something else may have been reset by its consumer.
  CHECK_FOR_INTERRUPTS();

  int interest = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
  if (socket != PGINVALID_SOCKET)
    interest |= (readable ? WL_SOCKET_READABLE : 0) | (writeable ? WL_SOCKET_WRITEABLE : 0);
  const long timeout = static_cast<long>(timeout_ms < 0 ? 0 : Min(timeout_ms, 3600 * 1000L));
  const int fired = WaitLatchOrSocket(MyLatch, interest, socket, timeout, event);

  if ((fired & WL_LATCH_SET) != 0)
    ResetLatch(MyLatch);
  CHECK_FOR_INTERRUPTS();
  // Sessions reload between commands; a worker has no other place for it.
  if (ConfigReloadPending && MyBgworkerEntry != nullptr) {
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
  }

  return ((fired & WL_LATCH_SET) != 0 ? kWoken : 0) | ((fired & WL_TIMEOUT) != 0 ? kTimedOut : 0) |
         ((fired & WL_SOCKET_READABLE) != 0 ? kReadable : 0) |
         ((fired & WL_SOCKET_WRITEABLE) != 0 ? kWriteable : 0);
}

} // namespace seal_sync::pg
