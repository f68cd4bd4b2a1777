#pragma once
// One attempt to apply a batch: what all parts of apply share while rows are written.
//
// Made by apply_batch for one call of wire_apply, or by stream.cpp for one transaction, handed down to row_writer, unique_rechecks,
// foreign_keys and later_inserts. Lives in the transaction's memory; what must outlive a failed
// attempt stands in the session's BatchNotes.

#include "apply/apply_session.hpp"
#include "apply/relation_map.hpp"
#include "config/config.hpp"
#include "core/wire.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct Target;
struct Leaf;
struct UniqueProbe; // other_keys.hpp
struct ForeignKeyStore;
struct LaterInserts;
struct StagedBatch;
struct Superseded;
struct UniqueRechecks;

struct Claim {
  NameData cluster;
  int64 epoch;
};

/// The row that is being written: who is to blame when something fails.
struct CurrentRow {
  Ordinal ordinal;
  const Descriptor *descriptor; // nullptr: between rows
  uint8 kind;
  core::ByteSpan bytes; // as it was sent, in the columns below; or the key itself
  const int *columns;   // nullptr: bytes is the key
  int column_count;
};

/// The version of it that is being stored: whose index entries fail when a unique constraint does.
struct WritingRow {
  Leaf *leaf; // nullptr: none
  TupleTableSlot *row;
};

/// For the counters of stat_table.
struct WrittenRows {
  Oid relation;
  int64 rows;
};

struct Attempt {
  Session *session;
  core::wire::ApplyRequest request;
  bool careful;
  Claim *claims; // clusters of this batch, checked against the rules
  int claim_count;
  uint64 rules; // config::version() the claims were checked under

  MemoryContext context; // of the attempt
  MemoryContext segment; // child: open targets, gone with the segment
  MemoryContext rows;    // child of context: values of the rows at hand
  HTAB *targets;         // of the open segment, by descriptor number
  CurrentRow current;
  uint64 position; // of it, in what is being walked
  WritingRow writing;
  UniqueProbe *probe;    // careful mode: of the row that has failed last
  const OtherKey *other; // for the next refuse_current()

  StagedBatch *staged;    // nullptr: no stage belongs to the batch
  Superseded *superseded; // rows of it that are not looked at; nullptr: none

  ResourceOwner owner; // of what outlives a segment

  UniqueRechecks *rechecks;
  LaterInserts *later;
  bool inserting_later; // they are written now: nothing waits any more
  ForeignKeyStore *foreign_keys;
  bool verifying; // foreign keys, in a first attempt: what fails is some row's fault
  int subtransactions; // of careful mode that have written and were kept
  int64 wanted_before; // notes.wanted_count when the attempt began
  int64 refused_before; // notes.refused_count then

  uint32 streamed_chunks; // applied so far, of a batch that is applied while it arrives
  uint64 streamed_rows;
  int64 spent_us; // applying

  uint64 inserted, updated, deleted, unchanged;
  List *written; // of WrittenRows, by table
};

/// Whether the sender wants to hear what stands here.
inline bool tells_standing(const Attempt *attempt) {
  return (attempt->request.flags & core::wire::kApplyTellStanding) != 0;
}

/// Raises when a cluster of this batch is not the sender's any more. Cheap while the rules stand.
void check_claims(Attempt *attempt);

/// Whether rows of this cluster may be written by this batch.
bool is_senders(const Attempt *attempt, const config::Cluster *cluster);

/// The key of the current row as a wire keyrow, in the current memory context.
core::ByteSpan current_key(const Attempt *attempt);

/// A copy of it that lives as long as the attempt.
core::ByteSpan keep_current_key(const Attempt *attempt);

/// Takes the current row out of the batch.
void refuse_current(Attempt *attempt, const char *sqlstate, const char *message, const char *detail,
                    const char *constraint);

/// The same with an error as reason.
void refuse_current(Attempt *attempt, const ErrorData *error);

/// Whether the detail of an error quotes a row that stands here, with columns that the peer may not know.
bool quotes_rows(const ErrorData *error);

/// Whether an error concerns the row at hand, and not this attempt as a whole.
bool is_row_error(const ErrorData *error);

/// Raises kRepeat: known refusals have grown, what stands here is not to be committed.
[[noreturn]] void ask_to_repeat(Attempt *attempt, const char *why);

/// Executes as the owner of a table under restricted security; returns what to give to leave_owner().
struct OwnerScope {
  Oid user;
  int context;
};
OwnerScope become_owner(Oid owner);
void leave_owner(const OwnerScope &scope);

} // namespace seal_sync::apply
