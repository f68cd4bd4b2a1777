// wire_config: what this node has declared, told to a peer that wants to compare or adopt it.
//
// Called by config_diff, config_adopt and schema_diff of the peer, beside its route, so there is no hello and no session:
// nothing is changed by it, here or on the route. Invariant: answered only to a declared peer that proves to be
// the one whose hello was accepted (token and login); before its first hello the login's role is what it has, as
// it is for that hello.

#include "apply/reply.hpp"
#include "apply/settings.hpp"
#include "config/config.hpp"
#include "sql_api/own_config.hpp"
#include "worker/bytes.hpp"

namespace seal_sync::sql_api {

namespace {

struct Asker {
  NameData node, expected;
  core::wire::Id token;
  std::uint32_t version_min, version;
};

/// PostgreSQL regime.
Asker read_request(FunctionCallInfo fcinfo) {
  core::Reader in(apply::bytes_of(PG_GETARG_BYTEA_PP(0)));
  core::ConfigurationRequest request;
  core::read(in, request);
  if (!in.ok() || !in.at_end())
    apply::damaged_message("configuration");
  const int encoding = pg_char_to_encoding(pnstrdup(request.encoding.data(), request.encoding.size()));
  if (!PG_VALID_BE_ENCODING(encoding))
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("a peer uses an unknown encoding"));
  Asker asker = {};
  asker.token = request.token;
  asker.version_min = request.version_min;
  asker.version = request.version;
  apply::name_from_wire(request.node, encoding, &asker.node);
  apply::name_from_wire(request.expected, encoding, &asker.expected);
  return asker;
}

std::string hex(const core::wire::Id &id) {
  std::string out;
  for (const std::uint8_t byte : id.bytes) {
    out.push_back("0123456789abcdef"[byte >> 4]);
    out.push_back("0123456789abcdef"[byte & 15]);
  }
  return out;
}

/// Throws what the asker is to be told instead of an answer.
void check_asker(const Asker &asker) {
  const std::string node = NameStr(asker.node);
  const std::string here = require_node();
  if (asker.version_min > core::kConfigurationVersion || asker.version < core::kConfigurationVersionMin)
    throw core::Error("08P01", "node \"" + node + "\" speaks of its configuration in other versions than node \"" + here + "\"", {},
                      "Install a newer version of the extension on the older node.");
  if (here != NameStr(asker.expected))
    throw core::Error("SS103", "the connection leads to node \"" + here + "\", not to node \"" +
                                   std::string(NameStr(asker.expected)) + "\"", {},
                      "Correct host, port or dbname of the foreign server.");
  if (query("SELECT FROM seal_sync.peer WHERE peer = $1", {arg(node)}).empty())
    throw core::Error(core::wire::kNotPeer, "node \"" + node + "\" is not a peer of node \"" + here + "\"", {},
                      "Call seal_sync.peer_create(" + literal(node) + ") on node \"" + here + "\".");
  const char *login = pg::call([] { return GetUserNameFromId(GetSessionUserId(), false); });
  const Rows known = query("SELECT pg_catalog.replace(o.token::pg_catalog.text, '-', '') = $2, o.login = $3, o.login "
                           "FROM seal_sync.origin o WHERE o.node = $1",
                           {arg(node), arg(hex(asker.token)), arg(login)});
  if (known.empty())
    return;
  if (!known.boolean(0, 1))
    throw core::Error("42501", "node \"" + node + "\" has logged in as role \"" + login + "\", not as role \"" +
                                   known.text(0, 2) + "\"",
                      "Role \"" + known.text(0, 2) + "\" is the one of the first contact.",
                      "Correct the user mapping on node \"" + node + "\".");
  if (!known.boolean(0, 0))
    throw core::Error("42501", "another node has spoken as \"" + node + "\" before",
                      "Its token is not the one that was seen at the first contact.",
                      "If the node was made anew on purpose, drop the peer on node \"" + here + "\" and create it again.");
}

} // namespace

/// wire_config(bytea) -> bytea
SEAL_SYNC_FUNCTION(seal_sync_wire_config) {
  const Asker asker = pg::call([fcinfo] {
    apply::bound_lock_waits();
    config::refresh();
    return read_request(fcinfo);
  });
  worker::ByteBuffer reply;
  {
    const AsOwner owner;
    const Spi spi;
    try {
      check_asker(asker);
      core::write_reply(*reply, std::min(asker.version, core::kConfigurationVersion), own_configuration());
    } catch (const core::Error &problem) { // not pg::Error: that one has broken the transaction
      reply->size = 0;
      core::write_reply(*reply, core::wire::Problem{problem.sqlstate(), problem.message(), problem.detail(), problem.hint()});
    }
  }
  const core::ByteSpan bytes = reply->span();
  const Datum answer = pg::call([bytes] {
    core::Buffer out = apply::begin_reply();
    out.bytes(bytes.data(), bytes.size());
    return apply::finish_reply(out);
  });
  PG_RETURN_DATUM(answer);
}

} // namespace seal_sync::sql_api
