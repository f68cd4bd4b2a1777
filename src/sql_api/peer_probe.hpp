#pragma once
// What a first look at a peer means for the one who configures it.

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// Connects shortly. Not reachable or not installed yet: NOTICE, or an error when `must_connect`.
/// A contradiction (wrong node, protocol, encoding, password): always an error.
void probe_peer(const std::string &peer, const std::string &server, bool must_connect);

} // namespace seal_sync::sql_api
