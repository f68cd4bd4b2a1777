// See events.hpp.
#include "sql_api/events.hpp"

#include "pg/guc.hpp"

namespace seal_sync::sql_api {

void record_event(const char *event, const std::string &scope, const std::optional<std::string> &reason,
                  const std::optional<std::string> &detail) {
  // Events are rare, so forgetting old ones needs no worker. What another transaction is forgetting is left to it:
  // an operator's open transaction must not hold up everybody else's calls.
  query("DELETE FROM seal_sync.event WHERE id IN (SELECT e.id FROM seal_sync.event e WHERE e.at < "
        "pg_catalog.clock_timestamp() - $1 * interval '1 s' FOR UPDATE SKIP LOCKED)",
        {int_arg(guc::event_retention)});
  query("INSERT INTO seal_sync.event (event, scope, reason, detail) VALUES ($1, $2, $3, $4::pg_catalog.jsonb)",
        {arg(event), arg(scope), arg(reason), arg(detail)});
}

} // namespace seal_sync::sql_api
