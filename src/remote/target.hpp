#pragma once
// Where a peer is: a foreign server and its user mapping, as options for libpq.
//
// Read by the route worker and by remote/probe, and handed to remote/connection. Invariant: whoever may define
// a foreign server gets nothing by it that belongs to the operating-system user who runs us. C++ regime.

#include "core/error.hpp"
#include "remote/options.hpp"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace seal_sync::remote {

/// Where a foreign server leads and how to log in there.
struct Target {
  std::string server;
  std::vector<std::pair<std::string, std::string>> options; // passwords too: never print
  Compression compression = Compression::kAuto;
  bool trusted = false; // the server belongs to a superuser; else a password must have been asked for

  [[nodiscard]] std::string option(std::string_view name) const;
  [[nodiscard]] std::string where() const; // server, host and port, for messages
  /// A sentence: where, and what went wrong at which step of connecting.
  [[nodiscard]] std::string problem_at(const char *step, const std::string &why) const;
  [[nodiscard]] bool operator==(const Target &other) const = default;
};

/// Server and the user mapping of role seal_sync_worker. Inside a transaction.
Target target_of(const std::string &server);

/// What is told when the peer asked for no password, or there is none, and the server's owner is no superuser.
core::Error password_required(const std::string &server);

} // namespace seal_sync::remote
