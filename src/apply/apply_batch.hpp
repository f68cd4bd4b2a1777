#pragma once
// The story of one batch: from wire_apply's request to its answer.
//
// Called by wire_apply inside the BEGIN ... COMMIT of one simple query, so a sender that stops cannot
// leave a lock behind (trap T12); stream.hpp has the exception. Invariants: applied only when its predecessor, by number and id, is
// what this node holds; the progress row stands in the same transaction as the rows; nothing is
// answered twice with different meaning.

#include "apply/attempt.hpp"

namespace seal_sync::apply {

/// The answer (wire::ApplyReply and refusals) is appended to `reply`.
void apply_batch(Session *session, core::Reader *request, core::Buffer *reply);

// The pieces of it, for stream.cpp.

/// Raises unless this is a transaction block in which a batch can be applied.
void check_apply_transaction();

/// Fills request and claims of the attempt; returns the last chunk.
core::ByteSpan read_request(core::Reader *in, Attempt *attempt);

/// Reads the request and checks whether the batch may be applied now. nullptr: it was applied before, and
/// the answer is written. The attempt lives in the current memory context.
Attempt *begin_batch(Session *session, core::Reader *in, core::ByteSpan *last_chunk, core::Buffer *reply);

/// What errors say about the batch, and the settings under which values are read, from enter to leave.
struct ApplyContext {
  ErrorContextCallback callback;
  int settings;
};
void enter_context(ApplyContext *context, Attempt *attempt);
void leave_context(const ApplyContext *context);

/// Raises kNeedRows after partial updates that found no row; their whole rows come with the next attempt.
void ask_for_wanted(Attempt *attempt);

/// What is judged when all rows are written. Not for careful attempts.
void finish_rows(Attempt *attempt);

/// Notes the batch as applied and writes the answer.
void finish_batch(Attempt *attempt, core::Buffer *reply);

} // namespace seal_sync::apply
