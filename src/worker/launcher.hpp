#pragma once

namespace seal_sync::worker {

/// Registers the launcher; from _PG_init while shared libraries are preloaded.
void register_launcher();

} // namespace seal_sync::worker
