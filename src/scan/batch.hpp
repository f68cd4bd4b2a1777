#pragma once
// From the change log to chunks on the wire: one scan, one batch.
//
// Called by worker/route_worker inside ONE transaction that the worker opened; PostgreSQL regime.
// Memory: everything of a batch lives in a context of its own below the current one and is gone with
// close(). Keys are sorted and made distinct with tuplesort, bounded by its memory limit.
//
// Invariants (design section 4, Scan):
//  - a batch is every logged change visible in X_n and not in X_(n-1); never chosen by time or serial
//  - rows are read under X_n itself; a table truncated or rewritten since X_n makes the batch stale
//  - nothing leaves before commit_to_history() has returned: the row (route, n, id, X_n) is on disk,
//    and with it WAL past every transaction X_n calls finished (traps T1, T2)

#include "core/wire.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::scan {

/// A snapshot as numbers, as in type pg_snapshot. xip holds the top-level transactions that were
/// running; xids at or above xmax had not started.
struct Position {
  uint64 xmin = 1;
  uint64 xmax = 1;
  uint32 running = 0;
  uint64 *xip = nullptr; // palloc'd, ascending
};
Position copy_position(const Position &position, MemoryContext into);
/// Whether a transaction finished before the position was taken.
bool sees(const Position &position, uint64 xid);
/// Whether `later` sees every transaction that `earlier` sees.
bool covers(const Position &later, const Position &earlier);
Position newest_position(); // of a snapshot taken now; nothing of the log is behind it

/// What one connection has agreed on with its peer; made anew at each connect. Lives in `context`.
struct Session {
  MemoryContext context;
  NameData peer;
  int peer_encoding; // of the texts in its answers; -1: one that we do not know
  uint32 next_table = 0;
  HTAB *tables = nullptr; // SentTable by root, see descriptor.hpp
  int accepted_count = 0;
  int32 *accepted_clusters = nullptr; // cluster ids the peer accepts from us
  uint64 config_version = 0;          // config::version() when made
  HTAB *troubles = nullptr;           // see troubles.hpp
  // Ids in seal_sync.held of keys that have arrived, while an operator's open transaction had locked their rows:
  // to be removed when it has ended.
  int arrived_count = 0;
  int arrived_capacity = 0;
  int64 *arrived = nullptr; // see arrived.hpp
  bool recalled = false; // the tables agreed on over earlier connections are in `tables`
  TimestampTz looked_at = 0; // for tables that DDL may have changed
};
Session *open_session(const char *peer, MemoryContext parent);
void close_session(Session *session);
void accept_cluster(Session *session, int32 cluster_id);

enum class TableFit { kUnknown, kFits, kWaitingPeer, kParked };

struct Batch;
struct BaseMap; // base_map.hpp

inline constexpr double kNoLimit = 1e18; // bytes

/// What the peer keeps of batches and copies that take long.
struct Stages {
  BaseMap *backlog = nullptr; // of the batch that is under way
  struct Copy {
    core::wire::Id stage;
    BaseMap *map;
  } *copies = nullptr;
  int copy_count = 0;
  // Tables whose copy the peer has refused a moment ago as a whole, and one whose last part came to nothing: others go first.
  const Oid *held_back = nullptr;
  int held_back_count = 0;
  Oid stale_copy = InvalidOid;
  double inline_bytes = 0; // tables up to that size in all are copied within one batch; kNoLimit: the peer knows no stages
};

/// Takes X_n and collects the keys of the window after `previous`, and held keys that are due. With a backlog stage: those
/// that it still owes. Tables whose copy is under way are left out, those whose rows are all staged go along, small ones
/// are copied. Never waits for the network. The active snapshot is pushed until close().
Batch *open(Session *session, const Position &previous, const Stages &stages);
struct CopyJob; // copies.hpp
/// The first table whose rows are to be staged, or further staged. False: none, or none that can go now. Inside a transaction with
/// an active snapshot.
bool next_to_stage(Session *session, const Stages &stages, CopyJob *job);
/// One part of the copy of a table whose rows are staged: from where `map` stands.
Batch *open_copy(Session *session, Oid relation, BaseMap *map);
void close(Batch *batch);

/// The window is empty. Tables are in the batch nevertheless, when they have to be described anew: describe them, and close
/// the batch as any other.
int64 collected(const Batch *batch);  // log entries in the window plus held keys, before distinct
int64 staged(const Batch *batch);     // more log entries of the window: earlier passes have staged them
int64 left_to_copies(const Batch *batch); // and those of tables that wait for their copy
int64 taken(const Batch *batch);      // of these, how many are done with: put into chunks, or not to be shipped
int64 shipped_rows(const Batch *batch); // rows put into chunks so far
int64 shipped_deletes(const Batch *batch); // of these
int left_out_tables(const Batch *batch);   // tables of this batch that do not fit the peer
const Position &position(const Batch *batch);
double encode_ms(const Batch *batch); // of the time in next_chunk(): in the row encoder, from a sample of rows
TimestampTz taken_at(const Batch *batch); // clock read before the snapshot: complete_until

/// Tables are locked (ACCESS SHARE, without waiting) only while their rows are read, never while the
/// network is waited for, and checked each time: truncated, rewritten or changed since X_n, or locked
/// by DDL, makes the batch stale: abandon it and take a newer one soon (trap T8). To be asked after
/// open() and whenever next_chunk() or write_wanted() has returned.
bool stale(const Batch *batch);
/// False when only held keys were found and none of them can go now: close the batch, nothing is owed.
bool worth_shipping(const Batch *batch);

