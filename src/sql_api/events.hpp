#pragma once
// seal_sync.event: who did what. C++ regime; the caller is AsOwner, inside an Spi level.

#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

/// Notes what the session's user does, in the transaction that does it, and forgets what is older than
/// seal_sync.event_retention. scope as in health: "peer west", "table t". detail: a JSON object.
void record_event(const char *event, const std::string &scope, const std::optional<std::string> &reason,
                  const std::optional<std::string> &detail = {});

} // namespace seal_sync::sql_api
