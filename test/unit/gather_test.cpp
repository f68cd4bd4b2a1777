// core/gather: the distance between scans of a busy route.
#include "core/gather.hpp"

#include <doctest/doctest.h>

using namespace seal_sync::core;

TEST_CASE("keys that change once wait for the base distance") {
  CHECK(gather_us(1, 1) == kGatherUs);
  CHECK(gather_us(500, 500) == kGatherUs);
  CHECK(gather_us(0, 0) == kGatherUs);
  CHECK(gather_us(3, 0) == kGatherUs); // only marks: no rows
  CHECK(gather_us(3, 5) == kGatherUs); // rows that the peer asked for
}

TEST_CASE("the distance grows with the changes per key, up to a bound") {
  CHECK(gather_us(300, 200) == kGatherUs * 3 / 2);
  CHECK(gather_us(400, 100) == kGatherUs * 4);
  CHECK(gather_us(1000000, 1) == kGatherMostUs);
  CHECK(gather_us(INT64_MAX / kGatherUs, 1) == kGatherMostUs);
  CHECK(gather_us(INT64_MAX, 1) == kGatherMostUs);
}