/// The tables of this batch whose fit the connection does not know yet.
int undescribed(Batch *batch); // index of one, or -1
void write_describe(Batch *batch, int table, core::Buffer *out);
TableFit read_describe(Batch *batch, int table, core::Reader *reply); // remembers problem and fit
/// What the peer said of a table that does not fit; nullptr: nothing.
const char *table_problem(const Batch *batch, int table, const char **hint);
int64 table_keys(const Batch *batch, int table); // of it in this batch
bool to_be_copied(const Batch *batch, int table); // its existing rows, all or the rest of them
int table_count(const Batch *batch);
/// Forget what was agreed (after SQLSTATE kSchemaChanged, or a config change): describe again.
void forget_tables(Session *session);
/// Ask again for the tables that the peer has said not to take.
void forget_unfit(Session *session);

/// Writes (peer, n, id, X_n, left-out tables) so that it survives a crash, before anything leaves.
void commit_to_history(Batch *batch, uint64 number, const core::wire::Id &id);

/// Appends whole sections until about `limit` bytes; false when nothing is left (out may still hold
/// the last sections). Rows count into shipped_rows().
bool next_chunk(Batch *batch, core::Buffer *out, size_t limit);
/// Up to where the chunks so far go: the last key of the last table, or the end of it. Empty key: the end of the scope.
struct Reached {
  Oid scope; // InvalidOid: nothing yet
  core::ByteSpan key;
};
Reached reached(const Batch *batch);
/// The tables that the pass has come to are in the stage from here on.
void note_tables(const Batch *batch, BaseMap *map);
/// Whether the peer still takes every table that the stage has rows of.
bool stage_fits(const Batch *batch);
/// Not while a cluster is not accepted by the peer: its keys are kept when a batch is acknowledged, and a stage would take them
/// for sent.
bool may_stage(const Batch *batch);
/// Whether the batch goes on in the middle of a pass: then it cannot be applied at its end.
bool mid_pass(const Batch *batch);
/// Whether tables are being copied to the peer or wait for that.
bool has_copies(const Batch *batch);

/// Stages of copies that this batch completes.
int activated(const Batch *batch, core::wire::Id *ids, int most);
/// Whether tables are copied within this batch, and how many bytes they take here.
double inline_bytes(const Batch *batch);
/// Jobs of tables that are copied within this batch; with `staged` also of those whose copy it completes.
int copied_jobs(const Batch *batch, bool staged, int64 *jobs, Oid *relations, int most);
/// A table to be copied that the peer does not take (yet), and has not said so before. Texts live as long as the batch's connection.
struct CopyWait {
  int64 job;
  const char *state, *message, *hint;
};
/// After all of them were described.
int waiting_copies(const Batch *batch, CopyWait *waits, int most);
/// The backlog, or a complete copy, does not fit the tables as they are now: it has to be dropped.
bool backlog_useless(const Batch *batch);
int useless_copies(const Batch *batch, core::wire::Id *ids, int most);
/// Rows that the copy has looked at, whether they go to this peer or not.
int64 copy_rows_read(const Batch *batch);

/// Answer to SQLSTATE kNeedRows: the wanted rows, whole, under the same X_n.
void write_wanted(Batch *batch, core::Reader *wanted, core::Buffer *out);
/// Cluster records for the ApplyRequest: every cluster accepted by the peer. Returns their number.
uint64 write_clusters(Batch *batch, core::Buffer *out);

/// After the peer has applied the batch (also when that is learnt only after a crash, see
/// recover()): keeps left-out keys and refusals in seal_sync.held, removes held keys that went
/// through, notes the acknowledgement. Same transaction; an asynchronous commit is enough.
void acknowledge(Batch *batch, const core::wire::Id &id, core::Reader *refusals, uint64 refusal_count);

// ---- the route's history, used at connect ------------------------------------------------------

struct HistoryEntry {
  uint64 number = 0;
  core::wire::Id id;
  Position position;
  bool acknowledged = false;
  bool found = false;
};
/// The newest batch with kind b (sent) of a peer, and the newest acknowledged one.
HistoryEntry last_sent(const char *peer);
HistoryEntry last_acknowledged(const char *peer);
/// The entry with this number and id, if it is still kept.
HistoryEntry find_in_history(const char *peer, uint64 number, const core::wire::Id &id);
/// The peer says it holds (number, id), which we sent but never saw acknowledged: do now what
/// acknowledge() would have done, from the log.
void recover(Session *session, const HistoryEntry &entry, core::Reader *refusals, uint64 refusal_count);
/// The peer fell back to an older batch that is still in the resend window: make it the newest
/// acknowledged one; its position is where the next window starts.
void rewind_to(const char *peer, const HistoryEntry &entry);
/// First contact: start at the position where the peer was created (nothing older is owed).
void start_at(const char *peer, const Position &position);

/// How many keys wait for a peer (log entries after its acknowledged position, and held ones).
int64 pending_keys(const char *peer);

// ---- rotation, used by the database worker ------------------------------------------------------

/// Moves writers to another segment when the current one is full or old, and empties segments whose
/// every row is visible in the oldest position still needed by any peer (trap T21). Never waits for
/// a lock. Own transaction(s) are the caller's. Returns bytes of the log after it.
int64 rotate_log(TimestampTz keep_since);
int64 log_bytes();

} // namespace seal_sync::scan
