#pragma once
// Writes single rows: insert, update, delete, through table access method, indexes and constraints.
//
// Called by apply_batch for each row, by later_inserts for rows that had to wait. Runs as the table's
// owner in a restricted context set by the caller. Invariants: an existing row is changed only when its
// cluster is one of the sender's, and no row is written into any other cluster (trap T6); deferrable
// constraints are noted for a recheck, foreign keys for verification (trap T10).

#include "apply/attempt.hpp"
#include "apply/target.hpp"

namespace seal_sync::apply {

enum class Outcome { kInserted, kUpdated, kDeleted, kUnchanged, kRefused, kWanted, kLater };

/// `row` has the target's layout; target->sent says which columns it carries.
Outcome put_row(Attempt *attempt, Target *target, TupleTableSlot *row, bool whole);
Outcome delete_row(Attempt *attempt, Target *target, TupleTableSlot *row);

/// A run of whole rows with ascending keys of a table that is not partitioned: written in one go when
/// none of them exists. False: nothing was done.
bool insert_run(Attempt *attempt, Target *target, int rows, const Ordinal *ordinals);

/// `row` of the target's layout as the leaf wants it: itself, or leaf->next.
TupleTableSlot *in_leaf_layout(Target *target, Leaf *leaf, TupleTableSlot *row);

/// Inserts a complete row in the leaf's layout. `replaces`: it was an update, and the foreign keys of
/// `row` as it is given were noted then.
Outcome insert_row(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row, bool replaces);

/// `row` has the target's layout and is complete. When a row with its key stands there, it becomes this one. False:
/// there is none.
bool put_over_older(Attempt *attempt, Target *target, Leaf *leaf, TupleTableSlot *row);

/// Fires what AFTER triggers have queued. With every row in careful mode, else with every section.
void end_after_query(Target *target);

} // namespace seal_sync::apply
