#pragma once
// seal_sync.copy: tables whose rows are to be copied to a peer, and how far each copy has come.
//
// Filed by the calls (table_add, peer_create and the like), worked off by the route worker, shown in copy_progress. All of it through
// SPI in the caller's transaction. A copy that has begun has a stage on the peer and a pin: the position that the
// peer held when it began. Until it is activated nothing of the table is shipped, and its changes since the pin are owed, so
// the log is kept from there (rotation asks oldest_pin()).

#include "scan/batch.hpp"

namespace seal_sync::scan {

struct CopyJob {
  int64 job; // a table that is taken out and added again is another one
  Oid relation;
  bool begun;
  bool staged_only; // its rows did not go in one batch: not tried again
  core::wire::Id stage;
  Position pin;
  const char *wait_message; // as it was noted last; nullptr: it does not wait
  TimestampTz last_at;      // when a part of it was staged last; 0: never
  bool useless;             // its stage does not fit the table any more
};

/// What is to be copied to a peer, as the active snapshot sees it, in the order of filing. palloc'd in the current context.
int load_copies(const char *peer, CopyJob **jobs);
/// Has all rows of a registered table copied, unless that is under way. With a pin: its changes since then are owed, too.
void file_copy(const char *peer, Oid relation, const Position *pin);

// The following are false when the row is gone, or somebody else's open transaction has it: a worker does not wait for that.

/// The stage and the pin are there: from this transaction on the table is left out of batches.
bool begin_copy_job(int64 job, const core::wire::Id &stage, const Position &pin);
/// The peer has lost the stage, or it is of no use: the rows are to be read from the start, the pin stays.
bool restart_copy_job(int64 job, const core::wire::Id &stage);
/// As if it had not begun. What has changed since the pin must be somewhere else by then.
bool unbegin_copy_job(int64 job);
/// Too much for one batch.
bool stage_copy_job(int64 job);
bool note_copied(int64 job, int64 rows_read, int64 rows, int64 bytes, bool all);
/// What the peer has said of a table that it does not take (yet).
void note_copy_waits(int64 job, const char *state, const char *message, const char *hint);
/// The rows are on the peer. A row that somebody else has is left: at worst the table is copied once more.
void end_copy_job(int64 job);
/// The peer has come back with what it held at `position`: copies that began later owe what has changed since then.
void lower_pins(const char *peer, const Position &position);

/// The oldest position that a copy to the peer starts from. False: there is none.
bool oldest_pin(const char *peer, Position *pin);

} // namespace seal_sync::scan
