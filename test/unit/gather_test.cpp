// core/gather: the distance between scans of a busy route.
#include "core/gather.hpp"

#include <doctest/doctest.h>

using namespace seal_sync::core;

TEST_CASE("keys that change once wait for the base distance") {
  CHECK(gather_us(1, 1, 0, 1) == kGatherUs);
  CHECK(gather_us(500, 500, 0, 1) == kGatherUs);
  CHECK(gather_us(0, 0, 0, 1) == kGatherUs);
  CHECK(gather_us(3, 0, 0, 1) == kGatherUs); // only marks: no rows
  CHECK(gather_us(3, 5, 0, 1) == kGatherUs); // rows that the peer asked for
}

TEST_CASE("the distance grows with the changes per key, up to a bound") {
  CHECK(gather_us(300, 200, 0, 1) == kGatherUs * 3 / 2);
  CHECK(gather_us(400, 100, 0, 1) == kGatherUs * 4);
  CHECK(gather_us(1000000, 1, 0, 1) == kGatherMostUs);
  CHECK(gather_us(INT64_MAX / kGatherUs, 1, 0, 1) == kGatherMostUs);
  CHECK(gather_us(INT64_MAX, 1, 0, 1) == kGatherMostUs);
}

TEST_CASE("small batches take a part of a processor, however slow it is") {
  CHECK(gather_us(1, 1, kGatherUs / kGatherShare / 2, 1) == kGatherUs);
  CHECK(gather_us(1, 1, 3000, 1) == 3000 * kGatherShare);
  CHECK(gather_us(300, 200, 3000, 1) == 3000 * kGatherShare * 3 / 2);
  CHECK(gather_us(1, 1, 60'000'000, 1) == kGatherMostUs / 2);
  CHECK(gather_us(1, 1, INT64_MAX, 1) == kGatherMostUs / 2);
  CHECK(gather_us(2, 1, INT64_MAX, 1) == kGatherMostUs);
  CHECK(gather_us(1, 1, -1, 1) == kGatherUs); // a clock that was set
}

TEST_CASE("routes that share a server keep their distance") {
  CHECK(gather_us(1, 1, 0, 0) == kGatherUs); // not counted yet
  CHECK(gather_us(1, 1, 0, 3) == 3 * kGatherUs);
  CHECK(gather_us(300, 200, 0, 2) == 3 * kGatherUs);
  CHECK(gather_us(1, 1, 0, 1000) == kGatherMostUs);
}
