#pragma once
// Foreign keys as the catalog has them, and the set-wise SQL that checks collected keys.
//
// Called by foreign_keys. Each query runs as the owner of the table it reads, in a restricted context,
// as core's referential integrity does. Operators are those of the constraint, written qualified.

#include "pg/postgres.hpp"

namespace seal_sync::apply {

inline constexpr int kForeignKeyChunk = 1000;

/// Seen from one relation that holds rows.
struct ForeignKey {
  Oid constraint;
  bool incoming; // others refer to this relation; else it refers to another
  NameData name;
  Oid child, parent; // as queries name them: the partitioned table, not a partition
  char match;
  int count;
  AttrNumber attnos[INDEX_MAX_KEYS]; // in this relation
  Oid types[INDEX_MAX_KEYS];         // of those
  NameData child_columns[INDEX_MAX_KEYS], parent_columns[INDEX_MAX_KEYS];
  Oid child_types[INDEX_MAX_KEYS], parent_types[INDEX_MAX_KEYS];
  Oid parent_child[INDEX_MAX_KEYS];  // operators parent = child
  Oid parent_parent[INDEX_MAX_KEYS]; // operators parent = parent
  Oid child_child[INDEX_MAX_KEYS];   // operators child = child
};

/// Enforced foreign keys of and to a relation, palloc'd.
ForeignKey *list_foreign_keys(Relation relation, int *count);

/// A foreign key over periods (PostgreSQL 18) cannot be checked by equality.
bool has_period_foreign_key(Relation relation);

struct ForeignKeyQueries; // needs a connection to SPI
ForeignKeyQueries *prepare_foreign_key_queries(const ForeignKey *key);
const ForeignKey *queries_key(const ForeignKeyQueries *queries);
int queries_chunk(const ForeignKeyQueries *queries); // keys per call
int keys_at_once(const ForeignKey *key);             // the same, before they are prepared
/// columns[i][k]: i-th column of the k-th key. good[k]: the constraint holds for it. `outdated`: a row that was
/// written with it may have been written again; then it holds as well when no row refers to it.
void check_foreign_keys(ForeignKeyQueries *queries, Datum **columns, int count, bool outdated, bool *good);
/// A row that refers to this key: values of its columns, read as the owner of its table; they
/// live as long as the (sub)transaction. False: there is none.
bool find_child(ForeignKeyQueries *queries, const Datum *key, const char *const *columns, int count, Datum *values);
void free_foreign_key_queries(ForeignKeyQueries *queries);

} // namespace seal_sync::apply
