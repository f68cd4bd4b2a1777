#pragma once
// How far apart scans of a busy route begin, so that commits are gathered into batches.
//
// Used by the route worker after each batch that was shipped; a route that was idle ships at once. Pure.
// A batch costs both nodes a fixed amount, and a key that changes all the time costs as much in each batch
// as a new one. So the distance grows with three things, up to a bound on what it adds to staleness:
// - what the last batch kept a processor busy, on both nodes: where the machine is slow or has other work to do,
//   fewer batches are made, so that they do not take the applications' time;
// - the number of changes per key in it: where keys repeat, waiting saves that many rows;
// - the routes that share this server, so that they cost together what one costs.

#include <algorithm>
#include <cstdint>

namespace seal_sync::core {

constexpr std::int64_t kGatherUs = 5000;
constexpr std::int64_t kGatherMostUs = 40000;

constexpr std::int64_t kGatherShare = 4; // of a processor's time, one in so many, as far as half of the bound allows

/// Microseconds from the begin of a scan that found `changes` of `keys` distinct rows, and was worked on for `busy_us`, to
/// the next scan's, on a server with so many connected routes.
constexpr std::int64_t gather_us(std::int64_t changes, std::int64_t keys, std::int64_t busy_us, int routes) noexcept {
  constexpr std::int64_t kMost = kGatherMostUs / kGatherUs; // no overflow below
  const std::int64_t base = std::clamp(std::min(busy_us, kGatherMostUs) * kGatherShare, kGatherUs, kGatherMostUs / 2);
  std::int64_t wanted = base;
  if (keys > 0)
    wanted = std::min(changes / keys, kMost) * base + changes % keys * base / keys;
  wanted = std::max(wanted, base) * std::clamp<std::int64_t>(routes, 1, kMost);
  return std::min(wanted, kGatherMostUs);
}

} // namespace seal_sync::core
