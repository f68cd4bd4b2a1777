#pragma once
// The arithmetic of sequences that several nodes count: which numbers are whose, and how far ahead a
// standby's sequence is kept.
//
// Used by sql_api/sequence.cpp (sequence_split), apply/sequences.cpp and worker/route_sequences.cpp.
// Pure. Of each `slots` numbers that a sequence would have given, the node with slot k takes the k-th. With
// INCREMENT BY n a number stands for a block of n (object mappers hand out the block themselves), so
// blocks are dealt out, not single numbers. Invariant: two splits that compare() calls apart have no block
// in common, whatever the sequences do later as long as their steps stay.

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

namespace seal_sync::core {

/// What CREATE SEQUENCE says of one.
struct Counting {
  std::int64_t increment = 1;
  std::int64_t start = 1;
  std::int64_t min = 1;
  std::int64_t max = std::numeric_limits<std::int64_t>::max();
  bool cycle = false;
  [[nodiscard]] bool ascending() const noexcept { return increment > 0; }
};

/// The numbers of one node: those that leave `residue` when divided by `step`.
struct Split {
  std::int64_t step = 0;
  std::int64_t residue = 0; // 0 .. step - 1
  std::int64_t block = 0;   // numbers that one of them stands for
  bool ascending = true;
};

namespace detail {
__extension__ using Wide = __int128; // sums of two 64-bit numbers
inline std::int64_t remainder(Wide value, std::int64_t step) noexcept {
  const auto rest = static_cast<std::int64_t>(value % step);
  return rest < 0 ? rest + step : rest;
}
} // namespace detail

/// Slot 1 .. slots of a sequence that counted like `former`. Nothing: the steps would be too large.
inline std::optional<Split> split_of(const Counting &former, std::int64_t slots, std::int64_t slot) noexcept {
  using detail::Wide;
  const Wide block = former.ascending() ? Wide(former.increment) : -Wide(former.increment);
  const Wide step = block * slots;
  if (block <= 0 || slot < 1 || slot > slots || step > std::numeric_limits<std::int64_t>::max() / 2)
    return std::nullopt;
  Split split;
  split.step = static_cast<std::int64_t>(step);
  split.block = static_cast<std::int64_t>(block);
  split.ascending = former.ascending();
  split.residue = detail::remainder(Wide(former.start) + Wide(former.increment) * (slot - 1), split.step);
  return split;
}

/// The first number of the split after `last` in counting direction, within the bounds of `range`.
inline std::optional<std::int64_t> next_after(const Split &split, std::int64_t last, const Counting &range) noexcept {
  using detail::Wide;
  if (split.ascending) {
    const Wide from = last < range.min ? Wide(range.min) : Wide(last) + 1;
    const Wide found = from + detail::remainder(Wide(split.residue) - from, split.step);
    return found <= range.max ? std::optional(static_cast<std::int64_t>(found)) : std::nullopt;
  }
  const Wide from = last > range.max ? Wide(range.max) : Wide(last) - 1;
  const Wide found = from - detail::remainder(from - split.residue, split.step);
  return found >= range.min ? std::optional(static_cast<std::int64_t>(found)) : std::nullopt;
}

/// The same, `first` itself included.
inline std::optional<std::int64_t> next_from(const Split &split, std::int64_t first, const Counting &range) noexcept {
  if (detail::remainder(first, split.step) == split.residue && first >= range.min && first <= range.max)
    return first;
  return next_after(split, first, range);
}

/// How a sequence has to count to keep to its split: also after RESTART, and after its end if it cycles.
/// Nothing: no number of the split lies within its bounds.
inline std::optional<Counting> counting_of(const Split &split, const Counting &former) noexcept {
  Counting counting = former;
  counting.increment = split.ascending ? split.step : -split.step;
  if (former.cycle) { // it begins again at the bound itself
    const auto bound = next_from(split, split.ascending ? former.min : former.max, former);
    if (!bound)
      return std::nullopt;
    (split.ascending ? counting.min : counting.max) = *bound;
  }
  const auto start = next_from(split, former.start, counting);
  if (!start)
    return std::nullopt;
  counting.start = *start;
  return counting;
}

/// Why a sequence does not keep to a split.
enum class SplitFault { kNone, kIncrement, kNumber, kStart, kCycle };
inline SplitFault fault_of(const Split &split, const Counting &now, std::int64_t last_value) noexcept {
  if (now.increment != (split.ascending ? split.step : -split.step))
    return SplitFault::kIncrement;
  const auto belongs = [&](std::int64_t number) { return detail::remainder(number, split.step) == split.residue; };
  if (!belongs(last_value))
    return SplitFault::kNumber;
  if (!belongs(now.start))
    return SplitFault::kStart;
  if (now.cycle && !belongs(split.ascending ? now.min : now.max))
    return SplitFault::kCycle;
  return SplitFault::kNone;
}

/// Two nodes' splits of one sequence.
enum class SplitFit {
  kApart,   // no number in common
  kSame,    // the same numbers
  kDiffers, // not dealt out the same way: they may meet
};
inline SplitFit compare(const Split &a, const Split &b) noexcept {
  if (a.step != b.step || a.block != b.block || a.ascending != b.ascending || a.block <= 0 ||
      detail::remainder(detail::Wide(a.residue) - b.residue, a.block) != 0)
    return SplitFit::kDiffers;
  return a.residue == b.residue ? SplitFit::kSame : SplitFit::kApart;
}

/// Whether `a` is further than `b` in counting direction.
inline bool beyond(std::int64_t a, std::int64_t b, bool ascending) noexcept { return ascending ? a > b : a < b; }

/// How far ahead of the primary's last number a standby is kept: by what was used in the last `horizon`, at
/// least by a fixed count, at most by a tenth of the numbers that are left.
class HeadRoom {
public:
  /// The sequence stands at `last` now.
  void note(std::int64_t last, std::int64_t now_us, std::int64_t horizon_us) noexcept {
    if (known_ && now_us > at_us_) {
      const double faded = horizon_us > 0 ? std::exp(-static_cast<double>(now_us - at_us_) / static_cast<double>(horizon_us)) : 0;
      used_ = used_ * faded + std::fabs(static_cast<double>(last) - static_cast<double>(last_));
    } else if (known_) {
      used_ += std::fabs(static_cast<double>(last) - static_cast<double>(last_));
    }
    known_ = true;
    last_ = last;
    at_us_ = now_us;
  }

