// core/backoff: how long to pause after failures.
#include "core/backoff.hpp"

#include <doctest/doctest.h>

using seal_sync::core::Backoff;

TEST_CASE("a pause doubles up to the limit and starts again after success") {
  Backoff backoff;
  CHECK(backoff.fail(1000, 30000) == 1000);
  CHECK(backoff.fail(1000, 30000) == 2000);
  CHECK(backoff.fail(1000, 30000) == 4000);
  for (int i = 0; i < 100; i++)
    CHECK(backoff.fail(1000, 30000) <= 30000);
  CHECK(backoff.fail(1000, 30000) == 30000);
  CHECK(backoff.failures() == 104);
  backoff.succeed();
  CHECK(backoff.failures() == 0);
  CHECK(backoff.fail(1000, 30000) == 1000);
}

TEST_CASE("limits that changed in between hold at once") {
  Backoff backoff;
  for (int i = 0; i < 10; i++)
    backoff.fail(1000, 30000);
  CHECK(backoff.fail(10, 50) == 50);
  CHECK(backoff.fail(5000, 100) == 100); // lowest above highest: never longer than the highest
}
