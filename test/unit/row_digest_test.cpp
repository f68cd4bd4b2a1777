// core/row_digest: what differs between two sets of rows is read off exactly, or nothing is.
#include "core/row_digest.hpp"

#include "heap_buffer.hpp"

#include <algorithm>
#include <array>
#include <doctest/doctest.h>
#include <map>
#include <random>
#include <tuple>
#include <vector>

using namespace seal_sync::core;
using seal_sync::test::HeapBuffer;

namespace {

struct Side {
  explicit Side(int bits, bool with_buckets = false) : cells(std::size_t{kLookupParts} << bits), buckets(with_buckets ? kBuckets : 0) {
    digest.table = {cells.data(), bits};
    digest.buckets = with_buckets ? buckets.data() : nullptr;
  }
  std::vector<LookupCell> cells;
  std::vector<Bucket> buckets;
  RowDigest digest;
};

RunSecret secret_of(std::uint32_t seed) {
  RunSeed bytes = {};
  std::memcpy(bytes.bytes, &seed, sizeof seed);
  RunSecret secret;
  make_secret(&secret, bytes);
  return secret;
}

DigestedRow row_of(const RunSecret &secret, std::uint64_t id, std::uint64_t version) {
  std::uint64_t bytes[2] = {id, version};
  const ByteSpan all{reinterpret_cast<const std::uint8_t *>(bytes), sizeof bytes};
  return {key_id(secret, all.first(8), true), hash_bytes(secret, all)};
}

using Found = std::vector<std::tuple<std::uint64_t, std::uint64_t, bool>>;

std::optional<Found> differences(Side &ours, const Side &theirs, const RunSecret &secret) {
  subtract(ours.digest.table, theirs.digest.table);
  std::vector<DecodedRow> out(ours.digest.table.size());
  std::vector<std::uint32_t> queue(out.size());
  const auto count = decode(ours.digest.table, secret, ours.digest.root, theirs.digest.root, out, queue);
  if (!count)
    return std::nullopt;
  Found found;
  for (std::size_t i = 0; i < *count; i++)
    found.emplace_back(out[i].key.words[0], out[i].hash, out[i].ours);
  std::sort(found.begin(), found.end());
  return found;
}

// Rows of two sides, of which so many are changed, missing and extra; what is to be found
Found fill(Side &ours, Side &theirs, const RunSecret &secret, std::mt19937_64 &random, int rows, int changed, int missing, int extra) {
  Found expected;
  const std::uint64_t base = random();
  for (int i = 0; i < rows + changed + missing + extra; i++) {
    const std::uint64_t id = base + static_cast<std::uint64_t>(i);
    const DigestedRow here = row_of(secret, id, 1), there = row_of(secret, id, 2);
    const bool differs = i >= rows && i < rows + changed;
    if (i < rows + changed + missing)
      add(ours.digest, secret, here);
    if (i < rows)
      add(theirs.digest, secret, here);
    else if (differs)
      add(theirs.digest, secret, there);
    else if (i >= rows + changed + missing)
      add(theirs.digest, secret, here);
    if (i >= rows && i < rows + changed + missing)
      expected.emplace_back(id, here.hash.low, true);
    if (differs)
      expected.emplace_back(id, there.hash.low, false);
    if (i >= rows + changed + missing)
      expected.emplace_back(id, here.hash.low, false);
  }
  std::sort(expected.begin(), expected.end());
  return expected;
}

} // namespace

TEST_CASE("nothing differs") {
  const RunSecret secret = secret_of(1);
  std::mt19937_64 random(1);
  Side ours(6), theirs(6);
  fill(ours, theirs, secret, random, 5000, 0, 0, 0);
  CHECK(ours.digest.root == theirs.digest.root);
  CHECK(differences(ours, theirs, secret) == Found{});
}

TEST_CASE("what differs is found, whatever it is") {
  for (std::uint32_t seed = 0; seed < 300; seed++) {
    CAPTURE(seed);
    const RunSecret secret = secret_of(seed);
    std::mt19937_64 random(seed);
    Side ours(8), theirs(8); // 614 can be decoded
    const auto some = [&] { return static_cast<int>(random() % 150); };
    const Found expected = fill(ours, theirs, secret, random, 2000, some(), some(), some());
    const auto found = differences(ours, theirs, secret);
    REQUIRE(found);
    CHECK(*found == expected);
  }
}

TEST_CASE("too many differences: nothing is said, and nothing wrong") {
  int decoded = 0;
  for (std::uint32_t seed = 0; seed < 200; seed++) {
    const RunSecret secret = secret_of(seed);
    std::mt19937_64 random(seed);
    Side ours(4), theirs(4); // 64 cells
    const Found expected = fill(ours, theirs, secret, random, 100, static_cast<int>(random() % 60), 5, 5);
    if (const auto found = differences(ours, theirs, secret)) {
      decoded++;
      CHECK(*found == expected);
    }
  }
  CHECK(decoded > 10);
  CHECK(decoded < 190);
}

