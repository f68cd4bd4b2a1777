#pragma once
// The connection options that a foreign server or a user mapping of ours may carry.
//
// Read by the validator of the foreign-data wrapper (sql_api) and by remote::target_of(). An explicit
// list, so that an option of a newer libpq cannot change what an older review found safe. Left out on
// purpose: `options` (would let its author set anything in the session of the peer's login), `service`
// and `servicefile` (could carry any of the others), connect_timeout and application_name (ours).
// One option is not libpq's: compression, of what is shipped.

#include <optional>
#include <string_view>

namespace seal_sync::remote {

struct Option {
  std::string_view name;
  bool on_server;  // in CREATE SERVER
  bool on_mapping; // in CREATE USER MAPPING
  bool secret;     // never shown, never logged
  bool file;       // names a file of the server's operating-system user
};

inline constexpr Option kOptions[] = {
    {"channel_binding", true, false, false, false},
    {"compression", true, false, false, false}, // ours, see below
    {"dbname", true, false, false, false},
    {"gssencmode", true, false, false, false},
    {"gsslib", true, false, false, false},
    {"host", true, false, false, false},
    {"hostaddr", true, false, false, false},
    {"krbsrvname", true, false, false, false},
    {"load_balance_hosts", true, false, false, false},
    {"passfile", true, true, false, true},
    {"password", false, true, true, false},
    {"port", true, false, false, false},
    {"require_auth", true, false, false, false},
    {"requirepeer", true, false, false, false},
    {"ssl_max_protocol_version", true, false, false, false},
    {"ssl_min_protocol_version", true, false, false, false},
    {"sslcert", true, true, false, true},
    {"sslcertmode", true, false, false, false},
    {"sslcompression", true, false, false, false},
    {"sslcrl", true, false, false, true},
    {"sslcrldir", true, false, false, true},
    {"sslkey", true, true, false, true},
    {"sslmode", true, false, false, false},
    {"sslnegotiation", true, false, false, false},
    {"sslpassword", false, true, true, false},
    {"sslrootcert", true, false, false, true},
    {"sslsni", true, false, false, false},
    {"target_session_attrs", true, false, false, false},
    {"user", false, true, false, false},
};

constexpr const Option *find_option(std::string_view name) noexcept {
  for (const Option &option : kOptions)
    if (option.name == name)
      return &option;
  return nullptr;
}

/// Option compression of a server; not libpq's. kAuto: unless the peer is on this machine.
enum class Compression { kAuto, kOn, kOff };

constexpr std::optional<Compression> compression_of(std::string_view value) noexcept {
  if (value == "auto")
    return Compression::kAuto;
  if (value == "on")
    return Compression::kOn;
  if (value == "off")
    return Compression::kOff;
  return std::nullopt;
}

} // namespace seal_sync::remote
