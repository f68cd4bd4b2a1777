#pragma once
// Appends rows to the change log. Called by key_buffer only.
//
// Below SQL: no rights of the user are needed on the log (trap T19), and no executor stands in the
// way of a commit. Rows are only ever inserted.

#include "core/bytes.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::capture {

/// Writes one log row per payload, under the current subtransaction. A transaction stays in the
/// segment it first chose and keeps its lock to the end, which is what rotation relies on (T21).
void append_to_log(const core::ByteSpan *payloads, int count);

/// Forgets the transaction's segment; from the transaction callbacks.
void end_of_transaction() noexcept;

} // namespace seal_sync::capture
