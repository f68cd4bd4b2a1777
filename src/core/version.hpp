#pragma once
// The version of the library, as default_version of seal_sync.control says it. A macro, because the
// server's module header wants a literal.

#define SEAL_SYNC_VERSION "0.1.0"
