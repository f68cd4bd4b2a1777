#pragma once
// Stages on disk: a header each, the descriptions of its tables, and its chunks in pieces of a page.
//
// Called by stage.cpp (what wire_stage and the like do), staged_batch.cpp (applying) and the database worker
// (clean_stages). The tables are in sql/install/45_stage.sql. Invariants: header, descriptions and chunks of one
// wire_stage commit together; a chunk whose header is gone is nobody's; who reads or writes chunks holds a lock on
// their table to the end of the transaction, and took it before looking for the header, so clean_stages() may
// empty the table whenever it gets it for itself and sees no header.

#include "core/wire.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct StageHeader {
  ItemPointerData tid;
  core::wire::Id id;
  int64 number;
  int64 previous;
  core::wire::Id previous_id;
  int32 first_pass, pass;
  int64 chunks, rows, bytes;
  int64 first_pass_chunks, first_pass_rows;
  bytea *note; // palloc'd
  TimestampTz created_at;
};

/// Keeps clean_stages() away until the end of the transaction. To be called before a header is looked for.
void hold_stages(LOCKMODE mode);

bool find_stage(const NameData &origin, const core::wire::Id &id, StageHeader *header);
/// All of one sender, in palloc'd memory (nullptr: only counted); returns how many.
int list_stages(const NameData &origin, StageHeader **headers);
int64 next_stage_number();
void insert_stage(const NameData &origin, const StageHeader &header);
void update_stage(const NameData &origin, const StageHeader &header);
void delete_stage(const StageHeader &header);

struct StagedDescription {
  int64 dialect;
  uint64 number;
  int32 pass;
  int32 encoding;
  core::ByteSpan description; // without the number
  core::ByteSpan told;
};
bool has_description(int64 stage, int64 dialect, uint64 number);
void insert_description(int64 stage, const StagedDescription &description);
int read_descriptions(int64 stage, StagedDescription **descriptions);

/// Writes chunks one after the other.
struct ChunkWriter;
ChunkWriter *begin_chunks(int64 stage, int64 dialect, int32 pass, int64 first);
void write_chunk(ChunkWriter *writer, core::ByteSpan chunk);
void end_chunks(ChunkWriter *writer);

struct StagedChunk {
  core::ByteSpan bytes; // as it came, in the current memory context
  int64 dialect;
  int32 pass;
};
StagedChunk read_staged_chunk(int64 stage, int64 seq);

/// Removes what belongs to no stage any more: all at once when there is none at all, else a bounded part. Never
/// waits for a lock. The transaction is the caller's and should be one of its own. True: there is more.
bool clean_stages();

} // namespace seal_sync::apply
