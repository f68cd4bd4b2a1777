#pragma once
// How far apart scans of a busy route begin, so that commits are gathered into batches.
//
// Used by the route worker after each batch that was shipped; a route that was idle ships at once. Pure.
// A batch costs both nodes a fixed amount, and a key that changes all the time costs as much in each batch
// as a new one. So the distance grows with the number of changes per key in the last batch: waiting costs
// staleness only, and where keys repeat it saves that many rows. And it grows with the routes that share
// this server, so that they cost together what one costs.

#include <algorithm>
#include <cstdint>

namespace seal_sync::core {

constexpr std::int64_t kGatherUs = 5000;
constexpr std::int64_t kGatherMostUs = 40000;

/// Microseconds from the begin of a scan that found `changes` of `keys` distinct rows to the next scan's, on a
/// server with so many connected routes.
constexpr std::int64_t gather_us(std::int64_t changes, std::int64_t keys, int routes) noexcept {
  constexpr std::int64_t kMost = kGatherMostUs / kGatherUs; // no overflow below
  std::int64_t wanted = kGatherUs;
  if (keys > 0)
    wanted = std::min(changes / keys, kMost) * kGatherUs + changes % keys * kGatherUs / keys;
  wanted = std::max(wanted, kGatherUs) * std::clamp<std::int64_t>(routes, 1, kMost);
  return std::min(wanted, kGatherMostUs);
}

} // namespace seal_sync::core
