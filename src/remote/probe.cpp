// See probe.hpp.
#include "remote/probe.hpp"

#include "core/wire.hpp"
#include "pg/guc.hpp"
#include "remote/connection.hpp"

#include <cstdlib>

namespace seal_sync::remote {

namespace {

/// What a failure to connect comes from, as far as its SQLSTATE and libpq's text tell, and where to look.
struct Cause {
  const char *code;
  const char *hint;
};

Cause cause_of(Step step, std::string_view state, const std::string &why) {
  const auto says = [&](const char *text) { return why.find(text) != std::string::npos; };
  if (says("timed out") && step != Step::kAuth)
    return {"peer_timeout", "Nobody answers: look at firewalls between, at host and port of the server, and at whether the peer is alive."};
  switch (step) {
  case Step::kDns:
    return {"peer_dns", "Look at option host of the server."};
  case Step::kTcp:
    return {"peer_tcp", "Look at options host and port of the server, at listen_addresses there, and at firewalls between."};
  case Step::kTls:
    if (says("does not support SSL"))
      return {"peer_tls_refused", "On the peer: set ssl = on and ssl_cert_file and ssl_key_file, and reload."};
    if (says("does not match host name"))
      return {"peer_certificate_name", "Option host of the server must be a name that the peer's certificate carries; hostaddr can say where it is."};
    if (says("certificate verify failed") || says("unknown ca") || says("certificate expired") || says("certificate revoked"))
      return {"peer_certificate", "The certificate of one side has expired, is not valid yet, or comes from a CA that the other side does not know. "
                                  "Look at sslrootcert, sslcrl and sslcert here and at ssl_cert_file, ssl_ca_file and ssl_crl_file there; "
                                  "openssl s_client -starttls postgres -connect HOST:PORT shows the peer's with its dates."};
    return {"peer_tls", "Look at sslmode, sslrootcert and sslcert here, and at ssl there."};
  default:
    break;
  }
  if (state == "28P01" || says("no password supplied"))
    return {"peer_password", "Correct it: ALTER USER MAPPING FOR seal_sync_worker SERVER … OPTIONS (SET password '…'); or ALTER ROLE … PASSWORD there. "
                             "A password past VALID UNTIL is refused the same way."};
  if (says("no pg_hba.conf entry") || says("pg_hba.conf rejects"))
    return {"peer_hba", "On the peer: add a line for this login, database and address to pg_hba.conf, and reload."};
  if (says("certificate"))
    return {"peer_certificate", "Look at sslcert and sslkey here, and at ssl_ca_file and pg_hba.conf there."};
  if (state == "28000")
    return {"peer_login", "Look at user of the user mapping, and at that role and pg_hba.conf there."};
  if (state == "53300")
    return {"peer_connections", "On the peer: raise max_connections, or the connection limit of the login or the database; or find who holds all connections."};
  if (state == "57P03")
    return {"peer_starting", "It is starting, recovering or shutting down. It is tried again by itself."};
  if (state == "3D000")
    return {"peer_database", "Look at option dbname of the server."};
  return {"peer_auth", "Look at user and password of the user mapping, and at pg_hba.conf there."};
}

class Prober {
public:
  Prober(const std::string &server, const std::string &peer) : peer_(peer), target_(target_of(server)) {}

  Probe run(bool ask_facts) {
    if (connect() && look_around() && ask_facts)
      ask_about_itself();
    return std::move(probe_);
  }

private:
  void fine(const char *step, std::string message, std::string hint = {}) {
    probe_.steps.push_back({step, true, std::move(message), std::move(hint)});
  }
  void wrong(const char *code, const char *step, ProbeVerdict verdict, const char *sqlstate, const std::string &message,
             std::string hint = {}) {
    probe_.code = code;
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
      const Cause cause = cause_of(step, error.sqlstate(), why);
      wrong(cause.code, to_text(step), refused ? ProbeVerdict::kContradiction : ProbeVerdict::kUnreachable, error.sqlstate(),
            why, cause.hint);
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

  /// One question; on an error of the peer the step has failed.
  bool ask(const char *step, const char *sql, std::string *answer) {
    try {
      *answer = connection_->value(sql, pg::Deadline::in_ms(guc::connect_timeout));
      return true;
    } catch (const core::Error &error) {
      const std::string_view state(error.sqlstate());
      if (state == "42501")
        wrong("peer_rights", step, ProbeVerdict::kNotReady, error.sqlstate(), error.message(),
              "On the peer: GRANT seal_sync_peer TO \"" + target_.option("user") + "\".");
      else
        wrong(state.starts_with("08") ? "peer_lost" : "peer_error", step, state.starts_with("08") ? ProbeVerdict::kUnreachable : ProbeVerdict::kNotReady,
              error.sqlstate(), error.message());
      return false;
    }
  }

  bool look_around() { return extension() && node() && protocol() && encoding() && clock(); }

  /// Not a step: an older peer has no such function, and its answer stays empty.
  void ask_about_itself() {
    std::string known;
    if (ask("facts", "SELECT pg_catalog.to_regprocedure('seal_sync.wire_facts()')", &known) && !known.empty())
      (void)ask("facts", "SELECT seal_sync.wire_facts()", &probe_.answer);
  }

  bool extension() {
    std::string version;
    if (!ask("extension", "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'seal_sync'", &version))
      return false;
    if (version.empty()) {
      wrong("peer_extension", "extension", ProbeVerdict::kNotReady, "42704", "extension seal_sync is not installed there",
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
      wrong("peer_no_identity", "node", ProbeVerdict::kNotReady, "55000", "it has no identity yet",
            "On the peer: SELECT seal_sync.node_create('" + peer_ + "').");
      return false;
    }
    if (name != peer_) {
      wrong("peer_wrong_node", "node", ProbeVerdict::kContradiction, "SS103",
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
      wrong("peer_protocol", "protocol", ProbeVerdict::kContradiction, "08P01",
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
      wrong("peer_encoding", "encoding", ProbeVerdict::kContradiction, "22021",
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
    probe_.clock_offset_ms = offset_ms;
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

Probe probe(const std::string &server, const std::string &peer, bool ask_facts) {
  return Prober(server, peer).run(ask_facts);
}

} // namespace seal_sync::remote
