#pragma once
// The stages that the peer keeps for this route: the batch that takes long, and copies of tables.
//
// Used by worker/route_batch and worker/route_copy. Loaded after each hello from the peer's answer: what commits there with the chunks is
// the truth about them. Invariant: a stage that does not fit what this node has now (another predecessor, tables or
// clusters that have changed, a copy that is not known here) is dropped on the peer before anything is built on it. C++ regime; throws
// core::Error when the peer or the network fails.

#include "core/wire.hpp"
#include "scan/base_map.hpp"
#include "worker/route_link.hpp"

#include <map>
#include <vector>

namespace seal_sync::worker {

struct Stage {
  core::wire::Id id;
  scan::BaseMap *map = nullptr;
  std::uint64_t previous = 0; // what the peer held when it was begun
  core::wire::Id previous_id;
  std::uint64_t chunks = 0, rows = 0, bytes = 0; // on the peer
};

class RouteStages {
public:
  explicit RouteStages(RouteLink &link) : link_(link) {}
  ~RouteStages() { forget(); }
  RouteStages(const RouteStages &) = delete;
  RouteStages &operator=(const RouteStages &) = delete;

  /// Asks the peer, once after each hello. Outside of a transaction.
  void load();
  /// What is known may be further than what the peer has: ask it again.
  void load_again() noexcept { loaded_ = 0; }
  /// The connection is gone; so is what was known.
  void forget() noexcept;

  [[nodiscard]] bool possible() const noexcept { return link_.facts().stages; }
  [[nodiscard]] Stage *backlog() noexcept { return find_backlog(); }
  [[nodiscard]] Stage *copy(const core::wire::Id &id) noexcept;

  /// Drops what does not fit any more. Outside of a transaction, before a batch is opened.
  void check();

  /// For scan::open(). Valid until the next change here.
  [[nodiscard]] scan::Stages view(double inline_bytes);

  /// A new stage, known here only until something is committed to it.
  Stage &begin(core::StageKind kind, Oid relation, std::uint32_t pass);
  /// Commits what was put to the stage in `pass`, with its map as it is now, which may have gone on to the next. Inside a transaction.
  void commit(Stage &stage, std::uint32_t pass, std::uint64_t chunks, std::uint64_t rows, const pg::Deadline &deadline);
  /// It has been applied.
  void done(const core::wire::Id &id) noexcept;
  void drop(const core::wire::Id &id, const pg::Deadline &deadline);

  /// The peer has refused the copy of a table as a whole: it, and what depends on it, goes again after a pause that doubles.
  void hold_back(Oid relation);
  void let_go(Oid relation) noexcept { refused_.erase(relation); }

  /// A table whose last part came to nothing, because DDL was in the way: others go first.
  Oid stale_copy = InvalidOid;
  /// Batches in a row that found a table of the peer changed. Once is no reason to send again what is staged.
  int schema_changes = 0;
  /// How much of a copy takes about half a second on this link, as measured with the part before.
  double part_bytes = 1 << 20;

private:
  [[nodiscard]] Stage *find_backlog() noexcept;
  std::vector<core::wire::Id> of_no_use();
  void erase(const core::wire::Id &id) noexcept;

  RouteLink &link_;
  std::uint64_t loaded_ = 0; // the hello after which it was
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<scan::Stages::Copy> copies_;
  struct Refused {
    std::int64_t until_us = 0;
    std::int64_t pause_us = 0;
  };
  std::map<Oid, Refused> refused_; // outlives connections
  std::vector<Oid> held_back_;
};

} // namespace seal_sync::worker
