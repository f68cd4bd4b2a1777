#pragma once
// Walks the rows of a batch in the order in which they came and hands them to row_writer.
//
// Called by apply_batch, once for a first attempt, by run_careful segment by segment, by stream chunk by chunk. Collects runs of
// whole rows so that new ones can be inserted together. Memory: one chunk and one run, whatever the
// size of the batch. Invariant: the sender's order is kept, deletes of a table come before its upserts.

#include "apply/attempt.hpp"

namespace seal_sync::apply {

struct BatchRows {
  Attempt *attempt;
  core::ByteSpan last_chunk;
  Ordinal from, until;
};

/// One chunk of a batch that is applied while it arrives; `first` is the place of its first row.
void walk_one_chunk(Attempt *attempt, core::ByteSpan chunk, Ordinal first);

void walk_rows(Attempt *attempt, void *batch_rows);
void set_rows_range(void *batch_rows, uint64 from, uint64 until);

} // namespace seal_sync::apply
