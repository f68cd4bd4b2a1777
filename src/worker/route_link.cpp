// See route_link.hpp.
#include "worker/route_link.hpp"

#include "config/condition.hpp"
#include "config/config.hpp"
#include "pg/guc.hpp"
#include "pg/scopes.hpp"
#include "scan/arrived.hpp"
#include "scan/troubles.hpp"
#include "worker/bytes.hpp"
#include "worker/own_tables.hpp"

namespace seal_sync::worker {

namespace wire = core::wire;

namespace {

std::string to_string(std::string_view view) { return std::string(view); }

std::string to_hex(const wire::Id &id) {
  std::string out;
  for (const std::uint8_t byte : id.bytes) {
    out.push_back("0123456789abcdef"[byte >> 4]);
    out.push_back("0123456789abcdef"[byte & 15]);
  }
  return out;
}

core::Error contradiction(std::string message, std::string detail, std::string hint = {}) {
  if (hint.empty())
    hint = "Nothing was deleted and nothing is shipped. Find out which of the two is right, then call "
           "seal_sync.resume, or drop the peer and create it again, on both nodes: then all rows are shipped again.";
  return {wire::kContradiction, std::move(message), std::move(detail), std::move(hint)};
}

/// Inside a transaction. *version is that of the rules they are read from, at the latest.
std::vector<Claim> current_claims(const char *peer, uint64 *version) {
  struct Found {
    const char **names;
    uint64 *epochs;
    int count;
  };
  const Found found = pg::call([peer, version] {
    config::refresh();
    *version = config::version();
    const int most = Max(config::cluster_count(), 1);
    Found out = {static_cast<const char **>(palloc(sizeof(char *) * static_cast<size_t>(most))),
                 static_cast<uint64 *>(palloc(sizeof(uint64) * static_cast<size_t>(most))), 0};
    for (int i = 0; i < config::cluster_count(); i++) {
      const config::Cluster *cluster = config::cluster_at(i);
      if (!cluster->primary_here || !config::routed_to(cluster, peer))
        continue;
      out.names[out.count] = pstrdup(NameStr(cluster->name));
      out.epochs[out.count++] = static_cast<uint64>(cluster->epoch);
    }
    return out;
  });
  std::vector<Claim> claims;
  for (int i = 0; i < found.count; i++)
    claims.push_back({found.names[i], found.epochs[i]});
  return claims;
}

void log_line(const std::string &text, const std::string &detail) {
  pg::call([&] {
    ereport(LOG, errmsg("%s", text.c_str()), detail.empty() ? 0 : errdetail_internal("%s", detail.c_str()));
  });
}

} // namespace

RouteRules read_rules(const std::string &peer) {
  const char *name = peer.c_str();
  const Rows rows = pg::call([name] {
    return query("SELECT p.server, s.paused_since IS NOT NULL AND (s.pause_until IS NULL OR s.pause_until > "
                 "pg_catalog.clock_timestamp()), s.pause_reason, s.halted_since IS NOT NULL, s.halt_message, "
                 "pg_catalog.replace(s.token::pg_catalog.text, '-', ''), s.generation "
                 "FROM seal_sync.peer p LEFT JOIN seal_sync.peer_state s USING (peer) "
                 "WHERE p.peer = $1::pg_catalog.name",
                 {name});
  });
  RouteRules rules;
  if (rows.count == 0)
    return rules;
  const auto text = [&](int column) { return rows.at(0, column) != nullptr ? rows.at(0, column) : ""; };
  rules.exists = true;
  rules.server = text(0);
  rules.paused = text(1)[0] == 't';
  rules.pause_reason = text(2);
  rules.halted = text(3)[0] == 't';
  rules.halt_message = text(4);
  const char *token = text(5);
  rules.token_known = token[0] != '\0';
  for (std::size_t i = 0; rules.token_known && i < sizeof rules.token.bytes; i++) {
    const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
    rules.token.bytes[i] = static_cast<std::uint8_t>(digit(token[2 * i]) << 4 | digit(token[2 * i + 1]));
  }
  rules.generation = strtoull(text(6), nullptr, 10);
  return rules;
}

// ---- connecting and hello -----------------------------------------------------------------------

struct RouteLink::Told {
  std::string node;
  wire::Id token;
  std::uint64_t generation = 0;
  bool has_batch = false;
  std::uint64_t batch = 0;
  wire::Id batch_id;
  std::string encoding;
  struct Verdict {
    std::string cluster;
    wire::ClusterVerdict verdict;
    std::uint64_t epoch;
    std::string primary;
  };
  std::vector<Verdict> verdicts;
};

void RouteLink::connect(const remote::Target &target) {
  close();
  connection_ = std::make_unique<remote::Connection>(target, peer_, pg::Deadline::in_ms(guc::connect_timeout));
  target_ = target;
  facts_ = {};
  facts_.tls = connection_->tls();
}

std::string RouteLink::last_contact_of_another() {
  pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
  const Rows self = pg::call([] {
    return query("SELECT pg_catalog.format('SELECT s.last_contact FROM seal_sync.wire_standing(%L, %L, NULL, NULL) s WHERE "
                 "s.connected', n.node, n.token) FROM seal_sync.local_node n",
                 {});
  });
  const std::string sql = self.count > 0 ? self.at(0, 0) : "";
  transaction.commit();
  if (sql.empty())
    return {};
  try {
    return connection_->value(sql.c_str(), pg::Deadline::in_ms(guc::reply_timeout));
  } catch (const core::Error &error) {
    if (std::string_view(error.sqlstate()) != "42883")
      throw;
    return {};
  }
}

void RouteLink::close() noexcept {
  if (session_ != nullptr) {
    pg::call_or_exit([this] { scan::close_session(session_); });
    session_ = nullptr;
  }
  connection_.reset();
}

void RouteLink::agree() {
  const Told told = say_hello();
  check_identity(told);
  store_identity(told);
  make_session(told);
  find_position(told);
  hellos_++;
}

RouteLink::Told RouteLink::say_hello() {
  ByteBuffer request;
  {
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    claims_ = current_claims(peer_.c_str(), &claims_version_);
    const RouteRules rules = read_rules(peer_);
    struct Self {
      NameData node;
      pg_uuid_t token;
      bool known;
      bool rests; // this process may not have been told yet to leave
    };
    const Self self = pg::call([] {
      Self out = {};
      const char *node = config::local_node();
      out.known = node != nullptr && config::local_token(&out.token);
      if (out.known)
        namestrcpy(&out.node, node);
      out.rests = out.known && (config::detached() != nullptr || config::copied());
      return out;
    });
    transaction.commit();
    if (!self.known)
      throw core::Error("55000", "this node has no identity", {}, "SELECT seal_sync.node_create('…').");
    if (self.rests)
      throw core::Error("55000", "this node is detached, or a copy that nobody has decided about");
    wire::HelloRequest hello;
    hello.node = NameStr(self.node);
    memcpy(hello.token.bytes, self.token.data, sizeof hello.token.bytes);
    hello.expected = peer_;
    hello.generation = rules.generation;
    hello.encoding = GetDatabaseEncodingName();
    hello.version = SEAL_SYNC_VERSION;
    hello.clock = GetCurrentTimestamp();
    hello.clusters = claims_.size();
    wire::write(*request, hello);
    for (const Claim &claim : claims_) {
      request->text(claim.cluster);
      request->u64(claim.epoch);
    }
  }

  const TimestampTz sent = GetCurrentTimestamp();
  const remote::Bytes answer =
      connection_->call("wire_hello", request->span(), pg::Deadline::in_ms(guc::reply_timeout));
  const TimestampTz received = GetCurrentTimestamp();

  core::Reader reader(answer);
  wire::HelloReply reply;
  wire::read(reader, reply);
  if (!reader.ok())
    throw core::Error("08P01", "peer \"" + peer_ + "\" sent an answer to hello that cannot be read");
  if (!reply.problem.sqlstate.empty())
    throw core::Error(to_string(reply.problem.sqlstate).c_str(), to_string(reply.problem.message),
                      to_string(reply.problem.detail), to_string(reply.problem.hint));
  if (reply.protocol < wire::kProtocolMin || reply.protocol > wire::kProtocol)
    throw core::Error("08P01", "peer \"" + peer_ + "\" wants to speak protocol " + std::to_string(reply.protocol) +
                                   ", this node speaks " + std::to_string(wire::kProtocolMin) + " to " +
                                   std::to_string(wire::kProtocol));
  Told told;
  told.node = reply.node;
  told.token = reply.token;
  told.generation = reply.generation;
  told.has_batch = reply.has_batch != 0;
  told.batch = reply.batch;
  told.batch_id = reply.batch_id;
  told.encoding = reply.encoding;
  for (std::uint64_t i = 0; i < reply.clusters && reader.ok(); i++) {
    Told::Verdict verdict;
    verdict.cluster = reader.text();
    verdict.verdict = static_cast<wire::ClusterVerdict>(reader.u8());
    verdict.epoch = reader.u64();
    verdict.primary = reader.text();
    told.verdicts.push_back(std::move(verdict));
  }
  const std::uint64_t features = reader.at_end() ? 0 : reader.varint();
  if (!reader.ok())
    throw core::Error("08P01", "peer \"" + peer_ + "\" sent an answer to hello that cannot be read");
  facts_.streams = (features & wire::kFeatureStream) != 0;
  facts_.sequences = (features & wire::kFeatureSequences) != 0;
  facts_.stages = (features & wire::kFeatureStage) != 0;
  facts_.tells_standing = (features & wire::kFeatureStanding) != 0;
  agree_on_compression(features);
  facts_.version = reply.version;
  facts_.protocol = reply.protocol;
  facts_.config = reply.config;
  facts_.clock_offset_us = reply.clock - (sent + (received - sent) / 2);
  return told;
}

void RouteLink::agree_on_compression(std::uint64_t features) {
  const bool wanted = target_.compression == remote::Compression::kOn ||
                      (target_.compression == remote::Compression::kAuto && !connection_->local());
  packs_ = wanted && (features & wire::kFeatureZstd) != 0;
  facts_.compression = packs_ ? "zstd" : wanted ? "unavailable" : "off";
}

void RouteLink::check_identity(const Told &told) {
  if (told.node != peer_)
    throw core::Error("SS103", "server \"" + target_.server + "\" leads to node \"" + told.node +
                                   "\", not to node \"" + peer_ + "\"");
  pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
  const RouteRules rules = read_rules(peer_);
  transaction.commit();
  if (rules.token_known && !(rules.token == told.token))
    throw contradiction("peer \"" + peer_ + "\" is another node than before",
                        "It carries the same name, but another identity: it was made anew, or the "
                        "connection leads to another server.");
}

void RouteLink::store_identity(const Told &told) {
  pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
  const std::string token = to_hex(told.token);
  const std::string generation = std::to_string(told.generation);
  pg::call([&] {
    (void)query("INSERT INTO seal_sync.peer_state (peer, token, generation) VALUES ($1::pg_catalog.name, "
                "$2::pg_catalog.uuid, $3::pg_catalog.int8) ON CONFLICT (peer) DO UPDATE SET "
                "token = EXCLUDED.token, generation = EXCLUDED.generation",
                {peer_.c_str(), token.c_str(), generation.c_str()});
    ForceSyncCommit(); // trap T4: what we present next time must not be older than this
  });
  transaction.commit();
  generation_ = told.generation;
}

void RouteLink::make_session(const Told &told) {
  if (session_ != nullptr) {
    pg::call([this] { scan::close_session(session_); });
    session_ = nullptr;
  }
  pg::Transaction transaction(pg::Transaction::Snapshot::kActive); // cluster names are looked up
  session_ = pg::call([&] {
    config::refresh();
    scan::Session *session = scan::open_session(peer_.c_str(), TopMemoryContext);
    scan::load_troubles(session);
    scan::load_arrived(session);
    // What was declared while the peer answered has not been claimed: claims_changed() is to see it.
    session->config_version = claims_version_;
    session->peer_encoding = pg_char_to_encoding(told.encoding.c_str());
    return session;
  });
  not_taken_.clear();
  for (const Told::Verdict &verdict : told.verdicts) {
    const char *name = verdict.cluster.c_str();
    if (verdict.verdict == wire::ClusterVerdict::kAccepted) {
      pg::call([&] {
        if (const config::Cluster *cluster = config::find_cluster(name))
          scan::accept_cluster(session_, cluster->id);
      });
      continue;
    }
    if (!not_taken_.empty())
      not_taken_ += "; ";
    not_taken_ += "cluster \"" + verdict.cluster + "\" ";
    not_taken_ += verdict.verdict == wire::ClusterVerdict::kUnknown
                      ? "is not declared there"
                      : "has its primary on \"" + verdict.primary + "\" there, in epoch " +
                            std::to_string(verdict.epoch);
  }
  transaction.commit();
}

bool RouteLink::claims_changed() const {
  const uint64 version = pg::call([] {
    config::refresh();
    return config::version();
  });
  if (version == session_->config_version)
    return false;
  return current_claims(peer_.c_str(), &session_->config_version) != claims_;
}

// ---- where the next batch starts ----------------------------------------------------------------

void RouteLink::keep_held(const scan::HistoryEntry &entry) { note_held(entry.number, entry.id, entry.position); }

void RouteLink::note_held(std::uint64_t number, const wire::Id &id, const scan::Position &position) {
  held_.found = held_.acknowledged = true;
  held_.number = number;
  held_.id = id;
  // Two contexts in turn: the new position may be a copy of the old one.
  const MemoryContext old = held_context_;
  pg::call([&] {
    held_context_ = AllocSetContextCreate(TopMemoryContext, "seal_sync position", ALLOCSET_SMALL_SIZES);
    held_.position = scan::copy_position(position, held_context_);
    if (old != nullptr)
      MemoryContextDelete(old);
  });
  if (last_number_ < number)
    last_number_ = number;
}

void RouteLink::find_position(const Told &told) {
  const char *peer = peer_.c_str();
  scan::HistoryEntry acknowledged;
  scan::HistoryEntry sent;
  scan::HistoryEntry theirs;
  {
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    pg::call([&] {
      config::refresh();
      acknowledged = scan::last_acknowledged(peer);
      if (!acknowledged.found) {
        // No position was noted when the peer was created: all that the log still has is owed.
        scan::start_at(peer, scan::Position{});
        acknowledged.found = acknowledged.acknowledged = true;
      }
      sent = scan::last_sent(peer);
      if (told.has_batch)
        theirs = scan::find_in_history(peer, told.batch, told.batch_id);
    });
    keep_held(acknowledged);
    if (sent.found && sent.number > last_number_)
      last_number_ = sent.number;
    transaction.commit();
  }

  if (!told.has_batch) {
    if (acknowledged.number == 0)
      return; // first contact
    throw contradiction("peer \"" + peer_ + "\" has lost what it had applied",
                        "It holds no batch of this node, which has batch " +
                            std::to_string(acknowledged.number) +
                            " acknowledged: it looks restored from a backup or made anew.");
  }
  if (told.batch == acknowledged.number && told.batch_id == acknowledged.id)
    return;
  if (!theirs.found)
    throw contradiction("peer \"" + peer_ + "\" has applied batch " + std::to_string(told.batch) +
                            ", which this node has not sent or no longer knows",
                        "The last batch this node knows as applied is " + std::to_string(acknowledged.number) +
                            ", the last one sent is " + std::to_string(sent.number) +
                            ": one of the two looks restored from a backup.");

  const bool ahead = theirs.number > acknowledged.number;
  remote::Bytes answer;
  if (ahead)
    answer = ask_for_refusals(theirs, acknowledged);
  else
    log_line("seal_sync route \"" + peer_ + "\": the peer fell back to batch " + std::to_string(theirs.number),
             "Batch " + std::to_string(acknowledged.number) +
                 " was acknowledged; what came after is sent again.");

  pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
  core::Reader reader(answer);
  wire::ApplyReply reply;
  if (ahead) {
    wire::read(reader, reply);
    if (!reader.ok() || reply.status != wire::ApplyStatus::kAppliedBefore)
      throw core::Error("08P01", "peer \"" + peer_ + "\" says two things about batch " +
                                     std::to_string(theirs.number));
  }
  pg::call([&] {
    const scan::HistoryEntry entry = scan::find_in_history(peer, told.batch, told.batch_id);
    if (ahead)
      scan::recover(session_, entry, &reader, reply.refusals);
    else {
      scan::rewind_to(peer, entry);
      scan::load_arrived(session_);
    }
    theirs = entry;
  });
  keep_held(theirs);
  transaction.commit();
}

/// The answer to a batch was lost; asked again, the peer repeats it instead of applying.
remote::Bytes RouteLink::ask_for_refusals(const scan::HistoryEntry &entry, const scan::HistoryEntry &before) {
  wire::ApplyRequest request;
  request.batch = entry.number;
  request.batch_id = entry.id;
  request.previous = before.number;
  request.previous_id = before.id;
  request.generation = generation_;
  ByteBuffer out;
  wire::write(*out, request);
  return connection_->apply(out->span(), pg::Deadline::in_ms(guc::reply_timeout));
}

} // namespace seal_sync::worker
