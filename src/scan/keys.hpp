#pragma once
// Key values: from the change log's bytes to Datums and back.

#include "config/config.hpp"
#include "core/bytes.hpp"

namespace seal_sync::scan {

/// Reads one key of `table` (see core/change_log_codec.hpp). By-reference values are palloc'd in the
/// current context. Raises data corruption when the bytes do not fit.
void read_key(core::Reader *in, const config::Table *table, Datum *values);
/// The inverse, for keys that come back from the peer.
void write_key(core::Buffer *out, const config::Table *table, const Datum *values);

/// A by-value datum of 1, 2, 4 or 8 bytes, at any alignment.
Datum fixed_datum(const uint8_t *bytes, int width);

/// A core::Buffer in a memory context.
void init_buffer(core::Buffer *buffer, MemoryContext context);

} // namespace seal_sync::scan
