// See peer_standing.hpp.
#include "sql_api/peer_standing.hpp"

#include "apply/progress.hpp"
#include "pg/guc.hpp"
#include "remote/connection.hpp"
#include "scan/batch.hpp"

#include <algorithm>
#include <cstdlib>
#include <sstream>

namespace seal_sync::sql_api {

namespace {

struct Own {
  std::string node, token;
  int64 generation; // as this peer has issued it
  bool token_of_peer_known;
  std::string token_of_peer;
  // of the peer's batches here
  bool applied;
  int64 batch;
  std::string batch_id;
  // of this node's batches
  uint64 sent, acknowledged;
};

std::string uuid_text(const core::wire::Id &id) {
  std::string out;
  for (size_t i = 0; i < sizeof id.bytes; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10)
      out += '-';
    out += "0123456789abcdef"[id.bytes[i] >> 4];
    out += "0123456789abcdef"[id.bytes[i] & 15];
  }
  return out;
}

Own read_own(const std::string &peer) {
  const Rows rows = query("SELECT n.node, n.token, coalesce(s.generation, 0) FROM seal_sync.local_node n "
                          "LEFT JOIN seal_sync.peer_state s ON s.peer = $1",
                          {arg(peer)});
  Own own = {};
  own.node = rows.text(0, 0);
  own.token = rows.text(0, 1);
  own.generation = std::stoll(rows.text(0, 2));
  const char *name = peer.c_str();
  const apply::Applied last = pg::call([name] { return apply::last_applied(name); });
  own.applied = last.found;
  own.batch = last.batch;
  own.batch_id = uuid_text(last.id);
  own.sent = pg::call([name] { return scan::last_sent(name).number; });
  own.acknowledged = pg::call([name] { return scan::last_acknowledged(name).number; });
  return own;
}

/// The peer may answer anything.
int64 number(const std::string &text) { return std::strtoll(text.c_str(), nullptr, 10); }

/// Whether this node has sent that batch, and the log still has what came after it.
bool knows(const std::string &peer, int64 batch, const std::string &batch_id) {
  core::wire::Id id;
  size_t digit = 0;
  for (const char c : batch_id)
    if (c != '-' && digit < 2 * sizeof id.bytes) {
      const int value = c <= '9' ? c - '0' : c - 'a' + 10;
      id.bytes[digit / 2] = static_cast<uint8>(digit % 2 == 0 ? value << 4 : id.bytes[digit / 2] | value);
      digit++;
    }
  const char *name = peer.c_str();
  return pg::call([&] {
    const scan::HistoryEntry held = scan::last_acknowledged(name);
    return (held.found && held.number == static_cast<uint64>(batch) && held.id == id) ||
           scan::find_in_history(name, static_cast<uint64>(batch), id).found;
  });
}

void judge(Standing *standing, const Own &own, const std::string &answer) {
  // state|issued|confirmed|connected|batch|batch_id|resends; a null is empty
  std::vector<std::string> parts;
  std::istringstream in(answer);
  for (std::string part; std::getline(in, part, '|');)
    parts.push_back(part);
  parts.resize(7);
  standing->answered = true;
  const std::string &state = parts[0];
  if (state == "unheard" || state == "no_peer") {
    standing->welcome = true;
    standing->knows_batch = own.acknowledged == 0;
    standing->resends = !own.applied;
    standing->numbers = "Peer \"" + standing->peer + "\" has never heard of this node; this node has batch " +
                        std::to_string(own.acknowledged) + " acknowledged by it.";
    return;
  }
  if (state != "known") {
    standing->contradiction = "peer \"" + standing->peer + "\" knows another node \"" + own.node + "\"";
    standing->numbers = "Identity or login are not those of its first contact.";
    return;
  }
  standing->heard = true;
  standing->issued = number(parts[1]);
  const int64 confirmed = number(parts[2]);
  standing->welcome = own.generation >= standing->issued || own.generation == confirmed;
  standing->connected = parts[3] == "true";
  const bool has_batch = !parts[4].empty();
  standing->knows_batch = has_batch ? knows(standing->peer, number(parts[4]), parts[5]) : own.acknowledged == 0;
  standing->resends = parts[6] == "true";
  standing->numbers = "Peer \"" + standing->peer + "\" has applied " + (has_batch ? "batch " + parts[4] : "no batch") +
                      " of this node, which knows of " + std::to_string(std::max(own.sent, own.acknowledged)) +
                      " sent and " + std::to_string(own.acknowledged) + " acknowledged; it has used generation " +
                      std::to_string(standing->issued) + ", this node presents " + std::to_string(own.generation) + ".";
}

} // namespace

std::vector<Standing> standings() {
  const Rows peers = query("SELECT p.peer, p.server FROM seal_sync.peer p ORDER BY p.peer");
  std::vector<Standing> all;
  for (size_t i = 0; i < peers.size(); i++) {
    Standing standing;
    standing.peer = peers.text(i, 0);
    const Own own = read_own(standing.peer);
    try {
      remote::Connection connection(remote::target_of(peers.text(i, 1)), standing.peer,
                                    pg::Deadline::in_ms(guc::connect_timeout));
      const pg::Deadline deadline = pg::Deadline::in_ms(guc::connect_timeout);
      const std::string there = connection.value("SELECT node FROM seal_sync.wire_identity()", deadline);
      if (there != standing.peer) {
        standing.answered = true;
        standing.contradiction = "server \"" + peers.text(i, 1) + "\" leads to node \"" + there + "\", not to node \"" +
                                 standing.peer + "\"";
        all.push_back(standing);
        continue;
      }
      const std::string sql =
          "SELECT pg_catalog.concat_ws('|', s.state, coalesce(s.issued::text, ''), coalesce(s.confirmed::text, ''), "
          "coalesce(s.connected::text, ''), coalesce(s.batch::text, ''), coalesce(s.batch_id::text, ''), "
          "coalesce(s.resends::text, '')) FROM seal_sync.wire_standing(" +
          literal(own.node) + "::pg_catalog.name, " + literal(own.token) + "::pg_catalog.uuid, " +
          (own.applied ? std::to_string(own.batch) + "::pg_catalog.int8, " + literal(own.batch_id) + "::pg_catalog.uuid"
                       : std::string("NULL::pg_catalog.int8, NULL::pg_catalog.uuid")) +
          ") s";
      judge(&standing, own, connection.value(sql.c_str(), deadline));
    } catch (const core::Error &error) {
      const std::string_view state(error.sqlstate());
      standing.why_not = state == "42883" ? "its version of the extension is too old to be asked"
                         : error.detail().empty() ? error.message()
                                                  : error.message() + ": " + error.detail();
    }
    all.push_back(standing);
  }
  return all;
}

} // namespace seal_sync::sql_api
