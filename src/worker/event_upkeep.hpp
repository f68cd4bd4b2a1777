#pragma once
// Keeps seal_sync.event bounded: forgets what is older than seal_sync.event_retention, and folds what repeats itself.
//
// Called by the database worker, in a transaction of its own. Never waits for a row: what somebody else is forgetting
// is left to them. PostgreSQL regime.

namespace seal_sync::worker {

void forget_old_events();
/// Events of one kind, scope, actor, application, address, reason and detail of one hour become one row, a minute after they
/// happened: an application that overrides the guard with each transaction must not fill the disk.
void fold_events();

} // namespace seal_sync::worker
