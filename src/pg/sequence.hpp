#pragma once
// A sequence as it stands, and moving it forward.
//
// Called by config/sequences.cpp. Neither waits for a lock nor keeps one: a transaction that holds a snapshot
// open to a slow peer must not hold up ALTER SEQUENCE. PostgreSQL regime.

#include "core/sequence.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::pg {

enum class SequenceAccess { kDone, kGone, kBusy }; // kBusy: DDL holds its lock

struct SequenceState {
  core::Counting counting;
  int64 cache;
  int64 last_value; // as SELECT shows it: sessions may hold numbers up to it that they have not given yet
  bool is_called;
};

SequenceAccess read_sequence(Oid sequence, SequenceState *state);

/// Afterwards the sequence has given `target`, or was further already; it is never set back. Unlike setval() this is
/// one step: nextval() of others cannot be lost in between. Like setval() it does not roll back. `state`: as found, with
/// last_value as it is now. A target outside of the bounds changes nothing.
SequenceAccess advance_sequence(Oid sequence, int64 target, SequenceState *state);

} // namespace seal_sync::pg
