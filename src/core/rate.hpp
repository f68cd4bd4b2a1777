#pragma once
// How fast work is done, from batches of very different size, as a figure that moves with time.
//
// Used by a route for keys_per_second and eta in seal_sync.status. The rate is keys over busy time. A
// batch counts by its keys: most of a small batch is waiting for the network, which tells nothing of
// how long a backlog will take. And it counts the less the older it is. Pure; whoever asks knows the
// time, in microseconds of any monotonic clock.

#include <cmath>
#include <cstdint>

namespace seal_sync::core {

class Rate {
public:
  /// After that time what was seen counts a third of what is seen now.
  static constexpr double kMemoryUs = 300e6;

  void add(std::int64_t keys, std::int64_t busy_us, std::int64_t now_us) noexcept {
    if (keys <= 0 || busy_us <= 0)
      return;
    const double faded = now_us > at_us_ ? std::exp(-static_cast<double>(now_us - at_us_) / kMemoryUs) : 1;
    const auto weight = static_cast<double>(keys);
    keys_ = keys_ * faded + weight * static_cast<double>(keys);
    busy_us_ = busy_us_ * faded + weight * static_cast<double>(busy_us);
    at_us_ = now_us;
  }
  /// 0: nothing is known yet.
  [[nodiscard]] double per_second() const noexcept { return busy_us_ > 0 ? keys_ / busy_us_ * 1e6 : 0; }

private:
  double keys_ = 0;    // weighted sums
  double busy_us_ = 0;
  std::int64_t at_us_ = 0;
};

} // namespace seal_sync::core
