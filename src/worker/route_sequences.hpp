#pragma once
// What a route tells its peer of sequences: how split ones are dealt out, and how far those of the clusters that this node
// is primary of have come, with head-room.
//
// Used by route_worker.cpp between batches and by route_batch.cpp within one. Invariants: before rows of a snapshot are
// sent, the peer's carried sequences are at least at every number that the snapshot can show; the peer's are told
// again before half of the head-room is used up, but not more often than once a second; nothing here ends or holds up
// shipping: what the peer or an older version of it does not take is shown and tried again. C++ regime.

#include "config/sequences.hpp"
#include "core/wire_sequences.hpp"
#include "worker/route_link.hpp"

#include <optional>

namespace seal_sync::worker {

class RouteSequences {
public:
  explicit RouteSequences(std::string peer) : peer_(std::move(peer)) {}

  /// After each hello: everything is told anew.
  void hello_said() noexcept { all_at_us_ = 0; }
  /// Between batches. `rules`: pg::rules_count() as last looked at.
  void tell_if_due(RouteLink &link, uint64 rules);
  /// In the transaction of a batch, when its snapshot has been taken and none of its rows has left.
  void tell_first(RouteLink &link);

private:
  struct Known {
    config::SequenceRule rule;
    bool seen = false; // else DDL has locked it since the rules were read, and nothing of it can be told
    // split
    core::Split actual;
    // carried
    std::uint64_t epoch = 0;
    core::Counting counting;
    core::HeadRoom head_room;
    std::optional<std::int64_t> there; // where the peer's stands, as it has said
    // as answered
    bool answered = false;
    core::wire::SequenceAnswer answer;
    bool changed = false; // not noted in sequence_peer yet
  };
  struct Told {
    std::string node; // in the peer's encoding
    int32 slot;
    bool in_use;
  };

  void read_rules();
  bool look(Known &known);
  [[nodiscard]] core::Carry most_urgent(bool exactly);
  void tell(RouteLink &link, bool all);
  void try_to_tell(RouteLink &link, bool all);
  void note(RouteLink &link);
  void write_down(RouteLink &link);
  void note_unsupported();
  [[nodiscard]] bool raise_beyond_floor(const Known &known);

  const std::string peer_;
  std::vector<Known> split_, carried_;
  std::vector<std::pair<std::string, config::Slot>> slots_; // as this node knows them
  std::vector<Told> learnt_;                                // from the last answer
  int granted_ = 0;
  std::string problem_; // why the last attempt failed
  bool busy_ = false;   // because something was locked there
  uint64 rules_seen_ = 0;
  int64 all_at_us_ = 0; // when everything is to be told again
  int64 look_at_us_ = 0;
  int64 note_at_us_ = 0; // not earlier, when something was locked here
  bool unsaved_ = false;
  bool logged_ = false;
};

} // namespace seal_sync::worker
