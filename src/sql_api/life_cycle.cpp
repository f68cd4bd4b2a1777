// node_attach and node_adopt: who a data directory is that comes back, was copied, or was restored.
//
// Both ask the peers first, over short connections that change nothing there, and only then write. Invariants: of several
// copies of a node at most one goes on under its name (in the end by the generation that each peer issues and that can be
// used once, trap T4); the numbers of the peers, not somebody's word, prove that nothing newer than this data directory was
// ever shipped; nothing is deleted from any table of the user.
#include "config/condition.hpp"
#include "config/config.hpp"
#include "sql_api/condition.hpp"
#include "sql_api/events.hpp"
#include "sql_api/node.hpp"
#include "sql_api/peer_standing.hpp"

namespace seal_sync::sql_api {

namespace {

constexpr char kNewHint[] = "Nothing was changed. SELECT seal_sync.node_adopt('new', node => '…') makes it a node of its own, "
                            "which takes its rows from its peers.";

/// Positions name transactions. Where their numbers have started again, all of them would be lies.
void refuse_other_transactions(const std::string &node, const char *what) {
  const Rows rows = query(
      "SELECT m.xmax FROM (SELECT pg_catalog.max(pg_catalog.pg_snapshot_xmax(h.snapshot)) AS xmax FROM "
      " (SELECT a.snapshot FROM seal_sync.route_history_0 a UNION ALL SELECT b.snapshot FROM seal_sync.route_history_1 b) h) m "
      "WHERE m.xmax > pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())");
  if (!rows.empty())
    throw core::Error("SS203", "node \"" + node + "\" cannot be " + what + ": its transaction numbers have started again",
                      "It has shipped what transactions before " + rows.text(0, 0) +
                          " did, and this server has not come so far: it was not brought here by pg_upgrade or as a copy of the files.",
                      kNewHint);
}

/// Why this data directory is not the node any more, for this peer; empty: it may be.
std::string doubt(const Standing &standing) {
  if (!standing.contradiction.empty())
    return standing.contradiction;
  if (standing.connected)
    return "peer \"" + standing.peer + "\" has a connection of it";
  if (!standing.knows_batch)
    return "peer \"" + standing.peer + "\" has applied what this data directory has not sent";
  if (!standing.resends)
    return "peer \"" + standing.peer + "\" has sent what this data directory has not applied, and cannot send it again";
  return {};
}

std::string detail_of(const Standing &standing) {
  return standing.connected ? standing.numbers + " The connection belongs to another copy, or has not ended yet." : standing.numbers;
}

[[noreturn]] void cannot(const std::string &node, const char *what, const Standing &standing, const std::string &why) {
  throw core::Error("SS203", "node \"" + node + "\" cannot be " + what + ": " + why, detail_of(standing), kNewHint);
}

void lock_node() { query("LOCK TABLE seal_sync.local_node IN SHARE ROW EXCLUSIVE MODE"); }

void adopt_same(const std::string &node) {
  refuse_other_transactions(node, "adopted as the same");
  const std::vector<Standing> all = standings();
  for (const Standing &standing : all) {
    if (!standing.answered)
      throw core::Error("SS203", "node \"" + node + "\" cannot be adopted as the same: peer \"" + standing.peer + "\" does not answer",
                        standing.why_not + ".", "Its numbers have to prove that nothing newer was shipped. Repeat the call when it answers, "
                        "or make this a node of its own: SELECT seal_sync.node_adopt('new', node => '…').");
    if (const std::string why = doubt(standing); !why.empty())
      cannot(node, "adopted as the same", standing, why);
  }
  lock_node();
  for (const Standing &standing : all) {
    // The newest generation is what its next speaker has to present; whoever has the one before is the copy from now on.
    query("UPDATE seal_sync.peer_state SET generation = greatest(generation, $2), halted_since = NULL, halt_message = NULL "
          "WHERE peer = $1",
          {arg(standing.peer), int_arg(standing.issued)});
  }
  stay_here();
  find_catalog_numbers();
}

void adopt_new(const std::optional<std::string> &old, const std::string &node) {
  check_new_name("node", node);
  if (old && *old == node)
    throw core::Error("22023", "a new node cannot be called \"" + node + "\" again",
                      "Its peers know that name with the positions of the node it was copied from.", "Give it another name.");
  lock_node();
  if (old)
    forget_identity();
  create_node(node);
}

} // namespace

SEAL_SYNC_FUNCTION(seal_sync_is_copy) {
  PG_RETURN_BOOL(pg::call([] {
    config::refresh();
    return config::copied();
  }));
}

SEAL_SYNC_FUNCTION(seal_sync_node_attach) {
  const std::string node = require_node();
  if (detached() == nullptr)
    throw core::Error("55000", "node \"" + node + "\" is not detached", {},
                      is_copy() ? "It is a copy: decide with seal_sync.node_adopt what it is to be." : "");
  const AsOwner owner;
  const Spi spi;
  refuse_other_transactions(node, "attached");
  for (const Standing &standing : standings()) {
    if (!standing.answered) {
      notice("peer \"" + standing.peer + "\" could not be asked whether another copy of node \"" + node + "\" has been attached",
             standing.why_not + ".", "If so, shipping to it halts when it is there.");
      continue;
    }
    if (!standing.welcome)
      cannot(node, "attached", standing, "another copy of it has been attached since");
    if (const std::string why = doubt(standing); !why.empty())
      cannot(node, "attached", standing, why);
  }
  lock_node();
  stay_here();
  find_catalog_numbers();
  record_event("node_attach", "node", {}, {{"node", node}});
  rules_changed();
  PG_RETURN_VOID();
}

SEAL_SYNC_FUNCTION(seal_sync_node_adopt) {
  const std::string mode = required_text(fcinfo, 0, "mode");
  const std::optional<std::string> name = optional_name(fcinfo, 1);
  if (mode != "same" && mode != "new")
    throw core::Error("22023", "mode cannot be \"" + mode + "\"", {},
                      "\"same\" takes the place of the node this was copied from, \"new\" makes it a node of its own.");
  if (mode == "same" && name)
    throw core::Error("22023", "the same node keeps its name", {}, "Leave argument \"node\" out.");
  if (mode == "new" && !name)
    throw core::Error("22004", "argument \"node\" must not be null", "A new node needs a name of its own.");

  const char *const have = pg::call([] {
    config::refresh();
    return config::local_node();
  });
  const std::optional<std::string> old = have != nullptr ? std::optional<std::string>(have) : std::nullopt;
  if (mode == "same" && !old)
    throw core::Error("55000", "this database is not a node yet", "A dump carries rules, but no identity and no positions.",
                      "SELECT seal_sync.node_adopt('new', node => '…').");
  if (mode == "same" && detached() != nullptr)
    throw core::Error("55000", "node \"" + *old + "\" is detached", detached(), "SELECT seal_sync.node_attach() brings it back.");

  const AsOwner owner;
  const Spi spi;
  if (mode == "same")
    adopt_same(*old);
  else
    adopt_new(old, *name);
  record_event("node_adopt", "node", {}, {{"mode", mode}, {"node", name ? *name : *old}, {"copied_from", old}});
  rules_changed();
  PG_RETURN_VOID();
}

} // namespace seal_sync::sql_api
