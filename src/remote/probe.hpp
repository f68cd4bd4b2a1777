#pragma once
// A first look at a peer, step by step, for peer_create and peer_check.
//
// Used by peer_create, peer_check and check. Connects like a route worker would, asks without side effects, and hangs up. C++ regime, inside a
// transaction. What is wrong with the peer is in the result; thrown is only what is wrong here (no such
// server: 42704).

#include "pg/postgres.hpp"

#include <string>
#include <vector>

namespace seal_sync::remote {

struct ProbeStep {
  const char *step; // dns, tcp, tls, auth, extension, node, protocol, encoding, clock
  bool ok;
  std::string message;
  std::string hint;
};

enum class ProbeVerdict {
  kFine,
  kUnreachable,   // dns, tcp, tls, or the server says it cannot take us now: may change by itself
  kNotReady,      // no extension, no identity or no rights for the login yet: may change by itself
  kContradiction, // another node, protocol, encoding or password: somebody has to correct something
};

struct Probe {
  std::vector<ProbeStep> steps; // up to and including the first that failed, in order
  ProbeVerdict verdict = ProbeVerdict::kFine;
  std::string sqlstate; // of the failed step
  std::string detail;   // "Server ..., host ..., step ...: ..."
  const char *code = ""; // of the failed step, for check(): peer_password, peer_tcp, ...
  int64 clock_offset_ms = 0; // the peer's clock minus ours
  std::string answer;        // what the peer told of itself; empty: not asked, or it is too old to
};

/// ask_facts: if all is fine, the peer is asked for what seal_sync.wire_facts() tells.
Probe probe(const std::string &server, const std::string &peer, bool ask_facts = false);

/// Clocks that differ by more are worth a word.
inline constexpr int64 kTolerableOffsetMs = 5000;

} // namespace seal_sync::remote
