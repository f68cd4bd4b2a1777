// See peer_config.hpp.
#include "sql_api/peer_config.hpp"

#include "config/config.hpp"
#include "pg/guc.hpp"
#include "remote/connection.hpp"
#include "sql_api/peer_probe.hpp"
#include "worker/bytes.hpp"

namespace seal_sync::sql_api {

namespace {

constexpr size_t kMostBytes = 32 << 20;  // thousands of tables with a hundred columns each
constexpr size_t kMostValueBytes = 8192; // of a match value

[[noreturn]] void damaged(const std::string &peer, const std::string &detail = {}) {
  throw core::Error("08P01", "peer \"" + peer + "\" sent a configuration that cannot be read", detail);
}

/// Verified, converted to the encoding of this database.
std::string converted(const std::string &peer, const std::string &text, int encoding) {
  if (text.find('\0') != std::string::npos)
    damaged(peer);
  const char *bytes = text.c_str();
  const int size = static_cast<int>(text.size());
  const char *here = pg::call([=] { // an empty text comes back as it is
    char *const result = pg_any_to_server(bytes, size, encoding);
    return const_cast<const char *>(result);
  });
  return here;
}

void judge(const std::string &peer, core::Configuration &configuration) {
  const char *name = configuration.encoding.c_str();
  const int encoding = pg::call([name] { return pg_char_to_encoding(name); });
  if (!PG_VALID_BE_ENCODING(encoding))
    damaged(peer, "Its encoding is not known here.");
  core::for_each_text(configuration, [&](std::string &text, bool is_name) {
    text = converted(peer, text, encoding);
    if (is_name ? text.empty() || text.size() >= NAMEDATALEN : text.size() > kMostValueBytes)
      damaged(peer, is_name ? "A name is empty or too long." : "A value is too long.");
  });
  for (const core::ClusterDeclaration &cluster : configuration.clusters)
    check_new_name("cluster", cluster.name);
}

/// Any text of a person's, so no more is asked than that it can be shown.
std::string shown(const std::string &peer, std::string_view text) {
  std::string copy(text);
  const char *bytes = copy.c_str();
  const int size = static_cast<int>(copy.size());
  if (copy.size() > kMostValueBytes || copy.find('\0') != std::string::npos ||
      !pg::call([=] { return pg_verifymbstr(bytes, size, true); }))
    damaged(peer);
  return copy;
}

remote::Bytes ask(const std::string &peer, const std::string &server) {
  struct Self {
    NameData node;
    pg_uuid_t token;
    bool known;
  };
  const Self self = pg::call([] {
    Self out = {};
    config::refresh();
    const char *node = config::local_node();
    out.known = node != nullptr && config::local_token(&out.token);
    if (out.known)
      namestrcpy(&out.node, node);
    return out;
  });
  if (!self.known)
    (void)require_node(); // says how to get one
  core::ConfigurationRequest request;
  request.node = NameStr(self.node);
  memcpy(request.token.bytes, self.token.data, sizeof request.token.bytes);
  request.expected = peer;
  request.encoding = GetDatabaseEncodingName();
  worker::ByteBuffer out;
  core::write(*out, request);

  remote::Connection connection(remote::target_of(server), peer, pg::Deadline::in_ms(guc::connect_timeout));
  try {
    return connection.call("wire_config", out->span(), pg::Deadline::in_ms(guc::reply_timeout));
  } catch (const core::Error &error) {
    if (std::string_view(error.sqlstate()) == "42883")
      throw core::Error("0A000", "peer \"" + peer + "\" cannot tell its configuration: its version of the extension is older", {},
                        "Update the extension on node \"" + peer + "\", or declare clusters and tables here by hand.");
    if (std::string_view(error.sqlstate()).starts_with("08"))
      throw core::Error("08001", "could not get the configuration of peer \"" + peer + "\"",
                        error.detail().empty() ? error.message() : error.message() + ": " + error.detail(),
                        "SELECT * FROM seal_sync.peer_check(" + literal(peer) + ") shows every step.");
    throw core::Error(error.sqlstate(), "peer \"" + peer + "\" does not tell its configuration: " + error.message(),
                      error.detail(), error.hint());
  }
}

} // namespace

core::Configuration peer_configuration(const std::string &peer) {
  require_peer(peer);
  const std::string server = query("SELECT p.server FROM seal_sync.peer p WHERE p.peer = $1", {arg(peer)}).text(0, 0);
  probe_peer(peer, server, true); // finds words for everything that keeps us from asking
  const remote::Bytes answer = ask(peer, server);
  if (answer.size() > kMostBytes)
    damaged(peer, "It has " + std::to_string(answer.size()) + " bytes.");
  core::wire::Problem problem;
  core::Configuration configuration;
  if (!core::read_reply(answer, problem, configuration))
    damaged(peer);
  if (!problem.sqlstate.empty()) {
    const std::string sqlstate(problem.sqlstate);
    if (sqlstate.size() != 5 || sqlstate.find_first_not_of("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != std::string::npos ||
        sqlstate.starts_with("00"))
      damaged(peer);
    throw core::Error(sqlstate.c_str(), shown(peer, problem.message), shown(peer, problem.detail), shown(peer, problem.hint));
  }
  judge(peer, configuration);
  if (configuration.node != peer)
    throw core::Error("SS103", "server \"" + server + "\" leads to node \"" + configuration.node + "\", not to node \"" + peer + "\"");
  return configuration;
}

} // namespace seal_sync::sql_api
