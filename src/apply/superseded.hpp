#pragma once
// Which rows of a batch's stages are older than a whole row, or a delete, of the same key that comes behind them.
//
// Called by apply_batch before the first row is written; asked by batch_rows, row by row. Such a row must not be
// written at all: its values may be in the way of other keys' newer ones, or be refused for what is long corrected.
// The later rows are gathered by table and key bytes (their hash of 128 bits, with a secret that peers cannot
// guess), then the stages are walked for earlier rows of the same keys, whose places are kept in a file, in order.
// Invariants: memory is bounded by kMostMemory, with more keys there are more walks; a batch in which no key can come
// twice is not walked. Keys that are equal and have other bytes (trap T24) are not found: they are written in order.

#include "apply/attempt.hpp"

namespace seal_sync::apply {

/// Sets attempt->superseded.
void find_superseded(Attempt *attempt, core::ByteSpan last_chunk);

/// When all rows are written.
void close_superseded(Attempt *attempt);

/// Before rows from `from` on are walked in ascending order.
void seek_superseded(Superseded *superseded, Ordinal from);
bool is_superseded(Superseded *superseded, Ordinal ordinal);

} // namespace seal_sync::apply
