#pragma once
// Telling the workers, when a transaction commits, that there is something new to read.

namespace seal_sync::worker {

/// For SQL functions that change configuration, pause, resume and so on: when the current transaction
/// commits, the database worker and its route workers look at their tables again; without a database
/// worker the launcher looks whether this database wants one. PostgreSQL regime.
void wake_at_commit();

/// The same for the launcher alone: the list of databases has changed.
void wake_launcher_at_commit();

void init_wakeup(); // _PG_init

} // namespace seal_sync::worker
