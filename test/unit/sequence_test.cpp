// core/sequence: whose numbers are whose, and how far ahead a standby is kept.
#include "core/sequence.hpp"

#include <doctest/doctest.h>
#include <set>
#include <vector>

using namespace seal_sync::core;

namespace {

constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMin = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kSecond = 1000000;

Counting counting(std::int64_t increment, std::int64_t start, std::int64_t min, std::int64_t max, bool cycle = false) {
  return {increment, start, min, max, cycle};
}

/// What nextval gives, as the server counts.
std::vector<std::int64_t> numbers(const Counting &of, std::int64_t first, int count) {
  std::vector<std::int64_t> out;
  std::int64_t number = first;
  for (int i = 0; i < count; i++) {
    out.push_back(number);
    const detail::Wide next = detail::Wide(number) + of.increment;
    if (next > of.max || next < of.min) {
      if (!of.cycle)
        break;
      number = of.ascending() ? of.min : of.max;
    } else {
      number = static_cast<std::int64_t>(next);
    }
  }
  return out;
}

} // namespace

TEST_CASE("the slots of a sequence share out exactly the blocks it would have given") {
  for (const Counting &former : {counting(1, 1, 1, kMax), counting(1, 1000, 1, kMax), counting(50, 1, 1, kMax), counting(7, -3, -1000, kMax),
                                 counting(-1, -1, kMin, -1), counting(-10, 500, -100000, 1000)}) {
    std::set<std::int64_t> seen;
    for (int slot = 1; slot <= 8; slot++) {
      const auto split = split_of(former, 8, slot);
      REQUIRE(split);
      const auto by = counting_of(*split, former);
      REQUIRE(by);
      for (const std::int64_t number : numbers(*by, by->start, 20)) {
        CHECK(seen.insert(number).second);
        CHECK(fault_of(*split, *by, number) == SplitFault::kNone);
      }
    }
    for (int i = 0; i < 160; i++)
      CHECK(seen.contains(former.start + former.increment * i));
  }
}

TEST_CASE("two slots never meet when a cycling sequence begins again, nor after RESTART") {
  for (const Counting &former : {counting(1, 5, 3, 103, true), counting(-1, 50, 1, 100, true), counting(3, 10, 1, 200, true)}) {
    std::set<std::int64_t> seen[2];
    for (int slot = 1; slot <= 2; slot++) {
      const auto split = split_of(former, 4, slot);
      const auto by = counting_of(*split, former);
      REQUIRE(by);
      for (const std::int64_t number : numbers(*by, by->start, 200)) {
        CHECK(number >= former.min);
        CHECK(number <= former.max);
        CHECK(fault_of(*split, *by, number) == SplitFault::kNone);
        seen[slot - 1].insert(number);
      }
    }
    for (const std::int64_t number : seen[0])
      CHECK_FALSE(seen[1].contains(number));
  }
}

TEST_CASE("the next number lies beyond what is given, and within the bounds") {
  const Counting former = counting(1, 1, 1, 100);
  const auto split = split_of(former, 8, 3);
  CHECK(next_after(*split, 0, former) == 3);
  CHECK(next_after(*split, 3, former) == 11);
  CHECK(next_from(*split, 3, former) == 3);
  CHECK(next_after(*split, -50, former) == 3);
  CHECK(next_after(*split, 98, former) == 99);
  CHECK(next_after(*split, 99, former) == std::nullopt);
  CHECK(next_after(*split, kMax, former) == std::nullopt);
  const Counting down = counting(-1, -1, -100, -1);
  const auto downwards = split_of(down, 8, 3);
  CHECK(next_after(*downwards, 0, down) == -3);
  CHECK(next_after(*downwards, -3, down) == -11);
  CHECK(next_after(*downwards, -99, down) == std::nullopt);
  CHECK(next_after(*downwards, kMin, down) == std::nullopt);
}

TEST_CASE("at the ends of the range nothing overflows") {
  CHECK_FALSE(split_of(counting(kMax / 4, 1, 1, kMax), 8, 1));
  CHECK_FALSE(split_of(counting(kMin, -1, kMin, -1), 2, 1));
  CHECK_FALSE(split_of(counting(1, 1, 1, kMax), 8, 0));
  CHECK_FALSE(split_of(counting(1, 1, 1, kMax), 8, 9));
  for (const std::int64_t start : {kMax, kMax - 1, kMin, kMin + 1}) {
    const Counting former = counting(1, start, kMin, kMax);
    for (int slot = 1; slot <= 3; slot++) {
      const auto split = split_of(former, 3, slot);
      REQUIRE(split);
      const auto next = next_from(*split, start, former);
      CHECK((!next || *next >= start));
    }
  }
  CHECK_FALSE(counting_of(*split_of(counting(1, 1, 1, 5), 8, 7), counting(1, 1, 1, 5)));
}

