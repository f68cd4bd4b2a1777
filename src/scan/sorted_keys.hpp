#pragma once
// The keys of one table in a batch: sorted in index order, made distinct, within bounded memory.
//
// Keys are equal when the primary key's operator says so (trap T24), across clusters and partitions
// (trap T5): what becomes of a key is decided by the row under X_n, not by what was logged last.

#include "config/config.hpp"
#include "core/bytes.hpp"

namespace seal_sync::scan {

inline constexpr int kMaxLeavesPerKey = 16;

/// One distinct key with all that was logged of it.
struct KeyGroup {
  Datum values[INDEX_MAX_KEYS]; // valid until the next group
  uint8 mask[256];              // union of changed root columns
  int mask_size;
  bool whole;                   // some entry asks for the whole row
  Oid leaves[kMaxLeavesPerKey]; // partitions in which it was touched; InvalidOid: any
  int leaf_count;
  bool any_leaf;
  int32 cluster; // that it was last entered under, as far as the log says; 0: only held before
  int64 held[4]; // ids of seal_sync.held that this key stands for
  int held_count;
};

struct SortedKeys;

SortedKeys *begin_keys(const config::Table *root, int memory_kb);
/// cluster: of the log entry, 0 for a held key. held: its id in seal_sync.held, 0: none.
void add_key(SortedKeys *keys, const Datum *values, Oid leaf, int32 cluster, core::ByteSpan mask, bool whole,
             int64 held);
void sort_keys(SortedKeys *keys);
/// False at the end. The first call sorts.
bool next_group(SortedKeys *keys, KeyGroup *group);
void end_keys(SortedKeys *keys);
int64 keys_added(const SortedKeys *keys);
int64 keys_read(const SortedKeys *keys); // of these, how many stand in the groups read so far

} // namespace seal_sync::scan
