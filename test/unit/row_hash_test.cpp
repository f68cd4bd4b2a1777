// core/row_hash and core/canonical: equal values give equal bytes, different ones different bytes, in any pieces.
#include "core/canonical.hpp"
#include "core/row_hash.hpp"

#include "heap_buffer.hpp"

#include <algorithm>
#include <cstdio>
#include <doctest/doctest.h>
#include <functional>
#include <limits>
#include <string>
#include <vector>

using namespace seal_sync::core;
using namespace seal_sync::core::canonical;
using seal_sync::test::HeapBuffer;

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes made(const std::function<void(Buffer &)> &write) {
  HeapBuffer out;
  write(out);
  return {out.data, out.data + out.size};
}

ByteSpan span(std::string_view text) { return {reinterpret_cast<const std::uint8_t *>(text.data()), text.size()}; }

Bytes of_numeric(std::vector<std::int16_t> digits, std::int32_t weight, std::uint32_t scale, bool negative = false,
                 NumericKind kind = NumericKind::kFinite) {
  return made([&](Buffer &out) {
    numeric(out, {kind, negative, weight, scale, digits.data(), static_cast<std::uint32_t>(digits.size())});
  });
}

RunSecret secret_of(std::uint8_t first) {
  RunSeed seed = {};
  seed.bytes[0] = first;
  RunSecret secret;
  make_secret(&secret, seed);
  return secret;
}

std::string hex(const Hash128 &hash) {
  char text[40];
  (void)std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash.high), static_cast<unsigned long long>(hash.low));
  return text;
}

} // namespace

TEST_CASE("what an application can tell apart has other bytes") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const int one = 1, two = 2, zero = 0;
  const std::vector<Bytes> all = {
      made([](Buffer &out) { null(out); }),
      made([](Buffer &out) { bytes(out, {}); }), // '' is not NULL
      made([](Buffer &out) { text(out, {}); }),
      made([](Buffer &out) { bytes(out, span("a")); }),
      made([](Buffer &out) { bytes(out, span("a  ")); }), // char(3) keeps its blanks
      made([](Buffer &out) { bytes(out, span("A")); }),
      made([](Buffer &out) { fixed(out, std::int32_t{1}); }),
      made([](Buffer &out) { fixed(out, std::int64_t{1}); }),
      made([](Buffer &out) { fixed(out, std::int32_t{-1}); }),
      made([](Buffer &out) { real(out, 0.0); }),
      made([](Buffer &out) { real(out, -0.0); }),
      made([&](Buffer &out) { real(out, nan); }),
      made([](Buffer &out) { real(out, 1.0f); }),
      made([](Buffer &out) { real(out, 1.0); }),
      of_numeric({1}, 0, 1), // 1.0
      of_numeric({1}, 0, 2), // 1.00
      of_numeric({1}, 1, 0), // 10000
      of_numeric({1}, 0, 0, true),
      of_numeric({}, 0, 0), // 0
      of_numeric({}, 0, 2), // 0.00
      of_numeric({}, 0, 0, false, NumericKind::kNan),
      of_numeric({}, 0, 0, false, NumericKind::kInfinity),
      of_numeric({}, 0, 0, false, NumericKind::kMinusInfinity),
      made([](Buffer &out) { begin_array(out, 0, nullptr, nullptr); }),
      made([&](Buffer &out) { begin_array(out, 1, &one, &one), fixed(out, 1); }),
      made([&](Buffer &out) { begin_array(out, 1, &one, &zero), fixed(out, 1); }), // other bounds
      made([&](Buffer &out) { begin_array(out, 1, &one, &one), null(out); }),
      made([&](Buffer &out) { begin_array(out, 1, &two, &one), null(out), null(out); }),
      made([](Buffer &out) { begin_composite(out, 1), field(out, "a"), null(out); }),
      made([](Buffer &out) { begin_composite(out, 1), field(out, "b"), null(out); }),
      made([](Buffer &out) { begin_composite(out, 0); }), // ROW() is not NULL
      made([](Buffer &out) { begin_range(out, kEmpty); }),
      made([](Buffer &out) { begin_range(out, kLowerInfinite | kUpperInfinite); }),
      made([](Buffer &out) { begin_range(out, kLowerInclusive | kUpperInfinite), fixed(out, 1); }),
      made([](Buffer &out) { begin_range(out, kUpperInfinite), fixed(out, 1); }),
      made([](Buffer &out) { begin_multirange(out, 0); }),
      made([](Buffer &out) { begin_multirange(out, 1), begin_range(out, kLowerInfinite | kUpperInfinite); }),
      made([](Buffer &out) { begin_json(out), json_null(out); }),
      made([](Buffer &out) { begin_json(out), json_bool(out, false); }),
      made([](Buffer &out) { begin_json(out), json_bool(out, true); }),
      made([](Buffer &out) { begin_json(out), json_string(out, "1"); }),
      made([](Buffer &out) { begin_json(out), json_string(out, ""); }),
      made([](Buffer &out) { begin_json(out), json_array(out, 0); }),
      made([](Buffer &out) { begin_json(out), json_object(out, 0); }),
      made([](Buffer &out) { begin_json(out), json_array(out, 1), json_array(out, 0); }),
      made([](Buffer &out) { begin_json(out), json_object(out, 1), json_key(out, "a"), json_null(out); }),
      made([](Buffer &out) { const std::int16_t d = 1; begin_json(out), json_numeric(out, {NumericKind::kFinite, false, 0, 1, &d, 1}); }),
      made([](Buffer &out) { const std::int16_t d = 1; begin_json(out), json_numeric(out, {NumericKind::kFinite, false, 0, 2, &d, 1}); }),
  };
  for (std::size_t i = 0; i < all.size(); i++)
    for (std::size_t j = i + 1; j < all.size(); j++) {
      CAPTURE(i);
      CAPTURE(j);
      CHECK(all[i] != all[j]);
      // and none is the beginning of another: no two rows of several values can be the same bytes
      const std::size_t common = std::min(all[i].size(), all[j].size());
      CHECK(!std::equal(all[i].begin(), all[i].begin() + static_cast<std::ptrdiff_t>(common), all[j].begin()));
    }
}

