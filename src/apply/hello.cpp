// wire_hello: who speaks, is it who it says, and where do we stand.
//
// The first call of every connection. Order matters: identity is checked before anything is done to a
// predecessor, and again once its lock is held; the new generation is committed before the peer can
// read it (the answer is worth something only after the statement has ended). Invariant: of two nodes
// that present the same identity one is refused (trap T4).

#include "apply/apply_session.hpp"
#include "apply/origin.hpp"
#include "apply/progress.hpp"
#include "apply/reply.hpp"
#include "apply/stream.hpp"
#include "apply/settings.hpp"
#include "config/condition.hpp"
#include "config/config.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::apply {
namespace {

using core::wire::HelloReply;
using core::wire::HelloRequest;
using core::wire::Problem;

struct ReceivedHello {
  HelloRequest request;
  NameData node, expected;
  int encoding;
  struct Cluster {
    NameData name;
    uint64 epoch;
  } *clusters;
};

Problem refused(const char *sqlstate, const char *message, const char *detail = "", const char *hint = "") {
  return {view_of(sqlstate), view_of(message), view_of(detail), view_of(hint)};
}

ReceivedHello read_hello(core::Reader *in) {
  ReceivedHello hello = {};
  core::wire::read(*in, hello.request);
  if (!in->ok() || hello.request.clusters > in->remaining())
    damaged_message("hello");
  const std::string_view encoding = hello.request.encoding;
  hello.encoding = pg_char_to_encoding(pnstrdup(encoding.data(), encoding.size()));
  if (!PG_VALID_BE_ENCODING(hello.encoding))
    ereport(ERROR, errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("a peer uses an unknown encoding"));
  name_from_wire(hello.request.node, hello.encoding, &hello.node);
  name_from_wire(hello.request.expected, hello.encoding, &hello.expected);
  hello.clusters = static_cast<ReceivedHello::Cluster *>(
      palloc0(sizeof(ReceivedHello::Cluster) * (hello.request.clusters + 1)));
  for (uint64 i = 0; i < hello.request.clusters; ++i) {
    const std::string_view name = in->text();
    hello.clusters[i].epoch = in->u64();
    if (!in->ok())
      damaged_message("hello");
    name_from_wire(name, hello.encoding, &hello.clusters[i].name);
  }
  if (!in->at_end())
    damaged_message("hello");
  return hello;
}

bool is_peer(const NameData &node) {
  Relation heap = table_open(config::own_relation("peer"), AccessShareLock);
  ScanKeyData key;
  ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_NAMEEQ, NameGetDatum(&node));
  PushActiveSnapshot(GetLatestSnapshot());
  SysScanDesc scan = systable_beginscan(heap, InvalidOid, false, GetActiveSnapshot(), 1, &key);
  const bool found = HeapTupleIsValid(systable_getnext(scan));
  systable_endscan(scan);
  PopActiveSnapshot();
  table_close(heap, AccessShareLock);
  return found;
}

/// What can be said before anything is touched. Empty sqlstate: welcome.
Problem check_speaker(const ReceivedHello &hello) {
  const char *const here = config::local_node();
  if (here == nullptr)
    return refused(core::wire::kNotPeer, "this database has no node identity",
                   "", "Call seal_sync.node_create there first. The connection is tried again by itself.");
  const bool speaker_newer = hello.request.protocol_min > core::wire::kProtocol;
  if (speaker_newer || hello.request.protocol < core::wire::kProtocolMin)
    return refused("08P01",
                   psprintf("node \"%s\" speaks protocol %u to %u, node \"%s\" speaks %u to %u",
                            NameStr(hello.node), hello.request.protocol_min, hello.request.protocol, here,
                            core::wire::kProtocolMin, core::wire::kProtocol),
                   "Nothing is shipped until both speak a common version; changes are kept in the change log.",
                   psprintf("Install a newer version of the extension on node \"%s\". The connection is tried again by"
                            " itself.",
                            speaker_newer ? here : NameStr(hello.node)));
  if (config::detached() != nullptr)
    return refused(core::wire::kNotPeer, psprintf("node \"%s\" is detached", here), config::detached(),
                   "The connection is tried again by itself, and goes on after seal_sync.node_attach() there.");
  if (config::copied())
    return refused(core::wire::kNotPeer, psprintf("the connection leads to a copy of node \"%s\"", here), "",
                   "Where the copy is to take its place, call seal_sync.node_adopt there; see seal_sync.health there.");
  if (strcmp(NameStr(hello.expected), here) != 0)
    return refused("SS103", psprintf("the connection leads to node \"%s\", not to node \"%s\"", here,
                                     NameStr(hello.expected)),
                   "", "Correct host, port or dbname of the foreign server.");
  if (strcmp(NameStr(hello.node), here) == 0)
    return refused("SS103", psprintf("node \"%s\" is connected to itself", here));
  if (!is_peer(hello.node))
    return refused(core::wire::kNotPeer,
                   psprintf("node \"%s\" is not a peer of node \"%s\"", NameStr(hello.node), here), "",
                   psprintf("Call seal_sync.peer_create('%s') on node \"%s\". The connection is tried again"
                            " by itself.",
                            NameStr(hello.node), here));
  return {};
}

