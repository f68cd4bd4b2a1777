#pragma once
// Noting in seal_sync.local_node where the node runs (pg/place.hpp). Inside a transaction with an active snapshot.
// PostgreSQL regime.

namespace seal_sync::worker {

/// The node runs here now: a data directory that was renamed or moved, or a promotion.
void note_place();
/// Another copy of the node was seen alive: this one rests until node_adopt, also after a restart.
void note_copy();

} // namespace seal_sync::worker
