// See route_sequences.hpp.
#include "worker/route_sequences.hpp"

#include "config/config.hpp"
#include "pg/guc.hpp"
#include "pg/scopes.hpp"
#include "worker/bytes.hpp"

#include <algorithm>

namespace seal_sync::worker {

namespace wire = core::wire;
using wire::SequenceVerdict;

namespace {

constexpr int64 kLookUs = 1000 * 1000;        // between two looks at the carried sequences
constexpr int64 kAgainUs = 30 * 1000 * 1000;  // what the peer has not taken is told again
constexpr int64 kBusyUs = 1000 * 1000;
constexpr int64 kNever = PG_INT64_MAX;

std::string display_name(const config::SequenceRule &rule) {
  return std::string(NameStr(rule.schema)) + "." + NameStr(rule.name);
}

/// As an argument of one of our calls.
std::string argument_of(const config::SequenceRule &rule) {
  const char *text = pg::call([&] {
    return quote_literal_cstr(quote_qualified_identifier(NameStr(rule.schema), NameStr(rule.name)));
  });
  return text;
}

struct Shown {
  const char *state;
  std::string message, hint;
};

/// What the view shows of an answer.
Shown shown(const config::SequenceRule &rule, const wire::SequenceAnswer &answer, const std::string &peer) {
  const std::string on_peer = "On node \"" + peer + "\": SELECT seal_sync.";
  const std::string name = argument_of(rule);
  switch (answer.verdict) {
  case SequenceVerdict::kFine:
    return {rule.split ? "agreed" : "carried", "", ""};
  case SequenceVerdict::kUnknown:
    if (rule.split)
      return {"waiting_peer", "sequence \"" + display_name(rule) + "\" is not split on node \"" + peer + "\"",
              on_peer + "sequence_split(" + name + ", slots => " + std::to_string(rule.slots) + ")."};
    return {"waiting_peer", "sequence \"" + display_name(rule) + "\" is not registered on node \"" + peer + "\"",
            on_peer + "sequence_add(" + name + ", cluster => '" + NameStr(rule.cluster) + "')."};
  case SequenceVerdict::kOtherRule:
    return {"refused", "sequence \"" + display_name(rule) + "\" is " + (rule.split ? "carried" : "split") + " on node \"" + peer +
                           "\", and " + (rule.split ? "split" : "carried") + " here",
            "Take one of the two back with seal_sync.sequence_remove(" + name + ")."};
  case SequenceVerdict::kOtherCluster:
    return {"refused", "sequence \"" + display_name(rule) + "\" belongs to another cluster on node \"" + peer + "\"",
            on_peer + "sequence_remove(" + name + "), then sequence_add with cluster \"" + NameStr(rule.cluster) + "\"."};
  case SequenceVerdict::kNotPrimary:
    return {"refused", "node \"" + peer + "\" does not know this node as the primary of cluster \"" + NameStr(rule.cluster) + "\"",
            "See seal_sync.clusters on both nodes."};
  case SequenceVerdict::kBusy:
    return {"waiting_peer", "sequence \"" + display_name(rule) + "\" is locked on node \"" + peer + "\"", "It is tried again by itself."};
  case SequenceVerdict::kDirection:
    return {"refused", "sequence \"" + display_name(rule) + "\" counts the other way on node \"" + peer + "\"",
            "Give it an INCREMENT of the same sign on both nodes."};
  case SequenceVerdict::kRange:
    return {"refused", "sequence \"" + display_name(rule) + "\" has other bounds on node \"" + peer + "\"",
            "ALTER SEQUENCE … MINVALUE … MAXVALUE … as it is here."};
  case SequenceVerdict::kSameNumbers:
    return {"collides", "sequence \"" + display_name(rule) + "\" takes the same numbers on node \"" + peer + "\"",
            "Give one of the two nodes another slot: SELECT seal_sync.sequence_split(" + name + ", slots => " +
                std::to_string(rule.slots) + ", slot => …)."};
  case SequenceVerdict::kDiffers:
    return {"collides", "sequence \"" + display_name(rule) + "\" is split in another way on node \"" + peer + "\"",
            "SELECT seal_sync.sequence_split(" + name + ", slots => …) with the same slots on both nodes, INCREMENT and START "
            "having been the same."};
  }
  return {"refused", "node \"" + peer + "\" gives an answer that is not known here", "Install the same version on both nodes."};
}

} // namespace

// ---- what is to be told -------------------------------------------------------------------------

/// Inside a transaction.
void RouteSequences::read_rules() {
  struct Found {
    const config::SequenceRule *rules;
    const config::Slot *slots;
    int rule_count, slot_count;
  };
  const Found found = pg::call([] {
    config::refresh();
    Found out = {};
    out.rules = config::sequence_rules(&out.rule_count);
    out.slots = config::known_slots(&out.slot_count);
    return out;
  });
  slots_.clear();
  for (int i = 0; i < found.slot_count; i++)
    slots_.emplace_back(NameStr(found.slots[i].node), found.slots[i]);
  std::vector<Known> before;
  before.swap(carried_);
  split_.clear();
  for (int i = 0; i < found.rule_count; i++) {
    Known known;
    known.rule = found.rules[i];
    if (known.rule.split) {
      pg::SequenceState state;
      const pg::SequenceAccess access = pg::call([&] { return pg::read_sequence(known.rule.sequence, &state); });
      if (access == pg::SequenceAccess::kDone)
        known.actual = config::actual_split(known.rule, state);
      split_.push_back(known);
      continue;
    }
    const char *peer = peer_.c_str();
    const config::Cluster *cluster = pg::call([&] {
      const config::Cluster *of = config::find_cluster(NameStr(known.rule.cluster));
      return of != nullptr && config::routed_to(of, peer) ? of : nullptr;
    });
    if (cluster == nullptr)
      continue;
    known.epoch = static_cast<uint64>(cluster->epoch);
    for (const Known &old : before) // how fast it is used is not forgotten
      if (old.rule.sequence == known.rule.sequence) {
        known.head_room = old.head_room;
        known.there = old.there;
      }
    look(known);
    carried_.push_back(known);
  }
}

/// Where the sequence stands now; what DDL has locked stays as it was.
void RouteSequences::look(Known &known) {
  pg::SequenceState state;
  const pg::SequenceAccess access = pg::call([&] { return pg::read_sequence(known.rule.sequence, &state); });
  if (access != pg::SequenceAccess::kDone)
    return;
  known.counting = state.counting;
  known.head_room.note(state.last_value, pg::monotonic_us(), static_cast<int64>(guc::sequence_head_room) * 1000000);
}

/// Of those that the peer takes. Inside a transaction.
core::Carry RouteSequences::most_urgent() {
  core::Carry most = core::Carry::kNothing;
  for (Known &known : carried_) {
    if (!known.answered || known.answer.verdict != SequenceVerdict::kFine)
      continue;
    look(known);
    most = std::max(most, core::carry_of(known.head_room.last(), known.head_room.target(known.counting, known.rule.head_room),
                                         known.there, known.counting.ascending()));
  }
  return most;
}

// ---- telling ------------------------------------------------------------------------------------

void RouteSequences::tell(RouteLink &link, bool all) {
  ByteBuffer request;
  wire::SequencesRequest head;
  head.generation = link.generation();
  head.slots = slots_.size();
  const auto told = std::count_if(split_.begin(), split_.end(), [](const Known &known) { return known.actual.has_value(); });
  head.splits = all ? static_cast<std::uint64_t>(told) : 0;
  head.carried = carried_.size();
  wire::write(*request, head);
  for (const auto &[node, slot] : slots_)
    wire::write(*request, wire::SlotClaim{node, static_cast<std::uint32_t>(slot.slot), static_cast<std::uint8_t>(slot.in_use ? 1 : 0)});
  if (all)
    for (const Known &known : split_)
      if (known.actual)
        wire::write(*request, wire::SplitClaim{NameStr(known.rule.schema), NameStr(known.rule.name), *known.actual,
                                               static_cast<std::uint8_t>(known.rule.has_floor ? 1 : 0), known.rule.floor});
  for (const Known &known : carried_)
    wire::write(*request, wire::CarriedClaim{NameStr(known.rule.schema), NameStr(known.rule.name), NameStr(known.rule.cluster),
                                             known.epoch, static_cast<std::uint8_t>(known.counting.ascending() ? 1 : 0),
                                             known.head_room.target(known.counting, known.rule.head_room)});

  const remote::Bytes bytes =
      link.connection().call("wire_sequences", request->span(), pg::Deadline::in_ms(guc::reply_timeout));
  core::Reader reader(bytes);
  wire::SequencesReply reply;
  wire::read(reader, reply);
  const auto unreadable = [] { return core::Error("08P01", "the peer's answer about sequences cannot be read"); };
  if (!reader.ok() || reply.slots > static_cast<std::uint64_t>(config::kMaxSlots) * 2)
    throw unreadable();
  std::vector<config::Slot> learnt;
  for (std::uint64_t i = 0; i < reply.slots; i++) {
    wire::SlotClaim claim;
    wire::read(reader, claim);
    if (!reader.ok())
      throw unreadable();
    const std::string name(claim.node);
    // Names come in the peer's encoding; one that cannot be told here is left out.
    const bool plain = std::all_of(name.begin(), name.end(), [](char c) { return c > 0 && c < 127; });
    if (name.empty() || name.size() >= NAMEDATALEN || claim.slot < 1 || claim.slot > static_cast<std::uint32_t>(config::kMaxSlots) ||
        (!plain && link.session()->server_encoding_same == 0))
      continue;
    config::Slot slot = {};
    namestrcpy(&slot.node, name.c_str());
    slot.slot = static_cast<int32>(claim.slot);
    slot.in_use = claim.in_use != 0;
    learnt.push_back(slot);
  }
  const auto take_answer = [&](Known &known) {
    wire::SequenceAnswer answer;
    wire::read(reader, answer);
    if (!reader.ok())
      throw unreadable();
    known.changed = known.changed || !known.answered || known.answer.verdict != answer.verdict || answer.has_number != known.answer.has_number ||
                    answer.number != known.answer.number;
    known.answered = true;
    known.answer = answer;
  };
  if (all)
    for (Known &known : split_)
      if (known.actual)
        take_answer(known);
  for (Known &known : carried_) {
    take_answer(known);
    if (known.answer.has_number != 0)
      known.there = known.answer.number;
  }
  learnt_ = std::move(learnt);
  granted_ = static_cast<int>(reply.granted);
  problem_.clear();
  unsaved_ = true;
}

/// What the peer says to it must not keep rows from being shipped.
void RouteSequences::try_to_tell(RouteLink &link, bool all) {
  try {
    tell(link, all);
    logged_ = false;
  } catch (const core::Error &error) {
    if (!link.connection().alive() || std::string_view(error.sqlstate()).starts_with("08") ||
        std::string_view(error.sqlstate()) == wire::kContradiction || std::string_view(error.sqlstate()) == wire::kNotPeer)
      throw;
    problem_ = error.message();
    for (std::vector<Known> *list : {&split_, &carried_})
      for (Known &known : *list) {
        known.changed = true;
        known.answered = false;
      }
    unsaved_ = true;
    if (!logged_)
      pg::call([&] {
        ereport(LOG, errmsg("seal_sync route \"%s\": could not tell of sequences: %s", peer_.c_str(), problem_.c_str()));
      });
    logged_ = true;
  }
}

void RouteSequences::tell_if_due(RouteLink &link, uint64 rules) {
  const int64 now = pg::monotonic_us();
  const bool all = all_at_us_ <= now || rules != rules_seen_;
  if (!all && (carried_.empty() || look_at_us_ > now) && !unsaved_)
    return;
  if (!all && unsaved_) { // from within a batch
    note(link);
    return;
  }
  look_at_us_ = now + kLookUs;
  {
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    if (all)
      read_rules();
    const bool idle = !all && most_urgent() == core::Carry::kNothing;
    transaction.commit();
    if (idle)
      return;
  }
  rules_seen_ = rules;
  if (!link.facts().sequences) {
    all_at_us_ = kNever;
    note_unsupported();
    carried_.clear();
    return;
  }
  try_to_tell(link, all);
  note(link);
}

void RouteSequences::tell_first(RouteLink &link) {
  if (!carried_.empty() && link.facts().sequences && most_urgent() == core::Carry::kFirst)
    try_to_tell(link, false);
}

// ---- what the peer has said ---------------------------------------------------------------------

void RouteSequences::note(const RouteLink &link) {
  unsaved_ = false;
  int64 again = kNever;
  if (!problem_.empty())
    again = kAgainUs;
  pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
  const bool has_slot = pg::call([&] {
    config::refresh();
    config::learn_slots(peer_.c_str(), learnt_.data(), static_cast<int>(learnt_.size()));
    if (granted_ != 0)
      config::take_slot(granted_);
    return config::own_slot() != 0;
  });
  if (!has_slot && problem_.empty()) // another node has it: ask for the next one
    again = kBusyUs;
  for (std::vector<Known> *list : {&split_, &carried_})
    for (Known &known : *list) {
      if (known.answered && known.answer.verdict == SequenceVerdict::kBusy)
        again = std::min(again, kBusyUs);
      else if (known.answered && known.answer.verdict != SequenceVerdict::kFine)
        again = std::min(again, kAgainUs);
      if (!known.changed)
        continue;
      known.changed = false;
      Shown text = known.answered ? shown(known.rule, known.answer, peer_) : Shown{"retrying", problem_, "It is tried again by itself."};
      if (known.rule.split && known.answered)
        raise_beyond_floor(known);
      config::SequenceNews news = {};
      news.sequence = known.rule.sequence;
      news.state = text.state;
      news.message = text.message.c_str();
      news.hint = text.hint.c_str();
      if (known.rule.split) {
        news.has_floor = known.answered && known.answer.has_number != 0;
        news.floor = known.answer.number;
      } else {
        news.has_carried = known.there.has_value();
        news.carried = known.there.value_or(0);
      }
      pg::call([&] { config::note_sequence(peer_.c_str(), news); });
    }
  transaction.commit();
  all_at_us_ = again == kNever ? kNever : pg::monotonic_us() + again;
}

/// Numbers that the peer gave before it split belong to no slot: ours must not meet them. Its word is taken once, and only
/// as far as it leaves us half of what we have; beyond, health says what is to be done.
void RouteSequences::raise_beyond_floor(const Known &known) {
  if (known.answer.has_number == 0 || !known.actual)
    return;
  pg::call([&] {
    int64 noted;
    pg::SequenceState state;
    if (config::noted_floor(known.rule.sequence, peer_.c_str(), &noted) ||
        pg::read_sequence(known.rule.sequence, &state) != pg::SequenceAccess::kDone)
      return;
    const core::Split split = config::actual_split(known.rule, state);
    if (!core::beyond(known.answer.number, state.last_value, split.ascending))
      return;
    const std::optional<int64> next = core::next_after(split, known.answer.number, state.counting);
    const core::detail::Wide end = split.ascending ? state.counting.max : state.counting.min;
    const core::detail::Wide used = next ? core::detail::Wide(*next) - state.last_value : 0;
    const core::detail::Wide left = end - state.last_value;
    if (next && (split.ascending ? used <= left / 2 : used >= left / 2))
      (void)pg::advance_sequence(known.rule.sequence, *next, &state);
  });
}

void RouteSequences::note_unsupported() {
  pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
  const std::string message = "node \"" + peer_ + "\" runs an older version, which does not know of sequences";
  for (std::vector<Known> *list : {&split_, &carried_})
    for (const Known &known : *list) {
      config::SequenceNews news = {};
      news.sequence = known.rule.sequence;
      news.state = "unsupported";
      news.message = message.c_str();
      news.hint = "Install the newer version there.";
      pg::call([&] { config::note_sequence(peer_.c_str(), news); });
    }
  transaction.commit();
}

} // namespace seal_sync::worker
