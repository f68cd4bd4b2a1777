#pragma once
// The 128-bit hash of a row's canonical bytes (core/canonical.hpp), keyed by the secret of a reconciliation run.
//
// Called by reconcile/ for every row of both sides. XXH3 with 128 bits: its result is fixed since version 0.8.0 and the same on
// every platform. Invariants: both sides of a run use one secret, made from 128 random bits after the snapshots stand, so
// nobody who writes rows can aim at a collision, and one that was missed by chance is found by the next run; a row of any size is hashed
// in bounded memory. No defence against a malicious peer: who may answer may lie. Everything here is trivially destructible.
// See doc/decisions/0011-reconciliation.md.

#include "core/bytes.hpp"

#include <cstdint>

namespace seal_sync::core {

/// Also a sum of such hashes, modulo 2^128. Sums, not XOR: two equal rows do not cancel each other.
struct Hash128 {
  std::uint64_t low = 0;
  std::uint64_t high = 0;

  friend bool operator==(const Hash128 &, const Hash128 &) = default;

  constexpr Hash128 &operator+=(const Hash128 &other) noexcept {
    low += other.low;
    high += other.high + (low < other.low ? 1 : 0);
    return *this;
  }
  constexpr Hash128 &operator-=(const Hash128 &other) noexcept {
    high -= other.high + (low < other.low ? 1 : 0);
    low -= other.low;
    return *this;
  }
};

/// What a run draws and tells its peer.
struct RunSeed {
  std::uint8_t bytes[16];
};

/// The seed, spread. Both sides make it for themselves.
struct RunSecret {
  std::uint8_t bytes[192];
};

void make_secret(RunSecret *secret, const RunSeed &seed) noexcept;

Hash128 hash_bytes(const RunSecret &secret, ByteSpan bytes) noexcept;

/// Takes a row in pieces. `row` has what is not hashed yet; whoever writes it calls spill() now and then.
class RowHasher {
public:
  static constexpr std::size_t kSpillBytes = 32 * 1024;

  /// The secret must live as long as the hasher; rows are written to `row`, whose memory is the caller's. Without a secret nothing
  /// is hashed: `row` keeps all of the row.
  void open(const RunSecret *secret, Buffer *row) noexcept;
  /// Forgets what an error may have left of the row before.
  void begin() noexcept;
  [[nodiscard]] Buffer *row() const noexcept { return row_; }
  void spill() noexcept {
    if (row_->size >= kSpillBytes && secret_ != nullptr)
      absorb();
  }
  Hash128 end() noexcept;

private:
  void absorb() noexcept;

  const RunSecret *secret_;
  Buffer *row_;
  bool streaming_;
  alignas(64) std::uint8_t state_[640]; // an XXH3_state_t, where no header of xxHash has to be seen
};

} // namespace seal_sync::core
