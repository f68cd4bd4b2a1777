// See route_sequences.hpp.
#include "worker/route_sequences.hpp"

#include "apply/settings.hpp"
#include "config/config.hpp"
#include "pg/guc.hpp"
#include "pg/latch.hpp"
#include "pg/scopes.hpp"
#include "scan/peer_text.hpp"
#include "worker/bytes.hpp"

#include <algorithm>

namespace seal_sync::worker {

namespace wire = core::wire;
using wire::SequenceVerdict;

namespace {

constexpr int64 kLookUs = 1000 * 1000;        // between two looks at the carried sequences
constexpr int64 kAgainUs = 30 * 1000 * 1000;  // what the peer has not taken is told again
constexpr int64 kBusyUs = 1000 * 1000;
constexpr int64 kCommitUs = 50 * 1000;       // a commit is over by then
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
      known.seen = access == pg::SequenceAccess::kDone;
      if (known.seen)
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
    known.seen = look(known);
    carried_.push_back(known);
  }
}

/// Where the sequence stands now; what DDL has locked stays as it was.
bool RouteSequences::look(Known &known) {
  pg::SequenceState state;
  const pg::SequenceAccess access = pg::call([&] { return pg::read_sequence(known.rule.sequence, &state); });
  if (access != pg::SequenceAccess::kDone)
    return false;
  known.counting = state.counting;
  known.head_room.note(state.last_value, pg::monotonic_us(), static_cast<int64>(guc::sequence_head_room) * 1000000);
  return true;
}

