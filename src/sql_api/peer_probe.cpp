// See peer_probe.hpp; and peer_check, which shows every step.
#include "sql_api/peer_probe.hpp"

#include "remote/probe.hpp"

namespace seal_sync::sql_api {

void probe_peer(const std::string &peer, const std::string &server, bool must_connect) {
  const remote::Probe probe = remote::probe(server, peer);
  if (probe.verdict == remote::ProbeVerdict::kFine || probe.steps.empty())
    return;
  const remote::ProbeStep &failed = probe.steps.back();
  std::string message = "could not connect to peer \"" + peer + "\"";
  std::string detail = probe.detail;
  std::string sqlstate = probe.sqlstate.empty() ? "08001" : probe.sqlstate;
  switch (probe.verdict) {
  case remote::ProbeVerdict::kUnreachable:
    sqlstate = "08001";
    break;
  case remote::ProbeVerdict::kNotReady:
    message = "peer \"" + peer + "\" is not ready yet";
    break;
  default:
    if (sqlstate == "SS103") { // the step's message says it all
      message = failed.message;
      detail.clear();
    } else if (!sqlstate.starts_with("28"))
      message = "cannot work with peer \"" + peer + "\"";
  }
  if (must_connect || probe.verdict == remote::ProbeVerdict::kContradiction)
    throw core::Error(sqlstate.c_str(), message, detail,
                      failed.hint.empty() ? "SELECT * FROM seal_sync.peer_check(" + literal(peer) + ") shows every step."
                                          : failed.hint);
  notice(message + "; it will be tried again", detail, failed.hint);
}

SEAL_SYNC_FUNCTION(seal_sync_peer_check) {
  const std::string peer = required_name(fcinfo, 0, "peer");
  std::string server = optional_name(fcinfo, 1).value_or("");
  std::vector<remote::ProbeStep> steps;
  {
    const AsOwner owner;
    const Spi spi;
    if (server.empty()) {
      const Rows known = query("SELECT p.server FROM seal_sync.peer p WHERE p.peer = $1", {arg(peer)});
      server = known.empty() ? peer : known.text(0, 0);
    }
    steps = remote::probe(server, peer).steps;
  }
  pg::call([&] { InitMaterializedSRF(fcinfo, 0); });
  auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
  for (const remote::ProbeStep &step : steps) {
    const char *texts[] = {step.step, step.message.c_str(), step.hint.c_str()};
    const bool ok = step.ok;
    pg::call([&] {
      Datum values[] = {CStringGetTextDatum(texts[0]), BoolGetDatum(ok), CStringGetTextDatum(texts[1]),
                        CStringGetTextDatum(texts[2])};
      bool nulls[] = {false, false, texts[1][0] == '\0', texts[2][0] == '\0'};
      tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    });
  }
  return static_cast<Datum>(0);
}

} // namespace seal_sync::sql_api
