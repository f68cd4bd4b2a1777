#pragma once
// Rotation of the change log (declared in batch.hpp) and of the route history.

#include "scan/batch.hpp"

namespace seal_sync::scan {

/// Moves routes to the other history table when the current one is old, and empties a table whose
/// every row is older than the resend window, after carrying over each peer's newest.
void rotate_history(TimestampTz keep_since);

/// Ships every row again of one table that was marked dirty, once the log has room: enters its keys and
/// removes the mark. Without a lock: rows changed meanwhile record themselves. Own transaction is the
/// caller's. False: nothing to do.
bool heal_dirty_table();

/// Whether a copy of a table's keys may be entered into the log now; and that it was, from so many bytes on.
bool log_has_room();
void count_copy(int64 bytes_before);

/// Whether the table's oldest row is older than that.
bool history_is_old(Oid table, TimestampTz keep_since);
/// When every row of one history table is old: copies what stays needed to the other and says true;
/// then it can be emptied. Same transaction.
bool carry_history_over(int from, int to, TimestampTz keep_since);

} // namespace seal_sync::scan
