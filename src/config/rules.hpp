#pragma once
// What the two halves of config/ share: config.cpp owns the rules (node, clusters, which tables), tables.cpp
// what a registered table looks like under them. Internal to config/; everybody else sees config.hpp.
//
// The cache is one memory context per generation of the rules. A generation that has become stale is
// not freed before the transaction ends, so a pointer handed out stays good for its transaction even
// when a trigger fired in between has refreshed the cache.

#include "config/condition.hpp"
#include "config/config.hpp"
#include "pg/place.hpp"

namespace seal_sync::config {

struct Rule {
  Oid relation; // hash key
  NameData cluster_column;
  const Cluster *cluster;
};

/// One reading of the rules, in a memory context of its own.
struct Rules {
  MemoryContext context;
  bool have_node;
  NameData node_name;
  pg_uuid_t node_token;
  const char *detached; // since when and why, nullptr: it is not
  pg::Move moved;
  Cluster *clusters;
  int cluster_count;
  HTAB *rules;  // Rule by relation
  HTAB *tables; // TableEntry by relation, filled when asked for
};

extern Rules *current;   // after ensure_rules() never null
extern bool rules_stale; // an invalidation has arrived: read them again before use

void ensure_rules();
/// Frees a context when the transaction ends: somebody may still hold a pointer into it.
void retire(MemoryContext context);
/// The rule for exactly this relation.
const Rule *find_rule(Oid relation);
const Cluster *cluster_by_text(const char *text, size_t size);

// ---- tables.cpp ---------------------------------------------------------------------------------

/// The cache of described tables of one generation, empty.
HTAB *make_table_cache(MemoryContext context);
/// Another generation is the current one.
void forget_last_table() noexcept;
/// An invalidation of some relation has arrived: only flags are set.
void table_changed(Oid relation) noexcept;

} // namespace seal_sync::config
