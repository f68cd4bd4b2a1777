#pragma once
// What one side of a comparison knows of all its rows after one scan: two sums, sums per bucket, and a table from which the rows
// that differ can be read off.
//
// Filled by reconcile/table_scan, a row at a time; digests of several workers are added up. The table is an invertible Bloom lookup table (Goodrich and Mitzenmacher, arXiv:1101.2245; Eppstein et al.,
// "What's the Difference?", SIGCOMM 2011) of four parts, each row in one cell of each. Invariants: memory is fixed, whatever the number of rows;
// a table of 2^n cells a part is folded to 2^(n-1) by adding its halves, so the smallest that may do travels first; a decoding is
// believed only when nothing is left of the table and the decoded rows account for the difference of the sums, so a wrong one is
// never reported. Trivially destructible; memory is the caller's. Whatever comes from a peer is hostile: decode() ends, and writes
// no more than it may.

#include "core/bytes.hpp"
#include "core/row_hash.hpp"

#include <cmath>
#include <cstdint>
#include <optional>
#include <span>

namespace seal_sync::core {

/// The key of a row: its own bytes where they are no more than 16, their hash otherwise.
struct KeyId {
  std::uint64_t words[2] = {0, 0};

  friend bool operator==(const KeyId &, const KeyId &) = default;
};

inline constexpr std::size_t kKeyIdBytes = sizeof(KeyId);

/// `key`: its columns one after the other, raw where all are of a fixed width and `fits` (16 bytes in all), else canonical. Which it is,
/// is the same for all rows of a table, so that no two keys give the same id by chance.
KeyId key_id(const RunSecret &secret, ByteSpan key, bool fits) noexcept;

struct DigestedRow {
  KeyId key;
  Hash128 hash;
};

/// All rows. Equal roots, equal tables, but for one in 2^128.
struct DigestRoot {
  Hash128 sum;
  std::uint64_t rows = 0;

  friend bool operator==(const DigestRoot &, const DigestRoot &) = default;
};

// ---- buckets: how much differs, roughly, and where --------------------------------------------------------------------

inline constexpr std::uint32_t kBuckets = 16384;

using Bucket = std::uint64_t; // sum of the low halves of its rows' hashes: an estimate needs no more

/// About how many rows differ, when so many of the buckets do. All of them: nothing can be said.
inline std::optional<double> estimate_differences(std::uint32_t differing) noexcept {
  if (differing >= kBuckets)
    return std::nullopt;
  return -static_cast<double>(kBuckets) * std::log1p(-static_cast<double>(differing) / kBuckets);
}

// ---- the lookup table -------------------------------------------------------------------------------------------------

inline constexpr int kLookupParts = 4;
inline constexpr int kMostLookupBits = 16; // cells of a part, as a power of two

/// Everything in it is a sum, so tables can be added and subtracted cell by cell. XOR where a sum would do as well.
struct LookupCell {
  std::uint64_t key[2];
  std::uint64_t hash; // the low half of the row's
  std::uint32_t check;
  std::int32_t count; // modulo 2^32, of a difference 2^16

  [[nodiscard]] bool empty() const noexcept { return (key[0] | key[1] | hash | check) == 0 && count == 0; }
};
static_assert(sizeof(LookupCell) == 32);

struct LookupTable {
  LookupCell *cells = nullptr; // kLookupParts times 2^bits
  int bits = 0;

  [[nodiscard]] std::size_t size() const noexcept { return std::size_t{kLookupParts} << bits; }
};

/// How many rows can be expected to be decoded: 0.6 of the cells.
constexpr std::uint64_t decodable(int bits) noexcept { return (std::uint64_t{kLookupParts} << bits) * 6 / 10; }

/// A row that one side has and the other has not. A changed row is two of them.
struct DecodedRow {
  KeyId key;
  std::uint64_t hash = 0;
  bool ours = false;
};

/// Where a row is, and its check. From key and hash, not the key alone: both versions of a changed row must not meet in all cells.
struct LookupPlace {
  std::uint16_t at[kLookupParts];
  std::uint32_t check;
};
LookupPlace place_of(const RunSecret &secret, const KeyId &key, std::uint64_t hash) noexcept;

void add(LookupTable &table, const RunSecret &secret, const DigestedRow &row) noexcept;
void add(LookupTable &table, const LookupTable &other) noexcept;      // of the same size
void subtract(LookupTable &table, const LookupTable &other) noexcept; // of the same size; counts are known modulo 2^16 then
/// In place, to half the size; the smallest stays what it is.
void fold(LookupTable &table) noexcept;

/// Takes the difference of two tables (ours less theirs) apart. `out` has room for table.size() rows. Nothing: more differs than the
/// table holds, or it is not what it should be. `queue`: room for as many numbers.
std::optional<std::size_t> decode(LookupTable &difference, const RunSecret &secret, const DigestRoot &ours, const DigestRoot &theirs,
                                  std::span<DecodedRow> out, std::span<std::uint32_t> queue) noexcept;

// ---- all of it --------------------------------------------------------------------------------------------------------

/// Of one worker, or of all.
struct RowDigest {
  DigestRoot root;
  Bucket *buckets = nullptr; // kBuckets; nullptr: not wanted
  LookupTable table;
};

inline void add(RowDigest &digest, const RunSecret &secret, const DigestedRow &row) noexcept {
  digest.root.sum += row.hash;
  digest.root.rows++;
  if (digest.buckets != nullptr) {
    digest.buckets[place_of(secret, row.key, 0).at[0] % kBuckets] += row.hash.low; // by key: a changed row differs in one bucket
  }
  add(digest.table, secret, row);
}

void add(RowDigest &digest, const RowDigest &other) noexcept;

// ---- on the wire ------------------------------------------------------------------------------------------------------

/// Bytes of a cell's key on the wire: of what fits, no more than the widest key has.
void write(Buffer &out, const LookupTable &table, std::size_t key_bytes);
/// False: damaged. The table has as many cells as `bits` says, which the caller has asked for.
bool read(Reader &in, LookupTable &table, std::size_t key_bytes) noexcept;

} // namespace seal_sync::core
