// The table of contents of the library: what is registered when a server process loads it.
//
// Loaded by shared_preload_libraries all of it is there. Loaded later, into one backend, capture and
// the SQL functions work; shared memory and workers need a server start.
#include "capture/capture.hpp"
#include "pg/guc.hpp"
#include "pg/shared_state.hpp"
#include "worker/ddl_hooks.hpp"
#include "worker/launcher.hpp"
#include "worker/wakeup.hpp"

extern "C" {
#ifdef PG_MODULE_MAGIC_EXT
PG_MODULE_MAGIC_EXT(.name = "seal_sync", .version = SEAL_SYNC_VERSION);
#else
PG_MODULE_MAGIC;
#endif

PGDLLEXPORT void _PG_init();
}

extern "C" void _PG_init() {
  using namespace seal_sync;
  guc::init();
  if (process_shared_preload_libraries_in_progress)
    pg::init_shared_state();
  capture::init();
  worker::init_wakeup();
  if (process_shared_preload_libraries_in_progress) {
    worker::register_launcher();
    worker::init_ddl_hooks();
  }
}
