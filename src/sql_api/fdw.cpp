// The validator of foreign-data wrapper seal_sync: which options a server and a user mapping may have.

#include "remote/options.hpp"
#include "sql_api/spi.hpp"

namespace seal_sync::sql_api {

namespace {

bool allowed(const remote::Option &option, Oid catalog) {
  return catalog == ForeignServerRelationId ? option.on_server
                                            : catalog == UserMappingRelationId && option.on_mapping;
}

std::string hint_for(std::string_view name, Oid catalog) {
  const remote::Option *option = remote::find_option(name);
  if (catalog == ForeignServerRelationId && option != nullptr && option->on_mapping)
    return "It belongs into the user mapping of role seal_sync_worker.";
  if (catalog == UserMappingRelationId && option != nullptr && option->on_server)
    return "It belongs into the server's options.";
  std::string names;
  for (const remote::Option &candidate : remote::kOptions)
    if (allowed(candidate, catalog))
      names += (names.empty() ? "" : ", ") + std::string(candidate.name);
  return names.empty() ? "There are no options here." : "Options here are: " + names + ".";
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_fdw_validator) {
  const Oid catalog = PG_GETARG_OID(1);
  List *options = pg::call([&] { return untransformRelOptions(PG_GETARG_DATUM(0)); });
  ListCell *cell;
  foreach (cell, options) {
    const std::string_view name = lfirst_node(DefElem, cell)->defname;
    const remote::Option *option = remote::find_option(name);
    if (option == nullptr || !allowed(*option, catalog))
      throw core::Error("HV00D", "invalid option \"" + std::string(name) + "\"", {}, hint_for(name, catalog));
    if (name != "compression")
      continue;
    const char *value = pg::call([&] { return defGetString(lfirst_node(DefElem, cell)); });
    if (!remote::compression_of(value))
      throw core::Error("HV024", "invalid value for option \"compression\": \"" + std::string(value) + "\"", {},
                        "It can be auto (the default: unless the peer is on this machine), on or off.");
  }
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
