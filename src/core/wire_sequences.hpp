#pragma once
// The wire format of seal_sync.wire_sequences: what two nodes tell each other of their sequences.
//
// Sent by worker/route_sequences.cpp after each hello and when a carried sequence has to move, answered by
// apply/sequences.cpp; only to a peer whose answer to a hello has kFeatureSequences. Names travel.
//
//   wire_sequences(SequencesRequest) -> SequencesReply, outside of a batch's transaction
//
// A slot is a node's share of every split sequence. Each node tells all slots that it knows of, the speaker's own
// among them if it has one; a speaker without one is given one in the reply.

#include "core/sequence.hpp"
#include "core/wire.hpp"

namespace seal_sync::core::wire {

struct SlotClaim {
  std::string_view node;
  std::uint32_t slot = 0;
  std::uint8_t in_use = 0; // some sequence is split by it
};
inline void write(Buffer &out, const SlotClaim &c) {
  out.text(c.node);
  out.u32(c.slot);
  out.u8(c.in_use);
}
inline void read(Reader &in, SlotClaim &c) {
  c.node = in.text();
  c.slot = in.u32();
  c.in_use = in.u8();
}

/// floor: how far numbers went when the sequence was split; up to there they belong to no slot.
struct SplitClaim {
  std::string_view schema;
  std::string_view name;
  Split split;
  std::uint8_t has_floor = 0;
  std::int64_t floor = 0;
};
inline void write(Buffer &out, const SplitClaim &c) {
  out.text(c.schema);
  out.text(c.name);
  out.i64(c.split.step);
  out.i64(c.split.residue);
  out.i64(c.split.block);
  out.u8(c.split.ascending ? 1 : 0);
  out.u8(c.has_floor);
  out.i64(c.floor);
}
inline void read(Reader &in, SplitClaim &c) {
  c.schema = in.text();
  c.name = in.text();
  c.split.step = in.i64();
  c.split.residue = in.i64();
  c.split.block = in.i64();
  c.split.ascending = in.u8() != 0;
  c.has_floor = in.u8();
  c.floor = in.i64();
}

/// A sequence of a cluster that the speaker is primary of: the receiver's is to be at least at `target`.
struct CarriedClaim {
  std::string_view schema;
  std::string_view name;
  std::string_view cluster;
  std::uint64_t epoch = 0;
  std::uint8_t ascending = 1;
  std::int64_t target = 0;
};
inline void write(Buffer &out, const CarriedClaim &c) {
  out.text(c.schema);
  out.text(c.name);
  out.text(c.cluster);
  out.u64(c.epoch);
  out.u8(c.ascending);
  out.i64(c.target);
}
inline void read(Reader &in, CarriedClaim &c) {
  c.schema = in.text();
  c.name = in.text();
  c.cluster = in.text();
  c.epoch = in.u64();
  c.ascending = in.u8();
  c.target = in.i64();
}

/// Records follow: all slots, then all splits, then all carried ones.
struct SequencesRequest {
  std::uint64_t generation = 0;
  std::uint64_t slots = 0;
  std::uint64_t splits = 0;
  std::uint64_t carried = 0;
};
inline void write(Buffer &out, const SequencesRequest &r) {
  out.u64(r.generation);
  out.varint(r.slots);
  out.varint(r.splits);
  out.varint(r.carried);
}
inline void read(Reader &in, SequencesRequest &r) {
  r.generation = in.u64();
  r.slots = in.varint();
  r.splits = in.varint();
  r.carried = in.varint();
}

enum class SequenceVerdict : std::uint8_t {
  kFine = 0,
  kUnknown = 1,     // not registered there (yet), or there is none of that name
  kOtherRule = 2,   // split here and carried there, or the other way round
  kOtherCluster = 3,
  kNotPrimary = 4,  // the speaker is not the cluster's primary there, or of another epoch
  kBusy = 5,        // DDL is in the way: try again
  kDirection = 6,   // one counts up, the other down
  kRange = 7,       // the number lies outside of its bounds
  kSameNumbers = 8, // the splits take the same numbers
  kDiffers = 9,     // the splits are made in different ways
};

/// number: where the sequence stands now (carried) or its floor (split); only if has_number.
struct SequenceAnswer {
  SequenceVerdict verdict = SequenceVerdict::kFine;
  std::uint8_t has_number = 0;
  std::int64_t number = 0;
};
inline void write(Buffer &out, const SequenceAnswer &a) {
  out.u8(static_cast<std::uint8_t>(a.verdict));
  out.u8(a.has_number);
  out.i64(a.number);
}
inline void read(Reader &in, SequenceAnswer &a) {
  a.verdict = static_cast<SequenceVerdict>(in.u8());
  a.has_number = in.u8();
  a.number = in.i64();
}

/// Records follow: all slots that the receiver knows, then one answer for each split and each carried sequence of the
/// request, in its order.
struct SequencesReply {
  std::uint32_t granted = 0; // the speaker's slot, if it came without one
  std::uint64_t slots = 0;
};
inline void write(Buffer &out, const SequencesReply &r) {
  out.u32(r.granted);
  out.varint(r.slots);
}
inline void read(Reader &in, SequencesReply &r) {
  r.granted = in.u32();
  r.slots = in.varint();
}

} // namespace seal_sync::core::wire
