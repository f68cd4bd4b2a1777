#pragma once
// The note of a stage is kept by the peer and comes back from it, and it holds key values in this server's internal form. So it is
// sealed: only what this node has written is read. Called by worker/route_stages. PostgreSQL regime.
//
// The seal is HMAC-SHA-256 under a secret that never leaves the node (local_node.secret). A peer that gives back an older note of ours
// harms nobody but itself.

#include "core/bytes.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::scan {

/// Appends the seal of what stands in `note`.
void seal_note(core::Buffer *note);
/// Whether the note is ours; *body is then what was sealed.
bool open_note(core::ByteSpan sealed, core::ByteSpan *body);

} // namespace seal_sync::scan