/// The login, the token and the generation rule. `row` not found: the first contact ever.
Problem check_identity(const ReceivedHello &hello, const OriginRow &row) {
  const pg_uuid_t token = uuid_of(hello.request.token);
  // The next one is issued from it, and is stored as a signed number.
  if (Max(hello.request.generation, row.issued) >= static_cast<uint64>(PG_INT64_MAX))
    return refused(core::wire::kContradiction,
                   psprintf("node \"%s\" presents a generation that cannot be", NameStr(hello.node)),
                   psprintf("It presents generation " UINT64_FORMAT ".", hello.request.generation));
  if (!row.found)
    return {};
  // Every node that it speaks to knows its token. Only its own password tells it from those.
  const char *const login = GetUserNameFromId(GetSessionUserId(), false);
  if (strcmp(login, NameStr(row.login)) != 0)
    return refused(core::wire::kContradiction,
                   psprintf("node \"%s\" has logged in as role \"%s\", not as role \"%s\"",
                            NameStr(hello.node), login, NameStr(row.login)),
                   psprintf("Role \"%s\" is the one of the first contact.", NameStr(row.login)),
                   psprintf("Correct the user mapping on node \"%s\". If the role was changed on purpose, call"
                            " seal_sync.peer_drop('%s') and seal_sync.peer_create('%s') on node \"%s\", then"
                            " the same for '%s' on node \"%s\".",
                            NameStr(hello.node), NameStr(hello.node), NameStr(hello.node),
                            config::local_node(), config::local_node(), NameStr(hello.node)));
  if (memcmp(&token, &row.token, sizeof token) != 0)
    return refused(core::wire::kContradiction,
                   psprintf("another node has spoken as \"%s\" before", NameStr(hello.node)),
                   "Its token is not the one that was seen at the first contact.",
                   "If the node was made anew on purpose, drop the peer here and create it again.");
  // A newer one than we have issued: it is we who fell back (a restored copy). The speaker's history
  // decides whether it knows the batch that we hold, and sends again what came after.
  if (hello.request.generation < row.issued && hello.request.generation != row.confirmed)
    return refused(core::wire::kContradiction,
                   psprintf("node \"%s\" looks like a clone or a restored copy", NameStr(hello.node)),
                   psprintf("It presents generation " UINT64_FORMAT ", but " UINT64_FORMAT
                            " has been used since.",
                            hello.request.generation, row.confirmed),
                   "Only one of the copies may speak under this name. If the peer was dropped and created "
                   "again over there on purpose, do the same here.");
  return {};
}

