#pragma once
// A chunk as its sections are read: unpacked when it came compressed (core/compression.hpp).
//
// Called for what wire_put and wire_apply bring, before anything looks into a chunk. PostgreSQL regime.
// Invariant: at most core::kMaxUnpacked bytes are allocated, and only for a chunk whose frame is whole.

#include "core/bytes.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

/// `chunk` itself, or its content in the current memory context. Raises on damage.
core::ByteSpan unpack_chunk(core::ByteSpan chunk);

} // namespace seal_sync::apply
