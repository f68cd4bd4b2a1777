// core/bytes: what is written is read back, and a reader never goes past its end.
#include "core/bytes.hpp"

#include "heap_buffer.hpp"

#include <doctest/doctest.h>
#include <limits>
#include <string>
#include <vector>

using namespace seal_sync::core;
using seal_sync::test::HeapBuffer;

TEST_CASE("fixed integers survive the round trip at their limits") {
  HeapBuffer out;
  out.u8(0xff);
  out.u16(0xfffe);
  out.u32(0xfffffffd);
  out.u64(std::numeric_limits<std::uint64_t>::max());
  out.i64(std::numeric_limits<std::int64_t>::min());
  Reader in(out.span());
  CHECK(in.u8() == 0xff);
  CHECK(in.u16() == 0xfffe);
  CHECK(in.u32() == 0xfffffffd);
  CHECK(in.u64() == std::numeric_limits<std::uint64_t>::max());
  CHECK(in.i64() == std::numeric_limits<std::int64_t>::min());
  CHECK(in.ok());
  CHECK(in.at_end());
}

TEST_CASE("varints survive the round trip at each length") {
  std::vector<std::uint64_t> values{0, 1, 127, 128, 16383, 16384};
  for (unsigned bit = 14; bit < 64; bit++) {
    values.push_back(std::uint64_t{1} << bit);
    values.push_back((std::uint64_t{1} << bit) - 1);
  }
  values.push_back(std::numeric_limits<std::uint64_t>::max());
  HeapBuffer out;
  for (const auto value : values)
    out.varint(value);
  Reader in(out.span());
  for (const auto value : values)
    CHECK(in.varint() == value);
  CHECK(in.ok());
  CHECK(in.at_end());
}

TEST_CASE("a varint of more than 64 bits is refused") {
  const std::vector<std::uint8_t> eleven(11, 0x80);
  Reader a(eleven);
  CHECK(a.varint() == 0);
  CHECK_FALSE(a.ok());
  std::vector<std::uint8_t> too_large(9, 0xff);
  too_large.push_back(0x02); // bit 64
  Reader b(too_large);
  CHECK(b.varint() == 0);
  CHECK_FALSE(b.ok());
}

TEST_CASE("a reader that has failed yields zeros and stays failed") {
  const std::uint8_t three[] = {1, 2, 3};
  Reader in(three);
  CHECK(in.u32() == 0);
  CHECK_FALSE(in.ok());
  CHECK(in.u8() == 0);
  CHECK(in.text().empty());
  CHECK(in.at_end());
}

TEST_CASE("a length beyond the end is refused without touching memory") {
  HeapBuffer out;
  out.varint(std::numeric_limits<std::uint64_t>::max());
  out.u8(1);
  Reader in(out.span());
  CHECK(in.sized().empty());
  CHECK_FALSE(in.ok());
}

TEST_CASE("texts keep zeros and emptiness") {
  HeapBuffer out;
  const std::string with_zero("a\0b", 3);
  out.text(with_zero);
  out.text("");
  Reader in(out.span());
  CHECK(in.text() == with_zero);
  CHECK(in.text().empty());
  CHECK(in.ok());
}

TEST_CASE("a buffer grows and keeps what it had") {
  HeapBuffer out;
  for (std::uint32_t i = 0; i < 100000; i++)
    out.u32(i);
  Reader in(out.span());
  for (std::uint32_t i = 0; i < 100000; i++)
    REQUIRE(in.u32() == i);
}