TEST_CASE("what is the same value has the same bytes") {
  // zero digits that one server keeps and another does not; there is no -0
  CHECK(of_numeric({1}, 0, 2) == of_numeric({0, 1, 0, 0}, 1, 2));
  CHECK(of_numeric({0, 0}, 7, 2, true) == of_numeric({}, 0, 2));
  // any NaN, and what stands beside a special value
  CHECK(of_numeric({5}, 3, 9, true, NumericKind::kNan) == of_numeric({}, 0, 0, true, NumericKind::kNan));
  const auto odd_nan = std::bit_cast<double>(std::uint64_t{0xfff8000000000123});
  CHECK(made([&](Buffer &out) { real(out, odd_nan); }) == made([](Buffer &out) { real(out, std::numeric_limits<double>::quiet_NaN()); }));
  const auto odd_single = std::bit_cast<float>(std::uint32_t{0xffc00123});
  CHECK(made([&](Buffer &out) { real(out, odd_single); }) == made([](Buffer &out) { real(out, std::numeric_limits<float>::quiet_NaN()); }));
  // an empty range has no bounds
  CHECK(made([](Buffer &out) { begin_range(out, kEmpty | kLowerInclusive); }) == made([](Buffer &out) { begin_range(out, kEmpty); }));
}

TEST_CASE("hashes are what they have always been") { // two versions of the library must agree, on any machine
  const RunSecret secret = secret_of(1);
  CHECK(hex(hash_bytes(secret, span(""))) == "1ae2ad06b08e1727de78a0f04b9ea549");
  CHECK(hex(hash_bytes(secret, span("seal"))) == "77aed0b3c1f6ebeb6ada68f8f50a1ffb");
  CHECK(hex(hash_bytes(secret, span(std::string(1000, 's')))) == "dcbbadadb501e1eb67cec23380592656");
}

TEST_CASE("a row is hashed the same in any pieces") {
  const RunSecret secret = secret_of(2);
  std::string row;
  for (int i = 0; row.size() < 300'000; i++)
    row += std::to_string(i);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{240}, std::size_t{241}, RowHasher::kSpillBytes - 1, RowHasher::kSpillBytes,
                                 RowHasher::kSpillBytes + 1, std::size_t{200'000}}) {
    CAPTURE(size);
    const Hash128 whole = hash_bytes(secret, span(row).first(size));
    for (const std::size_t piece : {std::size_t{1}, std::size_t{1000}, std::size_t{50'000}}) {
      HeapBuffer buffer;
      RowHasher hasher;
      hasher.open(&secret, &buffer);
      buffer.text("left by an error");
      hasher.begin();
      std::size_t most = 0;
      for (std::size_t at = 0; at < size; at += piece) {
        buffer.bytes(row.data() + at, std::min(piece, size - at));
        hasher.spill();
        most = std::max(most, buffer.size);
      }
      CHECK(hasher.end() == whole);
      CHECK(most <= RowHasher::kSpillBytes);
      CHECK(buffer.size == 0);
    }
  }
}

TEST_CASE("another secret, other hashes") {
  CHECK(hash_bytes(secret_of(1), span("a row")) != hash_bytes(secret_of(2), span("a row")));
  RunSeed a = {}, b = {};
  b.bytes[15] = 1;
  RunSecret x, y;
  make_secret(&x, a);
  make_secret(&y, b);
  CHECK(hash_bytes(x, span("a row")) != hash_bytes(y, span("a row")));
}

TEST_CASE("sums carry, and come back") {
  Hash128 sum{~std::uint64_t{0}, 5};
  sum += {1, 0};
  CHECK(sum == Hash128{0, 6});
  sum -= {1, 0};
  CHECK(sum == Hash128{~std::uint64_t{0}, 5});
  Hash128 all{~std::uint64_t{0}, ~std::uint64_t{0}};
  all += {1, 0};
  CHECK(all == Hash128{});
  all -= {3, 7};
  all += {3, 7};
  CHECK(all == Hash128{});
}
