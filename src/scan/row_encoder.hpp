#pragma once
// Rows of one table as wire sections: deletes, whole rows, and partial rows by their set of columns.
//
// Sections are gathered until a chunk is full, deletes first. A partial row is sent only when it saves
// something: small rows go whole, which also heals a peer that lacks them.

#include "scan/descriptor.hpp"

namespace seal_sync::scan {

struct RowEncoder;

RowEncoder *make_encoder(const SentTable *sent, MemoryContext context);
void encode_delete(RowEncoder *encoder, const Datum *key_values);
/// mask: bits of changed root columns; nullptr: whole row.
void encode_row(RowEncoder *encoder, const config::Table *leaf, TupleTableSlot *row, const uint8 *mask,
                int mask_size);
size_t encoded_bytes(const RowEncoder *encoder);
/// Moves everything gathered to the chunk. Returns the number of rows.
uint64 flush_sections(RowEncoder *encoder, core::Buffer *chunk, int64 *deletes);

} // namespace seal_sync::scan
