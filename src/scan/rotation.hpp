#pragma once
// Rotation of the change log (declared in batch.hpp) and of the route history.

#include "scan/batch.hpp"

namespace seal_sync::scan {

/// Moves routes to the other history table when the current one is old, and empties a table none of
/// whose rows can be needed: every peer has a newer acknowledgement, old enough, in the other one.
void rotate_history(TimestampTz keep_since);

/// Ships every row again of one table that was marked dirty, once the log has room: enters its keys and
/// removes the mark. Without a lock: rows changed meanwhile record themselves. Own transaction is the
/// caller's. False: nothing to do.
bool heal_dirty_table();

/// Whether the table's oldest row is older than that.
bool history_is_old(Oid table, TimestampTz keep_since);
/// Whether each peer's needed position and newest entries stand outside this table.
bool history_is_spent(Oid table, TimestampTz keep_since);

} // namespace seal_sync::scan
