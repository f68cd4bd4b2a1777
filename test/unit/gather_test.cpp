// core/gather: the distance between scans of a busy route.
#include "core/gather.hpp"

#include <doctest/doctest.h>

using namespace seal_sync::core;

TEST_CASE("keys that change once wait for the base distance") {
  CHECK(gather_us(1, 1, 1) == kGatherUs);
  CHECK(gather_us(500, 500, 1) == kGatherUs);
  CHECK(gather_us(0, 0, 1) == kGatherUs);
  CHECK(gather_us(3, 0, 1) == kGatherUs); // only marks: no rows
  CHECK(gather_us(3, 5, 1) == kGatherUs); // rows that the peer asked for
}

TEST_CASE("the distance grows with the changes per key, up to a bound") {
  CHECK(gather_us(300, 200, 1) == kGatherUs * 3 / 2);
  CHECK(gather_us(400, 100, 1) == kGatherUs * 4);
  CHECK(gather_us(1000000, 1, 1) == kGatherMostUs);
  CHECK(gather_us(INT64_MAX / kGatherUs, 1, 1) == kGatherMostUs);
  CHECK(gather_us(INT64_MAX, 1, 1) == kGatherMostUs);
}

TEST_CASE("routes that share a server keep their distance") {
  CHECK(gather_us(1, 1, 0) == kGatherUs); // not counted yet
  CHECK(gather_us(1, 1, 3) == 3 * kGatherUs);
  CHECK(gather_us(300, 200, 2) == 3 * kGatherUs);
  CHECK(gather_us(1, 1, 1000) == kGatherMostUs);
}
