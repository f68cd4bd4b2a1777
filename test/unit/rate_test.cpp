// core/rate: how fast a route works.
#include "core/rate.hpp"

#include <doctest/doctest.h>

using seal_sync::core::Rate;

namespace {
constexpr std::int64_t kSecond = 1000000;
}

TEST_CASE("nothing is known before the first batch, nor from an empty one") {
  Rate rate;
  CHECK(rate.per_second() == 0);
  rate.add(0, 5000, kSecond);
  rate.add(10, 0, kSecond);
  CHECK(rate.per_second() == 0);
  rate.add(1000, kSecond / 2, kSecond);
  CHECK(rate.per_second() == doctest::Approx(2000));
}

TEST_CASE("small batches do not hide what a large one has shown") {
  Rate rate;
  rate.add(100000, 2 * kSecond, 0); // 50,000 a second
  for (int i = 1; i <= 600; i++)    // a minute of single rows, 10 ms each
    rate.add(1, 10000, i * kSecond / 10);
  CHECK(rate.per_second() > 45000);
  CHECK(rate.per_second() < 50001);
}

TEST_CASE("what is seen now outweighs what was seen long ago") {
  Rate rate;
  rate.add(10000, kSecond / 10, 0);
  rate.add(10000, kSecond, kSecond); // ten times slower, a second later: both count
  CHECK(rate.per_second() == doctest::Approx(20000 / 1.1).epsilon(0.01));
  rate.add(10000, kSecond, 3600 * kSecond); // an hour later only this
  CHECK(rate.per_second() == doctest::Approx(10000).epsilon(0.01));
}

TEST_CASE("a clock that stands still or goes back does no harm") {
  Rate rate;
  rate.add(10, kSecond, 100 * kSecond);
  rate.add(10, kSecond, 100 * kSecond);
  rate.add(10, kSecond, 50 * kSecond);
  CHECK(rate.per_second() == doctest::Approx(10));
}
