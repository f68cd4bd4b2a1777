#pragma once
// Reads seal_sync.held as of a snapshot: which keys are held, which are due, which depend on others.
//
// Used by collect.cpp and settle.cpp under the snapshot of the batch, by held.cpp under one of its own. By the table's
// indexes, below SQL: it is asked with each scan, and no statistics say whether there are ten keys or a million.
// Invariant: costs and memory grow with what is asked for, not with what is held.

#include "config/config.hpp"
#include "core/bytes.hpp"

namespace seal_sync::scan {

struct HeldIndex;
HeldIndex *open_held_index(const char *peer, Snapshot snapshot); // nullptr: there are none at all
void close_held_index(HeldIndex *index);

bool any_held(HeldIndex *index, Oid relation);

struct HeldState {
  int64 id; // 0: not held
  bool skipped;
};
bool look_up_held(HeldIndex *index, Oid relation, core::ByteSpan key, HeldState *state);

struct HeldKey {
  int64 id;
  Oid relation;
  core::ByteSpan key;
};

/// Refused keys that are due, the longest due first, and what depends on them or on the keys `found`; keys of tables that are
/// `copied` as a whole, skipped ones too, as their rows arrive with that; and keys that were left out and can go now. Not: tables that are known not to fit, clusters that are not accepted, rows that
/// somebody else has locked. Array and bytes are palloc'd in the current context.
struct HeldSelection {
  int refused, left_out; // how many at most
  Oid *unfit;
  int unfit_count;
  const int32 *accepted;
  int accepted_count;
  const int64 *found;
  int found_count;
  const Oid *copied;
  int copied_count;
};
int load_held(HeldIndex *index, const HeldSelection &which, HeldKey **keys);

} // namespace seal_sync::scan
