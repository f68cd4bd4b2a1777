#pragma once
// Texts in a peer's answers. Everything from the wire is hostile: what is kept is valid in our encoding, and short.
//
// Used by settle.cpp and standing.cpp. PostgreSQL regime.

#include "scan/batch.hpp"

namespace seal_sync::scan {

/// Converted, without zero bytes, at most 4 kB, zero-terminated, in the current context. What cannot be said in our
/// encoding becomes '?'.
char *peer_text(const Session *session, std::string_view text);

} // namespace seal_sync::scan
