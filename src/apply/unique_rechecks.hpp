#pragma once
// Deferrable unique and exclusion constraints, checked again at the end of the batch (trap T10).
//
// ExecInsertIndexTuples reports where a conflict is possible; core would queue a trigger that does not
// fire in replica role. What is noted here is checked as unique_key_recheck() does.

#include "apply/attempt.hpp"

namespace seal_sync::apply {

void note_rechecks(Attempt *attempt, Oid owner, Relation heap, List *indexes, const ItemPointerData &tid);
/// Position for forgetting what a rolled-back segment has noted.
uint64 recheck_mark(const Attempt *attempt);
void forget_rechecks(Attempt *attempt, uint64 mark);

/// Raises at the first violation; in careful mode refuses the rows instead.
void run_rechecks(Attempt *attempt);

} // namespace seal_sync::apply
