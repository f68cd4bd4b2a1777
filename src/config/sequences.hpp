#pragma once
// Which sequences are looked after and how, and which node has which slot: the tables sequence_rule,
// sequence_slot and sequence_peer.
//
// Used by sql_api/sequence.cpp, apply/sequences.cpp and worker/route_sequences.cpp, rarely: at calls, after a
// hello, and when a standby's sequence has to move. Invariant: two nodes that have heard of each other, directly
// or through a third one, are not given the same slot (decision 0005). PostgreSQL regime; inside a transaction, as the
// extension's owner. Results are palloc'd.

#include "core/sequence.hpp"
#include "pg/sequence.hpp"

#include <optional>

namespace seal_sync::config {

struct SequenceRule {
  Oid sequence;
  NameData schema, name;
  bool split; // else carried
  // carried
  NameData cluster;
  int64 head_room; // calls of nextval
  // split
  int32 slots;
  int64 former_increment, former_start;
  bool has_bound; // where a cycling sequence began again
  int64 former_bound;
  bool has_floor;
  int64 floor;
};

/// Every rule whose sequence exists, by name.
SequenceRule *sequence_rules(int *count);
/// The rule of one of them, among these.
const SequenceRule *find_sequence(const SequenceRule *rules, int count, const char *schema, const char *name);

/// How a split sequence counted before, with its bounds as of now.
core::Counting former_counting(const SequenceRule &rule, const core::Counting &now);
/// The split that the rule asks for in this slot. Nothing: it cannot be.
std::optional<core::Split> wanted_split(const SequenceRule &rule, int slot);
/// The numbers that the sequence really takes.
core::Split actual_split(const SequenceRule &rule, const pg::SequenceState &state);

struct Slot {
  NameData node;
  int32 slot;
  bool in_use;
};
inline constexpr int kMaxSlots = 1000;

/// All that are known, this node's included.
Slot *known_slots(int *count);
/// This node's; 0: it has none.
int own_slot();
/// What `speaker` has told. Its word about itself counts more than others'. If this node finds its own slot taken and
/// has not used it yet, it gives it up. Waits for a sequence_split() under way, unless nothing is new.
void learn_slots(const char *speaker, const Slot *slots, int count);
/// Gives this node and `speaker` slots as far as they have none; returns the speaker's, 0: none is left. has_one: it has
/// told of its own.
int settle_slots(const char *speaker, bool has_one);
/// This node has been given a slot; nothing is done when it has one.
void take_slot(int slot);

/// What is known of a sequence at a peer. carried: 0 and has_carried false: leave as it is.
struct SequenceNews {
  Oid sequence;
  const char *state;
  const char *message; // or nullptr
  const char *hint;    // or nullptr
  bool has_carried;
  int64 carried;
  bool has_floor;
  int64 floor;
};
void note_sequence(const char *peer, const SequenceNews &news);
/// The peer's floor as noted before; false: none.
bool noted_floor(Oid sequence, const char *peer, int64 *floor);

} // namespace seal_sync::config
