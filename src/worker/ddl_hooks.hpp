#pragma once

namespace seal_sync::worker {

/// Commands that need a database free of workers; from _PG_init while shared libraries are preloaded.
void init_ddl_hooks();

} // namespace seal_sync::worker
