#pragma once
// What stands here under the keys that a batch could not have.
//
// Called once by apply_batch, when all refusals of a batch are known and its rows are written, if the sender
// wants to hear it. Invariants: only columns that the sender has described, only rows of clusters that it is primary
// of or a standby for, so that nobody reads by refused keys what he would not have anyway; long values are cut; bounded
// by kMaxStanding; never fails a batch; waits for nobody.

#include "apply/attempt.hpp"

namespace seal_sync::apply {

void note_images(Attempt *attempt);

/// Whether the sender may hear of rows of this cluster: it is its primary, or a standby. nullptr: of none, no.
bool may_be_told(const Attempt *attempt, const config::Cluster *cluster);

} // namespace seal_sync::apply
