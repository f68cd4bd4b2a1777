#pragma once
// What the parts of a batch share: collect.cpp fills it, batch.cpp ships from it, settle.cpp ends it.
// Internal to scan/; the outside sees batch.hpp.

#include "scan/base_map.hpp"
#include "scan/batch.hpp"
#include "scan/copies.hpp"
#include "scan/copy_scan.hpp"
#include "scan/descriptor.hpp"
#include "scan/held_index.hpp"
#include "scan/history.hpp"
#include "scan/row_encoder.hpp"
#include "scan/row_source.hpp"
#include "scan/sorted_keys.hpp"

namespace seal_sync::scan {

inline constexpr int kLittleMemoryKb = 1024; // to sort the keys of one table among many

/// One registered table in the batch.
struct TableWork {
  Oid root; // hash key
  bool unregistered; // table_remove'd since: its entries are dropped
  Oid absorbed_by;
  uint64 root_signature;
  const config::Table *table;
  SentTable *sent;
  SortedKeys *keys;
  SortedKeys *waiting; // of clusters that the peer does not accept yet
  RowSource *source;
  RowEncoder *encoder;
  // The copy of the table, if there is one to be made.
  bool left_to_copy;       // nothing of it goes before all its rows are staged
  const CopyJob *job;      // seal_sync.copy has one
  const Position *since;   // its window begins there; nullptr: where the batch's does
  const CopyJob *activates; // all are: its changes since the pin go along
  bool gives_up;           // the peer does not take it for long: what has changed since the pin is held, as of any such table
  BaseMap *copied;         // which rows were staged when
  CopyScan *copy;          // its rows go with this batch
  bool copy_done;          // to the end
  double copy_bytes;       // size here
  bool held_asked, any_held;       // whether keys of it are held
  int64 log_keys;
  bool marked;                     // the log was full: changes were left out
  int64 inserts, updates, deletes; // captured
  int64 shipped;
  size_t bytes;
  uint64 encoded, timed; // rows given to the encoder, and those of them whose time was taken
  int64 timed_us;
};

struct Batch {
  Session *session;
  MemoryContext context;
  Snapshot snapshot;
  Position position;
  TimestampTz taken_at;
  HTAB *tables;
  int table_count;
  TableWork **order; // in order of first appearance
  int order_capacity;
  HeldIndex *held_index; // nullptr: no key is held, for whomever
  int64 *found; // ids of held keys that have changed again
  int found_count;
  int found_capacity;
  BaseMap *backlog;
  bool backlog_useless;
  Oid begins_at; // the scope in which the pass stands, or 0 at its start
  CopyJob *jobs;
  int job_count;
  int copies; // tables whose copy this batch makes or completes
  int64 copy_rows_read;
  Reached reached;
  core::Buffer reached_key;
  int64 log_keys;
  int64 left_keys; // of tables that wait for their copy
  int64 staged_keys; // that earlier passes of this batch have staged
  int64 held_keys;
  int64 marks;
  int64 rows;
  int64 delete_rows;
  bool stale;
  uint64 rules_version; // config::version() when it was taken
  int current; // table being encoded
  int64 *released; // held ids that this batch ships
  int released_count;
  int released_capacity;
  int64 *kept; // held ids of keys that are held again
  int kept_count;
  int kept_capacity;
  LeftOut left_out;
  uint64 number;
};

/// The batch's work on a registered table, begun when there is none yet. Where DDL has the table the batch is stale. collect.cpp.
TableWork *work_for(Batch *batch, Oid root);
/// What the batch does about each table that is to be copied. copy_plan.cpp.
void plan_copies(Batch *batch, const Stages &stages);

inline bool accepted(const Session *session, int32 cluster_id) {
  for (int i = 0; i < session->accepted_count; i++)
    if (session->accepted_clusters[i] == cluster_id)
      return true;
  return false;
}

/// Appends to a palloc'd list that may become large. The current context must be the batch's.
inline void append_id(int64 **list, int *count, int *capacity, int64 id) {
  if (*count == *capacity) {
    *capacity = Max(64, *capacity * 2);
    const size_t size = sizeof(int64) * static_cast<size_t>(*capacity);
    *list = static_cast<int64 *>(*list == nullptr ? palloc(size) : repalloc_huge(*list, size));
  }
  (*list)[(*count)++] = id;
}

/// Appends to a palloc'd list what is not in it yet. The current context must be the batch's.
template <typename T> void remember_once(T **list, int *count, T value) {
  for (int i = 0; i < *count; i++)
    if ((*list)[i] == value)
      return;
  const size_t size = sizeof(T) * static_cast<size_t>(*count + 1);
  *list = static_cast<T *>(*list == nullptr ? palloc(size) : repalloc(*list, size));
  (*list)[(*count)++] = value;
}

/// How the key was held when the batch was taken. collect.cpp.
HeldState held_as(const Batch *batch, Oid relation, core::ByteSpan key);

/// Gives held keys the reason that the peer has named last, for each table that it does not take. To be
/// called where the transaction is about to commit.
void tell_held(Session *session);

/// A batch whose window holds so many keys that wait for a copy moves on, though it ships nothing: else each scan would read them again.
inline constexpr int64 kManyLeftKeys = 10000;

inline bool fits(const TableWork *work) { return work->sent->fit == TableFit::kFits; }

/// With this batch all rows of the table are on the peer. Not so with one part of a copy, which has no job here.
inline bool completes_copy(const TableWork *work) {
  return fits(work) && work->job != nullptr && (work->copy != nullptr || work->activates != nullptr);
}

} // namespace seal_sync::scan
