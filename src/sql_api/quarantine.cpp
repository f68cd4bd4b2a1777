// quarantine_retry, quarantine_skip: what an operator decides about keys that a peer has refused.
//
// Both only write seal_sync.held; the route worker reads it with its next batch. An attempt may be under
// way meanwhile: the worker's hold_key() knows what the batch had seen.

#include "sql_api/events.hpp"
#include "sql_api/registration.hpp"
#include "worker/wakeup.hpp"

namespace seal_sync::sql_api {

namespace {

/// Which keys are meant: those that fit all that is given.
struct Choice {
  Arg ids;
  std::optional<std::string> peer;
  Arg relation;

  explicit Choice(FunctionCallInfo fcinfo)
      : ids(datum_arg(INT8ARRAYOID, PG_ARGISNULL(0) ? 0 : PG_GETARG_DATUM(0), PG_ARGISNULL(0))),
        peer(optional_name(fcinfo, 1)),
        relation(datum_arg(OIDOID, PG_ARGISNULL(2) ? 0 : PG_GETARG_DATUM(2), PG_ARGISNULL(2))) {}
};

void check(const Choice &choice) {
  if (!choice.ids.null && !query("SELECT FROM pg_catalog.unnest($1) AS i WHERE i IS NULL", {choice.ids}).empty())
    throw core::Error("22004", "argument \"ids\" must not contain null");
  if (choice.peer)
    require_peer(*choice.peer);
  if (choice.relation.null)
    return;
  const Oid relation = DatumGetObjectId(choice.relation.value);
  const std::vector<Oid> roots = registered_roots({relation});
  if (roots != std::vector<Oid>{relation})
    throw core::Error("42704", "table \"" + display_name(relation) + "\" is not registered", {},
                      roots.empty() ? ""
                                    : "It is a partition of table \"" + display_name(roots[0]) + "\", which is.");
}

/// Ids that chose nothing: none of them at all is an error. A part of them is not, for a key that is
/// tried again may arrive between the look at the view and this call.
void tell_missing(const Choice &choice, const Arg &found) {
  if (choice.ids.null)
    return;
  // By a set operation: <> ALL of an array compares each with each, minutes for some ten thousand keys.
  const Rows missing = query("SELECT pg_catalog.count(*), pg_catalog.min(m.id), "
                             "(SELECT pg_catalog.count(*) FROM pg_catalog.unnest($2::pg_catalog.int8[])) "
                             "FROM (SELECT u.id FROM pg_catalog.unnest($1) AS u(id) EXCEPT "
                             "SELECT f.id FROM pg_catalog.unnest($2::pg_catalog.int8[]) AS f(id)) m",
                             {choice.ids, found});
  const std::string &count = missing.text(0, 0);
  if (count == "0")
    return;
  const std::string message = count == "1" ? "no key in quarantine has id " + missing.text(0, 1)
                                           : count + " of the ids are of no key in quarantine, the lowest is " + missing.text(0, 1);
  const char *detail = choice.peer || !choice.relation.null
                           ? "It may have arrived in the meantime, or be of another peer or table."
                           : "It may have arrived in the meantime.";
  if (missing.text(0, 2) == "0")
    throw core::Error("42704", message, detail, "See seal_sync.quarantine.");
  notice(message, detail);
}

/// Keys that were refused only because a key that is now skipped is not there: nothing is decided about them.
void tell_dependants(const Arg &skipped) {
  const Rows left = query("SELECT pg_catalog.count(*), pg_catalog.min(d.id) FROM seal_sync.held c "
                          "JOIN seal_sync.held d ON d.peer = c.peer AND d.other_relation = c.relation "
                          "AND pg_catalog.sha256(d.other_key) = pg_catalog.sha256(c.key) AND d.state = 'quarantined' "
                          "WHERE c.id IN (SELECT pg_catalog.unnest($1::pg_catalog.int8[]))",
                          {skipped});
  if (left.text(0, 0) != "0")
    notice(left.text(0, 0) + " keys that depend on skipped ones stay in quarantine, the lowest id is " + left.text(0, 1),
           "They are tried again, and refused as long as the peer does not have what they depend on.",
           "Skip them as well, or see held_by in seal_sync.quarantine.");
}

/// Sets state and time of the chosen keys and records it; returns their number. Keys that were skipped
/// before are meant only where their ids are given.
int64 decide(const char *event, const char *state, const char *next_retry_at, const Choice &choice,
             const std::optional<std::string> &reason) {
  check(choice);
  // In the order of ids, as two operators would otherwise wait for each other. IN and a set, for with = ANY the plan,
  // which does not know the array, compares each key with each id.
  const Rows tables =
      query("WITH chosen AS (SELECT h.id FROM seal_sync.held h "
            "WHERE (h.state = 'quarantined' OR h.state = 'skipped' AND $1 IS NOT NULL) "
            "AND ($1 IS NULL OR h.id IN (SELECT pg_catalog.unnest($1))) AND ($2::pg_catalog.name IS NULL OR h.peer = $2::pg_catalog.name) "
            "AND ($3 IS NULL OR h.relation = $3) ORDER BY h.id FOR UPDATE), "
            "decided AS (UPDATE seal_sync.held h SET state = $4, next_retry_at = $5::pg_catalog.timestamptz "
            "FROM chosen c WHERE h.id = c.id RETURNING h.id, h.peer, h.relation) "
            "SELECT d.relation, pg_catalog.jsonb_build_object('peer', d.peer, 'keys', pg_catalog.count(*), "
            "'ids', pg_catalog.array_agg(d.id ORDER BY d.id)), pg_catalog.count(*), pg_catalog.array_agg(d.id) "
            "FROM decided d GROUP BY d.relation, d.peer ORDER BY d.relation, d.peer",
            {choice.ids, arg(choice.peer), choice.relation, arg(state), arg(next_retry_at)});
  int64 keys = 0;
  std::string found;
  for (size_t i = 0; i < tables.size(); i++) {
    record_event(event, "table " + display_name(tables.oid(i, 0)), reason, tables.text(i, 1));
    keys += std::stol(tables.text(i, 2));
    const std::string &ids = tables.text(i, 3); // {1,2}
    found += (found.empty() ? "" : ",") + ids.substr(1, ids.size() - 2);
  }
  const Arg decided = arg("{" + found + "}");
  tell_missing(choice, decided);
  if (keys > 0 && std::string_view(state) == "skipped")
    tell_dependants(decided);
  return keys;
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_quarantine_retry) {
  const Choice choice(fcinfo);
  const AsOwner owner;
  const Spi spi;
  const int64 keys = decide("quarantine_retry", "quarantined", "now", choice, {});
  if (keys > 0)
    pg::call([] { worker::wake_at_commit(); });
  PG_RETURN_INT64(keys);
}

SEAL_SYNC_FUNCTION(seal_sync_quarantine_skip) {
  const Choice choice(fcinfo);
  const std::string reason = required_text(fcinfo, 3, "reason");
  if (reason.find_first_not_of(" \t\r\n") == std::string::npos)
    throw core::Error("22023", "reason must not be empty", {},
                      "Say why the peer may go without these keys; seal_sync.events keeps it.");
  if (choice.ids.null && !choice.peer && choice.relation.null)
    throw core::Error("22023", "quarantine_skip must be told which keys to skip",
                      "A skipped key differs on the peer until it changes again.",
                      "Give ids of seal_sync.quarantine, a peer or a table.");
  const AsOwner owner;
  const Spi spi;
  PG_RETURN_INT64(decide("quarantine_skip", "skipped", "infinity", choice, reason));
}

} // namespace seal_sync::sql_api
