#pragma once
// How a cluster is declared, for whoever declares clusters (cluster.cpp, config_adopt.cpp).
//
// C++ regime; the caller is AsOwner, inside an Spi level, holds lock_clusters() since before it looked, and calls
// rules_changed() afterwards.

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

struct Declared {
  std::string name;
  std::vector<std::string> match_values;
  std::string home_node;
  std::string primary_node;
  int64 epoch = 1;
  std::optional<std::vector<std::string>> standby_nodes; // none: every peer
};

/// One change of the clusters at a time: match values of two must not overlap.
void lock_clusters();

/// Enters a cluster that nothing here contradicts.
void declare_cluster(const Declared &cluster);

/// Rows of registered tables that held these values before anybody declared them: nobody could ship or
/// change them until now. After rules_changed().
void copy_rows_with(const std::vector<std::string> &values);

} // namespace seal_sync::sql_api