TEST_CASE("what undoes a split is noticed") {
  const Counting former = counting(1, 1, 1, kMax);
  const auto split = split_of(former, 8, 2);
  const Counting good = *counting_of(*split, former);
  CHECK(fault_of(*split, good, 10) == SplitFault::kNone);
  CHECK(fault_of(*split, good, 11) == SplitFault::kNumber); // setval
  Counting bad = good;
  bad.increment = 1;
  CHECK(fault_of(*split, bad, 10) == SplitFault::kIncrement);
  bad = good;
  bad.start = 1;
  CHECK(fault_of(*split, bad, 10) == SplitFault::kStart);
  bad = good;
  bad.cycle = true;
  CHECK(fault_of(*split, bad, 10) == SplitFault::kCycle);
  bad.min = 2;
  CHECK(fault_of(*split, bad, 10) == SplitFault::kNone);
}

TEST_CASE("two nodes' splits are compared by the numbers they take") {
  const auto of = [](const Counting &former, int slots, int slot) { return *split_of(former, slots, slot); };
  const Counting one = counting(1, 1, 1, kMax);
  CHECK(compare(of(one, 8, 1), of(one, 8, 2)) == SplitFit::kApart);
  CHECK(compare(of(one, 8, 1), of(one, 8, 1)) == SplitFit::kSame);
  CHECK(compare(of(one, 8, 1), of(one, 4, 2)) == SplitFit::kDiffers);
  // Another start deals other numbers to the same slot
  CHECK(compare(of(one, 8, 1), of(counting(1, 2, 1, kMax), 8, 8)) == SplitFit::kSame);
  const Counting fifty = counting(50, 1, 1, kMax);
  CHECK(compare(of(fifty, 8, 1), of(fifty, 8, 2)) == SplitFit::kApart);
  CHECK(compare(of(fifty, 8, 1), of(counting(50, 2, 1, kMax), 8, 2)) == SplitFit::kDiffers); // blocks overlap
  CHECK(compare(of(fifty, 8, 1), of(one, 400, 51)) == SplitFit::kDiffers);
  CHECK(compare(of(one, 8, 1), of(counting(-1, -1, kMin, -1), 8, 2)) == SplitFit::kDiffers);
}

TEST_CASE("head-room follows use, has a lower bound, and leaves numbers") {
  const Counting big = counting(1, 1, 1, kMax);
  HeadRoom quiet;
  quiet.note(10, 0, 3600 * kSecond);
  CHECK(quiet.target(big, 1000) == 1010);
  HeadRoom busy; // 100 a second for three hours
  for (int second = 0; second <= 3 * 3600; second++)
    busy.note(second * 100, second * kSecond, 3600 * kSecond);
  const auto room = busy.target(big, 1000) - busy.last();
  CHECK(room > 300000);
  CHECK(room < 365000);
  HeadRoom burst; // a million at once is no rate
  burst.note(0, 0, 3600 * kSecond);
  burst.note(1000000, kSecond, 3600 * kSecond);
  CHECK(burst.target(big, 1000) == 2000000);
  for (int second = 2; second < 6 * 3600; second++)
    burst.note(1000000, second * kSecond, 3600 * kSecond);
  CHECK(burst.target(big, 1000) < 1000000 + 5000); // and is forgotten
  // The end is near: at most a tenth of what is left
  HeadRoom late;
  late.note(2147483000, 0, 3600 * kSecond);
  CHECK(late.target(counting(1, 1, 1, 2147483647), 1000) == 2147483064);
  late.note(2147483647, kSecond, 3600 * kSecond);
  CHECK(late.target(counting(1, 1, 1, 2147483647), 1000) == 2147483647);
  HeadRoom down;
  down.note(-5, 0, 3600 * kSecond);
  CHECK(down.target(counting(-2, -1, kMin, -1), 1000) == -2005);
  HeadRoom never_back; // setval backwards counts as use, and the target is from where it is
  never_back.note(100000, 0, 0);
  never_back.note(5, kSecond, 0);
  CHECK(never_back.target(big, 10) > 5);
}

TEST_CASE("a standby is told in time") {
  CHECK(carry_of(10, 1010, std::nullopt, true) == Carry::kFirst);
  CHECK(carry_of(10, 1010, 9, true) == Carry::kFirst);
  CHECK(carry_of(10, 1010, 10, true) == Carry::kSoon);
  CHECK(carry_of(10, 1010, 509, true) == Carry::kSoon);
  CHECK(carry_of(10, 1010, 510, true) == Carry::kNothing);
  CHECK(carry_of(10, 1010, 5000000, true) == Carry::kNothing);
  CHECK(carry_of(-10, -1010, -9, false) == Carry::kFirst);
  CHECK(carry_of(-10, -1010, -510, false) == Carry::kNothing);
  CHECK(carry_of(100, 100, 100, true) == Carry::kNothing); // no number is left
  CHECK(carry_of(kMin, kMin + 10, kMax, true) == Carry::kNothing);
}
