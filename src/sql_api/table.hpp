#pragma once
// What table_add asks of a table and does with it, for whoever adds tables (table.cpp, schema.cpp).
//
// C++ regime; the caller is AsOwner, inside an Spi level. Of these only enter_table changes anything, so that a
// core::Error of the others leaves the transaction as it was.

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// What tells a row's cluster: a column, or one cluster for the whole table.
struct ClusterBy {
  std::optional<std::string> column;
  std::optional<std::string> cluster;
};

/// As people read it: "column cluster_id", "cluster a".
std::string describe(const ClusterBy &by);

/// Refuses existing_rows that are not known, and both or neither of the two.
void check_arguments(const std::string &existing_rows, const ClusterBy &by);

/// Refuses an unknown cluster. to_stay: it cannot be dropped until the transaction ends.
void require_cluster(const std::string &cluster, bool to_stay);

/// Refuses a table that cannot be registered. Returns the number of its cluster column, or 0.
int check_table(Oid relation, const ClusterBy &by);

/// Registers a table that check_table has let pass. The caller holds the lock that keeps writers out
/// since before the check, and calls rules_changed() afterwards.
void enter_table(Oid relation, const ClusterBy &by, int cluster_attno);

/// Refuses schemas of the system.
void check_schema(Oid schema);

/// Whose schema it is decides what its future tables carry, whoever makes them.
void refuse_foreign_schema(Oid schema, Oid caller);

/// Makes, changes or ends (new_tables false) the rule by which tables made later are registered.
void set_schema_rule(Oid schema, const ClusterBy &by, const std::vector<Oid> &excepted, bool new_tables);

/// Registers those of these relations that a rule of their schema includes (schema_add, new_tables).
/// made: they are new, and it is worth a notice when one cannot be registered.
void add_new_tables(const std::vector<Oid> &relations, bool made);

/// A table taken out of synchronization by hand stays out, whatever the rule of its schema.
void except_from_schema_rule(Oid relation);

/// What DROP and RENAME mean for the rules of schemas.
void forget_in_schema_rules(const std::vector<Oid> &relations, const std::vector<std::string> &schemas);
void follow_schema(Oid schema);

/// Locks a table and its partitions against writers.
void lock_against_writers(Oid relation);

} // namespace seal_sync::sql_api
