// See configuration.hpp.
#include "core/configuration.hpp"

#include <unordered_set>

namespace seal_sync::core {

namespace {

// ---- writing -----------------------------------------------------------------------------------

/// A record with its size in front.
template <typename Fn> void record(Buffer &out, Fn fn) {
  const std::size_t at = out.size;
  out.u32(0);
  fn();
  out.patch(at, static_cast<std::uint32_t>(out.size - at - sizeof(std::uint32_t)));
}

void texts(Buffer &out, const std::vector<std::string> &list) {
  out.varint(list.size());
  for (const std::string &text : list)
    out.text(text);
}

void put(Buffer &out, const ClusterRule &rule) {
  out.text(rule.column);
  out.text(rule.cluster);
}

void put(Buffer &out, const TypeDeclaration &type) {
  out.text(type.schema);
  out.text(type.name);
  out.u32(static_cast<std::uint32_t>(type.typmod));
}

void put(Buffer &out, const ClusterDeclaration &cluster) {
  out.text(cluster.name);
  texts(out, cluster.match_values);
  out.text(cluster.home_node);
  out.text(cluster.primary_node);
  out.u64(cluster.epoch);
  out.u8(cluster.standby_nodes ? 1 : 0);
  if (cluster.standby_nodes)
    texts(out, *cluster.standby_nodes);
}

enum ColumnFlag : std::uint8_t { kNotNull = 1, kFillsItself = 2, kDeterministic = 4 };

void put(Buffer &out, const ColumnDeclaration &column) {
  out.text(column.name);
  put(out, column.type);
  put(out, column.base);
  out.u8(static_cast<std::uint8_t>((column.not_null ? kNotNull : 0) | (column.fills_itself ? kFillsItself : 0) |
                                   (column.deterministic ? kDeterministic : 0)));
  out.u8(static_cast<std::uint8_t>(column.identity));
  out.u8(static_cast<std::uint8_t>(column.generated));
  out.text(column.collation_schema);
  out.text(column.collation);
}

enum UniqueFlag : std::uint8_t { kPrimary = 1, kPartial = 2, kExpressions = 4 };

void put(Buffer &out, const UniqueDeclaration &key) {
  out.text(key.name);
  out.u8(static_cast<std::uint8_t>((key.primary ? kPrimary : 0) | (key.partial ? kPartial : 0) |
                                   (key.expressions ? kExpressions : 0)));
  texts(out, key.columns);
}

void put(Buffer &out, const TableDeclaration &table);
void put(Buffer &out, const SchemaDeclaration &schema);

template <typename T> void records(Buffer &out, const std::vector<T> &list) {
  out.varint(list.size());
  for (const T &one : list)
    record(out, [&] { put(out, one); });
}

void put(Buffer &out, const TableDeclaration &table) {
  out.text(table.schema);
  out.text(table.name);
  put(out, table.rule);
  records(out, table.columns);
  records(out, table.unique_keys);
}

void put(Buffer &out, const SchemaDeclaration &schema) {
  out.text(schema.schema);
  put(out, schema.rule);
  texts(out, schema.except_tables);
}

// ---- reading -----------------------------------------------------------------------------------

std::string take_text(Reader &in) { return std::string(in.text()); }

/// How many follow. Each takes a byte at least, so that no number alone makes us allocate.
std::uint64_t take_count(Reader &in, std::uint64_t most) {
  const std::uint64_t count = in.varint();
  if (count > most || count > in.remaining())
    in.fail();
  return in.ok() ? count : 0;
}

std::vector<std::string> take_texts(Reader &in, std::uint64_t most) {
  std::vector<std::string> list;
  const std::uint64_t count = take_count(in, most);
  for (std::uint64_t i = 0; i < count && in.ok(); i++)
    list.push_back(take_text(in));
  return list;
}

void take(Reader &in, ClusterRule &rule) {
  rule.column = take_text(in);
  rule.cluster = take_text(in);
  if (rule.column.empty() == rule.cluster.empty())
    in.fail();
}

void take(Reader &in, TypeDeclaration &type) {
  type.schema = take_text(in);
  type.name = take_text(in);
  type.typmod = static_cast<std::int32_t>(in.u32());
}

void take(Reader &in, ClusterDeclaration &cluster) {
  cluster.name = take_text(in);
  cluster.match_values = take_texts(in, kMostMatchValues);
  cluster.home_node = take_text(in);
  cluster.primary_node = take_text(in);
  cluster.epoch = in.u64();
  if (in.u8() != 0)
    cluster.standby_nodes = take_texts(in, kMostClusters);
  // Stored as a signed number; there is room for it to rise.
  if (cluster.match_values.empty() || cluster.epoch == 0 || cluster.epoch > (std::uint64_t{1} << 62))
    in.fail();
}

char one_of(Reader &in, std::string_view allowed) {
  const char value = static_cast<char>(in.u8());
  if (value != 0 && allowed.find(value) == std::string_view::npos)
    in.fail();
  return value;
}

void take(Reader &in, ColumnDeclaration &column) {
  column.name = take_text(in);
  take(in, column.type);
  take(in, column.base);
  const std::uint8_t flags = in.u8();
  column.not_null = (flags & kNotNull) != 0;
  column.fills_itself = (flags & kFillsItself) != 0;
  column.deterministic = (flags & kDeterministic) != 0;
  column.identity = one_of(in, "ad");
  column.generated = one_of(in, "sv");
  column.collation_schema = take_text(in);
  column.collation = take_text(in);
}

void take(Reader &in, UniqueDeclaration &key) {
  key.name = take_text(in);
  const std::uint8_t flags = in.u8();
  key.primary = (flags & kPrimary) != 0;
  key.partial = (flags & kPartial) != 0;
  key.expressions = (flags & kExpressions) != 0;
  key.columns = take_texts(in, kMostColumns);
}

template <typename T> void take_records(Reader &in, std::vector<T> &list, std::uint64_t most);

void take(Reader &in, TableDeclaration &table) {
  table.schema = take_text(in);
  table.name = take_text(in);
  take(in, table.rule);
  take_records(in, table.columns, kMostColumns);
  take_records(in, table.unique_keys, kMostUniqueKeys);
}

void take(Reader &in, SchemaDeclaration &schema) {
  schema.schema = take_text(in);
  take(in, schema.rule);
  schema.except_tables = take_texts(in, kMostTables);
}

template <typename T> void take_records(Reader &in, std::vector<T> &list, std::uint64_t most) {
  const std::uint64_t count = take_count(in, most);
  for (std::uint64_t i = 0; i < count && in.ok(); i++) {
    Reader inner(in.bytes(in.u32())); // what a newer node says behind is not looked at
    take(inner, list.emplace_back());
    if (!inner.ok())
      in.fail();
  }
}

/// No two of one name: what is decided for one would be decided for both.
template <typename T, typename Fn> bool distinct(const std::vector<T> &list, Fn name_of) {
  std::unordered_set<std::string> seen;
  for (const T &one : list)
    if (!seen.insert(name_of(one)).second)
      return false;
  return true;
}

std::string qualified(const TableDeclaration &table) { return table.schema + '\0' + table.name; }

bool consistent(const Configuration &c) {
  if (!distinct(c.clusters, [](const ClusterDeclaration &x) { return x.name; }) ||
      !distinct(c.tables, qualified) || !distinct(c.schemas, [](const SchemaDeclaration &x) { return x.schema; }))
    return false;
  std::unordered_set<std::string> values;
  for (const ClusterDeclaration &cluster : c.clusters)
    for (const std::string &value : cluster.match_values)
      if (!values.insert(value).second)
        return false;
  for (const TableDeclaration &table : c.tables)
    if (!distinct(table.columns, [](const ColumnDeclaration &x) { return x.name; }))
      return false;
  return true;
}

} // namespace

void write(Buffer &out, const ConfigurationRequest &request) {
  out.u32(request.version_min);
  out.u32(request.version);
  out.text(request.node);
  wire::write(out, request.token);
  out.text(request.expected);
  out.text(request.encoding);
}

void read(Reader &in, ConfigurationRequest &request) {
  request.version_min = in.u32();
  request.version = in.u32();
  request.node = in.text();
  wire::read(in, request.token);
  request.expected = in.text();
  request.encoding = in.text();
}

void write_reply(Buffer &out, const wire::Problem &problem) { wire::write(out, problem); }

void write_reply(Buffer &out, std::uint32_t version, const Configuration &configuration) {
  wire::write(out, wire::Problem{});
  out.u32(version);
  out.text(configuration.node);
  out.text(configuration.encoding);
  out.text(configuration.version);
  records(out, configuration.clusters);
  records(out, configuration.tables);
  records(out, configuration.schemas);
}

bool read_reply(ByteSpan message, wire::Problem &problem, Configuration &configuration) {
  Reader in(message);
  wire::read(in, problem);
  if (!in.ok() || !problem.sqlstate.empty())
    return in.ok();
  const std::uint32_t version = in.u32();
  if (version < kConfigurationVersionMin || version > kConfigurationVersion)
    return false;
  configuration.node = take_text(in);
  configuration.encoding = take_text(in);
  configuration.version = take_text(in);
  take_records(in, configuration.clusters, kMostClusters);
  take_records(in, configuration.tables, kMostTables);
  take_records(in, configuration.schemas, kMostSchemas);
  return in.ok() && consistent(configuration);
}

} // namespace seal_sync::core
