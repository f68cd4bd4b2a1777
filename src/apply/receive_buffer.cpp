// See receive_buffer.hpp.
#include "apply/receive_buffer.hpp"

#include "apply/reply.hpp"
#include "apply/unpack.hpp"
#include "pg/guc.hpp"

extern "C" {
#include "commands/tablespace.h"
}

namespace seal_sync::apply {

namespace {

constexpr Size kMemoryLimit = 16 * 1024 * 1024;
// For each of them there is an entry in memory. A sender fills its chunks (256 kB), so it reaches
// seal_sync.max_batch_size first.
constexpr uint32 kMaxChunks = 1 << 20;
constexpr Size kChunkOverhead = 64; // of a small one in memory

void write_to_file(ReceiveBuffer *buffer, ReceiveBuffer::Chunk *chunk, core::ByteSpan bytes) {
  if (buffer->file == nullptr) {
    PrepareTempTablespaces();
    // interXact: each wire_put is a transaction of its own
    buffer->file = BufFileCreateTemp(true);
    BufFileTell(buffer->file, &buffer->end_file, &buffer->end_offset);
  }
  // After reading for a failed attempt the position is anywhere.
  if (BufFileSeek(buffer->file, buffer->end_file, buffer->end_offset, SEEK_SET) != 0)
    ereport(ERROR, errcode_for_file_access(), errmsg("could not seek in a temporary file: %m"));
  chunk->file = buffer->end_file;
  chunk->offset = buffer->end_offset;
  BufFileWrite(buffer->file, const_cast<uint8 *>(bytes.data()), bytes.size());
  BufFileTell(buffer->file, &buffer->end_file, &buffer->end_offset);
}

/// A sender that has lost its way, or means no good. What it has sent is of no use any more.
void check_limits(ReceiveBuffer *buffer, core::ByteSpan chunk) {
  const uint64 limit = static_cast<uint64>(guc::max_batch_size) * 1024 * 1024;
  const uint64 bytes = buffer->bytes + chunk.size();
  if (bytes > limit) {
    drop_chunks(buffer);
    ereport(ERROR, errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
            errmsg("a batch of a peer is larger than seal_sync.max_batch_size"),
            errdetail("The limit is %d MB.", guc::max_batch_size),
            errhint("Raise seal_sync.max_batch_size on the receiving node, or have less to send at once."));
  }
  if (buffer->chunks >= kMaxChunks) {
    drop_chunks(buffer);
    ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
            errmsg("a batch of a peer has too many chunks"), errdetail("The limit is %u.", kMaxChunks));
  }
}

} // namespace

uint64 check_chunk(core::ByteSpan chunk) {
  core::wire::SectionReader sections(chunk);
  core::wire::Section section;
  uint64 rows = 0;
  while (sections.next(section)) {
    if (section.rows > section.body.size()) // a row has at least one byte
      damaged_message("data");
    rows += section.rows;
  }
  if (sections.damaged())
    damaged_message("data");
  return rows;
}

void add_chunk(ReceiveBuffer *buffer, MemoryContext parent, core::ByteSpan bytes) {
  const core::ByteSpan content = unpack_chunk(bytes);
  const uint64 rows = check_chunk(content);
  check_limits(buffer, content);
  if (buffer->context == nullptr) {
    *buffer = ReceiveBuffer{};
    buffer->context = AllocSetContextCreate(parent, "seal_sync received batch", ALLOCSET_DEFAULT_SIZES);
  }
  const MemoryContext caller = MemoryContextSwitchTo(buffer->context);
  if (buffer->chunks == buffer->capacity) {
    const uint32 wanted = buffer->capacity == 0 ? 64 : buffer->capacity * 2;
    const Size size = sizeof(ReceiveBuffer::Chunk) * wanted;
    void *memory = buffer->index == nullptr ? palloc(size) : repalloc_huge(buffer->index, size);
    buffer->index = static_cast<ReceiveBuffer::Chunk *>(memory);
    buffer->capacity = wanted;
  }
  ReceiveBuffer::Chunk *chunk = &buffer->index[buffer->chunks];
  *chunk = {};
  chunk->size = static_cast<uint32>(bytes.size());
  if (buffer->in_memory + bytes.size() + kChunkOverhead <= kMemoryLimit) {
    chunk->data = static_cast<uint8 *>(palloc(bytes.size() + 1));
    memcpy(chunk->data, bytes.data(), bytes.size());
    buffer->in_memory += bytes.size() + kChunkOverhead;
  } else {
    write_to_file(buffer, chunk, bytes);
  }
  buffer->rows += rows;
  buffer->bytes += content.size();
  buffer->chunks += 1; // last: an error above leaves the chunk out
  MemoryContextSwitchTo(caller);
}

void drop_chunks(ReceiveBuffer *buffer) {
  const MemoryContext context = buffer->context;
  BufFile *const file = buffer->file;
  *buffer = ReceiveBuffer{}; // first: nothing below is tried twice
  if (file != nullptr)
    BufFileClose(file);
  if (context != nullptr)
    MemoryContextDelete(context);
}

core::ByteSpan read_sent_chunk(ReceiveBuffer *buffer, uint32 number) {
  const ReceiveBuffer::Chunk &chunk = buffer->index[number];
  if (chunk.data != nullptr)
    return {chunk.data, chunk.size};
  auto *bytes = static_cast<uint8 *>(MemoryContextAllocHuge(CurrentMemoryContext, chunk.size + 1));
  if (BufFileSeek(buffer->file, chunk.file, chunk.offset, SEEK_SET) != 0 ||
      BufFileRead(buffer->file, bytes, chunk.size) != chunk.size)
    ereport(ERROR, errcode_for_file_access(), errmsg("could not read a temporary file: %m"));
  return {bytes, chunk.size};
}

core::ByteSpan read_chunk(ReceiveBuffer *buffer, uint32 number) {
  return unpack_chunk(read_sent_chunk(buffer, number));
}

} // namespace seal_sync::apply
