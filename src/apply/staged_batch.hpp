#pragma once
// The chunks of a batch wherever they are: in stages, then in the session's buffer.
//
// Called by apply_batch, batch_rows and superseded. The chunks of the stages that a batch names are its first ones,
// in the order in which they are named, so that a row's place in the batch (ordinal) is the same at each attempt.
// Their table numbers are those of connections long gone: they are looked up by dialect, and the table is matched
// anew. Invariants: a row of a stage is read in the shape in which it was described when it was put; what the peer is
// told about such a row names the table as it is named on this connection; stages are gone when, and only when, the
// batch's commit succeeds.

#include "apply/attempt.hpp"
#include "apply/stage_store.hpp"

namespace seal_sync::apply {

/// A table of staged rows.
struct StagedTable {
  uint64 key[2]; // hash key: dialect, number on the wire
  Descriptor *descriptor;
  struct StagedName *name;
};

/// The same table, however it was described.
struct StagedName {
  NameData names[2]; // hash key: schema, table
  uint32 part;       // the first stage that has rows of it
  int32 pass;        // and the first pass there
  Descriptor *here;  // as it is described on this connection; nullptr: it is not
  bool later;        // for superseded
};

struct StagedPart {
  StageHeader header;
  uint32 first; // place of its first chunk in the batch
  bool shares;  // has rows of tables that stages before it have rows of
};

struct StagedBatch {
  core::wire::StageUse *uses;
  StagedPart *parts;
  uint32 count;
  uint32 chunks;
  uint64 rows;
  HTAB *tables; // of StagedTable
  HTAB *names;  // of StagedName
  Descriptor **own; // those that no table of this connection stands for, by number - kStagedNumber
  int own_count;
};

/// What a request says of stages, when it names any; nothing is looked up. Memory: the current context.
StagedBatch *read_stage_uses(core::Reader *in);

/// A number that tells two lists of stages apart; 0: none.
uint64 stages_mark(const StagedBatch *staged);

/// Raises kNotPut unless the stages are here with the numbers that were told.
void open_stages(Attempt *attempt);

/// With the batch's commit they are gone.
void forget_stages(Attempt *attempt);

inline uint32 staged_chunks(const Attempt *attempt) { return attempt->staged == nullptr ? 0 : attempt->staged->chunks; }
inline uint64 staged_rows(const Attempt *attempt) { return attempt->staged == nullptr ? 0 : attempt->staged->rows; }
inline uint32 batch_chunks(const Attempt *attempt) { return staged_chunks(attempt) + attempt->session->buffer.chunks; }

struct BatchChunk {
  core::ByteSpan bytes; // unpacked
  int64 dialect;        // 0: of this connection
  int32 pass;           // of a stage
};
BatchChunk read_batch_chunk(Attempt *attempt, uint32 number);

/// nullptr: no stage has rows of the table.
StagedName *staged_name(const Attempt *attempt, const Descriptor *descriptor);

Descriptor *batch_descriptor(Attempt *attempt, int64 dialect, uint64 table);
/// By Descriptor::number.
Descriptor *numbered_descriptor(Attempt *attempt, uint64 number);
/// What the table is called on this connection; raises kSchemaChanged when nothing can be asked or told about its rows, whose
/// keys the sender would take for others.
uint64 wire_number(Attempt *attempt, const Descriptor *descriptor);

} // namespace seal_sync::apply
