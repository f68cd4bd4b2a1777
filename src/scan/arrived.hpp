#pragma once
// Held keys that have arrived: out of seal_sync.held, and into seal_sync.held_arrived for as long as the peer may fall back to a
// state before that. The change log, from which a window is sent again, does not have them any more.
//
// A row of seal_sync.held that an operator's open transaction has locked stays for now. Session::arrived knows it, also
// on the next connection and after a restart, and it is removed once it is free.
// Invariant: the worker waits for no row of seal_sync.held; a key is in held, in the log behind the peer's position, or here.
//
// Called by settle.cpp and batch.cpp in the route worker's transaction, by history.cpp when a peer fell back, and by the
// database worker for upkeep. Changes are made through SPI.

#include "scan/batch.hpp"

namespace seal_sync::scan {

/// Keys that have arrived with this batch. What depends on them is due at once.
void release_held(Session *session, const int64 *ids, int count, uint64 batch);
/// Those that could not be removed before.
void release_arrived(Session *session);
/// Held keys of a table that is not registered any more: to be removed with those.
void drop_held(Session *session, int64 id);
/// Keys that are held after all, though they had arrived before.
void hold_after_all(Session *session, const int64 *ids, int count);

/// The peer holds nothing behind this batch any more: what arrived later is due again.
void hold_again(const char *peer, uint64 batch);
/// Reads Session::arrived.
void load_arrived(Session *session);
/// The peer cannot fall back so far any more.
void forget_arrived(TimestampTz keep_since);

} // namespace seal_sync::scan