  /// Where the standby should be. head_room counts calls of nextval.
  [[nodiscard]] std::int64_t target(const Counting &counting, std::int64_t head_room) const noexcept {
    using detail::Wide;
    const bool up = counting.ascending();
    const Wide end = up ? counting.max : counting.min;
    const Wide left = up ? end - last_ : Wide(last_) - end;
    if (left <= 0)
      return last_;
    Wide room = Wide(head_room) * (up ? Wide(counting.increment) : -Wide(counting.increment));
    if (const Wide recent = used_ < 9e18 ? Wide(static_cast<std::int64_t>(used_)) : left; recent > room)
      room = recent;
    if (room > left / 10)
      room = left / 10;
    return static_cast<std::int64_t>(up ? last_ + room : last_ - room);
  }

  [[nodiscard]] std::int64_t last() const noexcept { return last_; }

private:
  bool known_ = false;
  std::int64_t last_ = 0;
  std::int64_t at_us_ = 0;
  double used_ = 0; // numbers, fading
};

/// What a standby at `there` has to be told, when the primary stands at `last` and wants it at `target`.
enum class Carry {
  kNothing,
  kSoon,  // less than half of the head-room is left
  kFirst, // before any row: a number that the primary has given would be given there again
};
inline Carry carry_of(std::int64_t last, std::int64_t target, std::optional<std::int64_t> there, bool ascending) noexcept {
  if (!there || beyond(last, *there, ascending))
    return Carry::kFirst;
  const auto distance = [](std::int64_t a, std::int64_t b) {
    return a > b ? detail::Wide(a) - b : detail::Wide(b) - a;
  };
  return distance(last, *there) < distance(last, target) / 2 ? Carry::kSoon : Carry::kNothing;
}

} // namespace seal_sync::core
