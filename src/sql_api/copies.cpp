// wait_for_tables, and how copies are filed.

#include "sql_api/copies.hpp"

#include "pg/latch.hpp"
#include "sql_api/durations.hpp"
#include "sql_api/spi.hpp"
#include "worker/wakeup.hpp"

#include <algorithm>

namespace seal_sync::sql_api {

void file_copies(const std::vector<Oid> &relations, const std::optional<std::string> &peer) {
  if (relations.empty())
    return;
  // One that is under way stays as it is: rows that were there before now are in it or in the log.
  query("INSERT INTO seal_sync.copy (peer, relation) SELECT p.peer, o.oid FROM seal_sync.peer p "
        "CROSS JOIN pg_catalog.unnest($1) WITH ORDINALITY o(oid, n) "
        "WHERE p.peer = coalesce($2, p.peer) ORDER BY o.n ON CONFLICT DO NOTHING",
        {arg(relations), arg(peer)});
  pg::call([] { worker::wake_at_commit(); });
}

namespace {

struct Waiting {
  std::string table, peer, state, message, hint;
  int64 count = 0;
};

/// Tables that are not in step yet, as of now whatever the transaction's snapshot.
Waiting look() {
  const AsOwner owner;
  const Spi spi;
  const Rows rows = query("SELECT t.relation::pg_catalog.text, t.peer, t.state, coalesce(t.message, ''), coalesce(t.hint, ''), pg_catalog.count(*) OVER () "
                              "FROM seal_sync.stat_table t WHERE t.peer IS NOT NULL AND t.state <> 'synced' ORDER BY t.state_since, 1, 2 LIMIT 1");
  if (rows.empty())
    return {};
  return {rows.text(0, 0), rows.text(0, 1), rows.text(0, 2), rows.text(0, 3), rows.text(0, 4), std::stoll(rows.text(0, 5))};
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_wait_for_tables) {
  if (PG_ARGISNULL(0))
    throw core::Error("22004", "argument \"timeout\" must not be null");
  const int64 timeout_ms = to_milliseconds(PG_GETARG_INTERVAL_P(0));
  if (timeout_ms < 0)
    throw core::Error("22023", "timeout must not be negative");
  // Its own changes are not to be seen by the workers before it commits (trap T22).
  if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
    throw core::Error("25001", "wait_for_tables cannot run in a transaction that has made changes",
                      "They can be shipped only when the transaction has committed.",
                      "COMMIT, then call seal_sync.wait_for_tables() by itself.");
  require_node();
  const pg::Deadline deadline = pg::Deadline::in_ms(timeout_ms);
  for (;;) {
    const Waiting waiting = look();
    if (waiting.count == 0)
      break;
    if (deadline.passed())
      throw core::Error("57014", "timed out after " + in_seconds(timeout_ms) + " while waiting for tables",
                        std::to_string(waiting.count) + (waiting.count == 1 ? " table is" : " tables are") + " not in step; \"" + waiting.table +
                            "\" for peer \"" + waiting.peer + "\" is " + waiting.state +
                            (waiting.message.empty() ? "." : ": " + waiting.message + "."),
                        waiting.hint.empty() ? "Nothing is lost; see seal_sync.stat_table and seal_sync.copy_progress." : waiting.hint);
    const int64 step = std::min<int64>(deadline.left_ms(), 100);
    pg::call([step] { pg::wait(step); });
  }
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
