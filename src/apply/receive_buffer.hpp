#pragma once
// The chunks of one batch as they arrive: in memory up to a bound, then in a temporary file.
//
// Owned by the session, filled by wire_put, read by wire_apply as often as a batch is repeated.
// Nothing here touches a user table: a batch is complete on this node before its first lock is taken,
// so a sender that stalls holds nothing (trap T12). Chunks that came packed stay so. Invariants: a chunk is kept only
// when its sections were walked once without damage; whatever a peer sends, memory stays below some 60 MB and the file
// below seal_sync.max_batch_size, which counts what is in the chunks.

#include "core/wire.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct ReceiveBuffer {
  MemoryContext context; // child of the session's, nullptr while empty
  uint32 chunks;
  uint64 rows;
  uint64 bytes;
  bool redescribed; // a table was described anew since: what was put of it may have another shape
  // per chunk; data is nullptr when it went to the file
  struct Chunk {
    uint8 *data;
    uint32 size;
    int file;
    off_t offset;
  } *index;
  uint32 capacity;
  Size in_memory;
  BufFile *file;
  int end_file;
  off_t end_offset;
};

/// Walks the sections, checks what can be checked without a table; returns the rows. Raises on damage.
uint64 check_chunk(core::ByteSpan chunk);

/// As it came, packed or not.
void add_chunk(ReceiveBuffer *buffer, MemoryContext parent, core::ByteSpan sent);
void drop_chunks(ReceiveBuffer *buffer);

/// The bytes of a chunk as it came; when it has to be read from the file, into memory of the current context.
core::ByteSpan read_sent_chunk(ReceiveBuffer *buffer, uint32 number);
/// The same unpacked.
core::ByteSpan read_chunk(ReceiveBuffer *buffer, uint32 number);

} // namespace seal_sync::apply