void write_verdicts(core::Buffer *reply, const ReceivedHello &hello) {
  using core::wire::ClusterVerdict;
  for (uint64 i = 0; i < hello.request.clusters; ++i) {
    const auto &claim = hello.clusters[i];
    const config::Cluster *const cluster = config::find_cluster(NameStr(claim.name));
    ClusterVerdict verdict = ClusterVerdict::kUnknown;
    if (cluster != nullptr) {
      const bool accepted = strcmp(NameStr(cluster->primary_node), NameStr(hello.node)) == 0 &&
                            static_cast<uint64>(cluster->epoch) == claim.epoch;
      verdict = accepted ? ClusterVerdict::kAccepted : ClusterVerdict::kNotPrimary;
    }
    reply->text(view_of(NameStr(claim.name)));
    reply->u8(static_cast<uint8>(verdict));
    reply->u64(cluster != nullptr ? static_cast<uint64>(cluster->epoch) : 0);
    reply->text(cluster != nullptr ? view_of(NameStr(cluster->primary_node)) : std::string_view());
  }
}

/// Fills the session's place in shared memory.
void publish_connection(Session *session, std::string_view version) {
  if (session->slot == nullptr)
    return;
  const TimestampTz now = GetCurrentTimestamp();
  LWLockAcquire(pg::shared_lock(), LW_EXCLUSIVE);
  session->slot->pid = MyProcPid;
  session->slot->connected_since = session->slot->last_contact_at = now;
  const Size size = Min(version.size(), sizeof session->slot->version - 1);
  memcpy(session->slot->version, version.data(), size);
  session->slot->version[size] = '\0';
  LWLockRelease(pg::shared_lock());
}

/// Accepted unless the reply carries a problem.
HelloReply receive(const ReceivedHello &hello) {
  refuse_while_streaming(); // the batch belongs to the session that would end here
  HelloReply reply;
  reply.problem = check_speaker(hello);
  if (reply.problem.sqlstate.empty())
    reply.problem = check_identity(hello, read_origin(hello.node));
  if (!reply.problem.sqlstate.empty())
    return reply;
  if (!take_origin_lock(hello.node)) {
    reply.problem = refused("55006", psprintf(being_applied(hello.node) ? "a batch of node \"%s\" is still being applied"
                                                                        : "the previous connection of node \"%s\" does not end",
                                              NameStr(hello.node)));
    return reply;
  }
  // The predecessor may have used its generation until the lock was free.
  const OriginRow row = read_origin(hello.node);
  reply.problem = check_identity(hello, row);
  if (!reply.problem.sqlstate.empty())
    return reply;
  const uint64 generation = Max(row.issued, hello.request.generation) + 1;
  issue_generation(hello.node, uuid_of(hello.request.token), hello.request.generation, generation);
  Session *const session = open_session(hello.node, hello.encoding, generation);
  publish_connection(session, hello.request.version);

  const Applied last = last_applied(NameStr(hello.node));
  pg_uuid_t token;
  (void)config::local_token(&token);
  reply.protocol = Min(hello.request.protocol, core::wire::kProtocol);
  reply.config = config::version();
  reply.node = view_of(config::local_node());
  reply.token = id_of(token);
  reply.generation = generation;
  reply.has_batch = last.found ? 1 : 0;
  reply.batch = last.found ? static_cast<uint64>(last.batch) : 0;
  reply.batch_id = last.id;
  reply.encoding = view_of(GetDatabaseEncodingName());
  reply.version = SEAL_SYNC_VERSION;
  reply.clusters = hello.request.clusters;
  return reply;
}

} // namespace
} // namespace seal_sync::apply

/// wire_hello(bytea) -> bytea
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_hello) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  // A generation that was answered and then lost in a crash would make the peer look like a clone.
  require_durable_commit();
  bound_lock_waits();
  core::Reader in(bytes_of(PG_GETARG_BYTEA_PP(0)));
  const ReceivedHello hello = read_hello(&in);
  keep_peer(hello.node);
  config::refresh(); // after the wait
  core::wire::HelloReply answer = receive(hello);
  answer.clock = GetCurrentTimestamp();
  core::Buffer reply = begin_reply();
  write(reply, answer);
  if (answer.problem.sqlstate.empty()) {
    write_verdicts(&reply, hello);
    const bool stages = OidIsValid(config::own_relation("stage")); // the library may be newer than the extension
    reply.varint(stages ? core::wire::kFeatures : core::wire::kFeatures & ~core::wire::kFeatureStage);
  }
  PG_RETURN_DATUM(finish_reply(reply));
}
