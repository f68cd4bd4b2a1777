#pragma once
// What this node has applied of each origin: one inserted row per batch, in the batch's transaction.
//
// Called by wire_hello, wire_apply, wire_heartbeat, and by the database worker (rotation).
// Invariants: rows are only inserted (an updated row decays under any held snapshot, trap T3); the
// newest row of an origin over both tables is its progress, whichever table it stands in, so who
// writes where needs no agreement.

#include "core/wire.hpp"
#include "pg/postgres.hpp"

namespace seal_sync::apply {

struct Applied {
  bool found;
  int64 batch;
  core::wire::Id id;
  TimestampTz complete_until;
  bytea *refusals; // palloc'd, nullptr: none
};

/// Reads under a snapshot taken now, whatever the transaction's isolation.
Applied last_applied(const char *origin);

void note_applied(const char *origin, int64 batch, const core::wire::Id &id, TimestampTz complete_until,
                  int64 rows, bytea *refusals);

/// Empties a table that has grown, keeping each origin's newest row. Never waits for a lock. The
/// transaction is the caller's and should be one of its own.
void rotate_progress();

} // namespace seal_sync::apply
