// wire_sequences: a peer tells which numbers are its own and how far its clusters' sequences have come.
//
// Called by worker/route_sequences.cpp of the peer. Invariants: only a sequence that is registered here for a cluster
// whose primary is the speaker, in the same epoch, is moved; it is only moved forward, never back, whatever the speaker
// says; nothing waits for a lock of others. No code of a user's is involved, so that there is nobody to become.

#include "apply/apply_session.hpp"
#include "apply/reply.hpp"
#include "apply/settings.hpp"
#include "apply/stream.hpp"
#include "config/config.hpp"
#include "config/sequences.hpp"
#include "core/wire_sequences.hpp"
#include "pg/boundary.hpp"

namespace seal_sync::apply {
namespace {

using core::wire::CarriedClaim;
using core::wire::SequenceAnswer;
using core::wire::SequenceVerdict;
using core::wire::SplitClaim;

SequenceAnswer with_number(SequenceVerdict verdict, int64 number) { return {verdict, 1, number}; }

struct Rules {
  config::SequenceRule *all;
  int count;
  int encoding; // of the speaker
};

const config::SequenceRule *find(const Rules &rules, std::string_view schema, std::string_view name) {
  NameData schema_name, sequence_name;
  name_from_wire(schema, rules.encoding, &schema_name);
  name_from_wire(name, rules.encoding, &sequence_name);
  return config::find_sequence(rules.all, rules.count, NameStr(schema_name), NameStr(sequence_name));
}

/// Whether the speaker has told of a slot of its own.
bool learn(core::Reader *in, const Session *session, uint64 count) {
  if (count > static_cast<uint64>(config::kMaxSlots))
    damaged_message("sequences");
  bool own = false;
  auto *slots = static_cast<config::Slot *>(palloc0(sizeof(config::Slot) * (count + 1)));
  for (uint64 i = 0; i < count; ++i) {
    core::wire::SlotClaim claim;
    read(*in, claim);
    if (!in->ok() || claim.slot < 1 || claim.slot > static_cast<uint32>(config::kMaxSlots))
      damaged_message("sequences");
    name_from_wire(claim.node, session->encoding, &slots[i].node);
    slots[i].slot = static_cast<int32>(claim.slot);
    slots[i].in_use = claim.in_use != 0;
    own = own || strcmp(NameStr(slots[i].node), NameStr(session->origin)) == 0;
  }
  config::learn_slots(NameStr(session->origin), slots, static_cast<int>(count));
  return own;
}

SequenceAnswer judge(const Rules &rules, const SplitClaim &claim) {
  const config::SequenceRule *rule = find(rules, claim.schema, claim.name);
  pg::SequenceState state;
  if (rule == nullptr)
    return {SequenceVerdict::kUnknown};
  if (!rule->split)
    return {SequenceVerdict::kOtherRule};
  switch (pg::read_sequence(rule->sequence, &state)) {
  case pg::SequenceAccess::kGone:
    return {SequenceVerdict::kUnknown};
  case pg::SequenceAccess::kBusy:
    return {SequenceVerdict::kBusy};
  case pg::SequenceAccess::kDone:
    break;
  }
  SequenceAnswer answer;
  switch (core::compare(config::actual_split(*rule, state), claim.split)) {
  case core::SplitFit::kApart:
    break;
  case core::SplitFit::kSame:
    answer.verdict = SequenceVerdict::kSameNumbers;
    break;
  case core::SplitFit::kDiffers:
    answer.verdict = SequenceVerdict::kDiffers;
    break;
  }
  answer.has_number = rule->has_floor ? 1 : 0;
  answer.number = rule->floor;
  return answer;
}

SequenceAnswer carry(const Session *session, const Rules &rules, const CarriedClaim &claim) {
  const config::SequenceRule *rule = find(rules, claim.schema, claim.name);
  NameData name;
  name_from_wire(claim.cluster, rules.encoding, &name);
  if (rule == nullptr)
    return {SequenceVerdict::kUnknown};
  if (rule->split)
    return {SequenceVerdict::kOtherRule};
  if (strcmp(NameStr(rule->cluster), NameStr(name)) != 0)
    return {SequenceVerdict::kOtherCluster};
  const config::Cluster *cluster = config::find_cluster(NameStr(name));
  if (cluster == nullptr || strcmp(NameStr(cluster->primary_node), NameStr(session->origin)) != 0 ||
      static_cast<uint64>(cluster->epoch) != claim.epoch)
    return {SequenceVerdict::kNotPrimary};
  pg::SequenceState before, after;
  pg::SequenceAccess access = pg::read_sequence(rule->sequence, &before);
  if (access == pg::SequenceAccess::kDone) {
    if (before.counting.ascending() != (claim.ascending != 0))
      return {SequenceVerdict::kDirection};
    if (claim.target < before.counting.min || claim.target > before.counting.max)
      return with_number(SequenceVerdict::kRange, before.last_value);
    access = pg::advance_sequence(rule->sequence, claim.target, &after);
  }
  if (access != pg::SequenceAccess::kDone)
    return {access == pg::SequenceAccess::kGone ? SequenceVerdict::kUnknown : SequenceVerdict::kBusy};
  if (after.last_value != before.last_value || after.is_called != before.is_called) {
    config::SequenceNews news = {};
    news.sequence = rule->sequence;
    news.state = "standby";
    news.has_carried = true;
    news.carried = claim.target;
    config::note_sequence(NameStr(session->origin), news);
  }
  return with_number(SequenceVerdict::kFine, after.last_value);
}

} // namespace
} // namespace seal_sync::apply

