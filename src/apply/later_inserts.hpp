#pragma once
// Rows that are inserted after all others, in careful mode (trap T11).
//
// Unique values that swap inside a batch fail in whatever order rows are updated. In careful mode a row
// whose unique columns change is deleted first and comes here, complete with the columns that were not
// sent, and so do new rows of tables with such constraints. When all others are through, they are
// inserted; what fails then is a real violation.
//
// With stages there may be several rows of one key, equal though not of the same bytes (trap T24), so that the older
// ones are not recognized before (superseded.hpp). They are written in the order in which they came, whatever
// connection described their table: a younger row replaces what an older one has left, and a delete of a row that may
// be waiting waits as well. Invariant: of two rows of one key the younger has the last word.

#include "apply/attempt.hpp"
#include "apply/target.hpp"

namespace seal_sync::apply {

/// `row` has the leaf's layout and is complete. `replaces`: the row that stood there is deleted now, and
/// its foreign keys are compared with those of `row`.
void insert_later(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row, bool replaces);
bool any_later(const Attempt *attempt, const Target *target);
int64 later_mark(const Attempt *attempt);
void forget_later(Attempt *attempt, int64 mark);

/// Careful mode only. Refuses what cannot be inserted.
void run_later_inserts(Attempt *attempt);

} // namespace seal_sync::apply