/// Of those that the peer takes. Inside a transaction. exactly: at its commit DDL has the lock a moment longer than its rows are
/// hidden, which is waited for; whoever keeps it longer keeps others from new numbers, too, and what was looked at last counts.
core::Carry RouteSequences::most_urgent(bool exactly) {
  const int64 until = pg::monotonic_us() + (exactly ? kCommitUs : 0);
  core::Carry most = core::Carry::kNothing;
  for (Known &known : carried_) {
    if (!known.answered || known.answer.verdict != SequenceVerdict::kFine)
      continue;
    while (!look(known) && pg::monotonic_us() < until)
      pg::call([] { (void)pg::wait(2); });
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
  const auto could_be_read = [](const Known &known) { return known.seen; };
  head.splits = all ? static_cast<std::uint64_t>(std::count_if(split_.begin(), split_.end(), could_be_read)) : 0;
  head.carried = static_cast<std::uint64_t>(std::count_if(carried_.begin(), carried_.end(), could_be_read));
  wire::write(*request, head);
  for (const auto &[node, slot] : slots_)
    wire::write(*request, wire::SlotClaim{node, static_cast<std::uint32_t>(slot.slot), static_cast<std::uint8_t>(slot.in_use ? 1 : 0)});
  if (all)
    for (const Known &known : split_)
      if (known.seen)
        wire::write(*request, wire::SplitClaim{NameStr(known.rule.schema), NameStr(known.rule.name), known.actual,
                                               static_cast<std::uint8_t>(known.rule.has_floor ? 1 : 0), known.rule.floor});
  for (const Known &known : carried_)
    if (known.seen)
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
  std::vector<Told> learnt;
  for (std::uint64_t i = 0; i < reply.slots; i++) {
    wire::SlotClaim claim;
    wire::read(reader, claim);
    if (!reader.ok())
      throw unreadable();
    if (claim.slot >= 1 && claim.slot <= static_cast<std::uint32_t>(config::kMaxSlots))
      learnt.push_back({std::string(claim.node), static_cast<int32>(claim.slot), claim.in_use != 0});
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
      if (known.seen)
        take_answer(known);
  for (Known &known : carried_) {
    if (!known.seen)
      continue;
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
    const std::string_view sqlstate(error.sqlstate());
    busy_ = sqlstate == "55P03" || sqlstate == "40P01";
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
  const bool unsaved = unsaved_ && note_at_us_ <= now;
  if (!all && (carried_.empty() || look_at_us_ > now) && !unsaved)
    return;
  if (!all && unsaved) { // from within a batch, or it could not be done then
    note(link);
    return;
  }
  look_at_us_ = now + kLookUs;
  {
    pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
    if (all)
      read_rules();
    const bool idle = !all && most_urgent(false) == core::Carry::kNothing;
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
  if (!carried_.empty() && link.facts().sequences && most_urgent(true) == core::Carry::kFirst)
    try_to_tell(link, false);
}

// ---- what the peer has said ---------------------------------------------------------------------

/// A call of sequence_split() or sequence_remove() in an open transaction must not hold up rows: then it is done later.
void RouteSequences::note(RouteLink &link) {
  try {
    write_down(link);
    unsaved_ = false;
  } catch (const pg::Error &error) {
    if (error.sqlstate() != ERRCODE_LOCK_NOT_AVAILABLE && error.sqlstate() != ERRCODE_T_R_DEADLOCK_DETECTED)
      throw;
    pg::call([&] { FreeErrorData(error.data()); });
    unsaved_ = true;
    all_at_us_ = kNever;
    note_at_us_ = pg::monotonic_us() + kBusyUs;
  }
}

void RouteSequences::write_down(RouteLink &link) {
  int64 again = problem_.empty() ? kNever : busy_ ? kBusyUs : kAgainUs;
  pg::Transaction transaction(pg::Transaction::Snapshot::kActive);
  const scan::Session *session = link.session();
  const std::vector<Told> &learnt = learnt_;
  const bool has_slot = pg::call([&] {
    apply::bound_lock_waits();
    config::refresh();
    auto *slots = static_cast<config::Slot *>(palloc0(sizeof(config::Slot) * (learnt.size() + 1)));
    int count = 0;
    for (const Told &told : learnt) {
      // A name that cannot be said in our encoding is left out.
      const char *name = scan::peer_text(session, told.node);
      if (*name == '\0' || strlen(name) >= NAMEDATALEN || (strchr(name, '?') != nullptr && told.node.find('?') == std::string::npos))
        continue;
      namestrcpy(&slots[count].node, name);
      slots[count].slot = told.slot;
      slots[count++].in_use = told.in_use;
    }
    config::learn_slots(peer_.c_str(), slots, count);
    if (granted_ != 0)
      config::take_slot(granted_);
    return config::own_slot() != 0;
  });
  if (!has_slot && problem_.empty()) // another node has it: ask for the next one
    again = kBusyUs;
  for (std::vector<Known> *list : {&split_, &carried_})
    for (Known &known : *list) {
      if (!known.seen || (known.answered && known.answer.verdict == SequenceVerdict::kBusy))
        again = std::min(again, kBusyUs);
      else if (known.answered && known.answer.verdict != SequenceVerdict::kFine)
        again = std::min(again, kAgainUs);
      if (!known.changed)
        continue;
      Shown text = known.answered ? shown(known.rule, known.answer, peer_) : Shown{"retrying", problem_, "It is tried again by itself."};
      config::SequenceNews news = {};
      news.sequence = known.rule.sequence;
      news.state = text.state;
      news.message = text.message.c_str();
      news.hint = text.hint.c_str();
      if (known.rule.split) {
        // A floor that is noted counts as dealt with.
        news.has_floor = known.answered && known.answer.has_number != 0 && raise_beyond_floor(known);
        news.floor = known.answer.number;
        if (known.answered && known.answer.has_number != 0 && !news.has_floor)
          again = std::min(again, kBusyUs);
      } else {
        news.has_carried = known.there.has_value();
        news.carried = known.there.value_or(0);
      }
      pg::call([&] { config::note_sequence(peer_.c_str(), news); });
    }
  transaction.commit();
  for (std::vector<Known> *list : {&split_, &carried_})
    for (Known &known : *list)
      known.changed = false;
  all_at_us_ = again == kNever ? kNever : pg::monotonic_us() + again;
}

/// Numbers that the peer gave before its rule belong to no slot: ours must not meet them. Its word is taken once for each
/// change of its rule, and only as far as it leaves us half of what we have; beyond, health tells that sequence_split() has to
/// be called. False: the sequence is locked.
bool RouteSequences::raise_beyond_floor(const Known &known) {
  return pg::call([&] {
    int64 noted;
    if (config::noted_floor(known.rule.sequence, peer_.c_str(), &noted) && noted == known.answer.number)
      return true;
    pg::SequenceState state;
    const pg::SequenceAccess access = pg::read_sequence(known.rule.sequence, &state);
    if (access != pg::SequenceAccess::kDone)
      return access == pg::SequenceAccess::kGone;
    const core::Split split = config::actual_split(known.rule, state);
    if (!core::beyond(known.answer.number, state.last_value, split.ascending))
      return true;
    const std::optional<int64> next = core::next_after(split, known.answer.number, state.counting);
    const core::detail::Wide end = split.ascending ? state.counting.max : state.counting.min;
    const core::detail::Wide used = next ? core::detail::Wide(*next) - state.last_value : 0;
    const core::detail::Wide left = end - state.last_value;
    if (!next || (split.ascending ? used > left / 2 : used < left / 2))
      return true;
    return pg::advance_sequence(known.rule.sequence, *next, &state) != pg::SequenceAccess::kBusy;
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
