// The validator of foreign-data wrapper seal_sync: which options a server and a user mapping may have.

#include "sql_api/spi.hpp"

#include <algorithm>

namespace seal_sync::sql_api {

namespace {

constexpr const char *kServerOptions[] = {
    "channel_binding", "connect_timeout", "dbname", "gssencmode", "host", "hostaddr", "keepalives",
    "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname", "port", "sslcrl",
    "sslcrldir", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslmode", "sslrootcert",
    "sslsni", "tcp_user_timeout"};
constexpr const char *kMappingOptions[] = {"passfile", "password", "sslcert", "sslkey", "sslpassword", "user"};

std::span<const char *const> allowed_options(Oid catalog) {
  if (catalog == ForeignServerRelationId)
    return kServerOptions;
  if (catalog == UserMappingRelationId)
    return kMappingOptions;
  return {};
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_fdw_validator) {
  const Oid catalog = PG_GETARG_OID(1);
  List *options = pg::call([&] { return untransformRelOptions(PG_GETARG_DATUM(0)); });
  const std::span<const char *const> allowed = allowed_options(catalog);
  ListCell *cell;
  foreach (cell, options) {
    const std::string_view name = lfirst_node(DefElem, cell)->defname;
    if (std::find(allowed.begin(), allowed.end(), name) != allowed.end())
      continue;
    std::string hint = "There are no options here.";
    if (!allowed.empty()) {
      hint = "Options here are ";
      for (size_t i = 0; i < allowed.size(); i++)
        hint += (i == 0 ? "" : i + 1 == allowed.size() ? " and " : ", ") + std::string(allowed[i]);
      hint += ".";
    }
    const bool of_mapping = std::find(std::begin(kMappingOptions), std::end(kMappingOptions), name) != std::end(kMappingOptions);
    if (catalog == ForeignServerRelationId && of_mapping)
      hint = "It belongs into the user mapping of role seal_sync_worker.";
    throw core::Error("HV00D", "invalid option \"" + std::string(name) + "\"", {}, hint);
  }
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
