// check(): everything that can be said about this node and its peers, with a look at each of them.
//
// Three parts: the view health; what only a search of the catalogs tells (local_findings, in SQL); and of each peer how far
// one comes there, and what it says of itself (wire_facts) beside what this node says of itself (peer_findings, in SQL).
// Invariants: the network comes first and without a lock on any table of users; a peer that cannot be reached, is silent
// (connect_timeout a step) or answers nonsense is a finding, and never keeps the others from being looked at.
#include "remote/probe.hpp"
#include "sql_api/spi.hpp"

#include <algorithm>
#include <cstdlib>
#include <functional>

namespace seal_sync::sql_api {

namespace {

constexpr std::size_t kMostFacts = std::size_t{64} << 20;

struct Looked {
  std::string peer;
  std::string code; // of what is wrong, empty: all steps passed
  std::string message;
  std::string hint;
  std::string facts; // empty: it has told none
  int64 clock_offset_ms = 0;
};

Looked look_at(const std::string &peer, const std::string &server) {
  Looked looked;
  looked.peer = peer;
  remote::Probe probe;
  try {
    probe = remote::probe(server, peer, true);
  } catch (const pg::Error &) {
    throw; // not the peer's: cancelled, out of memory
  } catch (const core::Error &error) {
    looked.code = "peer_server";
    looked.message = "peer \"" + peer + "\" cannot be looked for: " + error.message();
    looked.hint = error.hint();
    return looked;
  }
  if (probe.verdict != remote::ProbeVerdict::kFine && !probe.steps.empty()) {
    const remote::ProbeStep &failed = probe.steps.back();
    looked.code = probe.code;
    looked.message = "peer \"" + peer + "\", step \"" + failed.step + "\": " + failed.message;
    looked.hint = failed.hint.empty() ? "SELECT * FROM seal_sync.peer_check(" + literal(peer) + ") shows every step."
                                      : failed.hint;
    return looked;
  }
  looked.clock_offset_ms = probe.clock_offset_ms;
  looked.facts = std::move(probe.answer);
  if (looked.facts.empty()) {
    looked.code = "peer_older";
    looked.message = "peer \"" + peer + "\" is of an older version, which does not tell about its tables and settings";
    looked.hint = "Update the extension there, too.";
  } else if (looked.facts.size() > kMostFacts) {
    looked.facts.clear();
    looked.code = "peer_answer";
    looked.message = "peer \"" + peer + "\" tells more about itself than this node reads";
    looked.hint = "Look at the registered tables there.";
  }
  return looked;
}

/// In a subtransaction, which an error rolls back: what a peer has told may be anything. False: it was an error.
bool attempt(const std::function<void()> &what) {
  const MemoryContext context = CurrentMemoryContext;
  const ResourceOwner owner = CurrentResourceOwner;
  const auto back = [=] {
    MemoryContextSwitchTo(context);
    CurrentResourceOwner = owner;
  };
  pg::call([] { BeginInternalSubTransaction(nullptr); });
  MemoryContextSwitchTo(context);
  try {
    what();
  } catch (const pg::Error &error) {
    const int state = error.data()->sqlerrcode;
    pg::call([] { RollbackAndReleaseCurrentSubTransaction(); });
    back();
    if (state == ERRCODE_QUERY_CANCELED || state == ERRCODE_ADMIN_SHUTDOWN || state == ERRCODE_OUT_OF_MEMORY)
      throw;
    return false;
  }
  pg::call([] { ReleaseCurrentSubTransaction(); });
  back();
  return true;
}

void append(Rows &to, const Rows &from) { to.rows.insert(to.rows.end(), from.rows.begin(), from.rows.end()); }

void add(Rows &to, const char *severity, const std::string &code, const std::string &peer, const std::string &message,
         const std::string &hint) {
  to.rows.push_back({severity, code, "peer " + peer, std::nullopt, message, hint});
}

Rows findings() {
  const AsOwner owner;
  const Spi spi;
  std::vector<Looked> peers;
  const Rows known = query("SELECT p.peer, p.server FROM seal_sync.peer p WHERE EXISTS (SELECT FROM seal_sync.local_node) ORDER BY 1");
  for (size_t i = 0; i < known.size(); i++)
    peers.push_back(look_at(known.text(i, 0), known.text(i, 1)));

  Rows found = query("SELECT h.severity, h.code, h.scope, "
                     "pg_catalog.to_char(h.since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') OPERATOR(pg_catalog.||) '+00', "
                     "h.message, h.hint FROM seal_sync.health h WHERE h.severity <> 'ok'");
  const Rows own = query("SELECT seal_sync.node_facts()");
  const std::string &here = own.text(0, 0);
  append(found, query("SELECT l.severity, l.code, l.scope, NULL, l.message, l.hint FROM seal_sync.local_findings($1::pg_catalog.jsonb) l",
                      {arg(here)}));
  for (const Looked &looked : peers) {
    if (!looked.code.empty())
      add(found, looked.code == "peer_older" ? "info" : "critical", looked.code, looked.peer, looked.message, looked.hint);
    if (std::abs(looked.clock_offset_ms) > remote::kTolerableOffsetMs)
      add(found, "warning", "clock_offset", looked.peer,
          "the clock of peer \"" + looked.peer + "\" is " + std::to_string(std::abs(looked.clock_offset_ms) / 1000) + " s " +
              (looked.clock_offset_ms > 0 ? "ahead of" : "behind") + " this node's",
          "Let both follow the same time server: lag, staleness and times of changes are wrong by that much.");
    if (looked.facts.empty())
      continue;
    Rows compared;
    if (attempt([&] {
          compared = query("SELECT f.severity, f.code, f.scope, NULL, f.message, f.hint FROM "
                           "seal_sync.peer_findings($1, $2::pg_catalog.jsonb, $3::pg_catalog.jsonb) f",
                           {arg(looked.peer), arg(here), arg(looked.facts)});
        }))
      append(found, compared);
    else
      add(found, "warning", "peer_answer", looked.peer,
          "what peer \"" + looked.peer + "\" tells about itself cannot be read",
          "Update the older of the two extensions. See the log of this server.");
  }
  return found;
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_check) {
  Rows found = findings();
  const auto rank = [](const std::vector<Rows::Value> &row) {
    const std::string &severity = row[0].value();
    return severity == "critical" ? 0 : severity == "warning" ? 1 : severity == "info" ? 2 : 3;
  };
  std::stable_sort(found.rows.begin(), found.rows.end(),
                   [&](const auto &a, const auto &b) { return rank(a) < rank(b); });
  if (found.empty() || rank(found.rows.front()) > 1)
    found.rows.insert(found.rows.begin(), {"ok", "ok", "node", std::nullopt, "all is well", std::nullopt});
  pg::call([&] { InitMaterializedSRF(fcinfo, 0); });
  auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  for (const std::vector<Rows::Value> &row : found.rows) {
    const char *texts[6];
    for (size_t i = 0; i < 6; i++)
      texts[i] = row[i] && !row[i]->empty() ? row[i]->c_str() : nullptr;
    pg::call([&] {
      Datum values[6] = {};
      bool nulls[6];
      for (int i = 0; i < 6; i++) {
        nulls[i] = texts[i] == nullptr;
        if (nulls[i])
          continue;
        values[i] = i == 3 ? OidInputFunctionCall(F_TIMESTAMPTZ_IN, const_cast<char *>(texts[i]), InvalidOid, -1)
                           : CStringGetTextDatum(texts[i]);
      }
      tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    });
  }
  return static_cast<Datum>(0);
}

} // namespace seal_sync::sql_api
