// See home.hpp.
#include "worker/home.hpp"

#include "config/config.hpp"
#include "pg/place.hpp"
#include "worker/own_tables.hpp"

namespace seal_sync::worker {

void note_place() {
  const char *timeline = psprintf(INT64_FORMAT, pg::timeline_here());
  const Rows changed = query("UPDATE seal_sync.local_node SET place = $1, place_timeline = $2::pg_catalog.int8 "
                             "WHERE (place, place_timeline) IS DISTINCT FROM ($1, $2::pg_catalog.int8) RETURNING node",
                             {pg::place_here(), timeline});
  if (changed.count > 0)
    config::changed();
}

void note_copy() {
  // On this timeline, but elsewhere: what it says when a data directory was copied.
  const char *timeline = psprintf(INT64_FORMAT, pg::timeline_here());
  (void)query("UPDATE seal_sync.local_node SET place_timeline = $1::pg_catalog.int8", {timeline});
  config::changed();
}

} // namespace seal_sync::worker
