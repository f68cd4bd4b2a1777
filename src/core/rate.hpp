#pragma once
// How fast work is done, from batches of very different size, as a figure that moves with time; and how long the
// batch under way will take yet.
//
// Used by a route for keys_per_second and eta in seal_sync.status. Pure; whoever asks knows the time, in
// microseconds of any monotonic clock.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

namespace seal_sync::core {

/// Keys over busy time. A batch counts by its keys: most of a small batch is waiting for the network, which tells
/// nothing of how long a backlog will take. And it counts the less the older it is.
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
    weights_ = weights_ * faded + weight;
    at_us_ = now_us;
  }
  /// 0: nothing is known yet.
  [[nodiscard]] double per_second() const noexcept { return busy_us_ > 0 ? keys_ / busy_us_ * 1e6 : 0; }
  /// Keys of a batch that the figure stands for: it says little of batches of another order of size.
  [[nodiscard]] double typical_batch() const noexcept { return weights_ > 0 ? keys_ / weights_ : 0; }

private:
  double keys_ = 0;    // weighted sums
  double busy_us_ = 0;
  double weights_ = 0;
  std::int64_t at_us_ = 0;
};

/// One batch while it is under way. What it has done so far tells how long the rest will take: rows of one backlog
/// resemble each other more than they resemble the small batches before it.
class BatchProgress {
public:
  /// Before that much has been seen nothing is said.
  static constexpr std::int64_t kSeenUs = 500'000;
  /// Speed is that of about the last so many microseconds: a link or a table may be slower than the one before.
  static constexpr double kMemoryUs = 8e6;

  /// Keys have been collected, from now on they are sent. With others that have been staged in earlier passes, this is the same batch
  /// still, and how fast that went is not forgotten.
  void begin(std::int64_t started_us, std::int64_t now_us, std::int64_t keys, std::int64_t staged = 0) noexcept {
    const BatchProgress before = *this;
    *this = {};
    started_us_ = started_us;
    sending_us_ = at_us_ = now_us;
    keys_ = keys;
    staged_ = staged;
    if (staged == 0)
      return;
    recent_keys_ = before.recent_keys_;
    recent_us_ = before.recent_us_;
    seen_us_ = before.seen_us_;
    rows_per_key_ = before.rows_per_key_;
  }
  /// So many of them are done with; rows: distinct ones of these.
  void advance(std::int64_t done, std::int64_t now_us, std::int64_t rows) noexcept {
    if (done <= done_ || now_us <= at_us_)
      return;
    const double faded = std::exp(-static_cast<double>(now_us - at_us_) / kMemoryUs);
    recent_keys_ = recent_keys_ * faded + static_cast<double>(done - done_);
    recent_us_ = recent_us_ * faded + static_cast<double>(now_us - at_us_);
    seen_us_ += now_us - at_us_;
    rows_per_key_ = static_cast<double>(rows) / static_cast<double>(done);
    done_ = done;
    at_us_ = now_us;
  }
  void advance(std::int64_t done, std::int64_t now_us) noexcept { advance(done, now_us, done); }
  /// What is sent has yet to be applied, after the last of it: a row takes so long.
  void apply_afterwards(double us_per_row) noexcept { apply_us_per_row_ = us_per_row; }
  /// All is sent.
  void applying(std::int64_t now_us) noexcept {
    done_ = keys_;
    applying_us_ = now_us;
  }

  [[nodiscard]] std::int64_t keys() const noexcept { return keys_; }
  [[nodiscard]] std::int64_t done() const noexcept { return done_; }
  /// Keys per second of the whole way so far, collecting included.
  [[nodiscard]] std::optional<double> per_second() const noexcept {
    if (done_ <= 0 || seen_us_ < kSeenUs)
      return std::nullopt;
    // Collecting was for all keys, the rest so far for some of them.
    const double part = std::min(1.0, static_cast<double>(done_) / static_cast<double>(std::max<std::int64_t>(keys_, 1)));
    const double us = static_cast<double>(sending_us_ - started_us_) * part + static_cast<double>(at_us_ - sending_us_) +
                      apply_us_per_row_ * rows_per_key_ * static_cast<double>(done_);
    return static_cast<double>(done_) * 1e6 / us;
  }
  [[nodiscard]] std::optional<double> left_us(std::int64_t now_us) const noexcept {
    const double apply_us = apply_us_per_row_ * rows_per_key_ * static_cast<double>(keys_ + staged_);
    if (applying_us_ != 0)
      return std::max(0.0, apply_us - static_cast<double>(now_us - applying_us_));
    if (recent_keys_ <= 0 || seen_us_ < kSeenUs)
      return std::nullopt;
    return static_cast<double>(keys_ - done_) * recent_us_ / recent_keys_ + apply_us;
  }

private:
  std::int64_t started_us_ = 0, sending_us_ = 0, applying_us_ = 0, at_us_ = 0, seen_us_ = 0;
  std::int64_t keys_ = 0, done_ = 0, staged_ = 0;
  double recent_keys_ = 0, recent_us_ = 0; // fading sums
  double apply_us_per_row_ = 0, rows_per_key_ = 1;
};

} // namespace seal_sync::core
