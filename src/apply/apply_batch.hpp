#pragma once
// The story of one batch: from wire_apply's request to its answer.
//
// Called by wire_apply inside the BEGIN ... COMMIT of one simple query, so a sender that stops cannot
// leave a lock behind (trap T12). Invariants: applied only when its predecessor, by number and id, is
// what this node holds; the progress row stands in the same transaction as the rows; nothing is
// answered twice with different meaning.

#include "apply/attempt.hpp"

namespace seal_sync::apply {

/// The answer (wire::ApplyReply and refusals) is appended to `reply`.
void apply_batch(Session *session, core::Reader *request, core::Buffer *reply);

} // namespace seal_sync::apply
