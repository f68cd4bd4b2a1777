#pragma once
// Applying a large batch while it still arrives.
//
// wire_begin opens it in an explicit transaction, each wire_put that follows applies its chunk at once, wire_apply
// finishes it like a collected one. Only over a fast link, which the sender measures: rows of the batch are locked
// from now on, and the rule that no lock waits for the network (trap T12) is replaced by a bound: a sender that is
// silent for kMostSilenceMs, between calls or inside of one, loses its connection, and with it the transaction.
// Nothing is careful here: any error ends the transaction, and the sender ships a new batch that is collected first.
// Invariant: a transaction that has begun a batch cannot commit before wire_apply has finished it.

#include "apply/apply_session.hpp"

namespace seal_sync::apply {

struct Attempt;

void begin_stream(Session *session, core::Reader *request);

/// Whether this transaction has begun a batch that is not finished.
bool streaming() noexcept;
void refuse_while_streaming();

/// Applies a chunk, after those that were collected before the batch began.
void stream_chunk(Session *session, core::ByteSpan chunk);

/// The request names the same batch with its true counts, and has the last chunk.
void finish_stream(Session *session, core::Reader *request, core::Buffer *reply);

} // namespace seal_sync::apply
