#pragma once
// See history.cpp; what batch.hpp promises of the history is implemented there too.

#include "scan/log_reader.hpp"

namespace seal_sync::scan {

/// What a batch did not carry although it was in its window: tables and clusters that do not fit the
/// peer. Their keys go to seal_sync.held when the batch is acknowledged.
struct LeftOut {
  Oid *roots = nullptr;
  int root_count = 0;
  int32 *clusters = nullptr;
  int cluster_count = 0;
  // Tables that this batch copies, or whose copy it completes.
  struct Copied {
    Oid relation;
    int64 job;    // see copies.hpp
    bool has_pin; // its rows were staged: then nothing of the table was shipped since the pin
    Position pin;
  } *copied = nullptr;
  int copied_count = 0;
};

/// kind: b (sent) or a (acknowledged). durable: on disk and visible when this returns, whatever
/// becomes of the transaction.
void insert_history(const char *peer, char kind, uint64 number, const core::wire::Id &id,
                    const Position &position, const LeftOut &left_out, int64 keys, bool durable);
LeftOut left_out_of(const char *peer, uint64 number, const core::wire::Id &id);
/// The positions that this peer may still start a window from, given how long acknowledged keys are
/// kept. Returns how many (0 or 2).
int needed_positions(const char *peer, TimestampTz keep_since, Position *positions);
/// The oldest pin of copies that were completed since then: should the peer fall back behind one, its changes since the pin are owed
/// again. False: there is none.
bool oldest_completed_pin(const char *peer, TimestampTz since, Position *pin);
/// Up to where the log has been emptied as far as this peer is concerned.
Position log_floor(const char *peer);

} // namespace seal_sync::scan
