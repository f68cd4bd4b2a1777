#pragma once
// What a node has declared, as it travels to a peer that wants to compare or adopt it: clusters, registered
// tables with their columns and unique keys, rules of schemas. Answer of wire_config.
//
// Written by sql_api/wire_config, read by sql_api/peer_config. Each record has its size in front, so that a newer
// node can say more in it and an older one skips what it does not know. Pure; the reader is total: bounded
// numbers, no record outside of its bounds, and nothing that contradicts itself. What a name may be
// (encoding, length) is the server's to judge.
//
//   wire_config(ConfigurationRequest) -> ConfigurationReply

#include "core/wire.hpp"

#include <optional>
#include <string>
#include <vector>

namespace seal_sync::core {

inline constexpr std::uint32_t kConfigurationVersion = 1;    // newest spoken
inline constexpr std::uint32_t kConfigurationVersionMin = 1; // oldest spoken

// Nobody has that many; what is beyond is not read.
inline constexpr std::uint64_t kMostClusters = 10000;
inline constexpr std::uint64_t kMostMatchValues = 10000; // of one cluster
inline constexpr std::uint64_t kMostTables = 100000;
inline constexpr std::uint64_t kMostColumns = 1600;
inline constexpr std::uint64_t kMostUniqueKeys = 1000; // of one table
inline constexpr std::uint64_t kMostSchemas = 10000;

struct ConfigurationRequest {
  std::uint32_t version_min = kConfigurationVersionMin;
  std::uint32_t version = kConfigurationVersion;
  std::string_view node;     // who asks
  wire::Id token;            // and its identity
  std::string_view expected; // the node it wants to reach
  std::string_view encoding; // of the names in this request
};
void write(Buffer &out, const ConfigurationRequest &request);
void read(Reader &in, ConfigurationRequest &request);

struct ClusterDeclaration {
  std::string name;
  std::vector<std::string> match_values;
  std::string home_node;
  std::string primary_node;
  std::uint64_t epoch = 1;
  std::optional<std::vector<std::string>> standby_nodes; // none: every peer
};

/// What tells a row's cluster: exactly one of the two is not empty.
struct ClusterRule {
  std::string column;
  std::string cluster;
  [[nodiscard]] bool operator==(const ClusterRule &other) const = default;
};

/// A type by its names; a domain is followed by what it is made of.
struct TypeDeclaration {
  std::string schema, name;
  std::int32_t typmod = -1;
  [[nodiscard]] bool operator==(const TypeDeclaration &other) const = default;
};

struct ColumnDeclaration {
  std::string name;
  TypeDeclaration type;
  TypeDeclaration base; // the same as `type`, unless that is a domain
  bool not_null = false;
  bool fills_itself = false; // has a default, or is an identity column
  char identity = 0;         // 'a' always, 'd' by default, 0: none
  char generated = 0;        // 's' stored, 'v' virtual, 0: not
  std::string collation_schema, collation; // empty: its type has none
  bool deterministic = true; // of the collation
};

struct UniqueDeclaration {
  std::string name; // of the index
  bool primary = false;
  bool partial = false;      // has a predicate
  bool expressions = false;  // not only of columns
  std::vector<std::string> columns;
};

struct TableDeclaration {
  std::string schema, name;
  ClusterRule rule;
  std::vector<ColumnDeclaration> columns;
  std::vector<UniqueDeclaration> unique_keys;
};

struct SchemaDeclaration {
  std::string schema;
  ClusterRule rule;
  std::vector<std::string> except_tables; // by name, in that schema
};

struct Configuration {
  std::string node;
  std::string encoding; // of all names and values
  std::string version;  // of the library
  std::vector<ClusterDeclaration> clusters;
  std::vector<TableDeclaration> tables;
  std::vector<SchemaDeclaration> schemas;
};

/// The answer: a problem, or else the version spoken and the configuration.
void write_reply(Buffer &out, const wire::Problem &problem);
void write_reply(Buffer &out, std::uint32_t version, const Configuration &configuration);

/// False: damaged, or more than is believable. When problem.sqlstate is not empty nothing else was read; its texts
/// point into the message.
bool read_reply(ByteSpan message, wire::Problem &problem, Configuration &configuration);

/// Calls fn(text, is_name) for every text of it, so that the caller can convert and judge them.
template <typename Fn> void for_each_text(Configuration &configuration, Fn fn);

// ------------------------------------------------------------------------------------------------

template <typename Fn> void for_each_text(Configuration &configuration, Fn fn) {
  const auto name_or_nothing = [&](std::string &text) {
    if (!text.empty())
      fn(text, true);
  };
  const auto rule = [&](ClusterRule &r) {
    name_or_nothing(r.column);
    name_or_nothing(r.cluster);
  };
  const auto type = [&](TypeDeclaration &t) {
    fn(t.schema, true);
    fn(t.name, true);
  };
  fn(configuration.node, true);
  fn(configuration.version, false);
  for (ClusterDeclaration &cluster : configuration.clusters) {
    fn(cluster.name, true);
    fn(cluster.home_node, true);
    fn(cluster.primary_node, true);
    for (std::string &value : cluster.match_values)
      fn(value, false);
    if (cluster.standby_nodes)
      for (std::string &node : *cluster.standby_nodes)
        fn(node, true);
  }
  for (TableDeclaration &table : configuration.tables) {
    fn(table.schema, true);
    fn(table.name, true);
    rule(table.rule);
    for (ColumnDeclaration &column : table.columns) {
      fn(column.name, true);
      type(column.type);
      type(column.base);
      name_or_nothing(column.collation_schema);
      name_or_nothing(column.collation);
    }
    for (UniqueDeclaration &key : table.unique_keys) {
      fn(key.name, true);
      for (std::string &column : key.columns)
        fn(column, true);
    }
  }
  for (SchemaDeclaration &schema : configuration.schemas) {
    fn(schema.schema, true);
    rule(schema.rule);
    for (std::string &table : schema.except_tables)
      fn(table, true);
  }
}

} // namespace seal_sync::core
