#pragma once
// When a table begins and ceases to have quarantined or parked keys at a peer, for seal_sync.event: once each, however
// many keys there are.
//
// Called where keys are held and released (settle.cpp), in that transaction. What goes on is known per
// session, and read from seal_sync.held when the session begins: only the route's worker begins and ends
// it, and an error in its transaction ends the worker. PostgreSQL regime.

#include "scan/batch.hpp"
#include "scan/held.hpp"

namespace seal_sync::scan {

void load_troubles(Session *session);
/// A key of that table is held for that reason.
void note_trouble(Session *session, Oid root, const HeldReason &reason);
/// Keys were released, or wait for something else now: what has no key left has ended.
void end_troubles(Session *session);

} // namespace seal_sync::scan
