// See target.hpp.
#include "remote/target.hpp"

#include "pg/boundary.hpp"

namespace seal_sync::remote {

std::string Target::option(std::string_view name) const {
  for (const auto &[key, value] : options)
    if (key == name)
      return value;
  return {};
}

std::string Target::where() const {
  std::string host = option("host");
  if (host.empty())
    host = option("hostaddr");
  const std::string port = option("port");
  return "Server \"" + server + "\", host " + (host.empty() ? "(default)" : host) +
         (port.empty() ? "" : ", port " + port);
}

std::string Target::problem_at(const char *step, const std::string &why) const {
  // "Is the server running on that host?" is libpq's.
  const bool whole = why.ends_with('.') || why.ends_with('?') || why.ends_with('!');
  return where() + ", step \"" + step + "\": " + why + (whole ? "" : ".");
}

/// As for postgres_fdw: whoever may define a server must not be able to use the identity of the
/// operating-system user that runs us (trust and peer authentication, ~/.pgpass, client certificates).
core::Error password_required(const std::string &server) {
  return {"2F003", "password is required for server \"" + server + "\"",
          "The owner of the foreign server is no superuser, so the peer must ask for a password, and the user "
          "mapping must give it.",
          "ALTER USER MAPPING FOR seal_sync_worker … OPTIONS (ADD password '…'), or have a superuser own the server."};
}

Target target_of(const std::string &server) {
  struct Pair {
    const char *name;
    const char *value;
  };
  struct Found {
    Pair *pairs;
    int count;
    const char *problem;
    bool trusted;
  };
  const char *name = server.c_str();
  const Found found = pg::call([name] {
    Found out = {nullptr, 0, nullptr, false};
    const ForeignServer *foreign = GetForeignServerByName(name, true);
    if (foreign == nullptr) {
      out.problem = "does not exist";
      return out;
    }
    if (strcmp(GetForeignDataWrapper(foreign->fdwid)->fdwname, "seal_sync") != 0) {
      out.problem = "does not belong to foreign-data wrapper \"seal_sync\"";
      return out;
    }
    out.trusted = superuser_arg(foreign->owner);
    const Oid role = get_role_oid("seal_sync_worker", true);
    // GetUserMapping() raises when there is none; that is worth a message of its own.
    if (!SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(role),
                               ObjectIdGetDatum(foreign->serverid)) &&
        !SearchSysCacheExists2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(InvalidOid),
                               ObjectIdGetDatum(foreign->serverid))) {
      out.problem = "has no user mapping for role \"seal_sync_worker\"";
      return out;
    }
    const UserMapping *mapping = GetUserMapping(role, foreign->serverid);
    const int most = list_length(foreign->options) + list_length(mapping->options);
    out.pairs = static_cast<Pair *>(palloc(sizeof(Pair) * static_cast<size_t>(Max(most, 1))));
    ListCell *cell;
    foreach (cell, foreign->options) {
      auto *option = static_cast<DefElem *>(lfirst(cell));
      out.pairs[out.count++] = {option->defname, defGetString(option)};
    }
    foreach (cell, mapping->options) {
      auto *option = static_cast<DefElem *>(lfirst(cell));
      out.pairs[out.count++] = {option->defname, defGetString(option)};
    }
    return out;
  });
  if (found.problem != nullptr)
    throw core::Error("42704", "server \"" + server + "\" " + found.problem, {},
                      "CREATE SERVER … FOREIGN DATA WRAPPER seal_sync OPTIONS (host '…'); "
                      "CREATE USER MAPPING FOR seal_sync_worker SERVER … OPTIONS (user '…').");
  Target target;
  target.server = server;
  target.trusted = found.trusted;
  for (int i = 0; i < found.count; i++) {
    const Option *option = find_option(found.pairs[i].name);
    if (option == nullptr)
      continue;
    if (option->file && !target.trusted)
      throw core::Error("42501", "option \"" + std::string(option->name) + "\" of server \"" + server + "\" is for superusers",
                        "It names a file of the operating-system user that runs the server, and the owner of "
                        "the foreign server is no superuser.",
                        "ALTER SERVER … OWNER TO a superuser, or use a password.");
    if (option->name == "compression")
      target.compression = compression_of(found.pairs[i].value).value_or(Compression::kAuto);
    else
      target.options.emplace_back(option->name, found.pairs[i].value);
  }
  if (!target.trusted && target.option("password").empty())
    throw password_required(server);
  return target;
}

} // namespace seal_sync::remote
