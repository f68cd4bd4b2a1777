#pragma once
// Commands that need a database free of our workers: see ddl_hooks.cpp.

#include "pg/postgres.hpp"

namespace seal_sync::worker {

/// Commands that need a database free of workers; from _PG_init while shared libraries are preloaded.
void init_ddl_hooks();

/// Ends the workers of a database and keeps them out until the current transaction ends. Waits a bounded
/// time. PostgreSQL regime.
void keep_workers_out_until_end(Oid database);

} // namespace seal_sync::worker
