// See probe.hpp.
#include "remote/probe.hpp"

#include "core/wire.hpp"
#include "pg/guc.hpp"
#include "remote/connection.hpp"

#include <cstdlib>

namespace seal_sync::remote {

namespace {

constexpr int64 kTolerableOffsetMs = 5000;

class Prober {
public:
  Prober(const std::string &server, const std::string &peer) : peer_(peer), target_(target_of(server)) {}

  Probe run() {
    if (connect())
      look_around();
    return std::move(probe_);
  }

private:
  void fine(const char *step, std::string message, std::string hint = {}) {
    probe_.steps.push_back({step, true, std::move(message), std::move(hint)});
  }
  void wrong(const char *step, ProbeVerdict verdict, const char *sqlstate, const std::string &message,
             std::string hint = {}) {
    probe_.verdict = verdict;
    probe_.sqlstate = sqlstate;
    probe_.detail = target_.problem_at(step, message);
    probe_.steps.push_back({step, false, message, std::move(hint)});
  }

  bool connect() {
    Step step = Step::kDns;
    try {
      connection_ = std::make_unique<Connection>(target_, peer_, pg::Deadline::in_ms(guc::connect_timeout), &step);
    } catch (const core::Error &error) {
      passed(step, {});
      std::string why = error.detail();
      // The detail repeats server, host and step, which our steps say already.
      const std::string marker = std::string("step \"") + to_text(step) + "\": ";
      if (const auto at = why.find(marker); at != std::string::npos)
        why = why.substr(at + marker.size());
      while (!why.empty() && why.back() == '.')
        why.pop_back();
      const bool refused = std::string_view(error.sqlstate()).starts_with("28");
      wrong(to_text(step), refused ? ProbeVerdict::kContradiction : ProbeVerdict::kUnreachable, error.sqlstate(),
            why, hint_for(step));
      return false;
    }
    passed(Step::kConnected, connection_->tls());
    return true;
  }

  void passed(Step until, const std::string &tls) {
    if (until > Step::kDns)
      fine("dns", target_.option("host").starts_with('/') ? "a socket of this machine" : "found");
    if (until > Step::kTcp)
      fine("tcp", "connected");
    if (until > Step::kTls) {
      if (tls.empty() && until == Step::kConnected)
        fine("tls", "not encrypted",
             target_.option("host").starts_with('/') ? "" : "Set sslmode 'verify-full' and sslrootcert in the server's options.");
      else
        fine("tls", tls.empty() ? "passed" : tls);
    }
    if (until == Step::kConnected)
      fine("auth", "logged in as \"" + target_.option("user") + "\"");
  }

  static const char *hint_for(Step step) {
    switch (step) {
    case Step::kDns:
      return "Look at option host of the server.";
    case Step::kTcp:
      return "Look at options host and port of the server, at listen_addresses there, and at firewalls between.";
    case Step::kTls:
      return "Look at sslmode, sslrootcert and sslcert here, and at ssl there.";
    default:
      return "Look at user and password of the user mapping, and at pg_hba.conf there.";
    }
  }

  /// One question; on an error of the peer the step has failed.
  bool ask(const char *step, const char *sql, std::string *answer) {
    try {
      *answer = connection_->value(sql, pg::Deadline::in_ms(guc::connect_timeout));
      return true;
    } catch (const core::Error &error) {
      const std::string_view state(error.sqlstate());
      if (state == "42501")
        wrong(step, ProbeVerdict::kNotReady, error.sqlstate(), error.message(),
              "On the peer: GRANT seal_sync_peer TO \"" + target_.option("user") + "\".");
      else
        wrong(step, state.starts_with("08") ? ProbeVerdict::kUnreachable : ProbeVerdict::kNotReady,
              error.sqlstate(), error.message());
      return false;
    }
  }

  void look_around() {
    (void)(extension() && node() && protocol() && encoding() && clock());
  }

