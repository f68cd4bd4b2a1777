#pragma once
// How long to pause after a failure: doubling, capped, back to the start after success.
//
// Used for reaching a peer and for restarting workers. Pure; whoever asks knows the time.

#include <algorithm>
#include <cstdint>

namespace seal_sync::core {

class Backoff {
public:
  /// Notes a failure; returns the pause before the next attempt. Limits are given each time because
  /// they are settings that may have changed.
  std::int64_t fail(std::int64_t lowest, std::int64_t highest) noexcept {
    std::int64_t pause = std::min(lowest, highest);
    for (int i = 0; i < failures_ && pause < highest; i++)
      pause = std::min(pause * 2, highest);
    failures_++;
    return pause;
  }
  void succeed() noexcept { failures_ = 0; }
  [[nodiscard]] int failures() const noexcept { return failures_; }

private:
  int failures_ = 0;
};

} // namespace seal_sync::core
