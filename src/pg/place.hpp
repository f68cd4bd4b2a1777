#pragma once
// Where this server runs: which file, on which host, under which path. What a copied data directory differs in.
//
// Compared by config/ with what stands in seal_sync.local_node, written there by the calls that give or confirm an identity
// and by the database worker. Advisory, and meant to err on the side of going on: a node counts as a copy only when its
// control file is another one AND stands under another path or on another host, on the same timeline. What takes over by a
// promotion has a newer timeline and goes on once the original is silent (worker/route_worker); a data directory that was renamed, remounted or moved with its disk keeps its
// file. What this does not see (a machine cloned as a whole), the generation does (trap T4). PostgreSQL regime.

#include "pg/postgres.hpp"

namespace seal_sync::pg {

/// "inode|host|path", the same for the life of the process.
const char *place_here();
/// Of the WAL that is written now; 0 in recovery.
int64 timeline_here();
/// What a node is here that was last seen at `place` on `timeline`.
enum class Move {
  kNone,     // it is where it was, or merely moved
  kCopy,     // elsewhere on the same timeline
  kPromoted, // elsewhere on a newer timeline: a standby was promoted, or a backup recovered. Never in recovery
};
Move moved_from(const char *place, int64 timeline);

} // namespace seal_sync::pg
