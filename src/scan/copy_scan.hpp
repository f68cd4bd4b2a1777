#pragma once
// All rows of a table that go to a peer, in an order that can be taken up again: partition by partition, by primary key.
//
// Used by scan/batch for tables that are to be copied. The order is (relation that holds the row, key), as in a base_map of a
// copy. Locks are taken without waiting, checked as row_source does (trap T8), and let go by pause_copy(): none is ever kept over the
// network. PostgreSQL regime.

#include "scan/batch.hpp"
#include "config/config.hpp"

namespace seal_sync::scan {

struct CopyScan;

/// From behind a key of `scope`; InvalidOid: from the start. An empty key: from behind the whole of `scope`. In the current context.
CopyScan *begin_copy(const config::Table *root, Snapshot snapshot, Oid scope, core::ByteSpan key);

/// The next row that stands under the snapshot. nullptr: the end, or *stale: a relation cannot be trusted now.
TupleTableSlot *next_copied(CopyScan *scan, config::Table **leaf, bool *stale);

/// Lets go of locks and pages; next_copied() goes on behind the last row it gave.
void pause_copy(CopyScan *scan);

/// Where it is: behind the last row given, as in the change log; an empty key at the end of a relation.
struct CopyPlace {
  Oid scope;
  core::ByteSpan key;
};
CopyPlace place_of(const CopyScan *scan);

} // namespace seal_sync::scan
