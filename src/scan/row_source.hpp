#pragma once
// Finds the row of a key under X_n, in the partition where it was touched.
//
// Invariant (trap T8): a relation is locked and checked each time it is opened; one that was
// truncated, rewritten or altered since X_n, or that DDL holds, makes the source stale, and nothing
// read from it may be shipped. Locks are dropped by close_source(), never kept over the network.

#include "scan/sorted_keys.hpp"

namespace seal_sync::scan {

struct RowSource;

RowSource *make_source(const config::Table *root, Snapshot snapshot);
/// Locks nothing yet. False: stale.
bool open_source(RowSource *source);
void close_source(RowSource *source);

/// The row with this key, or nullptr. *table describes the leaf it is in. The slot is valid until the
/// next call. *stale is set when a relation cannot be trusted any more.
/// *gone: every partition the key was touched in has been dropped; DDL is not shipped, skip the key.
TupleTableSlot *find_row(RowSource *source, const KeyGroup *group, config::Table **table, bool *stale,
                         bool *gone);

/// Whether a relation is what it was under the snapshot: same storage, not locked by DDL. Takes and
/// keeps ACCESS SHARE when true.
enum class Footing { kSame, kChanged, kBusy, kGone };
Footing check_footing(Oid relation, Snapshot snapshot);
bool same_storage(Oid relation, Snapshot snapshot); // alone, for an index whose table is locked

} // namespace seal_sync::scan
