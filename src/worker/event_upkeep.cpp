// See event_upkeep.hpp.
#include "worker/event_upkeep.hpp"

#include "pg/guc.hpp"
#include "worker/own_tables.hpp"

namespace seal_sync::worker {

void forget_old_events() {
  (void)query("DELETE FROM seal_sync.event WHERE id IN (SELECT e.id FROM seal_sync.event e WHERE e.at < "
              "pg_catalog.clock_timestamp() - $1::pg_catalog.float8 * interval '1 s' FOR UPDATE SKIP LOCKED)",
              {psprintf("%d", guc::event_retention)});
}

void fold_events() {
  // The members of a group agree in all but times, until and rows, so that any of them gives the rest.
  (void)query(
      "WITH repeated AS (SELECT e.event, e.scope, e.actor, e.application, e.client_addr, e.reason, "
      " e.detail - '{rows,times,until}'::pg_catalog.text[] AS what, pg_catalog.date_trunc('hour', e.at) AS hour "
      " FROM seal_sync.event e WHERE e.event IN ('guard_override', 'ddl', 'quarantine_begin', 'quarantine_end', 'parked', "
      "  'unparked', 'table_dirty', 'table_shipped_again', 'log_full', 'log_has_room', 'halted') "
      " AND e.at BETWEEN pg_catalog.clock_timestamp() - interval '2 days' AND pg_catalog.clock_timestamp() - interval '1 min' "
      " GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 HAVING pg_catalog.count(*) > 1), "
      "members AS (SELECT e.id, r.hour FROM seal_sync.event e JOIN repeated r ON r.event = e.event AND r.scope = e.scope "
      " AND r.actor = e.actor AND r.application IS NOT DISTINCT FROM e.application "
      " AND r.client_addr IS NOT DISTINCT FROM e.client_addr AND r.reason IS NOT DISTINCT FROM e.reason "
      " AND r.what IS NOT DISTINCT FROM e.detail - '{rows,times,until}'::pg_catalog.text[] "
      " AND r.hour = pg_catalog.date_trunc('hour', e.at) "
      " WHERE e.at BETWEEN pg_catalog.clock_timestamp() - interval '2 days' AND pg_catalog.clock_timestamp() - interval '1 min' "
      " FOR UPDATE OF e SKIP LOCKED), "
      "gone AS (DELETE FROM seal_sync.event e USING members m WHERE e.id = m.id RETURNING m.hour, e.*) "
      "INSERT INTO seal_sync.event (at, event, scope, actor, application, client_addr, reason, detail) "
      "SELECT pg_catalog.min(g.at), g.event, g.scope, g.actor, g.application, g.client_addr, g.reason, "
      " coalesce(g.detail - '{rows,times,until}'::pg_catalog.text[], '{}') || pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object( "
      "  'rows', pg_catalog.sum((g.detail ->> 'rows')::pg_catalog.int8), "
      "  'times', pg_catalog.sum(coalesce((g.detail ->> 'times')::pg_catalog.int8, 1)), "
      "  'until', greatest(pg_catalog.max(g.at), pg_catalog.max((g.detail ->> 'until')::pg_catalog.timestamptz)))) "
      "FROM gone g GROUP BY g.hour, g.event, g.scope, g.actor, g.application, g.client_addr, g.reason, "
      " g.detail - '{rows,times,until}'::pg_catalog.text[]",
      {});
}

} // namespace seal_sync::worker
