#pragma once
// Refuses changes to rows whose cluster has its primary elsewhere, and rows that belong to no cluster.
//
// Called by the capture triggers for each row. Roles are read through config/, that is with a catalog
// snapshot (trap T15). Error texts carry no row values.

#include "config/config.hpp"

namespace seal_sync::capture {

/// The cluster of a row that an application inserts or deletes, or one side of an update (config::cluster_of).
/// Raises 23514 when it has none (trap T25), 25006 when its primary is elsewhere and the guard refuses.
/// nullptr: the guard let a foreign row pass (warn, off); it is not ours to record.
const config::Cluster *guarded_cluster(config::Table *table, const config::Cluster *cluster, const char *verb);

/// Counts and records, before commit, what the guard let pass in this transaction: who, which table, how many rows.
void tell_overridden();
void forget_overridden() noexcept; // the transaction has ended
void end_overridden_level(int nest, bool committed);

/// The same for a whole table: TRUNCATE (trap T7).
void guard_truncate(config::Table *table);

} // namespace seal_sync::capture
