// core/change_log_codec: runs open and close where what keys share changes.
#include "core/change_log_codec.hpp"

#include "heap_buffer.hpp"

#include <doctest/doctest.h>
#include <vector>

using namespace seal_sync::core;
using seal_sync::test::HeapBuffer;

namespace {

void put(HeapBuffer &row, ChangeRunWriter &writer, ChangeKind kind, std::uint32_t root,
         std::uint32_t leaf, std::uint32_t cluster, ByteSpan mask, std::uint64_t key) {
  writer.select(row, kind, root, leaf, cluster, mask);
  row.u64(key);
  writer.key_done(row);
}

} // namespace

TEST_CASE("keys that share everything share one run") {
  HeapBuffer row;
  ChangeRunWriter writer;
  ChangeRunWriter::begin_row(row);
  for (std::uint64_t key = 0; key < 100; key++)
    put(row, writer, ChangeKind::kInsert, 7, 8, 1, {}, key);
  ChangeRunReader reader(row.span());
  ChangeRun run;
  REQUIRE(reader.next(run));
  CHECK(run.kind == ChangeKind::kInsert);
  CHECK(run.root == 7);
  CHECK(run.leaf == 8);
  CHECK(run.cluster == 1);
  CHECK(run.mask.empty());
  CHECK(run.keys == 100);
  CHECK(run.key_bytes.size() == 800);
  CHECK_FALSE(reader.next(run));
  CHECK_FALSE(reader.damaged());
}

TEST_CASE("a new run opens for each thing that differs") {
  const std::uint8_t one[] = {1};
  const std::uint8_t two[] = {2};
  const std::uint8_t longer[] = {1, 1};
  HeapBuffer row;
  ChangeRunWriter writer;
  ChangeRunWriter::begin_row(row);
  put(row, writer, ChangeKind::kUpdate, 1, 1, 1, one, 10);
  put(row, writer, ChangeKind::kUpdate, 1, 1, 1, one, 11);
  put(row, writer, ChangeKind::kUpdate, 1, 1, 1, two, 12);
  put(row, writer, ChangeKind::kUpdate, 1, 1, 1, longer, 13);
  put(row, writer, ChangeKind::kUpdate, 1, 1, 2, longer, 14);
  put(row, writer, ChangeKind::kUpdate, 1, 2, 2, longer, 15);
  put(row, writer, ChangeKind::kUpdate, 2, 2, 2, longer, 16);
  put(row, writer, ChangeKind::kDelete, 2, 2, 2, longer, 17);
  std::vector<int> keys;
  ChangeRunReader reader(row.span());
  ChangeRun run;
  while (reader.next(run))
    keys.push_back(run.keys);
  CHECK_FALSE(reader.damaged());
  CHECK(keys == std::vector<int>{2, 1, 1, 1, 1, 1, 1});
}

TEST_CASE("runs of a committed savepoint are joined to the parent's row") {
  HeapBuffer parent;
  ChangeRunWriter writer;
  ChangeRunWriter::begin_row(parent);
  put(parent, writer, ChangeKind::kInsert, 1, 1, 1, {}, 1);
  HeapBuffer child;
  ChangeRunWriter child_writer;
  ChangeRunWriter::begin_row(child);
  put(child, child_writer, ChangeKind::kInsert, 1, 1, 1, {}, 2);
  parent.bytes(child.data + 1, child.size - 1);
  writer.reset();
  put(parent, writer, ChangeKind::kInsert, 1, 1, 1, {}, 3);
  ChangeRunReader reader(parent.span());
  ChangeRun run;
  std::vector<std::uint64_t> keys;
  while (reader.next(run)) {
    Reader in(run.key_bytes);
    for (int i = 0; i < run.keys; i++)
      keys.push_back(in.u64());
  }
  CHECK(keys == std::vector<std::uint64_t>{1, 2, 3});
}

TEST_CASE("a mark is a run without keys, once") {
  HeapBuffer row;
  ChangeRunWriter writer;
  ChangeRunWriter::begin_row(row);
  writer.select(row, ChangeKind::kMark, 5, 5, 1, {});
  const std::size_t size = row.size;
  writer.select(row, ChangeKind::kMark, 5, 5, 1, {});
  CHECK(row.size == size);
  ChangeRunReader reader(row.span());
  ChangeRun run;
  REQUIRE(reader.next(run));
  CHECK(run.kind == ChangeKind::kMark);
  CHECK(run.keys == 0);
}

TEST_CASE("a full run is followed by another") {
  HeapBuffer row;
  ChangeRunWriter writer;
  ChangeRunWriter::begin_row(row);
  std::size_t total = 0;
  for (std::uint64_t key = 0; key < 20000; key++)
    put(row, writer, ChangeKind::kInsert, 1, 1, 1, {}, key);
  ChangeRunReader reader(row.span());
  ChangeRun run;
  while (reader.next(run)) {
    CHECK(run.key_bytes.size() <= kMaxRunBytes);
    total += run.keys;
  }
  CHECK_FALSE(reader.damaged());
  CHECK(total == 20000);
}

TEST_CASE("damage is told from the end, for every truncation") {
  HeapBuffer row;
  ChangeRunWriter writer;
  ChangeRunWriter::begin_row(row);
  const std::uint8_t mask[] = {3};
  put(row, writer, ChangeKind::kUpdate, 1, 1, 1, mask, 10);
  put(row, writer, ChangeKind::kDelete, 1, 1, 1, {}, 11);
  std::size_t clean = 0;
  for (std::size_t size = 0; size <= row.size; size++) {
    ChangeRunReader reader(row.span().first(size));
    ChangeRun run;
    while (reader.next(run)) {
    }
    clean += !reader.damaged();
  }
  CHECK(clean == 3); // the version alone, one run, both runs
}

TEST_CASE("an unknown version or kind is damage") {
  const std::uint8_t version[] = {9};
  ChangeRun run;
  ChangeRunReader a(version);
  CHECK_FALSE(a.next(run));
  CHECK(a.damaged());
  const std::uint8_t kind[] = {kChangeLogVersion, 'x', 0, 0, 0, 0};
  ChangeRunReader b(kind);
  CHECK_FALSE(b.next(run));
  CHECK(b.damaged());
}
