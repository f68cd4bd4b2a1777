// core/configuration: what a node says of itself survives the round trip, and nothing that is cut or contradicts
// itself is taken for it.
#include "core/configuration.hpp"

#include "heap_buffer.hpp"

#include <doctest/doctest.h>

using namespace seal_sync::core;
using seal_sync::test::HeapBuffer;

namespace {

Configuration example() {
  Configuration c;
  c.node = "east";
  c.encoding = "UTF8";
  c.version = "0.1.0";
  c.clusters.push_back({"a", {"a", "a2"}, "east", "west", 7, std::vector<std::string>{"west", "north"}});
  c.clusters.push_back({"b", {"b"}, "west", "west", 1, {}});
  TableDeclaration t;
  t.schema = "public";
  t.name = "t";
  t.rule = {"cluster_id", ""};
  ColumnDeclaration column;
  column.name = "id";
  column.type = column.base = {"pg_catalog", "int4", -1};
  column.not_null = true;
  column.identity = 'd';
  t.columns.push_back(column);
  column.name = "v";
  column.type = {"app", "short", -1};
  column.base = {"pg_catalog", "varchar", 14};
  column.not_null = false;
  column.fills_itself = true;
  column.identity = 0;
  column.generated = 's';
  column.collation_schema = "pg_catalog";
  column.collation = "C";
  column.deterministic = false;
  t.columns.push_back(column);
  t.unique_keys.push_back({"t_pkey", true, false, false, {"id"}});
  t.unique_keys.push_back({"t_v", false, true, true, {}});
  c.tables.push_back(t);
  t.name = "u";
  t.rule = {"", "a"};
  c.tables.push_back(t);
  c.schemas.push_back({"app", {"", "a"}, {"x", "y"}});
  return c;
}

bool accepted(const Configuration &c) {
  HeapBuffer out;
  write_reply(out, 1, c);
  wire::Problem problem;
  Configuration back;
  return read_reply(out.span(), problem, back);
}

} // namespace

TEST_CASE("a configuration survives the round trip") {
  const Configuration c = example();
  HeapBuffer out;
  write_reply(out, 1, c);
  wire::Problem problem;
  Configuration back;
  REQUIRE(read_reply(out.span(), problem, back));
  CHECK(problem.sqlstate.empty());
  HeapBuffer again;
  write_reply(again, 1, back);
  REQUIRE(again.size == out.size);
  CHECK(std::memcmp(again.data, out.data, out.size) == 0);
  CHECK(back.clusters[0].standby_nodes->size() == 2);
  CHECK_FALSE(back.clusters[1].standby_nodes.has_value());
  CHECK(back.tables[0].columns[1].base.typmod == 14);

  for (std::size_t size = 0; size < out.size; size++) {
    Configuration partial;
    CHECK_FALSE(read_reply(out.span().first(size), problem, partial));
  }
}

TEST_CASE("a problem is read and nothing else") {
  HeapBuffer out;
  write_reply(out, wire::Problem{"42501", "no", "", "ask"});
  wire::Problem problem;
  Configuration nothing;
  REQUIRE(read_reply(out.span(), problem, nothing));
  CHECK(problem.sqlstate == "42501");
  CHECK(problem.hint == "ask");
}

TEST_CASE("what a newer node says behind a record is skipped") {
  const Configuration c = example();
  HeapBuffer out;
  write_reply(out, 1, c);
  // The first record of clusters begins after problem, version and three texts.
  HeapBuffer head;
  wire::write(head, wire::Problem{});
  head.u32(1);
  head.text(c.node);
  head.text(c.encoding);
  head.text(c.version);
  head.varint(c.clusters.size());
  std::uint32_t size;
  std::memcpy(&size, out.data + head.size, sizeof size);
  HeapBuffer longer;
  longer.bytes(out.data, head.size);
  longer.u32(size + 3);
  longer.bytes(out.data + head.size + 4, size);
  longer.bytes("new", 3);
  longer.bytes(out.data + head.size + 4 + size, out.size - head.size - 4 - size);
  wire::Problem problem;
  Configuration back;
  REQUIRE(read_reply(longer.span(), problem, back));
  CHECK(back.clusters.size() == 2);
  CHECK(back.tables.size() == 2);
}

TEST_CASE("what contradicts itself is refused") {
  Configuration c = example();
  CHECK(accepted(c));
  c.clusters[1].name = "a";
  CHECK_FALSE(accepted(c));
  c = example();
  c.clusters[1].match_values = {"a2"}; // of two clusters
  CHECK_FALSE(accepted(c));
  c = example();
  c.clusters[0].match_values.clear();
  CHECK_FALSE(accepted(c));
  c = example();
  c.clusters[0].epoch = 0;
  CHECK_FALSE(accepted(c));
  c.clusters[0].epoch = ~std::uint64_t{0};
  CHECK_FALSE(accepted(c));
  c = example();
  c.tables[1].name = "t";
  CHECK_FALSE(accepted(c));
  c = example();
  c.tables[0].rule = {"cluster_id", "a"};
  CHECK_FALSE(accepted(c));
  c.tables[0].rule = {"", ""};
  CHECK_FALSE(accepted(c));
  c = example();
  c.tables[0].columns[1].name = "id";
  CHECK_FALSE(accepted(c));
  c = example();
  c.tables[0].columns[0].identity = 'x';
  CHECK_FALSE(accepted(c));
}

TEST_CASE("a number alone makes nobody allocate") {
  HeapBuffer out;
  wire::write(out, wire::Problem{});
  out.u32(1);
  out.text("east");
  out.text("UTF8");
  out.text("0.1.0");
  out.varint(kMostClusters);
  wire::Problem problem;
  Configuration back;
  CHECK_FALSE(read_reply(out.span(), problem, back));
}

TEST_CASE("the request survives the round trip") {
  HeapBuffer out;
  ConfigurationRequest request;
  request.node = "west";
  request.expected = "east";
  request.encoding = "UTF8";
  write(out, request);
  ConfigurationRequest back;
  Reader in(out.span());
  read(in, back);
  CHECK(in.ok());
  CHECK(in.at_end());
  CHECK(back.node == "west");
  CHECK(back.version == kConfigurationVersion);
}
