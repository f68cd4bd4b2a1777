#pragma once
// Rows by their primary key, many of them, mostly in ascending order.
//
// Called by scan/row_source (rows of a batch under its snapshot) and apply/target (rows to be changed). A lookup in a
// btree costs a descent, and that is more than half of what a row costs to read or delete. Where the wanted
// keys lie close to each other the cursor walks along the leaves instead, and goes back to descents as soon as
// that stops to pay. Invariant: the answer is that of a lookup by equality, whatever the order of the keys:
// a key that the walk does not meet is looked up, unless the caller vouches for the order.
#include "pg/postgres.hpp"

namespace seal_sync::pg {

struct KeyCursor;

/// In the current memory context, for a valid btree whose key columns are never null. `ascending`: each key
/// is greater than the one before by the index's own comparison, since the start or restart_keys().
KeyCursor *open_key_cursor(Relation table, Relation index, Snapshot snapshot, bool ascending);
void close_key_cursor(KeyCursor *cursor);

/// The first row with this key (one value per index column) that the snapshot sees.
bool find_key(KeyCursor *cursor, const Datum *values, TupleTableSlot *row);

/// The same by a descent of its own, which sees what has changed since the walk began.
bool look_up_key(KeyCursor *cursor, const Datum *values, TupleTableSlot *row);

/// Lets go of the row, its page and the position; the next key may be any.
void restart_keys(KeyCursor *cursor);

} // namespace seal_sync::pg
