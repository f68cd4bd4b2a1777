// core/stage_note: what is written is read, and nothing else is.
#include "core/stage_note.hpp"

#include "heap_buffer.hpp"

#include <doctest/doctest.h>
#include <limits>
#include <vector>

using namespace seal_sync::core;
using seal_sync::test::HeapBuffer;

TEST_CASE("the head of a note comes back") {
  StageNoteHead head;
  head.kind = StageKind::kCopy;
  head.pass = 3;
  head.relation = 16384;
  head.pass_cuts = 7;
  head.fingerprint = 0x123456789abcdef0;
  head.stage[0] = 1;
  head.stage[15] = 16;
  head.number = 88121;
  head.chunks = 5;
  head.rows = 12345678901;
  HeapBuffer note;
  write(note, head);
  Reader reader(note.span());
  StageNoteHead back;
  read(reader, back);
  CHECK(reader.ok());
  CHECK(reader.at_end());
  CHECK(back.kind == StageKind::kCopy);
  CHECK(back.pass == 3);
  CHECK(back.relation == 16384);
  CHECK(back.pass_cuts == 7);
  CHECK(back.fingerprint == head.fingerprint);
  CHECK(back.stage[0] == 1);
  CHECK(back.stage[15] == 16);
  CHECK(back.number == 88121);
  CHECK(back.chunks == 5);
  CHECK(back.rows == 12345678901);
}

TEST_CASE("a note of another version, or of no kind, is refused") {
  HeapBuffer note;
  write(note, StageNoteHead{});
  for (const std::size_t at : {0u, 1u}) {
    std::vector<std::uint8_t> damaged(note.span().begin(), note.span().end());
    damaged[at] = 'x';
    Reader reader{ByteSpan(damaged)};
    StageNoteHead back;
    read(reader, back);
    CHECK_FALSE(reader.ok());
  }
}

TEST_CASE("xids travel as distances") {
  const std::vector<std::uint64_t> xids = {100, 101, 500, 1'000'000'000'000};
  HeapBuffer note;
  write_xids(note, 99, xids.data(), xids.size());
  CHECK(note.span().size() < 16);
  Reader reader(note.span());
  const std::size_t count = read_count(reader, 1);
  REQUIRE(count == xids.size());
  std::vector<std::uint64_t> back(count);
  read_xids(reader, 99, back.data(), count);
  CHECK(reader.ok());
  CHECK(reader.at_end());
  CHECK(back == xids);
}

TEST_CASE("distances that go beyond the last number are refused") {
  HeapBuffer note;
  note.varint(2);
  note.varint(std::numeric_limits<std::uint64_t>::max() - 5);
  note.varint(100);
  Reader reader(note.span());
  std::uint64_t xids[2];
  read_xids(reader, 0, xids, read_count(reader, 1));
  CHECK_FALSE(reader.ok());
}

TEST_CASE("a count is never larger than what follows can hold") {
  HeapBuffer note;
  note.varint(1'000'000);
  note.u64(0);
  Reader reader(note.span());
  CHECK(read_count(reader, 16) == 0);
  CHECK_FALSE(reader.ok());
}
