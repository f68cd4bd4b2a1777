// core/rate: how fast a route works.
#include "core/rate.hpp"

#include <doctest/doctest.h>

using seal_sync::core::BatchProgress;
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

TEST_CASE("a figure says for batches of what size it stands") {
  Rate rate;
  CHECK(rate.typical_batch() == 0);
  for (int i = 1; i <= 100; i++)
    rate.add(50, 10000, i * kSecond / 10);
  CHECK(rate.typical_batch() == doctest::Approx(50));
  rate.add(100000, kSecond, 11 * kSecond);
  CHECK(rate.typical_batch() > 90000);
}

TEST_CASE("a batch under way tells how long it will take yet") {
  BatchProgress batch;
  batch.begin(0, 2 * kSecond, 1000000); // two seconds of collecting
  CHECK_FALSE(batch.left_us(2 * kSecond));
  CHECK_FALSE(batch.per_second());
  for (int i = 1; i <= 100; i++) { // 100,000 a second
    batch.advance(i * 10000, 2 * kSecond + i * kSecond / 10);
    const auto left = batch.left_us(2 * kSecond + i * kSecond / 10);
    CHECK(left.has_value() == (i >= 5));
    if (left)
      CHECK(*left == doctest::Approx((100 - i) * kSecond / 10.0).epsilon(0.01).scale(kSecond));
  }
  CHECK(*batch.per_second() == doctest::Approx(1000000 / 12.0).epsilon(0.01)); // collecting counts
}

TEST_CASE("what is applied afterwards is waited for") {
  BatchProgress batch;
  batch.begin(0, 0, 100000);
  batch.apply_afterwards(20); // 50,000 a second
  batch.advance(50000, kSecond);
  CHECK(*batch.left_us(kSecond) == doctest::Approx(3e6));
  CHECK(*batch.per_second() == doctest::Approx(25000));
  batch.advance(100000, 2 * kSecond);
  batch.applying(2 * kSecond);
  CHECK(*batch.left_us(3 * kSecond) == doctest::Approx(1e6));
  CHECK(*batch.left_us(9 * kSecond) == 0);
}

TEST_CASE("a link that slows down is noticed within seconds") {
  BatchProgress batch;
  batch.begin(0, 0, 10000000);
  for (int i = 1; i <= 300; i++) // half a minute of 100,000 a second
    batch.advance(i * 10000, i * kSecond / 10);
  for (int i = 1; i <= 400; i++) // and 10,000
    batch.advance(3000000 + i * 1000, 30 * kSecond + i * kSecond / 10);
  CHECK(*batch.left_us(70 * kSecond) > 0.6 * 660e6);
  CHECK(*batch.left_us(70 * kSecond) < 660e6);
}

TEST_CASE("a batch that is staged in passes is one batch") {
  BatchProgress batch;
  batch.begin(0, 0, 100000);
  batch.apply_afterwards(20);
  batch.advance(50000, kSecond, 25000); // each key was logged twice
  CHECK(*batch.left_us(kSecond) == doctest::Approx(1e6 + 1e6));
  // the next pass, with some that have come meanwhile
  batch.begin(2 * kSecond, 3 * kSecond, 60000, 50000);
  batch.apply_afterwards(20);
  CHECK(*batch.left_us(3 * kSecond) == doctest::Approx(1.2e6 + 1.1e6)); // known from the first moment
  batch.advance(60000, 4 * kSecond, 30000);
  batch.applying(4 * kSecond);
  CHECK(*batch.left_us(4 * kSecond) == doctest::Approx(1.1e6));
  // another batch
  batch.begin(9 * kSecond, 9 * kSecond, 1000);
  CHECK_FALSE(batch.left_us(9 * kSecond));
}

TEST_CASE("a batch that stands still or goes back does no harm") {
  BatchProgress batch;
  batch.begin(5 * kSecond, 5 * kSecond, 0);
  batch.advance(0, 5 * kSecond);
  batch.advance(10, 4 * kSecond);
  CHECK_FALSE(batch.left_us(5 * kSecond));
  batch.applying(6 * kSecond);
  CHECK(*batch.left_us(6 * kSecond) == 0);
}
