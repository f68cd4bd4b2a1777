#pragma once
// Foreign keys of what a batch has written, verified at its end (trap T10).
//
// The triggers of foreign keys do not fire for apply. Instead the referencing values of written rows
// and the referenced values of deleted or changed rows are collected (in tuplestores, so bounded by
// work_mem), and checked set-wise when all rows are there: children must have a parent, which is then
// locked FOR KEY SHARE, so that a local delete cannot slip in; parents that are gone must have no
// child. In careful mode a query that fails itself, for instance because the owner of the other table may
// not read it, is the fault of the keys it fails for. Invariant: after a batch no foreign key of a touched row is violated by it.

#include "apply/attempt.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct ForeignKeys; // of one relation; in the current memory context

/// nullptr when the relation neither references nor is referenced.
ForeignKeys *find_foreign_keys(Relation relation);

/// `old` nullptr: inserted; `now` nullptr: deleted; both: updated. Slots of the relation's layout.
void note_foreign_keys(Attempt *attempt, ForeignKeys *keys, TupleTableSlot *old, TupleTableSlot *now);

/// Raises 23503 at the first violation; in careful mode refuses the rows instead. Once in an attempt.
void verify_foreign_keys(Attempt *attempt);

} // namespace seal_sync::apply