/// wire_sequences(bytea) -> bytea
SEAL_SYNC_PG_FUNCTION(seal_sync_wire_sequences) {
  using namespace seal_sync;
  using namespace seal_sync::apply;
  Session *const session = current_session();
  refuse_while_streaming();
  core::Reader in(bytes_of(PG_GETARG_BYTEA_PP(0)));
  core::wire::SequencesRequest request;
  read(in, request);
  const uint64 most = in.remaining(); // each record has a byte at least
  if (!in.ok() || request.slots > most || request.splits > most || request.carried > most)
    damaged_message("sequences");
  require_durable_commit(); // what is answered must not be lost in a crash
  bound_lock_waits();
  config::refresh();
  check_generation(session, request.generation);

  const bool has_slot = learn(&in, session, request.slots);
  core::wire::SequencesReply head;
  head.granted = static_cast<uint32>(config::settle_slots(NameStr(session->origin), has_slot));
  int count = 0;
  const config::Slot *slots = config::known_slots(&count);
  head.slots = static_cast<uint64>(count);
  core::Buffer reply = begin_reply();
  write(reply, head);
  for (int i = 0; i < count; ++i)
    write(reply, core::wire::SlotClaim{view_of(NameStr(slots[i].node)), static_cast<uint32>(slots[i].slot),
                                       static_cast<uint8>(slots[i].in_use ? 1 : 0)});

  Rules rules = {nullptr, 0, session->encoding};
  rules.all = config::sequence_rules(&rules.count);
  for (uint64 i = 0; i < request.splits; ++i) {
    SplitClaim claim;
    read(in, claim);
    if (!in.ok() || claim.split.step <= 0 || claim.split.block <= 0 || claim.split.residue < 0)
      damaged_message("sequences");
    write(reply, judge(rules, claim));
  }
  for (uint64 i = 0; i < request.carried; ++i) {
    CarriedClaim claim;
    read(in, claim);
    if (!in.ok())
      damaged_message("sequences");
    write(reply, carry(session, rules, claim));
    CHECK_FOR_INTERRUPTS();
  }
  if (!in.at_end())
    damaged_message("sequences");
  PG_RETURN_DATUM(finish_reply(reply));
}