TEST_CASE("folded it is the table of half the size") {
  const RunSecret secret = secret_of(3);
  std::mt19937_64 random(3);
  Side large(12), small(6), other(12);
  fill(large, other, secret, random, 1000, 10, 3, 3);
  random.seed(3);
  Side unused(6);
  fill(small, unused, secret, random, 1000, 10, 3, 3);
  while (large.digest.table.bits > 6)
    fold(large.digest.table);
  CHECK(std::memcmp(large.cells.data(), small.cells.data(), small.cells.size() * sizeof(LookupCell)) == 0);
}

TEST_CASE("digests of parts add up to that of all") {
  const RunSecret secret = secret_of(4);
  std::mt19937_64 random(4);
  Side all(7, true), even(7, true), odd(7, true);
  for (std::uint64_t i = 0; i < 3000; i++) {
    const DigestedRow row = row_of(secret, i, 1);
    add(all.digest, secret, row);
    add(i % 2 == 0 ? even.digest : odd.digest, secret, row);
  }
  add(even.digest, odd.digest);
  CHECK(even.digest.root == all.digest.root);
  CHECK(even.buckets == all.buckets);
  CHECK(std::memcmp(even.cells.data(), all.cells.data(), all.cells.size() * sizeof(LookupCell)) == 0);
}

TEST_CASE("on the wire and back") {
  const RunSecret secret = secret_of(5);
  std::mt19937_64 random(5);
  for (const std::size_t key_bytes : {std::size_t{8}, std::size_t{16}, std::size_t{99}}) {
    Side ours(7), theirs(7), told(7);
    const Found expected = fill(ours, theirs, secret, random, 500'000 / 8, 40, 20, 10); // counts beyond 16 bits
    HeapBuffer wire;
    write(wire, theirs.digest.table, key_bytes);
    CHECK(wire.size == theirs.digest.table.size() * (std::min(key_bytes, kKeyIdBytes) + 14));
    Reader reader(wire.span());
    CHECK(read(reader, told.digest.table, key_bytes));
    CHECK(reader.at_end());
    told.digest.root = theirs.digest.root;
    CHECK(differences(ours, told, secret) == expected);
    Reader cut(wire.span().first(wire.size - 1));
    CHECK(!read(cut, told.digest.table, key_bytes));
  }
}

TEST_CASE("a decoding that does not account for the sums is not believed") {
  const RunSecret secret = secret_of(6);
  std::mt19937_64 random(6);
  for (int what = 0; what < 3; what++) {
    Side ours(6), theirs(6);
    fill(ours, theirs, secret, random, 100, 5, 5, 5);
    if (what == 0)
      theirs.digest.root.sum.low++;
    else if (what == 1)
      theirs.digest.root.rows++;
    else
      theirs.cells[3].check ^= 1;
    CHECK(!differences(ours, theirs, secret));
  }
}

TEST_CASE("both versions of many changed rows") { // they have the same key, and must not meet in the same cells
  const RunSecret secret = secret_of(7);
  std::mt19937_64 random(7);
  Side ours(10), theirs(10);
  const Found expected = fill(ours, theirs, secret, random, 0, 1000, 0, 0);
  CHECK(differences(ours, theirs, secret) == expected);
}

TEST_CASE("keys that are long are known by their hash") {
  const RunSecret secret = secret_of(8);
  std::array<std::uint8_t, 40> key = {};
  const KeyId a = key_id(secret, key, false);
  key[39] = 1;
  CHECK(!(a == key_id(secret, key, false)));
  // whether a key fits is said of all of a table, never by the length of one
  const std::array<std::uint8_t, 4> little = {1, 2, 3, 4};
  CHECK(key_id(secret, little, true).words[0] == 0x04030201);
  CHECK(!(key_id(secret, little, false) == key_id(secret, little, true)));
}

TEST_CASE("how much differs, from the buckets") {
  const RunSecret secret = secret_of(9);
  std::mt19937_64 random(9);
  for (const int changed : {0, 10, 1000, 20'000}) {
    CAPTURE(changed);
    Side ours(2, true), theirs(2, true);
    fill(ours, theirs, secret, random, 1000, changed, 0, 0);
    std::uint32_t differing = 0;
    for (std::uint32_t i = 0; i < kBuckets; i++)
      differing += ours.buckets[i] != theirs.buckets[i] ? 1 : 0;
    const auto estimate = estimate_differences(differing);
    REQUIRE(estimate);
    CHECK(*estimate >= changed * 0.9);
    CHECK(*estimate <= changed * 1.1);
  }
  CHECK(!estimate_differences(kBuckets));
}
