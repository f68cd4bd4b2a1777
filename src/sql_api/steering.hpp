#pragma once
// Waiting until what is pending has been shipped: sync_now, and node_detach, which does it before it leaves. C++ regime.

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// An interval argument in milliseconds.
int64 timeout_of(FunctionCallInfo fcinfo, int number);

/// Returns when everything committed before the call is on the peer, or on all peers; an error when a route will not go on by
/// itself, or when the time is over. The caller's transaction has written nothing.
void ship_pending(const std::optional<std::string> &peer, int64 timeout_ms);

} // namespace seal_sync::sql_api
