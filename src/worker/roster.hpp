#pragma once
// Who runs where: how worker processes enter their slots in shared memory and leave them, and how a
// database is kept free of them.
//
// Invariants: at most one database worker per database and one route worker per route; nobody connects
// to a database before he stands in its slot, so whoever blocks a database and then finds its slots
// empty knows that nobody of ours is in it or on his way. PostgreSQL regime.

#include "pg/shared_state.hpp"

namespace seal_sync::worker {

struct RouteKey {
  Oid database;
  NameData peer;
};
static_assert(sizeof(RouteKey) <= BGW_EXTRALEN);

/// False: somebody is there already, or the database must stay free. The slot is left at process exit.
bool attach_database_worker(Oid database);
pg::RouteSlot *attach_route_worker(const RouteKey &key);
/// What the database worker found; without the extension it leaves next.
void report_extension(Oid database, bool present);

/// The parts of a worker's main function that are the same for all: signals, and after connecting the
/// session settings that must not come from ALTER DATABASE or postgresql.conf.
void set_up_signals();
void pin_session();

/// SIGTERM to the workers of a database.
void terminate_workers(Oid database);
/// Whether a worker stands in a slot of this database.
bool has_workers(Oid database);

/// While at least one blocker is there, no worker enters the database. Own calls must be paired.
void block_database(Oid database);
void unblock_database(Oid database);

} // namespace seal_sync::worker
