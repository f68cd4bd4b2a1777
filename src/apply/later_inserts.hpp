#pragma once
// Rows that are inserted after all others, in careful mode (trap T11).
//
// Unique values that swap inside a batch fail in whatever order rows are updated. In careful mode a row
// whose unique columns change is deleted first and comes here, complete with the columns that were not
// sent, and so do new rows of tables with such constraints. When all others are through, they are
// inserted; what fails then is a real violation.

#include "apply/attempt.hpp"
#include "apply/target.hpp"

namespace seal_sync::apply {

/// `row` has the leaf's layout and is complete. `replaces`: the row that stood there is deleted now, and
/// its foreign keys are compared with those of `row`.
void insert_later(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row, bool replaces);
int64 later_mark(const Attempt *attempt);
void forget_later(Attempt *attempt, int64 mark);

/// Careful mode only. Refuses what cannot be inserted.
void run_later_inserts(Attempt *attempt);

} // namespace seal_sync::apply
