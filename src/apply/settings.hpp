#pragma once
// The settings under which a peer's data is read and written.
//
// Called by the wire functions. Two kinds: those that must last to the end of the transaction (how it
// commits, how long it waits) are set LOCAL, and for that reason none of the wire functions has a SET
// clause, which would undo them before COMMIT (trap T23); those that decide how text is read are
// pinned in a nest level and put back when the function returns.

#include "pg/postgres.hpp"

namespace seal_sync::apply {

/// COMMIT must not return before this transaction is on disk; stronger levels stay as they are.
void require_durable_commit();

/// Gives way soon: a short lock timeout, and the loser of every deadlock. Once per transaction.
void bound_lock_waits();

/// Until the end of the transaction: a client that says nothing for that long loses its connection.
void bound_silence(int milliseconds);

/// Returns the nest level for restore_settings().
int pin_settings(int sender_encoding);
void restore_settings(int nest_level);

/// Within a pinned level: triggers that are ENABLE ALWAYS or REPLICA fire, ordinary ones do not.
void enter_replica_role();

} // namespace seal_sync::apply
