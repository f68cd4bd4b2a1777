#pragma once
// How far apart scans of a busy route begin, so that commits are gathered into batches.
//
// Used by the route worker after each batch that was shipped; a route that was idle ships at once. Pure.
// A batch costs both nodes a fixed amount, and a key that changes all the time costs as much in each batch
// as a new one. So the distance grows with the number of changes per key in the last batch: waiting costs
// staleness only, and where keys repeat it saves that many rows.

#include <algorithm>
#include <cstdint>

namespace seal_sync::core {

constexpr std::int64_t kGatherUs = 5000;
constexpr std::int64_t kGatherMostUs = 40000;

/// Microseconds from the begin of a scan that found `changes` of `keys` distinct rows to the next scan's.
constexpr std::int64_t gather_us(std::int64_t changes, std::int64_t keys) noexcept {
  if (keys <= 0)
    return kGatherUs;
  const std::int64_t per_key = std::min(changes / keys, kGatherMostUs / kGatherUs); // no overflow below
  const std::int64_t wanted = per_key * kGatherUs + changes % keys * kGatherUs / keys;
  return std::clamp(wanted, kGatherUs, kGatherMostUs);
}

} // namespace seal_sync::core