  bool extension() {
    std::string version;
    if (!ask("extension", "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'seal_sync'", &version))
      return false;
    if (version.empty()) {
      wrong("extension", ProbeVerdict::kNotReady, "42704", "extension seal_sync is not installed there",
            "On the peer, in database \"" + target_.option("dbname") + "\": CREATE EXTENSION seal_sync.");
      return false;
    }
    fine("extension", version);
    return true;
  }

  bool node() {
    std::string name;
    if (!ask("node", "SELECT node FROM seal_sync.wire_identity()", &name))
      return false;
    if (name.empty()) {
      wrong("node", ProbeVerdict::kNotReady, "55000", "it has no identity yet",
            "On the peer: SELECT seal_sync.node_create('" + peer_ + "').");
      return false;
    }
    if (name != peer_) {
      wrong("node", ProbeVerdict::kContradiction, "SS103",
            "server \"" + target_.server + "\" leads to node \"" + name + "\", not to node \"" + peer_ + "\"",
            "Look at host, port and dbname of the server.");
      return false;
    }
    fine("node", name);
    return true;
  }

  bool protocol() {
    std::string lowest;
    std::string newest;
    if (!ask("protocol", "SELECT protocol_min FROM seal_sync.wire_identity()", &lowest) ||
        !ask("protocol", "SELECT protocol FROM seal_sync.wire_identity()", &newest))
      return false;
    const unsigned long from = std::strtoul(lowest.c_str(), nullptr, 10);
    const unsigned long to = std::strtoul(newest.c_str(), nullptr, 10);
    if (from > core::wire::kProtocol || to < core::wire::kProtocolMin) {
      wrong("protocol", ProbeVerdict::kContradiction, "08P01",
            "it speaks versions " + lowest + " to " + newest + ", this node " +
                std::to_string(core::wire::kProtocolMin) + " to " + std::to_string(core::wire::kProtocol),
            std::string("Install a newer version of the extension on ") +
                (from > core::wire::kProtocol ? "this node." : "node \"" + peer_ + "\"."));
      return false;
    }
    fine("protocol", std::to_string(std::min<unsigned long>(to, core::wire::kProtocol)));
    return true;
  }

  bool encoding() {
    const std::string theirs = connection_->parameter("server_encoding");
    const std::string ours = GetDatabaseEncodingName();
    if (theirs != ours && (theirs == "SQL_ASCII" || ours == "SQL_ASCII")) {
      wrong("encoding", ProbeVerdict::kContradiction, "22021",
            "its database has encoding " + theirs + ", this one " + ours + ": nothing can convert that",
            "SQL_ASCII says nothing about the bytes; give both databases the same encoding.");
      return false;
    }
    fine("encoding", theirs == ours ? theirs : theirs + ", converted from " + ours);
    return true;
  }

  bool clock() {
    std::string theirs;
    const int64 before = GetCurrentTimestamp();
    if (!ask("clock",
             "SELECT pg_catalog.int8(pg_catalog.extract('epoch', pg_catalog.clock_timestamp() - "
             "'2000-01-01 00:00:00+00'::pg_catalog.timestamptz) * 1000000)",
             &theirs))
      return false;
    const int64 middle = before + (GetCurrentTimestamp() - before) / 2;
    const int64 offset_ms = (std::strtoll(theirs.c_str(), nullptr, 10) - middle) / 1000;
    const std::string text = std::to_string(offset_ms) + " ms ahead of this node";
    if (std::abs(offset_ms) > kTolerableOffsetMs)
      fine("clock", text, "Times shown on the two nodes differ by that much; let both follow the same time server.");
    else
      fine("clock", text);
    return true;
  }

  const std::string peer_;
  const Target target_;
  std::unique_ptr<Connection> connection_;
  Probe probe_;
};

} // namespace

Probe probe(const std::string &server, const std::string &peer) { return Prober(server, peer).run(); }

} // namespace seal_sync::remote
