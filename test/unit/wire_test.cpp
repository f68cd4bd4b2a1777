// core/wire: every message survives the round trip, and no truncation of one is taken for whole.
#include "core/wire.hpp"

#include "heap_buffer.hpp"

#include <doctest/doctest.h>
#include <string>

using namespace seal_sync::core;
using namespace seal_sync::core::wire;
using seal_sync::test::HeapBuffer;

namespace {

Id id_of(std::uint8_t first) {
  Id id;
  for (std::uint8_t i = 0; i < 16; i++)
    id.bytes[i] = static_cast<std::uint8_t>(first + i);
  return id;
}

/// Reads back what was written, and checks that each proper prefix is refused.
template <typename Message> Message round_trip(const Message &message) {
  HeapBuffer out;
  write(out, message);
  for (std::size_t size = 0; size < out.size; size++) {
    Message partial;
    Reader in(out.span().first(size));
    read(in, partial);
    CHECK_FALSE(in.ok());
  }
  // Texts of the result point into the buffer: compare before it goes.
  Message back;
  Reader in(out.span());
  read(in, back);
  CHECK(in.ok());
  CHECK(in.at_end());
  HeapBuffer again;
  write(again, back);
  REQUIRE(again.size == out.size);
  CHECK(std::memcmp(again.data, out.data, out.size) == 0);
  return message;
}

} // namespace

TEST_CASE("messages survive the round trip") {
  HelloRequest hello;
  hello.node = "east";
  hello.token = id_of(1);
  hello.expected = "west";
  hello.generation = 77;
  hello.encoding = "UTF8";
  hello.version = "0.1.0";
  hello.clock = -5;
  hello.clusters = 2;
  round_trip(hello);

  HelloReply reply;
  reply.problem = {"SSW04", "a", "b", "c"};
  reply.protocol = 1;
  reply.node = "west";
  reply.token = id_of(2);
  reply.generation = 78;
  reply.has_batch = 1;
  reply.batch = 1234567890123;
  reply.batch_id = id_of(3);
  reply.encoding = "UTF8";
  reply.version = "0.1.0";
  reply.clock = 9;
  reply.clusters = 1;
  round_trip(reply);

  ApplyRequest apply;
  apply.batch = 5;
  apply.batch_id = id_of(4);
  apply.previous = 4;
  apply.previous_id = id_of(5);
  apply.generation = 6;
  apply.complete_until = 7;
  apply.flags = kApplyCareful | kApplyStages;
  apply.chunks = 300;
  apply.rows = 100000;
  apply.clusters = 2;
  round_trip(apply);

  ApplyReply applied;
  applied.status = ApplyStatus::kAppliedBefore;
  applied.inserted = 1;
  applied.updated = 200;
  applied.deleted = 30000;
  applied.unchanged = 4;
  applied.apply_us = 5;
  applied.complete = 0;
  applied.refusals = 6;
  round_trip(applied);

  const std::uint8_t key[] = {0, 1, 2};
  Refusal refusal;
  refusal.schema = "public";
  refusal.table = "印章";
  refusal.kind = 'P';
  refusal.key = key;
  refusal.sqlstate = "23505";
  refusal.message = "m";
  refusal.detail = "";
  refusal.constraint = "c";
  round_trip(refusal);

  Standing standing;
  round_trip(standing);
  standing.flags = Standing::kOther | Standing::kOtherStands;
  standing.schema = "public";
  standing.table = "印章";
  standing.key = key;
  standing.cluster = "a";
  round_trip(standing);
  StandingColumn standing_column;
  standing_column.name = "图像";
  round_trip(standing_column);
  standing_column.state = StandingColumn::kCut;
  standing_column.text = "... (51200 bytes)";
  round_trip(standing_column);

  HeartbeatReply heartbeat;
  heartbeat.problem = {};
  heartbeat.batch = 1;
  heartbeat.batch_id = id_of(9);
  heartbeat.clock = 2;
  heartbeat.config = 3;
  round_trip(heartbeat);

  StageUse use;
  use.stage = id_of(11);
  use.chunks = 12;
  use.rows = 13;
  round_trip(use);

  StageRequest stage;
  stage.generation = 3;
  stage.stage = id_of(21);
  stage.previous = 4;
  stage.previous_id = id_of(22);
  stage.pass = 2;
  stage.chunks = 300;
  stage.rows = 70000;
  stage.note = key;
  round_trip(stage);

  StageReply staged;
  staged.chunks = 1;
  staged.rows = 2;
  staged.bytes = 3;
  round_trip(staged);

  StageRecord record;
  record.stage = id_of(31);
  record.previous = 5;
  record.previous_id = id_of(32);
  record.chunks = 6;
  record.rows = 7;
  record.bytes = 8;
  record.note = key;
  round_trip(record);

  StageDrop drop;
  drop.generation = 9;
  drop.stage = id_of(41);
  round_trip(drop);

  TableHead head{"public", "seal_info", 12};
  round_trip(head);
  Column column;
  column.name = "id";
  column.type_schema = "pg_catalog";
  column.type_name = "int8";
  column.typmod = -1;
  column.cls = ColumnClass::kFixed;
  column.width = 8;
  column.key_position = 1;
  round_trip(column);
}

TEST_CASE("sections are walked in order and damage is told from the end") {
  HeapBuffer chunk;
  for (const char kind : {'D', 'W', 'P'}) {
    chunk.u8(static_cast<std::uint8_t>(kind));
    chunk.varint(3);
    chunk.varint(1);
    chunk.u32(2);
    chunk.u16(0);
  }
  SectionReader reader(chunk.span());
  Section section;
  std::string kinds;
  while (reader.next(section)) {
    kinds += static_cast<char>(section.kind);
    CHECK(section.table == 3);
    CHECK(section.rows == 1);
    CHECK(section.body.size() == 2);
  }
  CHECK_FALSE(reader.damaged());
  CHECK(kinds == "DWP");

  SectionReader cut(chunk.span().first(chunk.size - 1));
  while (cut.next(section)) {
  }
  CHECK(cut.damaged());

  chunk.data[0] = 'X';
  SectionReader unknown(chunk.span());
  CHECK_FALSE(unknown.next(section));
  CHECK(unknown.damaged());
}
