#pragma once
// Which other key a refusal has to do with: the missing parent, the child that still refers, the row that has
// the unique value already.
//
// Called where rows are refused, in careful mode, when the sender wants to hear it. The sender finds with it
// which of its own refused keys is the cause of another, and tries them together. Only keys of tables that the
// sender has described travel, in the form in which it sends them itself, and where a row stands behind them only if the
// sender may hear of it (standing.hpp). Invariant: what cannot be said is left out; that never fails a batch, nor changes what is refused.

#include "apply/attempt.hpp"
#include "apply/foreign_key_queries.hpp"

namespace seal_sync::apply {

/// The index values of attempt->writing that met a unique violation, taken while they are still at hand: before
/// the segment is rolled back. nullptr: another error, or nothing to look for.
UniqueProbe *note_probe(const Attempt *attempt, const ErrorData *error);
void free_probe(UniqueProbe *probe);

/// The row that has these values; attempt->current is the refused one, `but` not meant. What `other` refers to lives
/// in attempt->rows.
bool find_conflict(Attempt *attempt, const UniqueProbe *probe, const ItemPointerData *but, OtherKey *other);
/// The same for a row that is stored (constraints that are checked at the end).
bool find_conflict_of(Attempt *attempt, Oid heap, Oid index, const ItemPointerData &tid, OtherKey *other);

/// `values` of the columns of the foreign key: the key that is not there.
bool parent_of(Attempt *attempt, const ForeignKey *key, const Datum *values, OtherKey *other);
/// One that refers to them.
bool child_of(Attempt *attempt, ForeignKeyQueries *queries, const Datum *values, OtherKey *other);

} // namespace seal_sync::apply
