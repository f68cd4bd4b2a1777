#pragma once
// The rules as a backend sees them: this node, clusters and their roles, registered tables.
//
// Read from the configuration tables with a catalog snapshot, never with the transaction's snapshot
// (trap T15), and kept per backend until a relcache invalidation of one of those tables or of the
// relation concerned arrives. Who changes a configuration table by SQL or heap access MUST call
// config::changed() in the same transaction; DDL on user tables invalidates by itself.
// PostgreSQL regime throughout. Pointers stay valid until the transaction ends.

#include "core/bytes.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::config {

inline constexpr int kSegments = 8; // change_log_0 .. change_log_7

struct Cluster {
  int32 id;
  NameData name;
  NameData primary_node;
  int64 epoch;
  bool primary_here; // primary_node is this node
  int match_count;
  const char **match_values;
  int standby_count; // -1: every peer
  NameData *standby_nodes;
};

struct KeyColumn {
  AttrNumber attno;      // in this relation
  AttrNumber root_attno; // in the registered relation
  Oid type;
  Oid collation; // of the index
  int16 width;   // typlen
  bool by_value;
  char align;
};

/// A relation whose rows are captured: a registered table, or a partition of one at any depth.
struct Table {
  uint64 signature; // of what matters here: columns, key, cluster rule. Not of statistics and the like
  Oid relation; // the relation that holds rows (leaf), or the registered one itself
  Oid root;     // the registered relation
  Oid key_index; // primary-key index of `relation`
  bool usable;   // false: has no primary key of the registered shape (being altered)
  int key_count;
  KeyColumn keys[INDEX_MAX_KEYS]; // in index order of the ROOT's primary key
  AttrNumber cluster_attno;       // in `relation`; 0: constant_cluster
  const Cluster *constant_cluster;
  AttrNumber *root_attnos; // [attno - 1] -> attno in root (0: dropped); NULL when identical
  // cluster_of() state
  Oid cluster_type;
  int16 cluster_width; // typlen
  bool cluster_by_value;
  bool cluster_blank_padded;
  FmgrInfo cluster_out;
  struct ClusterMemo *cluster_memo;
};

/// Accepts pending invalidations and drops what they made stale. Call once per statement or batch,
/// not per row.
void refresh();

/// This node's name, or nullptr without identity (or while the extension is absent).
const char *local_node();
bool local_token(pg_uuid_t *token);

/// The rule for a relation, or nullptr when neither it nor a partition ancestor is registered.
Table *find_table(Oid relation);

const Cluster *find_cluster(int32 id);
const Cluster *find_cluster(const char *name);
int cluster_count();
const Cluster *cluster_at(int index);

bool peer_exists(const char *name);
/// Whether `cluster` is shipped to `peer`: it has its primary here and the peer is one of its standbys.
bool routed_to(const Cluster *cluster, const char *peer);

/// The cluster of a row by the value of its cluster column; nullptr: null or undeclared (trap T25).
const Cluster *cluster_of(Table *table, Datum value, bool is_null);
const Cluster *cluster_of(Table *table, TupleTableSlot *slot);

/// Tells all backends, at commit, that configuration tables changed.
void changed();

/// Oid of a table or index of schema seal_sync by name, cached; InvalidOid when the extension is absent.
Oid own_relation(const char *name);
Oid change_log_segment(int segment);
Oid extension_owner();

/// A number that changes whenever the rules this backend sees have changed.
uint64 version();

} // namespace seal_sync::config
